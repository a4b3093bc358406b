"""Every setting is checked, with its name and its range in the message."""

import pytest

from graftkit.methods.dpcml import PRESETS, Settings


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n_vectors": 0}, ValueError, "n_vectors.*>= 1"),
        ({"n_components": 0}, ValueError, "n_components.*>= 1"),
        ({"n_negatives": 0}, ValueError, "n_negatives.*>= 1"),
        ({"batch_size": 0}, ValueError, "batch_size.*>= 1"),
        ({"max_iter": 0}, ValueError, "max_iter.*>= 1"),
        ({"n_vectors": 2.0}, TypeError, "n_vectors: expected an integer"),
        ({"beta": 0.0}, ValueError, r"beta.*\(0, 1\]"),
        ({"beta": 1.1}, ValueError, r"beta.*\(0, 1\]"),
        ({"margin": 0.0}, ValueError, "margin.*> 0"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate.*> 0"),
        ({"max_norm": 0.0}, ValueError, "max_norm.*> 0"),
        ({"dcrs_weight": -1.0}, ValueError, "dcrs_weight.*>= 0"),
        ({"weight_decay": float("nan")}, ValueError, "weight_decay.*>= 0, got nan"),
        ({"delta_min": 0.6, "delta_max": 0.5}, ValueError, "delta_min.*delta_max, which is 0.5"),
        (
            {"sampling": "hrad"},
            ValueError,
            "sampling: expected one of 'hard', 'uniform', 'dihars', 'popular'.*'hard'",
        ),
        ({"assignment": "cpa"}, ValueError, "assignment: expected one of 'bpa', 'apa'"),
        ({"dcrs": "code"}, ValueError, "dcrs: expected one of 'pairwise', 'mean', None"),
        ({"dcrs_scale": "x"}, ValueError, "dcrs_scale: expected one of 'paper', 'code', 'full'"),
        ({"dihars_mode": "x"}, ValueError, "dihars_mode: expected one of 'topk', 'threshold'"),
        ({"optimizer": "sgd"}, ValueError, "optimizer: expected one of 'lazy_adam', 'adam', 'adagrad'"),
        ({"init": "x"}, ValueError, "init"),
        ({"user_norm": "x"}, ValueError, "user_norm"),
        ({"item_norm": "x"}, ValueError, "item_norm"),
        ({"dtype": "float16"}, ValueError, "dtype"),
        ({"device": 0}, TypeError, "device"),
    ],
)
def test_bad_settings(options, error, words):
    with pytest.raises(error, match=words):
        Settings(**options)


def test_presets_are_the_published_settings():
    built = {name: Settings(**options) for name, options in PRESETS.items()}
    assert set(built) == {"unis", "hars", "dpcml1", "dpcml2"}
    for name, settings in built.items():
        assert (settings.optimizer, settings.learning_rate, settings.batch_size) == ("adam", 1e-3, 256)
        assert (settings.n_components, settings.margin, settings.init) == (100, 1.0, "random")
        # 100 epochs of 10 candidates: ten passes an epoch with one candidate each, where each is a triplet.
        assert settings.n_negatives * settings.max_iter == 1000
        assert settings.n_vectors == (5 if name.startswith("dpcml") else 1)
        assert settings.sampling == ("hard" if name in ("hars", "dpcml2") else "uniform")
    assert (built["dpcml1"].delta_min, built["dpcml1"].delta_max) == (0.1, 0.35)
    assert (built["dpcml2"].delta_min, built["dpcml2"].delta_max) == (0.05, 0.25)
    assert built["dpcml2"].dcrs_weight == 10
    assert built["hars"].dcrs is None
