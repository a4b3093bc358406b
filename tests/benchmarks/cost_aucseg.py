"""What AUCSeg costs: the loss against the published procedure and cross-entropy, memory, a step, the bank."""

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graftkit.methods.aucseg import TailMemoryBank, pixel_auc_loss
from tests.benchmarks import published_aucseg as published
from tests.benchmarks.results_io import forget_peak, resident

# Images, classes, height, width, present classes: specification section 4.1.
CASES = ((4, 11, 180, 240, 11), (2, 19, 256, 512, 12), (1, 150, 256, 256, 25), (1, 150, 512, 512, 25))
PIXELS = ((1, 150, 128, 128, 25), (1, 150, 256, 256, 25), (1, 150, 512, 512, 25))
PRESENT = ((1, 150, 256, 256, 6), (1, 150, 256, 256, 25), (1, 150, 256, 256, 100))
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "published": published.square_auc_loss,
    "ours": pixel_auc_loss,
    "CE": F.cross_entropy,
}
TAILS = ((1, 1, 1.0), (7, 3, 1.0), (124, 8, 0.4))  # tail classes, of them in a picture, resize_ratio


def batch(case: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random logits; labels with geometric shares over the present classes."""
    images, classes, height, width, present = case
    rng = torch.Generator().manual_seed(seed)
    shares = 0.8 ** torch.arange(present, dtype=torch.float64)
    chosen = torch.randperm(classes, generator=rng)[:present]
    drawn = torch.multinomial(shares, images * height * width, replacement=True, generator=rng)
    logits = torch.randn(images, classes, height, width, generator=rng)
    return logits.requires_grad_(), chosen[drawn].reshape(images, height, width)


def interleaved(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of processor time of each call, in turn, after one unmeasured round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            start = time.process_time()  # other work on the machine does not count
            call()
            if round_:
                seconds[name].append(time.process_time() - start)
    return seconds


def step_of(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor) -> Callable[[], None]:
    def call() -> None:
        logits.grad = None
        loss(logits, target).backward()

    return call


def speed(case: tuple[int, ...], names: tuple[str, ...], repeats: int) -> dict[str, Any]:
    """Forward and backward of each loss; ratios of medians."""
    logits, target = batch(case)
    seconds = interleaved({n: step_of(LOSSES[n], logits, target) for n in names}, repeats)
    return {
        "section": "speed",
        "case": list(case),
        "seconds": {n: statistics.median(s) for n, s in seconds.items()},
        "fastest": {n: min(s) for n, s in seconds.items()},
        "repeats": repeats,
    }


def memory(case: tuple[int, ...], name: str, repeats: int) -> dict[str, Any]:
    """Peak resident memory beyond the inputs, forward and backward: the median over fresh processes."""
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from tests.benchmarks import cost_aucseg as c; "
        "print(json.dumps(c.peak(tuple(json.loads(sys.argv[2])), sys.argv[3])))"
    )
    root = str(Path(__file__).resolve().parents[2])
    call = [sys.executable, "-c", code, root, json.dumps(case), name]
    found = [subprocess.run(call, capture_output=True, text=True, check=True).stdout for _ in range(repeats)]
    extra = statistics.median(json.loads(text.splitlines()[-1]) for text in found)
    images, classes, height, width, _ = case
    return {
        "section": "memory",
        "case": list(case),
        "loss": name,
        "extra_bytes": extra,
        "image_bytes": 4 * classes * height * width,
        "gradient_bytes": 4 * images * classes * height * width,
    }


def peak(case: tuple[int, ...], name: str) -> int:
    """In a fresh process: bytes above what was resident before the call."""
    torch.set_num_threads(1)
    small = batch((1, case[1], 8, 8, min(case[1], 8)))
    step_of(LOSSES[name], *small)()  # code and buffers that a first call loads
    logits, target = batch(case)
    gc.collect()
    before = forget_peak()
    step_of(LOSSES[name], logits, target)()
    return resident("VmHWM") - before


def training_step(repeats: int, quick: bool) -> dict[str, Any]:
    """A whole step of mmseg's ResNet-18 FCN with cross-entropy, with the AUC loss, and with the bank too."""
    import mmseg.models  # noqa: F401
    from mmengine.registry import init_default_scope
    from mmengine.structures import PixelData
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

    import graftkit.mmseg  # noqa: F401

    init_default_scope("mmseg")
    norm, base = {"type": "BN"}, 8 if quick else 64
    losses = {
        "CE": [{"type": "CrossEntropyLoss"}],
        "CE + AUC": [{"type": "CrossEntropyLoss"}, {"type": "AUCSegLoss"}],
    }
    bank = TailMemoryBank([2, 9, 10], sample_ratio=1, resize_ratio=1)
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 128, 160), generator=rng, dtype=torch.uint8)
    coarse = torch.randint(0, 11, (4, 1, 8, 10), generator=rng).float()
    labels = F.interpolate(coarse, (128, 160)).long()[:, 0]
    labels[::2][(labels[::2] == 2) | (labels[::2] == 10)] = 0  # missing in every other picture

    def make(name: str, with_bank: bool) -> Callable[[], None]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = MODELS.build({
                "type": "EncoderDecoder",
                "data_preprocessor": {"type": "SegDataPreProcessor", "mean": [0.0] * 3,
                                      "std": [255.0] * 3, "size": (128, 160)},
                "backbone": {"type": "ResNetV1c", "depth": 18, "base_channels": base, "strides": (1, 2, 1, 1),
                             "dilations": (1, 1, 2, 4), "norm_cfg": norm},
                "decode_head": {"type": "FCNHead", "in_channels": 8 * base, "channels": 2 * base,
                                "num_convs": 1, "concat_input": False, "num_classes": 11, "norm_cfg": norm,
                                "loss_decode": losses[name]},
                "train_cfg": {}, "test_cfg": {"mode": "whole"},
            })  # fmt: skip
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

        def call() -> None:
            inputs, targets = (
                (bank(list(images), list(labels))) if with_bank else (list(images), list(labels))
            )
            samples = []
            for label in targets:
                sample = SegDataSample()
                sample.gt_sem_seg = PixelData(data=label[None])
                samples.append(sample)
            data = model.data_preprocessor({"inputs": inputs, "data_samples": samples}, True)
            found = model.loss(data["inputs"], data["data_samples"])
            optimizer.zero_grad()
            sum(value for key, value in found.items() if "loss" in key).backward()
            optimizer.step()

        return call

    calls = {
        "CE": make("CE", False),
        "CE + AUC": make("CE + AUC", False),
        "CE + AUC + bank": make("CE + AUC", True),
    }
    seconds = interleaved(calls, repeats)
    return {
        "section": "step",
        "model": f"ResNet-18, {base} channels, 4 x 128 x 160",
        "seconds": {n: statistics.median(s) for n, s in seconds.items()},
        "fastest": {n: min(s) for n, s in seconds.items()},
        "repeats": repeats,
    }


def pictures(n: int, tail: int, present: int, size: int = 512) -> list[tuple[Tensor, Tensor]]:
    """Noise with objects of 40 to 120 pixels' side; every other picture has half as many tail classes."""
    rng = torch.Generator().manual_seed(0)
    made = []
    for k in range(n):
        image = torch.randint(0, 256, (3, size, size), generator=rng, dtype=torch.uint8)
        label = torch.zeros(size, size, dtype=torch.int64)
        for _ in range(present if k % 2 else present // 2):
            cls = int(torch.randint(26, 26 + tail, (), generator=rng))
            high, wide = torch.randint(40, 121, (2,), generator=rng).tolist()
            top, left = torch.randint(0, size - 120, (2,), generator=rng).tolist()
            label[top : top + high, left : left + wide] = cls
        made.append((image, label))
    return made


def bank_cost(tail: int, present: int, ratio: float, repeats: int, size: int = 512) -> dict[str, Any]:
    """Milliseconds a picture, stored and pasted, of processor time; the published bank beside it."""
    options = {"memory_size": 5, "sample_ratio": 1 if tail <= 20 else 0.05, "resize_ratio": ratio}
    ours = TailMemoryBank(range(26, 26 + tail), **options)
    theirs = published.Bank(list(range(26, 26 + tail)), **options)
    made = pictures(16, tail, present, size)
    milliseconds: dict[str, list[float]] = {"ours": [], "published": []}
    for image, label in made:
        ours([image], [label])
    for k in range(repeats):
        image, label = made[k % len(made)]
        start = time.process_time()
        ours([image], [label])
        milliseconds["ours"].append(1000 * (time.process_time() - start))
    for k in range(min(repeats, 8)):
        image, label = made[k % len(made)]
        floats, labels = image.float(), label.clone()  # outside the clock
        start = time.process_time()
        theirs(floats, labels)
        milliseconds["published"].append(1000 * (time.process_time() - start))
    return {
        "section": "bank",
        "tail": tail,
        "present": present,
        "resize_ratio": ratio,
        "size": size,
        "milliseconds": {n: statistics.median(v) for n, v in milliseconds.items()},
        "slowest": {n: max(v) for n, v in milliseconds.items()},
        "nbytes": ours.nbytes,
    }


def bank_growth(steps: int, size: int = 64) -> dict[str, Any]:
    """Processor time and bytes over many steps, in ten spans."""
    bank = TailMemoryBank(range(26, 33), sample_ratio=1, resize_ratio=1, max_bytes=100_000)
    made = pictures(40, 7, 2, max(size, 160))
    spans, largest = [], 0
    for _ in range(10):
        start = time.process_time()
        for k in range(steps // 10):
            bank([made[k % 40][0]], [made[k % 40][1]])
            largest = max(largest, bank.nbytes)
        spans.append(1000 * (time.process_time() - start) / (steps // 10))
    return {
        "section": "growth",
        "steps": steps,
        "milliseconds": spans,
        "largest_bytes": largest,
        "max_bytes": 100_000,
    }
