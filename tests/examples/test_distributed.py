"""Each recipe gives the same weights with one process and with two, on the same global batches."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "distributed"
# Largest difference of a weight, from the order of float32 sums, and what a recipe needs to be equal.
TOLERANCE = {
    "sse_sam": 2e-6, "bilt": 2e-5, "edge": 2e-6, "hgoe": 2e-6, "aucseg": 1e-6, "dpcml": 2e-6, "rcpmod": 2e-6,
}  # fmt: skip
OPTIONS = {"edge": ["--beta", "0"], "bilt": ["--no-chain"], "aucseg": ["--no-bank"]}
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
NO_TRAINING = {"scoring"}  # tests/examples/test_scoring.py


def weights(launcher: list[str], name: str, options: list[str], out: Path) -> dict[str, torch.Tensor]:
    """Run a recipe and read what its first process saved."""
    done = subprocess.run(
        [sys.executable, *launcher, str(FOLDER / f"{name}.py"), *options, "--out", str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (saved,) = out.glob("*_weights.safetensors")
    return load_file(saved)


def test_every_recipe_is_tested():
    assert {path.stem for path in FOLDER.glob("*.py")} == TOLERANCE.keys() | NO_TRAINING


@pytest.mark.timeout(420)
@pytest.mark.parametrize("name", sorted(TOLERANCE))
def test_two_processes_train_the_same_weights(name, tmp_path):
    options = OPTIONS.get(name, [])
    one = weights([], name, options, tmp_path / "one")
    two = weights(LAUNCHER, name, options, tmp_path / "two")
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(
            two[key], value, rtol=0, atol=TOLERANCE[name], msg=lambda m, k=key: f"{k}: {m}"
        )


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_what_a_recipe_says_differs_does_differ(name, tmp_path):
    """A bank, a tail, batch statistics of each process alone: no rounding."""
    one = weights([], name, [], tmp_path / "one")
    two = weights(LAUNCHER, name, [], tmp_path / "two")
    assert max(float((two[key] - value).abs().max()) for key, value in one.items()) > 10 * TOLERANCE[name]


@pytest.mark.timeout(240)
def test_the_recipe_of_dpcml_takes_the_steps_of_the_library(tmp_path):
    from graftkit.methods.dpcml import Settings, fit_vectors, make_multi_interest

    found = weights([], "dpcml", ["--epochs", "2"], tmp_path)
    settings = Settings(n_components=16, n_vectors=3, delta_max=0.1, batch_size=256, max_iter=2)
    result = fit_vectors(make_multi_interest(random_state=0).train, settings, np.random.default_rng(0))
    assert result.history[-1]["diversity"] > 0  # the penalty takes part
    for name, table in result.state.tables().items():
        if name != "threshold":
            np.testing.assert_allclose(found[f"{name}.weight"], table, rtol=0, atol=2e-6)
