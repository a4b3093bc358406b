"""RESULTS.md's section on RCPMOD."""

from collections import defaultdict
from statistics import mean
from typing import Any

from tests.benchmarks.headline import Headline
from tests.benchmarks.report import spread, table

TITLE = "RCPMOD: outliers among rows with several views"
METHODS = ("RCPMOD", "XV-ridge", "XV-kNN", "IForest", "kNN-10", "LOF-20", "ECOD")
MAT = ("Scene-15", "LandUse-21")
KINDS = ("attribute", "class", "class_attribute", "complete", "incomplete")
# What the published code reached in one earlier run at mix 5-2-8, 30 % missing: all outliers, class outliers.
PUBLISHED = {"Scene-15": (0.969, 0.991), "LandUse-21": (0.970, 0.948)}
SCHEDULE = 90  # epochs published for Scene-15
PREAMBLE = """The outliers are synthetic, planted by the rule that the method was designed for (mixes are %
attribute - class - class-attribute). Under that protocol class outliers sit in complete rows only, so the
bare flag 'this row is complete' already ranks them (its ROC AUC is the last column); the leak-free row
removes views after planting. One configuration, with temperature 0.1, serves every data set. It was selected
on planted labels of data reported here: 13 settings on LandUse-21 5-2-8 m=0.30 (seed 1), 7 fits on Scene-15
of that mix (seeds 1, 2), one on digits 5-5-5 (seed 0). The baselines use fixed settings and were not tuned.
Both favour RCPMOD; the ablation has a row with the published temperature.
"""

Record = dict[str, Any]


def render(records: list[Record]) -> str:
    """All tables of the method."""
    sections: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        sections[record["section"]].append(record)
    parts = [PREAMBLE]
    parts += [
        _quality(sections["quality"]),
        _kinds(sections["quality"]),
        _published(sections["quality"], sections["preset"]),
        _ablation(sections["ablation"]),
        _speed(sections["speed"]),
        _accuracy(sections["accuracy"]),
        _scale(sections["scale"]),
    ]
    return "\n".join(parts)


def _groups(records: list[Record]) -> dict[tuple[str, str, float, bool], list[Record]]:
    groups: dict[tuple[str, str, float, bool], list[Record]] = defaultdict(list)
    for record in records:
        groups[record["data"], record["mix"], record["missing"], record["leak_free"]].append(record)
    return dict(sorted(groups.items()))


def _name(case: tuple[str, str, float, bool]) -> str:
    data, mix, missing, leak_free = case
    return f"{data}, {mix}, m={missing:.2f}{', leak-free' if leak_free else ''}"


def _auc(group: list[Record], method: str, what: str = "auc") -> list[float | None]:
    return [record["methods"][method].get(what) for record in group]


def _quality(records: list[Record]) -> str:
    if not records:
        return "### Quality\n\nNot run.\n"
    rows, lost = [], []
    for case, group in _groups(records).items():
        means = {method: mean(v for v in _auc(group, method) if v is not None) for method in METHODS}
        best = max(means, key=lambda method: means[method])
        cells = [spread(_auc(group, method)) for method in METHODS]
        cells = [f"**{c}**" if method == best else c for method, c in zip(METHODS, cells, strict=True)]
        if best != "RCPMOD":
            lost.append(f"{_name(case)} (to {best}, by {means[best] - means['RCPMOD']:.3f})")
        flag = spread([record["methods"]["completeness flag"]["auc"] for record in group])
        rows.append([_name(case), str(len(group)), *cells, flag])
    verdict = f"RCPMOD is best in {len(rows) - len(lost)} of {len(rows)} rows."
    verdict += f" It loses: {'; '.join(lost)}." if lost else ""
    header = ["data, mix, missing rate", "seeds", *METHODS, "completeness flag"]
    return f"### ROC AUC\n\n{table(header, rows)}\n{verdict}\n"


def _kinds(records: list[Record]) -> str:
    if not records:
        return ""
    rows = []
    for case, group in _groups(records).items():
        rivals = [method for method in METHODS if method != "RCPMOD"]
        best = max(rivals, key=lambda method: mean(v for v in _auc(group, method) if v is not None))
        for method in ("RCPMOD", "RCPMOD, new-row score", best):
            cells = [spread(_auc(group, method, kind)) for kind in KINDS]
            cells.append(spread(_auc(group, method, "ap")))
            cells.append(spread([record["methods"][method]["seconds"] for record in group], 1))
            rows.append([_name(case), method, *cells])
    header = [
        "data, mix, missing rate",
        "method",
        *(kind.replace("_", "-") for kind in KINDS),
        "AP",
        "seconds",
    ]
    return (
        "### By kind of outlier, and by completeness of the row\n\n"
        "ROC AUC of each kind against the inliers, and over complete and incomplete rows apart, beside "
        "the best baseline of the row. Seconds are wall time on a machine that did other work "
        f"as well: do not compare them; RCPMOD's are the fit's.\n\n{table(header, rows)}"
    )


def _published(records: list[Record], presets: list[Record]) -> str:
    rows = []
    for (data, mix, missing, leak_free), group in _groups(records).items():
        if data not in PUBLISHED or mix != "5-2-8" or missing != 0.3 or leak_free:
            continue
        alike = [record for record in presets if record["data"] == data]
        for part, kind, published in zip(("all", "class"), ("auc", "class"), PUBLISHED[data], strict=True):
            ours = _auc(group, "RCPMOD", kind)
            reached = mean(v for v in ours if v is not None) >= published
            rows.append(
                [
                    f"{data}, {part}",
                    spread(ours),
                    str(len(group)),
                    f"{published:.3f}",
                    "yes" if reached else "no",
                    spread([record[kind] for record in alike]),
                    str(len(alike)),
                ]
            )
    if not rows:
        return "### Beside the published code\n\nNot run.\n"
    header = [
        "data, outliers",
        "ours",
        "seeds",
        "published, one run",
        "ours no lower",
        "published configuration, our plantings",
        "seeds ",
    ]
    return (
        "### Beside the published code\n\nMix 5-2-8, 30 % missing, ROC AUC. *Published, one run* quotes an "
        "earlier run of the authors' code: one seed, its own configuration for each data set, its own random "
        "draws. *Published configuration* is measured here: our implementation with that configuration, one "
        "order of batches, on as many plantings as stand beside it, the first (seeds 0, 1, ...) of *ours*. "
        f"How high a figure can come out depends on which rows were planted.\n\n{table(header, rows)}"
    )


def _ablation(records: list[Record]) -> str:
    if not records:
        return "### Ablation\n\nNot run.\n"
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record["variant"]].append(record)
    order = sorted(groups, key=lambda variant: (variant != "reference", variant))
    rows = [
        [
            variant,
            str(len(groups[variant])),
            *(spread([r.get(k) for r in groups[variant]]) for k in ("auc", *KINDS[:3])),
        ]
        for variant in order
    ]
    header = ["change", "seeds", "all", *(kind.replace("_", "-") for kind in KINDS[:3])]
    return f"### Ablation and sensitivity (digits, 5-5-5, m=0.30)\n\n{table(header, rows)}"


def _speed(records: list[Record]) -> str:
    if not records:
        return "### Speed against the published procedure\n\nNot run.\n"
    rows = []
    for n in sorted({record["n"] for record in records}):
        group = {record["method"]: record for record in records if record["n"] == n}
        base = group.get("published")
        for method, record in group.items():
            cells = [f"{record['cpu_seconds']:.1f}", f"{record['epoch_cpu_seconds']:.2f}"]
            cells += [
                f"{cost(base) / cost(record):.1f}x" if base else "-" for cost in (_whole, _epoch, _scaled_up)
            ]
            rows.append([str(n), method, *cells, f"{record['peak_gib']:.2f}"])
    record = records[0]
    header = [
        "rows",
        "what",
        "fit and scores, CPU s",
        "an epoch, CPU s",
        "whole, times faster",
        "an epoch, times faster",
        f"{SCHEDULE} epochs (scaled up), times faster",
        "peak GiB",
    ]
    return (
        "### Speed and memory against the published procedure\n\nA float64 transcription of the published "
        f"procedure (`published_rcpmod.py`) and ours: {record['epochs']} epochs, hidden {record['hidden']}, "
        f"{_source(record)}; fit and training scores, each in its own process on one thread (up to 1 GiB of "
        "which is Python with torch). *One rank a step* is `alignment_ranks=1`, an unbiased draw of the "
        "alignment loss in place of its mean over six ranks. *Scaled up* adds epochs at the measured rate. "
        f"The whole holds some two seconds in which torch imports parts of itself.\n\n{table(header, rows)}"
    )


def _whole(record: Record) -> float:
    return float(record["cpu_seconds"])


def _epoch(record: Record) -> float:
    return float(record["epoch_cpu_seconds"])


def _scaled_up(record: Record) -> float:
    return _whole(record) + (SCHEDULE - record["epochs"]) * _epoch(record)


def _accuracy(records: list[Record]) -> str:
    if not records:
        return "### Accuracy and time at a full schedule\n\nNot run.\n"
    rows = []
    base = [r["cpu_seconds"] for r in records if r["method"] == "published"]
    for method in dict.fromkeys(record["method"] for record in records):
        group = [record for record in records if record["method"] == method]
        seconds = mean(record["cpu_seconds"] for record in group)
        cells = [spread([record.get(kind) for record in group]) for kind in ("auc", *KINDS[:3])]
        ratio = f"{mean(base) / seconds:.1f}x" if base else "-"
        rows.append([method, str(len(group)), *cells, f"{seconds:.0f}", ratio])
    record = records[0]
    header = ["what", "seeds", "all", "attribute", "class", "class-attribute", "CPU s", "times faster"]
    return (
        f"### Accuracy and time at a full schedule\n\nThe same three, {record['n']} rows, "
        f"{record['epochs']} epochs, {_source(record)}, mix 5-2-8, 30 % missing: ROC AUC of the training "
        f"scores, and CPU seconds on one thread of a machine that did other work.\n\n{table(header, rows)}"
    )


def _source(record: Record) -> str:
    return "Scene-15 rows" if record["data"] else "generated rows"


def _scale(records: list[Record]) -> str:
    if not records:
        return "### Scale\n\nNot run.\n"
    rows = [
        [
            {"fit": "fit", "score": "score new rows"}[r["task"]],
            f"{r['n']:,}",
            str(r["epochs"]),
            f"{r['seconds']:.0f}",
            f"{r['peak_gib']:.2f}",
        ]
        for r in sorted(records, key=lambda r: (r["task"], r["n"]))
    ]
    fits = {r["n"]: r["seconds"] for r in records if r["task"] == "fit"}
    growth = ""
    if len(fits) > 1:
        low, high = min(fits), max(fits)
        growth = f"\n{high // low} times the rows took {fits[high] / fits[low]:.1f} times as long.\n"
    header = ["task", "rows", "epochs", "seconds", "peak GiB"]
    return (
        "### Scale (2 views of 64 features)\n\nGenerated data, two threads. Above 50,000 rows neighbours "
        "come from faiss (the `bench` extra), approximately. The scoring model was fitted on 10,000 rows "
        "for one epoch, with 2,048 references: more training rows make missing views dearer.\n\n"
        f"{table(header, rows)}{growth}"
    )


def headlines(records: list[Record]) -> list[Headline]:
    """Scene-15 and LandUse-21 at the published mix; cost beside the published procedure."""
    lines = []
    epochs = {(r["method"], r["n"]): r for r in records if r["section"] == "speed"}
    ours, theirs = epochs.get(("RCPMOD", 4485)), epochs.get(("published", 4485))
    time = memory = "-"
    if ours and theirs:
        ratio = ours["epoch_cpu_seconds"] / theirs["epoch_cpu_seconds"]
        time = f"{ratio:.2f} of the published procedure's epoch (n = 4,485)"
        memory = f"{ours['peak_gib'] / theirs['peak_gib']:.2f} of its peak"
    for data in MAT:
        case = [
            r for r in records if r["section"] == "quality" and r["data"] == data
            and (r["mix"], r["missing"], r["leak_free"]) == ("5-2-8", 0.3, False)
        ]  # fmt: skip
        if case:
            aucs = {m: {r["seed"]: r["methods"][m]["auc"] for r in case} for m in METHODS}
            own = aucs.pop("RCPMOD")
            lines.append(Headline(f"{data}, planted outliers", "ROC AUC", own, aucs, time, memory))
    return lines
