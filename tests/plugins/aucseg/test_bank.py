"""The memory bank: what is stored, what is pasted, how much, and what stays as it was."""

import math
from collections import Counter

import pytest
import torch
from scipy.stats import chisquare

from graftkit.torch import TailMemoryBank


def picture(value: int, label, channels: int = 3, dtype=torch.uint8):
    label = torch.as_tensor(label)
    return torch.full((channels, *label.shape), value, dtype=dtype), label


def noise(seed: int, height: int = 20, width: int = 24, classes=(0, 1, 2, 3)):
    rng = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=rng, dtype=torch.uint8)
    label = torch.zeros(height, width, dtype=torch.long)
    for c in classes:
        top, left = (int(torch.randint(0, n - 6, (), generator=rng)) for n in (height, width))
        label[top : top + 5, left : left + 6] = c
    return image, label


def everything(tail, **options):
    return TailMemoryBank(tail, **{"sample_ratio": 1, "resize_ratio": 1, **options})


def test_pasted_pixels_are_the_sources_and_nothing_else_changes():
    bank = everything([3])
    source, source_label = noise(0)
    target, target_label = noise(1, classes=(0, 1, 2))
    before = [t.clone() for t in (source, source_label, target, target_label)]
    bank.store(source, source_label)
    image, label, pasted = bank.paste(target, target_label)
    mask = source_label == 3
    assert pasted == [3]
    assert mask.any()
    assert torch.equal(image[:, mask], source[:, mask])  # same place: the canvas fits in one way only
    assert (label[mask] == 3).all()
    assert torch.equal(image[:, ~mask], target[:, ~mask])
    assert torch.equal(label[~mask], target_label[~mask])
    assert all(
        torch.equal(a, b) for a, b in zip(before, (source, source_label, target, target_label), strict=True)
    )


def test_a_shared_tensor_is_not_written():
    """A caching data set hands out the same picture again."""
    bank = everything([3])
    bank.store(*noise(0))
    target, label = noise(1, classes=(0, 1))
    images, labels = bank([target, target], [label, label])
    assert all((new == 3).any() for new in labels)
    assert images[0] is not images[1]
    assert (label != 3).all()
    assert torch.equal(target, noise(1, classes=(0, 1))[0])


def test_stored_before_anything_is_pasted():
    """The published code keeps a reference, into which it then pastes (specification 1.8, 13)."""
    bank = everything([1, 2])
    first = torch.zeros(8, 8, dtype=torch.long)
    first[2:5, 2:5] = 1
    second = torch.zeros(8, 8, dtype=torch.long)
    second[1:6, 1:6] = 2  # covers where class 1 stood
    bank([picture(1, first)[0]], [first])
    images, labels = bank([picture(2, second)[0]], [second])
    assert (labels[0][2:5, 2:5] == 1).all()  # class 1 was pasted over class 2
    assert (images[0][:, 2:5, 2:5] == 1).all()
    state = bank.state_dict()
    assert [set(p["image"].unique().tolist()) for kept in state["patches"] for p in kept] == [{1}, {2}]


def test_later_changes_of_the_source_do_not_reach_the_bank():
    bank = everything([3])
    source, label = noise(0)
    original = source.clone()
    bank.store(source, label)
    source.zero_()
    image, _, _ = bank.paste(*noise(1, classes=(0,)))
    assert torch.equal(image[:, label == 3], original[:, label == 3])


def test_patches_are_cropped_copies_of_the_pictures_type():
    bank = everything([3])
    bank.store(*noise(0, 200, 240))
    ((patch,),) = bank.state_dict()["patches"]
    assert patch["image"].shape == (3, 5, 6)
    assert patch["image"].dtype == torch.uint8
    assert patch["mask"].dtype == torch.bool
    assert patch["image"].untyped_storage().nbytes() == 90  # not a view of the picture
    assert patch["mask"].untyped_storage().nbytes() == 30
    assert bank.nbytes == 120


def test_each_class_keeps_at_most_memory_size():
    bank = everything([1, 2, 9], memory_size=3)
    for seed in range(10):
        bank.store(*noise(seed))
    assert bank.counts == {1: 3, 2: 3, 9: 0}
    assert len(bank) == 6
    assert bank.nbytes == sum(
        p["image"].nbytes + p["mask"].nbytes for kept in bank.state_dict()["patches"] for p in kept
    )


def values(bank):
    return [int(p["image"].max()) for p in bank.state_dict()["patches"][0]]


def test_random_update_replaces_every_slot_alike():
    bank = everything([1], memory_size=4)
    for step in range(4):
        bank.store(*picture(step, [[1]]))
    replaced = Counter()
    for _ in range(2000):
        before = values(bank)
        bank.store(*picture(200, [[1]]))
        (slot,) = [k for k in range(4) if values(bank)[k] != before[k]] or [None]
        assert slot is not None
        replaced[slot] += 1
        bank._store.patches[1][slot] = bank._store.patches[1][slot].__class__(
            torch.full((3, 1, 1), slot, dtype=torch.uint8),
            torch.ones(1, 1, dtype=torch.bool),
            0,
            0,
            (1, 1),
            0,
        )
    assert chisquare([replaced[k] for k in range(4)]).pvalue > 0.001


def test_fifo_update_drops_the_oldest():
    bank = everything([1], memory_size=3, update="fifo")
    for step in range(7):
        bank.store(*picture(step, [[1]]))
        assert bank.nbytes == 4 * min(step + 1, 3)  # 3 colours and the mask, a pixel each
    assert values(bank) == [4, 5, 6]


def test_reservoir_update_keeps_a_uniform_sample():
    kept = Counter()
    for seed in range(300):
        bank = everything([1], memory_size=3, update="reservoir", seed=seed)
        for step in range(12):
            bank.store(*picture(step, [[1]]))
        kept.update(values(bank))
    assert sum(kept.values()) == 900
    assert chisquare([kept[k] for k in range(12)]).pvalue > 0.001


def test_bytes_are_bounded_and_the_largest_class_gives_its_oldest():
    bank = everything([1, 2], memory_size=100, max_bytes=200)
    bank.store(*picture(9, [[2, 2]]))  # 2 pixels x (3 + 1) bytes
    for step in range(40):
        bank.store(*picture(step, [[1, 1, 1]]))  # 12 bytes each
        assert bank.nbytes <= 200
    assert bank.counts == {1: 16, 2: 1}  # 16 x 12 + 8 = 200
    assert values(bank) == list(range(24, 40))


def test_the_largest_class_is_that_of_most_bytes():
    bank = everything([1, 2], memory_size=100, max_bytes=100)
    for step in range(2):
        bank.store(*picture(step, [[2] * 10]))  # 40 bytes each
    for step in range(6):
        bank.store(*picture(step, [[1]]))  # 4 bytes each, and more of them
    assert bank.counts == {1: 6, 2: 1}
    assert bank.nbytes == 64


def test_a_patch_larger_than_the_bound_is_not_stored_and_said_once():
    bank = everything([1], max_bytes=30)
    with pytest.warns(UserWarning, match="max_bytes=30"):
        bank.store(*picture(1, [[1] * 8]))
    bank.store(*picture(1, [[1] * 8]))  # warnings are errors here
    assert len(bank) == bank.nbytes == 0


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.5, 1])
def test_number_pasted(ratio):
    tail = list(range(1, 12))
    bank = TailMemoryBank(tail, sample_ratio=ratio, resize_ratio=1, seed=3)
    for c in tail[:-1]:  # class 11 stays empty
        bank.store(*picture(c, [[c] + [0] * 9]))
    seen = Counter()
    for _ in range(200):
        here = torch.zeros(1, 10, dtype=torch.long)
        here[0, 5:7] = torch.tensor([4, 7])
        _, label, pasted = bank.paste(*picture(0, here))
        drawn = math.ceil(ratio * 9)
        assert len(pasted) in (drawn, drawn - 1)  # one less where class 11 was drawn
        assert not {4, 7, 0} & set(pasted)
        assert len(set(pasted)) == len(pasted)
        assert set(label.unique().tolist()) <= {0, 4, 7, *pasted}
        seen.update(pasted)
    assert set(seen) == set(tail) - {4, 7, 11}


def test_only_tail_classes_are_stored_and_ignored_pixels_are_none():
    bank = everything([1])
    bank.store(*picture(5, [[2, 3, 255]]))
    assert len(bank) == 0
    bank = everything([255], ignore_index=0)
    bank.store(*picture(5, [[0, 255]]))
    assert bank.counts == {255: 1}


def test_present_classes_can_be_given():
    bank = everything([1, 2])
    bank.store(*picture(5, [[1, 2, 0]]))
    _, _, pasted = bank.paste(*picture(0, [[0, 0, 0]]), present=[2])
    assert pasted == [1]
    image, label = picture(0, [[0, 0, 0]])
    same_image, same_label, pasted = bank.paste(image, label, present=[1, 2])
    assert same_image is image
    assert same_label is label
    assert pasted == []


def test_scope_batch_pastes_what_the_whole_batch_lacks_into_one_picture():
    bank = everything([1, 2, 3], scope="batch", seed=1)
    empty = torch.zeros(1, 6, dtype=torch.long)
    for c in (1, 2, 3):
        at = empty.clone()
        at[0, c] = c
        bank.store(*picture(c, at))
    one = empty.clone()
    one[0, 5] = 1
    where = Counter()
    for _ in range(60):
        _, labels, pasted = bank.process([picture(0, one)[0]] * 3, [one, empty, empty])
        assert sorted(c for p in pasted for c in p) == [2, 3]  # class 1 is in the batch
        assert [set(x.unique().tolist()) - {0} for x in labels] == [
            set(p) | ({1} if k == 0 else set()) for k, p in enumerate(pasted)
        ]
        where.update(k for k, p in enumerate(pasted) for _ in p)
    assert set(where) == {0, 1, 2}


def test_protect_tail_leaves_tail_pixels_uncovered():
    stored = [[1, 1, 1]]
    for protect, expected in ((False, [1, 1, 1]), (True, [1, 2, 1])):
        bank = everything([1, 2], protect_tail=protect)
        bank.store(*picture(5, stored))
        image, label, _ = bank.paste(*picture(0, [[0, 2, 0]]))
        assert label[0].tolist() == expected
        assert image[0, 0].tolist() == [5, 0 if protect else 5, 5]


def test_expanded_views_can_be_pasted_into():
    bank = everything([3])
    bank.store(*noise(0))
    label = torch.zeros(1, 1, dtype=torch.long).expand(20, 24)
    image, new, _ = bank.paste(torch.zeros(3, 1, 1, dtype=torch.uint8).expand(3, 20, 24), label)
    assert torch.equal(new == 3, noise(0)[1] == 3)
    assert torch.equal(image[:, new == 3], noise(0)[0][:, new == 3])
    assert not label.any()


@pytest.mark.parametrize("ratio", [1, 0.5])
def test_no_graph_is_kept(ratio):
    bank = everything([3], resize_ratio=ratio)
    image, label = noise(0)
    bank.store(image.float().requires_grad_(), label)
    assert not bank.state_dict()["patches"][0][0]["image"].requires_grad


def test_pictures_of_several_sizes():
    """Before padding they differ; each keeps its own, and a patch is cut where it does not fit."""
    bank = everything([3])
    sizes = [(20, 24), (12, 24), (9, 9)]
    made = [noise(k, *size, classes=(0, 3 if k == 0 else 1)) for k, size in enumerate(sizes)]
    images, labels, pasted = bank.process([m[0] for m in made], [m[1] for m in made])
    assert sum(map(len, pasted)) > 0
    mask = made[0][1] == 3
    for image, label, size, (old, old_label), classes in zip(
        images, labels, sizes, made, pasted, strict=True
    ):
        assert image.shape == (3, *size)
        assert label.shape == size
        cut = mask[: size[0], : size[1]]  # the canvas is no smaller, so it lies in the corner
        pasted_here = old_label is not made[0][1] and bool(cut.any())
        assert classes == [3] * pasted_here
        if pasted_here:
            assert torch.equal(label == 3, cut)
            assert torch.equal(image[:, cut], made[0][0][:, : size[0], : size[1]][:, cut])
        assert torch.equal(image[:, label != 3], old[:, label != 3])


def test_an_empty_batch_keeps_its_form():
    bank = everything([1])
    images, labels = bank(torch.zeros(0, 3, 4, 5), torch.zeros(0, 4, 5).long())
    assert images.shape == (0, 3, 4, 5)
    assert labels.shape == (0, 4, 5)
    assert bank([], []) == ([], [])


def test_batches_as_tensors_and_as_lists():
    images = torch.stack([noise(s, classes=(0, s))[0] for s in (1, 2)])
    labels = torch.stack([noise(s, classes=(0, s))[1] for s in (1, 2)])
    as_tensor = everything([1, 2], seed=5)(images, labels)
    as_list = everything([1, 2], seed=5)(list(images), list(labels))
    assert isinstance(as_tensor[0], torch.Tensor)
    assert isinstance(as_list[0], list)
    for a, b in zip(as_tensor, as_list, strict=True):
        assert torch.equal(a, torch.stack(b))
    assert all(set(label.unique().tolist()) == {0, 1, 2} for label in as_tensor[1])


@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, torch.uint8), (4, torch.uint8), (3, torch.float32), (2, torch.float64)]
)
@pytest.mark.parametrize("ratio", [1, 0.5])
def test_kinds_of_pictures(channels, dtype, ratio):
    bank = everything([1], resize_ratio=ratio)
    label = torch.zeros(8, 8, dtype=torch.int32)
    label[:4, :4] = 1
    bank.store(*picture(7, label, channels, dtype))
    image, new_label, pasted = bank.paste(*picture(0, torch.zeros(8, 8, dtype=torch.int32), channels, dtype))
    assert pasted == [1]
    assert image.dtype == dtype
    assert image.shape == (channels, 8, 8)
    assert new_label.dtype == torch.int32
    assert (image[:, new_label == 1] == 7).all()
    assert (image[:, new_label == 0] == 0).all()


def test_reprs_and_settings():
    bank = everything([4, 2], update="fifo")
    assert repr(bank) == (
        "TailMemoryBank([4, 2], memory_size=5, sample_ratio=1, resize_ratio=1, update='fifo', scope='image', "
        "protect_tail=False, patches=0, nbytes=0)"
    )


def test_global_randomness_is_left_alone():
    state = torch.get_rng_state()
    bank = everything([1, 2, 3])
    for seed in range(5):
        bank([noise(seed)[0]], [noise(seed)[1]])
    assert torch.equal(torch.get_rng_state(), state)


def test_many_classes_at_full_ratio_are_warned_about():
    with pytest.warns(UserWarning, match=r"sample_ratio=1 of 124 tail classes"):
        TailMemoryBank(range(26, 150), sample_ratio=1)
    TailMemoryBank(range(26, 150))  # 0.05: 7 at most
