"""Readers, generated catalogues, baselines, explanations, files."""

import json

import numpy as np
import pytest
import scipy.sparse as sp

from graftkit.methods.dpcml import (
    explain_item,
    load_libcml_split,
    load_users_dat,
    make_multi_interest,
    merge_neighbors,
)
from graftkit.methods.dpcml.baselines import item_knn_scores, popularity_scores
from graftkit.methods.dpcml.ranking import Ranker
from graftkit.methods.dpcml.serialization import read_model, restore_generator, write_model
from graftkit.methods.dpcml.vectors import pointers
from tests.plugins.dpcml import reference


def test_users_dat(tmp_path):
    path = tmp_path / "users.dat"
    path.write_text("2 0 3\n1 5\n3 1 1 2\n0\n")
    np.testing.assert_array_equal(
        load_users_dat(path).toarray(), [[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1], [0, 1, 1, 0, 0, 0]]
    )
    assert load_users_dat(path, min_interactions=2).shape == (2, 6)
    path.write_text("3 0 3\n")
    with pytest.raises(ValueError, match=r"users.dat: expected 3 items in line 1 .*got 2"):
        load_users_dat(path)
    path.write_text("1 x\n")
    with pytest.raises(ValueError, match="integers in line 1"):
        load_users_dat(path)
    path.write_text("1 0\n")
    with pytest.raises(ValueError, match=r"a user with 4 item\(s\)"):
        load_users_dat(path, min_interactions=4)


def test_repeated_items_of_a_line_count_once(tmp_path):
    path = tmp_path / "users.dat"
    path.write_text("3 4 4 1\n", encoding="utf-8")
    assert load_users_dat(path).toarray().tolist() == [[0, 1, 0, 0, 1]]


def test_libcml_split(tmp_path):
    parts = [sp.coo_matrix(np.eye(3, k=k)) for k in (0, 1, 2)]
    for name, part in zip(("train", "val"), parts, strict=False):
        sp.save_npz(tmp_path / f"user_{name}_matrix.npz", part)
    with pytest.raises(FileNotFoundError, match=r"user_test_matrix\.npz"):
        load_libcml_split(tmp_path)
    sp.save_npz(tmp_path / "user_test_matrix.npz", parts[2])
    for found, part in zip(load_libcml_split(tmp_path), parts, strict=True):
        np.testing.assert_array_equal(found.toarray(), part.toarray())
    sp.save_npz(tmp_path / "user_test_matrix.npz", sp.coo_matrix(np.eye(2)))
    with pytest.raises(ValueError, match="one shape"):
        load_libcml_split(tmp_path)


@pytest.mark.data
def test_shipped_split_is_the_specifications(data_root):
    train, val, test = load_libcml_split(data_root / "recsys" / "steam-200k" / "np_data")
    assert train.shape == (3757, 5113)
    assert (train.nnz, val.nnz, test.nnz) == (67653, 21728, 25758)
    assert int((np.diff(train.tocsc().indptr) == 0).sum()) == 605
    assert int((np.diff(test.indptr) >= 3).sum()) == 2488
    cite = load_users_dat(data_root / "recsys" / "citeulike-t" / "users.dat", min_interactions=5)
    assert (cite.shape, cite.nnz) == ((5219, 25975), 125580)


def test_generated_tastes():
    data = make_multi_interest(50, 60, 6, random_state=0)
    assert (np.diff(data.train.indptr) == 10).all()
    assert (np.diff(data.test.indptr) == 1).all()
    for user, (major, minor) in enumerate(data.tastes):
        groups = data.groups[data.train[user].indices]
        assert major != minor
        assert sorted(np.unique(groups)) == sorted({major, minor})
        assert (groups == major).sum() == 8
        assert data.groups[data.test[user].indices[0]] == minor
    assert data.train.multiply(data.test).nnz == 0
    assert (make_multi_interest(50, random_state=0).train != data.train).nnz == 0
    with pytest.raises(ValueError, match=r"n_items.*>= 48"):
        make_multi_interest(n_items=40)
    with pytest.raises(ValueError, match="n_minor"):
        make_multi_interest(n_minor=1)


def test_popularity_and_neighbourhood():
    X = sp.csr_matrix(np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 0]], dtype=np.float32))
    assert popularity_scores(X)(np.array([2, 3])).tolist() == [[3, 2, 2, 0]] * 2
    cosine = np.zeros((4, 4))
    dense = X.toarray()
    for i in range(3):
        for j in range(3):
            if i != j:
                cosine[i, j] = dense[:, i] @ dense[:, j] / np.sqrt(dense[:, i].sum() * dense[:, j].sum())
    np.testing.assert_allclose(item_knn_scores(X)(np.arange(4)), dense @ cosine.T, atol=1e-12)
    # One neighbour an item: that of 0 is 1 (0.816 against 0.408), so 2 tells nothing about 0.
    assert item_knn_scores(X, 1)(np.array([3]))[0, 0] == 0
    assert item_knn_scores(X, 2)(np.array([3]))[0, 0] > 0
    shrunk = item_knn_scores(X, shrink=2.0)(np.array([3]))[0, 0]
    assert shrunk == pytest.approx(1 / (np.sqrt(3 * 2) + 2))


def test_explanation_by_hand():
    vectors = np.array([[1.0, 0.0], [0.0, 1.0]])
    items = np.array([[0.9, 0.0], [0.0, 0.7], [0.0, 0.9], [0.1, 1.0]])
    told = explain_item(vectors, items, 3, np.array([0, 1, 2]))
    assert told.vector == 1
    assert told.distance == pytest.approx(0.01)
    assert told.items.tolist() == [2, 1]
    np.testing.assert_allclose(told.distances, [0.01, 0.09])
    assert explain_item(vectors, items, 0, np.array([1])).items.tolist() == []


def test_index_recipe_is_exact():
    for seed in range(100):
        rng = np.random.default_rng(seed)
        ptr = pointers(rng.integers(1, 5, 6))
        users, items = rng.normal(size=(ptr[-1], 3)), rng.normal(size=(25, 3))
        seen = rng.choice(25, rng.integers(0, 12), replace=False)

        def search(queries, k, items=items):
            distances = ((queries[:, None] - items) ** 2).sum(axis=2)
            order = np.argsort(distances, axis=1, kind="stable")[:, :k]
            missing = max(0, k - 25)
            pad = ((0, 0), (0, missing))
            found = np.take_along_axis(distances, order, axis=1)
            return np.pad(found, pad, constant_values=np.inf), np.pad(order, pad, constant_values=-1)

        user, n = int(rng.integers(6)), int(rng.integers(1, 30))
        ids, distances = merge_neighbors(search, users, ptr, user, n, seen)
        own = users[ptr[user] : ptr[user + 1]]
        expected = reference.ranking(own, items, banned=seen)[:n]
        assert ids.tolist() == expected
        np.testing.assert_allclose(
            distances, [reference.score(own, items[i])[0] for i in expected], atol=1e-12
        )
        assert (
            Ranker(users, ptr, items).top(np.array([user]), 3)[0][0].tolist()
            == reference.ranking(own, items)[:3]
        )


def test_model_files(tmp_path):
    path = tmp_path / "model.npz"
    write_model(path, {"a": np.arange(3), "b": np.eye(2)}, {"x": np.float64(0.5), "y": np.arange(2)})
    arrays, meta = read_model(path)
    np.testing.assert_array_equal(arrays["b"], np.eye(2))
    assert (meta["x"], meta["y"], meta["version"]) == (0.5, [0, 1], [1, 0])
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="a: expected a numeric array"):
        write_model(path, {"a": np.array([object()])}, {})
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        write_model(path, {}, {"x": {1}.__iter__})
    np.testing.assert_array_equal(read_model(path)[0]["a"], np.arange(3))  # the old file is whole


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    write_model(path, {"a": np.arange(3)}, {})

    def fail(*_, **__):
        raise KeyboardInterrupt("now")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(KeyboardInterrupt, match="now"):
        write_model(path, {"a": np.arange(9)}, {})
    assert list(tmp_path.iterdir()) == [path]
    assert len(read_model(path)[0]["a"]) == 3


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(FileNotFoundError, match="written by save"):
        read_model(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="could not read it"):
        read_model(path)
    np.savez(path, a=np.arange(2))
    with pytest.raises(ValueError, match="could not read it"):
        read_model(path)
    np.savez(path, a=np.array([object()], dtype=object), __meta__=np.frombuffer(b"{}", dtype=np.uint8))
    with pytest.raises(ValueError, match="could not read it"):
        read_model(path)

    def with_header(**header):
        text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
        np.savez(path, __meta__=text)

    with_header(format="other", version=[1, 0])
    with pytest.raises(ValueError, match=r"format 'graftkit\.dpcml'"):
        read_model(path)
    with_header(format="graftkit.dpcml", version=[2, 3])
    with pytest.raises(ValueError, match=r"version 1.x or older, got 2.3"):
        read_model(path)


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_generators_come_back(kind, tmp_path):
    rng = np.random.Generator(getattr(np.random, kind)(5))
    rng.random(7)
    write_model(tmp_path / "g.npz", {}, {"generator": rng.bit_generator.state})
    again = restore_generator(read_model(tmp_path / "g.npz")[1]["generator"])
    np.testing.assert_array_equal(again.random(5), rng.random(5))
    with pytest.raises(ValueError, match="generator: expected one of PCG64"):
        restore_generator({"bit_generator": "Other"})
