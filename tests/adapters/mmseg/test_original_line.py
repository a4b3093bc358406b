"""mmsegmentation 1.2.2 and mmengine 0.10, the original line: stood in for by doubles of their calls.

They cannot be installed beside the tested versions of torch (mmcv has to be compiled for each). What is
checked is that our parts answer the calls of the original's head, runner and evaluator as they are written
there; that line itself never ran.
"""

import inspect
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from graftkit import mmseg as host
from graftkit.torch import PixelAUCLoss


class Head(nn.Module):
    """The part of BaseDecodeHead.loss_by_feat that meets a loss: three keywords, losses of a name added."""

    def __init__(self, *losses: nn.Module, ignore_index: int = 255) -> None:
        super().__init__()
        self.loss_decode, self.ignore_index = nn.ModuleList(losses), ignore_index

    def loss(self, logits, labels):
        found = {}
        for one in self.loss_decode:
            value = one(logits, labels.squeeze(1), weight=None, ignore_index=self.ignore_index)
            found[one.loss_name] = found.get(one.loss_name, 0) + value
        return found


def test_the_heads_call_of_a_loss():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 6, generator=generator, requires_grad=True)
    labels = torch.randint(0, 3, (2, 1, 6, 6), generator=generator)
    labels[0, 0, :2] = 7
    found = Head(host.AUCSegLoss(), host.AUCSegLoss(loss_weight=0.5), ignore_index=7).loss(logits, labels)
    assert found.keys() == {"loss_auc"}  # what begins with loss_ is trained on
    plain = PixelAUCLoss(ignore_index=7)(logits, labels.squeeze(1))
    torch.testing.assert_close(found["loss_auc"], 1.5 * plain)
    found["loss_auc"].backward()
    assert torch.isfinite(logits.grad).all()


class Sample:
    """What is asked of a SegDataSample."""

    def __init__(self, labels: torch.Tensor) -> None:
        self.gt_sem_seg = SimpleNamespace(data=labels)

    def __contains__(self, name: str) -> bool:
        return name == "gt_sem_seg"


def test_the_runners_calls_of_a_hook():
    """Runner.call_hook hands everything over by keyword; 1.2.2's data_batch is a dict of lists."""
    metainfo = {"classes": ("road", "pole")}
    hook = host.TMemoryBankHook(tail_classes=["pole"], sample_ratio=1, resize_ratio=1)
    loader = SimpleNamespace(dataset=SimpleNamespace(metainfo=metainfo))
    runner = SimpleNamespace(iter=0, seed=0, _resume=True, train_dataloader=loader)
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, 2:4, 2:4] = 1
    batch = {"inputs": [torch.rand(3, 8, 8)], "data_samples": [Sample(labels)]}
    hook.before_train(runner)
    hook.before_train_iter(runner, batch_idx=0, data_batch=batch)
    checkpoint = {}
    hook.before_save_checkpoint(runner, checkpoint=checkpoint)
    assert len(checkpoint) == 1
    assert len(hook.bank) == 1
    again = host.TMemoryBankHook(tail_classes=["pole"], sample_ratio=1, resize_ratio=1)
    again.after_load_checkpoint(runner, checkpoint=dict(checkpoint))  # the original resumes before it trains
    again.before_train(runner)
    assert len(again.bank) == 1


@pytest.mark.parametrize(
    ("call", "arguments", "keywords"),
    [
        (host.SSESAMOptimWrapper.update_params, ("loss",), {"step_kwargs": None, "zero_kwargs": None}),
        (host.SSESAMOptimWrapper.optim_context, ("model",), {}),
        (host.SSESAMOptimWrapper.backward, ("loss",), {}),
        (host.SSESAMOptimWrapper.step, (), {}),
        (host.SSESAMOptimWrapper.state_dict, (), {}),
        (host.SSESAMOptimWrapper.load_state_dict, ({},), {}),
        (host.GroupIoUMetric.process, ({}, []), {}),
        (host.GroupIoUMetric.compute_metrics, ([],), {}),
        (host.PixelAUCMetric.process, ({}, []), {}),
        (host.PixelAUCMetric.compute_metrics, ([],), {}),
        (host.DiffusionFeatureBackbone.forward, ("inputs",), {}),
    ],
)
def test_other_calls_fit_our_signatures(call, arguments, keywords):
    inspect.signature(call).bind(object(), *arguments, **keywords)


def test_what_goes_to_the_originals_metric_are_its_arguments():
    """IoUMetric of 1.2.2: names and order."""
    original = (
        "ignore_index", "iou_metrics", "nan_to_num", "beta", "collect_device", "output_dir", "format_only",
        "prefix",
    )  # fmt: skip
    own = [name for name in inspect.signature(host.GroupIoUMetric).parameters if name in original]
    assert own == list(original)
    assert set(inspect.signature(host.GroupIoUMetric).parameters) - set(original) == {"groups", "per_class"}
