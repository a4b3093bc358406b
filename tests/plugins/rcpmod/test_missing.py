"""Masks of missing views: counts, laws, errors."""

from typing import Any

import numpy as np
import pytest

from graftkit.methods.rcpmod.data import missing_mask


@pytest.mark.parametrize("rate", [0.0, 0.15, 0.29, 0.45, 1.0])
@pytest.mark.parametrize("n_views", [2, 3, 6])
def test_kind_views_removes_exactly_one_view_from_floor_of_the_rate(rate: float, n_views: int) -> None:
    mask = missing_mask(100, n_views, rate, random_state=0)
    lost = (~mask).sum(axis=1)
    assert (lost == 1).sum() == round(rate * 100)
    assert lost.max() <= 1


def test_kind_views_takes_every_view_equally_often() -> None:
    mask = missing_mask(30_000, 3, 1.0, random_state=0)
    # 30 000 draws of 1 in 3: sd 82.
    assert np.abs((~mask).sum(axis=0) - 10_000).max() < 5 * 82


@pytest.mark.parametrize(("n_views", "share"), [(2, 0.45), (3, 0.40), (6, 0.376)])
def test_kind_entries_loses_the_stated_share_of_entries_and_of_rows(n_views: int, share: float) -> None:
    n, rate = 20_000, 0.45
    mask = missing_mask(n, n_views, rate, kind="entries", random_state=0)
    assert (~mask).sum() == round(rate * n)
    assert mask.any(axis=1).all()
    # Of the V - 1 entries that may go, each is gone with rate / (V - 1): 1 - (1 - .225)^2 = .399 at V = 3,
    # 1 - (1 - .09)^5 = .376 at V = 6, and the rate itself at V = 2.
    assert abs((~mask).any(axis=1).mean() - share) < 0.012
    assert ((~mask).sum(axis=1).max() > 1) == (n_views > 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((10, 2, 1.5), ValueError, r"rate: expected a finite number in \[0, 1\], got 1.5"),
        ((10, 2, float("nan")), ValueError, "rate: .* got nan"),
        ((0, 2, 0.5), ValueError, "n_rows: expected an integer >= 1, got 0"),
        ((10, 1, 0.5), ValueError, "n_views: expected an integer >= 2, got 1"),
        ((10.0, 2, 0.5), TypeError, "n_rows: expected an integer"),
    ],
)
def test_mask_refuses_bad_arguments(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        missing_mask(*arguments)


def test_mask_names_the_kind_that_was_meant() -> None:
    with pytest.raises(ValueError, match=r"kind: expected one of 'views', 'entries'.*Did you mean 'entries'"):
        missing_mask(10, 2, 0.5, kind="entry")
