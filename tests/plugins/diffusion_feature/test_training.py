"""Generated scenes, components, baselines, the denoiser's training, splits."""

import numpy as np
import pytest
import torch

from graftkit.methods.diffusion_feature import RidgeProbe
from graftkit.methods.diffusion_feature.data import pixel_baselines, principal_images, shape_scenes
from graftkit.methods.diffusion_feature.noise import STEPS, diffuse_at_random, stable_diffusion_alphas
from graftkit.methods.diffusion_feature.ranking import make_probe, read_splits, score_maps
from graftkit.methods.diffusion_feature.training import class_tokens, train_denoiser


def test_scenes_are_seeded_and_show_every_class():
    images, labels = shape_scenes(20, random_state=0)
    again, _ = shape_scenes(20, random_state=0)
    assert (images == again).all()
    assert images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1
    shares = np.bincount(labels.ravel(), minlength=4) / labels.size
    assert (shares > 0.03).all()
    assert shares[0] > 0.5


def test_position_says_nothing_in_generated_scenes_and_colour_something():
    images, labels = shape_scenes(60, random_state=0)
    splits = [(list(range(40)), list(range(40, 60)))]
    found = {
        name: score_maps(maps, list(labels), splits, RidgeProbe())[0]
        for name, maps in pixel_baselines(images).items()
    }
    assert found["position"] < 0.27  # one of four classes everywhere is at most 0.25
    assert found["RGB 5x5"] > found["position"] + 0.05


def test_baselines_by_hand():
    images = np.arange(2 * 3 * 16.0).reshape(2, 3, 4, 4)
    found = pixel_baselines(images)
    assert found["RGB 5x5"][1].shape == (75, 4, 4)
    assert (found["RGB 5x5"][1][36:39] == images[1]).all()  # the centre of 25
    assert found["RGB 5x5"][0][0, 0, 0] == images[0, 0, 0, 0]  # beyond the border: the border
    assert found["position"][0][:, 0, 3].tolist() == [-1, 1, 1, 1, -1]
    assert found["position + RGB 5x5"][0].shape == (80, 4, 4)


def test_components_show_the_direction_of_largest_variance():
    rng = np.random.default_rng(0)
    code = rng.normal(size=(2, 6, 5))
    maps = np.stack([3 * code, -3 * code, *(0.1 * rng.normal(size=(3, 2, 6, 5)))], axis=1)
    colours = principal_images(maps)
    assert colours.shape == (2, 6, 5, 3)
    assert 0 <= colours.min() <= colours.max() <= 1
    assert abs(np.corrcoef(colours[..., 0].ravel(), code.ravel())[0, 1]) > 0.98
    with pytest.raises(ValueError, match="maps: expected shape"):
        principal_images(maps[:, :2])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((0,), ValueError, "n_images: expected an integer >= 1"),
        ((1.0,), TypeError, "n_images: expected an integer"),
        ((1, (8, 64)), ValueError, "size: expected an integer >= 16"),
    ],
)
def test_scene_arguments_are_checked(arguments, error, words):
    with pytest.raises(error, match=words):
        shape_scenes(*arguments)


def test_tokens_say_which_classes_are_there():
    labels = torch.tensor([[[0, 2]], [[255, 1]]])
    found = class_tokens(labels, 3)
    assert found.shape == (2, 3, 3)
    assert found.diagonal(dim1=1, dim2=2).tolist() == [[1, -1, 1], [-1, 1, -1]]
    assert found.abs().sum() == 6


class Linear(torch.nn.Module):
    """The best linear guess of the noise."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def forward(self, noisy, time, tokens=None):
        self.seen.append((noisy.shape, time, tokens))
        return (self.gain * noisy,)


def test_training_lowers_the_loss_is_seeded_and_private():
    latents = 0.01 * torch.ones(5, 2, 4, 4)
    state = torch.get_rng_state()
    models = [Linear(), Linear()]
    losses = [train_denoiser(m, latents, steps=150, lr=0.1, random_state=0) for m in models]
    assert torch.equal(torch.get_rng_state(), state)
    assert losses[0] == losses[1]
    # Of nearly pure noise at level a, noise = noisy / sqrt(1 - a): a gain above 1, and a loss far below 1.
    assert models[0].gain > 1
    assert np.mean(losses[0][-20:]) < 0.3 < losses[0][0]
    assert not models[0].training
    times = torch.cat([time for _, time, _ in models[0].seen])
    assert times.min() >= 0
    assert times.max() <= 999
    assert len(times.unique()) > 400


def test_conditions_follow_their_samples_and_are_dropped():
    latents = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    tokens = torch.arange(1.0, 5.0).view(4, 1, 1)
    model = Linear()
    train_denoiser(model, latents, tokens, steps=40, drop=0.5, flip=False, random_state=0)
    kept = torch.cat([t.flatten() for *_, t in model.seen])
    assert set(kept.tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert 0.35 < (kept == 0).float().mean() < 0.65


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"steps": 0}, ValueError, "steps: expected an integer >= 1"),
        ({"batch_size": 0}, ValueError, "batch_size: expected"),
        ({"lr": 0}, ValueError, "lr: expected a finite number > 0"),
        ({"drop": 1.5}, ValueError, "drop: expected"),
        ({"latents": torch.zeros(2, 3)}, ValueError, r"latents: expected shape \(N, C, H, W\)"),
        ({"tokens": torch.zeros(3, 1, 1)}, ValueError, "with as many tokens"),
        ({"steps": 1.5}, TypeError, "steps: expected an integer"),
    ],
)
def test_training_arguments_are_checked(change, error, words):
    arguments = {"latents": torch.zeros(2, 1, 2, 2), "steps": 1, **change}
    with pytest.raises(error, match=words):
        train_denoiser(Linear(), arguments.pop("latents"), **arguments)


def test_folds_partition_the_images():
    splits = read_splits(3, 8, np.random.default_rng(0))
    assert sorted(i for _, test in splits for i in test) == list(range(8))
    assert all(sorted(train + test) == list(range(8)) for train, test in splits)


def test_probes_are_copied_and_scores_are_set_level():
    """Two test images: class 0 right in one, class 1 in the other; per-image means would differ."""
    maps = [np.array([[[0.0, 1.0]]]), np.array([[[0.0, 0.0]]]), np.array([[[1.0, 0.0]]])]
    labels = [np.array([[0, 1]]), np.array([[0, 0]]), np.array([[1, 1]])]
    probe = RidgeProbe()
    assert score_maps(maps, labels, [([0], [1, 2])], probe) == [pytest.approx((2 / 3 + 1 / 2) / 2)]
    assert not hasattr(probe, "classes_")
    assert make_probe("logistic").steps[-1][1].max_iter == 300


def test_noise_of_training_is_the_schedules_by_loops():
    clean = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noisy, time, noise = diffuse_at_random(clean, torch.Generator().manual_seed(2))
    drawn = torch.Generator().manual_seed(2)
    assert time.tolist() == torch.randint(STEPS, (5,), generator=drawn).tolist()
    assert torch.equal(noise, torch.randn(clean.shape, generator=drawn, dtype=torch.float64))
    for k in range(5):
        share = float(stable_diffusion_alphas()[time[k]])
        for place in np.ndindex(2, 3, 3):
            expected = share**0.5 * float(clean[k][place]) + (1 - share) ** 0.5 * float(noise[k][place])
            assert float(noisy[k][place]) == pytest.approx(expected, abs=1e-12)
