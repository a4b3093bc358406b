"""DenseProbe: scikit-learn's contract, ignored pixels, the inner estimator's own checks."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import estimator_checks_generator

from graftkit.sklearn import DenseProbe


def scene(n=4, classes=3, size=(8, 10), seed=0):
    """Maps at half the labels' size, whose channels say the class."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (n, size[0] // 2, size[1] // 2))
    labels = coarse.repeat(2, 1).repeat(2, 2)
    maps = np.eye(classes)[coarse].transpose(0, 3, 1, 2) + 0.05 * rng.normal(
        size=(n, classes, *coarse.shape[1:])
    )
    return maps, labels


def test_parameters_clone_and_round_trips():
    probe = DenseProbe(KNeighborsClassifier(3), pixels_per_image=20, ignore_index=0, random_state=1)
    copy = clone(probe)
    assert copy.get_params()["estimator__n_neighbors"] == 3
    assert copy.set_params(estimator__n_neighbors=5, ignore_index=None).estimator.n_neighbors == 5
    maps, labels = scene()
    fitted = DenseProbe(random_state=0).fit(maps, labels)
    again = pickle.loads(pickle.dumps(fitted))
    assert (again.predict(maps) == fitted.predict(maps)).all()
    assert repr(DenseProbe()) == "DenseProbe()"


def test_the_estimator_that_is_given_stays_unfitted():
    inner = DecisionTreeClassifier(random_state=0)
    probe = DenseProbe(inner, random_state=0).fit(*scene())
    assert not hasattr(inner, "tree_")
    assert hasattr(probe.estimator_, "tree_")


def test_own_constructor_passes_the_checks_that_need_no_table():
    names = {
        "check_no_attributes_set_in_init",
        "check_estimator_repr",
        "check_parameters_default_constructible",
        "check_get_params_invariance",
        "check_set_params",
        "check_estimator_cloneable",
        "check_mixin_order",
    }
    ran = set()
    for estimator, check in estimator_checks_generator(DenseProbe()):
        if check.func.__name__ in names:
            check(estimator)
            ran.add(check.func.__name__)
    assert ran == names


def test_it_learns_and_interpolates_to_the_labels():
    maps, labels = scene(6)
    probe = DenseProbe(random_state=0).fit(maps[:4], labels[:4])
    assert probe.predict(maps[4:]).shape == (2, 8, 10)
    assert probe.score(maps[4:], labels[4:]) > 0.8
    assert probe.n_channels_ == 3
    assert probe.label_size_ == (8, 10)
    assert probe.classes_.tolist() == [0, 1, 2]
    assert (probe.predict(torch.from_numpy(maps[4:])) == probe.predict(list(maps[4:]))).all()
    assert probe.predict(maps[4:], size=(4, 5)).shape == (2, 4, 5)


def test_the_draw_is_seeded_and_private():
    maps, labels = scene()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    fits = [DenseProbe(pixels_per_image=5, random_state=s).fit(maps, labels) for s in (0, 0, 1)]
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    coefficients = [fit.estimator_[-1].coef_ for fit in fits]
    assert (coefficients[0] == coefficients[1]).all()
    assert not np.allclose(coefficients[0], coefficients[2])


def test_ignored_pixels_count_neither_in_fit_nor_in_score():
    maps, labels = scene()
    dirty = labels.copy()
    dirty[:, :2] = 255
    probe = DenseProbe(pixels_per_image=None).fit(maps, dirty)
    assert 255 not in probe.classes_
    clean = DenseProbe(pixels_per_image=None).fit([m[:, 0:] for m in maps], dirty)
    assert (clean.predict(maps) == probe.predict(maps)).all()
    wrong = labels.copy()
    wrong[:, :2] = 255
    predicted = probe.predict(maps)
    inside = predicted[:, 2:], wrong[:, 2:]
    ious = [
        ((inside[0] == c) & (inside[1] == c)).sum() / ((inside[0] == c) | (inside[1] == c)).sum()
        for c in range(3)
    ]
    assert probe.score(maps, wrong) == pytest.approx(np.mean(ious))
    everything = DenseProbe(ignore_index=None, pixels_per_image=None).fit(maps, dirty)
    assert 255 in everything.classes_


def test_a_class_that_fit_never_saw_counts_against_the_score():
    maps, labels = scene(classes=2)
    probe = DenseProbe(random_state=0).fit(maps, labels)
    more = labels.copy()
    more[:, 4:] = 7
    kept = probe.score(maps, labels)
    assert probe.score(maps, more) < kept * 2 / 3 + 0.05


def test_searches_and_cross_validation_work_over_images():
    maps, labels = scene(6)
    assert cross_val_score(DenseProbe(random_state=0), maps, labels, cv=3).min() > 0.7
    search = GridSearchCV(
        DenseProbe(LogisticRegression(), random_state=0), {"estimator__C": [1e-6, 10.0]}, cv=2
    ).fit(maps, labels)
    assert search.best_params_ == {"estimator__C": 10.0}


MAPS, LABELS = scene(2)


@pytest.mark.parametrize(
    ("X", "y", "error", "words"),
    [
        ([], [], ValueError, "X: expected at least one map"),
        (MAPS[:, 0], LABELS, ValueError, r"maps of shape \(C, h, w\)"),
        ([MAPS[0], MAPS[1][:2]], LABELS, ValueError, "one number of channels"),
        (np.where(MAPS.max() == MAPS, np.nan, MAPS), LABELS, ValueError, "X: expected finite"),
        (MAPS.astype(str), LABELS, ValueError, "real numbers"),
        (MAPS, LABELS[:1], ValueError, "expected 2 label maps for 2 feature maps, got 1"),
        (MAPS, LABELS[..., None], ValueError, r"label maps of shape \(H, W\)"),
        (MAPS, LABELS.astype(float), TypeError, "integer labels"),
        (None, LABELS, TypeError, "X: expected an array or a list of maps, got None"),
        ({"a": MAPS}, LABELS, TypeError, "X: expected an array or a list of maps"),
        (MAPS, 3, TypeError, "y: expected an array or a list of label maps, got 3"),
        (MAPS, np.full_like(LABELS, 255), ValueError, "no labelled pixel"),
    ],
)
def test_input_is_checked_and_a_failed_fit_changes_nothing(X, y, error, words):
    probe = DenseProbe(random_state=0)
    with pytest.raises(error, match=words):
        probe.fit(X, y)
    assert not hasattr(probe, "classes_")


def test_fitted_calls_are_checked():
    probe = DenseProbe(random_state=0)
    with pytest.raises(ValueError, match="not fitted"):
        probe.predict(MAPS)
    probe.fit([MAPS[0], MAPS[1]], [LABELS[0], LABELS[1][:4]])
    with pytest.raises(ValueError, match="size: expected a size"):
        probe.predict(MAPS)
    with pytest.raises(ValueError, match="X: expected 3 channels"):
        probe.predict(MAPS[:, :2], size=(4, 4))
    with pytest.raises(ValueError, match="no labelled pixel"):
        probe.score(MAPS, np.full_like(LABELS, 255))
    with pytest.raises(ValueError, match="sample_weight: expected None"):
        probe.score(MAPS, LABELS, sample_weight=np.ones(2))
    with pytest.raises(ValueError, match="'pixels_per_image' parameter"):
        DenseProbe(pixels_per_image=0).fit(MAPS, LABELS)
    with pytest.raises(TypeError, match="pixels_per_image: expected an integer or None, got True"):
        DenseProbe(pixels_per_image=True).fit(MAPS, LABELS)
    for size, error, words in (
        (4, TypeError, "size: expected height and width, got 4"),
        ((0, 4), ValueError, "size: expected an integer >= 1, got 0"),
        ((4, 4.0), TypeError, "size: expected an integer"),
    ):
        with pytest.raises(error, match=words):
            probe.predict(MAPS, size=size)


def test_tensors_count_whatever_their_type_and_graph():
    plain = DenseProbe(random_state=0).fit(MAPS, LABELS).predict(MAPS)
    tensor = torch.tensor(MAPS, dtype=torch.bfloat16).requires_grad_()
    probe = DenseProbe(random_state=0).fit(tensor, torch.tensor(LABELS))
    assert probe.score(tensor, LABELS) > 0.9
    assert probe.predict(list(tensor)).shape == plain.shape
