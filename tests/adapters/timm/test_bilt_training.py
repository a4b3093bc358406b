"""Training a wrapped model as timm does: loop, task, EMA, mixup, AMP, compile, export, processes."""

import copy
import os
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

pytest.importorskip("timm", reason="needs the timm extra")

from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import AverageMeter, ModelEmaV2, ModelEmaV3, accuracy

from graftkit.timm import BiLTLoss, HierarchicalMetrics
from tests.adapters.timm.bilt_cases import TREE, pictures, small


def loader(batches=6, size=8, pixels=32):
    return [pictures(size, pixels, seed=k) for k in range(batches)]


def validate(model, data, loss_fn):
    """timm's own way: a tuple's first entry is the output."""
    losses, top1 = AverageMeter(), AverageMeter()
    model.eval()
    with torch.no_grad():
        for x, y in data:
            output = model(x)
            if isinstance(output, tuple | list):
                output = output[0]
            losses.update(loss_fn(output, y).item(), len(y))
            top1.update(accuracy(output, y, topk=(1,))[0].item(), len(y))
    return losses.avg, top1.avg


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_train_and_validate_as_timm_does(precision, channels_last):
    model, criterion = small(), BiLTLoss(TREE)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, "sgd", lr=0.05, momentum=0.9, weight_decay=1e-4)
    scheduler = CosineLRScheduler(optimizer, t_initial=6)
    ema = ModelEmaV3(model, decay=0.5)
    amp = torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
    losses = []
    for epoch in range(6):
        model.train()
        for x, y in loader():
            if channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            with amp:
                loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update(model)
            losses.append(loss.item())
        scheduler.step(epoch + 1)
    assert sum(losses[-6:]) < 0.7 * sum(losses[:6])
    assert all(value == value for value in losses)
    data = loader(3)
    assert validate(model, data, nn.CrossEntropyLoss())[1] > 60  # chance is 20
    assert validate(ema.module, data, nn.CrossEntropyLoss())[1] > 60
    metrics = HierarchicalMetrics(TREE)
    with torch.no_grad():
        for x, y in data:
            metrics.update(model(x), y)
    assert 100 * float(metrics.compute()["top1"]) == pytest.approx(
        validate(model, data, nn.CrossEntropyLoss())[1]
    )


def test_channels_last_changes_nothing():
    model = small().eval()
    x, _ = pictures()
    expected = model(x).scores
    moved = model.to(memory_format=torch.channels_last)(
        x.contiguous(memory_format=torch.channels_last)
    ).scores
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", [ModelEmaV2, ModelEmaV3])
def test_averages_of_weights(build):
    model = small()
    ema = build(model, decay=0.75)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    ema.update(model)
    stored = ema.module.state_dict()
    key = "head.costs.1.weight"
    torch.testing.assert_close(stored[key], before[key] + 0.25)
    assert torch.equal(stored["head._extra_state"], before["head._extra_state"])
    # The kept matrix of the average follows its weight.
    ema.module.eval()
    x, _ = pictures()
    with torch.no_grad():
        first = ema.module(x).level_cost[1].clone()
        model.head.costs[1].weight.mul_(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)))
        ema.update(model)
        assert not torch.equal(ema.module(x).level_cost[1], first)


def test_timms_task():
    task_module = pytest.importorskip("timm.task", reason="this timm has no tasks")
    model = small()
    task = task_module.ClassificationTask(
        model, criterion=BiLTLoss(TREE), device=torch.device("cpu"), verbose=False
    )
    x, y = pictures()
    result = task(x, y)
    torch.testing.assert_close(result["loss"], BiLTLoss(TREE)(result["output"], y))
    result["loss"].backward()


@pytest.mark.parametrize(
    "options", [{"mixup_alpha": 1.0}, {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}], ids=str
)
def test_mixup_and_cutmix(options):
    model = small()
    x, y = pictures(8)
    mixed, target = Mixup(num_classes=5, label_smoothing=0.1, **options)(x.clone(), y)
    assert target.shape == (8, 5)
    BiLTLoss(TREE)(model(mixed), target).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_bf16_agrees_with_fp32():
    model = small().eval()
    x, _ = pictures(64)
    with torch.no_grad():
        plain = model(x).scores.argmax(1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = model(x)
    assert (low.scores.argmax(1) == plain).float().mean() >= 0.95
    assert low.scores.dtype == torch.float32


def test_accumulated_batches_of_partial_labels():
    model = small()
    x, y = pictures()
    target = torch.stack([TREE.ancestors[0][y], y], 1)
    target[3:, 1] = -1
    for rows in (slice(0, 3), slice(3, 6)):
        BiLTLoss(TREE)(model(x[rows]), target[rows]).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.slow
def test_compiled_head_and_loss_equal_eager():
    model, criterion = small().head, BiLTLoss(TREE)
    x, y = torch.randn(4, 96, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 3, 4])
    twin = copy.deepcopy(model)
    expected = criterion(twin(x), y)
    expected.backward()
    loss = torch.compile(lambda a, b: criterion(model(a), b), fullgraph=True)(x, y)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-5)


def test_a_whole_model_is_one_graph():
    model = small("test_vit").eval()
    x, _ = pictures(2, 160)
    with torch.no_grad():
        got = torch.compile(model, fullgraph=True, backend="eager")(x)
        torch.testing.assert_close(got.scores, model(x).scores, rtol=1e-5, atol=1e-5)


def test_the_head_is_one_graph():
    """No break on the way through head and loss, training and evaluation, shown without a C++ compiler."""
    model, criterion = small().head, BiLTLoss(TREE)
    x, y = torch.randn(4, 96, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 3, 4])
    for training in (True, False):
        model.train(training)
        expected = criterion(copy.deepcopy(model)(x), y)
        got = torch.compile(lambda a, b: criterion(model(a), b), fullgraph=True, backend="eager")(x, y)
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_export_of_the_evaluation_path(name):
    model = small(name).eval()
    x, _ = pictures(2, 160)
    with torch.no_grad():
        expected = model(x)
        exported = torch.export.export(model, (x,)).module()(x)
    torch.testing.assert_close(exported.scores, expected.scores, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(exported.level_scores[0], expected.level_scores[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gradients", [False, True])
def test_an_exported_model_runs_with_and_without_gradients_and_at_every_batch_size(gradients):
    model = small().eval()
    x, _ = pictures(4)
    sizes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    with torch.set_grad_enabled(gradients):
        exported = torch.export.export(model, (x,), dynamic_shapes=sizes).module()
    for other in (False, True):
        with torch.set_grad_enabled(other):
            for n in (1, 4):
                torch.testing.assert_close(exported(x[:n]).scores, model(x[:n]).scores, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("gradients", [False, True])
def test_torchscript_by_tracing(tmp_path, gradients):
    model = small().eval()
    x, _ = pictures()
    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(model, x, check_trace=False, strict=False)
    traced.save(str(tmp_path / "traced.pt"))
    loaded = torch.jit.load(str(tmp_path / "traced.pt"))
    for other in (False, True):
        with torch.set_grad_enabled(other):
            torch.testing.assert_close(loaded(x)[0], model(x).scores, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_mixed_precision_on_a_gpu(dtype):
    model, criterion = small().cuda(), BiLTLoss(TREE).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler(enabled=dtype == torch.float16)
    losses = []
    for _ in range(4):
        for x, y in loader():
            with torch.autocast("cuda", dtype=dtype):
                loss = criterion(model(x.cuda()), y.cuda())
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
    assert sum(losses[-6:]) < sum(losses[:6])


# -- two processes -----------------------------------------------------------------------------------


def _work(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        # No batch norm whose statistics would differ from those of the whole batch.
        model = small("test_vit", neck=None, chain=False)
        wrapped = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = pictures(4, 160)
        for _ in range(2):
            optimizer.zero_grad()
            BiLTLoss(TREE)(wrapped(x[2 * rank : 2 * rank + 2]), y[2 * rank : 2 * rank + 2]).backward()
            optimizer.step()
        torch.save(model.state_dict(), Path(folder) / f"{rank}.pt")
        chained = small("test_resnet")
        twice = nn.parallel.DistributedDataParallel(chained)
        for _ in range(2):  # an unused parameter would stop the second pass
            BiLTLoss(TREE)(twice(pictures(4)[0]), pictures(4)[1]).backward()
    finally:
        dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    mp.spawn(_work, args=(str(tmp_path),), nprocs=2)
    model = small("test_vit", neck=None, chain=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = pictures(4, 160)
    for _ in range(2):
        optimizer.zero_grad()
        BiLTLoss(TREE)(model(x), y).backward()
        optimizer.step()
    expected = model.state_dict()
    for rank in (0, 1):
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in state.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=name)
