"""The transcription that AUCSeg is timed against does what the published procedure does, defects included."""

import math

import torch

from graftkit.torch import pixel_auc_loss
from tests.benchmarks import published_aucseg as published


def test_its_loss_is_ours():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, 9, 7, generator=rng)
    target = torch.randint(0, 5, (2, 9, 7), generator=rng)  # class 5 is absent
    target[0, :2] = 255
    found = []
    for loss in (published.square_auc_loss, pixel_auc_loss):
        x = logits.clone().requires_grad_()
        value = loss(x, target)
        found.append((value.detach(), torch.autograd.grad(value, x)[0]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)


def test_its_loss_of_one_class_is_nan():
    assert math.isnan(published.square_auc_loss(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2).long()))


def test_its_bank_stores_what_it_pasted_later():
    """Class 2's entry shows class 1's pixels, pasted into the picture that it refers to."""
    bank = published.Bank([1, 2], memory_size=5, sample_ratio=1, resize_ratio=1)
    first, second = torch.zeros(8, 8).long(), torch.zeros(8, 8).long()
    first[2:5, 2:5], second[1:6, 1:6] = 1, 2
    bank(torch.full((3, 8, 8), 1.0), first)
    image, label = bank(torch.full((3, 8, 8), 2.0), second)
    assert (label[2:5, 2:5] == 1).all()
    ((stored, pixels),) = bank.memory[2]
    assert set(stored[0][pixels[:, 0], pixels[:, 1]].tolist()) == {1.0, 2.0}
    assert stored is image
