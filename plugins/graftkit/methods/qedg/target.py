"""The audited model: a callable of this process, asked through a ledger, its answers checked.

In hard mode an answer is reduced to labels right here, so that no probability can reach the audit. The
callable gets detached values within the value range, at most `batch_size` rows a call, without gradient.

>>> ledger = QueryLedger(5)
>>> target = Target(lambda x: (x[:, 0] > 0.5).long(), (2,), 2, (0.0, 1.0))
>>> target.ask(torch.tensor([[0.1, 0.0], [0.9, 0.0]]), ledger, "attack")
tensor([0, 1])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graftkit.core.validation import check_choice, describe, raise_invalid
from graftkit.methods.qedg.checkpoint import fingerprint
from graftkit.methods.qedg.ledger import QueryLedger
from graftkit.methods.qedg.modes import eval_mode

__all__ = ["Target", "TargetError"]

RETRIES = 3


class TargetError(RuntimeError):
    """The target raised, or returned what is no answer; the rows are booked as failed."""


class Target:
    """A local callable that answers a batch.

    Parameters
    ----------
    function : callable
        ``f(batch)`` to labels of shape (n,) or scores of shape (n, C). A ``torch.nn.Module`` is called in
        eval mode, and each of its parts left in the mode it was in.
    input_shape : tuple of int
        Shape of one row.
    num_classes : int
        C.
    value_range : tuple of float
        What the callable's inputs span.
    label_mode : {"hard", "soft"}, default="hard"
        Labels, or probabilities.
    inputs : {"torch", "numpy"}, default="torch"
        What the callable is given.
    batch_size : int, default=256
        The most rows a call.
    on_error : {"count", "retry"}, default="count"
        Stop at the first failure, or ask again, at most three times in a row.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        input_shape: tuple[int, ...],
        num_classes: int,
        value_range: tuple[float, float],
        *,
        label_mode: str = "hard",
        inputs: str = "torch",
        batch_size: int = 256,
        on_error: str = "count",
    ) -> None:
        if not callable(function):
            raise_invalid(
                "target",
                function,
                "a callable of this process",
                fix="The audit has no client for remote services, by design",
                error=TypeError,
            )
        self.function = function
        self.input_shape = tuple(input_shape)
        self.num_classes = num_classes
        self.low, self.high = value_range
        self.label_mode = check_choice("label_mode", label_mode, ("hard", "soft"))
        self.inputs = check_choice("target_input", inputs, ("torch", "numpy"))
        self.batch_size = batch_size
        self.on_error = on_error

    def ask(
        self, rows: Tensor, ledger: QueryLedger, kind: str, round_index: int = 0, *, mapped: bool = False
    ) -> Tensor:
        """Answers to rows, as many as the budget allows.

        Parameters
        ----------
        rows : Tensor of shape (n, ...)
            Values in [0, 1], mapped onto the value range here.
        ledger : QueryLedger
            Where they are booked.
        kind : str
            As what.
        round_index : int, default=0
            Under which number.
        mapped : bool, default=False
            Rows are in the value range already, and are passed on as they are.

        Returns
        -------
        Tensor of shape (m,) or (m, C)
            int64 labels, or float32 probabilities in soft mode; m < n when the budget ends.

        Raises
        ------
        TargetError
            If the target fails; answers before it are in the ledger.
        """
        answers: list[Any] = []
        failures, start = 0, 0
        while start < len(rows):
            left = ledger.remaining if kind == "attack" else ledger.eval_remaining
            size = min(self.batch_size, len(rows) - start, len(rows) if left is None else left)
            if size <= 0:
                break
            part = rows[start : start + size]
            number = ledger.reserve(kind, size, round_index, fingerprint(part))
            try:
                answer = self._call(part.detach().clone() if mapped else self.native(part.detach()))
            except Exception as error:
                ledger.fail(number, f"{type(error).__name__}: {error}"[:300])
                failures += 1
                if self.on_error == "retry" and failures <= RETRIES:
                    continue
                if isinstance(error, TargetError):
                    raise
                raise TargetError(
                    f"target: raised {type(error).__name__} on a batch of {size} rows ({error}); "
                    f"they count as spent ({ledger.used} used, {ledger.failed} failed of {ledger.budget})"
                ) from error
            except BaseException:  # an interrupt: the rows may have been seen
                ledger.fail(number, "interrupted")
                raise
            ledger.commit(number, answer.tolist())
            answers.extend(answer.tolist())
            failures, start = 0, start + size
        return self.tensor(answers)

    def tensor(self, answers: list[Any]) -> Tensor:
        """Answers, as the ledger holds them, as a tensor.

        Parameters
        ----------
        answers : list
            Labels, or lists of probabilities.

        Returns
        -------
        Tensor of shape (m,) or (m, C)
            int64 or float32.

        Raises
        ------
        ValueError
            If one is no label of this target, as in a damaged ledger.
        """
        if self.label_mode == "hard":
            for answer in answers:
                if type(answer) is not int or not 0 <= answer < self.num_classes:
                    raise_invalid("ledger", answer, f"labels in [0, {self.num_classes - 1}]")
            return torch.tensor(answers, dtype=torch.int64)
        return torch.tensor(answers, dtype=torch.float32).reshape(-1, self.num_classes)

    def unit(self, rows: Tensor) -> Tensor:
        """Rows on the scale of the generator, the inverse of :meth:`native` up to rounding.

        Parameters
        ----------
        rows : Tensor of shape (n, ...)
            Values in the value range.

        Returns
        -------
        Tensor of shape (n, ...)
            Values in [0, 1].
        """
        return (rows - self.low) / (self.high - self.low)

    def native(self, rows: Tensor) -> Tensor:
        """Rows on the callable's own scale.

        Parameters
        ----------
        rows : Tensor of shape (n, ...)
            Values in [0, 1].

        Returns
        -------
        Tensor of shape (n, ...)
            Values in the value range.
        """
        # Clamped: rounding must not carry a value out of the range that was promised.
        return (self.low + rows * (self.high - self.low)).clamp(self.low, self.high)

    def _call(self, batch: Tensor) -> Tensor:
        # A new tensor: what the callable does to its batch stays there.
        rows = len(batch)
        with eval_mode(self.function), torch.no_grad():
            answer = self.function(batch.cpu().numpy() if self.inputs == "numpy" else batch)
        return self._checked(answer, rows)

    def _checked(self, answer: Any, rows: int) -> Tensor:
        if isinstance(answer, Tensor):
            answer = answer.detach().cpu()
            answer = (answer.float() if answer.dtype == torch.bfloat16 else answer).numpy()
        try:
            array = np.asarray(answer)
        except (ValueError, TypeError):
            array = np.asarray(None)
        if array.dtype.kind not in "iuf":
            # Not the array itself: in the message stands what came.
            _refuse("numbers: labels or scores", answer if array.dtype == object else array)
        if array.ndim not in (1, 2) or len(array) != rows:
            _refuse(f"{rows} answers, labels of shape (n,) or scores of shape (n, {self.num_classes})", array)
        if array.ndim == 1:
            return self._labels(array)
        if array.shape[1] != self.num_classes:
            _refuse(f"scores of shape (n, {self.num_classes})", array)
        if not np.isfinite(array).all():
            _refuse("finite scores", "NaN or infinity among them")
        if self.label_mode == "hard":
            return torch.from_numpy(array.argmax(1).astype(np.int64))
        if (array < 0).any():
            _refuse("probabilities, none below 0 (soft mode)", float(array.min()))
        if (array > 1 + 1e-6).any():
            _refuse("probabilities, none above 1 (soft mode)", float(array.max()))
        # A defence may cut a row to all zeros: then it says nothing about the class.
        total = array.sum(1, keepdims=True, dtype=np.float64)
        shares = np.where(total > 0, array / np.where(total > 0, total, 1), 1 / self.num_classes)
        return torch.from_numpy(shares.astype(np.float32))

    def _labels(self, array: Any) -> Tensor:
        if self.label_mode == "soft":
            _refuse(f"probabilities of shape (n, {self.num_classes}) (soft mode)", array)
        if array.dtype.kind not in "iu":
            _refuse("integer labels", array)
        if array.min() < 0 or array.max() >= self.num_classes:
            outside = array[(array < 0) | (array >= self.num_classes)]
            _refuse(f"labels in [0, {self.num_classes - 1}]", int(outside[0]))
        return torch.from_numpy(array.astype(np.int64))


def _refuse(expected: str, came: Any) -> None:
    raise TargetError(f"target: expected {expected}, got {describe(came)}; the rows count as spent")
