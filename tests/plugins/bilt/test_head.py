"""The head: chain, parallel heads, switches, shapes, errors."""

import pytest
import torch
from torch import nn

from graftkit.methods.bilt import HierarchicalHead, HierarchicalOutput, LabelTree
from graftkit.methods.bilt.cost import FactoredCost
from tests.plugins.bilt.cases import SMALL, batch, even_tree, head_of


def test_the_chain_reads_raw_logits_of_the_next_finer_level():
    head = head_of(SMALL).eval()
    x, _ = batch(4, 5)
    out = head(x)
    bn1, fc1, bn2, act = head.neck
    z = head.classifiers[2](act(bn2(fc1(bn1(x)))))
    torch.testing.assert_close(out.level_logits[2], z)
    for h in (1, 0):
        bn1, fc, bn2, act = head.links[h]
        assert (fc.in_features, fc.out_features) == (SMALL.sizes[h + 1], SMALL.sizes[h])
        assert isinstance(act, nn.ELU)
        z = head.classifiers[h](act(bn2(fc(bn1(z)))))
        torch.testing.assert_close(out.level_logits[h], z)
    for h, (z, s, cost) in enumerate(zip(*out[1:], strict=True)):
        torch.testing.assert_close(s, z.softmax(1) @ cost.T)
        assert cost.shape == (SMALL.sizes[h],) * 2
    assert out.scores is out.level_scores[-1]
    assert isinstance(out, HierarchicalOutput)


def test_coarse_gradients_reach_the_finest_classifier_through_the_chain():
    x, _ = batch(6, 5)
    chained, parallel = head_of(SMALL), head_of(SMALL, chain=False)
    for head, reached in ((chained, True), (parallel, False)):
        head(x).level_logits[0].square().sum().backward()
        gradient = head.classifiers[-1].weight.grad
        assert (gradient is not None and bool(gradient.abs().max() > 0)) is reached


def test_a_stop_in_the_chain_would_be_seen():
    """The same question with the logits detached on the way, as a check of the test above."""
    head = head_of(SMALL)
    head.links[1].register_forward_pre_hook(lambda _, args: (args[0].detach(),))
    head(batch(6, 5)[0]).level_logits[0].square().sum().backward()
    assert head.classifiers[-1].weight.grad is None


def test_parallel_heads_see_the_features():
    head = head_of(SMALL, chain=False, neck=None).eval()
    x, _ = batch(4, 5)
    for z, classifier in zip(head(x).level_logits, head.classifiers, strict=True):
        torch.testing.assert_close(z, classifier(x))
    assert len(head.links) == 0


def test_finest_alone_and_without_aigdl():
    x, _ = batch(4, 5)
    flat = head_of(SMALL, levels="finest", aigdl=False, neck=None).eval()(x)
    assert flat.scores is flat.level_logits[0] is flat.level_scores[0]
    assert (len(flat.level_logits), flat.level_cost) == (1, ())
    alone = head_of(SMALL, levels="finest").eval()(x)
    assert [s.shape for s in alone.level_scores] == [(4, 5)]
    torch.testing.assert_close(alone.scores, alone.level_logits[0].softmax(1) @ alone.level_cost[0].T)
    plain = head_of(SMALL, aigdl=False).eval()(x)
    assert plain.scores is plain.level_logits[-1]
    assert len(plain.level_logits) == 3


def test_activation_and_neck_are_arguments():
    head = HierarchicalHead(5, SMALL, neck=None, activation="leaky_relu")
    assert isinstance(head.neck, nn.Identity)
    assert head.links[0][-1].negative_slope == 0.1
    assert HierarchicalHead(5, SMALL).neck[1].out_features == 600


def test_a_row_does_not_depend_on_the_others_in_evaluation():
    head = head_of(even_tree()).eval()
    x, _ = batch(7, 3)
    whole = head(x)
    for k in range(7):
        single = head(x[k : k + 1])
        torch.testing.assert_close(single.scores[0], whole.scores[k], rtol=0, atol=1e-12)
        torch.testing.assert_close(single.level_scores[0][0], whole.level_scores[0][k], rtol=0, atol=1e-12)
    assert head(x[:0]).scores.shape == (0, head.num_classes)


def test_permuted_classes_give_permuted_outputs():
    order = [3, 0, 4, 2, 1]
    tree = SMALL.align([SMALL.names()[k] for k in order])
    one, two = head_of(SMALL), head_of(tree)
    state = one.state_dict()
    permuted = dict(state, _extra_state=two.get_extra_state())
    for key, value in state.items():
        if key.startswith(("classifiers.2", "links.1.0")) and value.ndim:
            permuted[key] = value[order]
    permuted["links.1.1.weight"] = state["links.1.1.weight"][:, order]
    permuted["costs.2.weight"] = state["costs.2.weight"][order][:, order]
    two.load_state_dict(permuted)
    x, _ = batch(6, 5)
    a, b = one(x), two(x)
    torch.testing.assert_close(b.scores, a.scores[:, order], rtol=0, atol=1e-12)
    torch.testing.assert_close(b.level_scores[0], a.level_scores[0], rtol=0, atol=1e-12)


def test_one_sample_in_training_is_refused_where_there_is_batch_norm():
    x, _ = batch(1, 5)
    with pytest.raises(ValueError, match=r"2 samples or more in training, for batch norm.*drop_last=True"):
        head_of(SMALL)(x)
    assert head_of(SMALL, neck=None, levels="finest")(x).scores.shape == (1, 5)
    assert head_of(SMALL).eval()(x).scores.shape == (1, 5)


@pytest.mark.parametrize("tree", [LabelTree.from_paths([("a",), ("b",), ("c",)]),
                                  LabelTree.from_paths([("all", "a"), ("all", "b")]),
                                  LabelTree.from_paths([("only", "one")])], ids=repr)  # fmt: skip
def test_narrow_trees_are_finite(tree):
    head = head_of(tree)
    x, y = batch(4, tree.num_classes)
    out = head(x)
    out.scores.gather(1, y[:, None]).sum().backward()
    assert all(torch.isfinite(s).all() for s in out.level_scores)
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_above_the_limit_there_is_no_matrix(monkeypatch):
    monkeypatch.setattr("graftkit.methods.bilt.head.LARGEST_DENSE", 4)
    head = head_of(SMALL)
    out = head(batch(3, 5)[0])
    assert [isinstance(cost, FactoredCost) for cost in out.level_cost] == [False, False, True]
    assert max(p.numel() for p in head.costs[2].parameters()) == 5 * 8
    assert head_of(SMALL, rank=2).costs[0].left.shape == (2, 2)


def test_scores_are_at_least_float32_and_follow_float64():
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        head = head_of(SMALL, dtype=dtype).eval()
        out = head(batch(3, 5, dtype=dtype)[0])
        assert out.scores.dtype == torch.promote_types(dtype, torch.float32)


def test_huge_logits_under_autocast_stay_finite_and_agree():
    head = head_of(SMALL, dtype=torch.float32).eval()
    x, _ = batch(200, 5, dtype=torch.float32)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        low = head(x)
    assert low.scores.dtype == torch.float32
    same = (low.scores.argmax(1) == head(x).scores.argmax(1)).float().mean()
    assert same >= 0.99
    z = torch.tensor([[1e4, -1e4, 0.0, 1e4, -1e4]])
    assert torch.isfinite(head.costs[-1](z.softmax(1))[0]).all()


def test_weight_decay_leaves_the_corrections_alone():
    head = HierarchicalHead(5, SMALL)
    assert head.no_weight_decay() == {"costs.0.weight", "costs.1.weight", "costs.2.weight"}
    assert "tree=LabelTree(levels=3, classes=2/3/5), beta=0.5" in repr(head)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"beta": -0.1}, ValueError, r"beta: expected a finite number >= 0, got -0.1"),
        ({"beta": float("nan")}, ValueError, r"beta: expected a finite number"),
        ({"beta": "0.5"}, TypeError, r"beta"),
        ({"neck": 0}, ValueError, r"neck: expected an integer >= 1"),
        ({"in_features": 0}, ValueError, r"in_features"),
        ({"in_features": 2.5}, TypeError, r"in_features"),
        ({"chain": 1}, TypeError, r"chain: expected True or False"),
        ({"aigdl": None}, TypeError, r"aigdl"),
        ({"levels": "fine"}, ValueError, r"levels: expected one of 'all', 'finest'.*Did you mean 'finest'"),
        ({"activation": "relu"}, ValueError, r"activation: expected one of 'elu', 'leaky_relu'"),
        ({"compat": "official"}, ValueError, r"compat"),
        ({"rank": 0}, ValueError, r"rank"),
        ({"detach_delta_prob": "no"}, TypeError, r"detach_delta_prob"),
        ({"tree": [("a",)]}, TypeError, r"tree: expected a LabelTree, got"),
    ],
)
def test_arguments(change, error, message):
    arguments = {"in_features": 5, "tree": SMALL, **change}
    with pytest.raises(error, match=message):
        HierarchicalHead(arguments.pop("in_features"), arguments.pop("tree"), **arguments)


def test_features_of_another_width():
    with pytest.raises(ValueError, match=r"features: expected shape \(B, 5\), got Tensor of shape \(2, 6\)"):
        head_of(SMALL)(torch.zeros(2, 6, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"features: expected shape \(B, 5\)"):
        head_of(SMALL)(torch.zeros(2, 5, 7, 7, dtype=torch.float64))


@pytest.mark.parametrize("rank", [None, 2])
def test_everything_lies_where_torch_puts_new_tensors(rank):
    with torch.device("meta"):  # stands for a GPU
        head = HierarchicalHead(5, SMALL, neck=4, rank=rank)
    assert {t.device.type for t in (*head.parameters(), *head.buffers())} == {"meta"}
