"""IoU by group of classes: mmseg's IoUMetric with the mean over head, middle and tail beside that over all.

A group none of whose classes occurs is NaN, not 0::

    val_evaluator = dict(
        type="GroupIoUMetric", groups=dict(head=["road", "sky"], middle=["car"], tail=["pole", "bicyclist"])
    )

>>> GroupIoUMetric(groups=dict(tail=[2, 9])).groups
{'tail': [2, 9]}
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.registry import METRICS

from graftkit.core.validation import check_bool, check_iterable, raise_invalid
from graftkit.mmseg.aucseg_classes import check_disjoint, check_groups, resolve_classes
from mmseg.evaluation import IoUMetric

__all__ = ["GroupIoUMetric"]


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
        if not isinstance(iou_metrics, str):
            for name in check_iterable("iou_metrics", iou_metrics, "names of metrics"):
                if not isinstance(name, str):
                    raise_invalid("iou_metrics", name, "names of metrics", error=TypeError)
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
        self.groups = check_groups(groups)
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
        check_disjoint(groups)
        areas = (sum(part) for part in zip(*results, strict=True))
        values = self.total_area_to_metrics(*areas, metrics=["mIoU"], nan_to_num=self.nan_to_num)
        for name, group in groups.items():
            for label in ("IoU", "Acc"):
                metrics[f"m{label}.{name}"] = _mean(values[label][group])
        if self.per_class:
            metrics |= {f"IoU.{c}": _mean(values["IoU"][[k]]) for k, c in enumerate(classes)}
        return metrics


def _mean(values: Any) -> float:
    """Mean in per cent of those that are known; NaN, without NumPy's warning, where none is."""
    known = values[~np.isnan(values)]
    return round(float(known.mean()) * 100, 2) if len(known) else math.nan
