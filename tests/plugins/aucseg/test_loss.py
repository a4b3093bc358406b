"""The closed form against all pairs of pixels, value and gradient, and what must not change it."""

import pytest
import torch
from torch.nn import functional as F

from graftkit.methods.aucseg import blocks
from graftkit.torch import PixelAUCLoss, pixel_auc_loss
from tests.plugins.aucseg import reference as ref
from tests.plugins.aucseg.cases import golden, gradient, random_case

OPTIONS = [
    {},
    {"activation": "softmax"},
    {"surrogate": "hinge", "scheme": "ova"},
    {"surrogate": "exp", "margin": 0.7},
    {"scheme": "ova", "activation": "softmax", "margin": 0.3},
]


@pytest.mark.parametrize("seed", range(120))
def test_equals_every_pair_of_pixels(seed):
    x, y, options = random_case(seed)
    ours, theirs = pixel_auc_loss(x, y, **options), ref.pixel_auc_loss(x, y, **options)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient(ours, x), gradient(theirs, x), rtol=0, atol=1e-10)


def test_random_cases_cover_what_they_should():
    cases = [random_case(seed) for seed in range(120)]
    assert {x.ndim for x, _, _ in cases} == {2, 3, 4, 5}
    assert {x.shape[1] for x, _, _ in cases} >= {1, 2, 3, 8}
    trained = [ref.pixel_auc_loss(x, y, **o) > 0 for x, y, o in cases]
    assert sum(trained) > 70
    assert sum("weight" in o for _, _, o in cases) > 30


@pytest.mark.parametrize("options", OPTIONS)
def test_gradcheck(options):
    x, y = golden()
    torch.autograd.gradcheck(lambda z: pixel_auc_loss(z, y, **options), x)
    weight = 0.5 + (torch.arange(24).reshape(2, 3, 4) % 3)
    torch.autograd.gradcheck(lambda z: pixel_auc_loss(z, y, weight=weight, **options), x)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("block", [1, 7, 40])
def test_blocks_do_not_matter(monkeypatch, options, block):
    """One block, or blocks that end anywhere (at least 256 pixels each)."""
    x = torch.randn(2, 5, 30, 31, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(2 * 930).reshape(2, 30, 31) % 4
    x.requires_grad_()
    whole = pixel_auc_loss(x, y, **options)
    whole_gradient = gradient(whole, x)
    monkeypatch.setattr(blocks, "BLOCK", block * 37)
    parts = pixel_auc_loss(x, y, **options)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-13)
    torch.testing.assert_close(gradient(parts, x), whole_gradient, rtol=0, atol=1e-15)


@pytest.mark.parametrize("options", OPTIONS)
def test_order_and_image_of_pixels_do_not_matter(options):
    x, y = golden()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    flat = x.transpose(0, 1).reshape(4, 24)[:, order]  # pixels of both images, shuffled together
    moved = pixel_auc_loss(flat[None], y.flatten()[order][None], **options)
    torch.testing.assert_close(moved, pixel_auc_loss(x, y, **options), rtol=0, atol=1e-14)


@pytest.mark.parametrize("options", OPTIONS)
def test_names_of_classes_do_not_matter(options):
    x, y = golden()
    new = torch.tensor([2, 0, 3, 1])  # class c becomes new[c]
    channels = torch.argsort(new)
    renamed = torch.where(y == 255, y, new[y.clamp(max=3)])
    loss = pixel_auc_loss(x[:, channels], renamed, **options)
    torch.testing.assert_close(loss, pixel_auc_loss(x, y, **options), rtol=0, atol=1e-15)


@pytest.mark.parametrize("options", OPTIONS)
def test_doubling_the_batch_does_not_matter(options):
    x, y = golden()
    twice = pixel_auc_loss(torch.cat((x, x)), torch.cat((y, y)), **options)
    torch.testing.assert_close(twice, pixel_auc_loss(x, y, **options), rtol=0, atol=1e-14)


@pytest.mark.parametrize("options", OPTIONS)
def test_ignored_pixels_do_not_matter(options):
    x, y = golden()
    more = torch.cat((x, torch.randn(2, 4, 2, 4, dtype=torch.float64)), dim=2)
    labels = torch.cat((y, torch.full((2, 2, 4), 255)), dim=1)
    loss = pixel_auc_loss(more, labels, **options)
    torch.testing.assert_close(loss, pixel_auc_loss(x, y, **options), rtol=0, atol=1e-15)
    torch.testing.assert_close(
        gradient(loss, x), gradient(pixel_auc_loss(x, y, **options), x), rtol=0, atol=1e-15
    )


def test_size_of_a_class_does_not_matter():
    """What separates it from cross-entropy: every pixel of class 2 twice, the loss stays."""
    x, y = golden()
    flat, labels = x.transpose(0, 1).reshape(1, 4, 24), y.reshape(1, 24)
    extra = (labels[0] == 2).nonzero().flatten()
    more, more_labels = torch.cat((flat, flat[..., extra]), 2), torch.cat((labels, labels[:, extra]), 1)
    torch.testing.assert_close(
        pixel_auc_loss(more, more_labels), pixel_auc_loss(flat, labels), rtol=0, atol=1e-14
    )
    # pooled rivals do depend on it, as cross-entropy does
    pooled = [pixel_auc_loss(*pair, scheme="ova") for pair in ((more, more_labels), (flat, labels))]
    entropy = [F.cross_entropy(*pair, ignore_index=255) for pair in ((more, more_labels), (flat, labels))]
    assert abs(pooled[0] - pooled[1]) > 1e-4
    assert abs(entropy[0] - entropy[1]) > 1e-4


def test_scale_of_the_weights_does_not_matter():
    x, y = golden()
    weight = torch.rand(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    for options in OPTIONS:
        one, seven = (pixel_auc_loss(x, y, weight=k * weight, **options) for k in (1, 7))
        torch.testing.assert_close(one, seven, rtol=0, atol=1e-14)
        torch.testing.assert_close(gradient(one, x), gradient(seven, x), rtol=0, atol=1e-15)


def test_pooled_rivals_beside_a_class_of_nearly_all_weight():
    """Their share is summed without the class: 1e17 + 1 - 1e17 is 0 in float64."""
    x, y = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(0)).double(), [[0, 0, 1, 1, 2, 2]]
    weight = torch.tensor([[1e17, 1e17, 1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    found = pixel_auc_loss(x, torch.tensor(y), scheme="ova", weight=weight)
    expected = ref.pixel_auc_loss(x, torch.tensor(y), scheme="ova", weight=weight)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_a_class_without_weight_is_absent():
    x, y = golden()
    loss = pixel_auc_loss(x, y, weight=(y != 1).double())
    torch.testing.assert_close(loss, pixel_auc_loss(x, y.masked_fill(y == 1, 255)), rtol=0, atol=1e-15)
    assert gradient(loss, x)[:, 1].abs().max() == 0


def test_a_small_class_can_be_left_out():
    x, y = golden()  # 7, 8 and 7 pixels
    torch.testing.assert_close(pixel_auc_loss(x, y, min_pixels=7), pixel_auc_loss(x, y), rtol=0, atol=0)
    assert pixel_auc_loss(x, y, min_pixels=8).item() == 0
    y = y.clone()
    y[0, 0, 1] = 255  # now 6 of class 0
    without = pixel_auc_loss(x, y.masked_fill(y == 0, 255))
    torch.testing.assert_close(pixel_auc_loss(x, y, min_pixels=7), without, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_integer_types_of_labels(dtype):
    x, y = golden()
    torch.testing.assert_close(pixel_auc_loss(x, y.to(dtype)), pixel_auc_loss(x, y), rtol=0, atol=0)


@pytest.mark.parametrize("layout", ["channels_last", "permuted", "expanded"])
@pytest.mark.parametrize("options", OPTIONS)
def test_strides_do_not_matter(layout, options):
    x, y = golden()
    plain = x.detach()
    if layout == "expanded":  # every image the same
        plain = plain[:1].repeat(2, 1, 1, 1)
    strided = {
        "channels_last": lambda: plain.contiguous(memory_format=torch.channels_last),
        "permuted": lambda: plain.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        "expanded": lambda: plain[:1].expand(2, -1, -1, -1),
    }[layout]()
    assert not strided.is_contiguous()
    grads = []
    for z in (strided.requires_grad_(), plain.clone(memory_format=torch.contiguous_format).requires_grad_()):
        loss = pixel_auc_loss(z, y, **options)
        grads.append((loss.detach(), gradient(loss, z)))
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=1e-15)


@pytest.mark.parametrize("ignore_index", [-100, 3, 0])
def test_any_label_can_be_the_ignored_one(ignore_index):
    x, y = golden()
    expected = ref.pixel_auc_loss(x, y.masked_fill(y == ignore_index, 255))
    labels = y.masked_fill(y == 255, ignore_index)
    torch.testing.assert_close(
        pixel_auc_loss(x, labels, ignore_index=ignore_index), expected, rtol=0, atol=1e-14
    )


def test_upstream_gradient_scales():
    x, y = golden()
    torch.testing.assert_close(
        gradient(3 * pixel_auc_loss(x, y), x), 3 * gradient(pixel_auc_loss(x, y), x), rtol=0, atol=1e-16
    )


def test_never_negative_and_at_most_two():
    for seed in range(20):
        x, y, _ = random_case(seed)
        if x.shape[1] > 1:
            assert 0 <= pixel_auc_loss(x.float() * 50, y).item() <= 2 + 1e-6


def test_descent_reaches_zero():
    _, y = golden()
    x = torch.zeros(2, 4, 3, 4, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        loss = pixel_auc_loss(x, y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01
    assert (x[:, :3].argmax(1) == y)[y != 255].all()


def test_module_is_the_function():
    x, y = golden()
    options = {"surrogate": "exp", "scheme": "ova", "margin": 0.5, "min_pixels": 2}
    criterion = PixelAUCLoss(**options)
    assert criterion(x, y).item() == pixel_auc_loss(x, y, **options).item()
    weight = torch.ones(2, 3, 4)
    assert criterion(x, y, weight).item() == pytest.approx(criterion(x, y).item(), abs=1e-15)
    assert criterion(x, y.masked_fill(y == 255, 9), ignore_index=9).item() == criterion(x, y).item()
    assert "surrogate='exp', scheme='ova'" in repr(criterion)
    assert not list(criterion.parameters())


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4)])
def test_no_pixels(shape):
    x = torch.zeros(shape, requires_grad=True)
    loss = pixel_auc_loss(x, torch.zeros(shape[0], *shape[2:], dtype=torch.long))
    assert loss.item() == 0
    assert gradient(loss, x).shape == shape


def test_inputs_stay():
    x, y = golden()
    weight = torch.rand(2, 3, 4)
    before = x.detach().clone(), y.clone(), weight.clone()
    for options in OPTIONS:
        pixel_auc_loss(x, y, weight=weight, **options).backward()
    assert all(torch.equal(a, b) for a, b in zip((x.detach(), y, weight), before, strict=True))
