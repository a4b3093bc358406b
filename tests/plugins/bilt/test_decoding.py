"""Predictions: each way of decoding, each source, thresholds."""

import pytest
import torch

from graftkit.methods.bilt import HierarchicalOutput, decode, level_probabilities
from tests.plugins.bilt import reference
from tests.plugins.bilt.cases import SMALL, batch, even_tree, head_of

WAYS = [(source, how) for source in ("risk", "prob", "crm") for how in ("head", "rollup", "path")]


@pytest.fixture(scope="module")
def case():
    tree = even_tree(0)
    return tree, head_of(tree).eval()(batch(60, tree.num_classes)[0])


def values(out, tree, source):
    if source == "risk":
        return out.level_scores
    if source == "prob":
        return out.level_logits
    return [-(z.softmax(1) @ tree.distance(h + 1).double().T) for h, z in enumerate(out.level_logits)]


@pytest.mark.parametrize(("source", "how"), WAYS)
def test_against_loops(case, source, how):
    tree, out = case
    scores = values(out, tree, source)
    got = decode(out, tree, level="all", source=source, decode=how)
    assert got.shape == (60, tree.num_levels)
    for i in range(60):
        if how == "head":
            expected = [int(s[i].argmax()) for s in scores]
        else:
            total = [
                sum(
                    scores[h][i].log_softmax(0)[tree.ancestors[h, leaf]].item()
                    for h in range(tree.num_levels)
                )
                for leaf in range(tree.num_classes)
            ]
            leaf = total.index(max(total)) if how == "path" else int(scores[-1][i].argmax())
            expected = tree.ancestors[:, leaf].tolist()
        assert got[i].tolist() == expected
    for h in range(1, tree.num_levels + 1):
        single = decode(out, tree, level=h, source=source, decode=how)
        assert torch.equal(single, got[:, h - 1])


@pytest.mark.parametrize("how", ["rollup", "path"])
def test_consistent_ways_give_paths(case, how):
    tree, out = case
    assert tree.is_path(decode(out, tree, level="all", decode=how)).all()


def test_heads_may_contradict_each_other(case):
    tree, out = case
    assert not tree.is_path(decode(out, tree, level="all", decode="head")).all()


def test_probabilities_of_a_level_are_sums_of_the_finest():
    out = head_of(SMALL).eval()(batch(4, 5)[0])
    p = out.level_logits[-1].softmax(1)
    torch.testing.assert_close(
        level_probabilities(out, SMALL, 1), torch.stack([p[:, :3].sum(1), p[:, 3:].sum(1)], 1)
    )
    torch.testing.assert_close(level_probabilities(out, SMALL), p)


def test_a_threshold_stops_at_a_confident_ancestor():
    # p = cat 0.3, dog 0.3, wolf 0.3, car 0.1: "pet" has 0.6, "animal" 0.9.
    z = torch.tensor([[0.3, 0.3, 0.3, 0.1, 1e-9]]).log()
    out = HierarchicalOutput(z, (z,), (z,), ())

    def stop(t):
        return decode(out, SMALL, level="all", source="prob", decode="rollup", threshold=t).tolist()

    assert stop(0.2) == [[0, 0, 0]]
    assert stop(0.5) == [[0, 0, -1]]
    assert stop(0.8) == [[0, -1, -1]]
    assert stop(0.95) == [[-1, -1, -1]]


def test_a_threshold_on_heads_asks_each_head():
    z = [torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.1]]), torch.tensor([[9.0, 0, 0, 0, 0]])]
    out = HierarchicalOutput(z[-1], tuple(z), tuple(z), ())
    assert decode(out, SMALL, level="all", threshold=0.5).tolist() == [[0, -1, 0]]
    assert decode(out, SMALL, level=2, threshold=0.5).tolist() == [-1]


def test_a_model_with_one_head_rolls_up():
    out = head_of(SMALL, levels="finest").eval()(batch(9, 5)[0])
    finest = decode(out, SMALL)
    assert torch.equal(finest, out.scores.argmax(1))
    assert torch.equal(decode(out, SMALL, level=1, decode="rollup"), SMALL.ancestors[0][finest])
    with pytest.raises(ValueError, match=r"level: expected 3, the one level that has a head, got 1.*rollup"):
        decode(out, SMALL, level=1)


def test_crm_and_risk_are_one_without_correction():
    out = head_of(SMALL, beta=0.0).eval()(batch(40, 5)[0])
    assert torch.equal(decode(out, SMALL, source="risk"), decode(out, SMALL, source="crm"))
    expected = reference.crm(out.level_logits[-1].softmax(1).detach(), SMALL.distance().tolist())
    assert decode(out, SMALL, source="crm").tolist() == expected


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"source": "logits"}, ValueError, r"source: expected one of 'risk', 'prob', 'crm'"),
        ({"decode": "paths"}, ValueError, r"decode: .*Did you mean 'path'"),
        ({"level": 4}, ValueError, r"level: expected an integer in \[-3, 3\]"),
        ({"level": "every"}, ValueError, r"level: expected one of 'all'"),
        ({"threshold": 1.5}, ValueError, r"threshold: expected a finite number in \[0, 1\]"),
        ({"threshold": "high"}, TypeError, r"threshold"),
    ],
)
def test_options(change, error, message):
    out = head_of(SMALL).eval()(batch(2, 5)[0])
    with pytest.raises(error, match=message):
        decode(out, SMALL, **change)
