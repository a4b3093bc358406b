"""RESULTS.md's section on EDGE."""

from collections import defaultdict
from statistics import mean
from typing import Any

from tests.benchmarks import cost_edge as cost
from tests.benchmarks.headline import Headline
from tests.benchmarks.report import spread, table

TITLE = "EDGE: unknown pictures beside rare labels"
PREAMBLE = """What was re-implemented is the released code's loss (`Yuchen-Sunflower/EDGE@6cce68f`, read
only), not the paper's typeset equations; the paper's tables could not be read and nothing here reproduces
them. All arms of a seed share data, initial weights, order, schedule and number of steps; arms marked + see
outliers, so twice the pictures. Settings were fixed beforehand by the specification's recipe; nothing was
tuned on these data, neither for an arm nor by an unknown of the test. Outliers for training and unknowns of
the test are of different classes and sources. Seconds are CPU seconds; the machine did other work too.
"""
DATA = {
    "digits": (
        "Digit composites",
        "Labels: digits 0 to 7. Outliers: digit 8, gratings. Unknown: digit 9 (near), checker, blobs, noise.",
    ),
    "collages": (
        "CIFAR-10-LT collages",
        "Labels: 8 classes. Outliers: deer, crops of two photographs. Unknown: cat (near), CamVid, Omniglot.",
    ),
}
SIZES = ("n_train", "epochs")
Record = dict[str, Any]


def render(records: list[Record]) -> str:
    """All tables of the method."""
    sections: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        sections[record["section"]].append(record)
    return "\n".join(
        [
            PREAMBLE,
            *_quality(sections["quality"]),
            _selector(sections["selector"]),
            cost.loss(sections["loss"]),
            cost.gap(sections["gap"]),
            cost.memory(sections["memory"]),
            *(cost.single(sections[name], title) for name, title in cost.SINGLE.items()),
        ]
    )


OURS = "EDGE m=1"
# Rivals in the summary; the other arms are settings of EDGE's own loss and stand in the tables.
RIVALS = ("BCE", "ASL", "DB", "BCE + L_conf", "bounded OE")


def headlines(records: list[Record]) -> list[Headline]:
    """EDGE m=1 beside the best rival: rare labels against the near and the worst far unknown; mAP.

    A rival is a training, scored by the detector of ours or by another: the plain ones cost nothing.
    """
    time, memory = _cost(records)
    lines = []
    for data, (title, _) in DATA.items():
        mine = [r for r in records if r["section"] == "quality" and r["data"] == data]
        sizes = [tuple(r[name] for name in SIZES) for r in mine if r["arm"] == OURS]
        if not sizes:
            continue
        size = max(sizes, key=lambda size: (sizes.count(size), size))  # most seeds, then the larger
        mine = [r for r in mine if tuple(r[name] for name in SIZES) == size]
        for metric, figure in {"AUROC, near": _near, "AUROC, worst far": _far, "mAP": _map}.items():
            arms: dict[str, dict[int, float]] = defaultdict(dict)
            for r in mine:
                for name, value in figure(r).items() if r["arm"] in (OURS, *RIVALS) else ():
                    arms[name][r["seed"]] = value
            own = arms.pop(OURS, {})
            if own and arms:
                task = f"{title}, known labels" if metric == "mAP" else f"{title}, rare labels"
                lines.append(Headline(task, metric, own, dict(arms), time, memory))
    return lines


def _near(record: Record) -> dict[str, float]:
    return _least(record, near=True)


def _far(record: Record) -> dict[str, float]:
    return _least(record, near=False)


def _map(record: Record) -> dict[str, float]:
    return {record["arm"]: float(record["mAP"])}


def _least(record: Record, *, near: bool) -> dict[str, float]:
    """By arm and score: the lowest AUROC between rare labels and an unknown, near or far."""
    found: dict[str, float] = {}
    for entry, steps in record["ood"].items():
        score, unknown = entry.split("/")
        arm = record["arm"] if score == "JointEnergy" else f"{record['arm']}, {score}"
        if ("(near)" in unknown) is near:
            found[arm] = min(found.get(arm, 1.0), steps[1]["AUROC"])
    return found


def _cost(records: list[Record]) -> tuple[str, str]:
    """Of a training step, and of the loss's memory."""
    time, grown = "-", {}
    for r in records:
        if r["section"] == "step":
            ratio = r["ms"]["EDGE, 16 and 16"]["median"] / r["ms"]["BCE, 16 rows"]["median"]
            time = f"{ratio:.1f} of a step without outliers"
        if r["section"] == "memory":
            grown[r["loss"]] = r["times"]
    if not {"EDGE", "BCE"} <= grown.keys():
        return time, "-"
    return time, f"{grown['EDGE']:.1f} times the logits (BCE {grown['BCE']:.1f})"


def _quality(records: list[Record]) -> list[str]:
    parts = []
    for data, (title, text) in DATA.items():
        mine = [record for record in records if record["data"] == data]
        if not mine:
            parts.append(f"### {title}\n\nNot run.\n")
        for size in sorted({tuple(record[name] for name in SIZES) for record in mine}):
            here = [record for record in mine if tuple(record[name] for name in SIZES) == size]
            parts.append(_quality_tables(title, text, size, here))
    return parts


def _quality_tables(title: str, text: str, size: tuple[Any, ...], records: list[Record]) -> str:
    by_arm: dict[str, dict[int, Record]] = defaultdict(dict)
    for record in records:
        by_arm[record["arm"]][record["seed"]] = record
    unknowns = [name.split("/")[1] for name in records[0]["ood"] if name.startswith("JointEnergy/")]
    head = (
        f"### {title}: {size[0]} pictures an epoch, {size[1]} epochs\n\n{text} *Rare* rows carry none of the "
        "four most frequent labels of the training pictures. AUROC of JointEnergy; *rare minus* is the "
        "paired difference of its rare column from BCE + L_conf, the same training without the gap term.\n"
    )
    header = ["arm", "seeds", "mAP", "rare AP", "active", "CPU s"]
    rows = [
        [
            _name(arm, seeds),
            str(len(seeds)),
            *(spread(r[key] for r in seeds.values()) for key in ("mAP", "rare AP")),
            spread((r.get("active_fraction") for r in seeds.values()), 2),
            f"{mean(r['seconds'] for r in seeds.values()):.0f}",
        ]
        for arm, seeds in by_arm.items()
    ]
    parts = [
        head,
        f"Accuracy on known pictures; share of pairs inside the hinge at the end:\n\n{table(header, rows)}",
        *(f"Unknown: {name}.\n\n{_unknown(by_arm, f'JointEnergy/{name}')}" for name in unknowns),
        _lost(by_arm, unknowns),
        _scores(by_arm, unknowns),
    ]
    return "\n".join(parts)


def _unknown(by_arm: dict[str, dict[int, Record]], key: str) -> str:
    base = by_arm.get("BCE + L_conf", {})
    means = {arm: mean(r["ood"][key][0]["AUROC"] for r in seeds.values()) for arm, seeds in by_arm.items()}
    rare = {arm: mean(r["ood"][key][1]["AUROC"] for r in seeds.values()) for arm, seeds in by_arm.items()}
    rows = []
    for arm, seeds in by_arm.items():
        cells = [
            spread(r["ood"][key][step][figure] for r in seeds.values())
            for step in (0, 1)
            for figure in ("AUROC", "FPR95_ID+")
        ]
        if means[arm] == max(means.values()):
            cells[0] = f"**{cells[0]}**"
        if rare[arm] == max(rare.values()):
            cells[2] = f"**{cells[2]}**"
        paired = [
            seeds[s]["ood"][key][1]["AUROC"] - base[s]["ood"][key][1]["AUROC"] for s in seeds if s in base
        ]
        extra = [
            spread(r["ood"][key][0][figure] for r in seeds.values())
            for figure in ("FPR95_OOD+", "AP_IN", "AP_OUT")
        ]
        rows.append([_name(arm, seeds), *cells, f"{mean(paired):+.3f}" if paired else "", *extra])
    header = ["arm", "AUROC", "FPR95_ID+", "AUROC, rare", "FPR95_ID+, rare", "rare minus", "FPR95_OOD+"]
    return table([*header, "AP_IN", "AP_OUT"], rows)


def _lost(by_arm: dict[str, dict[int, Record]], unknowns: list[str]) -> str:
    """Where EDGE with margin 1 is not the best arm, or costs accuracy."""
    ours = by_arm.get("EDGE m=1")
    if not ours:
        return ""
    lost = []
    for unknown in unknowns:
        for step, label in ((0, ""), (1, ", rare")):
            figures = {
                arm: mean(r["ood"][f"JointEnergy/{unknown}"][step]["AUROC"] for r in seeds.values())
                for arm, seeds in by_arm.items()
            }
            best = max(figures, key=lambda arm: figures[arm])
            if best != "EDGE m=1":
                lost.append(f"{unknown}{label} (to {best}, by {figures[best] - figures['EDGE m=1']:.3f})")
    accuracy = {arm: mean(r["mAP"] for r in seeds.values()) for arm, seeds in by_arm.items()}
    best = max(accuracy, key=lambda arm: accuracy[arm])
    text = (
        f"EDGE m=1 has the best mean AUROC in {2 * len(unknowns) - len(lost)} of {2 * len(unknowns)} columns."
    )
    text += f" It loses: {'; '.join(lost)}." if lost else ""
    return f"{text} Its mAP is {accuracy[best] - accuracy['EDGE m=1']:.3f} below that of {best}, the best.\n"


def _scores(by_arm: dict[str, dict[int, Record]], unknowns: list[str]) -> str:
    rows = []
    for arm, seeds in by_arm.items():
        scores = list(dict.fromkeys(name.split("/")[0] for r in seeds.values() for name in r["ood"]))
        for score in scores if len(scores) > 1 else []:
            cells = [
                spread(r["ood"][f"{score}/{unknown}"][step]["AUROC"] for r in seeds.values())
                for unknown in unknowns
                for step in (0, 1)
            ]
            rows.append([arm, score, *cells])
    if not rows:
        return ""
    header = ["arm", "score", *(label for name in unknowns for label in (name, f"{name}, rare"))]
    return f"Scores after the fact, of networks trained without outliers (AUROC):\n\n{table(header, rows)}"


def _name(arm: str, seeds: dict[int, Record]) -> str:
    return f"{arm} +" if next(iter(seeds.values()))["exposed"] else arm


def _selector(records: list[Record]) -> str:
    if not records:
        return "### Choice of the outlier set\n\nNot run.\n"
    kinds = list(records[0]["candidates"])
    unknowns = list(records[0]["candidates"][kinds[0]]["AUROC"])
    rows = [
        [
            kind,
            spread((r["distances"]["published"][kind] for r in records), 1),
            spread(r["candidates"][kind]["mAP"] for r in records),
            *(spread(r["candidates"][kind]["AUROC"][unknown] for r in records) for unknown in unknowns),
        ]
        for kind in sorted(kinds, key=lambda kind: mean(r["distances"]["published"][kind] for r in records))
    ]
    correlations = [
        [key, *(f"{r['rank correlation'][key]:+.2f}" for r in records)]
        for key in records[0]["rank correlation"]
    ]
    seeds = [f"seed {r['seed']}" for r in records]
    return (
        "### Choice of the outlier set\n\nDigit composites, EDGE m=1 trained with one candidate each, "
        "nearest first by the dilation distance of a BCE network's features (B = 64, k = 32).\n\n"
        + table(["outliers", "distance", "mAP", *unknowns], rows)
        + "\nSpearman's rank correlation of distance and AUROC (of the far unknowns: the worst) over the "
        "five candidates; negative means that nearer is better:\n\n"
        + table(["distance / unknown", *seeds], correlations)
    )
