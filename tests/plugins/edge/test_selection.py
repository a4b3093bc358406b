"""The selector ranks a planted order, judges nothing, and refuses what does not fit."""

import numpy as np
import pytest

from graftkit.methods.edge import OEDatasetSelector, overlapping_files
from graftkit.methods.edge.selection import NotFittedError
from tests.plugins.edge.test_spectra import features

KNOWN = features(0, 128, 16)


def small(**options):
    return OEDatasetSelector(**{"k": 4, "batch_size": 32, **options})


@pytest.mark.parametrize("options", [{}, {"level": "set"}, {"fast": True}])
def test_planted_order_is_found(options):
    selector = small(**options).fit(KNOWN)
    for name, scale in (("far", 4.0), ("same", 1.0), ("near", 1.5)):
        selector.add(name, features(1, 64, 16, scale))
    assert [name for name, _ in selector.rank()] == ["same", "near", "far"]
    assert selector.select(2, prefer="smallest") == ["same", "near"]
    assert selector.select(prefer="largest") == ["far"]
    distances = [distance for _, distance in selector.rank()]
    assert distances == sorted(distances)


def test_the_set_itself_is_at_zero_and_a_name_is_replaced():
    selector = small().fit(KNOWN).add("a", features(2, 64, 16, 9.0)).add("a", KNOWN)
    assert selector.rank() == [("a", 0.0)]
    selector.fit(KNOWN)
    assert selector.spectra_ == {}  # a new reference, no old distances


def test_k_and_centring_take_part():
    shifted = KNOWN + 3.0
    assert small(center=True).fit(KNOWN).add("s", shifted).rank()[0][1] == pytest.approx(0.0, abs=1e-9)
    plain = small(k=1).fit(KNOWN).add("s", shifted).rank()[0][1]
    assert plain > 10
    assert small(k=16).fit(KNOWN).add("s", shifted).rank()[0][1] > plain


def test_only_whole_batches_count():
    selector = small().fit(KNOWN).add("a", np.vstack([KNOWN, 100 * KNOWN[:31]]))
    assert selector.rank()[0][1] == 0.0


def test_a_failed_call_leaves_the_selector_as_it_was():
    selector = small().fit(KNOWN).add("a", KNOWN)
    with pytest.raises(ValueError, match="expected at least batch_size=32 rows"):
        selector.fit(KNOWN[:8])
    with pytest.raises(ValueError, match="16 features a row"):
        selector.add("a", KNOWN[:, :8])
    assert selector.rank() == [("a", 0.0)]


def test_asking_before_fit():
    for call in (
        lambda s: s.rank(),
        lambda s: s.add("a", KNOWN),
        lambda s: s.select(prefer="smallest"),
    ):
        with pytest.raises(NotFittedError, match=r"is not fitted: call fit\(id_features\) first"):
            call(small())


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda s: s.select(1), TypeError, "prefer"),
        (lambda s: s.select(1, prefer="near"), ValueError, "prefer: expected one of 'smallest', 'largest'"),
        (lambda s: s.select(2, prefer="smallest"), ValueError, r"n: expected an integer in \[1, 1\], got 2"),
        (lambda s: s.select(0, prefer="smallest"), ValueError, r"n: expected an integer in \[1, 1\], got 0"),
        (lambda s: s.add(3, KNOWN), TypeError, "name: expected a string"),
        (lambda s: s.add("b", KNOWN[:8]), ValueError, "at least batch_size=32 rows"),
        (lambda s: s.add("b", KNOWN[:0]), ValueError, "must not be empty"),
        (lambda s: s.add("b", KNOWN * np.nan), ValueError, "without NaN or infinity"),
        (lambda s: s.fit(KNOWN[:, :3]), ValueError, r"k: expected at most min\(batch_size, D\) = 3.*got 4"),
        (lambda s: s.fit(KNOWN).rank(), ValueError, "candidates: expected at least one"),
        (lambda s: s.fit([[0.0] * 8]), ValueError, "at least batch_size=32 rows"),
    ],
)
def test_refusals(call, error, words):
    selector = small().fit(KNOWN).add("a", KNOWN)
    with pytest.raises(error, match=words):
        call(selector)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"k": 0}, ValueError, "k: expected an integer >= 1"),
        ({"batch_size": 2.0}, TypeError, "batch_size: expected an integer"),
        ({"level": "epoch"}, ValueError, "level: expected one of 'batch', 'set'"),
        ({"center": 0}, TypeError, "center"),
        ({"fast": 0}, TypeError, "fast"),
    ],
)
def test_arguments(options, error, words):
    with pytest.raises(error, match=words):
        small(**options)
    assert repr(small()).startswith("OEDatasetSelector(k=4, batch_size=32, level='batch'")


def test_files_that_two_sets_share(tmp_path):
    for name, content in (("a", b"1"), ("b", b"2"), ("c", b"1"), ("d", b"3")):
        (tmp_path / name).write_bytes(content)
    a, b, c, d = (tmp_path / name for name in "abcd")
    assert overlapping_files([a, b], [str(d), str(c)]) == [(a, c)]
    assert overlapping_files([b], [d]) == []
