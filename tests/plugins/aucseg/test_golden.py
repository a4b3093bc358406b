"""Golden values of the specification (section 5.1), to 1e-12, and cases worked by hand."""

import math

import pytest
import torch

from graftkit.torch import pixel_auc_loss
from tests.plugins.aucseg import reference as ref
from tests.plugins.aucseg.cases import golden, gradient

B, H, W = torch.meshgrid(*map(torch.arange, (2, 3, 4)), indexing="ij")


@pytest.mark.parametrize(
    ("value", "options"),
    [
        (0.624732064186708, {}),
        (0.203438872615324, {"margin": 0.5}),
        (0.641740918862420, {"activation": "softmax"}),
        (1.092586383142768, {"surrogate": "hinge"}),
        (1.127287013622062, {"surrogate": "exp"}),
        (1.054623607655942, {"surrogate": "exp", "margin": 0.5}),
        (0.623270657036058, {"scheme": "ova"}),
        (0.639888067504134, {"scheme": "ova", "activation": "softmax"}),
        (0.663824420585253, {"weight": 1 + (H + W) % 3}),
        (0.621608858651814, {"weight": (H + W) % 2}),
    ],
)
def test_values(value, options):
    x, y = golden()
    assert pixel_auc_loss(x, y, **options).item() == pytest.approx(value, abs=1e-12, rel=0)
    assert ref.pixel_auc_loss(x, y, **options).item() == pytest.approx(value, abs=1e-12, rel=0)


def test_weights_of_zero_equal_ignored_pixels():
    x, y = golden()
    ignored = y.masked_fill((H + W) % 2 == 0, 255)
    assert pixel_auc_loss(x, ignored).item() == pytest.approx(0.621608858651814, abs=1e-12, rel=0)


@pytest.mark.parametrize(("channels", "value"), [(1, 0.569667615997357), (2, 0.544961855393036)])
def test_binary(channels, value):
    x, y = golden()
    binary = (y == 1).long().masked_fill(y == 255, 255)
    assert pixel_auc_loss(x[:, :channels], binary).item() == pytest.approx(value, abs=1e-12, rel=0)


def test_joint_batch_is_not_the_mean_of_its_images():
    x, y = golden()
    single = [pixel_auc_loss(x[b : b + 1], y[b : b + 1]).item() for b in (0, 1)]
    assert sum(single) / 2 == pytest.approx(0.626787843547357, abs=1e-12, rel=0)


def test_gradient():
    x, y = golden()
    grad = gradient(pixel_auc_loss(x, y), x)
    found = [grad.norm(), grad.sum(), grad[0, 0, 0, 1], grad[1, 2, 0, 3], grad.abs().max()]
    expected = [0.063954935108935, -1.449928866736794e-02, -0.012559788751479, 0.005878137270606,
                0.012911233747892]  # fmt: skip
    assert [v.item() for v in found] == pytest.approx(expected, abs=1e-12, rel=0)
    assert grad[:, 3].abs().max() == 0  # the absent class
    assert grad[0, :, 0, 0].abs().max() == 0  # ignored pixels
    assert grad[1, :, 2, 3].abs().max() == 0


def test_softmax_gradient_reaches_absent_classes():
    x, y = golden()
    grad = gradient(pixel_auc_loss(x, y, activation="softmax"), x)
    assert grad.norm().item() == pytest.approx(0.063607987900664, abs=1e-12, rel=0)
    assert grad[0, 3, 0, 1].item() == pytest.approx(-0.001326886539930, abs=1e-12, rel=0)
    assert grad[0, :, 0, 0].abs().max() == 0


def test_class_means():
    x, y = golden()
    table = ref.class_means(x.detach().sigmoid(), y, [0, 1, 2])
    expected = [[0.441394674599, 0.615713781455, 0.517494190172],
                [0.477602662603, 0.490472743918, 0.509527256082],
                [0.584981872842, 0.482505809828, 0.384286218545]]  # fmt: skip
    torch.testing.assert_close(table, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    # hinge is the mean gap alone: 1 - mean over i of (mu_ii - mean over j != i of mu_ji)
    gaps = [table[i, i] - (table[:, i].sum() - table[i, i]) / 2 for i in range(3)]
    hinge = 1 - torch.stack(gaps).mean().item()
    assert pixel_auc_loss(x, y, surrogate="hinge").item() == pytest.approx(hinge, abs=1e-12)


@pytest.mark.parametrize(("surrogate", "value"), [("square", 0.5), ("exp", 1.0), ("hinge", 1.0)])
def test_equal_logits(surrogate, value):
    _, y = golden()  # every gap is 0: 1/2 (1 - 0)^2, exp(0), max(0, 1 - 0)
    assert pixel_auc_loss(torch.zeros(2, 4, 3, 4), y, surrogate=surrogate).item() == pytest.approx(
        value, abs=1e-6
    )


@pytest.mark.parametrize(("sign", "value"), [(1, 0.0), (-1, 2.0)])
def test_perfect_and_inverted(sign, value):
    _, y = golden()  # gaps of 1: 1/2 (1 - 1)^2; gaps of -1: 1/2 (1 + 1)^2
    x = torch.full((2, 4, 3, 4), -40.0)
    x.scatter_(1, y.clamp(max=3)[:, None], 40.0)
    assert pixel_auc_loss(sign * x, y).item() == pytest.approx(value, abs=1e-12)


def test_two_pixels_by_hand():
    """Scores 3/4 and 1/4 (logits +-log 3): gaps 1/2 in map 0 and -1/2 in map 1."""
    t = math.log(3.0)
    x = torch.tensor([[[t, -t], [t, -t]]], dtype=torch.float64)
    y = torch.tensor([[0, 1]])
    # 1/2 [1/2 (1 - 1/2)^2 + 1/2 (1 + 1/2)^2] = 1/2 [1/8 + 9/8] = 5/8
    assert pixel_auc_loss(x, y).item() == pytest.approx(0.625, abs=1e-14)
    # the exponential form averages exp(-1/2) and exp(1/2): cosh(1/2)
    assert pixel_auc_loss(x, y, surrogate="exp").item() == pytest.approx(math.cosh(0.5), abs=1e-14)


@pytest.mark.parametrize("surrogate", ["square", "hinge", "exp"])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("fill", [1, 255])
def test_one_class_or_none_is_zero_on_the_graph(surrogate, activation, fill):
    x, _ = golden()
    y = torch.full((2, 3, 4), fill)
    y[0, 0, 0] = 1 if fill == 1 else 255
    loss = pixel_auc_loss(x, y, surrogate=surrogate, activation=activation)
    assert loss.item() == 0
    assert loss.requires_grad
    assert gradient(loss, x).abs().max() == 0
