"""The query ledger: what was asked of the target, written down before it is asked.

Before the target sees n rows, a line that reserves them is on disk; after its answer, a line with the
labels. Whatever kills the process in between, the reserved rows count as spent when the ledger is opened
again, so ``used + failed <= budget`` holds over all processes of a run. Evaluation queries have a counter
of their own. The file is JSON lines, and only one process may hold it.

>>> ledger = QueryLedger(10)
>>> ledger.commit(ledger.reserve("attack", 4), [0, 1, 1, 0])
>>> ledger.used, ledger.remaining
(4, 6)
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from graftkit.core.validation import check_choice, check_integer, raise_invalid
from graftkit.methods.qedg.journal import Journal

__all__ = ["BudgetError", "QueryLedger"]

KINDS = ("attack", "evaluation", "transfer")


class BudgetError(RuntimeError):
    """More rows were asked for than the budget has left."""


class QueryLedger:
    """Write-ahead accounting of queries.

    Parameters
    ----------
    budget : int
        The most attack queries, failed ones included.
    path : path-like or None, default=None
        The journal; an existing one is continued, and may be given a larger budget. ``None`` keeps the
        ledger in memory.
    eval_budget : int or None, default=None
        The most evaluation and transfer queries; ``None`` for no limit.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If a budget is too small, or the journal is another file or has a larger budget.
    """

    def __init__(
        self, budget: int, path: str | os.PathLike[str] | None = None, *, eval_budget: int | None = None
    ) -> None:
        self.budget = check_integer("budget", budget, low=1)
        self.eval_budget = None if eval_budget is None else check_integer("eval_budget", eval_budget, low=0)
        self.budgets: list[int] = []
        self.used = self.failed = self.eval_used = self.eval_failed = 0
        self._open: dict[int, dict[str, Any]] = {}
        self._answers: dict[tuple[str, int], list[Any]] = {}
        self._digests: dict[tuple[str, int], list[tuple[int, str]]] = {}
        self._next = 0
        self._journal: Journal | None = None
        self._closed = False
        if path is not None:
            self._attach(Path(path))
        if not self.budgets or self.budgets[-1] != self.budget:
            self._write({"op": "budget", "rows": self.budget})

    @property
    def remaining(self) -> int:
        """Attack queries left.

        Returns
        -------
        int
            Budget without what was used, failed or is reserved.
        """
        return self.budget - self.used - self.failed - self._reserved(attack=True)

    @property
    def eval_remaining(self) -> int | None:
        """Evaluation queries left.

        Returns
        -------
        int or None
            ``None`` without a limit.
        """
        if self.eval_budget is None:
            return None
        return self.eval_budget - self.eval_used - self.eval_failed - self._reserved(attack=False)

    def reserve(self, kind: str, rows: int, round_index: int = 0, digest: str = "") -> int:
        """Set rows aside, on disk, before they are asked for.

        Parameters
        ----------
        kind : {"attack", "evaluation", "transfer"}
            What for.
        rows : int
            How many, at least 1.
        round_index : int, default=0
            Under which the answers are found again.
        digest : str, default=""
            Of the rows, by which they are known again.

        Returns
        -------
        int
            Number of the reservation.

        Raises
        ------
        BudgetError
            If fewer rows are left.
        TypeError, ValueError
            If an argument is wrong.
        """
        check_choice("kind", kind, KINDS)
        check_integer("rows", rows, low=1)
        left = self.remaining if kind == "attack" else self.eval_remaining
        if left is not None and rows > left:
            raise BudgetError(f"{kind}: {rows} queries asked for, {left} left in the budget")
        number = self._next
        entry = {"op": "reserve", "id": number, "kind": kind, "rows": rows, "round": round_index}
        self._write({**entry, "digest": digest} if digest else entry)
        return number

    def commit(self, number: int, answers: list[Any]) -> None:
        """Book a reservation as answered.

        Parameters
        ----------
        number : int
            From :meth:`reserve`.
        answers : list
            One a row.

        Raises
        ------
        ValueError
            If the reservation is not open or has another number of rows.
        """
        if number not in self._open or len(answers) != self._open[number]["rows"]:
            raise_invalid("number", number, f"an open reservation of {len(answers)} rows")
        self._write({"op": "commit", "id": number, "answers": answers})

    def fail(self, number: int, reason: str) -> None:
        """Book a reservation as spent without an answer.

        Parameters
        ----------
        number : int
            From :meth:`reserve`.
        reason : str
            Why.

        Raises
        ------
        ValueError
            If the reservation is not open.
        """
        if number not in self._open:
            raise_invalid("number", number, "an open reservation")
        self._write({"op": "fail", "id": number, "reason": reason})

    def answers(self, kind: str, round_index: int = 0) -> list[Any]:
        """What the target has answered so far, in order.

        Parameters
        ----------
        kind : str
            As reserved.
        round_index : int, default=0
            As reserved.

        Returns
        -------
        list
            One entry a row; empty if nothing was asked.
        """
        return list(self._answers.get((kind, round_index), ()))

    def digests(self, kind: str, round_index: int = 0) -> list[tuple[int, str]]:
        """Which rows those answers belong to.

        Parameters
        ----------
        kind : str
            As reserved.
        round_index : int, default=0
            As reserved.

        Returns
        -------
        list of (int, str)
            Number of rows and digest of each answered reservation, in order.
        """
        return list(self._digests.get((kind, round_index), ()))

    def as_dict(self) -> dict[str, Any]:
        """The counters.

        Returns
        -------
        dict
            ``budget, attack_queries, failed, remaining, eval_queries, eval_failed, eval_budget, budgets``.
        """
        return {
            "budget": self.budget,
            "attack_queries": self.used,
            "failed": self.failed,
            "remaining": self.remaining,
            "eval_queries": self.eval_used,
            "eval_failed": self.eval_failed,
            "eval_budget": self.eval_budget,
            "budgets": list(self.budgets),
        }

    def close(self) -> None:
        """Let go of the file; a ledger in memory stays usable."""
        if self._journal is not None:
            self._journal.close()
            self._journal, self._closed = None, True

    def _reserved(self, *, attack: bool) -> int:
        return sum(entry["rows"] for entry in self._open.values() if (entry["kind"] == "attack") == attack)

    def _write(self, entry: dict[str, Any]) -> None:
        """On disk first, then in memory."""
        if self._closed:
            raise BudgetError("the ledger is closed")
        if self._journal is not None:
            self._journal.append(entry)
        self._book(entry)
        if self.used + self.failed > self.budget:
            raise BudgetError(f"{self.used} used and {self.failed} failed of {self.budget}")

    def _book(self, entry: dict[str, Any]) -> None:
        operation = entry["op"]
        if operation == "budget":
            self.budgets.append(entry["rows"])
        elif operation == "reserve":
            reserved = {name: entry[name] for name in ("kind", "rows", "round")}
            self._open[entry["id"]] = {**reserved, "digest": entry.get("digest", "")}
            self._next = entry["id"] + 1
        else:
            reserved = self._open.pop(entry["id"])
            rows, answered = reserved["rows"], operation == "commit"
            name = ("" if reserved["kind"] == "attack" else "eval_") + ("used" if answered else "failed")
            setattr(self, name, getattr(self, name) + rows)
            if answered:
                if len(entry["answers"]) != rows:
                    raise ValueError(f"{len(entry['answers'])} answers to {rows} rows")
                place = (reserved["kind"], reserved["round"])
                self._answers.setdefault(place, []).extend(entry["answers"])
                self._digests.setdefault(place, []).append((rows, reserved["digest"]))

    def _attach(self, path: Path) -> None:
        journal = Journal(path)
        try:
            for entry in journal.entries():
                try:
                    self._book(entry)
                except (KeyError, TypeError, ValueError):  # a line without its fields or its reservation
                    journal.refuse()
            if self.budgets and self.budgets[-1] > self.budget:
                raise_invalid("budget", self.budget, f"at least {self.budgets[-1]}, the ledger's own budget")
        except BaseException:
            journal.close()
            raise
        self._journal = journal
        for number in list(self._open):
            self._write({"op": "fail", "id": number, "reason": "interrupted before the answer was written"})
