"""RESULTS.md's section on diffusion features."""

from collections import defaultdict
from statistics import mean
from typing import Any

from tests.benchmarks.headline import Headline
from tests.benchmarks.report import spread, table

TITLE = "Diffusion features: any activation, by name"
Record = dict[str, Any]


def render(records: list[Record]) -> str:
    """The whole section."""
    sections: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        sections[record["section"]].append(record)
    parts = [
        _speed(sections["speed"]),
        _memory(sections["memory"]),
        _quality(
            sections["segmentation"], "miou", "Segmentation: mIoU of a ridge probe on one activation alone"
        ),
        _quality(
            sections["classification"], "accuracy", "CIFAR-10: accuracy of a ridge probe on 2 x 2 pooled maps"
        ),
    ]
    return "\n".join(parts)


def _speed(records: list[Record]) -> str:
    text = "### Time\n\n"
    if not records:
        return text + "Not run.\n"
    for record in records:
        flops, ratio = record["flops"], record["ratio"]
        rows = [
            [
                name,
                f"{value:.3f} ({record['spread'][name]:.3f})",
                f"{flops[name]:.3f}" if name in flops else "",
                f"{record['images_per_second'][name]:.1f}",
            ]
            for name, value in ratio.items()
        ]
        text += (
            f"U-Net of SD 1.5's structure, {record['width']} to {4 * record['width']} channels, "
            f"32 x 32 latent, batch 2; CPU time over the plain forward's, median (sd) of {record['rounds']} "
            "interleaved rounds. The rows of 8 draws start from a picture, one at a time.\n\n"
        )
        text += table(["arm", "time", "FLOP share", "images/s"], rows)
        verdicts = [
            f"{name} {ratio[name]:.3f} against {flops[name]:.3f}, "
            + ("reached" if ratio[name] <= flops[name] * 1.05 else "missed")
            for name in flops
            if name.endswith("early exit")
        ]
        text += f"\nAgainst this U-Net's FLOP share + 5 %: {'; '.join(verdicts)}. "
        cost = ratio["preset, no exit"] / ratio["pipeline, nothing but the output"] - 1
        bar = "reached" if cost < 0.02 else "missed"
        text += f"Hooks of the preset without exit: {100 * cost:+.1f} % (bar 2 %: {bar}). "
        after = ratio["plain forward, afterwards"] - 1
        text += f"A plain forward after all calls: {100 * after:+.1f} %. "
        ours, theirs = ratio["8 draws, up block 1, ours"], ratio["8 draws, up block 1, DIFT's"]
        text += f"Eight draws as DIFT takes them: ours {ours / theirs:.2f} times its procedure's time.\n\n"
    return text


def _memory(records: list[Record]) -> str:
    text = "### Memory\n\n"
    if not records:
        return text + "Not run.\n"
    rows = [
        [record["name"], spread(record["peak_mib"], 1), f"{record['features_mib']:.2f}"]
        for record in sorted(records, key=lambda record: mean(record["peak_mib"]))
    ]
    return (
        text
        + "Growth of the process's peak resident size over one call, each in a fresh process, MiB.\n\n"
        + table(["arm", "peak growth", "returned features"], rows)
    )


def _quality(records: list[Record], metric: str, title: str) -> str:
    text = f"### {title}\n\n"
    if not records:
        return text + "Not run.\n"
    groups: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for record in records:
        if record["state"] == "trained":
            groups[record.get("data", "CIFAR-10"), record["steps"]].append(record)
    for (data, steps), trained in groups.items():
        seeds = {record["seed"] for record in trained}
        fresh = [
            r for r in records
            if r["state"] == "untrained" and r.get("data", "CIFAR-10") == data and r["seed"] in seeds
        ]  # fmt: skip
        times = sorted({int(key.split("@")[1]) for key in trained[0][metric]})
        names = list(dict.fromkeys(key.split("@")[0] for key in trained[0][metric]))
        shown = 50 if 50 in times else times[0]
        names.sort(key=lambda name: -mean(r[metric][f"{name}@{shown}"] for r in trained))
        rows = [
            [
                name,
                *(spread(r[metric][f"{name}@{t}"] for r in trained) for t in times),
                spread(r[metric][f"{name}@{shown}"] for r in fresh),
            ]
            for name in names
        ]
        for label in trained[0]["baselines"]:
            values = spread(r["baselines"][label] for r in trained)
            rows.append([f"*{label}*", *("" for _ in times), values])
        text += f"{data}, U-Net trained for {steps} updates, {len(seeds)} seed(s); sorted by t = {shown}.\n\n"
        header = ["activation", *(f"t = {t}" for t in times), f"untrained, t = {shown} (or no network)"]
        text += table(header, rows) + "\n" + _claims(trained, metric, shown, times) + "\n"
    return text


def _claims(records: list[Record], metric: str, shown: int, times: list[int]) -> str:
    """The paper's properties, each as a paired comparison over seeds; what does not hold is said."""

    def value(name: str, t: int = shown) -> dict[int, float]:
        return {r["seed"]: r[metric][f"{name}@{t}"] for r in records}

    early, late, last = "up-level0-repeat1", "up-level2-repeat1", times[-1]
    claims = {
        "quality falls along the up stage (res-out, coarsest over finest)": (
            value(f"{early}-res-out"), value(f"{late}-res-out"),
        ),
        "up beats down at one resolution (vit-out)": (
            value("up-level1-repeat1-vit-out"), value("down-level1-repeat0-vit-out"),
        ),
        "increments are worse (res-out over res-increment, coarsest)": (
            value(f"{early}-res-out"), value(f"{early}-res-increment"),
        ),
        "cross-q beats self-q where it is clean": (
            value(f"{early}-vit-block0-cross-q"), value(f"{early}-vit-block0-self-q"),
        ),
        "self-k beats the noisy output at the finest level": (
            value(f"{late}-vit-block0-self-k"), value(f"{late}-vit-out"),
        ),
        f"t = {shown} beats t = {last} (finest res-out)": (
            value(f"{late}-res-out"), value(f"{late}-res-out", last),
        ),
    }  # fmt: skip
    lines = []
    for text, (first, second) in claims.items():
        verdict = Headline(text, metric, first, {"other": second}).verdict()
        seen = {"ahead": "Seen", "**behind**": "The contrary"}.get(verdict, verdict.capitalize())
        lines.append(f"- {seen}: {text}: {mean(first.values()):.3f} against {mean(second.values()):.3f}.")
    return "By a 95 % interval of the paired difference over seeds:\n\n" + "\n".join(lines) + "\n"


def headlines(records: list[Record]) -> list[Headline]:
    """One activation, named beforehand, beside pixels alone and the untrained network; early exit's cost."""
    chosen, time = "up-level1-repeat1-vit-out", "-"
    lines: list[Headline] = []
    for r in records:
        if r["section"] == "speed":
            ratio = r["ratio"]
            time = f"{ratio['preset, early exit']:.2f} of a plain forward (preset, early exit)"
    for section, metric in (("segmentation", "miou"), ("classification", "accuracy")):
        groups: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
        for r in records:
            if r["section"] == section:
                found = groups[r.get("data", "CIFAR-10")]
                who = "ours" if r["state"] == "trained" else "untrained network"
                if f"{chosen}@50" in r[metric]:
                    found[who][r["seed"]] = r[metric][f"{chosen}@50"]
                for label, value in r["baselines"].items():
                    found[label][r["seed"]] = value
        for data, figures in groups.items():
            own = figures.pop("ours", {})
            if own and figures:
                task = f"{data}, ridge probe on {chosen} of a small U-Net"
                name = {"miou": "mIoU"}.get(metric, metric)
                lines.append(Headline(task, name, own, dict(figures), time))
    return lines
