"""The recipe for scoring, recommending and extracting gives the same bits under each of joblib's backends.

Fast tests of loky are in tests/adapters/sklearn/test_backends.py; here its workers import diffusers.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers", reason="needs the diffusers extra")
SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "distributed" / "scoring.py"


def results(out: Path, *options: str) -> dict[str, np.ndarray]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options, "--out", str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(out / "scoring.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return results(tmp_path_factory.mktemp("one"))


@pytest.mark.timeout(420)
@pytest.mark.parametrize(
    "backend", ["threading", *(pytest.param(name, marks=pytest.mark.slow) for name in ("loky", "dask"))]
)
def test_same_bits(backend, expected, tmp_path):
    if backend == "dask":
        pytest.importorskip("distributed", reason="needs the dask extra")
    found = results(tmp_path, "--backend", backend)
    assert found.keys() == {"scores", "items", "distances", "features"}
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
