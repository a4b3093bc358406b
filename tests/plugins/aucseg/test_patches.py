"""Scaled, cropped patches against a scaled whole canvas, and the law of placement."""

from collections import Counter

import pytest
import torch
from torch.nn import functional as F

from graftkit.methods.aucseg.patches import cut_patch, nearest_index, write_patch
from graftkit.torch import TailMemoryBank
from tests.plugins.aucseg import reference as ref


def case(seed, height, width):
    rng = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=rng, dtype=torch.uint8)
    mask = torch.zeros(height, width, dtype=torch.bool)
    top, left = height // 3, width // 4
    mask[top : top + height // 2, left : left + width // 2] = (
        torch.rand(height // 2, width // 2, generator=rng) < 0.7
    )
    return image, mask


def scaled_mask(mask, ratio):
    rows, columns = (nearest_index(n, ratio) for n in mask.shape)
    return mask[rows][:, columns]


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.4, 0.75, 1, 1.5, 2.3])
@pytest.mark.parametrize("size", [(24, 31), (40, 20), (33, 33)])
def test_crop_of_the_scaled_picture(ratio, size):
    image, mask = case(0, *size)
    colours, whole = ref.scaled_canvas(image, mask, ratio)
    small = scaled_mask(mask, ratio)
    assert torch.equal(small, whole)
    patch = cut_patch(image, small, serial=0)
    box = (
        slice(patch.top, patch.top + patch.mask.shape[0]),
        slice(patch.left, patch.left + patch.mask.shape[1]),
    )
    assert torch.equal(patch.mask, whole[box])
    assert whole.sum() == patch.mask.sum()  # nothing outside the box
    assert (patch.image.double() - colours[:, box[0], box[1]]).abs().max() <= 0.5 + 1e-4  # rounded
    assert patch.canvas == tuple(whole.shape)


@pytest.mark.parametrize("ratio", [0.4, 0.75, 1.5])
@pytest.mark.parametrize("whole", [False, True])
def test_colours_are_those_of_torchs_interpolation(ratio, whole):
    image, mask = case(1, 30, 40)
    mask |= whole  # up to the border, beyond whose outermost centres there is nothing to interpolate
    image = image.double()
    small = scaled_mask(mask, ratio)
    patch = cut_patch(image, small, serial=0)
    scaled = F.interpolate(image[None], tuple(small.shape), mode="bilinear", align_corners=False)[0]
    box = scaled[:, patch.top :, patch.left :][:, : patch.mask.shape[0], : patch.mask.shape[1]]
    torch.testing.assert_close(patch.image, box, rtol=0, atol=1e-9)


@pytest.mark.parametrize("ratio", [0.4, 1, 1.6])
@pytest.mark.parametrize("corner", [(0, 0), (3, 5), (12, 20)])
def test_writing_equals_pasting_the_canvas(ratio, corner):
    image, mask = case(2, 24, 30)
    target, label = case(3, 24, 30)[0], torch.zeros(24, 30, dtype=torch.long)
    patch = cut_patch(image, scaled_mask(mask, ratio), serial=0)
    colours, whole = ref.scaled_canvas(image, mask, ratio)
    expected = ref.paste_canvas(target, label, colours, whole, 7, *corner)
    written = write_patch(target, label, patch, 7, corner)
    assert torch.equal(label, expected[1])
    assert written == int((label == 7).sum())
    assert (target.int() - expected[0].int()).abs().max() <= (0 if ratio == 1 else 1)


def test_single_pixel_and_vanishing_masks():
    image, _ = case(0, 10, 10)
    label = torch.zeros(10, 10, dtype=torch.long)
    label[9, 9] = 1
    bank = TailMemoryBank([1], sample_ratio=1, resize_ratio=1)
    bank.store(image, label)
    assert bank.nbytes == 4
    vanishing = TailMemoryBank([1], sample_ratio=1, resize_ratio=0.3)  # samples rows and columns 0, 3, 6
    vanishing.store(image, label)
    assert len(vanishing) == 0
    small = TailMemoryBank([1], sample_ratio=1, resize_ratio=1, min_pixels=2)
    small.store(image, label)
    assert len(small) == 0


@pytest.mark.parametrize("source", [(30, 40), (8, 40), (40, 8)])
def test_a_patch_larger_than_the_picture_is_cut(source):
    bank = TailMemoryBank([1], sample_ratio=1, resize_ratio=1)
    bank.store(torch.full((3, *source), 9, dtype=torch.uint8), torch.ones(source, dtype=torch.long))
    image, label, pasted = bank.paste(torch.zeros(3, 10, 12, dtype=torch.uint8), torch.zeros(10, 12).long())
    assert pasted == [1]
    assert (label == 1).sum() == min(source[0], 10) * min(source[1], 12)
    assert torch.equal(image[0] == 9, label == 1)


def test_an_object_beyond_a_smaller_picture_is_not_called_pasted():
    bank = TailMemoryBank([1], sample_ratio=1, resize_ratio=1)
    label = torch.zeros(20, 20, dtype=torch.long)
    label[15:, 15:] = 1
    bank.store(torch.zeros(3, 20, 20, dtype=torch.uint8), label)
    _, new_label, pasted = bank.paste(torch.zeros(3, 10, 10, dtype=torch.uint8), torch.zeros(10, 10).long())
    assert pasted == []
    assert (new_label == 0).all()


def test_tiny_pictures_at_a_small_ratio():
    bank = TailMemoryBank([1], sample_ratio=1, resize_ratio=0.1)
    bank.store(torch.zeros(3, 3, 3, dtype=torch.uint8), torch.ones(3, 3, dtype=torch.long))
    assert bank.nbytes == 4  # one pixel


def test_small_canvases_land_everywhere_they_fit():
    """Ratio 0.4 of 10 x 15: a canvas of 4 x 6, so 7 x 10 corners, all alike."""
    label = torch.zeros(10, 15, dtype=torch.long)
    label[0, 0] = 1  # stays at the canvas's corner
    bank = TailMemoryBank([1], sample_ratio=1, resize_ratio=0.4, seed=0)
    bank.store(torch.full((3, 10, 15), 5, dtype=torch.uint8), label)
    corners = Counter()
    for _ in range(3000):
        _, new, _ = bank.paste(torch.zeros(3, 10, 15, dtype=torch.uint8), torch.zeros(10, 15).long())
        ((y, x),) = (new == 1).nonzero().tolist()
        corners[y, x] += 1
    assert set(corners) == {(y, x) for y in range(7) for x in range(10)}
    assert max(corners.values()) < 2.2 * 3000 / 70
