"""Ask GATE, before training anything, which techniques bring diffusion features back to their images.

No weights are downloaded: a small text-conditional U-Net, a ControlNet on edges and a LoRA are
trained on the spot, on CamVid (with ``--data`` or ``GRAFTKIT_DATA``) or on generated scenes of two objects.
You will see GATE's table, with a negative control for each technique, beside what a linear probe makes of the
features, and a sheet of reconstructions. Networks trained for seconds are no Stable Diffusion: this shows how
to ask, not what pretrained weights would answer.

    python examples/content_shift.py [--data DIR] [--seed N] [--quick] [--out DIR]
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from graftkit.diffusers import FeatureAmalgamation, Technique
from graftkit.diffusers.small_models import small_pipeline, train_controlnet, train_lora, train_pipeline
from graftkit.methods.aucseg.data import CAMVID_CLASSES, load_camvid
from graftkit.methods.content_shift.data import label_prompts, object_scenes, scene_words
from graftkit.methods.diffusion_feature import RidgeProbe
from graftkit.methods.diffusion_feature.ranking import score_maps

NAME = "up-level0-repeat1-res-out"  # coarse: there the shift shows
TEST, HALF = 24, 12  # the last images are probed, their second half judged; the others train the networks


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the example and return the row of the tour's table."""
    form, root = argparse.RawDescriptionHelpFormatter, os.getenv("GRAFTKIT_DATA") or None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--data", type=Path, default=root, help="folder of real data")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, noise and scenes")
    parser.add_argument("--quick", action="store_true", help="fewer updates")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the figure")
    options = parser.parse_args(argv)
    start = time.perf_counter()
    data, images, labels, prompts, words = load(options.data, options.seed)
    pipe = small_pipeline(words, channels=(32, 48), seed=options.seed)
    steps, seed = 20 if options.quick else 60, options.seed
    train_pipeline(pipe, images[:-TEST], prompts[:-TEST], steps=steps, seed=seed, verbose=1)
    train_controlnet(pipe, images[:-TEST], prompts[:-TEST], steps=steps, seed=seed, verbose=1)
    images, labels, prompts = images[-TEST:], labels[-TEST:], prompts[-TEST:]
    train_lora(pipe, images[:HALF], prompts[:HALF], "own", steps=steps // 4, seed=seed)
    gate = pipe.gate(
        images[HALF:], techniques(prompts[HALF:]), strength=0.8,
        num_inference_steps=5 if options.quick else 8, seeds=(seed, seed + 1), metrics=("mse", "edge"),
        batch_size=HALF, keep_images=True,
    )  # fmt: skip
    asked = (Technique("basic"), *techniques(prompts))
    found = pipe.extract_variants(images, asked, [NAME], timestep=200).items()
    maps = {name: output.features[NAME] for name, output in found}
    stacked = torch.stack(list(maps.values()), 1)
    maps["mean of all"] = FeatureAmalgamation(stacked.shape[2], len(maps), kind="mean")(stacked)[0]
    masks, splits = list(labels.numpy()), [(list(range(HALF)), list(range(HALF, TEST)))]
    miou = {
        name: score_maps(list(one.numpy()), masks, splits, RidgeProbe(), random_state=seed)[0]
        for name, one in maps.items()
    }
    report(data, gate, miou)
    figure = options.out / "content_shift.png"
    options.out.mkdir(parents=True, exist_ok=True)
    gate.plot().savefig(figure, dpi=120)
    gate.to_json(options.out / "content_shift.json")
    first = gate.ranking[0]
    return {
        "method": "GATE", "host": "diffusers", "data": data, "metric": "mIoU of a linear probe",
        "baseline": f"plain feature {miou['basic']:.3f}", "ours": f"{miou[first]:.3f} ({first})",
        "seconds": round(time.perf_counter() - start, 1), "figure": str(figure), "figures": miou,
        "verdict": gate.verdict,
    }  # fmt: skip


def techniques(prompts: list[str]) -> list[Technique]:
    return [
        Technique("prompt", prompt=prompts),
        Technique("edges", controlnet_image="input-sobel"),
        Technique("prompt, edges", prompt=prompts, controlnet_image="input-sobel"),
        Technique("LoRA", adapters="own"),
    ]


def load(data: Any, seed: int) -> tuple[str, torch.Tensor, torch.Tensor, list[str], tuple[str, ...]]:
    archive = Path(data) / "camvid" / "camvid_240x180.zip" if data else None
    if archive is not None and archive.exists():
        pictures, labels = load_camvid(archive, "train", limit=200)
        images = F.interpolate(pictures.float() / 255, (48, 64), mode="area")
        small = F.interpolate(labels[:, None].float(), (48, 64), mode="nearest-exact")[:, 0].long()
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        prompts = label_prompts(small[order], CAMVID_CLASSES)
        return "CamVid 64x48", images[order], small[order], prompts, CAMVID_CLASSES
    scenes, labels, prompts = object_scenes(200, random_state=seed)
    return "generated scenes", torch.from_numpy(scenes), torch.from_numpy(labels), prompts, scene_words()


def report(data: str, gate: Any, miou: dict[str, float]) -> None:
    heads = ("technique", "gain", "sd", "better", "p", "control", "verdict", "mIoU")
    table = Table(*heads, title=f"{data}: GATE's gain, its control's gain, a probe's mIoU (timestep 200)")
    rows = {row["technique"]: row for row in gate.table if row["metric"] == "mse"}
    for name, value in miou.items():
        cells, row = [""] * 6, rows.get(name)
        if row:
            control = row["control_gain"]
            cells = [
                f"{row['gain_mean']:+.2%}", f"{row['gain_sd']:.2%}", f"{row['improved_share']:.0%}",
                f"{row['p_value']:.3f}", "" if control is None else f"{control:+.2%}", gate.verdict[name],
            ]  # fmt: skip
        table.add_row(name, *cells, f"{value:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
