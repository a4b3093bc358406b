"""The bank's bad inputs (specification section 5.5): type and words."""

import pytest
import torch

from graftkit.torch import TailMemoryBank

IMAGE, LABEL = torch.zeros(3, 4, 5, dtype=torch.uint8), torch.zeros(4, 5, dtype=torch.long)


@pytest.mark.parametrize(
    ("tail", "options", "error", "words"),
    [
        ([], {}, ValueError, "tail_classes: expected at least one"),
        ([3, 1, 3], {}, ValueError, "tail_classes.*class 3 twice"),
        ([-1], {}, ValueError, "tail_classes.*-1"),
        ([255], {}, ValueError, "tail_classes.*255.*ignore_index"),
        (["pole"], {}, TypeError, "tail_classes.*'pole'"),
        ("pole", {}, TypeError, "tail_classes"),
        (3, {}, TypeError, "tail_classes"),
        ([1.0], {}, TypeError, "tail_classes"),
        ([1], {"memory_size": 0}, ValueError, "memory_size"),
        ([1], {"memory_size": 2.5}, TypeError, "memory_size"),
        ([1], {"sample_ratio": 0}, ValueError, "sample_ratio"),
        ([1], {"sample_ratio": 1.1}, ValueError, "sample_ratio"),
        ([1], {"resize_ratio": 0}, ValueError, "resize_ratio"),
        ([1], {"resize_ratio": 4.1}, ValueError, "resize_ratio"),
        ([1], {"resize_ratio": float("nan")}, ValueError, "resize_ratio"),
        ([1], {"max_bytes": 0}, ValueError, "max_bytes"),
        ([1], {"min_pixels": 0}, ValueError, "min_pixels"),
        ([1], {"update": "lifo"}, ValueError, "update.*'random', 'fifo', 'reservoir'.*'lifo'"),
        ([1], {"scope": "epoch"}, ValueError, "scope.*'image', 'batch'.*'epoch'"),
        ([1], {"protect_tail": 1}, TypeError, "protect_tail"),
        ([1], {"seed": -1}, ValueError, "seed"),
        ([1], {"seed": 2**64}, ValueError, "seed"),
        ([1], {"memory_size": True}, TypeError, "memory_size"),
        ([1], {"sample_ratio": float("nan")}, ValueError, "sample_ratio"),
        ([1], {"ignore_index": "255"}, TypeError, "ignore_index"),
    ],
)
def test_arguments(tail, options, error, words):
    with pytest.raises(error, match=words):
        TailMemoryBank(tail, **options)


@pytest.mark.parametrize(
    ("image", "label", "error", "words"),
    [
        (IMAGE, LABEL[:3], ValueError, "same height and width"),
        (IMAGE[:, :0], LABEL[:0], ValueError, "not empty"),
        (IMAGE[0], LABEL, ValueError, r"shapes \(c, H, W\) and \(H, W\)"),
        (IMAGE, LABEL[None], ValueError, r"shapes \(c, H, W\) and \(H, W\)"),
        (IMAGE.numpy(), LABEL, TypeError, "image.*a tensor"),
        (IMAGE, LABEL.numpy(), TypeError, "label.*a tensor"),
        (IMAGE, LABEL.float(), TypeError, "label.*integer"),
        (IMAGE, LABEL.bool(), TypeError, "label.*integer"),
        (IMAGE, LABEL - 1, ValueError, "label.*got -1"),
        (IMAGE, LABEL + 70_000, ValueError, "label.*got 70000"),
    ],
)
@pytest.mark.parametrize("call", ["store", "paste", "both"])
def test_pictures(image, label, error, words, call):
    bank = TailMemoryBank([1])
    calls = {"store": bank.store, "paste": bank.paste, "both": lambda i, t: bank([i], [t])}
    with pytest.raises(error, match=words):
        calls[call](image, label)


def test_pictures_that_differ_in_kind():
    bank = TailMemoryBank([1], resize_ratio=1)
    bank.store(IMAGE, LABEL + 1)
    with pytest.raises(ValueError, match=r"same channels and dtype.*1 channels of torch.uint8"):
        bank.store(IMAGE[:1], LABEL)
    with pytest.raises(ValueError, match=r"same channels and dtype.*torch.float32"):
        bank.paste(IMAGE.float(), LABEL)
    fresh = TailMemoryBank([1], resize_ratio=1)
    with pytest.raises(ValueError, match="same channels and dtype"):
        fresh([IMAGE, IMAGE.float()], [LABEL + 1, LABEL + 1])
    assert len(fresh) == 0  # nothing was stored


def test_as_many_labels_as_pictures():
    with pytest.raises(ValueError, match="labels: expected as many as images, 2, got 1"):
        TailMemoryBank([1])([IMAGE, IMAGE], [LABEL])


def test_a_bad_picture_stores_nothing_of_its_batch():
    bank = TailMemoryBank([1], resize_ratio=1)
    with pytest.raises(ValueError, match="same height"):
        bank([IMAGE, IMAGE], [LABEL + 1, LABEL[:2]])
    assert len(bank) == 0


def test_negative_ignored_labels():
    bank = TailMemoryBank([1], resize_ratio=1, ignore_index=-100)
    label = LABEL - 100
    label[0, 0] = 1
    bank.store(IMAGE, label)
    assert bank.counts == {1: 1}
    bank.store(IMAGE, LABEL - 100)
    assert bank.counts == {1: 1}


def test_reseed_keys():
    with pytest.raises(ValueError, match="keys"):
        TailMemoryBank([1]).reseed(-1)


@pytest.mark.parametrize(
    ("present", "words"),
    [(["a"], "present.*'a'"), ([1.5], "present.*1.5"), ([True], "present"), (1, "present.*class numbers")],
)
def test_present_classes_are_integers(present, words):
    with pytest.raises(TypeError, match=words):
        TailMemoryBank([1]).paste(IMAGE, LABEL, present=present)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [(3, [LABEL], "images"), ("ab", "cd", "images"), ([IMAGE], None, "labels"), ([None], [LABEL], "image")],
)
def test_batches_of_another_kind(images, labels, words):
    with pytest.raises(TypeError, match=words):
        TailMemoryBank([1])(images, labels)


def test_labels_of_a_byte_do_not_wrap():
    """As bytes -100 is 156, a class like others."""
    bank = TailMemoryBank([156], resize_ratio=1, ignore_index=-100)
    bank.store(IMAGE, (LABEL + 156).byte())
    assert bank.counts == {156: 1}
