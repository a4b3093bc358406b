"""The report of an audit as text and as a page, written from its figures alone.

>>> format_share(0.5), format_share(None)
('0.500', '-')
"""

from __future__ import annotations

import base64
from html import escape
from typing import Any

__all__ = ["caveats", "format_share", "html_page", "text_report"]

Figures = dict[str, Any]
COLUMNS = ("arm", "queries", "phase", "agreement", "kappa", "accuracy", "transfer success", "steps")

_CAVEATS = """
One attack, one seed, one substitute: the figures are a lower bound on what an attacker could reach, no
proof of safety. Other architectures, data or more training may copy faster.

Evaluation rows were used for measuring only, and the substitute is the last one, not the best on them.

On small data the method's two losses have not always been better than its class loss with the filter alone;
the transform of queries matters more.

Noise queries can give a higher transfer success at a lower kappa (seen in a prototype of the method, not in
this project's benchmark), so read both.

'Consistency rate', the method's measure, is Cohen's kappa times 100 in its authors' code. Whether their
paper means that or plain agreement is unverified, so both are given.

The paper's tables were not available; nothing here claims to reproduce them.
"""
STYLE = """<style>
body { font: 16px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse }
td, th { border-bottom: 1px solid #ccc; padding: .2em .7em; text-align: left }
img { max-width: 100% }
</style>"""
GENERAL = tuple(" ".join(text.split()) for text in _CAVEATS.strip().split("\n\n"))


def format_share(value: float | None) -> str:
    """A figure with three digits, or a dash.

    Parameters
    ----------
    value : float or None
        The figure.

    Returns
    -------
    str
        Text.
    """
    return "-" if value is None else f"{value:.3f}"


def caveats(figures: Figures) -> list[str]:
    """What a reader of the figures must know.

    Parameters
    ----------
    figures : dict
        Of ``AuditResult.as_dict``.

    Returns
    -------
    list of str
        Sentences.
    """
    settings = figures["settings"]
    pretrained = settings["substitute_pretrained"]
    prior = "yes, a strong prior: the attack then is not free of data" if pretrained else "no"
    notes = [*GENERAL, f"Substitute pretrained: {prior}."]
    notes += _fairness(figures)
    if not settings["finish_each"]:
        notes.append(
            "Points before the last are of a substitute in mid-training; an attacker who stopped there and "
            "trained on would reach more (finish_each=True measures that)."
        )
    if settings["label_mode"] == "hard":
        notes.append(
            "The attacker saw labels only. A defence that changes scores and keeps the label cannot change "
            "these figures."
        )
    else:
        notes.append("The attacker saw probabilities, which is no part of the published method.")
    if not settings["true_labels"]:
        notes.append(
            "No true labels were given: transfer success is measured against the target's own labels."
        )
    return notes


def _fairness(figures: Figures) -> list[str]:
    """Whether the baselines had what the attack had."""
    asked = figures["ledger"]["attack_queries"]
    counts = {arm: counters["attack_queries"] for arm, counters in figures["baseline_ledgers"].items()}
    less = ", ".join(f"{arm} ({count} of {asked})" for arm, count in counts.items() if count != asked)
    notes = []
    if any(count == asked for count in counts.values()):
        notes.append(
            f"{'Other baselines' if less else 'Baselines'} had the same number of queries in each round and "
            "the same number of training steps after it."
        )
    if less:
        notes.insert(0, f"Fewer queries than the attack, so no equal comparison: {less}.")
    return notes


def text_report(figures: Figures) -> str:
    """The report as plain text.

    Parameters
    ----------
    figures : dict
        Of ``AuditResult.as_dict``.

    Returns
    -------
    str
        Lines.
    """
    lines = [f"Extraction audit of {figures['settings']['target_id']}", ""]
    lines += _answer(figures)
    for title, rows in _tables(figures):
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines += ["", title, ""]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
    lines += ["", "What to know when reading this", ""]
    lines += [f"- {note}" for note in caveats(figures)]
    return "\n".join(lines) + "\n"


def html_page(figures: Figures, image: bytes | None) -> str:
    """The report as one page without outside resources.

    Parameters
    ----------
    figures : dict
        Of ``AuditResult.as_dict``.
    image : bytes or None
        The curve as PNG.

    Returns
    -------
    str
        HTML.
    """
    name = escape(figures["settings"]["target_id"])
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<title>Extraction audit of {name}</title>{STYLE}</head><body>",
        f"<h1>Extraction audit of {name}</h1>",
        *(f"<p>{escape(line)}</p>" for line in _answer(figures)),
    ]
    if image is not None:
        data = base64.b64encode(image).decode()
        parts.append(f"<p><img alt='Kappa against queries' src='data:image/png;base64,{data}'></p>")
    for title, rows in _tables(figures):
        parts.append(f"<h2>{escape(title)}</h2><table>")
        for number, row in enumerate(rows):
            tag = "th" if number == 0 else "td"
            cells = "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)
            parts.append(f"<tr>{cells}</tr>")
        parts.append("</table>")
    parts.append("<h2>What to know when reading this</h2><ul>")
    parts += [f"<li>{escape(note)}</li>" for note in caveats(figures)]
    return "\n".join([*parts, "</ul></body></html>"]) + "\n"


def _answer(figures: Figures) -> list[str]:
    """The first lines: what an owner wants to know."""
    last = [row for row in figures["curve"] if row["arm"] == "qedg"][-1]
    reached = figures["queries_to_kappa"]["qedg"]
    words = ", ".join(
        f"kappa {threshold}: {'not reached' if queries is None else f'{queries} queries'}"
        for threshold, queries in reached.items()
    )
    ledger = figures["ledger"]
    bounds = f"{format_share(last['kappa_low'])} to {format_share(last['kappa_high'])}"
    lines = [
        f"After {last['queries']} queries a copy agrees with the target on {last['agreement']:.1%} of the "
    ]
    lines[0] += f"evaluation rows (kappa {format_share(last['kappa'])}, 95 % interval {bounds})."
    lines.append(f"Queries until {words}.")
    if figures["stopped"]:
        left = ledger["budget"] - ledger["attack_queries"] - ledger["failed"]
        lines.append(f"The run stopped early ({figures['stopped']}) with {left} queries unspent.")
    if ledger["failed"]:
        lines.append(f"{ledger['failed']} queries failed and count as spent.")
    return lines


def _tables(figures: Figures) -> list[tuple[str, list[list[str]]]]:
    settings = figures["settings"]
    curve = [list(COLUMNS), *(_curve_row(row) for row in figures["curve"])]
    reached = [["arm", *(f"kappa {name}" for name in figures["queries_to_kappa"]["qedg"])]]
    for arm, found in figures["queries_to_kappa"].items():
        reached.append([arm, *("not reached" if n is None else str(n) for n in found.values())])
    names = ("budget", "attack_queries", "failed", "remaining", "eval_queries", "eval_failed")
    ledgers = [["ledger", *names]]
    for arm, counters in {"qedg": figures["ledger"], **figures["baseline_ledgers"]}.items():
        ledgers.append([arm, *(str(counters[name]) for name in names)])
    shown = (
        "target_id", "owner_confirmation", "input_shape", "num_classes", "value_range", "label_mode", "seed",
        "substitute", "substitute_pretrained", "eval_rows", "eval_origin", "eval_every", "transfer_eps",
        "transfer_rows", "threads", "torch",
    )  # fmt: skip
    setup = [["setting", "value"], *([name, str(settings[name])] for name in shown)]
    setup += [["budgets granted", ", ".join(map(str, figures["ledger"]["budgets"]))]]
    setup += [[f"config.{name}", str(value)] for name, value in settings["config"].items()]
    tables = [("Curve", curve), ("Queries until kappa", reached), ("Ledgers", ledgers)]
    if figures["events"]:
        events = [["arm", "round", "queries", "what"]]
        for event in figures["events"]:
            what = f"{event['event']}: {event['action']}" + (f" to {event['tau']}" if "tau" in event else "")
            events.append([event["arm"], str(event["round"]), str(event["queries"]), what])
        tables.append(("Events", events))
    return [*tables, ("What was audited, and how", setup)]


def _curve_row(row: Figures) -> list[str]:
    measures = [_with_bounds(row, "agreement"), _with_bounds(row, "kappa")]
    measures += [format_share(row["accuracy"]), format_share(row["transfer_success"])]
    return [row["arm"], str(row["queries"]), row["phase"], *measures, str(row["train_steps"])]


def _with_bounds(row: Figures, name: str) -> str:
    bounds = f" ({format_share(row[name + '_low'])} to {format_share(row[name + '_high'])})"
    return format_share(row[name]) + (bounds if row[name] is not None else "")
