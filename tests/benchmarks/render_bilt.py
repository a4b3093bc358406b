"""RESULTS.md's section on BiLT."""

import math
from collections import defaultdict
from statistics import mean, stdev
from typing import Any

from tests.benchmarks.headline import Headline
from tests.benchmarks.report import spread, table

TITLE = "BiLT with AIGDL: classification over a label tree"
Record = dict[str, Any]
OURS = "BiLT + AIGDL"
# Parts of the method on their own: no rivals in the summary.
OWN = ("BiLT", "AIGDL")
NAMES = {
    "digits": "scikit-learn's digits, 10 a class, MLP (E1)",
    "gaussian": "Gaussian tree of 4 x 4 x 4, MLP (E2)",
    "omniglot": "Omniglot, test_resnet",
    "cifar10": "CIFAR-10 with an animal and vehicle tree, at most 250 a class, test_resnet",
}
# Larger is better, or smaller.
COLUMNS = {"top1": ("top-1, %", 1), "level1_rollup": ("level 1, %", 1), "mistake_severity": ("severity", -1),
           "hd@1": ("HD@1", -1)}  # fmt: skip
# Two-sided 95 % points of Student's t by degrees of freedom.
T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}


def render(records: list[Record]) -> str:
    """All tables of the method."""
    sections: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        sections[record["section"]].append(record)
    return "\n".join(
        [
            *_quality(sections["quality"]),
            _curves(sections["quality"]),
            _recovery(sections["recovery"]),
            _cost(sections["cost"]),
            _end(sections["end"]),
            _memory(sections["memory"]),
            _trees(sections["tree"]),
            _growth(sections["growth"]),
        ]
    )


def _quality(records: list[Record]) -> list[str]:
    if not records:
        return ["### Quality\n\nNot run.\n"]
    return [_one(data, [r for r in records if r["data"] == data]) for data in NAMES]


def _one(data: str, records: list[Record]) -> str:
    if not records:
        return f"### {NAMES[data]}\n\nNot run.\n"
    arms: dict[str, dict[int, Record]] = defaultdict(dict)
    for r in records:
        arms[r["arm"]][r["seed"]] = r
    k = max(int(n[3:]) for n in records[0]["metrics"] if n.startswith("hd@") and n[3:].isdigit())
    columns = {**COLUMNS, f"hd@{k}": (f"HD@{k}", -1), "tice": ("no path, %", -1)}
    means = {
        arm: {c: mean(r["metrics"][c] for r in rs.values()) for c in columns} for arm, rs in arms.items()
    }
    best = {c: max(values[c] * sign for values in means.values()) for c, (_, sign) in columns.items()}
    rows = []
    for arm in sorted(arms, key=lambda arm: means[arm][f"hd@{k}"]):
        cells = []
        for c, (title, sign) in columns.items():
            scale, digits = (100, 1) if "%" in title else (1, 3)
            text = spread([scale * r["metrics"][c] for r in arms[arm].values()], digits)
            cells.append(f"**{text}**" if means[arm][c] * sign == best[c] else text)
        rows.append([arm, str(len(arms[arm])), *cells])
    epochs = records[0]["epochs"]
    bound = mean(r["metrics"][f"hd@{k}_bound"] for r in records)
    head = ["arm", "seeds", *(title for title, _ in columns.values())]
    return (
        f"### {NAMES[data]}\n\n{table(head, rows)}\n"
        f"{epochs} epochs, the last one evaluated on the test part, nothing tuned or chosen; one encoder,\n"
        f"batches and schedule for all arms. Bold by column. No HD@{k} can be below {bound:.3f}.\n\n"
        f"{_differences(arms, k)}\n"
    )


def _differences(arms: dict[str, dict[int, Record]], k: int) -> str:
    """Paired differences of ours to each rival, with 95 % intervals; losses are named."""
    said = []
    for rival in arms:
        seeds = sorted(arms[rival].keys() & arms.get(OURS, {}).keys())
        if rival == OURS or len(seeds) < 2:
            continue
        parts = []
        for column, title, sign, scale in (("top1", "top-1", 1, 100.0),
                                           ("mistake_severity", "severity", -1, 1.0),
                                           (f"hd@{k}", f"HD@{k}", -1, 1.0)):  # fmt: skip
            gaps = [
                scale * (arms[OURS][s]["metrics"][column] - arms[rival][s]["metrics"][column]) for s in seeds
            ]
            half = T95.get(len(gaps) - 1, 1.96) * stdev(gaps) / math.sqrt(len(gaps))
            middle = mean(gaps)
            verdict = "even" if abs(middle) <= half else "better" if middle * sign > 0 else "worse"
            parts.append(
                f"{title} {middle:+.{1 if scale > 1 else 3}f} +- {half:.{1 if scale > 1 else 3}f} ({verdict})"
            )
        said.append(f"- {OURS} against {rival}, {len(seeds)} seeds: {', '.join(parts)}")
    return "Paired differences, 95 % interval:\n\n" + "\n".join(said) + "\n" if said else ""


def _curves(records: list[Record]) -> str:
    curves: dict[str, list[list[list[float]]]] = defaultdict(list)
    for r in records:
        if "curve" in r:
            curves[r["arm"]].append(r["curve"])
    if not curves:
        return "### Granularity competition (E3)\n\nNot run.\n"
    epochs = min(len(c) for cs in curves.values() for c in cs)
    marks = sorted({min(epochs, e) for e in (2, 5, 10, 20, epochs)})
    rows = [
        [arm, level, *(spread([100 * c[e - 1][place] for c in cs], 1) for e in marks)]
        for arm, cs in curves.items()
        for place, level in ((0, "finest"), (1, "coarsest"))
    ]
    head = ["arm", "level", *(f"epoch {e}" for e in marks)]
    return (
        f"### Granularity competition (E3)\n\n{table(head, rows)}\n"
        "Test top-1 in per cent on the Gaussian tree. The paper's claim is that the finest level converges\n"
        "faster than with parallel heads.\n"
    )


def _recovery(records: list[Record]) -> str:
    if not records:
        return "### Does Delta find out which siblings are near? (E4)\n\nNot run.\n"
    values = [r["correlation"] for r in records]
    verdict = "positive in all" if min(values) > 0 else f"not positive in {sum(v <= 0 for v in values)}"
    return (
        "### Does Delta find out which siblings are near? (E4)\n\n"
        "Rank correlation of learned corrections and true nearness of siblings at unequal distances:\n"
        f"{spread(values)} over {len(values)} seeds, {verdict}.\n"
    )


def _cost(records: list[Record]) -> str:
    if not records:
        return "### Cost of head and loss\n\nNot run.\n"
    names = list(records[0]["seconds"])
    order = ["flat head", "parallel heads", "published procedure", "ours", "ours, no matrix (rank 8)"]
    names = [n for n in order if n in names]
    rows, missed, floors = [], [], []
    for r in records:
        s = r["seconds"]
        floors.append(s["flat head"] / s["published procedure"])
        ratio = s["ours"] / s["published procedure"]
        beyond = (s["ours"] - s["flat head"]) / max(1e-9, s["published procedure"] - s["flat head"])
        rows.append([r["data"], str(r["batch"]), *(f"{1000 * s[n]:.1f}" for n in names), f"{ratio:.2f}",
                     f"{beyond:.2f}"])  # fmt: skip
        if ratio > 0.5:
            missed.append(f"{r['data']} at {r['batch']} ({ratio:.2f})")
    head = [
        "classes of",
        "batch",
        *(f"{n}, ms" for n in names),
        "ours / published",
        "the same beyond the flat head",
    ]
    return (
        f"### Cost of head and loss, forward and backward\n\n{table(head, rows)}\n"
        "Medians of processor time, rivals taking turns, one thread, shared machine; 512 features, neck of\n"
        "600 in every row, so that the flat head's time is part of all. Aim: ours at most 0.5 of the\n"
        f"published procedure: {'missed for ' + '; '.join(missed) if missed else 'met'}. The flat\n"
        f"head alone takes {min(floors):.2f} to {max(floors):.2f} of it; no head over a tree takes less.\n"
    )


def _end(records: list[Record]) -> str:
    if not records:
        return "### Time of a training step\n\nNot run.\n"
    rows, missed = [], []
    for r in records:
        flat, ours = r["seconds"]["flat head"], r["seconds"]["ours"]
        rows.append([r["model"], str(r["pixels"]), str(r["batch"]), r["data"], f"{1000 * flat:.0f}",
                     f"{1000 * ours:.0f}", f"{100 * (ours / flat - 1):+.1f} %"])  # fmt: skip
        if r["model"] == "resnet18" and ours / flat > 1.05:
            missed.append(r["data"])
    head = ["model", "pixels", "batch", "classes of", "flat head, ms", "ours, ms", "more"]
    return (
        f"### Time of a training step\n\n{table(head, rows)}\nMedians of processor time. Aim: within 5 % for "
        "ResNet-18 at 224 pixels: "
        f"{'missed with the classes of ' + ', '.join(missed) if missed else 'met'}.\n"
    )


def _memory(records: list[Record]) -> str:
    if not records:
        return "### Memory of head and loss\n\nNot run.\n"
    rows = [[str(r["leaves"]), r["head"], f"{r['extra_bytes'] / 2**20:.0f}"]
            for r in sorted(records, key=lambda r: (r["leaves"], r["head"]))]  # fmt: skip
    head = ["finest classes", "head", "peak beyond the start, MiB"]
    return (
        f"### Memory of head and loss\n\n{table(head, rows)}\n"
        "Resident memory of a process of its own, three levels, batch 64, weights and gradients included.\n"
    )


def _trees(records: list[Record]) -> str:
    if not records:
        return "### Taxonomies\n\nNot run.\n"
    rows = [
        [r["data"], str(r["classes"]), str(r["levels"]), str(r["nodes"]), f"{1000 * r['build_seconds']:.1f}",
         f"{1000 * r['distance_seconds']:.1f}", f"{r['distance_bytes'] / 2**20:.1f}"]
        for r in records
    ]  # fmt: skip
    head = [
        "taxonomy",
        "classes",
        "levels",
        "nodes, padded",
        "reading, ms",
        "distances, ms",
        "distances, MiB",
    ]
    return f"### Taxonomies\n\n{table(head, rows)}"


def _growth(records: list[Record]) -> str:
    if not records:
        return "### Growth with the number of classes\n\nNot run.\n"
    records = sorted(records, key=lambda r: r["leaves"])
    rows = [[str(r["leaves"]), str(r["nodes"]), f"{1000 * r['build_seconds']:.1f}",
             f"{1000 * r['step_seconds']:.1f}", str(r["parameters"])] for r in records]  # fmt: skip
    first, last = records[0], records[-1]
    times = last["nodes"] / first["nodes"]
    text = (
        f"{times:.0f} times the nodes took {last['build_seconds'] / first['build_seconds']:.0f} times as "
        f"long to build, and {last['step_seconds'] / first['step_seconds']:.0f} times as long a step."
    )
    head = ["classes", "nodes", "building, ms", "step without a matrix, ms", "numbers in the corrections"]
    return f"### Growth with the number of classes\n\n{table(head, rows)}\n{text}\n"


def headlines(records: list[Record]) -> list[Headline]:
    """The whole method beside every arm that has none of its parts; negated where lower is better."""
    quality = [r for r in records if r["section"] == "quality"]
    ends = [r["seconds"] for r in records if r["section"] == "end" and r["model"] == "resnet18"]
    costs = [r["seconds"] for r in records if r["section"] == "cost"]
    time = "-"
    if ends:
        time = f"{mean(s['ours'] / s['flat head'] for s in ends):.2f} of a ResNet-18 step with a flat head"
    elif costs:
        ratio = mean(s["ours"] / s["published procedure"] for s in costs)
        time = f"{ratio:.2f} of head and loss as published"
    memory = _memory_ratio([r for r in records if r["section"] == "memory"])
    lines = []
    for data in NAMES:
        here = [r for r in quality if r["data"] == data]
        if not here:
            continue
        k = max(int(n[3:]) for n in here[0]["metrics"] if n.startswith("hd@") and n[3:].isdigit())
        columns = [("top1", "top-1, %", 100, 1), ("mistake_severity", "-severity", -1, 3)]
        for metric, title, scale, digits in [*columns, (f"hd@{k}", f"-HD@{k}", -1, 3)]:
            arms: dict[str, dict[int, float]] = defaultdict(dict)
            for r in here:
                arms[r["arm"]][r["seed"]] = scale * r["metrics"][metric]
            rivals = {arm: v for arm, v in arms.items() if not any(part in arm for part in OWN)}
            if OURS in arms and rivals:
                lines.append(Headline(NAMES[data], title, arms[OURS], rivals, time, memory, digits))
    return lines


def _memory_ratio(records: list[Record]) -> str:
    """Peak memory beside the published procedure, at the largest number of classes that both ran."""
    peaks: dict[int, dict[str, float]] = defaultdict(dict)
    for r in records:
        peaks[r["leaves"]][r["head"]] = r["extra_bytes"]
    both = [n for n, p in peaks.items() if {"ours", "published procedure"} <= p.keys()]
    if not both:
        return "-"
    peak = peaks[max(both)]
    return f"{peak['ours'] / peak['published procedure']:.2f} of published, {max(both)} classes"
