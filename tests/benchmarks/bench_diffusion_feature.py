"""Measure diffusion features: early exit, hooks, maps, DIFT's procedure, memory; and what activations know.

    python tests/benchmarks/bench_diffusion_feature.py [--only speed,memory,segmentation,classification]
        [--quick] [--full] [--out FILE]

Speed and memory use a U-Net of Stable Diffusion 1.5's structure with 32 to 128 channels (``--full`` adds 64
to 256), one thread, all arms interleaved in one process; ratios are medians over rounds. Quality trains a
small U-Net on the spot (CamVid and CIFAR under GRAFTKIT_DATA, otherwise generated shapes), freezes it, and
probes every activation at every timestep on images that neither the U-Net nor the probe was trained on.
Nothing is selected: every row is printed. Finished records are skipped. ``--full`` trains eight times as
long.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from graftkit.diffusers import DiffusionFeaturePipeline, rank_activations
from graftkit.methods.aucseg.data import load_camvid
from graftkit.methods.diffusion_feature import RidgeProbe
from graftkit.methods.diffusion_feature.data import pixel_baselines, shape_scenes
from graftkit.methods.diffusion_feature.ranking import score_maps
from graftkit.methods.diffusion_feature.training import class_tokens, train_denoiser
from graftkit.methods.sse_sam.data import load_cifar10_lt
from tests.benchmarks.published_diffusion_feature import StoreEverything, dift
from tests.benchmarks.results_io import Records, environment, forget_peak, resident

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SEEDS = 3


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sections = {
        "speed": speed, "memory": memory, "segmentation": segmentation, "classification": classification,
    }  # fmt: skip
    parser.add_argument("--only", default=",".join(sections), help="sections, separated by commas")
    parser.add_argument("--quick", action="store_true", help="a smoke test: the figures mean nothing")
    parser.add_argument("--full", action="store_true", help="a wider U-Net, and longer training")
    parser.add_argument("--out", type=Path, default=None, help="JSON file instead of the results folder's")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    records = Records("diffusion_feature", options.out)
    where = environment(("torch", "diffusers"))
    for name in options.only.split(","):
        sections[name](records, where, options.quick, options.full)


# -- speed ------------------------------------------------------------------------------------------


def mid_size(width: int = 32) -> Any:
    """SD 1.5's structure: the names and presets are those of the real model."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(
            sample_size=32, block_out_channels=(width, 2 * width, 4 * width, 4 * width), norm_num_groups=8,
            cross_attention_dim=64, attention_head_dim=4,
        )  # fmt: skip
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 8, 8, 8), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
    scheduler = diffusers.DDIMScheduler(**SCHEDULE)
    return DiffusionFeaturePipeline(unet=unet.eval(), vae=vae.eval(), scheduler=scheduler)


def arms(pipe: Any, batch: int) -> dict[str, Callable[[], Any]]:
    """Everything that is compared, on the same latents, noise and text."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(batch, 4, 32, 32, generator=generator)
    noise = torch.randn(batch, 4, 32, 32, generator=generator)
    text = torch.randn(1, 77, 64, generator=generator)
    level = float(pipe.scheduler.alphas_cumprod[50])
    noisy, words = level**0.5 * latents + (1 - level) ** 0.5 * noise, text.expand(batch, -1, -1)
    call = {"latents": latents, "noise": noise, "prompt_embeds": text}
    unet, self_map = pipe.unet, "up-level3-repeat0-vit-block0-self-map"

    @torch.no_grad()
    def plain() -> Any:
        return unet(noisy, torch.full((batch,), 50), words, return_dict=False)[0]

    def explicit(keep: bool) -> Callable[[], Any]:
        def run() -> Any:
            with StoreEverything(unet, keep=keep) as store:
                return plain(), store.maps

        return run

    everything = pipe.activation_names()
    image = torch.rand(1, 3, 256, 256, generator=generator)
    return {
        "plain forward": plain,
        "pipeline, nothing but the output": lambda: pipe(**call, features="unet-out", early_exit=False),
        "preset, no exit": lambda: pipe(**call, early_exit=False),
        "preset, early exit": lambda: pipe(**call),
        "up block 1, early exit": lambda: pipe(**call, features="up-level1-upsampler-out"),
        "all names but maps": lambda: pipe(**call, features=everything),
        "one 1024 x 1024 self map": lambda: pipe(**call, features=self_map, early_exit=False),
        "every up cross map": lambda: pipe(**call, features="up-*-cross-map", early_exit=False),
        "explicit softmax everywhere": explicit(False),
        "explicit softmax, maps kept": explicit(True),
        "8 draws, up block 1, ours": lambda: pipe(
            image, prompt_embeds=text, features="up-level1-upsampler-out", timestep=261, num_noise=8
        ),
        "8 draws, up block 1, DIFT's": lambda: dift(
            pipe, image, text, block=1, t=261, draws=8, generator=torch.Generator().manual_seed(0)
        ),
    }


def shares(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """FLOPs of an arm as a share of the plain forward's, by torch's counter."""
    found = {}
    for name in ("plain forward", "preset, early exit", "up block 1, early exit"):
        counter = FlopCounterMode(display=False)
        with counter:
            runs[name]()
        found[name] = counter.get_total_flops()
    return {name: flops / found["plain forward"] for name, flops in found.items()}


def speed(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:
    rounds = 2 if quick else 11
    for width in (32, *((64,) if full else ())):
        key = f"speed/{width}"
        if records.has(key):
            continue
        pipe, batch = mid_size(width), 2
        runs = arms(pipe, batch)
        for run in runs.values():
            run()
        # Hooks are removed: a forward after all of the above costs what it cost before.
        runs["plain forward, afterwards"] = runs["plain forward"]
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                start = time.process_time()
                run()
                times[name].append(time.process_time() - start)
        base = times["plain forward"]
        ratio = {n: statistics.median(a / b for a, b in zip(t, base, strict=True)) for n, t in times.items()}
        spread = {
            n: statistics.stdev([a / b for a, b in zip(t, base, strict=True)]) for n, t in times.items()
        }
        images = {n: (1 if "draws" in n else batch) / statistics.median(t) for n, t in times.items()}
        records.add(
            key,
            where,
            section="speed",
            width=width,
            rounds=rounds,
            ratio=ratio,
            spread=spread,
            images_per_second=images,
            flops=shares(runs),
        )


# -- memory ------------------------------------------------------------------------------------------


def _peak(name: str, width: int, queue: Any) -> None:
    torch.set_num_threads(1)
    pipe = mid_size(width)
    runs = arms(pipe, 2)
    with torch.no_grad():
        pipe.unet(torch.zeros(1, 4, 8, 8), 50, torch.zeros(1, 2, 64))  # libraries have been loaded
    # What importing took at its highest would hide the call's own peak.
    before = forget_peak()
    out = runs[name]()
    kept = sum(t.numel() * t.element_size() for t in getattr(out, "features", {}).values())
    queue.put(((resident("VmHWM") - before) // 1024, kept))


def memory(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:
    """Growth of the peak resident size over one call, each in a fresh process."""
    del full
    width = 32
    for name in arms(mid_size(width), 2):
        key = f"memory/{width}/{name}"
        if records.has(key) or (quick and name not in ("plain forward", "preset, early exit")):
            continue
        context = multiprocessing.get_context("spawn")
        peaks = []
        for _ in range(1 if quick else 2):
            queue = context.Queue()
            process = context.Process(target=_peak, args=(name, width, queue))
            process.start()
            peaks.append(queue.get(timeout=300))
            process.join()
        records.add(
            key, where, section="memory", name=name, width=width,
            peak_mib=[peak / 1024 for peak, _ in peaks], features_mib=peaks[0][1] / 2**20,
        )  # fmt: skip


# -- quality ------------------------------------------------------------------------------------------


def small(channels: int, width: int, size: tuple[int, int], seed: int) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return diffusers.UNet2DConditionModel(
            sample_size=size, in_channels=channels, out_channels=channels, block_out_channels=(32, 48, 64),
            down_block_types=("CrossAttnDownBlock2D",) * 3, up_block_types=("CrossAttnUpBlock2D",) * 3,
            cross_attention_dim=width, attention_head_dim=4, norm_num_groups=8, layers_per_block=1,
        ).eval()  # fmt: skip


NAMES = [
    *(f"down-level{i}-repeat0-{kind}" for i in range(3) for kind in ("res-out", "vit-out")),
    "mid-vit-out",
    *(
        f"up-level{i}-repeat1-{kind}"
        for i in range(3)
        for kind in (
            "res-increment",
            "res-out",
            "vit-block0-self-q",
            "vit-block0-self-k",
            "vit-block0-self-v",
            "vit-block0-cross-q",
            "vit-block0-ffn-inner",
            "vit-block0-out",
            "vit-out",
        )
    ),
    "unet-out",
]
TIMESTEPS = (0, 50, 200, 700)


def segmentation(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:
    root = os.environ.get("GRAFTKIT_DATA")
    archive = Path(root or "nowhere") / "camvid" / "camvid_240x180.zip"
    sets = {"shapes": 4, **({"CamVid": 11} if archive.exists() else {})}
    steps = 5 if quick else (2400 if full else 300)
    for name, classes in sets.items():
        for seed in range(1 if quick else SEEDS):
            for state, updates in (("trained", steps), ("untrained", 0)):
                key = f"segmentation/{name}/{state}/{updates}/{seed}"
                if records.has(key):
                    continue
                images, labels = camvid(archive, seed) if name == "CamVid" else shapes(seed)
                latents = functional.pixel_unshuffle(2 * images - 1, 2)
                test, start = 36, time.process_time()
                unet = small(latents.shape[1], classes, (24, 32), seed)
                loss = None
                if updates:
                    losses = train_denoiser(
                        unet, latents[:-test], class_tokens(labels, classes)[:-test], steps=updates,
                        random_state=seed,
                    )  # fmt: skip
                    loss = statistics.mean(losses[-50:])
                trained = time.process_time() - start
                pipe = DiffusionFeaturePipeline(unet=unet, scheduler=diffusers.DDIMScheduler(**SCHEDULE))
                pipe.set_progress_bar_config(disable=True)
                masks = list(labels[-test:].numpy())
                splits = [(list(range(24)), list(range(24, 36)))]
                rows = rank_activations(
                    pipe,
                    None,
                    masks,
                    NAMES,
                    TIMESTEPS[:2] if quick else TIMESTEPS,
                    cv=splits,
                    batch_size=12,
                    random_state=seed,
                    latents=latents[-test:],
                    prompt_embeds=torch.zeros(1, classes, classes),
                )
                base = {
                    label: score_maps(maps, masks, splits, RidgeProbe(), random_state=seed)[0]
                    for label, maps in pixel_baselines(images[-test:]).items()
                }
                records.add(
                    key,
                    where,
                    section="segmentation",
                    data=name,
                    state=state,
                    steps=updates,
                    seed=seed,
                    loss=loss,
                    seconds=trained,
                    baselines=base,
                    miou={f"{row['name']}@{row['timestep']}": row["miou"] for row in rows},
                    channels={row["name"]: row["channels"] for row in rows},
                )


def camvid(archive: Path, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    pictures, labels = load_camvid(archive, "train")
    images = functional.interpolate(pictures.float() / 255, (48, 64), mode="area")
    small_labels = functional.interpolate(labels[:, None].float(), (48, 64), mode="nearest-exact")[
        :, 0
    ].long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order], small_labels[order]


def shapes(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = shape_scenes(336, random_state=seed)
    return torch.from_numpy(images), torch.from_numpy(labels)


def classification(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:
    """CIFAR-10, half of its test set: 3000 images train the U-Net, 1000 fit the probe, 1000 test it."""
    root = os.environ.get("GRAFTKIT_DATA")
    if not root:
        print("classification: skipped, GRAFTKIT_DATA is not set")
        return
    _, (x, y) = load_cifar10_lt(Path(root) / "cifar10_lt" / "cifar10_lt100.zip", share=0.01, test_share=0.5)
    steps = 5 if quick else (2400 if full else 300)
    for seed in range(1 if quick else SEEDS):
        for state, updates in (("trained", steps), ("untrained", 0)):
            key = f"classification/{state}/{updates}/{seed}"
            if records.has(key):
                continue
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
            images, labels = x[order].clamp(-2.5, 2.5) / 2.5, y[order]
            latents = functional.pixel_unshuffle(images, 2)
            unet = small(latents.shape[1], 4, (16, 16), seed)
            if updates:
                train_denoiser(
                    unet,
                    latents[:3000],
                    torch.zeros(3000, 1, 4),
                    steps=updates,
                    batch_size=16,
                    random_state=seed,
                )
            pipe = DiffusionFeaturePipeline(unet=unet, scheduler=diffusers.DDIMScheduler(**SCHEDULE))
            pipe.set_progress_bar_config(disable=True)
            probed = latents[3000:5000][: 200 if quick else 2000]
            half, target = len(probed) // 2, labels[3000:5000].numpy()
            accuracy = {}
            for t in TIMESTEPS[:2] if quick else TIMESTEPS:
                generators = [torch.Generator().manual_seed(seed * 10_000 + i) for i in range(len(probed))]
                out = pipe(
                    latents=probed,
                    prompt_embeds=torch.zeros(1, 1, 4),
                    features=NAMES,
                    timestep=t,
                    generator=generators,
                    batch_size=100,
                )
                for name, maps in out.features.items():
                    table = functional.adaptive_avg_pool2d(maps, 2).flatten(1).numpy()
                    accuracy[f"{name}@{t}"] = _accuracy(table, target, half)
            pixels = functional.adaptive_avg_pool2d(images[3000 : 3000 + len(probed)], 8).flatten(1).numpy()
            records.add(
                key,
                where,
                section="classification",
                state=state,
                steps=updates,
                seed=seed,
                accuracy=accuracy,
                baselines={"pixels 8 x 8": _accuracy(pixels, target, half)},
            )


def _accuracy(table: np.ndarray, target: np.ndarray, half: int) -> float:
    probe = RidgeProbe().fit(table[:half], target[:half])
    return float((probe.predict(table[half:]) == target[half : len(table)]).mean())


if __name__ == "__main__":
    main()
