"""Independent draws placed by their successes: ends of the range, blocks. The law: test_sampling_law."""

import numpy as np
import pytest
import torch

from graftkit.methods.hgoe import bernoulli
from graftkit.methods.hgoe.bernoulli import successes
from tests.plugins.hgoe.cases import generator


def drawn(chances, turns, seed=0):
    """The set of (row, turn)."""
    found = set()
    for rows, counts, turn in successes(np.array(chances, float), np.array(turns), generator(seed)):
        assert counts.sum() == len(turn)
        found |= set(zip(np.repeat(rows, counts).tolist(), turn.tolist(), strict=True))
    return found


def test_certain_and_impossible_draws():
    """A chance that rounding has put above 1 or below 0 is still certain or impossible."""
    above, below = 1 + 2**-52, -(2**-60)
    assert drawn([0, 1, above, below], [4, 2, 3, 5]) == {(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)}


def test_rows_without_draws_and_no_rows():
    assert drawn([0.3, 0.9, 1.0], [0, 0, 0]) == drawn([], []) == set()


def test_turns_stay_in_their_row():
    found = drawn([0.4, 0.9, 0.4, 0.9], [1, 2, 300, 400])
    for row, size in enumerate([1, 2, 300, 400]):
        turns = {turn for r, turn in found if r == row}
        assert turns <= set(range(size))
        assert len(turns) > 0 or size < 3


def test_places_are_as_fine_as_a_long_row():
    """About 1,000 of 2**40 draws; odd ones, late ones and early ones among them."""
    turns = np.array([turn for _, turn in drawn([1000 / 2**40], [2**40])])
    assert 850 < len(turns) < 1150
    assert 0.4 < (turns % 2).mean() < 0.6
    assert abs(turns.mean() / 2**40 - 0.5) < 5 * (1 / 12 / 850) ** 0.5


@pytest.mark.parametrize("block", [1, 7, 10**9])
def test_blocks_do_not_change_what_is_drawn(monkeypatch, block):
    chances, turns = np.linspace(0, 1, 21), np.arange(21) * 3
    whole = drawn(chances, turns)
    monkeypatch.setattr(bernoulli, "BLOCK", block)
    assert drawn(chances, turns) == whole
    rows = np.concatenate([rows for rows, _, _ in successes(chances, turns, generator())])
    assert sorted(rows.tolist()) == list(range(21))


def test_one_seed_one_result_and_no_global_state():
    torch.manual_seed(0)
    state, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert drawn([0.2, 0.7], [50, 50], 1) == drawn([0.2, 0.7], [50, 50], 1) != drawn([0.2, 0.7], [50, 50], 2)
    assert torch.equal(state, torch.get_rng_state())
    assert (numpys == np.random.get_state()[1]).all()  # noqa: NPY002
