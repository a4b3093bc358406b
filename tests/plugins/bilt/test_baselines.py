"""Soft labels, HXE and the table of variants."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from graftkit.methods.bilt import (
    PRESETS,
    VARIANTS,
    BiLTLoss,
    HierarchicalHead,
    HXELoss,
    LabelTree,
    SoftLabelLoss,
    check_labels,
    crm_scores,
    variant_loss,
)
from tests.plugins.bilt import reference
from tests.plugins.bilt.cases import SMALL, batch, even_tree, generator, head_of


def logits(tree, n=6):
    z = torch.randn(n, tree.num_classes, generator=generator(0), dtype=torch.float64).requires_grad_()
    return z, torch.randint(0, tree.num_classes, (n,), generator=generator(1))


@pytest.mark.parametrize("tree", [SMALL, even_tree(0)], ids=repr)
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.7])
def test_hxe_against_loops(tree, alpha):
    z, y = logits(tree)
    ours, theirs = HXELoss(tree, alpha)(z, y), reference.hxe(z, tree.paths(), y.tolist(), alpha)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    torch.testing.assert_close(*(torch.autograd.grad(loss, z)[0] for loss in (ours, theirs)))


def test_hxe_without_decay_is_cross_entropy():
    z, y = logits(SMALL)
    torch.testing.assert_close(HXELoss(SMALL, 0.0)(z, y), cross_entropy(z, y))


def test_hxe_of_far_logits_is_finite():
    z = torch.tensor([[300.0, -300.0, 0.0, 300.0, -300.0]], requires_grad=True)
    HXELoss(SMALL)(z, torch.tensor([1])).backward()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("hardness", [0.5, 4.0, 30.0])
def test_soft_labels_against_their_formula_and_against_aigdl(hardness):
    """epsilon 1, beta 0 and gamma = hardness / max D give Bertinetto's labels (specification 5, test 10)."""
    z, y = logits(SMALL)
    d = SMALL.distance().double()
    rows = (-hardness * d / d.max()).softmax(1)[y]
    expected = -(rows * z.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(SoftLabelLoss(SMALL, hardness)(z, y), expected)
    criterion = BiLTLoss(SMALL, epsilon=1.0, gamma=hardness / float(d.max()), smooth_logits=True)
    out = head_of(SMALL, levels="finest", aigdl=False).eval()(batch(6, 5)[0])
    torch.testing.assert_close(criterion(out._replace(level_logits=(z,), level_scores=(z,)), y), expected)


def test_soft_labels_without_the_matrix(monkeypatch):
    z, y = logits(SMALL)
    dense = SoftLabelLoss(SMALL)(z, y)
    monkeypatch.setattr("graftkit.methods.bilt.baselines.LARGEST_DENSE", 2)
    thin = SoftLabelLoss(SMALL)
    assert thin.distance is None
    torch.testing.assert_close(thin(z, y), dense)


def test_finest_column_of_levels_and_outputs_are_taken():
    head = head_of(SMALL)
    x, y = batch(6, 5)
    out = head(x)
    for loss in (HXELoss(SMALL), SoftLabelLoss(SMALL)):
        plain = loss(out.level_logits[-1], y)
        torch.testing.assert_close(loss(out, SMALL.ancestors[:, y].T), plain, rtol=0, atol=0)


def test_rivals_check_their_arguments():
    with pytest.raises(ValueError, match=r"alpha: expected a finite number >= 0"):
        HXELoss(SMALL, -0.1)
    with pytest.raises(ValueError, match=r"hardness: expected a finite number > 0"):
        SoftLabelLoss(SMALL, 0)
    with pytest.raises(TypeError, match=r"target: expected int64 labels"):
        HXELoss(SMALL)(torch.zeros(2, 5), torch.full((2, 5), 0.2))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_with_every_parameter(name):
    tree = LabelTree.from_paths([("a", "x"), ("a", "y"), ("b", "z")])
    variant = VARIANTS[name]
    head = HierarchicalHead(5, tree, neck=None, **variant.head)
    x, y = batch(6, 3, dtype=torch.float32)
    out = head(x)
    variant_loss(name, tree)(out, y).backward()
    assert all(p.grad is not None for p in head.parameters())
    assert variant.source in ("risk", "prob", "crm")


def test_variants_are_built_with_their_own_settings():
    assert variant_loss("HXE", SMALL).alpha == 0.1
    assert variant_loss("HXE", SMALL, alpha=0.4).alpha == 0.4
    assert variant_loss("BiLT + AIGDL, hard targets", SMALL).epsilon == 0
    with pytest.raises(ValueError, match=r"name: .*Did you mean 'parallel heads'"):
        variant_loss("parallel head", SMALL)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_arguments(name):
    preset = PRESETS[name]
    assert HierarchicalHead(5, SMALL, **preset.head).beta == 0.5
    assert BiLTLoss(SMALL, **preset.loss).alpha == 1.0


def test_published_settings():
    """Specification section 1.8; what was not found is marked."""
    assert PRESETS["fgvc-aircraft"].loss == {"alpha": 1.0, "epsilon": 0.5, "gamma": 1.0}
    assert PRESETS["inat-2019"].loss["gamma"] == 1.5
    assert PRESETS["inat-2019"].training["batch_size"] == 256
    assert PRESETS["cifar-100"].head["activation"] == "leaky_relu"
    assert [name for name, preset in PRESETS.items() if not preset.verified] == [
        "cifar-100",
        "tiered-imagenet-h",
    ]


@pytest.mark.parametrize("build", [HXELoss, SoftLabelLoss])
def test_rivals_refuse_empty_and_ragged_batches(build):
    z = torch.zeros(4, 5)
    with pytest.raises(ValueError, match=r"target: expected at least one sample"):  # not NaN
        build(SMALL)(z[:0], torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"target: expected 4 rows, as the output has"):
        build(SMALL)(z, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"output: expected floating logits"):
        build(SMALL)(z.long(), torch.zeros(4, dtype=torch.int64))


def test_what_is_no_tree():
    with pytest.raises(TypeError, match=r"tree: expected a LabelTree, got None"):
        crm_scores(torch.zeros(2, 5), None)
    with pytest.raises(TypeError, match=r"logits: expected a floating tensor"):
        crm_scores(torch.zeros(2, 5, dtype=torch.int64), SMALL)
    with pytest.raises(TypeError, match=r"tree: expected a LabelTree, got None"):
        check_labels(torch.zeros(2, dtype=torch.int64), None)


def test_the_cifar_form_is_not_dropped_in_silence():
    with pytest.raises(ValueError, match=r"compat: expected None with a low-rank correction"):
        HierarchicalHead(4, SMALL, rank=2, compat="official-cifar")
    HierarchicalHead(4, SMALL, rank=2, aigdl=False, compat="official-cifar")


def test_rivals_and_crm_are_computed_in_full_precision_under_autocast():
    tree = even_tree(0)
    z = torch.randn(6, tree.num_classes, generator=generator(0))
    shares = torch.rand(6, tree.num_classes, generator=generator(1))
    shares = shares / shares.sum(1, keepdim=True)
    y = shares.argmax(1)

    def values():
        return [crm_scores(z, tree), SoftLabelLoss(tree)(z, shares), SoftLabelLoss(tree)(z, y),
                HXELoss(tree)(z, y)]  # fmt: skip

    expected = values()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = values()
    for one, two in zip(found, expected, strict=True):
        assert torch.equal(one, two)


def test_soft_labels_scale_by_the_largest_distance_with_and_without_the_matrix(monkeypatch):
    rows = [("all", *path) for path in even_tree(0).paths()]
    tree, z = LabelTree.from_paths(rows), torch.randn(6, len(rows), generator=generator(0))
    y = torch.arange(6)
    d = tree.distance()
    expected = cross_entropy(z, (-10 * d / d.max())[y].softmax(1))
    torch.testing.assert_close(SoftLabelLoss(tree)(z, y), expected)
    monkeypatch.setattr("graftkit.methods.bilt.baselines.LARGEST_DENSE", 2)
    torch.testing.assert_close(SoftLabelLoss(tree)(z, y), expected)


@pytest.mark.parametrize("loss", [SoftLabelLoss, HXELoss])
def test_a_rival_is_one_graph(loss):
    tree = even_tree(0)
    z, y = torch.randn(3, tree.num_classes, generator=generator(0)), torch.arange(3)
    compiled = torch.compile(loss(tree), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(z, y), loss(tree)(z, y))
