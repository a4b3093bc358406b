"""The one-vs-one AUC of pixels against all pairs, and against scikit-learn."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from graftkit.methods.aucseg import one_vs_one_auc
from tests.plugins.aucseg import reference as ref


@pytest.mark.parametrize("seed", range(20))
def test_equals_every_pair(seed):
    rng = torch.Generator().manual_seed(seed)
    classes = 2 + seed % 4
    scores = torch.randint(0, 5, (40, classes), generator=rng).double()  # many ties
    labels = torch.randint(0, classes, (40,), generator=rng)
    assert one_vs_one_auc(scores, labels) == pytest.approx(ref.pairwise_auc(scores, labels), abs=1e-12)


def test_two_classes_of_opposite_scores_are_the_usual_auc():
    rng = torch.Generator().manual_seed(0)
    score, labels = torch.randn(100, generator=rng), torch.randint(0, 2, (100,), generator=rng)
    usual = roc_auc_score(labels.numpy(), score.numpy())
    assert one_vs_one_auc(torch.stack((-score, score), 1), labels) == pytest.approx(usual, abs=1e-12)


def test_monotone_maps_and_perfection():
    rng = torch.Generator().manual_seed(1)
    scores, labels = torch.randn(60, 4, generator=rng).double(), torch.arange(60) % 3
    assert one_vs_one_auc(scores, labels) == one_vs_one_auc(scores.exp(), labels)
    perfect = torch.nn.functional.one_hot(labels, 4).double()
    assert one_vs_one_auc(perfect, labels) == 1
    assert one_vs_one_auc(-perfect, labels) == 0


def test_tail_only_ranks_by_its_own_maps():
    labels = torch.tensor([0, 0, 1, 1])
    scores = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert one_vs_one_auc(scores, labels) == 0.75
    assert one_vs_one_auc(scores, labels, classes=[1]) == 1
    assert one_vs_one_auc(scores, labels, classes=[0, 5]) == 0.5  # an absent class is left out


def test_fewer_than_two_classes():
    assert math.isnan(one_vs_one_auc(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)))
    assert math.isnan(one_vs_one_auc(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)))


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        (torch.zeros(3, 2), torch.zeros(2).long(), "scores"),
        (torch.full((2, 2), float("nan")), torch.tensor([0, 1]), "NaN"),
        (torch.zeros(2, 2), torch.tensor([0, 2]), "labels"),
    ],
)
def test_bad_inputs(scores, labels, words):
    with pytest.raises(ValueError, match=words):
        one_vs_one_auc(scores, labels)


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        ([[0.0, 1.0]], torch.tensor([0]), "scores"),
        (torch.zeros(1, 2), [0], "labels"),
        (torch.zeros(2, 2), torch.tensor([0.0, 0.5]), "labels.*integer"),
    ],
)
def test_bad_types(scores, labels, words):
    with pytest.raises(TypeError, match=words):
        one_vs_one_auc(scores, labels)
