"""Tables of what EDGE costs: time of the loss, the hinge, a step, scores and spectra; memory."""

from typing import Any

from tests.benchmarks.report import table

Record = dict[str, Any]


def loss(records: list[Record]) -> str:
    """The loss alone beside its rivals."""
    if not records:
        return "### Cost of the loss\n\nNot run.\n"
    names = list(dict.fromkeys(name for r in records for name in r["ms"]))
    rows = []
    for r in sorted(records, key=lambda r: (r["rows"], r["labels"])):
        base = r["ms"]["BCE, targets ready"]["median"]
        for name in names:
            if name in r["ms"]:
                value = r["ms"][name]
                shape = f"{r['rows']} + {r['rows']}, {r['labels']}, {r['k']}"
                cells = [f"{value['median']:.3f}", f"{value['least']:.3f}", f"{value['median'] / base:.1f}"]
                rows.append([shape, name, *cells])
    header = ["rows, labels, k", "loss", "median ms", "least ms", "times BCE"]
    return (
        "### Cost of the loss\n\nForward and backward of the loss alone, one thread. BCE takes outliers as "
        "rows without a label. *split* is handed the two sides apart and checks no targets; pytorch-ood's "
        "regulariser is single-label and was adapted; *naive* loops over outliers and is left out "
        "at the largest shape.\n\n" + table(header, rows)
    )


def gap(records: list[Record]) -> str:
    """Both forms of the hinge."""
    if not records:
        return "### The gap term\n\nNot run.\n"
    rows = []
    for r in sorted(records, key=lambda r: r["pairs"]):
        one, other = (r["ms"][name]["median"] for name in ("pairwise", "sorted"))
        cells = [f"{one:.3f}", f"{other:.3f}", f"{one / other:.1f}x", f"{r['relative difference']:.0e}"]
        rows.append([f"{r['pairs']:,}", *cells])
    header = ["pairs", "pairwise ms", "sorted ms", "ratio", "apart"]
    return (
        "### The gap term\n\nForward and backward of the hinge alone in float32; *apart* is the largest "
        f"relative difference of value and gradients.\n\n{table(header, rows)}"
    )


def memory(records: list[Record]) -> str:
    """Peaks over the logits' own size."""
    if not records:
        return "### Memory\n\nNot run.\n"
    rows = [[f"{2 * r['rows']} x {r['labels']}", r["loss"], f"{r['times']:.1f}"] for r in records]
    return (
        "### Memory\n\nGrowth of the process's peak over one forward and backward pass, in multiples of the "
        f"logits; the gradient is one of them.\n\n{table(['logits', 'loss', 'times the logits'], rows)}"
    )


SINGLE = {
    "step": "A training step of timm's ResNet-18, 64 x 64, 20 labels",
    "scoring": "Scoring 4096 x 81 logits",
    "selector cost": "Spectra of 64 x 2048 features",
}


def single(records: list[Record], title: str) -> str:
    """A section of one record."""
    parts = [f"### {title}\n"]
    for r in records:
        first = next(iter(r["ms"].values()))["median"]
        rows = [[k, f"{v['median']:.2f}", f"{v['median'] / first:.2f}"] for k, v in r["ms"].items()]
        parts.append(table(["", "median ms", "times the first"], rows))
        if "relative difference" in r:
            parts.append(f"Largest relative difference of the Gram form: {r['relative difference']:.0e}.\n")
        for z, (ours, naive) in r.get("ours and naive at", {}).items():
            parts.append(f"A logit of {z}: ours {ours:.3g}, naive {naive:.3g}.\n")
    return "\n".join(parts if records else [*parts, "Not run.\n"])
