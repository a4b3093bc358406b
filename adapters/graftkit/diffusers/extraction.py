"""Features of a whole data set, into a cache: with progress, resumable, over several processes.

Each image has its own noise stream, seeded by its content key. The data set is cut into the same batches
whatever the number of processes, which take whole batches in turn, so a feature depends neither on them nor
on a kill in between; another batch size changes it by rounding at most. An image that occurs twice is stored
once, from whichever batch came first. Start several processes with accelerate (``accelerate launch
script.py``); they share the folder.

>>> cache = extract_features(pipe, "photos", "features", height=512, width=512)  # doctest: +SKIP
>>> cache[0]["up-level1-repeat2-res-out"].shape  # doctest: +SKIP
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from PIL import Image, ImageOps
from torch import Tensor

from graftkit.core.files import whole_file
from graftkit.core.progress import progress_bar
from graftkit.core.validation import check_integer, raise_invalid
from graftkit.diffusers.cache import FeatureCache, content_key, fingerprint
from graftkit.diffusers.images import read_images
from graftkit.diffusers.inspection import latent_channels
from graftkit.diffusers.noising import schedule_length
from graftkit.diffusers.requests import resolve

__all__ = ["extract_features"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


def extract_features(
    pipe: Any,
    dataset: Any,
    cache: Any,
    *,
    features: Any = "preset",
    prompt: str | None = None,
    class_label: int | None = None,
    timestep: int = 50,
    num_noise: int = 1,
    height: int | None = None,
    width: int | None = None,
    batch_size: int = 8,
    image_key: str | int = "image",
    output_dtype: torch.dtype | None = None,
    seed: int = 0,
    verbose: int = 0,
) -> FeatureCache:
    """Extract features of every image that the cache does not have yet.

    Parameters
    ----------
    pipe : DiffusionFeaturePipeline
        On this process's device.
    dataset : path, or a sequence of items
        A folder (its pictures in the order of their names), a torch or `datasets` data set, or a list. An
        item is a picture, a path, or a mapping or a tuple that holds one of these.
    cache : FeatureCache or path
        Where features go; shared by all processes.
    features : str, list of str or dict, default="preset"
        As in the call.
    prompt : str or None, default=None
        One for all images.
    class_label : int or None, default=None
        One for all images, for class-conditional models.
    timestep : int, default=50
        Literal.
    num_noise : int, default=1
        Noise draws that are averaged.
    height, width : int or None, default=None
        The size to resize to; needed where pictures differ in size.
    batch_size : int, default=8
        Images a forward, which each process takes in turn; images of different sizes go apart.
    image_key : str or int, default="image"
        The picture's key or position in an item that is no picture itself.
    output_dtype : torch.dtype or None, default=None
        What is stored.
    seed : int, default=0
        Another noise for every image.
    verbose : int, default=0
        1 shows a bar over images, on the first process.

    Returns
    -------
    FeatureCache
        In the data set's order.

    Raises
    ------
    TypeError
        If an argument or an item is of a wrong type.
    ValueError
        If the data set is empty or a value is refused.
    """
    size = check_integer("batch_size", batch_size, low=1)
    seed = check_integer("seed", seed, low=0)
    num_noise = check_integer("num_noise", num_noise, low=1)
    timestep = check_integer("timestep", timestep, low=0, high=schedule_length(pipe.scheduler) - 1)
    if prompt is not None and not isinstance(prompt, str):
        raise_invalid("prompt", prompt, "one string for all images", error=TypeError)
    if not isinstance(image_key, str | int) or isinstance(image_key, bool):
        raise_invalid("image_key", image_key, "a name or a position", error=TypeError)
    items = _items(dataset)
    store = cache if isinstance(cache, FeatureCache) else FeatureCache(cache)
    names = resolve(pipe, features).names
    settings = {
        "names": names, "prompt": prompt, "timestep": timestep, "num_noise": num_noise, "seed": seed,
        "dtype": str(output_dtype or pipe.denoiser.dtype),
    }  # fmt: skip
    if class_label is not None:
        settings["class_label"] = check_integer("class_label", class_label, low=0)
    state = PartialState()
    model = fingerprint(pipe)
    keys: dict[int, str] = {}
    channels = 3 if getattr(pipe, "vae", None) is not None else latent_channels(pipe)
    starts = range(0, len(items), size)[state.process_index :: state.num_processes]
    own = [index for start in starts for index in range(start, min(start + size, len(items)))]
    batch: list[tuple[str, Tensor]] = []
    for index in progress_bar(own, verbose=verbose if state.is_main_process else 0, desc="features"):
        picture = _picture(items[index], image_key)
        pixels = read_images(picture, unit=pipe.size_unit, channels=channels, height=height, width=width)
        if len(pixels) != 1:
            raise_invalid(f"dataset[{index}]", picture, "one picture an item")
        keys[index] = content_key(pixels[0], settings, model)
        batch.append((keys[index], pixels))
        if index % size == size - 1 or index == len(items) - 1:
            _extract(pipe, store, batch, settings, output_dtype)
            batch = []
    _finish(store, state, keys, len(items))
    return store


def _extract(
    pipe: Any, store: FeatureCache, batch: list[tuple[str, Tensor]], settings: dict[str, Any], dtype: Any
) -> None:
    """One batch of the data set, in a forward for each size among its pictures."""
    for shape in dict.fromkeys(pixels.shape for _, pixels in batch):
        same = dict(entry for entry in batch if entry[1].shape == shape)
        # All or nothing: where arithmetic depends on the batch, a part of it would differ by rounding.
        if all(key in store for key in same):
            continue
        generators = [torch.Generator().manual_seed(int(key[:15], 16)) for key in same]
        pixels = (torch.cat(list(same.values())) + 1) / 2
        out = pipe(
            pixels, settings["prompt"], settings["names"], timestep=settings["timestep"],
            num_noise=settings["num_noise"], class_labels=settings.get("class_label"), generator=generators,
            output_dtype=dtype, output_device="cpu",
        )  # fmt: skip
        for row, key in enumerate(same):
            if key not in store:
                store.put(key, {name: tensor[row] for name, tensor in out.features.items()})


def _finish(store: FeatureCache, state: Any, keys: dict[int, str], count: int) -> None:
    """Every process says its part; the first puts them together."""
    part = store.folder / f"part-{state.process_index}.json"
    with whole_file(part) as file:
        file.write(json.dumps(keys).encode())
    state.wait_for_everyone()
    if state.is_main_process:
        parts = [store.folder / f"part-{rank}.json" for rank in range(state.num_processes)]
        merged: dict[int, str] = {}
        for path in parts:
            merged |= {int(i): key for i, key in json.loads(path.read_text(encoding="utf-8")).items()}
        store.write_order([merged[i] for i in range(count)])
        for path in store.folder.glob("part-*.json"):  # of a killed run with more processes too
            path.unlink()
    state.wait_for_everyone()


def _items(dataset: Any) -> Any:
    if isinstance(dataset, str | os.PathLike):
        folder = Path(dataset)
        if not folder.is_dir():
            raise_invalid("dataset", str(dataset), "a folder that exists")
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise_invalid("dataset", str(dataset), "a folder with pictures")
        return found
    sequence = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if not sequence or isinstance(dataset, Mapping | bytes) or getattr(dataset, "shape", None) == ():
        raise_invalid("dataset", dataset, "a folder or a sequence of items", error=TypeError)
    if not len(dataset):
        raise_invalid("dataset", dataset, "at least one item")
    return dataset


def _picture(item: Any, key: str | int) -> Any:
    if isinstance(item, Mapping):
        if key not in item:
            raise_invalid("image_key", key, f"one of {sorted(map(str, item))}")
        item = item[key]
    elif isinstance(item, tuple | list):
        position = key if isinstance(key, int) else 0
        if not -len(item) <= position < len(item):
            raise_invalid("image_key", key, f"a position among {len(item)} entries")
        item = item[position]
    if isinstance(item, str | os.PathLike):
        with Image.open(item) as opened:
            # Upright, as diffusers and datasets open photographs.
            return ImageOps.exif_transpose(opened).convert("RGB")
    return item
