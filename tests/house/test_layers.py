"""Plugins know no host, adapters know one, and importing either changes nothing."""

import pytest

from tests.house.layers import (
    ADAPTERS,
    CORE,
    EXCEPTIONS,
    HOSTS,
    adapter_complaints,
    imported_modules,
    namespace_complaints,
    plugin_complaints,
)
from tests.house.subprocesses import run_json, run_python
from tests.house.surface import ADAPTERS as ADAPTER_ROOT
from tests.house.surface import PLUGINS, existing_adapters

EXISTING = existing_adapters()
WITH_EXTRA = [name for name in EXISTING if ADAPTERS[name].extra]


# Sources, read without importing them.


def test_plugins_import_no_host():
    assert not plugin_complaints(PLUGINS)


def test_adapters_import_their_own_host_only():
    assert not adapter_complaints(ADAPTER_ROOT)


def test_both_roots_share_one_namespace():
    assert not namespace_complaints(PLUGINS, ADAPTER_ROOT)


def test_exceptions_name_files_that_exist():
    assert [file for file in EXCEPTIONS if not (ADAPTER_ROOT / file).is_file()] == []


# Imports, in a fresh interpreter each.


@pytest.mark.parametrize("name", EXISTING)
def test_adapter_imports_with_every_other_host_blocked(name):
    others = tuple(host for host in HOSTS if host not in ADAPTERS[name].imports)
    exported = run_json(
        f"import json, graftkit.{name} as m; print(json.dumps([n for n in m.__all__ if hasattr(m, n)]))",
        block=others,
    )
    assert exported


@pytest.mark.parametrize("name", WITH_EXTRA)
def test_adapter_without_its_host_names_the_extra(name):
    message = run_python(
        f"""
        try:
            import graftkit.{name}
        except ImportError as error:
            print(error)
        """,
        block=ADAPTERS[name].imports[:1],  # the first is the host itself, the others it may do without
    )
    assert f"pip install 'graftkit[{ADAPTERS[name].extra}]'" in message
    assert "could not be imported" in message


def test_plugins_import_with_every_host_blocked():
    run_python(
        """
        import importlib, pathlib, graftkit.core, graftkit.methods
        root = pathlib.Path(graftkit.core.__file__).parents[1]
        files = sorted(root.rglob("*.py"))
        assert files
        for file in files:
            parts = ("graftkit", *file.relative_to(root).with_suffix("").parts)
            importlib.import_module(".".join(parts).removesuffix(".__init__"))
        """,
        block=HOSTS,
    )


@pytest.mark.parametrize("module", ["graftkit", "graftkit.core.validation", "graftkit.core.random"])
def test_namespace_and_core_bring_no_torch(module):
    assert not run_json(f"import sys, json, {module}; print(json.dumps('torch' in sys.modules))")


HEAVY = ("torch", "matplotlib", "pandas", "numba", "IPython", *HOSTS)


@pytest.mark.parametrize("name", EXISTING)
def test_adapter_brings_nothing_heavy_beyond_its_host(name):
    added = run_json(
        f"""
        import importlib, json, sys
        for module in {CORE + ADAPTERS[name].warm_up!r}:
            importlib.import_module(module)
        before = set(sys.modules)
        import graftkit.{name}
        print(json.dumps(sorted(set(sys.modules) - before)))
        """
    )
    assert f"graftkit.{name}" in added
    assert [module for module in HEAVY if module in added] == []


def test_sklearn_adapter_alone_brings_neither_torch_nor_matplotlib():
    loaded = run_json(
        """
        import sys, json, graftkit.sklearn
        print(json.dumps([n for n in ("torch", "matplotlib") if n in sys.modules]))
        """
    )
    assert loaded == []


COST = """
import gc, importlib, json, time
for module in {warm_up!r}:
    importlib.import_module(module)
gc.disable()  # a collection of all that the hosts hold, 0.3 s with diffusers, may fall anywhere
start = time.process_time()
import graftkit.{name}
print(json.dumps(time.process_time() - start))
"""


@pytest.mark.parametrize("name", EXISTING)
def test_adapter_costs_little_beyond_its_host(name):
    # CPU time, three tries: a busy machine must not fail it, a heavy import (0.5 s and more) must.
    code = COST.format(warm_up=CORE + ADAPTERS[name].warm_up, name=name)
    assert any(run_json(code) < 0.4 for _ in range(3))


STATE = """
import hashlib, importlib, json, locale, logging, os, pickle, random, signal, sys, threading, warnings
import numpy as np
import torch

def state():
    digest = lambda value: hashlib.sha256(value).hexdigest()
    return dict(
        python_random=digest(pickle.dumps(random.getstate())),
        numpy_random=digest(pickle.dumps(np.random.get_state())),
        torch_random=digest(torch.get_rng_state().numpy().tobytes()),
        torch_threads=[torch.get_num_threads(), torch.get_num_interop_threads()],
        torch_modes=[str(torch.get_default_dtype()), torch.is_grad_enabled(),
                     torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled(),
                     torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark],
        threads=threading.active_count(),
        logging=[logging.root.level, [repr(h) for h in logging.root.handlers], logging.root.manager.disable],
        loggers=[n for n, l in logging.root.manager.loggerDict.items()
                 if n.startswith("graftkit") and getattr(l, "handlers", [])],
        warnings=[str(f) for f in warnings.filters],
        showwarning=repr(warnings.showwarning),
        numpy_errors=np.geterr(),
        environment=dict(os.environ),
        path=list(sys.path),
        hooks=[repr(sys.excepthook), repr(sys.displayhook)],
        signals=[str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)],
        locale=locale.setlocale(locale.LC_ALL),
    )
"""


def _changes_by_import(module: str, *, after: tuple[str, ...] = (), path=None) -> list[str]:
    """Names of what importing a module changes, once the modules before it (its host) are there."""
    return run_json(
        STATE
        + f"""
for module in {after!r}:
    importlib.import_module(module)
before = state()
importlib.import_module({module!r})
now = state()
print(json.dumps([name for name in before if before[name] != now[name]]))
""",
        path=path,
    )


@pytest.mark.parametrize("name", EXISTING)
def test_importing_an_adapter_has_no_side_effect(name):
    assert _changes_by_import(f"graftkit.{name}", after=CORE + ADAPTERS[name].warm_up) == []


# The checks themselves: each must be able to fail.


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("import timm", "timm"),
        ("import timm.optim as o", "timm.optim"),
        ("from mmengine.hooks import Hook", "mmengine.hooks.Hook"),
        ("def f():\n    from sklearn import base", "sklearn.base"),
        ("from sklearn.base import clone", "sklearn.base.clone"),
        ("import importlib; importlib.import_module('pyod.models')", "pyod.models"),
        ("require('art', extra='art')", "art"),
        ("import graftkit.sklearn", "graftkit.sklearn"),
    ],
)
def test_plugin_check_can_fail(tmp_path, line, module):
    (tmp_path / "loss.py").write_text(line)
    (complaint,) = plugin_complaints(tmp_path)
    assert complaint.endswith(f"a plugin imports {module}")
    assert complaint.startswith("loss.py:")


def test_plugin_check_lets_numerics_through(tmp_path):
    (tmp_path / "fine.py").write_text(
        "import artful, torch\nfrom sklearn.neighbors import NearestNeighbors\nfrom sklearn import metrics\n"
        "'import timm'\n"
    )
    assert plugin_complaints(tmp_path) == []


def test_adapter_check_can_fail(tmp_path, monkeypatch):
    for folder in ("timm", "mmseg", "keras"):
        (tmp_path / folder).mkdir()
    (tmp_path / "timm" / "a.py").write_text("import timm, torch\nimport mmcv\n")
    (tmp_path / "mmseg" / "b.py").write_text("import mmcv\ndef f():\n    from graftkit import diffusers\n")
    assert adapter_complaints(tmp_path) == [
        "keras: an adapter that the table ADAPTERS does not know",
        "timm/a.py:2: the timm adapter imports mmcv",
        "mmseg/b.py:3: the mmseg adapter imports graftkit.diffusers",
    ]
    monkeypatch.setitem(EXCEPTIONS, "mmseg/b.py", "graftkit.diffusers")
    assert len(adapter_complaints(tmp_path)) == 2


def test_namespace_check_can_fail(tmp_path):
    (tmp_path / "__init__.py").touch()
    assert len(namespace_complaints(tmp_path)) == 1


def test_import_reader_sees_relative_imports():
    assert [module for _, module in imported_modules("from . import loss\nfrom .bank import Bank")] == [
        ".loss",
        ".bank.Bank",
    ]


def test_blocking_can_fail():
    with pytest.raises(AssertionError, match=r"ModuleNotFoundError: .*pyod"):
        run_python("import pyod.models.base", block=("pyod",))


SIDE_EFFECTS = {
    "numpy_random": "import numpy; numpy.random.seed(0)",
    "python_random": "import random; random.seed(0)",
    "torch_random": "import torch; torch.manual_seed(7)",
    "torch_threads": "import torch; torch.set_num_threads(torch.get_num_threads() + 1)",
    "torch_modes": "import torch; torch.set_grad_enabled(False)",
    "logging": "import logging; logging.basicConfig()",
    "loggers": "import logging; logging.getLogger('graftkit').addHandler(logging.StreamHandler())",
    "warnings": "import warnings; warnings.simplefilter('ignore')",
    "environment": "import os; os.environ['KMP_DUPLICATE_LIB_OK'] = 'TRUE'",
    "path": "import sys; sys.path.append('here')",
}


def test_side_effect_check_can_fail(tmp_path):
    (tmp_path / "careless.py").write_text("\n".join(SIDE_EFFECTS.values()))
    assert set(_changes_by_import("careless", path=tmp_path)) == set(SIDE_EFFECTS)
