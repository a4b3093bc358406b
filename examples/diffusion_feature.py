"""Compare activations of a diffusion model: which of them know what a pixel is.

No weights are downloaded: a small U-Net is trained for seconds on CamVid (with ``--data`` or
``GRAFTKIT_DATA``) or on generated shapes, then frozen. You will see a table of a linear probe's mIoU beside
colour, position and an untrained network, and a figure with principal components of the features. A network
trained for seconds is no Stable Diffusion: this shows how to compare, not what pretrained weights would give.

    python examples/diffusion_feature.py [--data DIR] [--seed N] [--quick] [--out DIR]
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

import graftkit.methods.diffusion_feature.data as scenes
from graftkit.diffusers import DiffusionFeaturePipeline, rank_activations
from graftkit.methods.aucseg.data import CAMVID_CLASSES, load_camvid
from graftkit.methods.diffusion_feature import RidgeProbe
from graftkit.methods.diffusion_feature.ranking import score_maps
from graftkit.methods.diffusion_feature.training import class_tokens, train_denoiser

NAMES = [
    "down-level1-repeat0-res-out", "up-level0-repeat1-res-out", "up-level0-repeat1-vit-block0-cross-q",
    "up-level0-repeat1-vit-out", "up-level1-repeat1-res-out", "up-level1-repeat1-vit-out", "unet-out",
]  # fmt: skip
TEST = 36  # the last images are probed, the others train the denoiser


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the example and return the row of the tour's table."""
    form, root = argparse.RawDescriptionHelpFormatter, os.getenv("GRAFTKIT_DATA") or None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--data", type=Path, default=root, help="folder of real data")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, noise and splits")
    parser.add_argument("--quick", action="store_true", help="fewer updates, under a minute")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the figure")
    options = parser.parse_args(argv)
    start, seed = time.perf_counter(), options.seed
    name, classes, images, labels = load(options.data, seed)
    latents = F.pixel_unshuffle(2 * images - 1, 4)  # stands in for a VAE
    tokens = class_tokens(labels, len(classes))
    pipes = {}
    for kind, steps in (("untrained", 0), ("trained", 40 if options.quick else 120)):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            unet = build(latents.shape[1], len(classes)).eval()
        if steps:
            some = latents[:-TEST], tokens[:-TEST]
            train_denoiser(unet, *some, steps=steps, random_state=seed, verbose=1)
        schedule = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        # Of an installed pipeline this would be DiffusionFeaturePipeline.from_pipe(pipe).
        pipes[kind] = DiffusionFeaturePipeline(unet=unet, scheduler=schedule)
        pipes[kind].set_progress_bar_config(disable=True)
    splits = [(list(range(24)), list(range(24, 36))), (list(range(12, 36)), list(range(12)))]
    images, labels, latents = images[-TEST:], labels[-TEST:], latents[-TEST:]
    masks, null = list(labels.numpy()), torch.zeros(1, len(classes), len(classes))
    call = {"latents": latents, "prompt_embeds": null, "cv": splits, "batch_size": 12, "random_state": seed}
    ranked = {kind: rank_activations(pipe, None, masks, NAMES, **call) for kind, pipe in pipes.items()}
    untrained = {row["name"]: row["miou"] for row in ranked["untrained"]}
    rows = {row["name"]: (row["miou"], row["sd"], untrained[row["name"]]) for row in ranked["trained"]}
    for label, maps in scenes.pixel_baselines(images).items():
        scores = score_maps(maps, masks, splits, RidgeProbe(), random_state=seed)
        rows[label] = (float(np.mean(scores)), float(np.std(scores, ddof=1)), None)
    report(name, rows, pipes["trained"].activation_info(NAMES, *latents.shape[-2:]))
    options.out.mkdir(parents=True, exist_ok=True)
    figure = options.out / "diffusion_feature.png"
    maps = pipes["trained"](latents=latents[:3], prompt_embeds=null, features=NAMES[:-1]).features
    draw(images[:3], labels[:3], maps).savefig(figure, dpi=120)
    best = max((row for row in rows if row not in NAMES), key=lambda row: rows[row][0])
    ours = ranked["trained"][0]
    return {
        "method": "Diffusion features", "host": "diffusers", "data": name, "metric": "mIoU of a linear probe",
        "baseline": f"{best} {rows[best][0]:.3f}", "ours": f"{ours['miou']:.3f}",
        "seconds": round(time.perf_counter() - start, 1), "figure": str(figure),
        "figures": {row: values[0] for row, values in rows.items()}, "untrained": untrained,
    }  # fmt: skip


def load(data: Any, seed: int) -> tuple[str, tuple[str, ...], torch.Tensor, torch.Tensor]:
    archive = Path(data) / "camvid" / "camvid_240x180.zip" if data else None
    if archive is not None and archive.exists():
        pictures, labels = load_camvid(archive, "train", limit=240)
        images = F.interpolate(pictures.float() / 255, (48, 64), mode="area")
        small = F.interpolate(labels[:, None].float(), (48, 64), mode="nearest-exact")[:, 0].long()
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        return "CamVid 64x48", CAMVID_CLASSES, images[order], small[order]
    images, labels = scenes.shape_scenes(240, random_state=seed)
    return "generated shapes", scenes.SHAPE_CLASSES, torch.from_numpy(images), torch.from_numpy(labels)


def build(channels: int, width: int) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=(12, 16), in_channels=channels, out_channels=channels, block_out_channels=(32, 48),
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=width, attention_head_dim=4, norm_num_groups=8, layers_per_block=1,
    )  # fmt: skip


def report(name: str, rows: dict[str, Any], info: dict[str, Any]) -> None:
    table = Table("activation", "channels", "size", "mIoU", "sd", "untrained", title=f"{name}: linear probe")
    for label, (miou, sd, other) in rows.items():
        channels, size = (str(info[label][key]) if label in info else "" for key in ("channels", "size"))
        table.add_row(label, channels, size, f"{miou:.3f}", f"{sd:.3f}", f"{other:.3f}" if other else "")
    Console().print(table)


def draw(images: Any, labels: Any, maps: dict[str, Any]) -> Figure:
    columns = {"image": images.permute(0, 2, 3, 1), "label": labels}
    columns |= {label: scenes.principal_images(tensor) for label, tensor in maps.items()}
    figure = Figure(figsize=(2 * len(columns), 1.6 * len(images)))
    axes = figure.subplots(len(images), len(columns))
    for column, (label, pictures) in enumerate(columns.items()):
        axes[0, column].set_title(label.replace("-vit", "\nvit").replace("-res", "\nres"), fontsize=7)
        for row, picture in enumerate(pictures):
            axes[row, column].imshow(picture, cmap="tab20", vmin=0, vmax=11)
            axes[row, column].axis("off")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main()
