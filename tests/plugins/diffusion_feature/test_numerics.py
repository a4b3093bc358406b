"""Maps, resizing, noise, metrics, correspondence and probes against plain loops."""

import math

import numpy as np
import pytest
import torch

from graftkit.methods.diffusion_feature import (
    FeatureAggregator,
    RidgeProbe,
    VotingMLP,
    attention_map,
    confusion_matrix,
    correct_points,
    matched_sigma,
    mean_iou,
    nearest_points,
)
from graftkit.methods.diffusion_feature import noise as noising
from graftkit.methods.diffusion_feature.aggregation import normalize_map
from graftkit.methods.diffusion_feature.attention import check_map_size
from graftkit.methods.diffusion_feature.pixels import (
    labelled_pixels,
    pixel_chunks,
    pixel_table,
    sample_bilinear,
)
from tests.plugins.diffusion_feature import reference


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Maps.


@pytest.mark.parametrize("chunk", [1, 2, 5, 1000])
def test_maps_equal_the_loops_for_every_chunk(chunk):
    q, k = draw(2, 3, 5, 4), draw(2, 3, 7, 4, seed=1)
    bias = draw(2, 1, 1, 7, seed=2)
    expected = reference.attention_map(q.numpy(), k.numpy(), bias.numpy())
    every = attention_map(q, k, bias=bias, reduce="none", chunk=chunk)
    assert np.allclose(every, expected, atol=1e-12)
    assert np.allclose(attention_map(q, k, bias=bias, chunk=chunk), expected.mean(1), atol=1e-12)
    part = attention_map(q, k, bias=bias, rows=slice(1, 4), columns=slice(2, 5), chunk=chunk)
    assert np.allclose(part, expected.mean(1)[:, 1:4, 2:5], atol=1e-12)


def test_map_gradient_is_right():
    q, k = draw(1, 2, 3, 4).requires_grad_(), draw(1, 2, 3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: attention_map(a, b, chunk=2), (q, k))


def test_a_bias_with_rows_is_cut_with_them():
    q, k, bias = draw(1, 1, 4, 2), draw(1, 1, 3, 2, seed=1), draw(1, 1, 4, 3, seed=2)
    whole = attention_map(q, k, bias=bias)
    assert torch.allclose(
        attention_map(q, k, bias=bias, rows=slice(2, 4), chunk=1), whole[:, 2:4], atol=1e-12
    )


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"reduce": "sum"}, ValueError, "reduce: expected one of"),
        ({"chunk": 0}, ValueError, "chunk: expected an integer >= 1"),
        ({"chunk": 1.0}, TypeError, "chunk: expected an integer"),
        ({"key": torch.zeros(1, 2, 3, 5)}, ValueError, "key: expected shape"),
        ({"key": torch.zeros(2, 3, 4)}, ValueError, "key: expected shape"),
    ],
)
def test_map_arguments_are_checked(change, error, words):
    with pytest.raises(error, match=words):
        attention_map(**{"query": torch.zeros(1, 2, 3, 4), "key": torch.zeros(1, 2, 3, 4), **change})


def test_map_size_is_bounded_inclusively():
    check_map_size("a", (2, 3), 6)
    with pytest.raises(ValueError, match="'a' has 6 elements"):
        check_map_size("a", (2, 3), 5)


# Aggregation.


def test_aggregation_equals_the_loops_and_keeps_the_order():
    maps = {"b": draw(2, 3, 3, 4), "a": draw(2, 2, 6, 5, seed=1)}
    found = FeatureAggregator((5, 7))(maps)
    for i in range(2):
        expected = np.concatenate([reference.resize_bilinear(m[i].numpy(), 5, 7) for m in maps.values()])
        assert np.allclose(found[i], expected, atol=1e-12)
    assert FeatureAggregator("max")(list(maps.values())).shape == (2, 5, 6, 5)
    assert FeatureAggregator(4)(maps).shape == (2, 5, 4, 4)


def test_the_widest_dtype_wins_unless_given():
    maps = [torch.zeros(1, 1, 2, 2, dtype=torch.float16), torch.zeros(1, 1, 2, 2)]
    assert FeatureAggregator(2)(maps).dtype == torch.float32
    assert FeatureAggregator(2, dtype=torch.bfloat16)(maps).dtype == torch.bfloat16


def test_nearest_takes_cell_centres():
    found = FeatureAggregator((1, 2), mode="nearest")([torch.arange(4.0).reshape(1, 1, 1, 4)])
    assert found.flatten().tolist() == [1.0, 3.0]


def test_normalisation_by_hand():
    tensor = torch.tensor([[[[3.0, 0.0]], [[4.0, 2.0]]]])
    assert torch.allclose(normalize_map(tensor, "l2"), torch.tensor([[[[0.6, 0.0]], [[0.8, 1.0]]]]))
    assert torch.allclose(normalize_map(tensor, "standard"), torch.tensor([[[[1.0, -1.0]], [[1.0, -1.0]]]]))
    flat = normalize_map(torch.full((1, 1, 2, 2), 3e4, dtype=torch.float16), "standard")
    assert flat.dtype == torch.float16
    assert flat.abs().max() == 0
    assert normalize_map(tensor, None) is tensor


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"size": 0}, ValueError, "size: expected an integer >= 1"),
        ({"size": "min"}, ValueError, "size: expected one of 'max'"),
        ({"size": (1, 2, 3)}, ValueError, "rows and columns"),
        ({"size": 2.5}, TypeError, "size: expected an integer"),
        ({"mode": "area"}, ValueError, "mode: expected one of"),
        ({"normalize": "l1"}, ValueError, "normalize: expected one of"),
        ({"dtype": "half"}, TypeError, "dtype: expected a torch dtype"),
    ],
)
def test_aggregator_arguments_are_checked(arguments, error, words):
    with pytest.raises(error, match=words):
        FeatureAggregator(**arguments)


@pytest.mark.parametrize(
    ("maps", "error", "words"),
    [
        ({}, ValueError, "at least one map"),
        ([np.zeros((1, 1, 2, 2))], TypeError, "features: expected tensors"),
        ([torch.zeros(1, 2, 3)], ValueError, r"shape \(1, C, H, W\)"),
        ([torch.zeros(1, 1, 2, 2), torch.zeros(2, 1, 2, 2)], ValueError, r"shape \(1, C, H, W\)"),
    ],
)
def test_aggregated_maps_are_checked(maps, error, words):
    with pytest.raises(error, match=words):
        FeatureAggregator(2)(maps)


# Noise.


def test_schedule_and_matched_sigma_equal_the_loops():
    expected = reference.alphas()
    assert np.allclose(noising.stable_diffusion_alphas(), expected, rtol=1e-12)
    # The golden value comes from diffusers' float32 schedule.
    assert noising.stable_diffusion_alphas()[50].item() == pytest.approx(0.9515766501, abs=1e-6)
    for t, sigma in ((0, 0.0283405), (50, 0.1840611), (100, 0.2559143), (261, 0.4201818)):
        ratio = math.sqrt((1 - expected[t]) / expected[t])
        assert matched_sigma(t) == pytest.approx(ratio / (1 + ratio), abs=1e-12)
        assert matched_sigma(t) == pytest.approx(sigma, abs=1e-6)


@pytest.mark.parametrize(("t", "error"), [(1000, ValueError), (-1, ValueError), (1.0, TypeError)])
def test_matched_timestep_is_checked(t, error):
    with pytest.raises(error, match="timestep: expected an integer"):
        matched_sigma(t)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_clean_input_is_recovered_and_a_step_lands_on_the_schedule(prediction):
    clean, draw_, a, b = draw(1, 2, 3, 3), draw(1, 2, 3, 3, seed=1), 0.4, 0.9
    noisy = noising.diffuse(clean, draw_, a)
    said = {
        "epsilon": draw_, "sample": clean,
        "v_prediction": math.sqrt(a) * draw_ - math.sqrt(1 - a) * clean,
    }[prediction]  # fmt: skip
    found = noising.predict_clean(noisy, said, a, prediction)
    assert torch.allclose(found, clean, atol=1e-12)
    assert torch.allclose(noising.step_down(noisy, found, a, b), noising.diffuse(clean, draw_, b), atol=1e-12)


def test_flow_noise_and_ratio():
    clean, draw_ = draw(1, 1, 2, 2), draw(1, 1, 2, 2, seed=1)
    assert torch.equal(noising.interpolate(clean, draw_, 0.25), 0.75 * clean + 0.25 * draw_)
    assert noising.noise_ratio(0.0) == math.inf
    assert noising.noise_ratio(1.0) == 0
    with pytest.raises(ValueError, match="prediction: expected one of"):
        noising.predict_clean(clean, clean, 0.5, "eps")


# Metrics.


def test_iou_equals_the_loops():
    rng = np.random.default_rng(0)
    for _ in range(20):
        target, predicted = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
        target[rng.random(60) < 0.2] = 255
        counts = confusion_matrix(target, predicted, n_classes=5)
        assert mean_iou(counts) == pytest.approx(reference.mean_iou(target, predicted, 5, 255))
        assert mean_iou(counts, absent="zero") == pytest.approx(
            reference.mean_iou(target, predicted, 5, 255, True)
        )


def test_iou_by_hand():
    """Class 0: 1 of 2; class 1: 1 of 3; the ignored pixel's prediction is no false positive."""
    counts = confusion_matrix([0, 0, 1, 255], [0, 1, 1, 0], n_classes=3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert mean_iou(counts) == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert mean_iou(counts, absent="zero") == pytest.approx(1 / 3)
    assert math.isnan(mean_iou(np.zeros((2, 2), int)))
    assert confusion_matrix([255], [3], n_classes=4).sum() == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: confusion_matrix([0, 1], [0], n_classes=2), "predicted: expected the shape"),
        (lambda: confusion_matrix([2], [0], n_classes=2), r"target: expected labels in 0\.\.1"),
        (lambda: confusion_matrix([0], [-1], n_classes=2), "predicted: expected labels"),
        (lambda: mean_iou(np.zeros((2, 3))), "a square matrix"),
        (lambda: mean_iou(np.eye(2), absent="keep"), "'exclude' or 'zero'"),
        (lambda: correct_points([[0, 0]], [[0, 0, 0]], (1, 1)), r"shape \(n, 2\)"),
        (lambda: correct_points([[0, 0]], [[0, 0]], (0, 1)), "positive height and width"),
        (lambda: correct_points([[0, 0]], [[0, 0]], (1, 1), alpha=0), "alpha: expected"),
    ],
)
def test_metric_arguments_are_checked(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_pck_by_hand_and_pooled_over_points():
    predicted, target = [[0, 0], [0, 11], [30, 0]], [[0, 10], [0, 0], [0, 0]]
    # Image 100 x 50: within 10 pixels. Distances 10, 11, 30.
    assert correct_points(predicted, target, (100, 50)).tolist() == [True, False, False]
    # Boxes per point: within 10, 12, 29.
    boxes = [[100, 1], [120, 1], [1, 290]]
    assert correct_points(predicted, target, boxes).tolist() == [True, True, False]
    pooled = np.concatenate(
        [correct_points(predicted, target, (100, 50)), correct_points([[0, 0]], [[0, 1]], (100, 50))]
    )
    assert pooled.mean() == 0.5  # not the mean of 1/3 and 1


# Correspondence.


def test_exact_correspondence_equals_the_loops():
    source, target = draw(1, 5, 3, 4), draw(1, 5, 4, 3, seed=1)
    points = [[0, 0], [5, 7], [8, 2]]
    found = nearest_points(source, target, points, size=(9, 11), exact=True)
    # Similarities at the resized grid: the exact mode compares resized maps.
    assert [tuple(row) for row in found.tolist()] == [
        reference.nearest_point(source[0].numpy(), target[0].numpy(), point, (9, 11)) for point in points
    ]


def test_fast_correspondence_finds_a_shifted_pattern():
    generator = torch.Generator().manual_seed(0)
    canvas = torch.randn(1, 16, 8, 12, generator=generator)
    found = nearest_points(canvas[..., :8], canvas[..., 4:], [[8, 40], [40, 56]], size=(64, 64))
    assert (found - torch.tensor([[8, 8], [40, 24]])).abs().max() <= 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": torch.zeros(2, 3, 4, 4)}, "source: expected one map"),
        ({"target": torch.zeros(1, 2, 4, 4)}, "target: expected 3 channels"),
        ({"points": [[0.5, 1.0]]}, "points: expected integers"),
        ({"points": [[0, 8]]}, "points: expected rows and columns inside"),
        ({"points": [[-1, 0]]}, "points: expected rows and columns inside"),
    ],
)
def test_correspondence_arguments_are_checked(change, words):
    inputs = {
        "source": torch.ones(1, 3, 4, 4),
        "target": torch.ones(1, 3, 4, 4),
        "points": [[0, 0]],
        **change,
    }
    with pytest.raises(ValueError, match=words):
        nearest_points(**inputs, size=(8, 8))


# Pixels and probes.


@pytest.mark.parametrize("size", [(9, 7), (3, 4), (2, 2), (1, 1)])
def test_sampled_pixels_equal_the_resized_map(size):
    feature_map = draw(2, 3, 4).numpy()
    rows, columns = np.divmod(np.arange(size[0] * size[1]), size[1])
    expected = reference.resize_bilinear(feature_map, *size)
    assert np.allclose(
        sample_bilinear(feature_map, rows, columns, size), expected.reshape(2, -1).T, atol=1e-12
    )
    joined = np.concatenate([part for _, part in pixel_chunks(feature_map, size, chunk=4)])
    assert np.allclose(joined, expected.reshape(2, -1).T, atol=1e-12)


def test_labelled_pixels_are_drawn_without_the_ignored():
    labels = np.full((6, 5), 255)
    labels[2:4, 1:4] = [[0, 1, 2], [3, 4, 5]]
    rng = np.random.default_rng(0)
    rows, columns = labelled_pixels(labels, 4, rng)
    assert len(rows) == 4
    assert len({*zip(rows.tolist(), columns.tolist(), strict=True)}) == 4
    assert (labels[rows, columns] != 255).all()
    assert len(labelled_pixels(labels, None, rng)[0]) == 6
    assert len(labelled_pixels(labels, 4, rng, ignore_index=None)[0]) == 4
    features, classes = pixel_table([np.ones((2, 3, 3))] * 2, [labels, labels], per_image=None, rng=rng)
    assert features.shape == (12, 2)
    assert sorted(classes.tolist()) == sorted([*range(6)] * 2)
    with pytest.raises(ValueError, match="labelled pixel"):
        pixel_table([np.ones((2, 3, 3))], [np.full((3, 3), 255)], per_image=5, rng=rng)


def test_ridge_equals_the_normal_equations():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 4)), rng.choice([2, 5, 7], 60, p=[0.7, 0.2, 0.1])
    X[:, 3] = 1.0  # a constant feature
    probe = RidgeProbe(0.05).fit(X, y)
    response = reference.ridge(X, y, 0.05)
    assert (probe.predict(X) == np.array([2, 5, 7])[response.argmax(1)]).all()
    own = (X - probe.mean_) / probe.scale_ @ probe.coefficients_[:-1] + probe.coefficients_[-1]
    assert np.allclose(own, response, atol=1e-10)


@pytest.mark.parametrize(
    ("X", "y", "words"),
    [
        (np.zeros((2, 2, 2)), [0, 1], r"X: expected shape \(n, d\)"),
        (np.zeros((3, 2)), [0, 1], r"X: expected shape"),
        (np.full((2, 2), np.nan), [0, 1], "X: expected finite"),
        (np.zeros((0, 2)), [], "X: expected shape"),
    ],
)
def test_ridge_input_is_checked(X, y, words):
    with pytest.raises(ValueError, match=words):
        RidgeProbe().fit(X, y)
    with pytest.raises(ValueError, match="penalty: expected"):
        RidgeProbe(0)


def test_voting_mlps_learn_what_no_linear_probe_can_and_leave_the_global_state():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (300, 2))
    y = 3 + (X[:, 0] * X[:, 1] > 0)
    state = torch.get_rng_state()
    probe = VotingMLP(n_members=2, max_epochs=40, random_state=0).fit(X, y)
    assert torch.equal(torch.get_rng_state(), state)
    assert (probe.predict(X) == y).mean() > 0.9
    assert (RidgeProbe().fit(X, y).predict(X) == y).mean() < 0.65
    assert (
        VotingMLP(n_members=2, max_epochs=40, random_state=0).fit(X, y).predict(X) == probe.predict(X)
    ).all()
    with pytest.raises(ValueError, match="at least 2 samples"):
        VotingMLP().fit(X[:1], y[:1])
