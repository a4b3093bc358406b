"""RCPMODDisplay draws what explain says: the histogram, the threshold, the parts of the top rows."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from graftkit.sklearn import RCPMODDisplay
from tests.adapters.sklearn.rcpmod_cases import make_views, mask_of, tiny

# The suite sets MPLBACKEND to Agg: no window opens.
plt = pytest.importorskip("matplotlib.pyplot", reason="the examples extra is not installed")

VIEWS = make_views(dims=(5, 4, 3))


@pytest.fixture(scope="module")
def fitted():
    return tiny(contamination=0.1).fit(VIEWS)


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    yield
    plt.close("all")


def bars(display):
    """Edges of the contribution bars: for each label an array (n_top, 2)."""
    return {
        container.get_label(): np.array([(bar.get_x(), bar.get_x() + bar.get_width()) for bar in container])
        for container in display.axes_[1].containers
    }


def test_plot_returns_a_drawn_display(fitted):
    display = fitted.plot(VIEWS)
    assert isinstance(display, RCPMODDisplay)
    assert len(display.axes_) == 2
    assert all(ax.figure is display.figure_ for ax in display.axes_)
    np.testing.assert_array_equal(display.explanation.score, -fitted.score_samples(VIEWS))


def test_histogram_counts_every_row_and_marks_the_threshold(fitted):
    ax = fitted.plot(VIEWS).axes_[0]
    assert sum(patch.get_height() for patch in ax.patches) == 60
    (line,) = ax.lines
    assert set(line.get_xdata()) == {-fitted.offset_}
    assert line.get_label() == "threshold (6 of 60 rows above)"
    assert (fitted.labels_ == -1).sum() == 6
    assert ax.get_legend() is not None


@pytest.mark.parametrize("n_top", [1, 4, 10, 1000])
def test_contributions_are_those_of_the_top_rows(fitted, n_top):
    told = fitted.explain(VIEWS)
    display = fitted.plot(VIEWS, n_top=n_top)
    top = np.argsort(-told.score, kind="stable")[:n_top]
    shown = [label.get_text() for label in display.axes_[1].get_yticklabels()]
    assert shown == [f"row {row}" for row in top[::-1]]  # the worst on top
    drawn = bars(display)
    assert list(drawn) == [*told.view_names, *(f"{a} vs {b}" for a, b in told.pair_names)]
    parts = np.nan_to_num(np.concatenate((told.reconstruction, told.consistency), axis=1))
    for column, edges in enumerate(drawn.values()):
        widths = edges[:, 1] - edges[:, 0]
        np.testing.assert_allclose(widths, parts[top[::-1], column], rtol=0, atol=1e-12)
    total = sum(edges[:, 1] - edges[:, 0] for edges in drawn.values())
    np.testing.assert_allclose(total, told.score[top[::-1]], rtol=0, atol=1e-12)


def test_bars_of_either_sign_do_not_cover_each_other(fitted):
    new = [view * 0.5 + view[~np.isnan(view).any(axis=1)].mean(axis=0) * 0.5 for view in VIEWS]
    told = fitted.explain(new)
    parts = np.concatenate((told.reconstruction, told.consistency), axis=1)
    rows = np.flatnonzero((parts < 0).any(axis=1))
    assert len(rows)  # below the training minimum: the case that piles up to the left
    drawn = np.array(list(bars(fitted.plot(new, n_top=60)).values()))  # (labels, rows, 2)
    for edges in drawn.transpose(1, 0, 2):
        spans = sorted(tuple(sorted(pair)) for pair in edges if pair[0] != pair[1])
        for (_, end), (start, _) in pairwise(spans):
            assert start >= end - 1e-12


def test_axes_may_be_given(fitted):
    figure, axes = plt.subplots(2, 1)
    display = fitted.plot(VIEWS, ax=axes)
    assert display.figure_ is figure
    assert list(display.axes_) == list(axes)
    assert axes[0].patches
    assert axes[1].containers
    assert plt.get_fignums() == [figure.number]


def test_a_mask_is_passed_on(fitted):
    filled = [np.nan_to_num(view) for view in VIEWS]
    display = fitted.plot(filled, view_mask=mask_of(VIEWS))
    np.testing.assert_array_equal(display.explanation.score, fitted.explain(VIEWS).score)
    assert not np.array_equal(fitted.plot(filled).explanation.score, display.explanation.score)


def test_a_display_can_be_drawn_again(fitted):
    display = RCPMODDisplay(explanation=fitted.explain(VIEWS), threshold=-fitted.offset_)
    first = display.plot().figure_
    assert display.plot(n_top=2) is display
    assert display.figure_ is not first
    assert len(display.axes_[1].get_yticks()) == 2


def test_bad_arguments(fitted):
    opened = plt.get_fignums()
    with pytest.raises(ValueError, match="n_top: expected"):
        fitted.plot(VIEWS, n_top=0)
    with pytest.raises(TypeError, match="n_top: expected"):
        fitted.plot(VIEWS, n_top="all")
    with pytest.raises(ValueError, match="ax: expected two axes, got 3"):
        RCPMODDisplay(explanation=fitted.explain(VIEWS), threshold=1.0).plot(ax=[None, None, None])
    with pytest.raises(NotFittedError, match="not fitted"):
        tiny().plot(VIEWS)
    assert plt.get_fignums() == opened  # refused before a figure is made
