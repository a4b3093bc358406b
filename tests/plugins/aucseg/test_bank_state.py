"""Saving and restoring the bank, bit for bit; what a foreign state is told; ten thousand steps."""

import copy
import time

import pytest
import torch

from graftkit.torch import TailMemoryBank
from tests.plugins.aucseg.test_bank import noise


def filled(**options):
    bank = TailMemoryBank([1, 2, 3], **{"sample_ratio": 1, "resize_ratio": 0.6, "seed": 4, **options})
    for seed in range(12):
        image, label = noise(seed, classes=(0, 1 + seed % 3))
        bank([image], [label])
    return bank


def next_pastes(bank, n=20):
    for seed in range(100, 100 + n):
        image, label = noise(seed, classes=(0, 1 + seed % 3))
        yield bank([image], [label])


@pytest.mark.parametrize("update", ["random", "fifo", "reservoir"])
def test_a_restored_bank_continues_bit_for_bit(tmp_path, update):
    bank = filled(update=update)
    torch.save(bank.state_dict(), tmp_path / "bank.pt")
    other = TailMemoryBank([1, 2, 3], sample_ratio=1, resize_ratio=0.6, seed=99, update=update)
    other.load_state_dict(torch.load(tmp_path / "bank.pt", weights_only=True))
    assert other.counts == bank.counts
    assert other.nbytes == bank.nbytes
    for a, b in zip(next_pastes(bank), next_pastes(other), strict=True):
        assert torch.equal(a[0][0], b[0][0])
        assert torch.equal(a[1][0], b[1][0])


def test_without_the_generator_it_would_not():
    """That the test above can fail: the same patches, another generator."""
    bank, other = filled(), filled()
    other.reseed(1)
    assert any(
        not torch.equal(a[0][0], b[0][0]) for a, b in zip(next_pastes(bank), next_pastes(other), strict=True)
    )


def test_a_saved_state_does_not_change_with_the_bank():
    bank = filled()
    state = bank.state_dict()
    frozen = copy.deepcopy(state)
    list(next_pastes(bank))
    for kept, before in zip(state["patches"], frozen["patches"], strict=True):
        assert len(kept) == len(before)
        assert all(torch.equal(p["image"], q["image"]) for p, q in zip(kept, before, strict=True))
    assert torch.equal(state["generator"], frozen["generator"])
    state["patches"][0][0]["image"].zero_()  # and a loaded one does not share memory with its source
    fresh = TailMemoryBank([1, 2, 3], resize_ratio=0.6)
    fresh.load_state_dict(frozen)
    frozen["patches"][0][0]["image"].zero_()
    assert fresh.state_dict()["patches"][0][0]["image"].any()


def test_other_classes_or_another_scale_are_refused_unless_asked_for():
    state = filled().state_dict()
    other = TailMemoryBank([2, 3, 4], resize_ratio=0.6)
    with pytest.raises(ValueError, match=r"tail_classes.*\[2, 3, 4\].*\[1, 2, 3\]"):
        other.load_state_dict(state)
    assert len(other) == 0
    other.load_state_dict(state, strict=False)
    assert other.counts == {2: 4, 3: 4, 4: 0}
    scaled = TailMemoryBank([1, 2, 3], resize_ratio=1)
    with pytest.raises(ValueError, match=r"resize_ratio.*one of 1, got 'a state of 0.6'"):
        scaled.load_state_dict(state)
    scaled.load_state_dict(state, strict=False)
    assert len(scaled) == 12


def test_a_smaller_bank_takes_the_newest():
    bank = TailMemoryBank([1], resize_ratio=1, update="fifo")
    for step in range(5):
        bank.store(torch.full((1, 1, 1), step, dtype=torch.uint8), torch.ones(1, 1).long())
    small = TailMemoryBank([1], resize_ratio=1, memory_size=2)
    small.load_state_dict(bank.state_dict())
    assert [int(p["image"]) for p in small.state_dict()["patches"][0]] == [3, 4]
    tight = TailMemoryBank([1], resize_ratio=1, max_bytes=7)
    tight.load_state_dict(bank.state_dict())
    assert tight.nbytes <= 7
    assert [int(p["image"]) for p in tight.state_dict()["patches"][0]] == [2, 3, 4]  # 2 bytes each


def broken(change):
    state = copy.deepcopy(filled().state_dict())
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.update(version=2), "version 2"),
        (lambda s: s.pop("format"), "got None"),
        (lambda s: s.pop("patches"), r"KeyError\('patches'\)"),
        (lambda s: s["patches"].pop(), "as many lists of patches"),
        (lambda s: s.update(generator=[1, 2]), "generator state"),
        (lambda s: s.update(generator=torch.zeros(3, dtype=torch.uint8)), "3 bytes"),
        (lambda s: s["patches"][0][0].pop("mask"), "mask"),
        (lambda s: s["patches"][0][0].update(mask=torch.ones(1, 1).bool()), "do not fit together"),
        (lambda s: s["patches"][0][0].update(place=[90, 0, 5, 5]), "do not fit together"),
        (lambda s: s["patches"][0][0].update(image="x"), "do not fit together"),
        (lambda s: s["patches"][0][0].update(image=s["patches"][0][0]["image"].float()), "dtype"),
        (lambda s: s.update(seen=["a", 0, 0]), "seen"),
        (lambda s: s.update(serial=-1), "serial"),
        (lambda s: s.update(generator=torch.zeros_like(s["generator"])), "generator state"),
        (lambda s: s["settings"].update(resize_ratio="x"), "resize_ratio"),
        (lambda s: s.update(settings=None), "not what"),
    ],
)
def test_a_malformed_state_changes_nothing(change, words):
    bank = filled()
    before = bank.state_dict()
    with pytest.raises(ValueError, match=words):
        bank.load_state_dict(broken(change))
    assert torch.equal(bank.state_dict()["generator"], before["generator"])
    assert bank.counts == {1: 4, 2: 4, 3: 4}


def test_a_state_that_is_none():
    with pytest.raises(TypeError, match="state"):
        filled().load_state_dict([1])
    with pytest.raises(TypeError, match="strict"):
        filled().load_state_dict(filled().state_dict(), strict=1)


def test_clear_starts_anew():
    bank = filled()
    first = [a[0][0] for a in next_pastes(filled())]
    list(next_pastes(bank))
    bank.clear()
    assert len(bank) == bank.nbytes == 0
    for seed in range(12):
        image, label = noise(seed, classes=(0, 1 + seed % 3))
        bank([image], [label])
    assert all(torch.equal(a, b[0][0]) for a, b in zip(first, next_pastes(bank), strict=True))


def test_reseeding_tells_processes_apart():
    draws = set()
    for keys in ((0, 0), (0, 1), (1, 0), (1, 1), (10, 0)):
        bank = TailMemoryBank([1], seed=3)
        bank.reseed(*keys)
        draws.add(int(torch.randint(2**60, (), generator=bank.generator)))
    assert len(draws) == 5


def test_ten_thousand_steps_neither_grow_nor_slow_down():
    bank = TailMemoryBank([1, 2, 3], sample_ratio=1, resize_ratio=1, max_bytes=2000)
    pictures = [noise(seed, classes=(0, 1 + seed % 3)) for seed in range(50)]
    spans, sizes = [], []
    for start in range(0, 10_000, 1000):
        begin = time.process_time()
        for step in range(start, start + 1000):
            image, label = pictures[step % 50]
            bank([image], [label])
            assert bank.nbytes <= 2000
        spans.append(time.process_time() - begin)
        sizes.append(bank.nbytes)
    assert max(sizes[1:]) <= 2000
    assert max(sizes[1:]) - min(sizes[1:]) < 400
    assert min(spans[5:]) < 1.5 * min(spans[:5])
