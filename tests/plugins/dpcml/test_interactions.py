"""Whatever form interactions come in, one binary CSR matrix comes out, or an error that says why not."""

import numpy as np
import pytest
import scipy.sparse as sp

from graftkit.methods.dpcml.ids import check_ids
from graftkit.methods.dpcml.interactions import (
    from_pairs,
    matching_interactions,
    merge_interactions,
    read_interactions,
)

DENSE = np.array([[0, 2, 0], [1, 0, 5], [0, 0, 0]])


@pytest.mark.parametrize(
    "form",
    [
        np.asarray,
        np.asfortranarray,
        lambda x: x.tolist(),
        lambda x: x.astype(bool),
        lambda x: x.astype(np.uint8),
        sp.csr_matrix,
        sp.csc_matrix,
        sp.coo_matrix,
        sp.lil_matrix,
        sp.csr_array,
        sp.coo_array,
    ],
)
def test_forms(form):
    given = form(DENSE)
    found = read_interactions(given)
    assert isinstance(found, sp.csr_matrix)
    assert found.dtype == np.float32
    assert found.has_sorted_indices
    np.testing.assert_array_equal(found.toarray(), DENSE > 0)


def test_unsorted_duplicate_and_zero_entries():
    raw = sp.csr_matrix(
        (np.array([1.0, 2.0, 1.0, 0.0]), np.array([2, 0, 2, 1]), np.array([0, 4])), shape=(1, 3)
    )
    found = read_interactions(raw)
    assert found.indices.tolist() == [0, 2]
    assert found.data.tolist() == [1.0, 1.0]
    assert raw.nnz == 4  # the caller's matrix is left alone


@pytest.mark.parametrize(
    ("X", "error", "words"),
    [
        (np.ones(3), ValueError, "X: expected a 2D matrix"),
        (np.ones((0, 3)), ValueError, r"0 sample\(s\)"),
        (np.ones((3, 0)), ValueError, r"0 feature\(s\)"),
        (np.array([[1.0, -2.0]]), ValueError, "Negative values in data: X: .*negative entry -2"),
        (np.array([[1.0, np.nan]]), ValueError, "X: expected finite entries, got NaN"),
        (np.array([[1.0, np.inf]]), ValueError, "infinity"),
        (sp.csr_matrix(np.array([[1.0, -1.0]])), ValueError, "negative"),
        (np.array([["a", "b"]]), TypeError, "X: expected numbers"),
    ],
)
def test_bad_matrices(X, error, words):
    with pytest.raises(error, match=words):
        read_interactions(X)


def test_pairs():
    found = from_pairs([1, 0, 1, 1], [2, 1, 0, 2])
    np.testing.assert_array_equal(found.toarray(), [[0, 1, 0], [1, 0, 1]])
    assert from_pairs([1], [2], 5, 6).shape == (5, 6)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([0, 1], [0]), ValueError, "users and items: .*got 2 and 1"),
        (([], []), ValueError, "no positive"),
        (([0.0], [1]), TypeError, "users: expected integer ids"),
        (([0], [True]), TypeError, "items: expected integer ids"),
        (([-1], [1]), ValueError, "users: expected ids >= 0, got -1"),
        (([7], [1], 5, 9), ValueError, r"users: expected ids below n_users = 5, got 7; .*\(5, 9\).*swap"),
        (([1], [7], 9, 5), ValueError, "items: expected ids below n_items = 5"),
        (([[1]], [1]), ValueError, "users: expected a 1-D array"),
        (([1], [1], 0), ValueError, "n_users.*>= 1"),
    ],
)
def test_bad_pairs(arguments, error, words):
    with pytest.raises(error, match=words):
        from_pairs(*arguments)


def test_shapes_must_match():
    with pytest.raises(ValueError, match=r"X_val: expected .*shape \(5, 3\).*transposed"):
        matching_interactions(np.ones((3, 5)), (5, 3), "X_val")
    with pytest.raises(ValueError, match=r"X_val: .*\(5, 3\).*Rows are users"):
        matching_interactions(np.ones((4, 3)), (5, 3), "X_val")
    assert matching_interactions(np.ones((5, 3)), (5, 3), "X_val").nnz == 15


def test_unsorted_rows_are_sorted():
    unsorted = sp.csr_matrix((np.ones(3), np.array([2, 0, 1]), np.array([0, 2, 3])), shape=(2, 3))
    assert not unsorted.has_sorted_indices
    unsorted.has_canonical_format = True  # as a caller may have claimed
    assert read_interactions(unsorted).indices.tolist() == [0, 2, 1]


def test_union_grows():
    a, b = read_interactions(np.eye(2)), read_interactions(np.ones((1, 4)))
    np.testing.assert_array_equal(merge_interactions(a, b).toarray(), [[1, 1, 1, 1], [0, 1, 0, 0]])
    assert a.shape == (2, 2)


def test_ids():
    assert check_ids("user_ids", 3, 5, (5, 9)).tolist() == [3]
    assert check_ids("user_ids", np.uint8([1, 2]), 5, (5, 9)).tolist() == [1, 2]
    assert check_ids("user_ids", [], 5, (5, 9)).tolist() == []
    for wrong in (True, 1.0, [1.5], "a", [True, False]):
        with pytest.raises(TypeError, match="user_ids: expected integer ids"):
            check_ids("user_ids", wrong, 5, (5, 9))
    for wrong in (5, -1, [0, 7]):
        with pytest.raises(
            IndexError, match=r"user_ids: expected integer ids in \[0, 5\).*\(5, 9\).*transposed"
        ):
            check_ids("user_ids", wrong, 5, (5, 9))
    with pytest.raises(ValueError, match="1-D"):
        check_ids("user_ids", [[1]], 5, (5, 9))
