"""Metrics for long-tailed segmentation: IoU by group of classes, and the pixel AUC.

`GroupIoUMetric` is mmseg's IoUMetric with the mean over head, middle and tail classes beside that over all; a
group none of whose classes occurs is NaN, not 0. `PixelAUCMetric` is what the AUC loss stands for::

    groups = dict(head=["road", "sky"], middle=["car"], tail=["pole", "bicyclist"])
    val_evaluator = [
        dict(type="GroupIoUMetric", iou_metrics=["mIoU"], groups=groups),
        dict(type="PixelAUCMetric", groups=groups),
    ]

>>> GroupIoUMetric(groups=dict(tail=[2, 9])).groups
{'tail': [2, 9]}
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from graftkit.core.validation import check_bool, check_integer, raise_invalid
from graftkit.methods.aucseg import one_vs_one_auc
from graftkit.mmseg.aucseg_bank import resolve_classes
from mmseg.evaluation import IoUMetric

__all__ = ["GroupIoUMetric", "PixelAUCMetric"]


@METRICS.register_module()
class GroupIoUMetric(IoUMetric):
    """IoU over all classes and over named groups of classes.

    Adds ``mIoU.<group>`` and ``mAcc.<group>`` in per cent to what ``IoUMetric`` returns.

    Parameters
    ----------
    groups : dict
        From a name to class numbers or names; no class in two groups.
    per_class : bool, default=False
        Add ``IoU.<class>`` for every class.
    ignore_index : int, default=255
        The label that says nothing.
    iou_metrics : sequence of str or str, default=("mIoU",)
        What IoUMetric computes; "mIoU" must be among it.
    nan_to_num : int or None, default=None
        What stands for NaN.
    beta : int, default=1
        Of the F-score.
    collect_device : str, default="cpu"
        Where ranks collect results.
    output_dir : str or None, default=None
        Where predictions are written.
    format_only : bool, default=False
        Write predictions and evaluate nothing.
    prefix : str or None, default=None
        Before the names of the values.

    Raises
    ------
    TypeError
        If `groups` is no dict of lists.
    ValueError
        If there is no group, a group is empty, or two groups share a class.
    """

    def __init__(
        self,
        groups: dict[str, Sequence[int | str]],
        per_class: bool = False,
        ignore_index: int = 255,
        iou_metrics: Sequence[str] | str = ("mIoU",),
        nan_to_num: int | None = None,
        beta: int = 1,
        collect_device: str = "cpu",
        output_dir: str | None = None,
        format_only: bool = False,
        prefix: str | None = None,
    ) -> None:
        metrics = [iou_metrics] if isinstance(iou_metrics, str) else list(iou_metrics)
        super().__init__(
            ignore_index=ignore_index,
            iou_metrics=metrics,
            nan_to_num=nan_to_num,
            beta=beta,
            collect_device=collect_device,
            output_dir=output_dir,
            format_only=format_only,
            prefix=prefix,
        )
        if "mIoU" not in metrics:
            raise_invalid("iou_metrics", metrics, "a list with 'mIoU'")
        self.groups = _check_groups(groups)
        self.per_class = check_bool("per_class", per_class)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Compute IoUMetric's values and those of the groups.

        Parameters
        ----------
        results : list
            What ``process`` collected, from all ranks.

        Returns
        -------
        dict
            Values in per cent, rounded to two digits as IoUMetric's are.

        Raises
        ------
        ValueError
            If a class is unknown, or in two groups under two spellings.
        """
        metrics: dict[str, float] = dict(super().compute_metrics(results))
        if self.format_only:
            return metrics
        classes = list(self.dataset_meta["classes"])
        groups = {n: resolve_classes(f"groups[{n!r}]", g, classes) for n, g in self.groups.items()}
        _check_disjoint(groups)
        areas = (sum(part) for part in zip(*results, strict=True))
        values = self.total_area_to_metrics(*areas, metrics=["mIoU"], nan_to_num=self.nan_to_num)
        for name, group in groups.items():
            for label in ("IoU", "Acc"):
                metrics[f"m{label}.{name}"] = _mean(values[label][group])
        if self.per_class:
            metrics |= {f"IoU.{c}": _mean(values["IoU"][[k]]) for k, c in enumerate(classes)}
        return metrics


@METRICS.register_module()
class PixelAUCMetric(BaseMetric):
    """One-vs-one AUC of a sample of pixels, by the logits that a model returns as ``seg_logits``.

    Returns ``pixelAUC``, and ``pixelAUC.<group>`` over the pairs that the group's own score maps rank, in
    per cent. The pixels are drawn alike for every model, the same number of each class in a picture.

    Parameters
    ----------
    groups : dict or None, default=None
        From a name to class numbers or names.
    pixels_a_picture : int, default=60
        At most so many pixels of a class in one picture.
    pixels_a_class : int, default=2000
        At most so many of a class in all.
    ignore_index : int, default=255
        The label that says nothing.
    seed : int, default=0
        Of the drawing.
    collect_device : str, default="cpu"
        Where ranks collect results.
    prefix : str or None, default=None
        Before the names of the values.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If a number is too small, or groups are empty or share a class.
    """

    def __init__(
        self,
        groups: dict[str, Sequence[int | str]] | None = None,
        pixels_a_picture: int = 60,
        pixels_a_class: int = 2000,
        ignore_index: int = 255,
        seed: int = 0,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.groups = {} if groups is None else _check_groups(groups)
        self.pixels_a_picture = check_integer("pixels_a_picture", pixels_a_picture, low=1)
        self.pixels_a_class = check_integer("pixels_a_class", pixels_a_class, low=1)
        self.ignore_index = check_integer("ignore_index", ignore_index)
        self.seed = check_integer("seed", seed, low=0)

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:  # noqa: ARG002
        """Draw pixels from each picture.

        Parameters
        ----------
        data_batch : dict
            Not used.
        data_samples : sequence of dict
            With ``seg_logits`` and ``gt_sem_seg``.

        Raises
        ------
        ValueError
            If a sample has one score map only.
        """
        for sample in data_samples:
            generator = torch.Generator().manual_seed(self.seed + len(self.results))
            scores = sample["seg_logits"]["data"].flatten(1).T.cpu()
            if scores.shape[1] < 2:
                raise_invalid("seg_logits", scores, "at least two score maps")
            labels = sample["gt_sem_seg"]["data"].flatten().cpu()
            drawn = []
            for cls in labels.unique().tolist():
                if cls != self.ignore_index:
                    rows = (labels == cls).nonzero().flatten()
                    order = torch.randperm(len(rows), generator=generator)
                    drawn.append(rows[order[: self.pixels_a_picture]])
            rows = torch.cat(drawn) if drawn else torch.zeros(0, dtype=torch.int64)
            self.results.append((scores[rows].clone(), labels[rows]))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Compute the AUC over what was drawn.

        Parameters
        ----------
        results : list
            What ``process`` collected, from all ranks.

        Returns
        -------
        dict
            Values in per cent.
        """
        scores, labels = (torch.cat(part) for part in zip(*results, strict=True))
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(self.seed))
        rows = torch.cat([order[labels[order] == c][: self.pixels_a_class] for c in labels.unique()])
        scores, labels = scores[rows], labels[rows]
        found = {"pixelAUC": 100 * one_vs_one_auc(scores, labels)}
        names = list((self.dataset_meta or {}).get("classes") or range(scores.shape[1]))
        for name, group in self.groups.items():
            classes = resolve_classes(f"groups[{name!r}]", group, names)
            found[f"pixelAUC.{name}"] = 100 * one_vs_one_auc(scores, labels, classes=classes)
        return found


def _mean(values: Any) -> float:
    """Mean in per cent of those that are known; NaN, without NumPy's warning, where none is."""
    known = values[~np.isnan(values)]
    return round(float(known.mean()) * 100, 2) if len(known) else math.nan


def _check_groups(groups: Any) -> dict[str, list[int | str]]:
    if not isinstance(groups, dict) or any(isinstance(g, str) for g in groups.values()):
        raise_invalid("groups", groups, "a dict from names to lists of classes", error=TypeError)
    if not groups:
        raise_invalid("groups", groups, "at least one group")
    checked = {name: list(group) for name, group in groups.items()}
    for name, group in checked.items():
        if not group:
            raise_invalid("groups", name, "no empty group")
    _check_disjoint(checked)
    return checked


def _check_disjoint(groups: dict[str, list[Any]]) -> None:
    owner: dict[Any, str] = {}
    for name, group in groups.items():
        for entry in group:
            if entry in owner:
                raise_invalid(
                    "groups", f"{entry!r} in {owner[entry]!r} and {name!r}", "each class in one group"
                )
            owner[entry] = name
