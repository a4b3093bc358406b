"""Each recipe gives the same weights with one process and with two, on the same global batches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "distributed"
# Largest difference of a weight, from the order of float32 sums, and what a recipe needs to be equal.
TOLERANCE = {"sse_sam": 2e-6, "bilt": 2e-5, "edge": 2e-6, "hgoe": 2e-6}
OPTIONS = {"edge": ["--beta", "0"], "bilt": ["--no-chain"]}
RECIPES = sorted(path.stem for path in FOLDER.glob("*.py"))


def weights(command: list[str], name: str, out: Path) -> dict[str, torch.Tensor]:
    """Run a recipe and read what its first process saved."""
    done = subprocess.run(
        [sys.executable, *command, *OPTIONS.get(name, []), "--out", str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (saved,) = out.glob("*_weights.safetensors")
    return load_file(saved)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_train_the_same_weights(name, tmp_path):
    script = str(FOLDER / f"{name}.py")
    one = weights([script], name, tmp_path / "one")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = weights([*launcher, script], name, tmp_path / "two")
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(
            two[key], value, rtol=0, atol=TOLERANCE[name], msg=lambda m, k=key: f"{k}: {m}"
        )
