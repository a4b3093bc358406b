"""QEDG's section of the report."""

from collections import defaultdict
from statistics import mean
from typing import Any

from tests.benchmarks.headline import Headline
from tests.benchmarks.report import spread, table

TITLE = "QEDG: how many queries until a classifier is copied"

Record = dict[str, Any]

PREAMBLE = """An audit tool: a higher kappa is a stronger attack. Final substitutes, never the best on the
evaluation rows; substitutes are not pretrained; evaluation rows were used for measuring only, and no setting
was chosen on them. Baselines have the same queries in each round and the same training steps. The paper's
tables were not available: nothing here reproduces them. Targets are small networks trained here."""

ARMS = {
    "qedg": "QEDG",
    "class": "class loss and filter",
    "noise": "uniform noise",
    "majority": "majority label",
    "public": "the target's own training data (upper reference)",
}


def render(records: list[Record]) -> str:
    """All tables of the method."""
    sections: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        sections[record["section"]].append(record)
    parts = [
        PREAMBLE.replace("\n", " ") + "\n",
        _speed(sections["speed"], sections["diversity"]),
        _growth(sections["growth"]),
        _curve("### X1: digits, an MLP copied by a smaller MLP", sections["curve"]),
        _mechanism(sections["mechanism"]),
        _ablation(sections["ablation"]),
        _owner(sections["owner"]),
        _controls(sections["controls"]),
        _curve("### CIFAR-10-LT, a small CNN", sections["cifar"]),
    ]
    return "\n".join(parts)


def _speed(records: list[Record], diversity: list[Record]) -> str:
    if not records:
        return "### Speed\n\nNot run.\n"
    rows, missed = [], []
    for r in sorted(records, key=lambda r: r["shape"][1]):
        s, shape = r["seconds"], " x ".join(map(str, r["shape"]))
        ratios = [s[f"{part}, published"] / s[part] for part in ("filter and query", "round")]
        if r["shape"][1] >= 28 and ratios[1] < 5:
            missed.append(f"{shape} ({ratios[1]:.1f}x)")
        row = [shape, *(f"{s[p]:.3f}" for p in ("filter and query", "filter and query, published"))]
        row += [f"{ratios[0]:.1f}x", f"{s['round']:.2f}", f"{s['round, published']:.2f}"]
        rows.append([*row, f"{ratios[1]:.1f}x", f"{s['passes']:.2f}"])
    header = ["input", "filter + query", "published", "ratio"]
    header += ["with generation", "published", "ratio", "passes"]
    first = records[0]
    text = (
        f"### Speed\n\nCPU seconds of a round of {first['batch']} images, {first['steps']} generator steps, "
        "small CNNs as target and substitute, beside our transcription of the published loop (one image at a "
        'time, PNG written and read, loops over classes); "passes" are those through generator and substitute'
        " alone, forward and backward. Published settings have 100 generator steps and a "
        "generator of 128 channels, not 16; convolutions then weigh more and the ratio is smaller.\n\n"
        f"{table(header, rows)}\nGeneration, filter and query at least 5 times as fast at 28 and 32 pixels: "
        f"{'missed at ' + ', '.join(missed) if missed else 'met'}.\n"
    )
    for r in diversity:
        s = r["seconds"]
        text += (
            f"\nDiversity of {r['batch']} images of 3 x 32 x 32: the closed form is {r['apart']:.1e} "
            "(relative) from the loop over pairs in float64; with gradient "
            f"{1e3 * s['closed form']:.1f} ms, by a matrix a class {1e3 * s['matrix a class']:.1f} ms.\n"
        )
    return text


def _growth(records: list[Record]) -> str:
    if not records:
        return "### Growth with the budget\n\nNot run.\n"
    ordered = sorted(records, key=lambda r: r["budget"])
    rows = []
    for r in ordered:
        outside = r["cpu_seconds"] - r["training"]
        per = 1000 / r["queries"]
        row = [str(r["queries"]), f"{outside:.1f}", f"{outside * per:.1f}", f"{r['training']:.1f}"]
        rows.append([*row, f"{r['cpu_seconds'] * per:.1f}", f"{r['peak_gib']:.2f}"])
    few, many = ordered[0], ordered[-1]
    grown = (many["cpu_seconds"] - many["training"]) / (few["cpu_seconds"] - few["training"])
    header = ["queries", "outside training, s", "a 1,000", "training, s", "all, a 1,000 queries", "peak GiB"]
    return (
        "### Growth with the budget\n\nDigits, everything accepted, CPU seconds, a process each.\n\n"
        f"{table(header, rows)}\n{many['queries'] / few['queries']:.0f} times the queries take {grown:.1f} "
        "times as long outside substitute training.\n"
    )


def _curve(title: str, records: list[Record]) -> str:
    if not records:
        return f"{title}\n\nNot run.\n"
    cells = _cells(records)
    rows = []
    for name, label in ARMS.items():
        for budget in sorted({b for n, b in cells if n == name}, key=int):
            seeds = cells[name, budget]
            reference = cells.get(("qedg", budget), {})
            # A target or a copy that says one label only has no kappa.
            pairs = [(found["kappa"], reference.get(s, {}).get("kappa")) for s, found in seeds.items()]
            paired = [a - b for a, b in pairs if name != "qedg" and None not in (a, b)]
            rows.append(
                [label, spread([f["queries"] for f in seeds.values()], 0), str(len(seeds))]
                + [spread([f[m] for f in seeds.values()]) for m in ("kappa", "agreement", "transfer_success")]
                + [spread(paired) if paired else ""]
            )
    header = ["queries from", "used", "seeds", "kappa", "agreement", "transfer success", "kappa minus QEDG's"]
    text = f"{title}\n\n{table(header, rows)}"
    own = [r["figures"]["own_accuracy"] for r in records if "own_accuracy" in r["figures"]]
    return text + (f"\nThe target's own accuracy: {spread(own)}.\n" if own else "")


def _cells(records: list[Record]) -> dict[tuple[str, str], dict[int, Record]]:
    """Figures of a curve's records by arm, budget and seed."""
    cells: dict[tuple[str, str], dict[int, Record]] = defaultdict(dict)
    for r in records:
        for arm, found in r["figures"].items():
            if isinstance(found, dict):
                name = "class" if r["case"].startswith("class") else arm
                for budget, figures in found.items():
                    cells[name, budget][r["seed"]] = figures
    return cells


def _cases(records: list[Record]) -> dict[str, list[Record]]:
    by_case: dict[str, list[Record]] = defaultdict(list)
    for r in records:
        by_case[r["case"]].append(r["figures"])
    return by_case


def _mechanism(records: list[Record]) -> str:
    if not records:
        return "### X2: what the two losses do, five classes in the plane\n\nNot run.\n"
    by_case = _cases(records)
    names = ("distance", "pair_entropy", "kappa", "queries")
    rows = [
        [case, str(len(found)), *(spread([f[n] for f in found], 0 if n == "queries" else 3) for n in names)]
        for case, found in by_case.items()
    ]
    verdicts = []
    for case, name, lower in (("+ boundary", "distance", True), ("+ diversity", "pair_entropy", False)):
        if case in by_case and "class" in by_case:
            seeds = (  # higher is what was expected
                {
                    seed: -f[name] if lower else f[name]
                    for seed, f in enumerate(by_case[c])
                    if f[name] is not None
                }
                for c in (case, "class")
            )
            line = Headline(case, name, next(seeds), {"class": next(seeds)})
            seen = {"ahead": "seen", "**behind**": "the contrary"}.get(line.verdict(), line.verdict())
            change = mean(line.differences()) * (-1 if lower else 1)
            expected = "lowers the distance" if lower else "raises the entropy over pairs"
            verdicts.append(f"{case} {expected}: {seen} ({change:+.3f}).")
    header = ["loss", "seeds", "distance to a boundary", "entropy over pairs", "kappa", "queries"]
    return (
        "### X2: what the two losses do, five classes in the plane\n\nThe nearest of five centres is the "
        "class; distances and pairs are the target's own, of the accepted queries.\n\n"
        f"{table(header, rows)}\nExpected, and by a 95 % interval over seeds: {' '.join(verdicts)}\n"
    )


def _ablation(records: list[Record]) -> str:
    if not records:
        return "### X3: ablation on digits\n\nNot run.\n"
    rows = []
    for case, found in _cases(records).items():
        values = [spread([f[n] for f in found]) for n in ("kappa", "agreement", "transfer_success")]
        stalled = f"{sum(f['events'] > 0 for f in found)} of {len(found)}"
        rows.append([case, str(len(found)), spread([f["queries"] for f in found], 0), *values, stalled])
    header = ["setting", "seeds", "queries", "kappa", "agreement", "transfer success", "runs that stalled"]
    return f"### X3: ablation on digits\n\n{table(header, rows)}"


def _owner(records: list[Record]) -> str:
    if not records:
        return "### X4: the owner's view, ART postprocessors and budgets\n\nNot run.\n"
    rows = []
    for case, found in _cases(records).items():
        budgets = sorted({b for f in found for b in f["qedg"]}, key=int)
        for budget in budgets:
            values = [f["qedg"][budget] for f in found if budget in f["qedg"]]
            rows.append(
                [case, budget, str(len(values))]
                + [spread([v[m] for v in values]) for m in ("kappa", "transfer_success")]
                + [spread([f["own_accuracy"] for f in found])]
            )
        for threshold in (0.5, 0.7, 0.9):
            reached = [
                min((int(b) for b in f["qedg"] if (f["qedg"][b]["kappa"] or 0) >= threshold), default=None)
                for f in found
            ]
            text = ", ".join("not reached" if n is None else str(n) for n in reached)
            rows.append([case, f"first budget with kappa {threshold}", str(len(found)), text, "", ""])
    header = ["defence", "budget", "seeds", "kappa", "transfer success", "own accuracy"]
    return (
        f"### X4: the owner's view, ART postprocessors and budgets\n\nHard labels.\n\n{table(header, rows)}"
    )


def _controls(records: list[Record]) -> str:
    if not records:
        return "### X5: negative controls\n\nNot run.\n"
    rows = [
        [case, str(len(found)), spread([f["kappa"] for f in found]), spread([f["agreement"] for f in found])]
        for case, found in _cases(records).items()
    ]
    return f"### X5: negative controls\n\n{table(['target', 'seeds', 'kappa', 'agreement'], rows)}"


def headlines(records: list[Record]) -> list[Headline]:
    """Kappa at the largest budget: beside attackers without data, and beside one who owns real data."""
    time = memory = "-"
    for r in records:
        if r["section"] == "speed" and r["shape"] == [3, 32, 32]:
            share = r["seconds"]["round"] / r["seconds"]["round, published"]
            time = f"a round {share:.2f} of the published loop's (3 x 32 x 32)"
    grown = [r for r in records if r["section"] == "growth"]
    if grown:
        most = max(grown, key=lambda r: r["budget"])
        memory = f"peak {most['peak_gib']:.2f} GiB in {most['queries']} queries"
    lines = []
    for section, data in (("curve", "digits"), ("cifar", "CIFAR-10-LT")):
        cells = _cells([r for r in records if r["section"] == section])
        budget = max((b for name, b in cells if name == "qedg"), key=int, default="")
        kappas = {
            name: {seed: f["kappa"] for seed, f in found.items() if f["kappa"] is not None}
            for (name, b), found in cells.items()
            if b == budget
        }
        own = kappas.pop("qedg", {})
        rivals = {ARMS[name]: found for name, found in kappas.items() if found}
        owner = {label: found for label, found in rivals.items() if label == ARMS["public"]}
        dataless = {label: found for label, found in rivals.items() if label != ARMS["public"]}
        for against, what in ((dataless, "no data"), (owner, "beside real data")):
            if own and against:
                task = f"{data}, a copy by {budget} queries, {what}"
                lines.append(Headline(task, "kappa", own, against, time, memory))
    return lines
