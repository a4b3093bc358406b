"""The transforms: shapes, ranges, one draw an image or a batch, exactness, gradients."""

import pytest
import torch

from graftkit.methods.qedg.transforms import flip, transform_batch

NAMES = ("none", "turns", "digits", "photo", "photo_loop")


def images(n=6, c=3, h=12, w=12, seed=0):
    return torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(seed))


def apply(name, x, seed=0, each=True):
    return transform_batch(name, x, torch.Generator().manual_seed(seed), each=each)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (5, 3, 9, 14), (4, 2, 4, 4), (0, 1, 8, 8)])
def test_shape_range_and_repetition(name, shape):
    x = images(*shape)
    moved = apply(name, x, 1)
    assert moved.shape == x.shape
    assert torch.equal(moved, apply(name, x, 1))
    assert torch.isfinite(moved).all()
    if len(x):
        assert moved.min() >= 0
        assert moved.max() <= 1 + 1e-6


@pytest.mark.parametrize("name", NAMES[1:])
def test_one_draw_an_image_or_one_for_all(name):
    x = images(1).expand(20, -1, -1, -1)
    together = apply(name, x, each=False)
    assert all(torch.allclose(image, together[0], atol=1e-6) for image in together)
    apart = apply(name, x, each=True)
    assert len({image.numpy().tobytes() for image in apart}) > 10
    assert not torch.equal(apply(name, x, 1), apply(name, x, 2))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_flow(name):
    x = images().requires_grad_(True)
    apply(name, x, each=False).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().sum() > 0


def test_turns_move_whole_pixels():
    """Every value comes from the image itself or is a zero of the border; nothing is mixed."""
    x = images(200, 1, 8, 8) + 0.001
    moved = apply("turns", x)
    for before, after in zip(x, moved, strict=True):
        inside = after[after != 0]
        assert torch.isin(inside, before).all()
        assert len(inside) >= 36  # shifts of up to 2 of 8 pixels each way
        assert len(set(inside.tolist())) == len(inside)
    # All eight positions of a corner occur, and so does every shift.
    marked = torch.zeros(400, 1, 8, 8)
    marked[:, 0, 2, 3] = 1
    places = {tuple(row) for row in apply("turns", marked).nonzero()[:, 2:].tolist()}
    assert (
        places
        == {(r, c) for r in range(8) for c in range(8) if r + c not in (0, 14) and abs(r - c) != 7} & places
    )
    assert len(places) > 40


def test_turns_keep_a_non_square_shape_by_half_turns_only():
    x = images(50, 1, 6, 10) + 0.001
    for before, after in zip(x, apply("turns", x), strict=True):
        assert torch.isin(after[after != 0], before).all()


def test_digits_turn_by_at_least_a_quarter():
    """A bright left edge never stays where it was: rotation is 90 to 180 degrees, flips swap sides."""
    x = torch.zeros(100, 1, 28, 28)
    x[:, :, 14, 13:15] = 1.0
    moved = apply("digits", x)
    assert moved.amax((1, 2, 3)).min() > 0.2
    # The centre moves by at most the shift of 4 pixels each way, turned: 5.7, and one by resampling.
    rows = torch.arange(28.0)[:, None].expand(28, 28)
    centre = (moved[:, 0] * rows).sum((1, 2)) / moved[:, 0].sum((1, 2))
    assert (centre - 13.5).abs().max() < 6.7
    assert centre.std() > 1.5


def test_a_rotation_is_rigid_on_a_non_square_image():
    from graftkit.methods.qedg.transforms import _geometry

    x = torch.zeros(1, 1, 16, 32)
    x[0, 0, 8, 18:24] = 1.0
    turned = _geometry(x, torch.Generator().manual_seed(3), 1, flips=0.0, angle=torch.tensor([90.0]), shift=0)
    assert turned.sum().item() == pytest.approx(6.0, abs=0.6)
    rows, columns = torch.nonzero(turned[0, 0] > 0.4).unbind(1)
    assert columns.unique().numel() <= 2
    assert rows.max() - rows.min() in (4, 5, 6)


def test_turning_the_hue_keeps_the_brightness_and_comes_back():
    from graftkit.methods.qedg.transforms import _turn_hue

    x, turn = images(4).double(), torch.full((4, 1, 1, 1), 0.2).double()
    moved = _turn_hue(x, turn)
    weights = torch.tensor([0.299, 0.587, 0.114]).double()
    assert torch.allclose(
        torch.einsum("c,bchw->bhw", weights, moved), torch.einsum("c,bchw->bhw", weights, x)
    )
    assert torch.allclose(_turn_hue(moved, -turn), x)
    assert not torch.allclose(moved, x, atol=0.05)
    grey = images(4, 1).double().expand(-1, 3, -1, -1)
    assert torch.allclose(_turn_hue(grey, turn), grey, atol=2e-3)


def test_flips():
    x = torch.arange(4.0).reshape(1, 1, 2, 2)
    assert flip(x, "hflip").flatten().tolist() == [1, 0, 3, 2]
    assert flip(x, "vflip").flatten().tolist() == [2, 3, 0, 1]


def test_a_callable_gets_images_and_generator():
    x, random, given = images(), torch.Generator(), []

    def mirrored(a, g):
        given.extend((a is x, g is random))
        return a.flip(3)

    assert torch.equal(transform_batch(mirrored, x, random, each=True), x.flip(3))
    assert given == [True, True]


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (lambda a, g: a[:, :, :4], r"transform: expected a callable that keeps shape \(6, 3, 12, 12\)"),  # noqa: ARG005
        (lambda a, g: a.numpy(), "keeps shape"),  # noqa: ARG005
        (lambda a, g: None, "keeps shape .* got None"),  # noqa: ARG005
        (lambda a, g: a / 0, "transform: expected a callable that gives finite values"),  # noqa: ARG005
    ],
)
def test_a_callable_that_gives_no_images_is_refused(transform, words):
    with pytest.raises(ValueError, match=words):
        transform_batch(transform, images(), torch.Generator(), each=True)
