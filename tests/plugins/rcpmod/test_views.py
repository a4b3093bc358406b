"""Reading views below the estimator: what the arrays, the mask and the layout hold."""

import numpy as np
import pytest
from scipy import sparse

from graftkit.methods.rcpmod.slicing import is_view_collection
from graftkit.methods.rcpmod.views import read_views

A = np.array([[1.0, 2.0], [3.0, 4.0], [np.nan, np.nan], [5.0, 6.0]])
B = np.array([[1.0], [np.nan], [2.0], [9.0]])


def test_missing_rows_are_zero_in_the_arrays():
    data = read_views([A, B], view_mask=[[1, 1], [1, 1], [1, 1], [1, 0]])
    assert data.mask.tolist() == [[True, True], [True, False], [False, True], [True, False]]
    assert data.arrays[0].tolist() == [[1, 2], [3, 4], [0, 0], [5, 6]]
    assert data.arrays[1].tolist() == [[1], [0], [2], [0]]


def test_layout_remembers_names_widths_and_means_of_what_was_seen():
    data = read_views([A, B], view_mask=[[1, 1], [1, 1], [1, 1], [1, 0]])
    assert data.layout.names == ("view0", "view1")
    assert data.layout.widths == (2, 1)
    assert data.layout.columns is None
    assert [mean.tolist() for mean in data.layout.means] == [[3.0, 4.0], [1.5]]


def test_means_skip_single_gaps():
    holes = np.array([[1.0, np.nan], [3.0, 4.0], [5.0, 8.0]])
    data = read_views([holes, np.ones((3, 1))], partial_nan="impute")
    assert data.layout.means[0].tolist() == [3.0, 6.0]
    assert data.arrays[0].tolist() == [[1.0, 6.0], [3.0, 4.0], [5.0, 8.0]]


def test_a_layout_fills_in_what_prediction_lacks():
    layout = read_views({"a": A, "b": B}, view_mask=None).layout
    data = read_views({"b": B[:1]}, layout=layout)
    assert data.arrays[0].tolist() == [[0.0, 0.0]]
    assert data.mask.tolist() == [[False, True]]


def test_single_precision_is_kept():
    data = read_views([A.astype(np.float32)[:2], np.arange(2)[:, None]])
    assert [array.dtype for array in data.arrays] == [np.float32, np.float64]


def test_arrays_are_copies():
    view = A[:2].copy()
    data = read_views([view, B[:1].repeat(2, axis=0)])
    data.arrays[0][:] = -1
    assert view.tolist() == A[:2].tolist()


@pytest.mark.parametrize(
    ("X", "expected"),
    [
        ([A, B], True),
        ((A, None), True),
        ({"a": A}, True),
        ({}, True),
        ([[[1.0, 2.0]], [[3.0]]], True),
        ([sparse.csr_array(np.eye(2)), np.eye(2)], True),
        (A, False),
        ([[1.0, 2.0], [3.0, 4.0]], False),
        ([np.array([1.0, 2.0]), np.array([3.0, 4.0])], True),  # two columns or two rows: refused later
        ([np.float64(1.0), np.float64(2.0)], False),
        ([], False),
        (sparse.dok_array((2, 2)), False),
    ],
)
def test_a_collection_of_views_is_told_from_a_table(X, expected):
    assert is_view_collection(X) is expected
