"""Constructor arguments: each one acts, defaults and presets are the method's, bad ones are refused."""

from inspect import signature

import numpy as np
import pytest
from sklearn.base import clone

from graftkit.methods.rcpmod.settings import PRESETS, Settings
from graftkit.sklearn import RCPMOD
from tests.adapters.sklearn.rcpmod_cases import make_views, same_state, state_of, tiny

A, B = make_views(missing=0)


@pytest.mark.parametrize(
    ("off", "zero"),
    [("outlier_weight", "contrast"), ("neighbor_weight", "alignment"), ("spread_weight", "spreading")],
)
def test_a_weight_of_zero_turns_its_term_off(off, zero):
    options = {off: 0.0} | ({"spread_warm": 0.0} if off == "spread_weight" else {})
    curve = tiny(**options).fit(make_views()).loss_curve_
    assert all(entry[zero] == 0 for entry in curve)
    others = {"contrast", "alignment", "spreading"} - {zero}
    assert all(curve[-1][name] != 0 for name in others)


def test_every_parameter_is_used():
    # A parameter accepted and ignored would leave the fitted scores as they are.
    views = make_views(n=90)
    base = {
        "n_epochs": 4,
        "neighbor_refresh": 2,
        "spread_warm": 5.0,
        "impute_from": 2,
        "batch_size": 40,
        "negative_rank": 2,  # nearer than most neighbours, so that the rank loss is at work
    }
    plain = tiny(**base).fit(views).score_samples(views)
    changes = {
        "n_neighbors": 5,
        "hidden_layer_sizes": (9,),
        "latent_dim": 5,
        "n_epochs": 5,
        "batch_size": 20,
        "learning_rate": 3e-3,
        "temperature": 0.3,
        "outlier_weight": 0.5,
        "neighbor_weight": 0.5,
        "alignment_ranks": 1,
        "spread_weight": 90.0,
        "spread_warm": 9.0,
        "negative_rank": 7,
        "memory_size": 1,
        "memory_fraction": 0.5,
        "recon_weight": 0.5,
        "neighbor_refresh": 1,
        "negative_refresh": 1,
        "impute_from": 0,
        "scale": "global",
        "reshuffle": False,
        "n_reference": 11,
        "random_state": 1,
        "dtype": "float64",
    }
    for name, value in changes.items():
        if name in ("spread_weight", "spread_schedule"):
            continue  # only after epoch 99: test_training and test_losses
        got = tiny(**{**base, name: value}).fit(views).score_samples(views)
        assert not np.array_equal(got, plain), name
    # What is left acts on the input, on several views, on the threshold, on where and how work is done.
    elsewhere = {
        "view_slices",
        "partial_nan",
        "pairing",
        "contamination",
        "knn_backend",
        "device",
        "n_jobs",
        "verbose",
    }
    assert set(RCPMOD().get_params()) == set(changes) | elsewhere | {"spread_schedule"}


def test_pairing_matters_for_three_views_only():
    two, three = make_views(), make_views(dims=(5, 4, 3))
    a, b = (tiny(pairing=pairing).fit(two).outlier_scores_ for pairing in ("sequential", "independent"))
    np.testing.assert_array_equal(a, b)
    a, b = (tiny(pairing=pairing).fit(three) for pairing in ("sequential", "independent"))
    assert not np.array_equal(a.outlier_scores_, b.outlier_scores_)
    # Sequential pairs continue from earlier weights: pair (0, 2) starts where (0, 1) left view 0.
    np.testing.assert_array_equal(
        a.model_.scorers[0].networks[0].encoder[0][0], b.model_.scorers[0].networks[0].encoder[0][0]
    )
    assert a.loss_curve_[3]["reconstruction"] < b.loss_curve_[3]["reconstruction"]


def test_defaults_agree_with_the_settings_of_the_method():
    given = {name: p.default for name, p in signature(RCPMOD).parameters.items()}
    expected = {name: field.default for name, field in Settings.__dataclass_fields__.items()}
    assert {name: given[name] for name in expected} == expected
    assert (given["view_slices"], given["partial_nan"], given["contamination"]) == ("auto", "raise", "auto")


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    detector = RCPMOD.from_preset(name, n_epochs=7, random_state=3)
    assert isinstance(detector, RCPMOD)
    params = detector.get_params()
    assert params["n_epochs"] == 7
    assert params["random_state"] == 3
    assert {k: v for k, v in PRESETS[name].items() if k != "n_epochs"}.items() <= params.items()


def test_clone_and_parameters_round_trip():
    detector = tiny(view_slices=[2, 3], contamination=0.2)
    twin = clone(detector)
    assert twin.get_params() == detector.get_params()
    assert twin.set_params(n_epochs=9).n_epochs == 9
    assert detector.n_epochs == 3
    rebuilt = RCPMOD(**detector.get_params())
    assert rebuilt.get_params() == detector.get_params()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("contamination", 0.0),
        ("contamination", 0.51),
        ("contamination", -0.1),
        ("contamination", float("nan")),
        ("contamination", "often"),
        ("contamination", None),
        ("n_neighbors", 0),
        ("hidden_layer_sizes", 8),
        ("latent_dim", 0),
        ("n_epochs", 0),
        ("batch_size", 1),
        ("learning_rate", 0.0),
        ("temperature", 0.0),
        ("spread_schedule", 101),
        ("memory_fraction", 0.0),
        ("memory_size", -1),
        ("recon_weight", -1.0),
        ("scale", "rows"),
        ("partial_nan", "drop"),
        ("pairing", "joint"),
        ("n_reference", 0),
        ("knn_backend", "annoy"),
        ("random_state", "zero"),
        ("dtype", "float16"),
        ("n_jobs", 1.5),
        ("verbose", -1),
        ("reshuffle", "yes"),
    ],
)
def test_bad_parameters(name, value):
    detector = tiny(**{name: value})
    before = state_of(detector)
    with pytest.raises(ValueError, match=f"The '{name}' parameter of RCPMOD must be"):
        detector.fit([A, B])
    assert same_state(detector, before)


@pytest.mark.parametrize("value", ["nonsense", "cuda:99"])
def test_bad_device_names_the_argument(value):
    with pytest.raises(ValueError, match=r"^device: expected"):
        tiny(device=value).fit([A, B])


def test_hidden_layers_are_positive_integers():
    with pytest.raises(ValueError, match=r"hidden_layer_sizes: expected an integer >= 1, got 0"):
        tiny(hidden_layer_sizes=(8, 0)).fit([A, B])
    with pytest.raises(TypeError, match=r"hidden_layer_sizes: expected an integer >= 1, got 2\.5"):
        tiny(hidden_layer_sizes=(2.5,)).fit([A, B])


def test_unscaled_inputs_must_be_in_the_unit_interval():
    with pytest.raises(ValueError, match=r"view 'view0': expected values in \[0, 1\] with scale=None"):
        tiny(scale=None).fit([A, B])
    inside = [(view - view.min()) / np.ptp(view) for view in (A, B)]
    expected = tiny(scale="global").fit([A, B]).outlier_scores_
    np.testing.assert_allclose(tiny(scale=None).fit(inside).outlier_scores_, expected, atol=1e-5)


def test_presets_and_parameters_by_unknown_names():
    with pytest.raises(
        ValueError, match=r"name: expected one of 'bdgp', .*got 'scene'\. Did you mean 'scene15'\?"
    ):
        RCPMOD.from_preset("scene")
    with pytest.raises(TypeError, match="n_epoch"):
        RCPMOD.from_preset("scene15", n_epoch=3)
    with pytest.raises(ValueError, match="Invalid parameter 'n_epoch'"):
        tiny().set_params(n_epoch=3)
