"""Labels by level, missing levels, mixed targets; what is refused."""

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from graftkit.methods.bilt import BiLTLoss, HXELoss, SoftLabelLoss, check_labels
from tests.plugins.bilt.cases import SMALL, batch, head_of


@pytest.fixture
def case():
    head = head_of(SMALL)
    x, y = batch(8, 5)
    return head(x), y


def test_labels_a_level_equal_finest_labels(case):
    out, y = case
    torch.testing.assert_close(BiLTLoss(SMALL)(out, SMALL.ancestors[:, y].T), BiLTLoss(SMALL)(out, y),
                               rtol=0, atol=1e-12)  # fmt: skip


@pytest.mark.parametrize("smooth", [False, True])
def test_one_hot_shares_equal_labels(case, smooth):
    out, y = case
    criterion = BiLTLoss(SMALL, smooth_logits=smooth)
    torch.testing.assert_close(criterion(out, one_hot(y, 5).double()), criterion(out, y), rtol=0, atol=1e-12)


def test_mixed_targets_mix_the_loss(case):
    """The loss is linear in the target: mixup's target is the mixture of two losses."""
    out, y = case
    other = y.flip(0)
    mixed = 0.7 * one_hot(y, 5).double() + 0.3 * one_hot(other, 5).double()
    criterion = BiLTLoss(SMALL)
    expected = 0.7 * criterion(out, y) + 0.3 * criterion(out, other)
    torch.testing.assert_close(criterion(out, mixed), expected, rtol=0, atol=1e-12)


def test_unknown_levels_are_left_out_and_the_rest_is_averaged(case):
    out, y = case
    target = SMALL.ancestors[:, y].T.clone()
    target[:5, 2] = -1  # five samples known down to level 2
    target[0, 1] = -1
    criterion = BiLTLoss(SMALL, epsilon=0.0)
    criterion(out, target)
    for h, known in ((0, slice(0, 8)), (1, slice(1, 8)), (2, slice(5, 8))):
        expected = cross_entropy(out.level_logits[h][known], target[known, h])
        torch.testing.assert_close(criterion.last_components.classification[h], expected.detach())
        expected = cross_entropy(out.level_scores[h][known], target[known, h])
        torch.testing.assert_close(criterion.last_components.difference[h], expected.detach())


def test_a_level_that_is_unknown_throughout_adds_zero():
    head = head_of(SMALL)
    x, y = batch(8, 5)
    target = SMALL.ancestors[:, y].T.clone()
    target[:, 2] = -1
    criterion = BiLTLoss(SMALL)
    criterion(head(x), target).backward()
    assert criterion.last_components.classification[2] == 0
    assert criterion.last_components.difference[2] == 0
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())
    nothing = BiLTLoss(SMALL)(head(x), torch.full((8, 3), -1))
    assert nothing.item() == 0
    nothing.backward()


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (torch.tensor([0, 1, 2, 3, 4, 5, 0, 0]), ValueError, r"target: expected labels 0 to 4, got 5"),
        (torch.tensor([0, 1, 2, 3, 4, -1, 0, 0]), ValueError, r"labels 0 to 4, got -1.*\(B, H\)"),
        (torch.zeros(8), ValueError, r"Finest labels as floats are refused: use target.long\(\)"),
        (torch.zeros(8, dtype=torch.int32), TypeError, r"int64 labels or floating shares"),
        (torch.zeros(8, 4, dtype=torch.int64), ValueError, r"shape \(B,\), or \(B, 3\)"),
        (torch.zeros(7, dtype=torch.int64), ValueError, r"target: expected 8 rows"),
        (torch.zeros(8, 5), ValueError, r"sum to 1 a row"),
        (torch.full((8, 5), float("nan")), ValueError, r"finite shares"),
        (torch.tensor([[2.0, -1, 0, 0, 0]] * 8), ValueError, r"finite shares from 0"),
        (torch.tensor([[2, 0, 0]] * 8), ValueError, r"-1 to 1 at level 1, got 2"),
        (torch.tensor([[0, -2, 0]] * 8), ValueError, r"-1 to 2 at level 2, got -2"),
        (
            torch.tensor([[0, 0, 0]] * 7 + [[0, 0, 3]]),
            ValueError,
            r"one path of the tree, got 'car under animal'",
        ),
        (torch.tensor([[1, -1, 0]] * 8), ValueError, r"got 'cat under vehicle'"),
        ([0] * 8, TypeError, r"target: expected a tensor"),
    ],
)
def test_refused_targets(case, target, error, message):
    out, _ = case
    with pytest.raises(error, match=message):
        BiLTLoss(SMALL)(out, target)


def test_checks_of_values_can_be_left_out(case):
    out, y = case
    wrong = SMALL.ancestors[:, y].T.clone()
    wrong[0, 0] = 1 - wrong[0, 0]
    BiLTLoss(SMALL, validate="never")(out, wrong)
    with pytest.raises(ValueError, match="one path"):
        BiLTLoss(SMALL, validate="always")(out, wrong)


def test_negative_labels_are_no_class_where_nobody_checks(case, monkeypatch):
    out, _ = case
    y = torch.tensor([0, -1] * len(out.scores))[: len(out.scores)]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # no values are checked then
    for loss in (BiLTLoss(SMALL), SoftLabelLoss(SMALL), HXELoss(SMALL)):
        with pytest.raises((IndexError, RuntimeError), match="out of"):
            loss(out, y)


def test_refused_outputs(case):
    out, y = case
    with pytest.raises(TypeError, match=r"output: expected a HierarchicalOutput"):
        BiLTLoss(SMALL)(out.scores, y)
    with pytest.raises(ValueError, match=r"output: expected logits of \(2, 3, 5\) classes"):
        BiLTLoss(SMALL)(out._replace(level_logits=out.level_logits[1:]), y)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"epsilon": 1.1}, ValueError, r"epsilon: expected a finite number in \[0, 1\], got 1.1"),
        ({"epsilon": -0.1}, ValueError, r"epsilon"),
        ({"gamma": -1}, ValueError, r"gamma: expected a finite number >= 0, got -1"),
        ({"alpha": -1.0}, ValueError, r"alpha"),
        ({"alpha": "1"}, TypeError, r"alpha"),
        ({"level_weights": [1.0]}, ValueError, r"level_weights: expected 3 numbers"),
        ({"level_weights": [1.0, -1.0, 1.0]}, ValueError, r"level_weights"),
        ({"level_weights": "equals"}, ValueError, r"Did you mean 'equal'"),
        ({"validate": "often"}, ValueError, r"validate"),
        ({"smooth_logits": 1}, TypeError, r"smooth_logits"),
        ({"tree": "tree"}, TypeError, r"tree: expected a LabelTree"),
    ],
)
def test_refused_arguments(change, error, message):
    arguments = {"tree": SMALL, **change}
    with pytest.raises(error, match=message):
        BiLTLoss(**arguments)


@pytest.mark.parametrize("loss", [HXELoss, SoftLabelLoss])
def test_rivals_refuse_too(case, loss):
    out, _ = case
    with pytest.raises(ValueError, match=r"labels 0 to 4, got 9"):
        loss(SMALL)(out, torch.full((8,), 9))
    with pytest.raises(ValueError, match=r"known labels at the finest level"):
        loss(SMALL)(out, torch.full((8, 3), -1))
    with pytest.raises(ValueError, match=r"output: expected logits of shape \(B, 5\)"):
        loss(SMALL)(out.level_logits[0], torch.zeros(8, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"tree: expected a LabelTree"):
        loss("tree")


def test_whole_data_sets_are_checked():
    check_labels(torch.arange(5), SMALL)
    with pytest.raises(ValueError, match=r"every class at least once, got none of 'wolf', 'bus'"):
        check_labels(torch.tensor([0, 1, 3]), SMALL)
    levels = SMALL.ancestors.T.clone()
    levels[:, 1] = -1
    with pytest.raises(ValueError, match=r"got none at level 2 \('pet', 'road', 'wild'\)"):
        check_labels(levels, SMALL)
    with pytest.raises(ValueError, match=r"labels 0 to 4, got 5"):
        check_labels(torch.tensor([0, 5]), SMALL)
    with pytest.raises(TypeError, match=r"an int64 tensor"):
        check_labels(torch.zeros(3), SMALL)
    with pytest.raises(ValueError, match=r"at least one"):
        check_labels(torch.zeros(0, dtype=torch.int64), SMALL)


def test_mixed_targets_are_mixed_in_full_precision_under_autocast():
    x, y = batch(8, 5, dtype=torch.float32)
    out = head_of(SMALL, dtype=torch.float32)(x)
    mixed = 0.7 * one_hot(y, 5).float() + 0.3 * one_hot(y.flip(0), 5).float()
    criterion = BiLTLoss(SMALL, epsilon=1.0)
    expected = 0.7 * criterion(out, y) + 0.3 * criterion(out, y.flip(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = criterion(out, mixed)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
