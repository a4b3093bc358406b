"""The loss against loops, value and gradient, and the identities of the specification."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from graftkit.methods.bilt import BiLTLoss, LabelTree
from graftkit.methods.bilt.level_losses import level_weights
from tests.plugins.bilt import reference
from tests.plugins.bilt.cases import SMALL, batch, even_tree, head_of

TREES = [SMALL, even_tree(2, (2, 3)), LabelTree.from_paths([("a",), ("b",), ("c",)])]


def pieces(tree, head, out, y):
    distances = [tree.distance(h + 1).tolist() for h in range(tree.num_levels)]
    weights = [cost.weight for cost in head.costs] or [None] * tree.num_levels
    targets = tree.ancestors[:, y].tolist()
    return list(out.level_logits), weights, distances, targets


@pytest.mark.parametrize("tree", TREES, ids=repr)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": 0.0, "epsilon": 0.3, "gamma": 2.0, "beta": 1.5},
        {"epsilon": 0.0, "alpha": 3.0},
        {"epsilon": 1.0, "gamma": 0.0, "beta": 0.0},
        {"aigdl": False},
    ],
    ids=str,
)
def test_value_and_gradients_against_loops(tree, options):
    settings = {"alpha": 1.0, "beta": 0.5, "epsilon": 0.5, "gamma": 1.0, "aigdl": True, **options}
    head = head_of(tree, beta=settings["beta"], aigdl=settings["aigdl"])
    criterion = BiLTLoss(tree, settings["alpha"], settings["epsilon"], settings["gamma"])
    x, y = batch(6, tree.num_classes)
    x.requires_grad_()
    wanted = [x, *head.parameters()]
    out = head(x)
    loss = criterion(out, y)
    expected = reference.loss(*pieces(tree, head, out, y), **settings)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    ours = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
    theirs = torch.autograd.grad(expected, wanted, allow_unused=True)
    for one, two in zip(ours, theirs, strict=True):
        two = torch.zeros_like(one) if two is None else two
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-10)


def test_a_case_by_hand():
    # Two classes, uniform logits: p = (1/2, 1/2), D = [[0,1],[1,0]], Delta off the diagonal 1, beta 0.5:
    # Dt = [[0,-1/2],[-1/2,0]], s = (-1/4, -1/4), so both terms are log 2 each, whatever epsilon is.
    tree = LabelTree.from_paths([("a",), ("b",)])
    head = head_of(tree, neck=None)
    nn.init.zeros_(head.classifiers[0].weight)
    nn.init.zeros_(head.classifiers[0].bias)
    nn.init.ones_(head.costs[0].weight)
    out = head(batch(4, 2)[0])
    torch.testing.assert_close(out.scores, torch.full((4, 2), -0.25, dtype=torch.float64))
    loss = BiLTLoss(tree)(out, torch.tensor([0, 1, 1, 0]))
    assert loss.item() == pytest.approx(2 * math.log(2), abs=1e-12)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_gamma_zero_is_label_smoothing_of_the_scores(epsilon):
    head = head_of(SMALL)
    x, y = batch(7, 5)
    out = head(x)
    criterion = BiLTLoss(SMALL, epsilon=epsilon, gamma=0.0)
    criterion(out, y)
    expected = nn.CrossEntropyLoss(label_smoothing=epsilon)(out.level_scores[-1], y)
    torch.testing.assert_close(
        criterion.last_components.difference[-1], expected.detach(), rtol=0, atol=1e-12
    )


def test_epsilon_zero_is_cross_entropy_of_the_scores():
    head = head_of(SMALL)
    x, y = batch(7, 5)
    out = head(x)
    criterion = BiLTLoss(SMALL, epsilon=0.0)
    criterion(out, y)
    for h in range(3):
        target = SMALL.ancestors[h][y]
        torch.testing.assert_close(criterion.last_components.difference[h],
                                   cross_entropy(out.level_scores[h], target).detach())  # fmt: skip
        torch.testing.assert_close(criterion.last_components.classification[h],
                                   cross_entropy(out.level_logits[h], target).detach())  # fmt: skip


def test_flat_without_aigdl_is_cross_entropy_with_its_gradient():
    tree = LabelTree.from_paths([("a",), ("b",), ("c",)])
    head = head_of(tree, neck=None, aigdl=False)
    x, y = batch(6, 3)
    loss = BiLTLoss(tree)(head(x), y)
    plain = cross_entropy(head.classifiers[0](x), y)
    torch.testing.assert_close(loss, plain, rtol=0, atol=1e-12)
    for one, two in zip(torch.autograd.grad(loss, list(head.parameters())),
                        torch.autograd.grad(plain, list(head.parameters())), strict=True):  # fmt: skip
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_the_finest_level_alone_takes_targets_of_a_deep_tree():
    head = head_of(SMALL, levels="finest", aigdl=False)
    x, y = batch(6, 5)
    out = head(x)
    torch.testing.assert_close(BiLTLoss(SMALL)(out, y), cross_entropy(out.scores, y))
    torch.testing.assert_close(BiLTLoss(SMALL)(out, SMALL.ancestors[:, y].T), cross_entropy(out.scores, y))


def test_without_correction_w_gets_no_gradient():
    head = head_of(SMALL, beta=0.0)
    x, y = batch(6, 5)
    BiLTLoss(SMALL)(head(x), y).backward()
    assert all(torch.equal(cost.weight.grad, torch.zeros_like(cost.weight)) for cost in head.costs)


def test_soft_labels_are_detached():
    """With the score path cut, W gets exactly nothing, though it shapes the targets."""
    head = head_of(SMALL)
    x, y = batch(6, 5)
    out = head(x)
    out = out._replace(level_scores=tuple(s.detach().requires_grad_() for s in out.level_scores))
    BiLTLoss(SMALL)(out, y).backward()
    assert all(cost.weight.grad is None for cost in head.costs)
    BiLTLoss(SMALL)(head(x), y).backward()
    assert all(cost.weight.grad.abs().max() > 0 for cost in head.costs)


def test_alpha_weighs_the_levels():
    assert level_weights(3, 0.0) == [1, 1, 1]
    assert level_weights(3, 1.0) == pytest.approx([math.exp(-2), math.exp(-1), 1])
    assert level_weights(3, 1.0, "equal") == [1, 1, 1]
    assert level_weights(3, 1.0, "uniform") == [1, 2, 3]
    assert level_weights(3, 1.0, "finest") == [0, 0, 1]
    assert level_weights(3, 1.0, [0.5, 0, 2]) == [0.5, 0, 2]


def test_a_large_alpha_leaves_the_finest_level_alone():
    head = head_of(SMALL)
    x, y = batch(6, 5)
    BiLTLoss(SMALL, alpha=60.0)(head(x), y).backward()
    assert head.classifiers[0].weight.grad.abs().max() < 1e-20
    finest = head_of(SMALL)
    BiLTLoss(SMALL, level_weights="finest")(finest(x), y).backward()
    torch.testing.assert_close(head.classifiers[-1].weight.grad, finest.classifiers[-1].weight.grad)
    assert torch.equal(finest.classifiers[0].weight.grad, torch.zeros_like(finest.classifiers[0].weight))


def test_levels_add_up_with_their_weights():
    head = head_of(SMALL)
    x, y = batch(6, 5)
    criterion = BiLTLoss(SMALL, level_weights=[0.5, 0.25, 2.0])
    loss = criterion(head(x), y)
    parts = sum(criterion.last_components)
    torch.testing.assert_close(loss.detach(), (parts * torch.tensor([0.5, 0.25, 2.0])).sum())
    assert not parts.requires_grad


def test_logits_may_be_smoothed_too():
    head = head_of(SMALL, aigdl=False)
    x, y = batch(6, 5)
    out = head(x)
    criterion = BiLTLoss(SMALL, epsilon=0.4, gamma=1.5, smooth_logits=True)
    criterion(out, y)
    for h in range(3):
        target = SMALL.ancestors[h][y]
        soft = 0.4 * (-1.5 * SMALL.distance(h + 1).double()).softmax(1)[target]
        soft = soft + 0.6 * nn.functional.one_hot(target, SMALL.sizes[h])
        expected = -(soft * out.level_logits[h].log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(criterion.last_components.classification[h], expected.detach())
    assert torch.equal(criterion.last_components.difference, torch.zeros(3, dtype=torch.float64))


def test_smoothing_without_the_matrix(monkeypatch):
    head = head_of(SMALL, aigdl=False)
    x, y = batch(6, 5)
    out = head(x)
    dense = BiLTLoss(SMALL, smooth_logits=True)(out, y)
    monkeypatch.setattr("graftkit.methods.bilt.loss.LARGEST_DENSE", 1)
    thin = BiLTLoss(SMALL, smooth_logits=True)
    assert not any(name.startswith("distance") for name, _ in thin.named_buffers())
    torch.testing.assert_close(thin(out, y), dense)


def test_batch_order_does_not_matter():
    head = head_of(SMALL).eval()
    x, y = batch(9, 5)
    order = torch.tensor([3, 1, 8, 0, 2, 7, 4, 6, 5])
    torch.testing.assert_close(BiLTLoss(SMALL)(head(x[order]), y[order]), BiLTLoss(SMALL)(head(x), y))


def test_permuted_classes_give_the_same_loss():
    order = [3, 0, 4, 2, 1]
    tree = SMALL.align([SMALL.names()[k] for k in order])
    place = torch.tensor([order.index(k) for k in range(5)])
    head = head_of(SMALL)
    x, y = batch(9, 5)
    out = head(x)
    moved = out._replace(
        scores=out.scores[:, order],
        level_logits=(*out.level_logits[:-1], out.level_logits[-1][:, order]),
        level_scores=(*out.level_scores[:-1], out.level_scores[-1][:, order]),
        level_cost=(*out.level_cost[:-1], out.level_cost[-1][order][:, order]),
    )
    torch.testing.assert_close(BiLTLoss(tree)(moved, place[y]), BiLTLoss(SMALL)(out, y), rtol=0, atol=1e-12)


def test_gradcheck_of_the_whole():
    tree = LabelTree.from_paths([("a", "x"), ("a", "y"), ("b", "z")])
    head = head_of(tree, in_features=3)
    x, y = batch(4, 3, in_features=3)
    names = [name for name, _ in head.named_parameters()]

    def whole(features, *values):
        out = torch.func.functional_call(head, dict(zip(names, values, strict=True)), (features,))
        return BiLTLoss(tree, epsilon=0.0)(out, y)

    assert torch.autograd.gradcheck(whole, (x.requires_grad_(), *(p.detach().clone().requires_grad_()
                                                                   for p in head.parameters())))  # fmt: skip


def test_low_rank_and_full_agree_in_the_loss(monkeypatch):
    """The same W as a product: hard, partial and mixed targets."""
    low = head_of(SMALL, rank=2)
    full = head_of(SMALL)
    full.load_state_dict({**{k: v for k, v in low.state_dict().items() if "costs" not in k},
                          **{f"costs.{h}.weight": (c.left @ c.right.T).detach()
                             for h, c in enumerate(low.costs)}})  # fmt: skip
    x, y = batch(6, 5)
    mixed = 0.7 * nn.functional.one_hot(y, 5).double() + 0.3 * nn.functional.one_hot(y.flip(0), 5)
    monkeypatch.setattr("graftkit.methods.bilt.level_losses.ROWS", 2)
    for target in (y, mixed):
        torch.testing.assert_close(BiLTLoss(SMALL)(low(x), target), BiLTLoss(SMALL)(full(x), target))


def test_the_floor_of_the_aigdl_term():
    """A perfect, certain prediction without correction costs log sum_j exp(-D[y, j])."""
    head = head_of(SMALL, levels="finest", beta=0.0)
    y = torch.arange(5)
    p = torch.eye(5, dtype=torch.float64)
    s, cost = head.costs[0](p)
    out = head(batch(5, 5)[0])._replace(scores=s, level_scores=(s,), level_cost=(cost,))
    criterion = BiLTLoss(SMALL, epsilon=0.0)
    criterion(out, y)
    floor = (-SMALL.distance().double()).logsumexp(1).mean()
    torch.testing.assert_close(criterion.last_components.difference[-1], floor)


@pytest.mark.data
def test_published_floor_of_inat(data_root):
    """2.70 nats on iNaturalist-2019 (specification section 1.7)."""
    tree = LabelTree.from_edges(data_root / "taxonomies" / "inaturalist19_isa.txt")
    assert float((-tree.distance()).logsumexp(1).mean()) == pytest.approx(2.70, abs=0.005)


def test_bf16_outputs_are_taken_in_float32():
    head = head_of(SMALL, dtype=torch.float32)
    x, y = batch(8, 5, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = BiLTLoss(SMALL)(head(x), y)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(BiLTLoss(SMALL)(head(x), y).item(), rel=0.05)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


def test_extreme_logits_are_finite():
    head = head_of(SMALL)
    out = head(batch(4, 5)[0])
    wild = tuple(
        torch.full_like(z, 1e4) * torch.tensor([(-1.0) ** k for k in range(z.shape[1])]) for z in out[1]
    )
    scores = tuple(cost(z.softmax(1))[0] for cost, z in zip(head.costs, wild, strict=True))
    loss = BiLTLoss(SMALL)(out._replace(scores=scores[-1], level_logits=wild, level_scores=scores),
                           torch.tensor([0, 1, 2, 3]))  # fmt: skip
    assert torch.isfinite(loss)


@pytest.mark.parametrize("options", [{}, {"epsilon": 0.0}, {"smooth_logits": True, "gamma": 2.0}], ids=str)
def test_finest_labels_and_a_label_a_level_give_one_loss(options):
    head, criterion = head_of(SMALL), BiLTLoss(SMALL, **options)
    x, y = batch(6, 5)
    found = []
    for target in (y, SMALL.ancestors[:, y].T):
        loss = criterion(head(x), target)
        found.append([loss, *criterion.last_components, *torch.autograd.grad(loss, list(head.parameters()))])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_without_aigdl_functional_transforms_go_through():
    """torch.func takes no function with a gradient of its own; without AIGDL there is none."""
    head, criterion = head_of(SMALL, aigdl=False).eval(), BiLTLoss(SMALL)
    x, y = batch(6, 5)
    found = torch.func.grad(lambda features: criterion(head(features), y))(x)
    x.requires_grad_()
    torch.testing.assert_close(found, torch.autograd.grad(criterion(head(x), y), x)[0])


@pytest.mark.parametrize("reentrant", [False, True])
def test_activations_may_be_recomputed_on_the_way_back(reentrant):
    head, criterion = head_of(SMALL).eval(), BiLTLoss(SMALL)
    x, y = batch(6, 5)
    x.requires_grad_()
    free = [x, *head.parameters()]
    expected = torch.autograd.grad(criterion(head(x), y), free)
    checkpoint(lambda features: criterion(head(features), y), x, use_reentrant=reentrant).backward()
    for one, two in zip(free, expected, strict=True):
        torch.testing.assert_close(one.grad, two)


def test_scores_may_be_masked_in_place_before_the_way_back():
    head, criterion = head_of(SMALL), BiLTLoss(SMALL)
    x, y = batch(6, 5)
    expected = torch.autograd.grad(criterion(head(x), y), list(head.parameters()))
    output = head(x)
    loss = criterion(output, y)
    for scores in output.level_scores:
        scores.detach()[:, 0] = -torch.inf
    for one, two in zip(torch.autograd.grad(loss, list(head.parameters())), expected, strict=True):
        assert torch.equal(one, two)
