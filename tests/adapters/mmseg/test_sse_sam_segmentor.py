"""SSE-SAM on an mmsegmentation model under a real Runner: EncoderDecoder, FCNHead, batch normalisation."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("mmseg", reason="needs the mmseg extra")

with warnings.catch_warnings():  # mmcv without compiled operators says what it lacks
    warnings.simplefilter("ignore")
    import mmseg.models
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

from mmengine.model import BaseModule
from mmengine.runner import Runner
from mmengine.structures import PixelData
from torch.utils.data import Dataset

from graftkit.mmseg import SSESAM
from tests.plugins.sse_sam import reference as ref
from tests.plugins.sse_sam.loops import counted, weights

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
CLASSES, TAIL, SIZE = 4, 3, 12


@MODELS.register_module(name="GraftkitFlatBackbone", force=True)
class FlatBackbone(BaseModule):
    """Scores at the labels' resolution, or at half of it."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride, 1), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (F.relu(self.norm(self.conv(x))),)


class Scenes(Dataset):
    """Squares of a rare class on stripes of the others; some pixels are ignored."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, i: int) -> dict:
        generator = torch.Generator().manual_seed(i)
        label = torch.arange(SIZE)[:, None].expand(SIZE, SIZE).clone() // (SIZE // 3)
        if i % 2 == 0:
            row, column = torch.randint(0, SIZE - 4, (2,), generator=generator).tolist()
            label[row : row + 4, column : column + 4] = TAIL
        label[0, :3] = 255
        image = label[None] * 20 + torch.randint(0, 60, (3, SIZE, SIZE), generator=generator)
        sample = SegDataSample(gt_sem_seg=PixelData(data=label[None]))
        return {"inputs": image.clamp(max=255).to(torch.uint8), "data_samples": sample}


def head_config(weight: float) -> dict:
    return {
        "type": "FCNHead", "in_channels": 8, "in_index": 0, "channels": 8, "num_convs": 1,
        "concat_input": False, "dropout_ratio": 0.0, "num_classes": CLASSES, "norm_cfg": {"type": "BN"},
        "align_corners": False, "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": weight},
        "init_cfg": None,  # the Runner would draw weights again
    }  # fmt: skip


def model_config(stride: int = 1, auxiliary: bool = False) -> dict:
    return {
        "type": "EncoderDecoder",
        "data_preprocessor": {
            "type": "SegDataPreProcessor", "mean": [60.0] * 3, "std": [40.0] * 3, "size": (SIZE, SIZE),
            "seg_pad_val": 255,
        },
        "backbone": {"type": "GraftkitFlatBackbone", "stride": stride},
        "decode_head": head_config(1.0),
        "auxiliary_head": head_config(0.4) if auxiliary else None,
        "train_cfg": {},
        "test_cfg": {"mode": "whole"},
    }  # fmt: skip


def runner(
    folder, *, stride: int = 1, switch_step: int = 2, iterations: int = 4, auxiliary: bool = False, **wrapper
) -> Runner:
    return Runner(
        model=model_config(stride, auxiliary),
        work_dir=str(folder),
        train_dataloader={
            "batch_size": 4, "num_workers": 0, "dataset": Scenes(),
            "sampler": {"type": "DefaultSampler", "shuffle": False},
        },
        optim_wrapper={
            "type": "SSESAMOptimWrapper",
            "optimizer": {"type": "SSESAM", "lr": 0.1, "momentum": 0.9, "tail_classes": [TAIL],
                          "switch_step": switch_step},
            **wrapper,
        },
        train_cfg={"type": "IterBasedTrainLoop", "max_iters": iterations},
        default_hooks={"checkpoint": None, "logger": None},
        experiment_name=f"{folder.name}-{stride}-{switch_step}-{auxiliary}",
        log_level="ERROR",
        default_scope="mmseg",
    )  # fmt: skip


def by_hand(model: nn.Module, iterations: int = 4) -> nn.Module:
    """The closure form on per-pixel losses of the same network, called layer by layer."""
    model.train()
    optimizer = SSESAM(
        model.parameters(), lr=0.1, momentum=0.9, tail_classes=[TAIL], switch_step=2, model=model
    )
    samples = [Scenes()[i] for i in range(4 * iterations)]
    for k in range(iterations):
        some = samples[4 * k : 4 * k + 4]
        x = torch.stack([s["inputs"].float() for s in some]).sub(60).div(40)
        y = torch.stack([s["data_samples"].gt_sem_seg.data[0] for s in some])

        def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> tuple[torch.Tensor, torch.Tensor]:
            scores = model.decode_head(model.backbone(x))
            # mmseg divides by all pixels, ignored ones included; those belong to no class.
            return F.cross_entropy(scores, y, ignore_index=255, reduction="none"), y.masked_fill(y == 255, 0)

        optimizer.step(closure)
    return model


def test_a_segmentor_trains_as_the_closure_form_on_its_pixels_does(tmp_path):
    run = runner(tmp_path)
    assert isinstance(run.model, mmseg.models.EncoderDecoder)
    twin = copy.deepcopy(run.model)
    with counted(run.model.backbone.conv, 4) as work:
        run.train()
    assert run.optim_wrapper.optimizer.completed_steps == 4
    # Full passes: two steps of 4 and one of verification, two steps of 3 (every batch has a tail).
    assert work.units == pytest.approx(2 * 4 + 1 + 2 * 3)
    assert run.model.backbone.norm.num_batches_tracked == 4
    expected = by_hand(twin)
    torch.testing.assert_close(weights(run.model), weights(expected), rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_scores_at_half_resolution_split_cell_by_cell(tmp_path, dtype):
    run = runner(tmp_path, stride=2, dtype=dtype, accumulative_counts=2, iterations=8)
    kinds = set()
    run.model.decode_head.conv_seg.register_forward_hook(
        lambda _m, _a, out: kinds.add((out.dtype, out.shape))
    )
    with counted(run.model.backbone.conv, 4) as work:
        run.train()
    assert kinds == {(getattr(torch, dtype or "float32"), (4, CLASSES, SIZE // 2, SIZE // 2))}
    assert run.optim_wrapper.optimizer.completed_steps == 4
    assert run.optim_wrapper.optimizer.stage == 2
    assert work.units == pytest.approx(2 * (2 * 4 + 1 + 2 * 3))
    assert torch.isfinite(weights(run.model)).all()


def test_an_auxiliary_heads_loss_goes_with_the_head_in_both_stages(tmp_path):
    run = runner(tmp_path, switch_step=1, iterations=2, auxiliary=True)
    twin = copy.deepcopy(run.model)
    run.train()
    assert run.optim_wrapper.optimizer.completed_steps == 2
    twin.train()
    params = list(twin.parameters())
    base = torch.optim.SGD(params, lr=0.1, momentum=0.9)
    for k in range(2):
        some = [Scenes()[i] for i in range(4 * k, 4 * k + 4)]
        x = torch.stack([s["inputs"].float() for s in some]).sub(60).div(40)
        y = torch.stack([s["data_samples"].gt_sem_seg.data[0] for s in some])

        def each(head: nn.Module, x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            return F.cross_entropy(head(twin.backbone(x)), y, ignore_index=255, reduction="none")

        def tail(y: torch.Tensor = y, each=each) -> torch.Tensor:
            return (each(twin.decode_head) * (y == TAIL)).mean()

        def head(y: torch.Tensor = y, each=each) -> torch.Tensor:
            return (each(twin.decode_head) * (y != TAIL)).mean() + 0.4 * each(twin.auxiliary_head).mean()

        rho_head = 0.05 if k == 0 else 0.0
        for p, g in zip(
            params, ref.sharpened(params, head, tail, rho_head=rho_head, rho_tail=0.1), strict=True
        ):
            p.grad = g
        base.step()
    torch.testing.assert_close(weights(run.model), weights(twin), rtol=0, atol=2e-5)
