"""Private generators: repeatable, independent, and never the global ones."""

import random
import re

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from graftkit.core.random import numpy_generator, torch_generator

SEEDS = [None, 0, 7, np.int64(7), 2**70]


def _global_state():
    return (
        random.getstate(),
        str(np.random.get_state()),  # noqa: NPY002  (the legacy state is what must not move)
        torch.get_rng_state().tolist(),
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_global_generators_do_not_move(seed):
    before = _global_state()
    numpy_generator(seed).random(10)
    torch.rand(10, generator=torch_generator(seed))
    assert _global_state() == before


def test_global_seed_does_not_matter():
    draws = []
    for seed in (0, 1):
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        draws.append((numpy_generator(3).random(), torch.rand((), generator=torch_generator(3)).item()))
    assert draws[0] == draws[1]


def test_one_seed_one_stream():
    assert_array_equal(numpy_generator(5).random(4), numpy_generator(np.int32(5)).random(4))
    assert_array_equal(numpy_generator(5).random(4), np.random.default_rng(5).random(4))
    assert not np.array_equal(numpy_generator(5).random(4), numpy_generator(6).random(4))
    a, b = (torch.rand(4, generator=torch_generator(5)) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, torch.rand(4, generator=torch_generator(6)))


def test_none_is_fresh_entropy():
    assert numpy_generator(None).integers(2**62) != numpy_generator().integers(2**62)
    assert torch_generator(None).initial_seed() != torch_generator().initial_seed()


def test_a_generator_is_used_as_it_is():
    rng = np.random.default_rng(0)
    assert numpy_generator(rng) is rng
    generator = torch.Generator().manual_seed(0)
    assert torch_generator(generator) is generator


def test_a_numpy_generator_seeds_torch_and_advances():
    rng = np.random.default_rng(0)
    first, second = torch_generator(rng).initial_seed(), torch_generator(rng).initial_seed()
    assert first != second
    assert torch_generator(np.random.default_rng(0)).initial_seed() == first


def test_a_legacy_random_state_repeats_and_advances():
    state = np.random.RandomState(0)
    first, second = numpy_generator(state).random(), numpy_generator(state).random()
    assert first != second
    again = np.random.RandomState(0)
    assert (numpy_generator(again).random(), numpy_generator(again).random()) == (first, second)


@pytest.mark.parametrize("make", [numpy_generator, torch_generator])
def test_negative_seed(make):
    with pytest.raises(ValueError, match=r"^random_state: expected a non-negative seed, got -1$"):
        make(-1)


@pytest.mark.parametrize("make", [numpy_generator, torch_generator])
@pytest.mark.parametrize("value", [True, np.True_, 1.0, "0", [1], np.random])
def test_other_types(make, value):
    with pytest.raises(
        TypeError, match=r"^random_state: expected None, an int, a numpy Generator or RandomState, got "
    ):
        make(value)


def test_a_torch_generator_is_none_of_numpys_business():
    with pytest.raises(TypeError, match=re.escape("random_state: expected None, an int, a numpy Generator")):
        numpy_generator(torch.Generator())


def test_generator_of_another_device():
    with pytest.raises(
        ValueError, match=r"^random_state: expected a generator on device meta, got device\(type='cpu'\)$"
    ):
        torch_generator(torch.Generator(), device="meta")


def test_device_as_an_object():
    assert torch_generator(0, device=torch.device("cpu")).device == torch.device("cpu")


@pytest.mark.gpu
def test_generator_on_a_gpu():
    generator = torch_generator(0, device="cuda")
    assert generator.device.type == "cuda"
    again = torch_generator(0, device="cuda")
    assert torch.equal(
        torch.rand(8, generator=generator, device="cuda"), torch.rand(8, generator=again, device="cuda")
    )
