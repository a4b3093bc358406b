"""What a defence buys: the same audit of several variants of one target, side by side.

>>> import torch
>>> def scores(x): return x.flatten(1)[:, :3]
>>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
>>> tiny = QEDGConfig.preset("digits", g_steps=1, inner_epochs=1, final_rounds=1)
>>> table = compare_defences({"none": scores, "rounded": lambda x: scores(x).round(decimals=1)}, (1, 8, 8), 3,
...     substitute=net, budget=10, owner_confirmation=True, target_id="toy", config=tiny,
...     eval_data=torch.rand(20, 1, 8, 8))
>>> [row["variant"] for row in table.rows]
['none', 'rounded']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graftkit.core.validation import check_integer, raise_invalid
from graftkit.methods.qedg.auditor import QEDGAuditor
from graftkit.methods.qedg.report import format_share
from graftkit.methods.qedg.result import AuditResult
from graftkit.methods.qedg.settings import QEDGConfig

__all__ = ["DefenceTable", "compare_defences"]

Variant = Callable[[Any], Any] | tuple[Callable[[Any], Any], int]


@dataclass
class DefenceTable:
    """Audits of variants of one target.

    Parameters
    ----------
    rows : list of dict
        A row a variant: ``variant, budget, queries, agreement, kappa, kappa_low, kappa_high,
        transfer_success, queries_to_kappa, same_answers``.
    results : dict of str to AuditResult
        The audits themselves.
    """

    rows: list[dict[str, Any]]
    results: dict[str, AuditResult]

    def report(self) -> str:
        """The table as text, with what it means.

        Returns
        -------
        str
            Lines.
        """
        names = list(self.rows[0]["queries_to_kappa"])
        table = [["variant", "queries", "kappa", "agreement", "transfer", *(f"to {n}" for n in names)]]
        for row in self.rows:
            cells = [row["variant"], str(row["queries"])]
            cells += [format_share(row[name]) for name in ("kappa", "agreement", "transfer_success")]
            cells += ["-" if n is None else str(n) for n in row["queries_to_kappa"].values()]
            table.append(cells)
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]
        same = [row["variant"] for row in self.rows[1:] if row["same_answers"]]
        if same:
            lines.append(
                f"Every query got the same label from {', '.join(same)} as from {self.rows[0]['variant']}: "
                "a defence that keeps the label does not slow an attacker who reads labels only."
            )
        lines.append("One seed each: differences within the intervals of kappa say nothing.")
        return "\n".join(lines) + "\n"


def compare_defences(
    variants: Mapping[str, Variant],
    input_shape: Sequence[int],
    num_classes: int,
    *,
    eval_data: Any,
    owner_confirmation: bool,
    target_id: str,
    budget: int,
    substitute: torch.nn.Module,
    config: QEDGConfig | None = None,
    run_options: Mapping[str, Any] | None = None,
    **auditor_options: Any,
) -> DefenceTable:
    """Run the same audit against several variants of a target.

    Parameters
    ----------
    variants : mapping of str to callable, or to a pair (callable, int)
        The target as it is first, then with defences (such as ART's postprocessors); the number is a budget
        of its own, for a lower limit on queries.
    input_shape : sequence of int
        As in :class:`QEDGAuditor`.
    num_classes : int
        C.
    eval_data : array-like of shape (n, ...), or a pair with labels of shape (n,)
        As in :meth:`QEDGAuditor.run`.
    owner_confirmation : bool
        Must be True.
    target_id : str
        Each variant's name is added to it.
    budget : int
        Of each variant that states none.
    substitute : torch.nn.Module
        Copied for each audit.
    config : QEDGConfig or None, default=None
        Settings.
    run_options : mapping or None, default=None
        Arguments of :meth:`QEDGAuditor.run`, without checkpoint and resume; baselines are off by default.
    **auditor_options : object
        Arguments of :class:`QEDGAuditor`, such as ``value_range`` and ``seed``.

    Returns
    -------
    DefenceTable
        A row a variant, and the results.

    Raises
    ------
    TypeError
        If `variants` or `run_options` is no mapping, or a variant no callable.
    ValueError
        If there is no variant, a variant is no pair, or an option is not one.
    """
    if not isinstance(variants, Mapping):
        raise_invalid("variants", variants, "a mapping of name to callable", error=TypeError)
    if not variants:
        raise_invalid("variants", variants, "at least one variant")
    if run_options is not None and not isinstance(run_options, Mapping):
        raise_invalid("run_options", run_options, "a mapping of names to options, or None", error=TypeError)
    options = {"baselines": (), **(run_options or {})}
    unknown = {"checkpoint", "resume", "eval_data"} & set(options)
    if unknown:
        raise_invalid("run_options", sorted(unknown), "options that fit every variant")
    # All of them first: a mistake in the last one must not come after the first one's queries.
    auditors = {}
    for name, variant in variants.items():
        if isinstance(variant, tuple) and len(variant) != 2:
            raise_invalid(f"variants[{name!r}]", variant, "a callable, or a pair of it and a budget")
        target, limit = variant if isinstance(variant, tuple) else (variant, budget)
        auditors[name] = QEDGAuditor(
            target,
            input_shape,
            num_classes,
            substitute=substitute,
            budget=check_integer("budget", limit, low=1),
            owner_confirmation=owner_confirmation,
            target_id=f"{target_id} / {name}"
            if isinstance(target_id, str) and target_id.strip()
            else target_id,
            config=config,
            **auditor_options,
        )
    results = {}
    for name, auditor in auditors.items():
        try:
            results[name] = auditor.run(eval_data, **options)
        except Exception as error:
            error.add_note(f"compare_defences: in the audit of variant {name!r}")
            raise
    first = next(iter(results.values()))
    keys = ("queries", "agreement", "kappa", "kappa_low", "kappa_high", "transfer_success")
    rows = [
        {
            "variant": str(name),
            "budget": result.ledger["budget"],
            **{key: result.as_dict()["curve"][result.curve.index(result.final())][key] for key in keys},
            "queries_to_kappa": result.queries_to_kappa(),
            "same_answers": _same(first, result),
        }
        for name, result in results.items()
    ]
    return DefenceTable(rows, results)


def _same(first: AuditResult, second: AuditResult) -> bool:
    """Equal queries and answers as far as the shorter run goes; nothing is equal to no query."""
    n = min(len(first.queries), len(second.queries))
    return n > 0 and all(
        torch.equal(getattr(first, part)[:n], getattr(second, part)[:n]) for part in ("queries", "answers")
    )
