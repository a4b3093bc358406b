"""The dense step over a whole table against plain Adam, with and without a gradient of every row."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from graftkit.methods.dpcml import Settings
from graftkit.methods.dpcml.optimizers import RowOptimizer
from graftkit.methods.dpcml.training import Trainer
from tests.plugins.dpcml.training_cases import OPTIONS, some


def laid_out(values, layout):
    if layout == "transposed":
        return values.t().contiguous().t()
    return torch.cat([values, values], dim=1)[:, :4] if layout == "slice" else values.clone()


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("everywhere", [None, "plain", "transposed"])
@pytest.mark.parametrize("layout", ["plain", "transposed", "slice"])
def test_dense_steps_equal_plain_adam(layout, everywhere, decay):
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(6, 4))
    table = laid_out(torch.tensor(expected), layout)
    optimizer = RowOptimizer(table, "adam", learning_rate=0.1, weight_decay=decay)
    first, second = np.zeros((6, 4)), np.zeros((6, 4))
    rows = np.array([1, 1, 3])  # row 1 twice, row 5 never
    for step in range(1, 6):
        parts, total = rng.normal(size=(3, 4)), np.zeros((6, 4))
        given = None
        if everywhere is not None:
            total = rng.normal(size=(6, 4))
            given = laid_out(torch.tensor(total), everywhere)
        for row, part in zip(rows, parts, strict=True):
            total[row] += part
        changed = optimizer.step(torch.from_numpy(rows), torch.from_numpy(parts), given)
        assert changed.tolist() == list(range(6))
        total += decay * expected
        first, second = 0.9 * first + 0.1 * total, 0.999 * second + 0.001 * total**2
        rise, fall = first / (1 - 0.9**step), np.sqrt(second / (1 - 0.999**step)) + 1e-8
        expected = expected - 0.1 * rise / fall
    np.testing.assert_allclose(table.numpy(), expected, rtol=0, atol=1e-12)


CASES = list(itertools.product(("bpa", "apa"), ("pairwise", "mean"), ("float32", "float64"), (0.0, 0.01)))


@pytest.mark.parametrize(("assignment", "dcrs", "dtype", "decay"), CASES)
def test_dense_training_goes_on_bit_for_bit(assignment, dcrs, dtype, decay):
    """With the whole-table penalty; a state handed out is not written to by later passes."""
    dense = some().toarray()
    dense[2], dense[5] = 1, 0
    X = sp.csr_matrix(dense)
    options = {**OPTIONS, "assignment": assignment, "dcrs": dcrs, "dtype": dtype, "weight_decay": decay}
    settings = Settings(**options, dcrs_scale="full", optimizer="adam")
    whole = Trainer(X, X, settings, np.random.default_rng(0))
    whole.run_epoch()
    half = whole.state()
    kept = half.copy()
    whole.run_epoch()
    for name, table in half.tables().items():
        np.testing.assert_array_equal(table, kept.tables()[name])
    rng = np.random.default_rng(0)
    Trainer(X, X, settings, rng).run_epoch()
    second = Trainer(X, X, settings, rng, half)
    second.run_epoch()
    reached, expected = second.state(), whole.state()
    assert reached.n_steps == expected.n_steps
    for name, table in expected.tables().items():
        np.testing.assert_array_equal(reached.tables()[name], table)
    for name, moment in expected.moments.items():
        np.testing.assert_array_equal(reached.moments[name], moment)
