"""Delta, corrected distances and risk scores against loops, and their properties."""

import pytest
import torch

from graftkit.methods.bilt import LabelTree, crm_scores
from graftkit.methods.bilt.cost import FullCost, LowRankCost, corrected_cost, cost_rows, difference
from graftkit.methods.bilt.distances import distance_rows, expected_distance, lca_distance
from tests.plugins.bilt import reference
from tests.plugins.bilt.cases import SMALL, even_tree, generator

TREES = [
    SMALL,
    even_tree(0),
    even_tree(1),
    LabelTree.from_paths([("a",), ("b",)]),
    LabelTree.from_paths([("a",)]),
]


def weight_of(n, seed=0):
    return torch.randn(n, n, generator=generator(seed), dtype=torch.float64)


def probabilities(b, n, seed=1):
    return torch.randn(b, n, generator=generator(seed), dtype=torch.float64).softmax(1)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_delta_against_loops(n):
    w = weight_of(n)
    torch.testing.assert_close(difference(w), reference.delta(w), rtol=0, atol=1e-12)
    assert torch.equal(difference(w).diagonal(), torch.zeros(n, dtype=torch.float64))
    if n > 1:
        torch.testing.assert_close(difference(w).norm(dim=1), torch.ones(n, dtype=torch.float64))
    if n == 2:
        torch.testing.assert_close(difference(w).abs(), 1 - torch.eye(2, dtype=torch.float64))


def test_delta_by_hand():
    # Row (., 3, 4): norm 5.
    w = torch.tensor([[9.0, 3.0, 4.0], [1.0, 9.0, 0.0], [0.0, -2.0, 9.0]])
    assert torch.allclose(difference(w), torch.tensor([[0, 0.6, 0.8], [1, 0, 0], [0, -1, 0]]))


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_the_fused_matrix_equals_the_plain_one_with_its_gradient(n):
    d = lca_distance(torch.stack([torch.zeros(n, dtype=torch.int64), torch.arange(n)])).double()
    plain, fused = (weight_of(n).requires_grad_() for _ in range(2))
    g = weight_of(n, 3)
    one, two = 0.7 * difference(plain) - d, corrected_cost(fused, d, 0.7)
    torch.testing.assert_close(two, one, rtol=0, atol=1e-13)
    with torch.no_grad():  # made in one tensor
        torch.testing.assert_close(corrected_cost(fused, d, 0.7), one, rtol=0, atol=1e-13)
    one.backward(g)
    two.backward(g)
    torch.testing.assert_close(fused.grad, plain.grad, rtol=0, atol=1e-13)
    assert torch.equal(fused.grad.diagonal(), torch.zeros(n, dtype=torch.float64))


def test_gradcheck():
    d = SMALL.distance().double()
    assert torch.autograd.gradcheck(lambda w: corrected_cost(w, d, 0.5), weight_of(5).requires_grad_())


def test_scale_of_a_row_does_not_matter_and_a_sign_flips_it():
    w = weight_of(6)
    factors = torch.tensor([1.0, 2.0, 1e-3, 1e3, 7.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(difference(w * factors[:, None]), difference(w), rtol=0, atol=1e-12)
    torch.testing.assert_close(difference(-w), -difference(w), rtol=0, atol=0)
    d = torch.zeros(6, 6, dtype=torch.float64)
    torch.testing.assert_close(
        corrected_cost(w * factors[:, None], d, 0.5), corrected_cost(w, d, 0.5), rtol=0, atol=1e-12
    )


def test_a_row_of_zeros_stays_finite():
    w = torch.zeros(3, 3, requires_grad=True)
    cost = corrected_cost(w, torch.ones(3, 3), 0.5)
    cost.sum().backward()
    assert torch.equal(cost, -torch.ones(3, 3))
    assert torch.equal(w.grad, torch.zeros(3, 3))


@pytest.mark.parametrize("tree", TREES, ids=repr)
@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
def test_scores_against_three_loops(tree, beta):
    cost = FullCost(tree.lineage(-1), beta).double()
    w = weight_of(tree.num_classes)
    cost.weight.data.copy_(w)
    p = probabilities(4, tree.num_classes)
    s, matrix = cost(p)
    torch.testing.assert_close(s, reference.scores(p, w, tree.distance().tolist(), beta), rtol=0, atol=1e-10)
    torch.testing.assert_close(p @ matrix.T, s, rtol=0, atol=1e-12)
    torch.testing.assert_close(cost_rows(matrix, torch.tensor([0])), matrix[:1].detach(), rtol=0, atol=0)


@pytest.mark.parametrize("tree", TREES, ids=repr)
def test_the_tree_gives_the_same_expected_distance_as_the_matrix(tree):
    p = probabilities(5, tree.num_classes)
    dense = p @ tree.distance().double().T
    torch.testing.assert_close(expected_distance(p, tree.ancestors, tree.sizes), dense, rtol=0, atol=1e-10)
    rows = torch.randint(0, tree.num_classes, (7,), generator=generator(2))
    assert torch.equal(distance_rows(tree.ancestors, rows), tree.distance()[rows])


@pytest.mark.parametrize("tree", TREES, ids=repr)
def test_without_correction_the_decision_is_crm(tree):
    z = torch.randn(50, tree.num_classes, generator=generator(4), dtype=torch.float64)
    p = z.softmax(1)
    s, _ = FullCost(tree.lineage(-1), 0.0).double()(p)
    expected = reference.crm(p, tree.distance().tolist())
    assert s.argmax(1).tolist() == expected
    assert crm_scores(z, tree).argmax(1).tolist() == expected
    torch.testing.assert_close(crm_scores(z, tree), s)


def test_crm_at_a_coarse_level_and_above_the_dense_limit(monkeypatch):
    z = torch.randn(9, 3, generator=generator(4))
    dense = crm_scores(z, SMALL, level=2)
    torch.testing.assert_close(dense, -(z.softmax(1) @ SMALL.distance(2).T))
    monkeypatch.setattr("graftkit.methods.bilt.baselines.LARGEST_DENSE", 2)
    torch.testing.assert_close(crm_scores(z, SMALL, level=2), dense)
    with pytest.raises(ValueError, match=r"logits: expected shape \(B, 5\)"):
        crm_scores(z, SMALL)


def test_on_a_star_scores_are_probabilities_less_one():
    tree = LabelTree.from_paths([(name,) for name in "abcdef"])
    p = probabilities(8, 6)
    s, _ = FullCost(tree.lineage(1), 0.0).double()(p)
    torch.testing.assert_close(s, p - 1, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_below_the_bound_no_correction_reorders_levels_of_the_tree(seed):
    tree = even_tree(seed)
    d = tree.distance().double()
    for draw in range(40):
        matrix = -corrected_cost(weight_of(tree.num_classes, 100 * seed + draw), d, 0.7)
        for k in range(tree.num_classes):
            order = matrix[k].argsort()
            sorted_levels = d[k][order]
            assert (sorted_levels.diff() >= 0).all()


def test_above_the_bound_it_can():
    w = torch.tensor([[0.0, -1.0, 1.0, 0.0], *[[1.0] * 4] * 3], dtype=torch.float64)
    tree = LabelTree.from_paths([("a", "0"), ("a", "1"), ("b", "2"), ("b", "3")])
    row = -corrected_cost(w, tree.distance().double(), 0.8)[0]
    assert row[2] < row[1]


def test_detaching_keeps_values_and_cuts_a_gradient():
    p = probabilities(3, 5).requires_grad_()
    plain, cut = (
        FullCost(SMALL.lineage(-1), 0.5).double(),
        FullCost(SMALL.lineage(-1), 0.5, detach=True).double(),
    )
    g = torch.randn(3, 5, generator=generator(5), dtype=torch.float64)
    torch.testing.assert_close(cut(p)[0], plain(p)[0], rtol=0, atol=1e-12)
    (given,) = torch.autograd.grad(cut(p)[0], p, g)
    torch.testing.assert_close(given, -g @ SMALL.distance().double(), rtol=0, atol=1e-12)


def test_the_cifar_form_adds_the_identity_to_scores_alone():
    p = probabilities(3, 5)
    plain = FullCost(SMALL.lineage(-1), 0.5).double()
    own = FullCost(SMALL.lineage(-1), 0.5, identity=True).double()
    torch.testing.assert_close(own(p)[0], plain(p)[0] + 0.5 * p, rtol=0, atol=1e-12)
    torch.testing.assert_close(own(p)[1], plain(p)[1], rtol=0, atol=0)


def test_distance_is_a_buffer_and_moves_with_the_module():
    cost = FullCost(SMALL.lineage(-1), 0.5)
    assert [name for name, _ in cost.named_parameters()] == ["weight"]
    assert list(cost.state_dict()) == ["weight"]
    assert cost.double().distance.dtype == torch.float64


def test_scores_follow_the_weight_however_it_is_written():
    cost = FullCost(SMALL.lineage(-1), 0.5).double().eval()
    p = probabilities(3, 5)
    with torch.no_grad():
        first = cost(p)[0]
        cost.weight.data.copy_(weight_of(5, 9))  # as averages of weights are swapped in; no version counts it
        assert not torch.equal(cost(p)[0], first)
        torch.testing.assert_close(cost(p)[0], reference.scores(
            p, weight_of(5, 9), SMALL.distance().tolist(), 0.5), rtol=0, atol=1e-12)  # fmt: skip
    assert cost(p)[0].requires_grad
    with torch.inference_mode():
        assert torch.equal(FullCost(SMALL.lineage(-1), 0.0)(p)[1], -SMALL.distance().double())


@pytest.mark.parametrize("tree", [SMALL, even_tree(1)], ids=repr)
@pytest.mark.parametrize("detach", [False, True])
def test_low_rank_equals_the_full_form_on_the_product(tree, detach):
    n = tree.num_classes
    low = LowRankCost(tree.ancestors, tree.sizes, 0.5, 3, detach=detach).double()
    with torch.no_grad():
        for parameter in low.parameters():
            parameter.copy_(torch.randn(n, 3, generator=generator(6), dtype=torch.float64) + 0.1)
        low.right.add_(torch.randn(n, 3, generator=generator(7), dtype=torch.float64))
    full = FullCost(tree.lineage(-1), 0.5, detach=detach).double()
    full.weight = torch.nn.Parameter((low.left @ low.right.T).detach())
    p = probabilities(4, n).requires_grad_()
    (one, factors), (two, matrix) = low(p), full(p)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-10)
    rows = torch.tensor([2, 0, 2])
    torch.testing.assert_close(cost_rows(factors, rows), matrix[rows].detach(), rtol=0, atol=1e-10)
    g = torch.randn(4, n, generator=generator(8), dtype=torch.float64)
    left = torch.autograd.grad(one, [p, low.left], g)
    right = torch.autograd.grad(two, [p, full.weight], g)
    torch.testing.assert_close(left[0], right[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(left[1], right[1] @ low.right.detach(), rtol=0, atol=1e-10)


def test_low_rank_starts_the_same_and_touches_no_global_generator():
    before = torch.get_rng_state()
    one, two = (LowRankCost(SMALL.ancestors, SMALL.sizes, 0.5, 2) for _ in range(2))
    assert torch.equal(one.left, two.left)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(one.left[:, 0], one.left[:, 1])
