"""Features of a whole data set, into a cache: with progress, resumable, over several processes.

Each image has its own noise stream, seeded by its content key, so neither batch size nor the number of
processes changes a feature, and an image that occurs twice is computed once. Start several processes with
accelerate (``accelerate launch script.py``); they share the folder.

>>> cache = extract_features(pipe, "photos", "features", height=512, width=512)  # doctest: +SKIP
>>> cache[0]["up-level1-repeat2-res-out"].shape  # doctest: +SKIP
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor

from graftkit.core.files import whole_file
from graftkit.core.progress import progress_bar
from graftkit.core.validation import check_integer, raise_invalid
from graftkit.diffusers.cache import FeatureCache, content_key, fingerprint
from graftkit.diffusers.images import read_images
from graftkit.diffusers.inspection import latent_channels

__all__ = ["extract_features"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


def extract_features(
    pipe: Any,
    dataset: Any,
    cache: Any,
    *,
    features: Any = "preset",
    prompt: str | None = None,
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
        item is a picture, a mapping or a tuple that holds one.
    cache : FeatureCache or path
        Where features go; shared by all processes.
    features : str, list of str or dict, default="preset"
        As in the call.
    prompt : str or None, default=None
        One for all images.
    timestep : int, default=50
        Literal.
    num_noise : int, default=1
        Noise draws that are averaged.
    height, width : int or None, default=None
        The size to resize to; needed where pictures differ in size.
    batch_size : int, default=8
        Images a forward; images of different sizes go apart.
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
    check_integer("batch_size", batch_size, low=1)
    check_integer("seed", seed, low=0)
    check_integer("num_noise", num_noise, low=1)
    if prompt is not None and not isinstance(prompt, str):
        raise_invalid("prompt", prompt, "one string for all images", error=TypeError)
    items = _items(dataset)
    store = cache if isinstance(cache, FeatureCache) else FeatureCache(cache)
    from graftkit.diffusers.requests import resolve

    names = resolve(pipe, features).names
    settings = {
        "names": names, "prompt": prompt, "timestep": timestep, "num_noise": num_noise, "seed": seed,
        "dtype": str(output_dtype or pipe.denoiser.dtype),
    }  # fmt: skip
    state = PartialState()
    model = fingerprint(pipe)
    own = range(len(items))[state.process_index :: state.num_processes]
    keys: dict[int, str] = {}
    waiting: list[tuple[str, Tensor]] = []
    channels = 3 if getattr(pipe, "vae", None) is not None else latent_channels(pipe)
    bar = progress_bar(own, verbose=verbose if state.is_main_process else 0, desc="features")
    for index in bar:
        picture = _picture(items[index], image_key)
        pixels = read_images(picture, unit=pipe.size_unit, channels=channels, height=height, width=width)
        if len(pixels) != 1:
            raise_invalid(f"dataset[{index}]", picture, "one picture an item")
        key = content_key(pixels[0], settings, model)
        keys[index] = key
        if key not in store and all(key != other for other, _ in waiting):
            if waiting and waiting[0][1].shape != pixels.shape:
                _flush(pipe, store, waiting, settings, output_dtype)
            waiting.append((key, pixels))
        if len(waiting) == batch_size:
            _flush(pipe, store, waiting, settings, output_dtype)
    _flush(pipe, store, waiting, settings, output_dtype)
    _finish(store, state, keys, len(items))
    return store


def _flush(
    pipe: Any, store: FeatureCache, waiting: list[tuple[str, Tensor]], settings: dict[str, Any], dtype: Any
) -> None:
    if not waiting:
        return
    # Where a model's arithmetic depends on the batch, a part of a batch would differ from a whole one by
    # rounding.
    generators = [torch.Generator().manual_seed(int(key[:15], 16)) for key, _ in waiting]
    pixels = (torch.cat([tensor for _, tensor in waiting]) + 1) / 2
    out = pipe(
        pixels, settings["prompt"], settings["names"], timestep=settings["timestep"],
        num_noise=settings["num_noise"], generator=generators, output_dtype=dtype, output_device="cpu",
    )  # fmt: skip
    for row, (key, _) in enumerate(waiting):
        store.put(key, {name: tensor[row] for name, tensor in out.features.items()})
    waiting.clear()


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
        for path in parts:
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
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise_invalid("dataset", dataset, "a folder or a sequence of items", error=TypeError)
    if not len(dataset):
        raise_invalid("dataset", dataset, "at least one item")
    return dataset


def _picture(item: Any, key: str | int) -> Any:
    if isinstance(item, str | os.PathLike):
        with Image.open(item) as opened:
            return opened.convert("RGB")
    if isinstance(item, dict):
        if key not in item:
            raise_invalid("image_key", key, f"one of {sorted(item)}")
        return item[key]
    if isinstance(item, tuple | list):
        return item[key if isinstance(key, int) else 0]
    return item
