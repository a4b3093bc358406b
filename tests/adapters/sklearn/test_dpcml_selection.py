"""Metrics, scorers, cross-validation and the plot, in scikit-learn's manner."""

import matplotlib as mpl
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from graftkit.methods.dpcml.metrics import evaluate
from graftkit.sklearn import (
    DPCMLDisplay,
    LeaveOneOut,
    PerUserRatioSplit,
    cross_validate_ranking,
    make_multi_interest,
    make_ranking_scorer,
    ranking_metrics,
)
from tests.adapters.sklearn.dpcml_cases import interactions, tiny

X = interactions(30, 40)
TRAIN, VAL, TEST = PerUserRatioSplit(min_interactions=2, random_state=0).split(X)[0]
MODEL = tiny(max_iter=8).fit(TRAIN)


def test_metrics_are_those_of_the_plugin():
    found = ranking_metrics(
        MODEL, TRAIN, TEST, X_val=VAL, metrics=("precision", "opauc", "maxdiv", "ndcg@7"), beta=0.3
    )
    names = [
        "precision@3",
        "precision@5",
        "precision@10",
        "opauc",
        "maxdiv@3",
        "maxdiv@5",
        "maxdiv@10",
        "ndcg@7",
    ]
    assert list(found) == names
    expected = evaluate(
        MODEL.score_users, TRAIN + VAL, TEST, names, beta=0.3, item_vectors=MODEL.item_vectors_
    )
    assert found == expected


def test_public_protocol_leaves_validation_items_in_the_lists():
    options = {"ks": (3,), "metrics": ("precision", "auc"), "protocol": "libcml"}
    with_val = ranking_metrics(MODEL, TRAIN, TEST, X_val=VAL, **options)
    assert with_val == ranking_metrics(MODEL, TRAIN, TEST, **options)
    standard = ranking_metrics(MODEL, TRAIN, TEST, X_val=VAL, metrics=("auc",))
    assert standard != ranking_metrics(MODEL, TRAIN, TEST, metrics=("auc",))


def test_any_recommender_can_be_measured():
    counts = np.asarray(TRAIN.sum(axis=0)).ravel()
    found = ranking_metrics(lambda users: np.tile(counts, (len(users), 1)), TRAIN, TEST, metrics=("mrr",))
    assert 0 < found["mrr"] < 1


def test_scores_of_any_kind_of_number():
    held = TEST.toarray() > 0
    whole = np.where(held, 2, 1)  # int64: every held-out item first
    for scores in (whole, np.where(held, 0.0, -np.inf), (whole - 3).tolist()):
        found = ranking_metrics(lambda users, s=scores: np.asarray(s)[users], TRAIN, TEST, metrics="map")
        assert found == {"map": 1.0}
    # What a recommender leaves at -inf comes last, but before nothing that was seen.
    last = ranking_metrics(lambda users: np.where(held[users], -np.inf, 0.0), TRAIN, TEST, metrics="auc")
    assert last == {"auc": 0.0}
    lists = ranking_metrics(lambda users: np.full((len(users), 40), -np.inf), TRAIN, TEST, metrics="map")
    assert lists == ranking_metrics(lambda users: np.zeros((len(users), 40)), TRAIN, TEST, metrics="map")


def test_whole_list_gain():
    found = ranking_metrics(MODEL, TRAIN, TEST, ks=(), metrics=("ndcg",))["ndcg"]
    assert found == evaluate(MODEL.score_users, TRAIN, TEST, ["ndcg"])["ndcg"]
    assert make_ranking_scorer("ndcg")(MODEL, TEST) == found
    crossed = cross_validate_ranking(tiny(max_iter=8), X, [(TRAIN, TEST)], scoring="ndcg")
    assert crossed["test_ndcg"][0] == found


def test_labels_of_several_types():
    labels = [1, "a", None, "b"] * 10
    found = ranking_metrics(MODEL, TRAIN, TEST, metrics="mrr", groups=labels)
    assert set(found) == {"all", "minority", "majority", "1", "a", "None", "b"}
    assert (
        found["minority"]
        == ranking_metrics(MODEL, TRAIN, TEST, metrics="mrr", groups=[str(label) for label in labels])[
            "minority"
        ]
    )


def test_groups_and_the_minority():
    data = make_multi_interest(random_state=0)
    model = tiny(max_iter=2).fit(data.train)
    found = ranking_metrics(model, data.train, data.test, metrics=("recall@5", "opauc"), groups=data.groups)
    assert list(found) == ["all", "minority", "majority", *map(str, range(6))]
    # What is held out is of each user's small interest, and nothing else.
    assert found["minority"]["recall@5"] == found["all"]["recall@5"]
    assert np.isnan(found["majority"]["recall@5"])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"X_test": TEST.T}, ValueError, r"X_test.*\(30, 40\).*transposed"),
        ({"X_val": TEST[:3]}, ValueError, r"X_val.*\(30, 40\)"),
        ({"X_train": TRAIN[:3], "X_test": TEST[:3]}, ValueError, r"X_train: .*\(30, 40\).*got \(3, 40\)"),
        ({"protocol": "paper"}, ValueError, "protocol: expected one of"),
        ({"metrics": ("precison",)}, ValueError, "metrics: expected one of .*'precision'"),
        ({"beta": 0.0}, ValueError, r"beta: .*\(0, 1\], got 0.0"),
        ({"beta": True}, TypeError, r"beta: .*\(0, 1\], got True"),
        ({"ks": 3}, TypeError, "ks: expected a sequence of integers, got 3"),
        ({"ks": (2.5,)}, TypeError, "ks: expected an integer"),
        ({"ks": (0,)}, ValueError, "ks: expected an integer >= 1"),
        ({"ks": (), "metrics": ("recall",)}, ValueError, "ks: expected a K or more for 'recall'"),
        ({"groups": ["all"] * 40}, ValueError, "groups: expected labels other than 'all'"),
        ({"model": tiny()}, NotFittedError, "not fitted"),
        ({"model": lambda users: np.zeros((len(users), 3))}, ValueError, r"model: expected scores of shape"),
        ({"model": lambda users: np.full((len(users), 40), np.nan)}, ValueError, "model: .*Some are NaN"),
        ({"groups": [1, 2]}, ValueError, "groups: expected one label for each of the 40 items"),
        ({"model": 3}, TypeError, "model: expected a fitted DPCML or a function"),
    ],
)
def test_bad_calls(options, error, words):
    arguments = {"model": MODEL, "X_train": TRAIN, "X_test": TEST, **options}
    with pytest.raises(error, match=words):
        ranking_metrics(
            arguments.pop("model"), arguments.pop("X_train"), arguments.pop("X_test"), **arguments
        )


def test_scorer():
    scorer = make_ranking_scorer("recall@5")
    expected = ranking_metrics(MODEL, TRAIN, TEST, metrics=("recall@5",))["recall@5"]
    assert scorer(MODEL, TEST) == scorer(MODEL, TEST, None) == expected
    with pytest.raises(ValueError, match="scoring"):
        make_ranking_scorer("recal@5")
    with pytest.raises(ValueError, match="beta"):
        make_ranking_scorer("opauc", beta=5)
    with pytest.raises(TypeError, match="estimator: expected a fitted DPCML"):
        scorer(print, TEST)
    with pytest.raises(NotFittedError, match="not fitted"):
        scorer(tiny(), TEST)
    with pytest.raises(ValueError, match="store_interactions"):
        scorer(tiny(store_interactions=False).fit(TRAIN), TEST)


def test_cross_validation():
    splitter = PerUserRatioSplit((0.7, 0.3), n_repeats=3, min_interactions=2, random_state=0)
    found = cross_validate_ranking(tiny(), X, splitter, scoring=["ndcg@10", "mrr"], return_estimator=True)
    assert found["test_ndcg@10"].shape == found["test_mrr"].shape == found["fit_time"].shape == (3,)
    train, test = splitter.split(X)[1]
    model = tiny().fit(train)
    expected = ranking_metrics(model, train, test, metrics=("mrr",))["mrr"]
    assert found["test_mrr"][1] == expected
    np.testing.assert_array_equal(found["estimator"][1].user_vectors_, model.user_vectors_)


def test_middle_part_goes_to_early_stopping_and_is_masked():
    estimator = tiny(early_stopping=True, max_iter=10)
    found = cross_validate_ranking(estimator, X, [(TRAIN, VAL, TEST)], return_estimator=True)
    model = tiny(early_stopping=True, max_iter=10).fit(TRAIN, X_val=VAL)
    np.testing.assert_array_equal(found["estimator"][0].user_vectors_, model.user_vectors_)
    expected = ranking_metrics(model, TRAIN, TEST, X_val=VAL, metrics=("ndcg@10",))
    assert found["test_ndcg@10"][0] == expected["ndcg@10"]


def test_search_over_a_grid():
    grid = {"max_iter": [1, 15], "n_vectors": [1, 2]}
    found = cross_validate_ranking(
        tiny(), X, LeaveOneOut(random_state=0), param_grid=grid, scoring=["auc", "mrr"]
    )
    assert len(found["params"]) == 4
    assert found["best_params"] == found["params"][found["best_index"]]
    assert found["best_index"] == found["mean_test_auc"].argmax()
    assert min(found["rank_test_auc"]) == found["rank_test_auc"][found["best_index"]] == 1
    one = cross_validate_ranking(tiny(**found["params"][3]), X, LeaveOneOut(random_state=0), scoring="mrr")
    assert found["mean_test_mrr"][3] == one["test_mrr"][0]


def test_bad_splitters():
    for splits in ([], [(TRAIN,)], [(TRAIN, TEST), (TRAIN, TEST * 0)]):
        with pytest.raises(ValueError, match="splitter: expected"):
            cross_validate_ranking(tiny(), X, splits)
    for splits in (None, 5):
        with pytest.raises(TypeError, match="splitter: expected an object with split"):
            cross_validate_ranking(tiny(), X, splits)
    with pytest.raises(ValueError, match="scoring: expected a metric or more"):
        cross_validate_ranking(tiny(), X, LeaveOneOut(), scoring=[])
    with pytest.raises(ValueError, match="scoring"):
        cross_validate_ranking(tiny(), X, LeaveOneOut(), scoring="accuracy")


def test_row_wise_search_folds_in():
    search = GridSearchCV(tiny(), {"n_vectors": [1, 2]}, cv=3, error_score="raise").fit(X)
    assert set(search.best_params_) == {"n_vectors"}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_pipeline():
    pipe = make_pipeline(tiny(), StandardScaler()).fit(X)
    assert pipe.transform(X).shape == (30, 18)


@pytest.fixture(autouse=True)
def close_figures():
    mpl.use("Agg")
    yield
    from matplotlib import pyplot as plt

    plt.close("all")


def test_plot_shows_each_vector_with_its_items():
    from matplotlib import pyplot as plt

    display = MODEL.plot(4)
    assert isinstance(display, DPCMLDisplay)
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels[0] == "items"
    counts = [int(label.split(": ")[1]) for label in labels[1:]]
    assert len(counts) == 3
    assert sum(counts) == TRAIN[4].nnz
    for liked, vector in zip(display.liked, display.interests, strict=True):
        assert MODEL.explain(4, int(liked)).vector == vector
    assert display.items.shape == (40, 2)
    _, ax = plt.subplots()
    again = MODEL.plot(4, groups=np.arange(40) % 3, ax=ax)
    assert again.ax_ is ax
    assert again.figure_ is ax.figure


def test_plot_in_fewer_dimensions_than_two():
    for options in ({"n_components": 1}, {"n_vectors": 1}):
        display = tiny(**options).fit(TRAIN).plot(0)
        assert display.items.shape == (40, 2)
        assert np.isfinite(display.vectors).all()
    flat = tiny(n_components=1).fit(TRAIN).plot(0)
    assert not flat.items[:, 1].any()


def test_plot_needs_the_interactions():
    with pytest.raises(ValueError, match="store_interactions"):
        tiny(store_interactions=False).fit(sp.csr_matrix(np.eye(4))).plot(0)
