"""The NumPy forward pass is torch's, and initial weights follow torch's law."""

import numpy as np
import pytest
import torch
from torch import nn

from graftkit.methods.rcpmod.autoencoder import Autoencoder, unit_rows
from tests.plugins.rcpmod import reference


def as_torch(layers, *, last=None):
    modules = []
    for position, (weight, bias) in enumerate(layers):
        linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(torch.as_tensor(weight))
            linear.bias.copy_(torch.as_tensor(bias))
        modules.append(linear)
        if position < len(layers) - 1:
            modules.append(nn.ReLU())
    return nn.Sequential(*modules, *([last] if last is not None else []))


@pytest.mark.parametrize("hidden", [(), (8,), (9, 7)])
def test_forward_equals_torch(hidden):
    rng = np.random.default_rng(0)
    net = Autoencoder.initial(5, hidden, 3, rng)
    x = rng.normal(size=(11, 5)) * 4
    z = as_torch(net.encoder)(torch.as_tensor(x)).detach()
    np.testing.assert_allclose(net.encode(x), z.numpy(), rtol=1e-13, atol=1e-14)
    out = as_torch(net.decoder, last=nn.Sigmoid())(z).detach()
    np.testing.assert_allclose(net.decode(z.numpy()), out.numpy(), rtol=1e-13, atol=1e-14)


def test_forward_equals_the_loops():
    rng = np.random.default_rng(1)
    net = Autoencoder.initial(4, (6, 5), 2, rng)
    x = rng.normal(size=(3, 4))
    for row, latent in zip(x, net.encode(x), strict=True):
        assert latent.tolist() == pytest.approx(reference.forward(net.encoder, row), abs=1e-13)
        wanted = reference.forward(net.decoder, latent, sigmoid=True)
        assert net.decode(latent[None])[0].tolist() == pytest.approx(wanted, abs=1e-13)


def test_latents_are_not_rectified():
    net = Autoencoder.initial(4, (6,), 8, np.random.default_rng(2))
    assert (net.encode(np.random.default_rng(3).normal(size=(50, 4))) < 0).any()


def test_layers_mirror_each_other():
    net = Autoencoder.initial(5, (9, 7), 3, np.random.default_rng(0))
    assert [weight.shape for weight, _ in net.encoder] == [(9, 5), (7, 9), (3, 7)]
    assert [weight.shape for weight, _ in net.decoder] == [(7, 3), (9, 7), (5, 9)]


def test_initial_weights_are_uniform_within_the_inverse_root_of_fan_in():
    net = Autoencoder.initial(25, (400,), 16, np.random.default_rng(0))
    for weight, bias in (*net.encoder, *net.decoder):
        bound = 1 / np.sqrt(weight.shape[1])
        for values in (weight, bias):
            assert np.abs(values).max() <= bound
            assert np.abs(values).max() > 0.7 * bound
        # The standard deviation of a uniform law on [-b, b] is b / sqrt(3), its mean 0.
        assert weight.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)
        assert abs(weight.mean()) < 0.05 * bound


def test_single_precision_input_is_computed_in_double():
    net = Autoencoder.initial(3, (8,), 2, np.random.default_rng(0))
    x = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    assert net.encode(x).dtype == np.float64
    np.testing.assert_array_equal(net.encode(x), net.encode(x.astype(np.float64)))


def test_forward_leaves_its_input_alone():
    net = Autoencoder.initial(3, (), 2, np.random.default_rng(0))
    x = -np.ones((2, 3))
    x.flags.writeable = False
    net.decode(net.encode(x))


def test_unit_rows_by_hand():
    z = np.array([[3.0, 4.0], [0.0, 0.0], [3e-13, 4e-13]])
    # The last norm, 5e-13, is below 1e-12, which divides in its place.
    np.testing.assert_allclose(unit_rows(z), [[0.6, 0.8], [0.0, 0.0], [0.3, 0.4]], rtol=1e-12)
