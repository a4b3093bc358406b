"""Ranking of activations: planted answers, probes, arguments."""

import numpy as np
import pytest
import torch
from sklearn.tree import DecisionTreeClassifier

from graftkit.diffusers import (
    rank_activations,
)
from graftkit.diffusers.taps import denoiser_taps
from tests.adapters.diffusers.extraction_cases import make_pipe


@pytest.fixture
def pipe():
    return make_pipe()


def scenes(n=6, seed=0):
    """Left and right halves in random colours of two kinds; the label is the kind."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 2, (n, 2))
    labels = np.repeat(kinds[:, None, :], 16, 1).repeat(8, 2)
    images = np.where(labels[:, None] == 1, 0.8, 0.2) + 0.05 * rng.normal(size=(n, 3, 16, 16))
    return torch.tensor(images, dtype=torch.float32).clamp(0, 1), list(labels)


def test_ranking_finds_the_planted_activation(pipe):
    images, masks = scenes()
    blind = pipe.unet.mid_block.resnets[0]
    for parameter in blind.conv2.parameters():
        torch.nn.init.zeros_(parameter)  # its branch is zero everywhere and knows nothing
    masks[0][:3] = 255
    names = ["mid-repeat0-res-increment", "unet-after-conv-in", "up-level1-repeat1-res-out"]
    rows = rank_activations(pipe, images, masks, names, timesteps=[0, 900], cv=2, batch_size=4)
    assert len(rows) == 6
    assert rows == sorted(rows, key=lambda row: -row["miou"])
    best, worst = rows[0], rows[-1]
    assert best["timestep"] == 0
    assert best["miou"] > 0.8
    assert worst["miou"] < 0.55
    by_name = {(row["name"], row["timestep"]): row["miou"] for row in rows}
    assert by_name[names[0], 0] == by_name[names[0], 900]
    assert by_name[names[1], 0] > by_name[names[0], 0] + 0.3
    assert best["scores"] == pytest.approx(
        [best["miou"] - best["sd"] / 2**0.5, best["miou"] + best["sd"] / 2**0.5]
    ) or (
        best["scores"][::-1]
        == pytest.approx([best["miou"] - best["sd"] / 2**0.5, best["miou"] + best["sd"] / 2**0.5])
    )
    assert {(row["channels"], row["size"]) for row in rows} == {(8, (8, 8)), (8, (16, 16))}


def test_ranking_is_repeatable_and_takes_any_probe(pipe):
    images, masks = scenes()
    arguments = {"names": "unet-after-conv-in", "batch_size": 6, "pixels_per_image": 20}
    first = rank_activations(pipe, images, masks, **arguments)
    assert first == rank_activations(pipe, images, masks, **{**arguments, "batch_size": 6})
    tree = DecisionTreeClassifier(max_depth=2, random_state=0)
    for probe in ("logistic", tree):
        (row,) = rank_activations(pipe, images, masks, **arguments, probe=probe, cv=[([0, 1, 2], [3, 4, 5])])
        assert row["miou"] > 0.6
        assert row["sd"] is None
    assert not hasattr(tree, "tree_")


def test_ranking_of_the_generic_pool_by_default(pipe):
    images, masks = scenes(4)
    rows = rank_activations(pipe, images, masks, cv=2)
    assert {row["name"] for row in rows} == set(pipe.candidate_pool("generic"))
    assert {tap.name for tap in denoiser_taps(pipe.unet)} > {row["name"] for row in rows}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"masks": [np.zeros((4, 4), int)]}, ValueError, "one mask for each of 4 images"),
        ({"masks": [np.zeros((4, 4, 1), int)] * 4}, ValueError, "integer label maps"),
        ({"masks": [np.zeros((4, 4))] * 4}, ValueError, "integer label maps"),
        ({"masks": [np.full((4, 4), 255)] * 4}, ValueError, "no labelled pixel"),
        ({"probe": "svm"}, ValueError, "'ridge', 'logistic' or an estimator"),
        ({"probe": 3}, TypeError, "'ridge', 'logistic' or an estimator"),
        ({"cv": 1}, ValueError, "cv: expected an integer >= 2"),
        ({"cv": 5}, ValueError, "at most 4 folds for 4 images, got 5"),
        ({"cv": [([0, 1], [1])]}, ValueError, "without overlap"),
        ({"cv": [([0], [4])]}, ValueError, r"splits of images 0\.\.3"),
        ({"cv": []}, ValueError, "at least one split"),
        ({"generator": 3}, ValueError, "this one is set here"),
        ({"random_state": -1}, ValueError, "random_state: expected"),
    ],
)
def test_ranking_arguments_are_checked(pipe, change, error, words):
    images, masks = scenes(4)
    with pytest.raises(error, match=words):
        rank_activations(pipe, images, **{"masks": masks, "names": "unet-after-conv-in", **change})
