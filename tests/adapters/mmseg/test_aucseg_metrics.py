"""The metrics: IoU by groups of classes and the pixel AUC, their edges and bad inputs."""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg", reason="needs the mmseg extra")

from mmseg.evaluation import IoUMetric

from graftkit.mmseg import GroupIoUMetric, PixelAUCMetric
from tests.plugins.aucseg import reference as ref

pytestmark = pytest.mark.filterwarnings("ignore")


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
