"""Planted outliers are found, and the contrastive terms are why (specification, section 5, gates)."""

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

from graftkit.methods.rcpmod.baselines import impute_views
from graftkit.methods.rcpmod.data import load_digits_views, plant_outliers
from graftkit.sklearn import RCPMOD


@pytest.fixture(scope="module")
def digits():
    return load_digits_views()


def auc_of_kind(planted, scores, kind):
    """ROC AUC of one kind of outlier (2: class) against the inliers."""
    rows = np.isin(planted.outlier_type, (0, kind))
    return roc_auc_score(planted.outlier_type[rows] == kind, scores[rows])


def test_contrastive_training_finds_class_outliers(digits):
    # 1000 digits, 25 epochs: measured 0.929; without the outlier-aware contrast 0.881, without both
    # contrastive terms 0.466 (chance).
    views, labels = digits
    rows = np.random.default_rng(1).permutation(len(labels))[:1000]
    planted = plant_outliers([view[rows] for view in views], labels[rows], rates=(0, 0.1, 0), random_state=1)
    quick = {"hidden_layer_sizes": (128,), "latent_dim": 32, "n_epochs": 25, "batch_size": 64}
    quick |= {"learning_rate": 3e-3, "random_state": 1}
    detector = RCPMOD(**quick).fit(planted.views)
    assert roc_auc_score(planted.is_outlier, detector.outlier_scores_) > 0.9
    assert roc_auc_score(planted.is_outlier, -detector.score_samples(planted.views)) > 0.9
    blind = RCPMOD(**quick, outlier_weight=0.0, neighbor_weight=0.0).fit(planted.views)
    assert roc_auc_score(planted.is_outlier, blind.outlier_scores_) < 0.65


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_digits_gate(digits, seed):
    planted = plant_outliers(*digits, missing=0.3, random_state=seed)
    detector = RCPMOD(n_epochs=60, random_state=seed).fit(planted.views)
    overall = roc_auc_score(planted.is_outlier, detector.outlier_scores_)
    assert overall >= 0.97
    assert auc_of_kind(planted, detector.outlier_scores_, 2) >= 0.94
    table = np.concatenate(impute_views(planted.views), axis=1)
    forest = IsolationForest(random_state=seed).fit(table)
    assert overall >= roc_auc_score(planted.is_outlier, -forest.score_samples(table)) + 0.05
    # The frozen score of section 1.9 costs next to nothing.
    frozen = roc_auc_score(planted.is_outlier, -detector.score_samples(planted.views))
    assert abs(frozen - overall) < 0.005


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_without_contrast_the_digits_gate_fails(digits, seed):
    planted = plant_outliers(*digits, missing=0.3, random_state=seed)
    detector = RCPMOD(
        n_epochs=60, outlier_weight=0.0, neighbor_weight=0.0, recon_weight=0.5, random_state=seed
    )
    assert roc_auc_score(planted.is_outlier, detector.fit(planted.views).outlier_scores_) < 0.7


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_clean_data_is_mostly_left_alone(digits, seed):
    clean = plant_outliers(*digits, rates=(0, 0, 0), missing=0.3, random_state=seed)
    labels = RCPMOD(n_epochs=60, random_state=seed).fit_predict(clean.views)
    assert (labels == -1).mean() < 0.10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_order_of_rows_and_views_hardly_matters(digits, seed):
    planted = plant_outliers(*digits, missing=0.3, random_state=seed)
    order = np.random.default_rng(seed).permutation(len(planted.outlier_type))
    shuffled = [view[order] for view in planted.views]

    def auc(views, truth):
        return roc_auc_score(truth, RCPMOD(n_epochs=60, random_state=seed).fit(views).outlier_scores_)

    base = auc(planted.views, planted.is_outlier)
    assert abs(auc(shuffled, planted.is_outlier[order]) - base) < 0.02
    assert abs(auc(planted.views[::-1], planted.is_outlier) - base) < 0.02
