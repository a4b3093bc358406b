"""Generators, candidates, filter and training: what is frozen and kept, and the plain loop as a limit."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from graftkit.methods.qedg import QEDGConfig
from graftkit.methods.qedg.generation import DivergenceError, GeneratedQueries
from graftkit.methods.qedg.generators import DoublingConv2d, make_generator, reinitialise
from graftkit.methods.qedg.modes import frozen
from graftkit.methods.qedg.pool import Pool, quantise, unit
from graftkit.methods.qedg.streams import private_torch, stream
from graftkit.methods.qedg.training import fit_substitute, free_augmentation
from tests.plugins.qedg.cases import (
    TINY,
    auditor,
    batch_norm_network,
    evaluation,
    network,
    quadrants,
    weights,
)

CPU = torch.device("cpu")
PLAIN = replace(TINY, loop_transform="none", query_transform="turns")


def pool(n=20, seed=0, classes=4):
    random = torch.Generator().manual_seed(seed)
    filled = Pool(n, (1, 8, 8), quantised=True)
    images = torch.randint(256, (n, 1, 8, 8), generator=random, dtype=torch.uint8)
    filled.add(images, torch.randint(classes, (n,), generator=random))
    return filled


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (3, 32, 32), (2, 10, 13), (1, 4, 4), (5,)])
def test_generators_make_the_shape_within_zero_and_one(shape):
    generator = make_generator(shape, 6, 8)
    reinitialise(generator, torch.Generator().manual_seed(0))
    made = generator(torch.randn(7, 6))
    assert made.shape == (7, *shape)
    assert made.is_contiguous()
    assert made.min() >= 0
    assert made.max() <= 1


def test_the_published_layers_of_the_generator():
    kinds = [type(layer).__name__ for layer in make_generator((1, 28, 28), 512, 128).modules()]
    assert kinds[2:] == [
        "Sequential", "BatchNorm2d", "DoublingConv2d", "BatchNorm2d", "LeakyReLU", "DoublingConv2d",
        "BatchNorm2d", "LeakyReLU", "Conv2d", "Sigmoid",
    ]  # fmt: skip
    sizes = [
        tuple(p.shape) for n, p in make_generator((1, 28, 28), 512, 128).named_parameters() if "weight" in n
    ]
    assert sizes == [(6272, 512), (128,), (128, 128, 3, 3), (128,), (64, 128, 3, 3), (64,), (1, 64, 3, 3)]


@pytest.mark.parametrize("shape", [(3, 2, 1, 1), (4, 3, 5, 7), (2, 6, 8, 8)])
def test_upsampling_and_convolution_in_one_are_the_two_of_them(shape):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=random, dtype=torch.float64, requires_grad=True)
    once = DoublingConv2d(shape[1], 5).double()
    plain = nn.Conv2d(shape[1], 5, 3, padding=1).double()
    plain.load_state_dict(once.state_dict())
    large = once(x)
    expected = plain(x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.allclose(large, expected, rtol=0, atol=1e-14)
    weights = torch.randn(large.shape, generator=random, dtype=torch.float64)
    ours = torch.autograd.grad((large * weights).sum(), [x, *once.parameters()])
    theirs = torch.autograd.grad((expected * weights).sum(), [x, *plain.parameters()])
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, rtol=1e-12, atol=1e-12)


def plain_generator(generator, channels):
    """The published layers one by one, with the generator's weights."""
    small, width, last = generator.start, generator.start[0], max(1, generator.start[0] // 2)
    layers = nn.Sequential(
        nn.BatchNorm2d(width),
        nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1)),
        nn.BatchNorm2d(width), nn.LeakyReLU(0.2),
        nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(width, last, 3, padding=1)),
        nn.BatchNorm2d(last), nn.LeakyReLU(0.2), nn.Conv2d(last, channels, 3, padding=1), nn.Sigmoid(),
    )  # fmt: skip
    linear = nn.Linear(generator.linear.in_features, generator.linear.out_features)
    plain = nn.Sequential(linear, nn.Unflatten(1, small), layers).double()
    state = generator.state_dict()
    assert {"linear.bias", "layers.1.bias", "layers.4.bias", "layers.7.bias"} <= set(state)
    plain.load_state_dict(dict(zip(plain.state_dict(), state.values(), strict=True)))
    return plain


@pytest.mark.parametrize(("shape", "width"), [((1, 28, 28), 16), ((3, 10, 13), 5), ((2, 4, 4), 1)])
@pytest.mark.parametrize("training", [True, False])
def test_the_generator_is_its_plain_layers_and_a_bias_before_a_batch_norm_has_no_gradient(
    shape, width, training
):
    random = torch.Generator().manual_seed(0)
    generator = make_generator(shape, 6, width).double().train(training)
    with torch.no_grad():
        for value in generator.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=random, dtype=torch.float64) - 0.5)
        for layer in generator.layers:
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_var.add_(1)
    plain = plain_generator(generator, shape[0]).train(training)
    z = torch.randn(12, 6, generator=random, dtype=torch.float64)
    made, expected = generator(z), plain(z)
    top, left = ((expected.shape[axis] - shape[axis - 1]) // 2 for axis in (2, 3))
    expected = expected[:, :, top : top + shape[1], left : left + shape[2]]
    assert torch.allclose(made, expected, rtol=0, atol=1e-13)
    for mine, other in zip(generator.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(mine, other, rtol=1e-12, atol=1e-13)
    weights = torch.randn(made.shape, generator=random, dtype=torch.float64)
    names = [name for name, _ in generator.named_parameters()]
    theirs = dict(
        zip(names, torch.autograd.grad((expected * weights).sum(), list(plain.parameters())), strict=True)
    )
    trained = {name: p for name, p in generator.named_parameters() if p.requires_grad}
    assert set(names) - set(trained) == {"layers.1.bias", "layers.4.bias"}
    ours = torch.autograd.grad((made * weights).sum(), list(trained.values()))
    for name, mine in zip(trained, ours, strict=True):
        assert torch.allclose(mine, theirs[name], rtol=1e-9, atol=1e-11), name
    if training:
        for name in set(names) - set(trained):
            assert theirs[name].abs().max() < 1e-11, name


def test_a_fresh_generator_has_the_published_initial_weights():
    generator = make_generator((1, 28, 28), 64, 64)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(3)
    generator(torch.randn(4, 64))
    reinitialise(generator, torch.Generator().manual_seed(0))
    for module in generator.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            assert module.weight.mean().abs() < 0.003
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.15)
            assert torch.count_nonzero(module.bias) == 0
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.mean().item() == pytest.approx(1, abs=0.02)
            assert 0.005 < module.weight.std() < 0.04
            assert torch.count_nonzero(module.bias) == 0
            assert torch.count_nonzero(module.running_mean) == 0


def test_rounding_down_to_eight_bits():
    x = torch.tensor([-0.1, 0.0, 0.4999, 127.999 / 255, 0.5, 1.0, 1.7])
    assert quantise(x).tolist() == [0, 0, 127, 127, 127, 255, 255]
    grid = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(quantise(unit(grid)), grid)


def test_proposing_leaves_the_substitute_as_it_was():
    net = batch_norm_network().train()
    net[0].eval()
    net[1].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    source = GeneratedQueries((1, 8, 8), 4, PLAIN, 0, CPU)
    source.propose(0, net, 0.9, pool())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [part.training for part in net] == [False, True, True, True, True, True]
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True, True, True]
    assert all(p.grad is None for p in net.parameters())


def test_frozen_puts_back_after_an_error():
    net = network().train()

    def fail():
        assert not net.training
        assert not any(p.requires_grad for p in net.parameters())
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), frozen(net):
        fail()
    assert net.training
    assert all(p.requires_grad for p in net.parameters())


def test_the_filter_keeps_what_the_substitute_is_unsure_of_and_nothing_twice():
    net = network(seed=3)
    with torch.no_grad():
        net[3].weight.mul_(40)
    source = GeneratedQueries((1, 8, 8), 4, PLAIN, 0, CPU)
    everything = source.propose(5, net, 1.0, pool())
    assert everything.made == len(everything.images) == 16
    sureness = net(unit(everything.images)).detach().softmax(1).amax(1)
    tau = float(sureness.median())
    kept = source.propose(5, net, tau, pool())
    assert torch.equal(kept.images, everything.images[sureness <= tau])
    assert 0 < len(kept.images) < 16
    seen = Pool(16, (1, 8, 8), quantised=True)
    seen.add(everything.images[:5], torch.zeros(5).long())
    assert torch.equal(source.propose(5, net, 1.0, seen).images, everything.images[5:])
    assert not torch.equal(source.propose(6, net, 1.0, pool()).images, everything.images)


@pytest.mark.parametrize("transform", ["none", "turns", "digits", "photo_loop"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 10, 7)])
def test_a_substitute_may_take_a_view_of_its_rows(shape, transform):
    class Viewing(nn.Conv2d):
        def forward(self, x):
            return super().forward(x).view(len(x), -1)

    config = replace(PLAIN, loop_transform=transform)
    net = Viewing(shape[0], 2, 3, padding=1)
    candidates = GeneratedQueries(shape, 4, config, 0, CPU).propose(
        0, net, 1.0, Pool(1, shape, quantised=True)
    )
    assert candidates.images.shape == (16, *shape)


def test_no_gradient_is_asked_for_after_the_last_step():
    counts = {"forward": 0, "backward": 0}

    class Recording(nn.Linear):
        def forward(self, x):
            counts["forward"] += 1
            if x.requires_grad:
                x.register_hook(lambda _: counts.update(backward=counts["backward"] + 1))
            return super().forward(x.flatten(1))

    source = GeneratedQueries((1, 8, 8), 4, replace(PLAIN, g_steps=4), 0, CPU)
    source.propose(0, Recording(64, 4), 1.0, pool())
    assert counts == {"forward": 4 + 1, "backward": 3}  # one more for the filter


def test_a_substitute_without_finite_scores_is_an_error():
    net = network()
    with torch.no_grad():
        net[1].weight.fill_(float("nan"))
    source = GeneratedQueries((1, 8, 8), 4, PLAIN, 0, CPU)
    with pytest.raises(DivergenceError, match="round 2: the substitute's scores are not finite; lower lr"):
        source.propose(2, net, 1.0, pool())


# The plain cooperative generator, written again, with the same random draws.


def plain_round(net, config, index, seed, shape=(1, 8, 8), classes=4):
    """Class loss alone, no filter: the generator of earlier cooperative attacks."""
    with private_torch(seed, "build", device=CPU):
        generator = make_generator(shape, config.latent, config.width)
    draws = stream(seed, "weights", index)
    for module in generator.modules():
        if hasattr(module, "weight"):
            batch_norm = isinstance(module, nn.BatchNorm2d)
            drawn = torch.randn(module.weight.shape, generator=draws) * 0.02 + float(batch_norm)
            module.weight.data.copy_(drawn)
            module.bias.data.zero_()
    draws = stream(seed, "latent", index)
    z = torch.randn(config.batch_size, config.latent, generator=draws)
    t = torch.randint(classes, (config.batch_size,), generator=draws)
    adam = torch.optim.Adam(generator.parameters(), config.lr_g)
    best = None
    for _ in range(config.g_steps):
        made = generator(z)
        loss = cross_entropy(net.eval()(made), t)
        if best is None or loss.item() < best[0]:
            best = (loss.item(), made.detach())
        adam.zero_grad()
        loss.backward()
        adam.step()
    return (best[1] * 255).to(torch.uint8)


def plain_training(net, images, targets, config, seed, name, optimizer):
    order = stream(seed, "order", *name)
    for _ in range(config.inner_epochs):
        permutation = torch.randperm(len(images), generator=order)
        for start in range(0, len(images), config.batch_size):
            rows = permutation[start : start + config.batch_size]
            loss = cross_entropy(net(images[rows] / 255), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def test_without_losses_filter_and_weights_it_is_the_plain_cooperative_loop():
    config = replace(
        TINY, boundary_weight=0.0, diversity_weight=0.0, tau=1.0, error_weight=1.0, query_transform="none",
        loop_transform="none", deduplicate=False, g_steps=6,
    )  # fmt: skip
    result = auditor(budget=32, config=config, substitute=network()).run(evaluation(), baselines=())
    net, images = network(), torch.zeros(0, 1, 8, 8, dtype=torch.uint8)
    optimizer = torch.optim.SGD(net.parameters(), config.lr, momentum=0.9)
    for index in range(2):
        images = torch.cat([images, plain_round(net, config, index, 3)])
        targets = quadrants(images / 255).argmax(1)
        plain_training(net, images, targets, config, 3, ("round", index), optimizer)
    for index in range(config.final_rounds):
        plain_training(net, images, targets, config, 3, ("final", index), optimizer)
    assert torch.equal(quantise(result.queries), images)
    ours, theirs = weights(result), torch.cat([p.detach().flatten().double() for p in net.parameters()])
    assert torch.allclose(ours, theirs, atol=1e-6)


# Training.


def test_every_row_is_trained_on_and_a_single_last_row_joins_its_neighbours():
    seen = []

    class Recording(nn.Sequential):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    net = Recording(*batch_norm_network())
    config = replace(TINY, batch_size=8, inner_epochs=1)
    for rows, expected in ((17, [8, 9]), (16, [8, 8]), (18, [8, 8, 2]), (1, [2]), (5, [5])):
        seen.clear()
        steps = fit_substitute(net, torch.optim.SGD(net.parameters(), 0.01), pool(rows), config, 0)
        assert (seen, steps) == (expected, len(expected))
    assert (
        fit_substitute(
            net, torch.optim.SGD(net.parameters(), 0.01), Pool(3, (1, 8, 8), quantised=True), config, 0
        )
        == 0
    )


def test_rows_are_shuffled_anew_each_epoch_and_a_fit_batch_size_is_used():
    seen = []
    net = network()
    net.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))  # noqa: ARG005
    config = replace(TINY, fit_batch_size=20, inner_epochs=2)
    filled = pool(20)
    fit_substitute(net, torch.optim.SGD(net.parameters(), 0.01), filled, config, 0)
    first, second = seen
    assert not torch.equal(first, second)
    for epoch in (first, second):
        assert torch.equal(epoch.flatten(1).sort(0).values, unit(filled.images).flatten(1).sort(0).values)


def test_free_augmentation_moves_only_what_is_sure_and_keeps_the_answer():
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    logits = torch.tensor([[9.0, 0, 0], [0.0, 0, 0], [0.0, 9, 0], [1.0, 0, 0]])
    config = replace(TINY, free_aug=("hflip",), free_aug_confidence=0.95)
    changed = free_augmentation(images, logits, config, torch.Generator().manual_seed(0))
    expected = images.clone()
    expected[[0, 2]] = expected[[0, 2]].flip(3)
    assert torch.equal(changed, expected)
    vertical = replace(config, free_aug=("vflip",))
    assert torch.equal(free_augmentation(images, logits, vertical, torch.Generator())[0], images[0].flip(1))
    assert free_augmentation(images, logits * 0, config, torch.Generator()) is None


def test_an_identity_as_free_augmentation_changes_nothing():
    plain = auditor(budget=20, substitute=batch_norm_network()).run(evaluation(), baselines=())
    config = replace(TINY, free_aug=(lambda x, g: x.clone(),), free_aug_rate=1.0, free_aug_confidence=0.0)  # noqa: ARG005
    same = auditor(budget=20, substitute=batch_norm_network(), config=config).run(evaluation(), baselines=())
    assert torch.equal(weights(plain), weights(same))
    flips = replace(config, free_aug=("hflip",))
    other = auditor(budget=20, substitute=batch_norm_network(), config=flips).run(evaluation(), baselines=())
    assert not torch.equal(weights(plain), weights(other))


def test_free_augmentation_comes_as_often_as_it_should():
    calls = []

    def count(x, random):
        del random
        calls.append(len(x))
        return x

    config = replace(TINY, free_aug=(count,), free_aug_rate=0.25, inner_epochs=100)
    net = network()
    steps = fit_substitute(net, torch.optim.SGD(net.parameters(), 1e-4), pool(32), config, 0)
    # 200 steps, 50 expected, three standard deviations are 18.
    assert steps == 200
    assert 32 <= len(calls) <= 68


def test_presets_hold_the_published_values():
    published = {
        "mnist": (256, 512, 10.0, 0.1, 0.7, 1.5),
        "fmnist": (256, 512, 10.0, 0.1, 0.7, 3.0),
        "svhn": (512, 1024, 1.0, 0.01, 0.7, 2.0),
        "cifar10": (512, 1024, 1.0, 0.01, 0.7, 2.0),
    }
    for name, values in published.items():
        c = QEDGConfig.preset(name)
        assert (
            c.batch_size, c.latent, c.boundary_weight, c.diversity_weight, c.tau, c.error_weight
        ) == values  # fmt: skip
        assert (c.g_steps, c.lr_g, c.inner_epochs, c.final_rounds, c.lr) == (100, 1e-3, 20, 50, 0.01)
    default = QEDGConfig()
    assert (default.boundary_weight, default.diversity_weight, default.error_weight) == (1.0, 0.01, 2.0)
    assert (default.tau, default.free_aug, default.diversity_space) == (0.7, (), "input")
    assert QEDGConfig.preset("svhn").free_aug == ("hflip", "vflip")
    assert QEDGConfig.preset("mnist").free_aug == ()
