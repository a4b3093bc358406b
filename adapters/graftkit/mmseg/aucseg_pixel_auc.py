"""The pixel AUC as a metric: what the AUC loss stands for, on a sample of the validation pixels.

Beside GroupIoUMetric, whose tail stays at zero for long while the ranking of its pixels already improves::

    val_evaluator = [
        dict(type="GroupIoUMetric", groups=groups),
        dict(type="PixelAUCMetric", groups=groups),
    ]

>>> PixelAUCMetric(groups=dict(tail=[2, 9])).pixels_a_class
2000
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from graftkit.core.validation import check_integer, raise_invalid
from graftkit.methods.aucseg import one_vs_one_auc
from graftkit.mmseg.aucseg_classes import check_disjoint, check_groups, resolve_classes

__all__ = ["PixelAUCMetric"]


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
        self.groups = {} if groups is None else check_groups(groups)
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
            self.results.append((scores[rows], labels[rows]))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Compute the AUC over what was drawn.

        Parameters
        ----------
        results : list
            What ``process`` collected, from all ranks.

        Returns
        -------
        dict
            Values in per cent; NaN where fewer than two classes were seen.

        Raises
        ------
        ValueError
            If a class is unknown, or in two groups under two spellings.
        """
        scores, labels = (torch.cat(part) for part in zip(*results, strict=True))
        names = list((self.dataset_meta or {}).get("classes") or range(scores.shape[1]))
        groups = {n: resolve_classes(f"groups[{n!r}]", g, names) for n, g in self.groups.items()}
        check_disjoint(groups)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(self.seed))
        rows = [order[labels[order] == c][: self.pixels_a_class] for c in labels.unique()]
        if rows:  # otherwise nothing but ignored pixels: NaN
            scores, labels = scores[torch.cat(rows)], labels[torch.cat(rows)]
        found = {"pixelAUC": 100 * one_vs_one_auc(scores, labels)}
        for name, classes in groups.items():
            found[f"pixelAUC.{name}"] = 100 * one_vs_one_auc(scores, labels, classes=classes)
        return found
