"""Detector scores, the encoder and the metrics against loops."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from graftkit.methods.hgoe.metrics import ood_metrics
from graftkit.methods.hgoe.networks import GINEncoder, build
from graftkit.methods.hgoe.scores import energy, graph_contrast, node_contrast, sphere_distance
from tests.plugins.hgoe import reference
from tests.plugins.hgoe.cases import generator


def rand(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def test_energy_and_distance_by_hand():
    logits = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64)
    assert energy(logits).item() == pytest.approx(-math.log(4))  # log(1 + 3)
    assert energy(2 * logits, 2.0).item() == pytest.approx(-2 * math.log(4))
    z = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    assert sphere_distance(z, torch.tensor([1.0, 0.0])).tolist() == [4.0, 1.0]


def test_graph_contrast_equals_loops():
    a, b = rand(6, 3), rand(6, 3, seed=1)
    expected = reference.graph_contrast(a.numpy(), b.numpy(), 0.2)
    assert graph_contrast(a, b, 0.2).tolist() == pytest.approx(expected, rel=1e-10)
    a.requires_grad_()
    assert gradcheck(lambda v: graph_contrast(v, b, 0.5), a)


def test_contrast_is_zero_where_own_view_is_like_all_others_together():
    """Two graphs, all four embeddings equal: own similarity equals that of the one other graph."""
    same = torch.ones(2, 3)
    assert graph_contrast(same, same).tolist() == [0, 0]


def test_contrast_of_one_graph_has_no_negatives():
    one = rand(1, 3).requires_grad_()
    score = graph_contrast(one, one)
    assert score.tolist() == [0]
    score.sum().backward()
    assert not one.grad.any()


def test_node_contrast_is_the_graph_contrast_of_each_graphs_nodes():
    a, b = rand(9, 4), rand(9, 4, seed=1)
    batch = torch.tensor([0, 0, 0, 0, 1, 3, 3, 3, 3])  # a graph of one node, and one of none
    got = node_contrast(a, b, batch, 5, 0.2)
    first = np.mean(reference.graph_contrast(a[:4].numpy(), b[:4].numpy(), 0.2))
    last = np.mean(reference.graph_contrast(a[5:].numpy(), b[5:].numpy(), 0.2))
    assert got.tolist() == pytest.approx([first, 0, 0, last, 0], rel=1e-9)
    a.requires_grad_()
    assert gradcheck(lambda v: node_contrast(v, b, batch, 5, 0.5), a)


@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_encoder_equals_loops(pooling):
    encoder = GINEncoder(3, hidden=4, layers=2, pooling=pooling, norm=None).double()
    x = rand(5, 3)
    edges = torch.tensor([[0, 1, 1, 2, 3], [1, 0, 2, 1, 2]])
    batch = torch.tensor([0, 0, 0, 0, 1])
    graph, node = encoder(x, edges, batch, 3)
    h, outputs = x.numpy(), []
    for step in encoder.steps:
        weights = [p.detach().numpy() for p in (step[0].weight, step[0].bias, step[2].weight, step[2].bias)]
        h = reference.gin_layer(h, edges.T.tolist(), *weights)
        outputs.append(h)
    expected = np.concatenate(outputs, 1)
    np.testing.assert_allclose(node.detach().numpy(), expected, atol=1e-12)
    pooled = expected[:4].mean(0) if pooling == "mean" else expected[:4].sum(0)
    np.testing.assert_allclose(graph[0].detach().numpy(), pooled, atol=1e-12)
    assert not graph[2].any()
    assert graph.shape[1] == encoder.out_channels == 8


def test_a_one_class_encoder_has_no_bias_anywhere():
    assert [n for n, _ in GINEncoder(3, bias=False).named_parameters() if "bias" in n] == []
    encoder = GINEncoder(3, bias=False, norm=None)
    graph, _ = encoder(torch.zeros(2, 3), torch.empty(2, 0).long(), torch.tensor([0, 0]), 1)
    assert not graph.any()


def test_build_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    a, b, c = (build(lambda: torch.nn.Linear(2, 2), seed).weight.tolist() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert a == b != c


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((0,), ValueError, "in_channels: expected an integer >= 1"),
        ((3, 0), ValueError, "hidden: expected an integer >= 1"),
        ((3, 4, 0), ValueError, "layers: expected an integer >= 1"),
        ((3, 4, 2, "max"), ValueError, "pooling: expected one of 'mean', 'sum'"),
        ((3, 4, 2, "sum", "layer"), ValueError, "norm: expected one of 'inner', 'outer', None"),
    ],
)
def test_encoder_errors(arguments, error, words):
    with pytest.raises(error, match=words):
        GINEncoder(*arguments)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40))
def test_metrics_equal_loops(rows):
    truth, scores = [int(t) for t, _ in rows], [s / 4 for _, s in rows]
    if len(set(truth)) < 2:
        return
    got = ood_metrics(truth, scores)
    assert got["AUROC"] == pytest.approx(reference.auroc(truth, scores))
    assert got["AUPR"] == pytest.approx(reference.average_precision(truth, scores))
    assert got["FPR95"] == pytest.approx(reference.fpr95(truth, scores))


def test_metrics_at_their_ends():
    assert ood_metrics([0, 0, 1], [0, 1, 2]) == {"AUROC": 1, "AUPR": 1, "FPR95": 0}
    assert ood_metrics([1, 0, 0], [0, 1, 2])["AUROC"] == 0
    assert ood_metrics([1, 0, 1, 0], [3, 3, 3, 3]) == {"AUROC": 0.5, "AUPR": 0.5, "FPR95": 1}
    # 20 OOD scores 1..20; 19 of them (0.95) are reached at score 2; ID scores 1.5, 2.5, 3.5: two above
    truth, scores = [1] * 20 + [0] * 3, [*range(1, 21), 1.5, 2.5, 3.5]
    assert ood_metrics(truth, scores)["FPR95"] == pytest.approx(2 / 3)
    assert ood_metrics(torch.tensor([True, False]), torch.tensor([1.0, 0.0]))["AUROC"] == 1


@pytest.mark.parametrize(
    ("truth", "scores", "words"),
    [
        ([1, 1], [0, 1], "is_ood: expected both ID and OOD graphs"),
        ([0, 0], [0, 1], "is_ood: expected both ID and OOD graphs"),
        ([0, -1], [0, 1], r"is_ood: expected 0 \(ID\) or 1 \(OOD\), got .*-1.*Pass y < 0"),
        ([0, 1], [0, math.nan], "finite scores at position 1, got nan"),
        ([0, 1, 1], [0, 1], r"scores: expected a vector as long as is_ood, shape \(3,\)"),
        ([], [], "both ID and OOD"),
    ],
)
def test_metric_errors(truth, scores, words):
    with pytest.raises(ValueError, match=words):
        ood_metrics(truth, scores)


def test_metrics_leave_random_alone():
    state = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002  (the state that must not move)
    ood_metrics([0, 1], [0, 1])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state  # noqa: NPY002
