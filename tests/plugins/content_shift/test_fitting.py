"""Assigners trained on labelled maps: they find the variant that knows, and touch nothing else."""

import pytest
import torch

from graftkit.methods.content_shift import FeatureAmalgamation, fit_amalgamation


def planted(n=24, channels=4, size=6, seed=0):
    """Variant 1 of 3 holds the label in every channel, the others hold noise of the same spread."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (n, size, size), generator=generator)
    maps = torch.randn(n, 3, channels, size, size, generator=generator)
    maps[:, 1] = (2.0 * labels[:, None] - 1) + 0.1 * maps[:, 1]
    # What tells the variants apart without the labels: a mark in the first channel.
    maps[:, :, 0] += torch.tensor([0.0, 3.0, -3.0])[:, None, None]
    return maps, labels


@pytest.mark.parametrize("kind", ["conv", "pixel"])
def test_the_variant_that_knows_gets_the_weight(kind):
    maps, labels = planted()
    blend = FeatureAmalgamation(4, 3, kind=kind, weights="scalar", dropout=0.0)
    losses = fit_amalgamation(blend, maps, labels, steps=120, lr=1e-2, random_state=0)
    weights = blend.assign(maps).mean((0, 1))  # (b, C)
    assert weights[1].min() > 0.6  # one third to begin with
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_a_seed_decides_and_the_global_generator_rests():
    maps, labels = planted(6)
    state = torch.get_rng_state()
    runs = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            blend = FeatureAmalgamation(4, 3)
        runs.append(fit_amalgamation(blend, maps, labels, steps=4, random_state=seed))
    assert runs[0] == runs[1] != runs[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_global_generators_are_seeded_nowhere(monkeypatch):
    """torch.manual_seed reaches every device's generator, fork_rng puts back those it was told of."""

    def forbidden(*_):
        raise AssertionError("a global generator was seeded")

    maps, labels = planted(6)
    blend = FeatureAmalgamation(4, 3)
    monkeypatch.setattr(torch, "manual_seed", forbidden)
    monkeypatch.setattr(torch.cuda, "manual_seed", forbidden)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", forbidden)
    before = torch.get_rng_state()
    fit_amalgamation(blend, maps, labels, steps=2, random_state=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_unlabelled_pixels_do_not_count():
    maps, labels = planted(6)
    losses = []
    for change in (0, 50):
        some, marked = maps.clone(), labels.clone()
        marked[:, :3] = 9
        with torch.random.fork_rng():
            torch.manual_seed(0)
            blend = FeatureAmalgamation(4, 3, kind="pixel", dropout=0.0)
        target = marked.clone()
        if change:
            target[:, :3] = 77
        losses.append(
            fit_amalgamation(blend, some, target, steps=3, random_state=0, ignore_index=77 if change else 9)
        )
    assert losses[0] == losses[1]


def test_the_penalty_is_part_of_the_loss():
    maps, labels = planted(6)
    blends = []
    for sparsity in (0.0, 20.0):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            blend = FeatureAmalgamation(4, 3, sparsity=sparsity, dropout=0.0)
        fit_amalgamation(blend, maps, labels, steps=40, lr=1e-2, random_state=0)
        blends.append(torch.linalg.vector_norm(blend.assign(maps), dim=2).mean())
    assert blends[1] > blends[0] + 0.02


def test_no_batch_is_left_in_training_mode():
    blend = FeatureAmalgamation(4, 3)
    maps, labels = planted(3)
    fit_amalgamation(blend, maps, labels, steps=1, random_state=0)
    assert not blend.training


MAPS, LABELS = planted(4)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"blend": torch.nn.Identity()}, TypeError, "blend: expected a FeatureAmalgamation"),
        ({"blend": FeatureAmalgamation(4, 3, kind="mean")}, ValueError, "assigners to train"),
        ({"maps": MAPS.long()}, TypeError, "maps: expected a floating-point tensor"),
        ({"maps": MAPS[:, :2]}, ValueError, "num_features=3"),
        ({"maps": MAPS / 0}, ValueError, "maps: expected finite"),
        ({"maps": MAPS[:1], "labels": LABELS[:1]}, ValueError, "at least 2 images"),
        ({"labels": LABELS.float()}, TypeError, "labels: expected a tensor of integers"),
        ({"labels": LABELS > 0}, TypeError, "labels: expected a tensor of integers"),
        ({"labels": LABELS[:2]}, ValueError, r"labels: expected shape \(4, H, W\)"),
        ({"labels": torch.full_like(LABELS, 255)}, ValueError, "labels: expected classes from 0 on"),
        ({"labels": LABELS - 1}, ValueError, "labels: expected classes from 0 on"),
        ({"steps": 0}, ValueError, "steps"),
        ({"batch_size": 1}, ValueError, "batch_size"),
        ({"lr": 0.0}, ValueError, "lr"),
    ],
)
def test_bad_input_leaves_the_module_alone(change, error, words):
    blend = FeatureAmalgamation(4, 3).train()
    before = {name: value.clone() for name, value in blend.state_dict().items()}
    arguments = {"blend": blend, "maps": MAPS, "labels": LABELS, "steps": 2, **change}
    with pytest.raises(error, match=words):
        fit_amalgamation(arguments.pop("blend"), arguments.pop("maps"), arguments.pop("labels"), **arguments)
    assert blend.training
    assert all(torch.equal(before[name], value) for name, value in blend.state_dict().items())
