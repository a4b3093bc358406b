"""RCPMOD inside scikit-learn: pipelines, column transformers, searches, routed metadata."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.compose import ColumnTransformer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

from graftkit.sklearn import RCPMOD, stack_views
from tests.adapters.sklearn.rcpmod_cases import TINY, make_views, mask_of, tiny


def planted(n=120):
    """Views with missing rows, a mask, and y: 1 for inliers, 0 for attribute outliers."""
    views = make_views(n=n, missing=0.2)
    rng = np.random.default_rng(1)
    y = np.ones(n, dtype=int)
    y[rng.permutation(n)[:12]] = 0
    for view in views:
        noise = view[~np.isnan(view).any(axis=1)]
        low, high = noise.min(axis=0), noise.max(axis=0)
        view[y == 0] = low + rng.random((12, view.shape[1])) * (high - low)
    return views, mask_of(views), y


def test_grid_search_over_a_pipeline():
    views, mask, y = planted()
    # The lines of the documentation.
    X, widths = stack_views(views, mask)
    pipe = make_pipeline(StandardScaler(), RCPMOD(view_slices=widths, scale="feature"))
    search = GridSearchCV(pipe, {"rcpmod__recon_weight": [.25, .5, .7]}, scoring="roc_auc")  # fmt: skip
    search.estimator.set_params(**{f"rcpmod__{key}": value for key, value in TINY.items()})
    search.fit(X, y)  # y: 1 = inlier, 0 = outlier
    assert len(search.cv_results_["params"]) == 3
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = search.best_estimator_
    assert search.score(X, y) == roc_auc_score(y, best.decision_function(X))  # larger for inliers
    assert set(best.predict(X)) <= {1, -1}


def test_pipeline_equals_its_steps():
    views, mask, _ = planted()
    X, widths = stack_views(views, mask)
    pipe = make_pipeline(StandardScaler(), tiny(view_slices=widths, contamination=0.1)).fit(X)
    scaled = StandardScaler().fit_transform(X)
    direct = tiny(view_slices=widths, contamination=0.1).fit(scaled)
    np.testing.assert_array_equal(pipe.score_samples(X), direct.score_samples(scaled))
    np.testing.assert_array_equal(pipe.predict(X), direct.labels_)
    np.testing.assert_array_equal(pipe.fit_predict(X), direct.labels_)


def test_pipeline_passes_a_mask():
    views = make_views(missing=0)
    mask = mask_of(make_views())
    X, widths = stack_views(views)
    pipe = make_pipeline(MinMaxScaler(), tiny(view_slices=widths))
    pipe.fit(X, rcpmod__view_mask=mask)
    scaled = MinMaxScaler().fit_transform(X)
    direct = tiny(view_slices=widths).fit(scaled, view_mask=mask)
    np.testing.assert_array_equal(pipe[-1].outlier_scores_, direct.outlier_scores_)
    assert not np.array_equal(direct.outlier_scores_, tiny(view_slices=widths).fit(scaled).outlier_scores_)


def test_mask_can_be_routed():
    X, widths = stack_views(make_views(missing=0))
    mask = mask_of(make_views())
    with sklearn.config_context(enable_metadata_routing=True):
        detector = tiny(view_slices=widths).set_fit_request(view_mask=True)
        pipe = make_pipeline(StandardScaler(), detector).fit(X, view_mask=mask)
    scaled = StandardScaler().fit_transform(X)
    direct = tiny(view_slices=widths).fit(scaled, view_mask=mask)
    np.testing.assert_array_equal(pipe[-1].outlier_scores_, direct.outlier_scores_)


@pytest.mark.parametrize("output", ["default", "pandas"])
def test_column_transformer_makes_the_views(output):
    rng = np.random.default_rng(0)
    group = rng.integers(3, size=80)
    frame = pd.DataFrame(
        {
            "width": group + 0.1 * rng.normal(size=80),
            "height": 2 * group + 0.1 * rng.normal(size=80),
            "colour": np.array(["red", "green", "blue"])[group],
        }
    )
    frame.loc[5, "colour"] = {"red": "green", "green": "blue", "blue": "red"}[frame.loc[5, "colour"]]
    columns = ColumnTransformer(
        [
            ("shape", StandardScaler(), ["width", "height"]),
            ("colour", OneHotEncoder(sparse_output=False), ["colour"]),
        ]
    ).set_output(transform=output)
    pipe = make_pipeline(columns, tiny(view_slices=[2, 3], n_epochs=40, learning_rate=5e-3)).fit(frame)
    views = [
        StandardScaler().fit_transform(frame[["width", "height"]].to_numpy()),
        (frame["colour"].to_numpy()[:, None] == np.array(["blue", "green", "red"])).astype(float),
    ]
    direct = tiny(n_epochs=40, learning_rate=5e-3).fit(views)
    np.testing.assert_array_equal(pipe[-1].outlier_scores_, direct.outlier_scores_)
    assert pipe.score_samples(frame).argmin() == 5  # its colour belongs to another shape


def test_cross_validation():
    views, mask, y = planted()
    X, widths = stack_views(views, mask)
    detector = tiny(view_slices=widths, n_epochs=40, hidden_layer_sizes=(32,), learning_rate=3e-3)
    assert cross_val_score(detector, X, y, scoring="roc_auc", cv=3).min() > 0.75
