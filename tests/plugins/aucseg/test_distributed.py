"""``sync=True`` on two gloo processes against one process that sees the whole batch."""

import pytest
import torch
import torch.multiprocessing as mp

from graftkit.torch import pixel_auc_loss
from tests.plugins.aucseg import workers


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    mp.spawn(workers.run, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("ignored", [False, True], ids=["", "one process has no pixels"])
@pytest.mark.parametrize("name", workers.OPTIONS)
def test_two_processes_equal_one(results, name, ignored):
    x, y, weight = workers.rows()
    if ignored:
        y[5:] = 255
    options = dict(workers.OPTIONS[name])
    if options.pop("weight", False):
        options["weight"] = weight
    x.requires_grad_()
    truth = pixel_auc_loss(x, y, **options)
    truth.backward()
    for loss, gradient in (result[f"{name} {ignored}"] for result in results):
        torch.testing.assert_close(loss, truth.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(gradient, x.grad, rtol=0, atol=1e-12)


def test_a_bad_label_stops_both_processes(results):
    assert "label 9" in results[1]["bad label"]
    assert "another process" in results[0]["bad label"]


def test_sync_without_processes_is_plain():
    x, y, _ = workers.rows()
    assert pixel_auc_loss(x, y, sync=True).item() == pixel_auc_loss(x, y).item()
