"""Hyper-parameters: defaults and presets of the specification, and every refusal."""

import pytest

from graftkit.methods.rcpmod.settings import PRESETS, Settings

# Section 1.10: hidden, latent, epochs, w_end, w_warm, T, M, refresh of q, R_w.
PUBLISHED = {
    "bdgp": ((1024,), 64, 130, 0.2, 0.01, 1000, 10, 1, 0.25),
    "scene15": ((1024, 1024), 64, 90, 0.4, 0.02, 400, 5, 5, 0.25),
    "landuse21": ((1024, 1024), 64, 115, 0.2, 0.02, 1000, 5, 5, 0.6),
    "fashion": ((1024,), 256, 400, 0.4, 0.05, 700, 10, 10, 0.5),
    "handwritten": ((1024, 1024), 64, 50, 0.2, 0.02, 1000, 5, 5, 0.7),
}
# The rows of that table that are the same in every column.
COMMON = {
    "batch_size": 256,
    "learning_rate": 1e-3,
    "n_neighbors": 6,
    "outlier_weight": 1.0,
    "neighbor_weight": 1.0,
    "memory_fraction": 0.05,
    "neighbor_refresh": 50,
    "impute_from": 50,
    "reshuffle": False,
    "temperature": 0.5,
    "scale": "global",
    "negative_rank": 50,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_are_the_published_configurations(name):
    settings = Settings(**PRESETS[name])
    assert (
        settings.hidden_layer_sizes,
        settings.latent_dim,
        settings.n_epochs,
        settings.spread_weight,
        settings.spread_warm,
        settings.spread_schedule,
        settings.memory_size,
        settings.negative_refresh,
        settings.recon_weight,
    ) == PUBLISHED[name]
    assert {key: getattr(settings, key) for key in COMMON} == COMMON


def test_no_preset_goes_untested():
    assert set(PRESETS) == set(PUBLISHED)


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("n_neighbors", 0, ValueError, ">= 1"),
        ("latent_dim", 2.5, TypeError, "an integer"),
        ("n_epochs", 0, ValueError, ">= 1"),
        ("batch_size", 1, ValueError, ">= 2"),
        ("learning_rate", 0, ValueError, "> 0"),
        ("learning_rate", float("nan"), ValueError, "finite"),
        ("temperature", -1, ValueError, "> 0"),
        ("outlier_weight", -0.1, ValueError, ">= 0"),
        ("neighbor_weight", float("inf"), ValueError, "finite"),
        ("alignment_ranks", 0, ValueError, ">= 1"),
        ("alignment_ranks", 1.5, TypeError, "an integer"),
        ("spread_weight", -1, ValueError, ">= 0"),
        ("spread_warm", "x", TypeError, "a finite number"),
        ("spread_schedule", 101, ValueError, ">= 102"),
        ("negative_rank", 0, ValueError, ">= 1"),
        ("memory_size", -1, ValueError, ">= 0"),
        ("memory_fraction", 0, ValueError, r"in \(0, 1\]"),
        ("memory_fraction", 1.1, ValueError, r"in \(0, 1\]"),
        ("recon_weight", -1, ValueError, ">= 0"),
        ("neighbor_refresh", 0, ValueError, ">= 1"),
        ("negative_refresh", 0, ValueError, ">= 1"),
        ("impute_from", -1, ValueError, ">= 0"),
        ("hidden_layer_sizes", (8, 0), ValueError, ">= 1"),
        ("hidden_layer_sizes", 8, TypeError, "a sequence of integers"),
        ("hidden_layer_sizes", "8", TypeError, "a sequence of integers"),
        ("scale", "row", ValueError, "one of 'feature', 'global', None"),
        ("pairing", "joint", ValueError, "'sequential', 'independent'"),
        ("reshuffle", 1, TypeError, "True or False"),
        ("n_reference", 0, ValueError, ">= 1"),
        ("n_reference", "all", TypeError, "an integer"),
        ("knn_backend", "annoy", ValueError, "'auto', 'sklearn', 'faiss'"),
        ("dtype", "float16", ValueError, "'float32', 'float64'"),
    ],
)
def test_bad_values_name_the_argument(name, value, error, words):
    with pytest.raises(error, match=rf"^{name}: expected .*{words}"):
        Settings(**{name: value})
