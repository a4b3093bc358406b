"""Scenes whose prompts tell them apart, and the training of what steers a denoiser."""

import numpy as np
import pytest
import torch

from graftkit.methods.content_shift.data import (
    COLOURS,
    OBJECT_CLASSES,
    label_prompts,
    object_scenes,
    scene_words,
)
from graftkit.methods.content_shift.training import train_steering


def test_prompts_say_what_the_pictures_show():
    images, labels, prompts = object_scenes(40, random_state=0)
    assert images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1
    assert len(set(prompts)) > 20
    for image, label, prompt in zip(images, labels, prompts, strict=True):
        colour_1, kind_1, colour_2, kind_2 = prompt.split()
        assert {colour_1, kind_1, colour_2, kind_2} <= set(scene_words())
        codes = [OBJECT_CLASSES.index(kind) for kind in (kind_1, kind_2)]
        assert set(np.unique(label)) == {0, *codes}
        for code, colour in zip(codes, (colour_1, colour_2), strict=True):
            brightest = image[:, label == code].max(1)
            target = np.array(COLOURS[colour])
            assert np.abs(brightest / brightest.max() - target / target.max()).max() < 0.05
        columns = [np.nonzero(label == code)[1].mean() for code in codes]
        assert columns[0] < columns[1]


def test_a_seed_decides_the_scenes():
    first, again, other = (object_scenes(3, random_state=seed) for seed in (1, 1, 2))
    assert np.array_equal(first[0], again[0])
    assert first[2] == again[2]
    assert not np.array_equal(first[0], other[0])


def test_label_prompts_name_what_is_there():
    labels = np.array([[[0, 2], [255, 2]], [[255, 255], [255, 255]]])
    assert label_prompts(labels, ("sky", "road", "car")) == ["sky car", ""]
    with pytest.raises(ValueError, match="labels: expected labels 0 to 1"):
        label_prompts(labels, ("sky", "road"))
    with pytest.raises(ValueError, match=r"labels: expected shape \(N, H, W\)"):
        label_prompts(labels[0], ("sky",))
    with pytest.raises(ValueError, match="size"):
        object_scenes(1, (20, 64))


def test_steering_is_the_denoising_loss_on_the_given_rows():
    latents = torch.zeros(1, 1, 1, 2)
    seen = []

    def predict(noisy, time, control):
        seen.append((noisy.clone(), time.clone(), control))
        return gain * noisy

    gain = torch.nn.Parameter(torch.zeros(1))
    rest = torch.nn.Parameter(torch.ones(1))
    losses = train_steering(
        predict, [gain], latents, (torch.full((1, 3), 7.0),), steps=200, batch_size=4, lr=0.05, random_state=0
    )
    assert gain.item() > 0.7  # of noise alone nearly all is to be kept
    assert rest.item() == 1
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
    noisy, time, control = seen[0]
    assert noisy.shape == (4, 1, 1, 2)
    assert time.dtype == torch.long
    assert control.shape == (4, 3)
    assert (control == 7).all()


def test_rows_of_latents_and_conditions_belong_together():
    latents = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 1, 2, 2) * 1000

    def predict(noisy, _time, control):
        # At these sizes noise is small beside all clean values but 0.
        pairs.extend(zip(noisy.mean((1, 2, 3)).tolist(), control.tolist(), strict=True))
        return noisy * gain

    pairs = []
    gain = torch.nn.Parameter(torch.zeros(1))
    train_steering(predict, [gain], latents, (torch.arange(5.0),), steps=5, random_state=0)
    assert all((abs(value) < 10) == (control == 0) for value, control in pairs)
    assert len({control for _, control in pairs}) == 5


def test_a_seed_decides_the_training_and_the_global_generator_rests():
    state = torch.get_rng_state()
    runs = []
    for seed in (0, 0, 1):
        gain = torch.nn.Parameter(torch.zeros(1))
        runs.append(
            train_steering(
                lambda noisy, _, gain=gain: noisy * gain, [gain], torch.ones(4, 1, 2, 2), steps=3,
                random_state=seed,
            )
        )  # fmt: skip
    assert runs[0] == runs[1] != runs[2]
    assert torch.equal(torch.get_rng_state(), state)


GAIN = torch.nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parameters": []}, "parameters: expected at least one"),
        ({"latents": torch.zeros(2, 3, 4)}, r"latents: expected shape \(N, C, H, W\)"),
        ({"latents": torch.zeros(0, 1, 2, 2)}, r"latents: expected shape \(N, C, H, W\)"),
        ({"conditions": (torch.zeros(3),)}, "conditions: expected 2 rows"),
        ({"steps": 0}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"lr": -1.0}, "lr"),
    ],
)
def test_bad_training_input(change, words):
    arguments = {"parameters": [GAIN], "latents": torch.zeros(2, 1, 2, 2), "steps": 1, **change}
    with pytest.raises(ValueError, match=words):
        train_steering(lambda n, *_: n * GAIN, **arguments)
    assert GAIN.item() == 0
