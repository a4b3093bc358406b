"""Every refused input, by type and by words; orientation is named where it may be the mistake."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.exceptions import NotFittedError

from graftkit.sklearn import DPCML, DPCMLDisplay
from tests.adapters.sklearn.dpcml_cases import interactions, tiny

X = interactions()
FITTED = tiny().fit(X)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n_vectors": 0}, ValueError, r"n_vectors.*>= 1"),
        ({"n_components": 0}, ValueError, r"n_components.*>= 1"),
        ({"n_negatives": 0}, ValueError, r"n_negatives.*>= 1"),
        ({"beta": 0.0}, ValueError, r"beta.*\(0, 1\]"),
        ({"beta": 1.5}, ValueError, r"beta.*\(0, 1\]"),
        ({"margin": 0.0}, ValueError, r"margin.*> 0"),
        ({"learning_rate": 0.0}, ValueError, r"learning_rate.*> 0"),
        ({"delta_min": 0.6, "delta_max": 0.5}, ValueError, r"delta_min.*delta_max"),
        ({"sampling": "x"}, ValueError, r"sampling: expected one of 'hard'"),
        ({"assignment": "x"}, ValueError, r"assignment: expected one of 'bpa'"),
        ({"assignment": [1, 2]}, ValueError, r"assignment.*20.*\(2,\)|assignment.*length 20.*length 2"),
        ({"assignment": np.zeros(20, dtype=int)}, ValueError, r"assignment.*>= 1.*length 20, got 0"),
        ({"dcrs": "x"}, ValueError, r"dcrs: expected one of"),
        ({"optimizer": "x"}, ValueError, r"optimizer: expected one of"),
        ({"early_stopping": 1}, TypeError, r"early_stopping: expected True or False"),
        ({"store_interactions": None}, TypeError, r"store_interactions"),
        ({"validation_fraction": 1.0}, ValueError, r"validation_fraction.*\(0, 1\)"),
        ({"patience": 0}, ValueError, r"patience.*>= 1"),
        ({"tol": -1.0}, ValueError, r"tol.*>= 0"),
        ({"early_stopping": True, "scoring": "ndgc@10"}, ValueError, r"scoring: expected one of"),
        ({"scoring": "ndgc@10"}, ValueError, r"scoring: expected one of"),
        ({"scoring": None}, TypeError, r"scoring: expected a metric's name or a function, got None"),
        ({"n_jobs": 0}, ValueError, r"n_jobs: expected None or an integer other than 0, got 0"),
        ({"n_jobs": 1.5}, TypeError, r"n_jobs: expected an integer"),
        ({"verbose": "a"}, TypeError, r"verbose: expected an integer >= 0"),
        ({"verbose": -1}, ValueError, r"verbose: expected an integer >= 0"),
        ({"random_state": -1}, ValueError, r"random_state"),
        ({"random_state": "a"}, TypeError, r"random_state"),
        ({"device": "nowhere"}, RuntimeError, r"device"),
    ],
)
def test_settings(options, error, words):
    model = tiny(**options)
    before = dict(vars(model))
    with pytest.raises(error, match=words):
        model.fit(X)
    assert vars(model).keys() == before.keys()


def test_missing_gpu():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(RuntimeError, match=r"device.*(?i:cuda)"):
        tiny(device="cuda").fit(X)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.array([[1.0, -1.0], [1.0, 1.0]]), "negative"),
        (sp.csr_matrix([[1.0, -1.0], [1.0, 1.0]]), "negative"),
        (np.array([[1.0, np.nan], [1.0, 1.0]]), "NaN"),
        (np.array([[1.0, np.inf], [1.0, 1.0]]), "infinity"),
        (np.ones(3), "2D"),
        (np.ones((0, 3)), "0 sample"),
        (np.ones((3, 0)), "0 feature"),
        (np.zeros((3, 4)), "no positive"),
        (sp.csr_matrix((3, 4)), "no positive"),
    ],
)
def test_matrices(matrix, words):
    for call in ("fit", "partial_fit"):
        with pytest.raises(ValueError, match=words):
            getattr(tiny(), call)(matrix)


def test_callbacks_are_checked_before_the_first_pass():
    for wrong in ([3], print):
        with pytest.raises(TypeError, match="callbacks: expected"):
            tiny().fit(X, callbacks=wrong)


def test_nothing_to_go_on_with():
    with pytest.raises(ValueError, match=r"X: expected a positive .*got no positive"):
        tiny().fit(X).partial_fit(X * 0)
    for change in ({"n_components": 9}, {"dtype": "float64"}):
        model = tiny().fit(X).set_params(**change)
        with pytest.raises(ValueError, match=r"(n_components|dtype): expected .*fitted vectors.*call fit"):
            model.partial_fit(X)
    assert tiny().fit(X).set_params(learning_rate=0.1).partial_fit(X).n_iter_ == 4


def test_grown_table_keeps_its_columns():
    import pandas as pd

    model = tiny().fit(pd.DataFrame(X.toarray()).add_prefix("a"))
    bigger = np.pad(X.toarray(), ((0, 1), (0, 1)))
    with pytest.raises(ValueError, match=r"X: expected the fitted columns first.*'b0' where 'a0'"):
        model.partial_fit(pd.DataFrame(bigger).add_prefix("b"), allow_growth=True)
    bigger[20, 30] = 1
    model.partial_fit(pd.DataFrame(bigger).add_prefix("a"), allow_growth=True)
    assert model.feature_names_in_[-1] == "a30"


def test_validation_without_anything_to_hold_out():
    with pytest.raises(ValueError, match="validation: expected a user with two interactions"):
        tiny(early_stopping=True).fit(np.eye(5))
    for nothing_new in (sp.csr_matrix((20, 30)), X):
        with pytest.raises(ValueError, match="X_val: expected a validation interaction"):
            tiny().fit(X, X_val=nothing_new)


def test_orientation_is_named():
    with pytest.raises(ValueError, match=r"X_val.*\(20, 30\).*\(30, 20\).*transposed"):
        tiny().fit(X, X_val=X.T)
    for call in ("transform", "recommend_for", "score"):
        with pytest.raises(
            ValueError, match=r"20 features.*expecting 30 features.*\(30, 20\).*\(20, 30\).*transposed"
        ):
            getattr(FITTED, call)(X.T)
    with pytest.raises(ValueError, match=r"features.*\(20, 30\).*\(30, 20\)"):
        FITTED.partial_fit(X.T)
    # Fewer rows than the largest user id: the ids are probably those of items.
    with pytest.raises(IndexError, match=r"user_ids: .*\[0, 20\).*got 25.*\(20, 30\).*transposed"):
        FITTED.recommend([3, 25])
    with pytest.raises(ValueError, match=r"users: expected ids below n_users = 5, got 19.*\(5, 30\).*swap"):
        tiny().fit_interactions(*X.nonzero(), n_users=5, n_items=30)


@pytest.mark.parametrize("call", ["recommend", "score_users", "get_user_vectors"])
def test_ids_of_users(call):
    for wrong, error, words in (
        (20, IndexError, r"user_ids.*\[0, 20\)"),
        (-1, IndexError, r"user_ids.*\[0, 20\).*got -1"),
        (True, TypeError, "user_ids.*integer"),
        ([1.0], TypeError, "user_ids.*integer"),
        ([[1]], ValueError, "user_ids.*1-D"),
    ):
        with pytest.raises(error, match=words):
            getattr(FITTED, call)(wrong)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: m.recommend([0], n=0), ValueError, r"n: expected an integer >= 1"),
        (lambda m: m.recommend([0], n=2.0), TypeError, r"n: expected an integer"),
        (lambda m: m.recommend([0], items=[30]), IndexError, r"items.*\[0, 30\)"),
        (lambda m: m.recommend([0], exclude_items=[-2]), IndexError, r"exclude_items.*\[0, 30\)"),
        (lambda m: m.recommend([0], items=[0.5]), TypeError, r"items.*integer"),
        (lambda m: m.recommend([0], exclude=np.ones((2, 30))), ValueError, r"exclude.*\(1, 30\)"),
        (lambda m: m.recommend([0], filter_seen=1), TypeError, "filter_seen"),
        (lambda m: m.recommend([0], return_scores="yes"), TypeError, "return_scores"),
        (lambda m: m.recommend([0], batch_size=0), ValueError, "batch_size"),
        (lambda m: m.recommend_for(X, n=0), ValueError, "n: expected"),
        (lambda m: m.recommend_for(X, filter_seen=0), TypeError, "filter_seen"),
        (lambda m: m.score_pairs([0, 1], [0]), ValueError, "user_ids and item_ids: .*2 and 1"),
        (lambda m: m.score_pairs([0], [99]), IndexError, r"item_ids.*\[0, 30\)"),
        (lambda m: m.similar_items(99), IndexError, "item_ids"),
        (lambda m: m.similar_items(0, n=0), ValueError, "n: expected"),
        (lambda m: m.explain(0, 99), IndexError, "item_id"),
        (lambda m: m.explain([0], 1), ValueError, "one id each"),
        (lambda m: m.get_user_vectors([0], padded=1), TypeError, "padded"),
        (
            lambda m: m.transform(np.ones((2, 7))),
            ValueError,
            "X has 7 features, but DPCML is expecting 30 features",
        ),
        (lambda m: m.partial_fit(X, allow_growth=1), TypeError, "allow_growth"),
        (
            lambda m: m.partial_fit(np.vstack([X.toarray(), X.toarray()])),
            ValueError,
            r"^X: expected a matrix .* of shape \(20, 30\), got \(40, 30\)\. Pass allow_growth=True",
        ),
        (
            lambda m: m.fit_interactions([0, 1], [0, 5], n_users=1),
            ValueError,
            r"users x items = \(1, any\)",
        ),
        (lambda m: m.to_ann("annoy"), ValueError, "kind: expected one of 'arrays', 'faiss', 'hnswlib'"),
        (lambda m: m.score(X, users="old"), ValueError, "users: expected one of"),
        (lambda m: m.score(X[:5], users="trained"), ValueError, r"X: expected .*\(20, 30\)"),
        (lambda m: m.plot(99), IndexError, "user_ids"),
        (lambda m: m.plot([0, 1]), ValueError, "user_id: expected one id"),
        (
            lambda m: m.plot(0, groups=[1, 2]),
            ValueError,
            "groups: expected one label for each of the 30 items",
        ),
    ],
)
def test_queries(call, error, words):
    with pytest.raises(error, match=words):
        call(FITTED)


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.recommend([0]),
        lambda m: m.recommend_for(X),
        lambda m: m.score_pairs([0], [0]),
        lambda m: m.score_users([0]),
        lambda m: m.similar_items(0),
        lambda m: m.explain(0, 0),
        lambda m: m.transform(X),
        lambda m: m.score(X),
        lambda m: m.get_user_vectors([0]),
        lambda m: m.to_ann(),
        lambda m: DPCMLDisplay.from_estimator(m, 0),
    ],
)
def test_before_fit(call):
    with pytest.raises(NotFittedError, match="not fitted"):
        call(tiny())


def test_more_items_than_are_left_is_padding():
    ids, scores = FITTED.recommend([0], n=50)
    left = 30 - X[0].nnz
    assert (ids[0, left:] == -1).all()
    assert (ids[0, :left] >= 0).all()
    assert np.isneginf(scores[0, left:]).all()


def test_users_without_items_and_users_with_all():
    dense = X.toarray()
    dense[2], dense[3] = 0, 1
    with pytest.warns(UserWarning, match=r"1 user\(s\) own every item") as caught:
        model = DPCML(n_components=4, n_vectors=2, max_iter=2, random_state=0).fit(dense)
    assert caught[0].filename == __file__
    assert (model.recommend(3, n=5)[0] == -1).all()
    assert (model.recommend(2, n=5)[0] >= 0).all()
    assert tiny(assignment="apa").fit(X).n_vectors_per_user_.min() >= 1


def test_nothing_to_learn():
    with pytest.warns(UserWarning, match="nothing can be learnt"):
        model = tiny().fit(np.ones((3, 4)))
    assert model.n_iter_ == 0
    assert (model.recommend([0], n=2, filter_seen=False)[0] >= 0).all()
