"""RESULTS.md's section on GATE."""

from collections import defaultdict
from statistics import mean, median
from typing import Any

from tests.benchmarks.headline import Headline
from tests.benchmarks.report import spread, table

TITLE = "GATE: techniques that keep diffusion features at the input's content"
Record = dict[str, Any]
BLENDS = ("blend, mean", "blend, learned")


def render(records: list[Record]) -> str:
    """The whole section."""
    sections: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        sections[record["section"]].append(record)
    parts = [_cost(sections["cost"]), _batches(sections["batches"]), _memory(sections["memory"])]
    groups: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for record in sections["quality"]:
        groups[record["data"], record["steps"]].append(record)
    parts += [_quality(data, steps, group) for (data, steps), group in sorted(groups.items())]
    if not groups:
        parts.append("### Does the verdict agree with a probe\n\nNot run.\n")
    return "\n".join(parts)


def _cost(records: list[Record]) -> str:
    text = "### Cost of a technique\n\n"
    if not records:
        return text + "Not run.\n"
    (record,) = records
    rows, late = [], []
    for name, ratio in record["ratio"].items():
        network, sd = record["networks"][name], record["spread"][name]
        off = network["ratio"] / network["flops"] - 1
        if abs(off) > 0.05:
            late.append(f"{name} by {100 * off:+.0f} %")
        rows.append(
            [
                name, str(record["forwards"][name]), f"{network['flops']:.3f}",
                _with(network["ratio"], network["spread"]), f"{100 * off:+.1f} %", _with(ratio, sd),
            ]
        )  # fmt: skip
    verdict = f"More than 5 % off: {'; '.join(late)}." if late else "All are within 5 % of the count."
    vae, words = record["encoders"]["vae"], record["encoders"]["text"]
    header = ["technique", "forwards", "FLOPs", "time in networks", "against FLOPs", "time of the call"]
    return (
        f"{text}Features of {record['batch']} images on a U-Net of SD 1.5's structure, 32 to 128 channels, "
        "over plain extraction: forwards of the U-Net; work and CPU time in U-Net and ControlNet, median "
        f"(sd) of {record['rounds']} interleaved rounds; and of the call, in which VAE, texts and edges "
        "come once however many the forwards, and a fused adapter is put into the weights and taken out "
        "again.\n\n"
        + table(header, rows)
        + f"\n{verdict} Three techniques with two prompts, one of them under two sets of adapters, encoded "
        f"images {vae} time(s) and text {words} time(s).\n"
    )


def _with(value: float, sd: float | None) -> str:
    return f"{value:.3f}" + ("" if sd is None else f" ({sd:.3f})")


def _batches(records: list[Record]) -> str:
    text = "### Batches, score and files\n\n"
    if not records:
        return text + "Not run.\n"
    (record,) = records
    times = {name: median(values) for name, values in record["seconds"].items()}
    rows = [[name, spread(values, 2)] for name, values in record["seconds"].items()]
    speed = times["gate, one by one"] / times["gate, batches of 8"]
    bar = "reached" if speed >= 1.5 else "missed"
    score = times["gate, batches of 8"] / times["content_shift_score"]
    files = times["six variants, files"] / times["six variants, blended at once"]
    return (
        f"{text}{record['images']} images of 64 x 64, wall seconds on one thread.\n\n"
        + table(["what", "seconds"], rows)
        + f"\nImages and seeds in one forward: {speed:.2f} times as fast as one by one (aim 1.5: {bar}). The "
        f"score is {score:.1f} times as fast as the guideline. Six variants through files take {files:.2f} "
        f"times what blending at once takes.{_techniques(times)}\n"
    )


def _techniques(times: dict[str, float]) -> str:
    """What techniques in one batch save; nothing where an older record does not have it."""
    name = "four prompts and one image, "
    if name + "together" not in times:
        return ""
    speed = times[name + "apart"] / times[name + "together"]
    bar = "reached" if speed >= 1.5 else "missed"
    return (
        f" Techniques in one batch, where images and seeds alone do not fill it: {speed:.2f} times as fast "
        f"as one technique after another (aim 1.5: {bar})."
    )


def _memory(records: list[Record]) -> str:
    text = "### Memory\n\n"
    if not records:
        return text + "Not run.\n"
    rows = [
        [str(r["images"]), str(r["batch_size"]), f"{r['peak_mib']:.0f}"]
        for r in sorted(records, key=lambda r: (r["batch_size"], r["images"]))
    ]
    return (
        f"{text}Growth of the peak resident size over one guideline with a ControlNet, MiB; images of "
        f"256 x 256.\n\n{table(['images', 'batch size', 'peak growth'], rows)}"
    )


def _quality(data: str, steps: int, records: list[Record]) -> str:
    places = list(records[0]["miou"])
    names = list(records[0]["gate"])
    rows = []
    for name in sorted(names, key=lambda n: -mean(r["gate"][n]["gain_mean"] for r in records)):
        controls = [r["gate"][name]["control_gain"] for r in records]
        known = [100 * c for c in controls if c is not None]
        verdicts = "; ".join(sorted({r["verdict"][name] for r in records}))
        gains = spread([100 * r["gate"][name]["gain_mean"] for r in records], 2)
        rows.append([name, gains, spread(known, 2), verdicts, *_changes(records, name, places)])
    rows += [[f"*{name}*", "", "", "", *_changes(records, name, places)] for name in BLENDS]
    plain = [spread([r["miou"][place]["basic"] for r in records]) for place in places]
    rows.append(["*plain feature, mIoU*", "", "", "", *plain])
    ranks = [spread([r["rank_correlation"][place] for r in records], 2) for place in places]
    rows.append(["**rank correlation with the gain**", "", "", "", *ranks])
    header = ["technique", "gain in mse, %", "its control's gain, %", "verdict(s)", *places]
    losses = ", ".join(f"{part} {spread([r['loss'][part] for r in records])}" for part in records[0]["loss"])
    return (
        f"### Does the verdict agree with a probe: {data}, {steps} updates, {len(records)} seed(s)\n\n"
        "Change of a ridge probe's mIoU against the plain feature, by activation@timestep, beside GATE's "
        f"gain on the same images. Last losses: {losses}.\n\n{table(header, rows)}\n"
        f"{_agreement(records, places)}\n"
    )


def _changes(records: list[Record], name: str, places: list[str]) -> list[str]:
    return [spread([r["miou"][place][name] - r["miou"][place]["basic"] for r in records]) for place in places]


def _agreement(records: list[Record], places: list[str]) -> str:
    """How often a verdict's direction is the probe's; verdicts of no evidence have none."""
    right = asked = 0
    for record in records:
        for name, words in record["verdict"].items():
            if words == "no evidence":
                continue
            for place in places:
                change = record["miou"][place][name] - record["miou"][place]["basic"]
                asked += 1
                right += (change > 0) == words.startswith("helps")
    if not asked:
        return "No verdict had a direction."
    return f"The verdict's direction was the probe's in {right} of {asked} cases (half is chance)."


def headlines(records: list[Record]) -> list[Headline]:
    """The technique that GATE ranks first, beside the plain feature and the mean of all."""
    lines = []
    cost = next((r for r in records if r["section"] == "cost"), None)
    time = f"{cost['ratio']['ControlNet']:.2f} of plain extraction with a ControlNet" if cost else "-"
    quality = [r for r in records if r["section"] == "quality"]
    for data in dict.fromkeys(r["data"] for r in quality):
        steps = max(r["steps"] for r in quality if r["data"] == data)
        group = [r for r in quality if (r["data"], r["steps"]) == (data, steps)]
        place = next(p for p in group[0]["miou"] if p.endswith("@50"))
        first = {r["seed"]: max(r["gate"], key=lambda n, r=r: r["gate"][n]["gain_mean"]) for r in group}
        ours = {r["seed"]: r["miou"][place][first[r["seed"]]] for r in group}
        rivals = {
            label: {r["seed"]: r["miou"][place][key] for r in group}
            for label, key in (("plain feature", "basic"), ("mean of variants", BLENDS[0]))
        }
        lines.append(Headline(f"{data}: the technique ranked first", "mIoU of a probe", ours, rivals, time))
    return lines
