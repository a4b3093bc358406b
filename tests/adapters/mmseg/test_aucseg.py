"""The loss in mmseg's own heads, the hook's and the metric's edges, and their bad inputs."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("mmseg", reason="needs the mmseg extra")

from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.registry import HOOKS, METRICS, MODELS
from mmseg.structures import SegDataSample

from graftkit.mmseg import AUCSegLoss, GroupIoUMetric, PixelAUCMetric, TMemoryBankHook, aucseg_bank
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


# The hook.


class Stub:
    """As much of a Runner as the hook asks for."""

    def __init__(self, metainfo=None, step=0):
        self.train_dataloader = self
        self.dataset = self
        self.metainfo = metainfo
        self.iter, self.seed, self._resume = step, 0, False
        self.logger, self.message_hub = self, self
        self.warnings, self.scalars = [], {}

    def warning(self, text, *args):
        self.warnings.append(text % args)

    def update_scalar(self, name, value):
        self.scalars.setdefault(name, []).append((self.iter, value))


def started(hook, **stub):
    runner = Stub(**stub)
    hook.before_train(runner)
    return runner


def batch(*labels, size=(6, 8)):
    made, images = [], []
    for k, classes in enumerate(labels):
        label = torch.zeros(1, *size, dtype=torch.long)
        for c in classes:
            label[0, c, :] = c
        sample = SegDataSample(metainfo={"img_path": f"{k}.jpg"})
        sample.gt_sem_seg = PixelData(data=label)
        made.append(sample)
        images.append(torch.full((3, *size), 10 * k + 1, dtype=torch.uint8))
    return {"inputs": images, "data_samples": made}


def test_names_become_numbers():
    hook = TMemoryBankHook(["pole", 0, "car"])
    started(hook, metainfo={"classes": ("road", "car", "pole")})
    assert hook.bank.tail_classes == (2, 0, 1)


@pytest.mark.parametrize(
    ("tail", "metainfo", "words"),
    [
        (["pole", "bus"], {"classes": ("pole", "car")}, "tail_classes.*pole, car, got 'bus'"),
        ([2], {"classes": ("pole", "car")}, "tail_classes.*got 2"),
        (["pole"], None, "tail_classes.*class numbers"),
        (["pole", 0], {"classes": ("pole", "car")}, "tail_classes.*twice"),
        (["pole", -1], {"classes": ("pole", "car")}, "tail_classes.*-1"),
    ],
)
def test_names_that_do_not_fit(tail, metainfo, words):
    with pytest.raises(ValueError, match=words):
        started(TMemoryBankHook(tail), metainfo=metainfo)


def test_names_beside_what_is_no_class():
    with pytest.raises(TypeError, match=r"tail_classes.*1.5"):
        started(TMemoryBankHook(["pole", 1.5]), metainfo={"classes": ("pole", "car")})


def test_numbers_need_no_names():
    hook = TMemoryBankHook([7])
    started(hook)
    assert hook.bank.tail_classes == (7,)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"tail_classes": []}, ValueError, "tail_classes"),
        ({"tail_classes": "pole"}, TypeError, "tail_classes"),
        ({"tail_classes": [1, 1]}, ValueError, "tail_classes.*twice"),
        ({"tail_classes": ["a"], "sample_ratio": 0}, ValueError, "sample_ratio"),
        ({"tail_classes": [1], "memory_size": 0}, ValueError, "memory_size"),
        ({"tail_classes": [1], "resize_ratio": 9}, ValueError, "resize_ratio"),
        ({"tail_classes": [1], "max_bytes": 0}, ValueError, "max_bytes"),
        ({"tail_classes": [1], "update": "lifo"}, ValueError, "update"),
        ({"tail_classes": [1], "scope": "x"}, ValueError, "scope"),
        ({"tail_classes": [1], "seed": -1}, ValueError, "seed"),
        ({"tail_classes": [1], "start_iter": -1}, ValueError, "start_iter"),
        ({"tail_classes": [1], "start_iter": 5, "stop_iter": 4}, ValueError, "stop_iter"),
        ({"tail_classes": [1], "log_interval": 0}, ValueError, "log_interval"),
    ],
)
def test_bad_arguments_of_the_hook(options, error, words):
    with pytest.raises(error, match=words):
        TMemoryBankHook(**options)


def test_new_samples_replace_the_old_which_stay():
    hook = TMemoryBankHook([2], sample_ratio=1, resize_ratio=1)
    runner = started(hook)
    data = batch([0, 2], [0])
    inputs, made = data["inputs"], data["data_samples"]
    untouched = [t.clone() for t in (*inputs, *(s.gt_sem_seg.data for s in made))]
    hook.before_train_iter(runner, 0, data)
    assert data["inputs"] is not inputs
    assert data["data_samples"][0] is made[0]  # nothing was missing there
    assert data["data_samples"][1] is not made[1]
    assert (data["data_samples"][1].gt_sem_seg.data[0, 2] == 2).all()
    assert data["data_samples"][1].gt_sem_seg.data.shape == (1, 6, 8)
    assert data["data_samples"][1].img_path == "1.jpg"
    assert (data["inputs"][1][:, 2] == 1).all()
    now = [*inputs, *(s.gt_sem_seg.data for s in made)]
    assert all(torch.equal(a, b) for a, b in zip(untouched, now, strict=True))


def test_stacked_inputs_stay_stacked():
    hook = TMemoryBankHook([2], sample_ratio=1, resize_ratio=1)
    runner = started(hook)
    data = batch([0, 2], [0])
    data["inputs"] = torch.stack(data["inputs"])
    hook.before_train_iter(runner, 0, data)
    assert isinstance(data["inputs"], torch.Tensor)
    assert (data["inputs"][1][:, 2] == 1).all()


def test_what_is_logged_and_when():
    hook = TMemoryBankHook([2, 3], sample_ratio=1, resize_ratio=1, memory_size=2, log_interval=2)
    runner = started(hook)
    for step in range(4):
        runner.iter = step
        hook.before_train_iter(runner, step, batch([0, 2], [0] if step < 2 else [0, 2]))
    # Class 3 never comes: a paste a pair of pictures, then none; 2 of 4 slots.
    assert runner.scalars == {
        "train/bank_pasted": [(1, 0.5), (3, 0.0)],
        "train/bank_filled": [(1, 0.5), (3, 0.5)],
    }


def test_stale_maps_are_warned_about_once():
    hook = TMemoryBankHook([2], sample_ratio=1, resize_ratio=1)
    runner = started(hook)
    for _ in range(2):
        data = batch([2], [0])
        data["data_samples"][1].gt_edge_map = PixelData(data=torch.zeros(1, 6, 8))
        hook.before_train_iter(runner, 0, data)
    assert len(runner.warnings) == 1
    assert "gt_edge_map" in runner.warnings[0]


@pytest.mark.parametrize("data", [None, [1], {"inputs": []}, {"data_samples": []}])
def test_batches_of_another_kind(data):
    hook = TMemoryBankHook([2])
    runner = started(hook)
    with pytest.raises(TypeError, match="data_batch"):
        hook.before_train_iter(runner, 0, data)


def test_samples_without_labels():
    hook = TMemoryBankHook([2])
    runner = started(hook)
    data = batch([0])
    del data["data_samples"][0].gt_sem_seg
    with pytest.raises(ValueError, match="gt_sem_seg"):
        hook.before_train_iter(runner, 0, data)


def test_seed_of_the_runner_or_its_own():
    for given, expected in ((None, 7), (3, 3)):
        hook = TMemoryBankHook([2], seed=given)
        runner = Stub()
        runner.seed = 7
        hook.before_train(runner)
        assert hook.bank.seed == expected


def test_each_rank_has_a_seed_of_its_own(monkeypatch):
    monkeypatch.setattr(aucseg_bank, "get_rank", lambda: 2)
    hook = TMemoryBankHook([2], seed=3)
    started(hook)
    assert hook.bank.seed == 5


# The metric.


def evaluated(metric, predictions, labels, classes=("a", "b", "c", "d")):
    metric.dataset_meta = {"classes": classes}
    data = [
        {"pred_sem_seg": {"data": p[None]}, "gt_sem_seg": {"data": y[None]}}
        for p, y in zip(predictions, labels, strict=True)
    ]
    metric.process({}, data)
    return metric.evaluate(len(data))


def case(seed=0, classes=3):
    rng = torch.Generator().manual_seed(seed)
    labels = [torch.randint(0, classes, (9, 7), generator=rng) for _ in range(3)]
    predictions = [torch.where(torch.rand(9, 7, generator=rng) < 0.6, y, (y + 1) % classes) for y in labels]
    labels[0][0, :4] = 255
    return predictions, labels


def test_groups_against_counts():
    predictions, labels = case()
    metric = GroupIoUMetric(groups={"head": ["a"], "tail": ["b", 2], "none": ["d"]}, per_class=True)
    found = evaluated(metric, predictions, labels)
    iou = ref.intersection_over_union(predictions, labels, 4)
    assert found["mIoU.head"] == pytest.approx(iou[0], abs=0.006)
    assert found["mIoU.tail"] == pytest.approx((iou[1] + iou[2]) / 2, abs=0.006)
    assert math.isnan(found["mIoU.none"])  # absent from both: not 0
    assert [found[f"IoU.{c}"] for c in "abc"] == pytest.approx(iou[:3], abs=0.006)


def test_by_hand():
    """Class a: 2 of 4 pixels found and one false, so 2/5; b: 1 of 1, two false, so 1/3."""
    label, prediction = torch.tensor([[0, 0, 0, 0, 1, 2]]), torch.tensor([[0, 0, 1, 1, 1, 0]])
    found = evaluated(GroupIoUMetric(groups={"x": ["a", "b"], "y": ["c"]}), [prediction], [label])
    assert found["mIoU.x"] == pytest.approx(100 * (2 / 5 + 1 / 3) / 2, abs=0.006)
    assert found["mAcc.x"] == 75
    assert found["mIoU.y"] == found["mAcc.y"] == 0


def test_what_iou_metric_returns_is_unchanged():
    predictions, labels = case()
    options = {"iou_metrics": ["mIoU", "mDice", "mFscore"]}
    ours = evaluated(GroupIoUMetric(groups={"tail": [0]}, **options), predictions, labels)
    theirs = evaluated(IoUMetric(**options), predictions, labels)
    assert {k: v for k, v in ours.items() if k in theirs} == pytest.approx(theirs, nan_ok=True)
    assert set(ours) - set(theirs) == {"mIoU.tail", "mAcc.tail"}


def test_nan_can_be_given_a_number():
    predictions, labels = case()
    found = evaluated(GroupIoUMetric(groups={"none": ["d"]}, nan_to_num=0), predictions, labels)
    assert found["mIoU.none"] == 0


def test_format_only_evaluates_nothing(tmp_path):
    metric = GroupIoUMetric(groups={"tail": [0]}, format_only=True, output_dir=str(tmp_path))
    metric.dataset_meta = {"classes": ("a", "b")}
    metric.process({}, [{"pred_sem_seg": {"data": torch.zeros(1, 2, 2).long()}, "img_path": "x.jpg"}])
    metric.results.append(0)  # mmengine asks for a result a picture
    assert metric.evaluate(1) == {}
    assert np.asarray(__import__("PIL.Image").Image.open(tmp_path / "x.png")).shape == (2, 2)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"groups": {}}, ValueError, "groups"),
        ({"groups": {"tail": []}}, ValueError, "groups.*empty.*'tail'"),
        ({"groups": ["a"]}, TypeError, "groups"),
        ({"groups": {"tail": 3}}, TypeError, "groups.*lists"),
        ({"groups": {"tail": [1.5]}}, TypeError, "groups.*1.5"),
        ({"groups": {"tail": [True]}}, TypeError, "groups.*True"),
        ({"groups": {"tail": [-1]}}, ValueError, "groups.*-1"),
        ({"groups": {"tail": "pole"}}, TypeError, "groups"),
        ({"groups": {"head": [1], "tail": [2, 1]}}, ValueError, "groups.*1 in 'head' and 'tail'"),
        ({"groups": {"a": [1]}, "iou_metrics": ["mDice"]}, ValueError, "iou_metrics.*mIoU"),
        ({"groups": {"a": [1]}, "per_class": 1}, TypeError, "per_class"),
    ],
)
def test_bad_arguments_of_the_metric(options, error, words):
    with pytest.raises(error, match=words):
        GroupIoUMetric(**options)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"tail": ["bus"]}, r"groups\['tail'\].*a, b, c, d, got 'bus'"),
        ({"tail": [4]}, r"groups\['tail'\].*got 4"),
        ({"head": ["a"], "tail": [0]}, "groups.*0 in 'head' and 'tail'"),
    ],
)
def test_groups_that_do_not_fit_the_data_set(groups, words):
    with pytest.raises(ValueError, match=words):
        evaluated(GroupIoUMetric(groups=groups), *case())


# The pixel AUC.


def ranked(metric, logits, labels, classes=("a", "b", "c")):
    metric.dataset_meta = {"classes": classes}
    data = [
        {"seg_logits": {"data": x}, "gt_sem_seg": {"data": y[None]}}
        for x, y in zip(logits, labels, strict=True)
    ]
    metric.process({}, data)
    return metric.evaluate(len(data))


def test_pixel_auc_of_all_pixels_is_that_of_all_pairs():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 6, generator=rng)
    labels = torch.randint(0, 3, (2, 5, 6), generator=rng)
    logits.scatter_add_(1, labels[:, None], torch.ones(2, 1, 5, 6))
    labels[0, 0] = 255
    found = ranked(PixelAUCMetric(groups={"tail": ["c"], "rest": [0, 1]}), logits, labels)
    scores, names = logits.permute(0, 2, 3, 1).reshape(-1, 3), labels.flatten()
    valid = names != 255
    assert found["pixelAUC"] == pytest.approx(100 * ref.pairwise_auc(scores[valid], names[valid]), abs=1e-9)
    # Each class ranks against two others, so the whole is the mean over classes.
    assert found["pixelAUC"] == pytest.approx(
        (found["pixelAUC.tail"] + 2 * found["pixelAUC.rest"]) / 3, abs=1e-9
    )


def test_pixel_auc_of_a_sample_is_near_and_repeats():
    rng = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (4, 40, 40), generator=rng)
    logits = torch.randn(4, 3, 40, 40, generator=rng).scatter_add_(
        1, labels[:, None], torch.ones(4, 1, 40, 40)
    )
    whole = ranked(PixelAUCMetric(pixels_a_picture=10**6, pixels_a_class=10**6), logits, labels)["pixelAUC"]
    few = [ranked(PixelAUCMetric(pixels_a_picture=100, pixels_a_class=300), logits, labels) for _ in range(2)]
    assert few[0] == few[1]
    assert set(few[0]) == {"pixelAUC"}
    assert few[0]["pixelAUC"] == pytest.approx(whole, abs=3)
    assert few[0]["pixelAUC"] != whole
    other = ranked(PixelAUCMetric(pixels_a_picture=100, pixels_a_class=300, seed=5), logits, labels)
    assert other != few[0]


def test_pixel_auc_takes_no_more_than_it_was_told():
    rng = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (2, 40, 40), generator=rng)
    logits = torch.randn(2, 3, 40, 40, generator=rng)
    whole = ranked(PixelAUCMetric(pixels_a_picture=10**6, pixels_a_class=10**6), logits, labels)
    few = ranked(PixelAUCMetric(pixels_a_picture=10**6, pixels_a_class=50), logits, labels)
    assert few != whole
    metric = PixelAUCMetric(pixels_a_picture=100)
    data = [
        {"seg_logits": {"data": x}, "gt_sem_seg": {"data": y[None]}}
        for x, y in zip(logits, labels, strict=True)
    ]
    metric.process({}, data)
    assert [y.bincount().tolist() for _, y in metric.results] == [[100, 100, 100]] * 2


def test_pictures_alike_are_not_sampled_alike():
    place = torch.arange(400.0).reshape(1, 20, 20)
    data = [{"seg_logits": {"data": torch.cat((place, place))},
             "gt_sem_seg": {"data": torch.zeros(1, 20, 20).long()}} for _ in range(8)]  # fmt: skip
    metric = PixelAUCMetric(pixels_a_picture=1)
    metric.process({}, data)
    assert len({float(scores[0, 0]) for scores, _ in metric.results}) > 4


def test_a_picture_of_ignored_pixels():
    found = ranked(
        PixelAUCMetric(), torch.zeros(2, 3, 2, 2), torch.stack([torch.full((2, 2), 255), torch.eye(2).long()])
    )
    assert found["pixelAUC"] == 50


def test_pixel_auc_of_nothing_is_nan():
    nothing = torch.full((1, 2, 2), 255)
    found = ranked(PixelAUCMetric(groups={"tail": ["c"]}), torch.zeros(1, 3, 2, 2), nothing)
    assert math.isnan(found["pixelAUC"])
    assert math.isnan(found["pixelAUC.tail"])


def test_pixel_auc_of_one_class_under_two_spellings():
    metric = PixelAUCMetric(groups={"head": ["a"], "tail": [0]})
    with pytest.raises(ValueError, match=r"groups.*0 in 'head' and 'tail'"):
        ranked(metric, torch.zeros(1, 3, 2, 2), torch.eye(2).long()[None])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"pixels_a_picture": 0}, ValueError, "pixels_a_picture"),
        ({"pixels_a_class": 1.5}, TypeError, "pixels_a_class"),
        ({"seed": -1}, ValueError, "seed"),
        ({"ignore_index": "255"}, TypeError, "ignore_index"),
        ({"groups": {}}, ValueError, "groups"),
        ({"groups": {"head": [1], "tail": [1]}}, ValueError, "groups.*1 in 'head' and 'tail'"),
    ],
)
def test_bad_arguments_of_the_pixel_auc(options, error, words):
    with pytest.raises(error, match=words):
        PixelAUCMetric(**options)


def test_pixel_auc_needs_two_score_maps_and_known_classes():
    with pytest.raises(ValueError, match=r"seg_logits.*two score maps"):
        ranked(PixelAUCMetric(), torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2).long())
    with pytest.raises(ValueError, match=r"groups\['tail'\].*got 'bus'"):
        ranked(PixelAUCMetric(groups={"tail": ["bus"]}), torch.zeros(1, 3, 2, 2), torch.eye(2).long()[None])


def test_scope_is_left_as_it_was():
    """Importing registers; it must not change mmengine's default scope."""
    current = DefaultScope.get_current_instance()
    assert current is None or current.scope_name in ("mmseg", "mmengine")
