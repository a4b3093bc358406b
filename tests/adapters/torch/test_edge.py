"""EDGE in plain torch loops: mixed precision, compiled, two processes, resumed; and its two guests."""

import copy

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from graftkit.torch import EDGELoss, OutlierExposureBatcher, joint_energy, ood_labels
from tests.house.subprocesses import run_python
from tests.plugins.edge import workers
from tests.plugins.edge.cases import draw, joined


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5))


GENERATOR = torch.Generator().manual_seed(3)
KNOWN = [
    (torch.randn(8, 6, generator=GENERATOR), (torch.rand(8, 5, generator=GENERATOR) < 0.3).float())
    for _ in range(3)
]
OUTLIERS = [torch.randn(8, 6, generator=GENERATOR) + 1 for _ in range(3)]
OPTIONS = {"k": 4, "margin": 2.0, "warmup_epochs": 2}


def run(epochs, state=None, precision=None):
    """Epochs of a plain loop, or what is left of them; returns what a checkpoint holds, and the losses."""
    model, criterion = net(), EDGELoss(**OPTIONS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = OutlierExposureBatcher(KNOWN, OUTLIERS, criterion=criterion)
    first = 0
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        criterion.load_state_dict(state["criterion"])
        first = int(criterion.epoch) + 1
    losses = []
    for epoch in range(first, epochs):
        loader.set_epoch(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
                loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    parts = {"model": model, "optimizer": optimizer, "criterion": criterion}
    return {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}, losses


@pytest.mark.parametrize("killed", [1, 2, 3])
def test_a_run_killed_in_the_warm_up_and_resumed_is_the_unbroken_one(killed, tmp_path):
    whole, losses = run(5)
    state, before = run(killed)
    torch.save(state, tmp_path / "checkpoint.pt")
    resumed, after = run(5, torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert before + after == losses
    assert torch.equal(resumed["criterion"]["epoch"], whole["criterion"]["epoch"])
    for name, value in whole["model"].items():
        assert torch.equal(resumed["model"][name], value)


def test_without_its_state_the_warm_up_would_begin_again():
    """What the saved buffer is for: a loop that does not count epochs itself."""
    criterion = EDGELoss(**OPTIONS)
    criterion.set_epoch(2)
    fresh = EDGELoss(**OPTIONS)
    batch = joined(*draw(0, 6, 6, 5))
    assert fresh(*batch).item() < criterion(*batch).item()
    fresh.load_state_dict(criterion.state_dict())
    assert fresh(*batch).item() == criterion(*batch).item()


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_mixed_precision_trains_near_the_full_one(precision):
    _, full = run(4)
    _, mixed = run(4, precision=precision)
    assert mixed == pytest.approx(full, rel=0.05)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fused", [True, False])
def test_under_autocast_the_loss_is_that_in_float32(precision, fused):
    logits, targets = joined(*draw(1, 8, 8, 1000, torch.float32))
    logits = (logits * 50).to(precision)
    criterion = EDGELoss(k=4, margin=1.0, fused=fused)
    with torch.autocast("cpu", precision):
        loss = criterion(logits, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(criterion(logits.float(), targets).item(), rel=1e-3)


def test_grad_scaler():
    model, criterion = net(), EDGELoss(k=4, margin=2.0)
    plain = copy.deepcopy(model)
    x, y = next(iter(OutlierExposureBatcher(KNOWN, OUTLIERS)))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(criterion(model(x), y)).backward()
    criterion(plain(x), y).backward()
    for ours, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad / 1024, other.grad, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("method", ["pairwise", "sorted"])
def test_split_form_compiles_without_a_break(fused, method):
    z, y, u = draw(2, 8, 6, 5, torch.float32)
    criterion = EDGELoss(k=3, margin=1.0, gap_method=method, fused=fused, warmup_epochs=1)
    criterion.set_epoch(1)
    compiled = torch.compile(criterion.split, backend="aot_eager", fullgraph=True)
    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    ours, plain = compiled(a, y, u), criterion.split(b, y, u)
    ours.backward()
    plain.backward()
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(a.grad, b.grad)
    torch._dynamo.reset()


def test_compiled_criterion_follows_epochs_and_keeps_its_terms():
    criterion, eager = EDGELoss(**OPTIONS), EDGELoss(**OPTIONS)
    compiled = torch.compile(criterion, backend="aot_eager")
    batch = joined(*draw(3, 6, 6, 5, torch.float32))
    for epoch in (0, 1, 2):
        criterion.set_epoch(epoch)
        eager.set_epoch(epoch)
        torch.testing.assert_close(compiled(*batch), eager(*batch))
        assert criterion.last.beta.item() == pytest.approx(0.1 if epoch == 2 else 0.0)
        assert criterion.last.k_used == 4
    with pytest.raises(ValueError, match="in row 0"):
        compiled(batch[0], batch[1] * 3)
    torch._dynamo.reset()


@pytest.mark.slow
def test_inductor():
    z, y, u = draw(2, 8, 6, 5, torch.float32)
    criterion = EDGELoss(k=3, margin=1.0)
    compiled = torch.compile(criterion.split, fullgraph=True)
    z.requires_grad_()
    loss = compiled(z, y, u)
    loss.backward()
    torch.testing.assert_close(loss.detach(), criterion.split(z.detach(), y, u))
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    mp.spawn(workers.run, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_two_processes_take_their_own_tails_and_average(processes):
    """DDP: the gradient is the mean of the processes' gradients, each with a tail of its own batch."""
    expected = [torch.zeros_like(p) for p in workers.net().parameters()]
    for rank in range(2):
        model = workers.net()
        EDGELoss(**workers.OPTIONS)(model(workers.inputs(rank)), workers.targets(rank)).backward()
        for total, parameter in zip(expected, model.parameters(), strict=True):
            total += parameter.grad / 2
    for result in processes:
        for ours, other in zip(result["gradients"], expected, strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-7)


def test_each_process_reports_its_own_terms(processes):
    for rank, result in enumerate(processes):
        assert result["k_used"] == workers.OPTIONS["k"]
        assert result["n_oe"] == workers.outliers(rank)
        energies = joint_energy(workers.net()(workers.inputs(rank)).detach())
        assert result["lowest"] == pytest.approx(energies[: workers.KNOWN].min().item(), rel=1e-5)


def test_a_process_without_outliers_does_not_stop_the_other(processes):
    assert workers.outliers(1) != workers.outliers(0)
    assert all(torch.isfinite(g).all() for g in processes[1]["gradients alone"])


# Guests: pytorch-ood and torchmetrics, imported only by name.


def test_graftkit_torch_needs_neither_guest():
    message = run_python(
        """
        import graftkit.torch
        for module in ("edge_pytorch_ood", "edge_torchmetrics"):
            try:
                __import__(f"graftkit.torch.{module}")
            except ImportError as error:
                print(error)
        """,
        block=("pytorch_ood", "torchmetrics"),
    )
    assert "pip install 'graftkit[bench]'" in message
    assert "pip install 'graftkit[lightning]'" in message


def test_pytorch_ood_form():
    pytest.importorskip("pytorch_ood", reason="needs pytorch-ood")
    from pytorch_ood.api import LogitsDetector
    from pytorch_ood.metrics import OODMetrics

    from graftkit.torch.edge_pytorch_ood import EDGELoss as Loss
    from graftkit.torch.edge_pytorch_ood import JointEnergy

    model = net().eval()
    detector = JointEnergy(model)
    assert isinstance(detector, LogitsDetector)
    x, y = next(iter(OutlierExposureBatcher(KNOWN, OUTLIERS)))
    scores = detector.predict(x)
    assert torch.equal(scores, -joint_energy(model(x)))
    assert detector.fit(None) is detector  # nothing to fit, as pytorch-ood has it
    figures = OODMetrics().update(scores.detach(), ood_labels(y)).compute()
    from graftkit.torch import ood_metrics

    ours = ood_metrics(scores[:8], scores[8:], positive="ood")
    assert figures["AUROC"] == pytest.approx(ours["AUROC"], abs=1e-6)
    assert figures["FPR95TPR"] == pytest.approx(ours["FPR95_OOD+"], abs=1e-6)
    assert Loss.info.supervised
    criterion = Loss(**OPTIONS)
    assert criterion(model(x), y).item() == EDGELoss(**OPTIONS)(model(x), y).item()
    assert detector.info.paper.year == 2021


def test_torchmetrics_form():
    pytest.importorskip("torchmetrics", reason="needs torchmetrics")
    from graftkit.torch import multilabel_map, ood_metrics
    from graftkit.torch.edge_torchmetrics import MultilabelOODMetrics

    logits, targets = joined(*draw(4, 20, 15, 3))
    order = torch.randperm(35, generator=torch.Generator().manual_seed(0))
    metric = MultilabelOODMetrics()
    for rows in order.split(10):
        metric.update(logits[rows], targets[rows])
    figures = {name: value.item() for name, value in metric.compute().items()}
    energies = joint_energy(logits)
    expected = ood_metrics(energies[:20], energies[20:])
    expected["mAP"] = multilabel_map(logits[:20], targets[:20]).value
    assert figures == pytest.approx(expected, rel=1e-6)
    metric.reset()
    with pytest.raises(ValueError, match=r"logits: expected the targets' shape \(2, 2\)"):
        metric.update(torch.zeros(2, 3), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="Partially labelled rows are not outliers"):
        metric.update(torch.zeros(1, 2), torch.tensor([[-1.0, 1.0]]))
