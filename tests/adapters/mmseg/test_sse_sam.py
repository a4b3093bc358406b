"""SSE-SAM under mmengine's Runner: config, accumulation, clipping, mixed precision, checkpoint and resume."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("mmengine", reason="needs the mmseg extra")

from mmengine.model import BaseModel, MMDistributedDataParallel
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


def stepped(n: int = 1, *, growing: bool = False, **options):
    """A model's own train_step under the wrapper; gives the wrapper and the final gradient's norms."""
    model = Toy()
    optimizer = SSESAM(model.parameters(), lr=0.1, tail_classes=[3], switch_step=5)
    wrapper = SSESAMOptimWrapper(optimizer, **options)
    if growing:
        wrapper.loss_scaler.set_growth_interval(1)
    norms = []
    optimizer.base_optimizer.register_step_pre_hook(
        lambda *_: norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])))
    )
    with counted(model.backbone[0], 12) as work:
        for x, y in (DATA * n)[:n]:
            model.train_step({"inputs": x, "data_samples": y}, wrapper)
    return wrapper, norms, work


def test_clipping_acts_on_unscaled_gradients():
    _, norms, _ = stepped(dtype="float16", clip_grad={"max_norm": 0.05}, loss_scale=2.0**10)
    assert 0.025 < norms[0] < 0.1  # the sharpened gradient takes the user's factor


def test_a_constant_loss_scale_stays_and_a_dynamic_one_survives_a_checkpoint():
    wrapper, _, _ = stepped(2, growing=True, dtype="float16", loss_scale=2.0**10)
    assert wrapper.loss_scaler.get_scale() == 2.0**10
    wrapper, _, _ = stepped(2, dtype="float16", loss_scale={"init_scale": 8.0, "growth_interval": 1})
    assert wrapper.loss_scaler.get_scale() == 8.0 * 2**2
    state = wrapper.state_dict()
    other, _, _ = stepped(dtype="float16")
    other.load_state_dict(state)
    assert other.loss_scaler.get_scale() == 8.0 * 2**2
    assert other.optimizer.completed_steps == 2
    assert "loss_scaler" in state


def test_what_watch_is_told_arrives():
    assert stepped(verify=True)[2].units == stepped(verify=False)[2].units + 1
    wrapper, _, work = stepped(membership=lambda labels: torch.zeros(len(labels)), verify=False)
    assert wrapper.optimizer.completed_steps == 1
    assert work.units == pytest.approx(2.0)  # nobody is of the tail: the user's pass and the head's


def test_a_distributed_wrapper_is_watched_with_the_scores_inside(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = Toy()
        wrapped = MMDistributedDataParallel(model)
        optimizer = SSESAM(model.parameters(), lr=0.1, tail_classes=[3], switch_step=5)
        wrapper = SSESAMOptimWrapper(optimizer)
        wrapped.train_step({"inputs": DATA[0][0], "data_samples": DATA[0][1]}, wrapper)
        assert optimizer.completed_steps == 1
    finally:
        torch.distributed.destroy_process_group()


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
