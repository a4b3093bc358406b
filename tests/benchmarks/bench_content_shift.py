"""Measure GATE: what techniques cost, what batches save, and whether the verdict agrees with a probe.

    python tests/benchmarks/bench_content_shift.py [--only cost,batches,memory,quality] [--quick] [--full]
        [--out FILE]

Cost, batches and memory use a U-Net of Stable Diffusion 1.5's structure with 32 to 128 channels and random
weights, one thread, arms interleaved in one process; ratios are medians over rounds. Quality trains a small
U-Net, a ControlNet on edges and a LoRA on the spot, once a seed, on generated scenes and, under
GRAFTKIT_DATA, on CamVid; a technique's gain and its change of the probe's mIoU come from the same test
images, which no network was trained on (the LoRA saw the probe's training images, without labels). Nothing is
selected: every technique is a row. Finished records are skipped. ``--full`` trains eight times as long.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from scipy.stats import spearmanr
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from graftkit.diffusers import DiffusionFeaturePipeline, FeatureAmalgamation, Technique
from graftkit.diffusers.small_models import small_pipeline, train_controlnet, train_lora, train_pipeline
from graftkit.methods.aucseg.data import CAMVID_CLASSES, load_camvid
from graftkit.methods.content_shift import fit_amalgamation
from graftkit.methods.content_shift.data import label_prompts, object_scenes, scene_words
from graftkit.methods.diffusion_feature import RidgeProbe
from graftkit.methods.diffusion_feature.ranking import score_maps
from tests.benchmarks.results_io import Records, environment, forget_peak, resident

SEEDS = 3
EDGES = "input-sobel"
NAMES = ["up-level0-repeat1-res-out", "up-level1-repeat1-res-out"]
TIMESTEPS = (50, 300)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sections = {"cost": cost, "batches": batches, "memory": memory, "quality": quality}
    parser.add_argument("--only", default=",".join(sections), help="sections, separated by commas")
    parser.add_argument("--quick", action="store_true", help="a smoke test: the figures mean nothing")
    parser.add_argument("--full", action="store_true", help="longer training")
    parser.add_argument("--out", type=Path, default=None, help="JSON file instead of the results folder's")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    records = Records("content_shift", options.out)
    where = environment(("torch", "diffusers", "peft"))
    for name in options.only.split(","):
        sections[name](records, where, options.quick, options.full)


# -- cost -------------------------------------------------------------------------------------------


def mid_size() -> Any:
    """SD 1.5's structure with a ControlNet and an adapter "lora", random weights."""
    import peft

    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(
            sample_size=32, block_out_channels=(32, 64, 128, 128), norm_num_groups=8, cross_attention_dim=24,
            attention_head_dim=4,
        )  # fmt: skip
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 8, 8, 8), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        net = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 16, 32))
        unet.add_adapter(peft.LoraConfig(r=8, lora_alpha=8, target_modules=["to_q", "to_k", "to_v"]), "lora")
    words = small_pipeline(("horse", "street"))
    pipe = DiffusionFeaturePipeline(
        unet=unet.eval(), vae=vae.eval(), controlnet=net.eval(), tokenizer=words.tokenizer,
        text_encoder=words.text_encoder, scheduler=words.scheduler, source_class="StableDiffusionPipeline",
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def arms(pipe: Any, batch: int) -> dict[str, tuple[Callable[[], Any], float | None]]:
    """Extraction under each technique, and the forwards that it should cost (None: FLOPs decide)."""
    images = torch.rand(batch, 3, 256, 256, generator=torch.Generator().manual_seed(0))

    def run(**options: Any) -> Callable[[], Any]:
        technique = Technique("t", **options)
        return lambda: pipe.extract_variants(images, technique, "unet-out", early_exit=False, timestep=50)

    return {
        "plain": (run(), 1.0),
        "prompt": (run(prompt="horse street"), 1.0),
        "LoRA, fused": (run(adapters="lora", fuse=True), 1.0),
        "LoRA, not fused": (run(adapters="lora"), None),
        "ControlNet": (run(controlnet_image=EDGES), None),
        "ControlNet, 60 to 50": (run(controlnet_image=EDGES, denoise_from=60), None),
    }


def cost(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:
    del full
    if records.has("cost"):
        return
    pipe, batch, rounds = mid_size(), 2, 1 if quick else 7
    runs = arms(pipe, batch)
    counted = dict.fromkeys(runs, 0)
    flops, networks, times = {}, {}, {name: [] for name in runs}
    inside = {name: [] for name in runs}
    for name, (run, _) in runs.items():
        seen: list[int] = []
        handle = pipe.unet.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        with FlopCounterMode(display=False) as counter:
            run()
        handle.remove()
        counted[name], flops[name] = len(seen), counter.get_total_flops()
        found = counter.get_flop_counts()
        networks[name] = sum(
            sum(found.get(type(n).__name__, {}).values()) for n in (pipe.unet, pipe.controlnet)
        )
    encoders = {"vae": 0, "text": 0}
    handles = [
        pipe.vae.encoder.register_forward_hook(lambda *_: encoders.update(vae=encoders["vae"] + 1)),
        pipe.text_encoder.register_forward_hook(lambda *_: encoders.update(text=encoders["text"] + 1)),
    ]
    several = [
        Technique("a"),
        Technique("b", prompt="horse"),
        Technique("c", prompt="horse", adapters="lora"),
    ]
    pipe.extract_variants(torch.zeros(batch, 3, 64, 64), several, "unet-out")
    for handle in handles:
        handle.remove()
    for _ in range(rounds):
        for name, (run, _) in runs.items():
            with _within(pipe.unet, pipe.controlnet) as spent:
                times[name].append(_seconds(run))
            inside[name].append(sum(spent))
    base = times["plain"]
    within = {n: [a / b for a, b in zip(t, inside["plain"], strict=True)] for n, t in inside.items()}
    ratios = {n: [a / b for a, b in zip(t, base, strict=True)] for n, t in times.items()}
    records.add(
        "cost", where, section="cost", rounds=rounds, batch=batch, forwards=counted, encoders=encoders,
        flops={name: value / flops["plain"] for name, value in flops.items()},
        ratio={name: statistics.median(r) for name, r in ratios.items()},
        spread={name: statistics.stdev(r) if len(r) > 1 else None for name, r in ratios.items()},
        networks={
            name: {
                "flops": networks[name] / networks["plain"], "ratio": statistics.median(within[name]),
                "spread": statistics.stdev(within[name]) if rounds > 1 else None,
            }
            for name in networks
        },
    )  # fmt: skip


@contextmanager
def _within(*networks: torch.nn.Module) -> Iterator[list[float]]:
    """CPU seconds of every forward of the networks, of those that end early as well."""
    started, spent = [], []
    handles = []
    for network in networks:
        handles += [
            network.register_forward_pre_hook(lambda *_: started.append(time.process_time())),
            network.register_forward_hook(
                lambda *_: spent.append(time.process_time() - started.pop()), always_call=True
            ),
        ]
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()


def _seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def batches(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:
    """Images, seeds and techniques in one forward or apart; score against guideline; files against none."""
    del full
    if records.has("batches"):
        return
    pipe, count = mid_size(), 2 if quick else 4
    images = torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    techniques = [Technique("prompt", prompt="horse"), Technique("edges", controlnet_image=EDGES)]
    gate = {"num_inference_steps": 3 if quick else 10, "seeds": (0, 1), "negative_controls": False}
    prompts = [Technique(word, prompt=word) for word in ("horse", "street", "horse street", "street horse")]
    few = {**gate, "seeds": (0,), "batch_size": 8}
    runs = {
        "four prompts and one image, together": lambda: pipe.gate(images[:1], prompts, **few),
        "four prompts and one image, apart": lambda: pipe.gate(
            images[:1], [replace(one, apply=lambda _: nullcontext()) for one in prompts], **few
        ),
        "gate, batches of 8": lambda: pipe.gate(images, techniques, batch_size=8, **gate),
        "gate, one by one": lambda: pipe.gate(images, techniques, batch_size=1, **gate),
        "content_shift_score": lambda: pipe.content_shift_score(images, techniques, "up-level1-*-res-out"),
        "six variants, files": lambda: _six(pipe, images, files=True),
        "six variants, blended at once": lambda: _six(pipe, images, files=False),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(1 if quick else 5):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    records.add("batches", where, section="batches", images=count, seconds=times)


def _six(pipe: Any, images: torch.Tensor, *, files: bool) -> torch.Tensor:
    """The official route writes every feature of every variant to disk and reads them for the blend."""
    variants = [
        Technique(f"{k}", prompt="horse", controlnet_image=EDGES if k % 2 else None) for k in range(6)
    ]
    name = "up-level2-repeat2-res-out"
    blend = FeatureAmalgamation(64, 6, kind="mean")
    with tempfile.TemporaryDirectory() as folder:
        maps = []
        for technique in variants:
            found = pipe.extract_variants(images, technique, [name])[technique.name].features[name]
            if files:
                torch.save(found, Path(folder) / f"{technique.name}.pt")
            else:
                maps.append(found)
        if files:
            maps = [torch.load(Path(folder) / f"{t.name}.pt", weights_only=True) for t in variants]
        fused: torch.Tensor = blend(torch.stack(maps, 1))[0]
    return fused


# -- memory ------------------------------------------------------------------------------------------


def _peak(count: int, size: int, queue: Any) -> None:
    torch.set_num_threads(1)
    pipe = mid_size()
    techniques = [Technique("edges", controlnet_image=EDGES)]
    options = {"num_inference_steps": 2, "strength": 1.0, "seeds": (0,), "negative_controls": False}
    pipe.gate(torch.zeros(1, 3, 64, 64), techniques, batch_size=1, **options)
    before = forget_peak()
    pipe.gate(torch.zeros(count, 3, 256, 256), techniques, batch_size=size, **options)
    queue.put((resident("VmHWM") - before) // 1024)


def memory(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:
    """Growth of the peak resident size over one guideline, each in a fresh process."""
    del full
    for count, size in ((2, 1),) if quick else ((2, 2), (8, 2), (8, 4), (8, 8)):
        key = f"memory/{count}/{size}"
        if records.has(key):
            continue
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        process = context.Process(target=_peak, args=(count, size, queue))
        process.start()
        peak = queue.get(timeout=300)
        process.join()
        records.add(key, where, section="memory", images=count, batch_size=size, peak_mib=peak / 1024)


# -- quality ------------------------------------------------------------------------------------------


def quality(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:
    root = os.environ.get("GRAFTKIT_DATA")
    archive = Path(root or "nowhere") / "camvid" / "camvid_240x180.zip"
    steps = 4 if quick else (1600 if full else 200)
    for name in ("scenes", *(("CamVid",) if archive.exists() and not quick else ())):
        for seed in range(1 if quick else SEEDS):
            key = f"quality/{name}/{steps}/{seed}"
            if not records.has(key):
                found = _quality(name, archive, steps, seed, quick)
                records.add(key, where, section="quality", data=name, steps=steps, seed=seed, **found)


def _quality(name: str, archive: Path, steps: int, seed: int, quick: bool) -> dict[str, Any]:
    test, half = (8, 4) if quick else (48, 24)
    images, labels, prompts, words = _load(name, archive, seed)
    pipe = small_pipeline(words, channels=(32, 48), seed=seed)
    losses = {
        "U-Net": train_pipeline(pipe, images[:-test], prompts[:-test], steps=steps, seed=seed),
        "ControlNet": train_controlnet(pipe, images[:-test], prompts[:-test], steps=steps, seed=seed),
    }
    images, labels, prompts = images[-test:], labels[-test:], prompts[-test:]
    losses["LoRA"] = train_lora(
        pipe, images[:half], prompts[:half], "own", steps=max(steps // 4, 1), seed=seed
    )
    report = pipe.gate(
        images[half:], _techniques(prompts[half:]), num_inference_steps=4 if quick else 10,
        seeds=(0,) if quick else (0, 1), batch_size=12,
    )  # fmt: skip
    gains = {row["technique"]: row for row in report.table if row["metric"] == "mse"}
    masks, splits = list(labels.numpy()), [(list(range(half)), list(range(half, test)))]
    asked = [Technique("basic"), *_techniques(prompts)]
    miou: dict[str, dict[str, float]] = {}
    for t in TIMESTEPS:
        found = pipe.extract_variants(images, asked, NAMES, timestep=t, batch_size=12)
        for layer in NAMES:
            maps = {name: out.features[layer] for name, out in found.items()}
            maps.update(_blends(maps, labels, half, seed))
            miou[f"{layer}@{t}"] = {
                label: score_maps(list(one.numpy()), masks, splits, RidgeProbe(), random_state=seed)[0]
                for label, one in maps.items()
            }
    scores = pipe.content_shift_score(images[half:], _techniques(prompts[half:]), NAMES)
    agreement = {}
    for place, values in miou.items():
        change = {name: values[name] - values["basic"] for name in gains}
        rank = spearmanr([gains[n]["gain_mean"] for n in gains], [change[n] for n in gains]).statistic
        agreement[place] = float(rank)
    return {
        "loss": {name: statistics.mean(values[-20:]) for name, values in losses.items()},
        "gate": gains, "verdict": report.verdict, "miou": miou, "rank_correlation": agreement,
        "score": {n: {k: float(v.mean()) for k, v in one.items()} for n, one in scores.items()},
    }  # fmt: skip


def _techniques(prompts: list[str]) -> list[Technique]:
    return [
        Technique("prompt", prompt=prompts),
        Technique("wrong prompt", prompt=[*prompts[1:], prompts[0]]),
        Technique("edges", controlnet_image=EDGES),
        Technique("edges at half scale", controlnet_image=EDGES, controlnet_conditioning_scale=0.5),
        Technique("no edges", controlnet_image=torch.zeros(1, 3, 48, 64)),
        Technique("prompt, edges", prompt=prompts, controlnet_image=EDGES),
        Technique("LoRA", adapters="own"),
        Technique("LoRA, edges", adapters="own", controlnet_image=EDGES),
    ]


def _blends(
    maps: dict[str, torch.Tensor], labels: torch.Tensor, half: int, seed: int
) -> dict[str, torch.Tensor]:
    """Prompt, edges and LoRA beside the plain feature, blended; assigners see the training half alone."""
    stacked = torch.stack([maps[name] for name in ("basic", "prompt", "edges", "LoRA")], 1)
    channels, count = stacked.shape[2], stacked.shape[1]
    mean = FeatureAmalgamation(channels, count, kind="mean")(stacked)[0]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        learned = FeatureAmalgamation(channels, count)
    fit_amalgamation(learned, stacked[:half], labels[:half], steps=60, random_state=seed)
    with torch.no_grad():
        return {"blend, mean": mean, "blend, learned": learned(stacked)[0]}


def _load(
    name: str, archive: Path, seed: int
) -> tuple[torch.Tensor, torch.Tensor, list[str], tuple[str, ...]]:
    if name == "scenes":
        scenes, labels, prompts = object_scenes(300, random_state=seed)
        return torch.from_numpy(scenes), torch.from_numpy(labels), prompts, scene_words()
    pictures, masks = load_camvid(archive, "train")
    images = functional.interpolate(pictures.float() / 255, (48, 64), mode="area")
    small = functional.interpolate(masks[:, None].float(), (48, 64), mode="nearest-exact")[:, 0].long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order], small[order], label_prompts(small[order], CAMVID_CLASSES), CAMVID_CLASSES


if __name__ == "__main__":
    main()
