"""The loss in mmseg's own heads, its bad inputs, and what importing registers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("mmseg", reason="needs the mmseg extra")

from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import HOOKS, METRICS, MODELS
from mmseg.structures import SegDataSample

from graftkit.mmseg import AUCSegLoss, GroupIoUMetric, PixelAUCMetric, TMemoryBankHook
from graftkit.torch import pixel_auc_loss
from tests.adapters.mmseg import aucseg_cases  # noqa: F401  (registers mmseg's heads)
from tests.plugins.aucseg import reference as ref

pytestmark = pytest.mark.filterwarnings("ignore")
BOTH = [{"type": "CrossEntropyLoss"}, {"type": "AUCSegLoss", "loss_weight": 2.0}]


def samples(n=2, classes=5, size=(12, 16), seed=0):
    rng = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(n):
        label = torch.randint(0, classes, (1, *size), generator=rng)
        label[0, 0, :3] = 255
        sample = SegDataSample()
        sample.gt_sem_seg = PixelData(data=label)
        made.append(sample)
    return made


def labels_of(made):
    return torch.cat([s.gt_sem_seg.data for s in made])


def test_registered_where_mmseg_looks():
    assert MODELS.get("AUCSegLoss") is AUCSegLoss
    assert HOOKS.get("TMemoryBankHook") is TMemoryBankHook
    assert METRICS.get("GroupIoUMetric") is GroupIoUMetric
    assert METRICS.get("PixelAUCMetric") is PixelAUCMetric
    from mmseg.registry import OPTIM_WRAPPERS

    assert OPTIM_WRAPPERS.get("SSESAMOptimWrapper").__name__ == "SSESAMOptimWrapper"


HEADS = {
    "FCNHead": {"type": "FCNHead", "num_convs": 1, "concat_input": False},
    "PSPHead": {"type": "PSPHead", "pool_scales": (1, 2)},
    "DepthwiseSeparableFCNHead": {"type": "DepthwiseSeparableFCNHead", "concat_input": False},
    "OHEM": {
        "type": "FCNHead",
        "num_convs": 1,
        "sampler": {"type": "OHEMPixelSampler", "thresh": 0.3, "min_kept": 50},
    },
    "ignore 4": {"type": "FCNHead", "num_convs": 1, "ignore_index": 4},
}


@pytest.mark.parametrize("name", HEADS)
def test_heads(name):
    head = MODELS.build({**HEADS[name], "in_channels": 8, "channels": 8, "num_classes": 5,
                         "loss_decode": BOTH, "dropout_ratio": 0.0})  # fmt: skip
    features = torch.randn(2, 8, 6, 8, generator=torch.Generator().manual_seed(1))
    made = samples()
    if name == "ignore 4":
        for s in made:
            s.gt_sem_seg.data[s.gt_sem_seg.data == 255] = 4
    losses = head.loss((features,), made, {})
    logits = head.forward((features,)).detach()
    logits = F.interpolate(logits, (12, 16), mode="bilinear", align_corners=False)
    target = labels_of(made)
    weight = None
    if name == "OHEM":
        weight = head.sampler.sample(logits, target[:, None])
        assert 0 < weight.mean() < 1
        assert losses["loss_auc"].item() != pytest.approx(2 * pixel_auc_loss(logits, target).item(), abs=1e-5)
    expected = ref.pixel_auc_loss(logits, target, ignore_index=head.ignore_index, weight=weight)
    assert losses["loss_auc"].item() == pytest.approx(2 * expected.item(), rel=1e-5)
    assert torch.isfinite(losses["loss_ce"])
    losses["loss_auc"].backward()
    assert head.conv_seg.weight.grad.abs().sum() > 0


def test_binary_head():
    head = MODELS.build({
        "type": "FCNHead", "in_channels": 8, "channels": 8, "num_convs": 1, "num_classes": 2,
        "out_channels": 1, "threshold": 0.3, "dropout_ratio": 0.0,
        "loss_decode": [{"type": "CrossEntropyLoss", "use_sigmoid": True},
                        {"type": "AUCSegLoss", "num_classes": 2}],
    })  # fmt: skip
    made = samples(classes=2)
    features = torch.randn(2, 8, 12, 16)
    losses = head.loss((features,), made, {})
    logits = head.forward((features,)).detach()
    assert logits.shape[1] == 1
    assert losses["loss_auc"].item() == pytest.approx(
        ref.pixel_auc_loss(logits, labels_of(made)).item(), rel=1e-5
    )


def test_sampler_by_loss_is_told_what_to_do():
    head = MODELS.build({"type": "FCNHead", "in_channels": 8, "channels": 8, "num_convs": 1, "num_classes": 5,
                         "loss_decode": BOTH, "sampler": {"type": "OHEMPixelSampler"}})  # fmt: skip
    with pytest.raises(ValueError, match=r"AUCSegLoss has no per-pixel form.*none.*thresh"):
        head.loss((torch.randn(2, 8, 6, 8),), samples(), {})


class Points(nn.Module):
    """What PointHead does with its losses: points (B, C, P), labels (B, P), no ``weight``."""

    def __init__(self, losses):
        super().__init__()
        self.loss_decode = nn.ModuleList([MODELS.build(loss) for loss in losses])

    def losses(self, point_logits, point_label):
        return {
            "point" + module.loss_name: module(point_logits, point_label, ignore_index=255)
            for module in self.loss_decode
        }


def test_a_stand_in_for_point_head():
    rng = torch.Generator().manual_seed(0)
    logits, label = torch.randn(2, 5, 40, generator=rng), torch.randint(0, 5, (2, 40), generator=rng)
    found = Points(BOTH).losses(logits, label)
    assert found["pointloss_auc"].item() == pytest.approx(
        2 * ref.pixel_auc_loss(logits, label).item(), rel=1e-5
    )


def test_point_head():
    ops = pytest.importorskip("mmcv.ops", reason="PointHead needs mmcv's compiled ops", exc_type=ImportError)
    assert ops.point_sample
    head = MODELS.build({"type": "PointHead", "in_channels": [8], "in_index": [0], "channels": 8,
                         "num_classes": 5, "loss_decode": BOTH})  # fmt: skip
    train_cfg = {"num_points": 30, "oversample_ratio": 3, "importance_sample_ratio": 0.75}
    from mmengine.config import ConfigDict

    losses = head.loss((torch.randn(2, 8, 6, 8),), torch.randn(2, 5, 6, 8), samples(), ConfigDict(train_cfg))
    assert torch.isfinite(losses["pointloss_auc"])


def test_losses_of_one_name_are_added():
    head = MODELS.build({"type": "FCNHead", "in_channels": 8, "channels": 8, "num_convs": 0, "num_classes": 5,
                         "concat_input": False, "dropout_ratio": 0.0,
                         "loss_decode": [{"type": "AUCSegLoss"},
                                         {"type": "AUCSegLoss", "loss_weight": 3.0}]})  # fmt: skip
    made, features = samples(), torch.randn(2, 8, 12, 16)
    expected = 4 * ref.pixel_auc_loss(head.forward((features,)).detach(), labels_of(made))
    assert head.loss((features,), made, {})["loss_auc"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_repr_names_the_weight():
    assert "loss_weight=4, loss_name='loss_auc'" in repr(AUCSegLoss(loss_weight=4))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"loss_weight": -1}, ValueError, "loss_weight"),
        ({"loss_weight": "1"}, TypeError, "loss_weight"),
        ({"loss_name": "auc"}, ValueError, "loss_name.*'loss'"),
        ({"loss_name": 1}, TypeError, "loss_name"),
        ({"num_classes": 0}, ValueError, "num_classes"),
        ({"surrogate": "cube"}, ValueError, "surrogate"),
        ({"margin": 0}, ValueError, "margin"),
    ],
)
def test_bad_arguments_of_the_loss(options, error, words):
    with pytest.raises(error, match=words):
        AUCSegLoss(**options)


def test_misspelt_arguments_of_a_config():
    with pytest.raises(TypeError, match="gamma"):
        MODELS.build({"type": "AUCSegLoss", "gamma": 1.0})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"reduction_override": "none"}, "per-pixel"),
        ({"reduction_override": "sum"}, "per-pixel.*sum"),
        ({"avg_factor": 10.0}, "avg_factor"),
    ],
)
def test_bad_calls_of_the_loss(call, words):
    with pytest.raises(ValueError, match=words):
        AUCSegLoss()(torch.zeros(1, 3, 2), torch.tensor([[0, 1]]), **call)


@pytest.mark.parametrize("logits", [None, torch.zeros(3), [[0.0]]])
def test_logits_of_another_kind(logits):
    with pytest.raises((TypeError, ValueError), match="logits"):
        AUCSegLoss(num_classes=3)(logits, torch.tensor([[0, 1]]))


def test_number_of_classes_is_checked():
    target = torch.tensor([[0, 1]])
    with pytest.raises(ValueError, match="num_classes: expected the 3 channels of the logits, got 5"):
        AUCSegLoss(num_classes=5)(torch.zeros(1, 3, 2), target)
    assert AUCSegLoss(num_classes=2)(torch.zeros(1, 1, 2), target).item() == pytest.approx(0.5)
    assert AUCSegLoss(num_classes=1)(torch.zeros(1, 1, 2), target, reduction_override="mean").item() == 0.5


def test_scope_is_left_as_it_was():
    """Importing registers; it must not change mmengine's default scope."""
    current = DefaultScope.get_current_instance()
    assert current is None or current.scope_name in ("mmseg", "mmengine")
