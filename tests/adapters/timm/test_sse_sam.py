"""SSE-SAM in timm: the registry, and train.py's loop with its loss scaler, unmodified."""

import importlib
import subprocess
import sys

import pytest
import torch
from torch import nn

pytest.importorskip("timm", reason="needs the timm extra")

import timm
from timm.optim import create_optimizer_v2, list_optimizers
from timm.utils import NativeScaler

import graftkit.timm
from graftkit.timm import SSESAM
from tests.plugins.sse_sam.loops import by_closure, counted, weights

OPTIONS = {"lr": 0.05, "tail_classes": [3], "switch_step": 2}


def vit() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(
            "vit_tiny_patch16_224",
            img_size=16,
            patch_size=8,
            embed_dim=24,
            depth=1,
            num_heads=2,
            num_classes=4,
        )


def batches(n: int = 4, size: int = 8):
    generator = torch.Generator().manual_seed(0)
    for _ in range(n):
        y = torch.randint(0, 3, (size,), generator=generator)
        y[:2] = 3
        yield torch.randn(size, 3, 16, 16, generator=generator), y


def test_registered_once_and_importing_twice_is_harmless():
    importlib.reload(sys.modules["graftkit.timm"])
    assert list_optimizers().count("ssesam") == 1


def test_a_name_clash_raises():
    code = (
        "import torch; from timm.optim._optim_factory import OptimInfo, default_registry as r\n"
        "r.register(OptimInfo(name='ssesam', opt_class=torch.optim.SGD))\n"
        "import graftkit.timm"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "timm already has an optimizer named 'ssesam'" in done.stderr


def test_from_a_model_with_weight_decay_groups_and_from_a_list():
    model = vit()
    optimizer = create_optimizer_v2(model, opt="ssesam", weight_decay=0.05, **OPTIONS)
    assert isinstance(optimizer, SSESAM)
    assert sorted(g["weight_decay"] for g in optimizer.param_groups) == [0.0, 0.05]
    assert optimizer.param_groups[0]["momentum"] == 0.9
    assert optimizer.param_groups[0]["nesterov"] is True
    w, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))
    assert len(create_optimizer_v2([w, b], "ssesam", **OPTIONS).param_groups[0]["params"]) == 2


@pytest.mark.parametrize(
    ("base", "kwargs", "expected"),
    [
        ("adamw", {"betas": (0.8, 0.9), "eps": 1e-6}, {"betas": (0.8, 0.9), "eps": 1e-6}),
        ("momentum", {}, {"nesterov": False, "momentum": 0.9}),
        ("lamb", {}, {}),
        (torch.optim.AdamW, {}, {}),
    ],
)
def test_the_base_may_be_named(base, kwargs, expected):
    optimizer = create_optimizer_v2(vit(), "ssesam", base_optimizer=base, **kwargs, **OPTIONS)
    for key, value in expected.items():
        assert optimizer.param_groups[0][key] == value
    assert (
        type(optimizer.base_optimizer)
        .__name__.lower()
        .startswith({"momentum": "sgd"}.get(base, base if isinstance(base, str) else "adamw"))
    )


def test_an_optimizer_that_exists_is_adopted_by_the_same_names():
    base = torch.optim.AdamW(vit().parameters())
    optimizer = SSESAM.from_optimizer(base, tail_classes=[3], switch_step=2)
    assert optimizer.base_optimizer is base
    with pytest.raises(TypeError, match="lr"):
        SSESAM.from_optimizer(base, lr=0.1, tail_classes=[3], switch_step=2)


def test_unknown_bases_are_refused():
    for name in ("adamww", "ssesam"):
        with pytest.raises(ValueError, match=r"base_optimizer.*list_optimizers"):
            create_optimizer_v2(vit(), "ssesam", base_optimizer=name, **OPTIONS)


def test_without_a_tail_the_error_says_what_is_missing():
    with pytest.raises(ValueError, match="tail_classes"):
        create_optimizer_v2(vit(), opt="ssesam", lr=0.1, switch_step=3)


def test_layer_decay_groups_are_honoured():
    optimizer = create_optimizer_v2(vit(), opt="ssesam", layer_decay=0.5, **OPTIONS)
    assert len({g["lr_scale"] for g in optimizer.param_groups}) > 1


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_train_one_epoch_with_the_loss_scaler(precision, clip):
    model = vit()
    optimizer = create_optimizer_v2(model, opt="ssesam", **OPTIONS)
    loss_fn = nn.CrossEntropyLoss()
    optimizer.watch(model, loss_fn)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    loss_scaler = NativeScaler(device="cpu") if precision == "fp16" else None
    before = weights(model)
    passes = []
    model.train()
    for k, (x, y) in enumerate(batches()):
        with counted(model.patch_embed.proj, 8) as work:
            with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                loss = loss_fn(model(x), y)
            if loss_scaler is not None:
                loss_scaler(loss, optimizer, clip_grad=clip, parameters=model.parameters(), need_update=True)
            else:
                loss.backward()
                if clip is not None:
                    timm.utils.dispatch_clip_grad(model.parameters(), value=clip)
                optimizer.step()
            optimizer.zero_grad()
        if k > 0:  # the first step is verified once
            passes.append(work.units)
    assert optimizer.completed_steps == 4
    assert passes == pytest.approx([2.25, 1.5, 1.5])
    assert not torch.equal(weights(model), before)


def test_the_loop_equals_closures_on_a_timm_model():
    data = [(x.double(), y) for x, y in batches()]
    looped, closed = vit().double(), vit().double()
    optimizer = create_optimizer_v2(looped, opt="ssesam", **OPTIONS)
    criterion = nn.CrossEntropyLoss()
    optimizer.watch(looped, criterion)
    for x, y in data:
        optimizer.zero_grad()
        criterion(looped(x), y).backward()
        optimizer.step()
    by_closure(
        create_optimizer_v2(closed, opt="ssesam", **OPTIONS),
        closed,
        nn.CrossEntropyLoss(reduction="none"),
        data,
    )
    torch.testing.assert_close(weights(looped), weights(closed), rtol=0, atol=1e-10)


def test_public_names():
    assert "SSESAM" in graftkit.timm.__all__
