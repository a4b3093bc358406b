"""The memory bank's hook: names of classes, what it replaces and logs, its seeds, its bad inputs."""

import pytest
import torch

pytest.importorskip("mmseg", reason="needs the mmseg extra")

from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from graftkit.mmseg import TMemoryBankHook, aucseg_bank

pytestmark = pytest.mark.filterwarnings("ignore")


class Stub:
    """As much of a Runner as the hook asks for."""

    def __init__(self, metainfo=None, step=0):
        self.train_dataloader = self
        self.dataset = self
        self.metainfo = metainfo
        self.iter, self.seed, self._resume = step, 0, False
        self.logger, self.message_hub = self, self
        self.warnings, self.scalars = [], {}

    def warning(self, text, *args):
        self.warnings.append(text % args)

    def update_scalar(self, name, value):
        self.scalars.setdefault(name, []).append((self.iter, value))


def started(hook, **stub):
    runner = Stub(**stub)
    hook.before_train(runner)
    return runner


def batch(*labels, size=(6, 8)):
    made, images = [], []
    for k, classes in enumerate(labels):
        label = torch.zeros(1, *size, dtype=torch.long)
        for c in classes:
            label[0, c, :] = c
        sample = SegDataSample(metainfo={"img_path": f"{k}.jpg"})
        sample.gt_sem_seg = PixelData(data=label)
        made.append(sample)
        images.append(torch.full((3, *size), 10 * k + 1, dtype=torch.uint8))
    return {"inputs": images, "data_samples": made}


def test_names_become_numbers():
    hook = TMemoryBankHook(["pole", 0, "car"])
    started(hook, metainfo={"classes": ("road", "car", "pole")})
    assert hook.bank.tail_classes == (2, 0, 1)


@pytest.mark.parametrize(
    ("tail", "metainfo", "words"),
    [
        (["pole", "bus"], {"classes": ("pole", "car")}, "tail_classes.*pole, car, got 'bus'"),
        ([2], {"classes": ("pole", "car")}, "tail_classes.*got 2"),
        (["pole"], None, "tail_classes.*class numbers"),
        (["pole", 0], {"classes": ("pole", "car")}, "tail_classes.*twice"),
        (["pole", -1], {"classes": ("pole", "car")}, "tail_classes.*-1"),
    ],
)
def test_names_that_do_not_fit(tail, metainfo, words):
    with pytest.raises(ValueError, match=words):
        started(TMemoryBankHook(tail), metainfo=metainfo)


def test_names_beside_what_is_no_class():
    with pytest.raises(TypeError, match=r"tail_classes.*1.5"):
        started(TMemoryBankHook(["pole", 1.5]), metainfo={"classes": ("pole", "car")})


def test_numbers_need_no_names():
    hook = TMemoryBankHook([7])
    started(hook)
    assert hook.bank.tail_classes == (7,)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"tail_classes": []}, ValueError, "tail_classes"),
        ({"tail_classes": "pole"}, TypeError, "tail_classes"),
        ({"tail_classes": [1, 1]}, ValueError, "tail_classes.*twice"),
        ({"tail_classes": ["a"], "sample_ratio": 0}, ValueError, "sample_ratio"),
        ({"tail_classes": [1], "memory_size": 0}, ValueError, "memory_size"),
        ({"tail_classes": [1], "resize_ratio": 9}, ValueError, "resize_ratio"),
        ({"tail_classes": [1], "max_bytes": 0}, ValueError, "max_bytes"),
        ({"tail_classes": [1], "update": "lifo"}, ValueError, "update"),
        ({"tail_classes": [1], "scope": "x"}, ValueError, "scope"),
        ({"tail_classes": [1], "seed": -1}, ValueError, "seed"),
        ({"tail_classes": [1], "start_iter": -1}, ValueError, "start_iter"),
        ({"tail_classes": [1], "start_iter": 5, "stop_iter": 4}, ValueError, "stop_iter"),
        ({"tail_classes": [1], "log_interval": 0}, ValueError, "log_interval"),
    ],
)
def test_bad_arguments_of_the_hook(options, error, words):
    with pytest.raises(error, match=words):
        TMemoryBankHook(**options)


def test_new_samples_replace_the_old_which_stay():
    hook = TMemoryBankHook([2], sample_ratio=1, resize_ratio=1)
    runner = started(hook)
    data = batch([0, 2], [0])
    inputs, made = data["inputs"], data["data_samples"]
    untouched = [t.clone() for t in (*inputs, *(s.gt_sem_seg.data for s in made))]
    hook.before_train_iter(runner, 0, data)
    assert data["inputs"] is not inputs
    assert data["data_samples"][0] is made[0]  # nothing was missing there
    assert data["data_samples"][1] is not made[1]
    assert (data["data_samples"][1].gt_sem_seg.data[0, 2] == 2).all()
    assert data["data_samples"][1].gt_sem_seg.data.shape == (1, 6, 8)
    assert data["data_samples"][1].img_path == "1.jpg"
    assert (data["inputs"][1][:, 2] == 1).all()
    now = [*inputs, *(s.gt_sem_seg.data for s in made)]
    assert all(torch.equal(a, b) for a, b in zip(untouched, now, strict=True))


def test_stacked_inputs_stay_stacked():
    hook = TMemoryBankHook([2], sample_ratio=1, resize_ratio=1)
    runner = started(hook)
    data = batch([0, 2], [0])
    data["inputs"] = torch.stack(data["inputs"])
    hook.before_train_iter(runner, 0, data)
    assert isinstance(data["inputs"], torch.Tensor)
    assert (data["inputs"][1][:, 2] == 1).all()


def test_what_is_logged_and_when():
    hook = TMemoryBankHook([2, 3], sample_ratio=1, resize_ratio=1, memory_size=2, log_interval=2)
    runner = started(hook)
    for step in range(4):
        runner.iter = step
        hook.before_train_iter(runner, step, batch([0, 2], [0] if step < 2 else [0, 2]))
    # Class 3 never comes: a paste a pair of pictures, then none; 2 of 4 slots.
    assert runner.scalars == {
        "train/bank_pasted": [(1, 0.5), (3, 0.0)],
        "train/bank_filled": [(1, 0.5), (3, 0.5)],
    }


def test_stale_maps_are_warned_about_once():
    hook = TMemoryBankHook([2], sample_ratio=1, resize_ratio=1)
    runner = started(hook)
    for _ in range(2):
        data = batch([2], [0])
        data["data_samples"][1].gt_edge_map = PixelData(data=torch.zeros(1, 6, 8))
        hook.before_train_iter(runner, 0, data)
    assert len(runner.warnings) == 1
    assert "gt_edge_map" in runner.warnings[0]


@pytest.mark.parametrize("data", [None, [1], {"inputs": []}, {"data_samples": []}])
def test_batches_of_another_kind(data):
    hook = TMemoryBankHook([2])
    runner = started(hook)
    with pytest.raises(TypeError, match="data_batch"):
        hook.before_train_iter(runner, 0, data)


def test_samples_without_labels():
    hook = TMemoryBankHook([2])
    runner = started(hook)
    data = batch([0])
    del data["data_samples"][0].gt_sem_seg
    with pytest.raises(ValueError, match="gt_sem_seg"):
        hook.before_train_iter(runner, 0, data)


def test_seed_of_the_runner_or_its_own():
    for given, expected in ((None, 7), (3, 3)):
        hook = TMemoryBankHook([2], seed=given)
        runner = Stub()
        runner.seed = 7
        hook.before_train(runner)
        assert hook.bank.seed == expected


def test_each_rank_has_a_seed_of_its_own(monkeypatch):
    monkeypatch.setattr(aucseg_bank, "get_rank", lambda: 2)
    hook = TMemoryBankHook([2], seed=3)
    started(hook)
    assert hook.bank.seed == 5
