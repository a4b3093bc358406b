"""AUCSeg's memory bank as a hook of mmengine's Runner.

It rewrites the training batch between loading and the step: raw pictures, before normalisation and padding,
in the main process, so that each rank has one bank, whatever the number of workers::

    custom_hooks = [
        dict(type="TMemoryBankHook", tail_classes=["pole", "pedestrian"], sample_ratio=1, resize_ratio=1)
    ]

A checkpoint holds rank 0's bank (mmengine saves there only). Resuming in one process continues bit for bit;
with several, every rank starts from rank 0's patches and a generator seeded anew.

>>> TMemoryBankHook(tail_classes=[2, 9], sample_ratio=1).priority
'ABOVE_NORMAL'
"""

import copy
from collections.abc import Sequence
from typing import Any

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.structures import PixelData
from torch import Tensor

from graftkit.core.validation import check_integer, check_iterable, raise_invalid
from graftkit.methods.aucseg import TailMemoryBank
from graftkit.mmseg.aucseg_classes import any_named, resolve_classes

__all__ = ["TMemoryBankHook"]

KEY = "graftkit_tmemory_bank"
# Maps that describe the picture as it was before pasting.
STALE = ("gt_edge_map", "gt_depth_map")


@HOOKS.register_module()
class TMemoryBankHook(Hook):
    """Store tail classes of each training batch, and paste them where they are missing.

    Parameters
    ----------
    tail_classes : sequence of int or str
        Class numbers, or names that the training set's ``metainfo["classes"]`` has.
    memory_size : int, default=5
        Patches kept a class.
    sample_ratio : float in (0, 1], default=0.05
        Share of the missing tail classes that is pasted, rounded up. For at most 20 classes take 1.
    resize_ratio : float in (0, 4], default=0.4
        Scale of what is pasted; at 1 an object lands where it stood.
    update : {"random", "fifo", "reservoir"}, default="random"
        Which patch of a full class a new one replaces.
    scope : {"image", "batch"}, default="image"
        A class is missing from the picture, or from the whole batch.
    protect_tail : bool, default=False
        Leave pixels of tail classes uncovered.
    ignore_index : int, default=255
        The label of pixels that say nothing.
    max_bytes : int, default=268435456
        Hard bound on what is stored.
    seed : int or None, default=None
        Of the bank's generator, the rank is added; None takes the Runner's seed.
    start_iter : int, default=0
        The first iteration that stores and pastes.
    stop_iter : int or None, default=None
        The first that no longer does.
    log_interval : int, default=50
        Iterations between two entries ``bank_pasted`` (objects a picture) and ``bank_filled`` (share of the
        slots) in the message hub.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If it has an impossible value.
    """

    priority = "ABOVE_NORMAL"

    def __init__(
        self,
        tail_classes: Sequence[int | str],
        memory_size: int = 5,
        sample_ratio: float = 0.05,
        resize_ratio: float = 0.4,
        update: str = "random",
        scope: str = "image",
        protect_tail: bool = False,
        ignore_index: int = 255,
        max_bytes: int = 256 * 2**20,
        seed: int | None = None,
        start_iter: int = 0,
        stop_iter: int | None = None,
        log_interval: int = 50,
    ) -> None:
        self.tail_classes = tail_classes
        self.settings: dict[str, Any] = {
            "memory_size": memory_size,
            "sample_ratio": sample_ratio,
            "resize_ratio": resize_ratio,
            "update": update,
            "scope": scope,
            "protect_tail": protect_tail,
            "ignore_index": ignore_index,
            "max_bytes": max_bytes,
        }
        self.seed = None if seed is None else check_integer("seed", seed, low=0)
        self.start_iter = check_integer("start_iter", start_iter, low=0)
        self.stop_iter = (
            None if stop_iter is None else check_integer("stop_iter", stop_iter, low=self.start_iter)
        )
        self.log_interval = check_integer("log_interval", log_interval, low=1)
        check_iterable("tail_classes", tail_classes, "class numbers or names")
        named = any_named(tail_classes)
        # Names have no numbers before training; everything else is checked now.
        TailMemoryBank(range(len(tail_classes)) if named else tail_classes, **self.settings)  # type: ignore[arg-type]
        self.bank: TailMemoryBank | None = None
        self._saved: Any = None
        self._resumed = False
        self._told_stale = False
        self._pasted, self._pictures = 0, 0

    def before_train(self, runner: Any) -> None:
        """Make the bank, or continue the checkpoint's.

        Parameters
        ----------
        runner : mmengine.runner.Runner
            The runner.
        """
        if self.bank is None:
            classes = (getattr(runner.train_dataloader.dataset, "metainfo", None) or {}).get("classes")
            seed = (runner.seed or 0) if self.seed is None else self.seed
            self.bank = TailMemoryBank(
                resolve_classes("tail_classes", self.tail_classes, classes),
                seed=seed + get_rank(),
                **self.settings,
            )
        if self._resumed:
            self._restore(runner)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:  # noqa: ARG002
        """Replace the batch's pictures and labels.

        Parameters
        ----------
        runner : mmengine.runner.Runner
            The runner.
        batch_idx : int
            Position in the loop.
        data_batch : dict
            With ``inputs`` (a list of (c, H, W) tensors, or one of shape (B, c, H, W)) and
            ``data_samples``; new ones are put in.

        Raises
        ------
        TypeError
            If `data_batch` is no such dict.
        ValueError
            If a sample has no ``gt_sem_seg``.
        RuntimeError
            If ``before_train`` has not run.
        """
        step = runner.iter
        if step < self.start_iter or (self.stop_iter is not None and step >= self.stop_iter):
            return
        if self.bank is None:
            raise RuntimeError("TMemoryBankHook: before_train has not run")
        if not isinstance(data_batch, dict) or not {"inputs", "data_samples"} <= data_batch.keys():
            raise_invalid("data_batch", data_batch, "a dict with inputs and data_samples", error=TypeError)
        samples = data_batch["data_samples"]
        labels = [_labels(sample) for sample in samples]
        images, labels, pasted = self.bank.process(data_batch["inputs"], labels)
        if any(pasted):
            self._warn_stale(runner, samples)
            # Nothing that a caching data set may hand out again is written.
            data_batch["inputs"] = images
            data_batch["data_samples"] = [
                _with_labels(sample, label) if classes else sample
                for sample, label, classes in zip(samples, labels, pasted, strict=True)
            ]
        self._pasted += sum(map(len, pasted))
        self._pictures += len(pasted)
        if (step + 1) % self.log_interval == 0:
            slots = len(self.bank.tail_classes) * self.bank.memory_size
            runner.message_hub.update_scalar("train/bank_pasted", self._pasted / max(self._pictures, 1))
            runner.message_hub.update_scalar("train/bank_filled", len(self.bank) / slots)
            self._pasted = self._pictures = 0

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Put the bank into the checkpoint. Only rank 0 is asked, so nothing is gathered.

        Parameters
        ----------
        runner : mmengine.runner.Runner
            The runner.
        checkpoint : dict
            What will be saved.
        """
        if self.bank is not None:
            checkpoint[KEY] = self.bank.state_dict()

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Remember the bank of a run that is resumed; weights alone bring none.

        Parameters
        ----------
        runner : mmengine.runner.Runner
            The runner.
        checkpoint : dict
            What was loaded.
        """
        if runner._resume:  # as EMAHook does: `load_from` comes here too
            self._saved, self._resumed = checkpoint.get(KEY), True

    def _restore(self, runner: Any) -> None:
        state, self._saved, self._resumed = self._saved, None, False
        if self.bank is None:
            return
        if state is None:
            runner.logger.warning("TMemoryBankHook: no %s in the checkpoint, the bank starts empty", KEY)
            return
        try:
            self.bank.load_state_dict(state)
        except (ValueError, TypeError) as error:
            runner.logger.warning("TMemoryBankHook: the bank starts empty. %s", error)
            return
        if get_world_size() > 1:
            self.bank.reseed(get_rank(), runner.iter)

    def _warn_stale(self, runner: Any, samples: Sequence[Any]) -> None:
        if self._told_stale:
            return
        found = [name for name in STALE if any(name in sample for sample in samples)]
        if found:
            self._told_stale = True
            runner.logger.warning(
                "TMemoryBankHook: %s of the samples do not show what is pasted; said once",
                " and ".join(found),
            )


def _labels(sample: Any) -> Tensor:
    if "gt_sem_seg" not in sample:
        raise_invalid("data_samples", sorted(sample.keys()), "samples with gt_sem_seg")
    labels: Tensor = sample.gt_sem_seg.data
    return labels.squeeze(0) if labels.ndim == 3 else labels


def _with_labels(sample: Any, label: Tensor) -> Any:
    new = copy.copy(sample)
    new.gt_sem_seg = PixelData(data=label.reshape(sample.gt_sem_seg.data.shape))
    return new
