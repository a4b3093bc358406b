"""The losses against loops, golden values, limits."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from graftkit.methods.qedg.generation import generator_losses
from graftkit.methods.qedg.losses import (
    boundary_confidence,
    boundary_weight,
    class_deviation,
    pairwise_similarity,
    substitute_loss,
)
from graftkit.methods.qedg.settings import QEDGConfig
from tests.plugins.qedg import reference


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labels(n, classes, seed=0):
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "d", "classes"), [(1, 3, 2), (7, 4, 3), (40, 9, 10), (12, 5, 30)])
def test_values_equal_the_loops(n, d, classes):
    logits, vectors, t = random(n, classes), random(n, d, seed=1), labels(n, classes, 2)
    total, pairs = reference.similarity(vectors.tolist(), t.tolist())
    assert class_deviation(logits).item() == pytest.approx(reference.deviation(logits.tolist()), rel=1e-12)
    assert pairwise_similarity(vectors, t, classes).item() == pytest.approx(total, rel=1e-12, abs=1e-14)
    mean = pairwise_similarity(vectors, t, classes, normalised=True).item()
    assert mean == pytest.approx(total * n / max(pairs, 1), rel=1e-12, abs=1e-14)
    for weight in (0.0, 1.0, 2.5):
        expected = reference.weighted_loss(logits.tolist(), t.tolist(), weight)
        assert substitute_loss(logits, t, weight).item() == pytest.approx(expected, rel=1e-12, abs=1e-14)
    soft = random(n, classes, seed=3).softmax(1)
    expected = reference.weighted_soft_loss(logits.tolist(), soft.tolist(), 2.0)
    assert substitute_loss(logits, soft, 2.0).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("space", ["input", "prob"])
def test_generator_loss_is_the_weighted_sum_of_the_loops(space):
    images, logits, t = random(9, 1, 2, 3).sigmoid(), random(9, 3, seed=1), labels(9, 3)
    config = QEDGConfig(boundary_weight=1.7, diversity_weight=0.3, diversity_space=space)
    losses = generator_losses(images, logits, t, config)
    vectors = images.flatten(1) if space == "input" else logits.softmax(1)
    expected = reference.class_loss(logits.tolist(), t.tolist())
    expected += 1.7 * reference.deviation(logits.tolist())
    expected += 0.3 * reference.similarity(vectors.tolist(), t.tolist())[0]
    assert losses["total"].item() == pytest.approx(expected, rel=1e-12)


def test_target_confidence_sets_the_boundary_weight():
    images, logits, t = random(5, 1, 2, 2).sigmoid(), random(5, 10), labels(5, 10)
    by_q = generator_losses(images, logits, t, QEDGConfig(target_confidence=0.284604989))
    by_w = generator_losses(images, logits, t, QEDGConfig(boundary_weight=10.0))
    assert by_q["total"].item() == pytest.approx(by_w["total"].item(), rel=1e-8)


def test_gradients_equal_finite_differences():
    logits, vectors, t = random(6, 4), random(6, 5, seed=1), torch.tensor([0, 0, 0, 1, 1, 2])
    logits.requires_grad_(True)
    vectors.requires_grad_(True)
    assert torch.autograd.gradcheck(class_deviation, logits)
    for normalised in (False, True):
        assert torch.autograd.gradcheck(
            lambda v, n=normalised: pairwise_similarity(v, t, 4, normalised=n), vectors
        )
    assert torch.autograd.gradcheck(lambda o: substitute_loss(o, t, 2.0), logits)


def test_classes_of_none_or_one_add_nothing():
    assert pairwise_similarity(random(3, 4), torch.tensor([0, 2, 4]), 6).item() == pytest.approx(0, abs=1e-15)
    assert pairwise_similarity(random(1, 4), torch.tensor([0]), 1, normalised=True).item() == pytest.approx(0)


def test_identical_images_of_one_class():
    # n = 5 in one class, B = 8: 5 * 4 / 2 = 10 pairs of cosine 1, over 8.
    vectors = random(8, 6)
    vectors[:5] = vectors[0]
    t = torch.tensor([0, 0, 0, 0, 0, 1, 2, 3])
    assert pairwise_similarity(vectors, t, 4).item() == pytest.approx(10 / 8, rel=1e-12)


def test_a_zero_image_is_similar_to_nothing_and_its_gradient_is_finite():
    vectors = random(3, 4)
    vectors[1] = 0
    vectors.requires_grad_(True)
    loss = pairwise_similarity(vectors, torch.zeros(3, dtype=torch.int64), 1)
    expected = reference.similarity(vectors.tolist(), [0, 0, 0])[0]
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    assert torch.isfinite(vectors.grad).all()


def test_similarity_ignores_length_and_order():
    vectors, t = random(10, 4), labels(10, 3)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    value = pairwise_similarity(vectors, t, 3).item()
    assert pairwise_similarity(vectors[order] * 7, t[order], 3).item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("classes", "value"), [(10, 0.3162277), (100, 0.1)])
def test_deviation_of_certainty(classes, value):
    logits = torch.zeros(2, classes, dtype=torch.float64)
    logits[:, 1] = 1000
    assert class_deviation(logits).item() == pytest.approx(value, abs=1e-7)


def test_deviation_of_equal_shares_is_zero_with_zero_gradient():
    logits = torch.zeros(2, 5, dtype=torch.float64, requires_grad=True)
    loss = class_deviation(logits)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(2, 5, dtype=torch.float64))


def test_deviation_does_not_know_the_order_of_classes():
    logits = random(6, 5)
    assert class_deviation(logits.flip(1)).item() == pytest.approx(class_deviation(logits).item(), rel=1e-13)


@pytest.mark.parametrize(
    ("classes", "weight", "golden"),
    [
        (10, 10.0, 0.2846),
        (10, 3.0, 0.9487),
        (10, 1.0, 1.0),
        (4, 3.0, 0.5),
        (3, 1.5, 0.7698),
        (100, 12.0, 0.825),
    ],
)
def test_free_logits_land_on_the_predicted_confidence(classes, weight, golden):
    predicted = boundary_confidence(weight, classes)
    assert predicted == pytest.approx(golden, abs=1e-4)
    logits = torch.zeros(1, classes, dtype=torch.float64)
    logits.requires_grad_(True)
    # Unequal logits of the other classes, so that their levelling out is found, too.
    logits.data[0, 1:] += 0.3 * random(classes - 1)
    logits.data[0, 0] = math.log(classes - 1)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-9, tolerance_change=1e-14
    )

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(logits, torch.tensor([0])) + weight * class_deviation(logits)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert logits.softmax(1)[0, 0].item() == pytest.approx(predicted, abs=1e-3)


def test_weight_and_confidence_are_inverse():
    for classes in (2, 10, 100):
        for q in (0.6, 0.99, 1.0):
            assert boundary_confidence(boundary_weight(q, classes), classes) == pytest.approx(q, rel=1e-12)
    # The published weight of 10 aims at certainty with 100 classes: 99 / (10 * 10) = 0.99.
    assert boundary_confidence(10, 100) == pytest.approx(0.99)
    assert boundary_confidence(0, 10) == 1
    assert boundary_confidence(1e6, 10) == pytest.approx(0.1)


def test_weights_follow_what_is_wrong_now():
    logits, t = random(20, 4), labels(20, 4)
    plain = cross_entropy(logits, t).item()
    right = logits.argmax(1)
    assert substitute_loss(logits, t, 1.0).item() == pytest.approx(plain, rel=1e-12)
    assert substitute_loss(logits, right, 5.0).item() == pytest.approx(cross_entropy(logits, right).item())
    wrong = (right + 1) % 4
    expected = 5 * cross_entropy(logits, wrong).item()
    assert substitute_loss(logits, wrong, 5.0).item() == pytest.approx(expected, rel=1e-12)


ONES, NONE = torch.ones(3, 2), torch.zeros(3).long()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: class_deviation(torch.zeros(3)), ValueError, r"logits: expected shape \(B, C\) with C >= 2"),
        (lambda: class_deviation(torch.zeros(3, 1)), ValueError, "C >= 2"),
        (lambda: pairwise_similarity(ONES, NONE[:2], 2), ValueError, r"shape \(3,\)"),
        (lambda: pairwise_similarity(ONES[:0], NONE[:0], 2), ValueError, "at least one"),
        (lambda: pairwise_similarity(ONES, NONE, 2.0), TypeError, "num_classes"),
        (lambda: pairwise_similarity(ONES, NONE, 2, normalised=1), TypeError, "True"),
        (lambda: substitute_loss(torch.ones(2, 3), torch.zeros(3).long()), ValueError, r"targets: .*\(2,\)"),
        (lambda: substitute_loss(torch.ones(2, 3), torch.zeros(2).long(), -1), ValueError, "weight: .*>= 0"),
        (lambda: substitute_loss(torch.ones(2, 3), torch.zeros(2).long(), "2"), TypeError, "weight"),
        (lambda: boundary_weight(0.1, 10), ValueError, r"confidence: .*\(0.1, 1\]"),
        (lambda: boundary_weight(0.5, 1), ValueError, "num_classes"),
        (lambda: boundary_confidence(-1, 3), ValueError, "weight"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_half_precision_stays_finite():
    logits = torch.tensor([[100.0, -100.0, 0.0]], dtype=torch.bfloat16)
    assert math.isfinite(class_deviation(logits).item())
