"""DPCML is a scikit-learn estimator and a recommender: common checks, queries, the planted answer."""

import inspect

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from graftkit.methods.dpcml import PRESETS, Settings
from graftkit.sklearn import DPCML, merge_neighbors
from tests.adapters.sklearn.dpcml_cases import assert_same, interactions, tiny
from tests.plugins.dpcml import reference

# The checks send dense random matrices, in which users own nearly every item.
FULL_USERS = ("ignore:.*own every item:UserWarning", "ignore:no user has both:UserWarning")
X = interactions()


# Nothing is declared as an expected failure. A `predict` of pairs, which the checks would call with rows,
# does not exist: its name is score_pairs.
@parametrize_with_checks([DPCML(n_components=4, n_vectors=2, max_iter=2, random_state=0)])
@pytest.mark.filterwarnings(*FULL_USERS)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([DPCML(), DPCML(assignment="apa", sampling="dihars", max_iter=2)])
@pytest.mark.filterwarnings(*FULL_USERS)
def test_scikit_learn_checks_of_the_default_instance(estimator, check):
    check(estimator)


def test_checks_know_what_the_input_is():
    from sklearn.utils import get_tags

    tags = get_tags(DPCML()).input_tags
    assert (tags.sparse, tags.positive_only, tags.allow_nan) == (True, True, False)


def test_arguments_are_the_settings_with_their_defaults():
    arguments = inspect.signature(DPCML).parameters
    for name, field in Settings.__dataclass_fields__.items():
        assert arguments[name].default == field.default, name


@pytest.fixture(scope="module")
def model():
    return tiny(max_iter=10).fit(X)


def vectors_of(model, user):
    return model.user_vectors_[model.user_ptr_[user] : model.user_ptr_[user + 1]].astype(float)


def test_recommend_is_a_full_sort_without_what_was_seen(model):
    ids, scores = model.recommend(np.arange(20), n=5)
    assert ids.shape == scores.shape == (20, 5)
    for user in range(20):
        expected = reference.ranking(vectors_of(model, user), model.item_vectors_, banned=X[user].indices)[:5]
        assert ids[user].tolist() == expected
        np.testing.assert_allclose(scores[user], model.score_pairs([user] * 5, expected), rtol=0, atol=1e-5)
        assert (np.diff(scores[user]) <= 0).all()
    kept, _ = model.recommend(np.arange(20), n=5, filter_seen=False)
    assert any(set(kept[user]) & set(X[user].indices) for user in range(20))


def test_one_user_is_one_row(model):
    ids, scores = model.recommend(3, n=4)
    assert ids.shape == scores.shape == (4,)
    np.testing.assert_array_equal(ids, model.recommend([3], n=4)[0][0])
    assert model.recommend(np.int64(3), n=4, return_scores=False).tolist() == ids.tolist()


def test_lists_of_items(model):
    allowed = [1, 4, 9, 16, 25]
    ids, scores = model.recommend(np.arange(20), n=8, items=allowed)
    for user in range(20):
        left = [item for item in allowed if item not in X[user].indices]
        assert set(ids[user]) - {-1} == set(left)
        assert (ids[user, len(left) :] == -1).all()
        assert (scores[user, len(left) :] == -np.inf).all()
    shuffled = model.recommend(np.arange(20), n=8, items=[25, 4, 1, 4, 16, 9, 25])
    np.testing.assert_array_equal(shuffled[0], ids)
    np.testing.assert_array_equal(shuffled[1], scores)
    without, _ = model.recommend(np.arange(20), n=30, exclude_items=allowed)
    assert not np.isin(without, allowed).any()
    both, _ = model.recommend([0], n=5, items=allowed, exclude_items=[4, 9], filter_seen=False)
    assert set(both[0]) == {1, 16, 25, -1}
    best = model.recommend([0, 1], n=1)[0][:, 0]
    kept = model.recommend([0, 1], n=30, exclude=sp.csr_matrix((2, 30)))[0]
    assert not any(set(kept[user]) & set(X[user].indices) for user in (0, 1))  # seen items stay out
    extra = sp.csr_matrix((np.ones(2), (np.arange(2), best)), shape=(2, 30))
    assert (model.recommend([0, 1], n=1, exclude=extra)[0][:, 0] != best).all()
    assert (model.recommend([0, 1], n=30, exclude=extra, filter_seen=False)[0] == best[:, None]).sum() == 0


def test_vector_of_a_recommendation_is_its_interest(model):
    ids, _, vectors = model.recommend(np.arange(20), n=25, return_vector=True)
    assert (vectors[ids < 0] == -1).all()
    for user in range(20):
        for item, vector in zip(ids[user][ids[user] >= 0], vectors[user], strict=False):
            assert reference.score(vectors_of(model, user), model.item_vectors_[item])[1] == vector
            told = model.explain(user, int(item))
            assert told.vector == vector
            for liked in told.items:
                assert reference.score(vectors_of(model, user), model.item_vectors_[liked])[1] == vector
    everything = np.concatenate([model.explain(0, i).items for i in range(30)])
    assert set(everything) <= set(X[0].indices)


def test_similar_items(model):
    ids, scores = model.similar_items([4, 7], n=3)
    for row, item in enumerate((4, 7)):
        q = model.item_vectors_.astype(float)
        order = [i for i in reference.ranking([q[item]], q) if i != item][:3]
        assert ids[row].tolist() == order
        assert scores[row, 0] == pytest.approx(-reference.squared_distance(q[item], q[order[0]]), abs=1e-5)
    assert model.similar_items(4, n=40)[0].tolist()[-11:] == [-1] * 11


def test_scores_of_users_and_pairs(model):
    scores = model.score_users([2, 0])
    assert scores.shape == (2, 30)
    pairs = model.score_pairs(np.repeat([2, 0], 30), np.tile(np.arange(30), 2))
    np.testing.assert_allclose(scores.ravel(), pairs, rtol=0, atol=2e-6)
    assert (pairs <= 0).all()


def test_user_vectors(model):
    found = model.get_user_vectors([1, 5])
    np.testing.assert_array_equal(found[1], vectors_of(model, 5).astype(np.float32))
    ragged = tiny(assignment="apa").fit(X)
    padded, mask = ragged.get_user_vectors(np.arange(20), padded=True)
    np.testing.assert_array_equal(mask.sum(axis=1), ragged.n_vectors_per_user_)
    assert padded.shape == (20, ragged.n_vectors_per_user_.max(), 6)


def test_index_gives_the_exact_answer(model):
    items, users, ptr = model.to_ann()
    assert items.dtype == users.dtype == np.float32
    assert items.flags.c_contiguous
    index = model.to_ann("faiss")
    for user in range(20):
        ids, distances = merge_neighbors(index.search, users, ptr, user, 5, X[user].indices)
        expected, scores = model.recommend(user, n=5)
        np.testing.assert_array_equal(ids, expected)
        np.testing.assert_allclose(distances, -scores, rtol=0, atol=1e-5)


def test_other_index(model, monkeypatch):
    import sys
    import types

    made = {}

    class Index:
        def __init__(self, space, dim):
            made.update(space=space, dim=dim)

        def init_index(self, max_elements):
            made.update(size=max_elements)

        def add_items(self, items, ids):
            made.update(items=items, ids=ids)

    monkeypatch.setitem(sys.modules, "hnswlib", types.SimpleNamespace(Index=Index))
    assert isinstance(model.to_ann("hnswlib"), Index)
    assert (made["space"], made["dim"], made["size"]) == ("l2", 6, 30)
    np.testing.assert_array_equal(made["items"], model.item_vectors_)
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    with pytest.raises(ImportError, match="pip install hnswlib"):
        model.to_ann("hnswlib")


def test_new_users_need_no_training(model):
    new = interactions(6, seed=9)
    ids, scores, vectors = model.recommend_for(new, n=5, return_vector=True)
    assert ids.shape == scores.shape == vectors.shape == (6, 5)
    folded = model.transform(new).reshape(6, 3, 6)
    for row in range(6):
        expected = reference.ranking(folded[row], model.item_vectors_, banned=new[row].indices)[:5]
        assert ids[row].tolist() == expected
    assert not np.isin(model.recommend_for(new, n=30, items=[1, 2])[0], [0, *range(3, 30)]).any()
    empty = sp.csr_matrix((1, 30))
    assert (model.recommend_for(empty, n=3)[0] >= 0).all()


def test_new_users_obey_the_settings():
    def doubled(counts):
        return np.where(counts > 3, 2, 1)

    free = tiny(user_norm=None, max_norm=0.7, assignment=doubled, n_vectors=1).fit(X)
    history = sp.csr_matrix(np.eye(1, 30) + np.eye(1, 30, 8))
    np.testing.assert_allclose(
        free.transform(history).reshape(2, 6)[0],
        free.item_vectors_[[0, 8]].astype(float).mean(axis=0),
        atol=1e-6,
    )
    ball = tiny(max_norm=0.7, assignment="apa").fit(X)
    folded = ball.transform(X).reshape(20, 3, 6)
    np.testing.assert_allclose(np.linalg.norm(folded, axis=2), 0.7, atol=1e-6)
    different = [len(np.unique(rows, axis=0)) for rows in folded]
    assert different == ball.n_vectors_per_user_.tolist()
    # A user without items is at the mean of all, each as often as it is had.
    mean = free.item_counts_ @ free.item_vectors_.astype(float) / free.item_counts_.sum()
    np.testing.assert_allclose(free.transform(sp.csr_matrix((1, 30))).reshape(2, 6)[0], mean, atol=1e-6)
    # No more vectors than a trained user has, whatever the function says of a longer history.
    capped = tiny(assignment=lambda counts: np.minimum(counts, 4)).fit(X[:, :])
    assert capped.transform(sp.csr_matrix(np.ones((1, 30)))).shape == (
        1,
        capped.n_vectors_per_user_.max() * 6,
    )


def test_transform_is_fold_in_row_by_row(model):
    whole = model.transform(X)
    assert whole.shape == (20, 18)
    np.testing.assert_allclose(np.linalg.norm(whole.reshape(20, 3, 6), axis=2), 1, atol=1e-9)
    np.testing.assert_array_equal(model.transform(X[[4, 2]]), whole[[4, 2]])
    assert model.get_feature_names_out().tolist() == [f"dpcml{i}" for i in range(18)]
    few = sp.csr_matrix(([1.0], ([0], [3])), shape=(1, 30))  # one item, so one vector, repeated
    assert np.unique(model.transform(few).reshape(3, 6), axis=0).shape == (1, 6)


def test_pandas_in_and_out():
    import pandas as pd
    import sklearn

    frame = pd.DataFrame(X.toarray()).add_prefix("item")
    model = tiny().fit(frame)
    assert model.feature_names_in_[:2].tolist() == ["item0", "item1"]
    assert_same(model, tiny().fit(X))
    with sklearn.config_context(transform_output="pandas"):
        out = model.transform(frame)
    assert out.columns[0] == "dpcml0"
    assert not hasattr(model.fit(X), "feature_names_in_")


def test_arrays_of_ids():
    users, items = X.nonzero()
    assert_same(tiny().fit_interactions(users, items, n_items=30), tiny().fit(X))


@pytest.mark.parametrize("form", [np.asarray, sp.csc_matrix, sp.coo_matrix, sp.csr_array, lambda x: x * 5])
def test_form_of_the_input_does_not_matter(form):
    dense = X.toarray()
    assert_same(tiny().fit(form(dense)), tiny().fit(X))


def test_score_of_held_out_entries_and_of_new_users():
    from graftkit.sklearn import LeaveOneOut, ranking_metrics

    ((train, test),) = LeaveOneOut(random_state=0).split(X)
    model = tiny(max_iter=20).fit(train)
    expected = ranking_metrics(model, train, test, metrics=["ndcg@10"], ks=())["ndcg@10"]
    assert model.score(test) == model.score(test, users="trained") == pytest.approx(expected)
    assert model.score(X) == model.score(X, users="new") != pytest.approx(expected)
    assert 0 <= model.score(interactions(5, seed=3)) <= 1
    assert model.score(sp.csr_matrix(np.eye(2, 30))) == 0.0  # nobody has two items


def test_planted_checkerboard_is_found():
    """Users of a parity like items of that parity; the withheld one is the answer."""
    dense = (np.add.outer(np.arange(40), np.arange(40)) % 2 == 0).astype(float)
    np.fill_diagonal(dense, 0)
    model = tiny(n_components=8, n_vectors=2, max_iter=60, batch_size=64).fit(dense)
    ids, _ = model.recommend(np.arange(40), n=1)
    assert (ids[:, 0] == np.arange(40)).mean() > 0.9


def test_baselines_are_arguments():
    hars, cml = tiny(n_vectors=1), tiny(n_vectors=1, sampling="uniform")
    for model in (hars, cml):
        assert model.fit(X).user_vectors_.shape == (20, 6)
    assert_same(hars, tiny(n_vectors=1, dcrs=None).fit(X))
    assert not np.array_equal(hars.user_vectors_, cml.user_vectors_)


def test_presets():
    for name, options in PRESETS.items():
        model = DPCML.from_preset(name, n_components=7)
        assert model.get_params()["n_components"] == 7
        assert {k: getattr(model, k) for k in options if k != "n_components"} == {
            k: v for k, v in options.items() if k != "n_components"
        }
    with pytest.raises(ValueError, match="name: expected one of 'unis'"):
        DPCML.from_preset("cml")
    with pytest.raises(TypeError, match="n_vector"):
        DPCML.from_preset("hars", n_vector=3)


def test_fitted_attributes():
    model = tiny(assignment="apa").fit(X)
    counts = np.diff(X.indptr)
    assert model.n_vectors_per_user_.tolist() == [reference.apa(int(n), 3) for n in counts]
    assert (model.n_users_, model.n_features_in_, model.n_iter_, model.best_iter_) == (20, 30, 3, None)
    assert len(model.history_) == 3
    np.testing.assert_array_equal(model.item_counts_, X.toarray().sum(axis=0))
    assert (model.interactions_ != X).nnz == 0
    assert model.user_vectors_.dtype == np.float32
    assert tiny(dtype="float64").fit(X).user_vectors_.dtype == np.float64


def test_single_and_double_precision_recommend_the_same():
    big = interactions(150, 200, density=0.05)
    options = {"n_components": 16, "max_iter": 10, "batch_size": 256}
    single, double = (tiny(dtype=dtype, **options).fit(big) for dtype in ("float32", "float64"))
    same = single.recommend(np.arange(150))[0] == double.recommend(np.arange(150))[0]
    assert same.mean() >= 0.99


def test_clone_keeps_every_argument():
    def counts(n):
        return np.ones(len(n), dtype=int)

    model = tiny(assignment=counts, scoring="mrr", patience=None)
    assert clone(model).get_params() == model.get_params()
    assert clone(model).fit(X).user_vectors_.shape == (20, 6)
