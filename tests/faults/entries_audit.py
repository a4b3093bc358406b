"""graftkit.torch's audit of a classifier: constructors, a run, a comparison."""

from dataclasses import replace
from typing import Any

import torch

from graftkit import torch as host
from tests.faults.entry import Entry
from tests.plugins.qedg.cases import TINY, network, quadrants

BRIEF = replace(TINY, g_steps=1, inner_epochs=1, final_rounds=1, batch_size_query=4, transfer_rows=2)
AUDIT = {
    "input_shape": (1, 8, 8),
    "num_classes": 4,
    "budget": 4,
    "owner_confirmation": True,
    "target_id": "x",
    "value_range": (0.0, 1.0),
    "label_mode": "hard",
    "config": BRIEF,
    "seed": 0,
    "device": "cpu",
    "target_input": "torch",
    "substitute_pretrained": False,
}


def audited(**arguments: Any) -> Any:
    return host.QEDGAuditor(**arguments)


def qedg_config() -> dict[str, Any]:
    found = TINY.as_dict()
    return {name: getattr(TINY, name) for name in found if hasattr(TINY, name)}


def audit_entries() -> list[Entry]:
    return [
        Entry(
            "QEDGAuditor",
            host.QEDGAuditor,
            lambda: {"target": quadrants, "substitute": network(), **AUDIT},
            sizes=("input_shape", "num_classes", "budget"),
            says={"num_classes": ("substitute",), "input_shape": ("substitute",)},
        ),
        Entry(
            "QEDGAuditor.run",
            lambda **a: host.QEDGAuditor(quadrants, substitute=network(), **AUDIT).run(**a),
            lambda: {
                "eval_data": torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
                "eval_origin": "x",
                "eval_every": "round",
                "finish_each": False,
                "eval_budget": None,
                "baselines": (),
                "public_data": None,
                "callback": None,
                "resume": False,
                "verbose": 0,
            },
            sizes=("verbose",),
            only=(
                "eval_data",
                "eval_origin",
                "eval_every",
                "finish_each",
                "eval_budget",
                "baselines",
                "public_data",
                "callback",
                "resume",
            ),
            callables=("callback",),
        ),
        Entry("QEDGConfig", host.QEDGConfig, qedg_config, sizes=("latent", "width")),
        Entry("QEDGConfig.preset", host.QEDGConfig.preset, lambda: {"name": "digits"}),
        Entry(
            "compare_defences",
            host.compare_defences,
            lambda: {
                "variants": {"none": quadrants},
                "input_shape": (1, 8, 8),
                "num_classes": 4,
                "eval_data": torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
                "owner_confirmation": True,
                "target_id": "x",
                "budget": 4,
                "substitute": network(),
                "config": BRIEF,
                "run_options": {"baselines": ()},
            },
            sizes=("budget", "num_classes", "input_shape"),
            says={
                "run_options": ("unexpected keyword", "verbose"),
                "variants": ("target",),
                "num_classes": ("substitute",),
                "input_shape": ("substitute",),
            },
        ),
        # The learning rate is torch's to refuse, in its own words.
    ]
