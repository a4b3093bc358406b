"""SSE-SAM under mmengine's Runner: config, accumulation, clipping, mixed precision, checkpoint and resume."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("mmengine", reason="needs the mmseg extra")

from mmengine.model import BaseModel
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch.utils.data import DataLoader, Dataset

from graftkit.mmseg import SSESAM, SSESAMOptimWrapper
from tests.plugins.sse_sam.loops import counted, mixed_batches, weights

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
DATA = [(x.float(), y) for x, y in mixed_batches(n=4)]


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def loss(self, features, labels):
        scores = self.fc(features)
        return {
            "loss_cls": F.cross_entropy(scores, labels),
            "acc": (scores.argmax(1) == labels).float().mean(),
        }


class Toy(BaseModel):
    """Like mmpretrain's: a backbone, a head with ``fc``, losses only."""

    def __init__(self, head: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.backbone = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh())
            if head:
                self.head = Head()
            else:
                self.top = nn.Linear(8, 4)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        del mode
        features = self.backbone(inputs)
        labels = data_samples
        if isinstance(data_samples, list):
            labels = torch.cat([sample.gt_label for sample in data_samples])
        if not hasattr(self, "head"):
            return {"loss": F.cross_entropy(self.top(features), labels)}
        return self.head.loss(features, labels)


class Batches(Dataset):
    def __init__(self, samples: bool) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(DATA)

    def __getitem__(self, i):
        x, y = DATA[i]
        if not self.samples:
            return {"inputs": x, "data_samples": y}
        return {"inputs": x, "data_samples": [BaseDataElement(gt_label=label.reshape(1)) for label in y]}


def runner(folder, *, samples=True, head=True, resume=False, epochs=2, optimizer=None, **wrapper):
    return Runner(
        model=Toy(head),
        work_dir=str(folder),
        train_dataloader=DataLoader(Batches(samples), batch_size=1, collate_fn=lambda items: items[0]),
        optim_wrapper={
            "type": "SSESAMOptimWrapper",
            "optimizer": {"type": "SSESAM", "lr": 0.1, "momentum": 0.9, "tail_classes": [3], "switch_step": 5,
                          **(optimizer or {})},
            **wrapper,
        },
        train_cfg={"by_epoch": True, "max_epochs": epochs},
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1}, "logger": None},
        experiment_name=f"{folder.name}-{resume}-{epochs}",
        resume=resume,
        log_level="ERROR",
        default_scope="mmengine",
    )  # fmt: skip


def by_hand(epochs=2, accumulation=1):
    model = Toy()
    optimizer = SSESAM(model.parameters(), lr=0.1, momentum=0.9, tail_classes=[3], switch_step=5)
    data = DATA * epochs
    for k in range(0, len(data), accumulation):
        some = data[k : k + accumulation]
        if accumulation > 1:
            optimizer.step([
                lambda x=x, y=y: (F.cross_entropy(model.head.fc(model.backbone(x)), y, reduction="none"), y)
                for x, y in some
            ])  # fmt: skip
        else:
            x, y = some[0]
            optimizer.step(
                lambda x=x, y=y: (F.cross_entropy(model.head.fc(model.backbone(x)), y, reduction="none"), y)
            )
    return model


def test_registered_in_the_root_registries():
    assert OPTIMIZERS.get("SSESAM") is SSESAM
    assert OPTIM_WRAPPERS.get("SSESAMOptimWrapper") is SSESAMOptimWrapper


@pytest.mark.parametrize("samples", [True, False])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_runner_trains_as_the_closure_form_does(tmp_path, samples, accumulation):
    run = runner(tmp_path, samples=samples, accumulative_counts=accumulation)
    with counted(run.model.backbone[0], 12) as work:
        run.train()
    assert run.optim_wrapper.optimizer.completed_steps == 8 // accumulation
    assert work.units > 8 * 2
    torch.testing.assert_close(
        weights(run.model), weights(by_hand(accumulation=accumulation)), rtol=0, atol=1e-5
    )


def test_resume_across_the_switch_is_bit_equal(tmp_path):
    whole = runner(tmp_path / "whole", epochs=3)
    whole.train()
    runner(tmp_path / "parts", epochs=1).train()
    rest = runner(tmp_path / "parts", epochs=3, resume=True)
    rest.train()
    assert rest.optim_wrapper.optimizer.completed_steps == 12
    assert rest.optim_wrapper.optimizer.stage == 2
    assert torch.equal(weights(whole.model), weights(rest.model))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("clip", [None, {"max_norm": 1e6}])
def test_mixed_precision(tmp_path, dtype, clip):
    run = runner(tmp_path, dtype=dtype, clip_grad=clip, loss_scale=2.0**10 if dtype == "float16" else None)
    seen = set()
    run.model.backbone[0].register_forward_hook(lambda _m, _a, out: seen.add(out.dtype))
    run.train()
    assert seen == {getattr(torch, dtype)}
    assert run.optim_wrapper.optimizer.completed_steps == 8
    exact = weights(by_hand())
    assert (weights(run.model) - exact).norm() < 0.15 * (exact - weights(Toy())).norm()
    assert ("loss_scaler" in run.optim_wrapper.state_dict()) == (dtype == "float16")


def test_the_base_is_named_as_in_a_config():
    model = Toy()
    optimizer = SSESAM(model.parameters(), "AdamW", lr=0.01, tail_classes=[3], switch_step=5)
    assert isinstance(optimizer.base_optimizer, torch.optim.AdamW)
    with pytest.raises(ValueError, match=r"base_optimizer.*OPTIMIZERS"):
        SSESAM(model.parameters(), "NoSuchOptimizer", lr=0.01, tail_classes=[3], switch_step=5)


def test_an_optimizer_that_exists_is_adopted_by_the_same_names():
    base = torch.optim.AdamW(Toy().parameters())
    assert SSESAM.from_optimizer(base, tail_classes=[3], switch_step=2).base_optimizer is base


def test_models_that_hide_their_scores_are_told_both_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"(?s)output_module.*targets_from"):
        runner(tmp_path, head=False, samples=False).train()
    run = runner(tmp_path / "named", head=False, samples=False, output_module="top")
    run.train()
    assert run.optim_wrapper.optimizer.completed_steps == 8


def test_bad_arguments():
    model = Toy()
    with pytest.raises(TypeError, match=r"optimizer: expected dict\(type='SSESAM'"):
        SSESAMOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    optimizer = SSESAM(model.parameters(), lr=0.1, tail_classes=[3], switch_step=5)
    with pytest.raises(ValueError, match="dtype"):
        SSESAMOptimWrapper(optimizer, dtype="float32")
    with pytest.raises(TypeError, match="loss_scale"):
        SSESAMOptimWrapper(optimizer, loss_scale="static")
