"""From what a user asks for to taps: presets, pools, globs, module paths and the extras.

>>> resolve(pipe, ["up-level1-*-cross-q", "attn"]).names  # doctest: +SKIP
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.validation import check_bool, check_number, raise_invalid
from graftkit.diffusers.taps import Tap, denoiser_taps, every_module, module_tap
from graftkit.methods.diffusion_feature.aggregation import resize_map
from graftkit.methods.diffusion_feature.names import EXTRAS, expand_names
from graftkit.methods.diffusion_feature.presets import PRESETS

__all__ = ["Request", "aggregate_maps", "map_window", "may_stop", "resolve"]


@dataclass(frozen=True)
class Request:
    """What to compute.

    Parameters
    ----------
    names : list of str
        The keys of the result, in order.
    taps : list of Tap
        What to read.
    maps : list of str
        Names of the cross maps that ``attn`` is made from.
    shared : bool, default=False
        One module stands at several places, so that a tap on it fires several times.
    """

    names: list[str]
    taps: list[Tap]
    maps: list[str]
    shared: bool = False


def resolve(
    pipe: Any, features: Any, *, as_tokens: bool = False, window: tuple[float, float] | None = None
) -> Request:
    """Names and taps of a request.

    Raises
    ------
    ValueError
        If a name is unknown, nothing matches, or there is no preset for this model.
    """
    check_bool("as_tokens", as_tokens)
    denoiser = pipe.denoiser
    taps = {tap.name: tap for tap in denoiser_taps(denoiser)}
    spatial = [name for name, tap in taps.items() if not tap.text]
    text = [name for name, tap in taps.items() if tap.text] if as_tokens else []
    if isinstance(features, str) and features in ("preset", "pool", *PRESETS):
        features = _published(pipe, features)
    names = expand_names(features, spatial, others=[*text, *EXTRAS])
    wanted: dict[str, Tap] = {}
    maps: list[str] = []
    for name in names:
        if name == "attn":
            maps = _cross_maps(spatial)
            for key in maps:
                # One that is asked for by itself is always computed.
                if key not in names:
                    wanted[key] = replace(taps[key], window=window)
        elif name.startswith("module:"):
            wanted[name] = module_tap(name, denoiser)
        elif name != "vae-out":
            wanted[name] = taps[name]
    for tap in wanted.values():
        _refuse_chunks(tap, denoiser)
    places = Counter((id(tap.module), tap.side, tap.part, tap.map) for tap in taps.values())
    shared = any(places[id(tap.module), tap.side, tap.part, tap.map] > 1 for tap in wanted.values())
    return Request(names, list(wanted.values()), maps, shared)


def may_stop(request: Request, denoiser: nn.Module) -> bool:
    """Whether a forward may end at the last tap without hiding that some tap would fire again."""
    if "vae-out" in request.names or not request.taps or request.shared:
        return False
    paths = [tap for tap in request.taps if tap.name.startswith("module:")]
    if not paths:
        return True
    # A path may lead to a module that its parent calls twice (an activation function): only modules that
    # canonical names stand for, and whole blocks, are known to run once.
    once = {id(tap.module) for tap in denoiser_taps(denoiser)}
    for name, module in denoiser.named_modules():
        if name.count(".") <= 1 and name.split(".")[0].endswith(("_block", "_blocks")):
            once.add(id(module))
    places = [id(module) for _, module in denoiser.named_modules(remove_duplicate=False)]
    return all(id(tap.module) in once and places.count(id(tap.module)) == 1 for tap in paths)


def map_window(resolutions: Any, size: tuple[int, int], *, transformer: bool) -> tuple[float, float]:
    """Bounds on the tokens of the layers that ``attn`` averages.

    Raises
    ------
    ValueError
        If `resolutions` is not an increasing pair of positive shares.
    """
    if resolutions is None:
        resolutions = (1 / 32, 1 / 8 if transformer else 1 / 16)
    if not isinstance(resolutions, tuple | list) or len(resolutions) != 2:
        raise_invalid("map_resolutions", resolutions, "the coarsest and the finest share of the image's side")
    low, high = (check_number("map_resolutions", value, low=0, closed="()") for value in resolutions)
    if low > high:
        raise_invalid("map_resolutions", resolutions, "the coarsest share first")
    pixels = size[0] * size[1]
    # A grid of ceil(side / 32) cells belongs to the window, hence the tolerance.
    return pixels * low * low * (1 - 1e-9), pixels * high * high * (1 + 1e-9)


def aggregate_maps(maps: list[Tensor], size: tuple[int, int]) -> Tensor:
    """The feature ``attn``: mean over layers of one resolution, resolutions side by side at 1/8 of the image.

    Raises
    ------
    ValueError
        If no layer lies in the window.
    """
    kept = [tensor for tensor in maps if tensor.numel()]
    if not kept:
        raise ValueError(
            "attn: no cross-attention map lies within map_resolutions; widen it or take a larger image"
        )
    groups: dict[tuple[int, int], list[Tensor]] = {}
    for tensor in kept:
        groups.setdefault((tensor.shape[-2], tensor.shape[-1]), []).append(tensor)
    grid = (max(1, size[0] // 8), max(1, size[1] // 8))
    means = [torch.stack(groups[key]).mean(dim=0) for key in sorted(groups)]
    return torch.cat([resize_map(tensor, grid) for tensor in means], dim=1)


def _published(pipe: Any, key: str) -> list[str]:
    if key == "pool":
        pool: list[str] = pipe.candidate_pool("paper" if pipe.preset else "generic")
        return pool
    own = pipe.preset
    preset = own if key == "preset" else key
    if preset is None or PRESETS[preset].layout != own:
        raise ValueError(
            f"features: there is no published preset {'' if preset is None else repr(preset) + ' '}for this "
            f"{type(pipe.denoiser).__name__}. Name activations, or compare candidate_pool('generic') "
            "with rank_activations"
        )
    return list(PRESETS[preset].names)


def _cross_maps(names: list[str]) -> list[str]:
    maps = [name for name in names if name.endswith("-cross-map")]
    chosen = [name for name in maps if name.startswith(("up-", "vit-"))]
    if not chosen:
        raise ValueError("attn: this model has no cross-attention in its up stage")
    return chosen


def _refuse_chunks(tap: Tap, denoiser: nn.Module) -> None:
    if not tap.name.endswith(("ffn-inner", "ffn-out", "norm-out")):
        return
    for block in every_module(denoiser):
        if getattr(block, "_chunk_size", None) is not None:
            raise ValueError(
                f"features: {tap.name!r} fires several times, as forward chunking is on; call "
                "disable_forward_chunking() first"
            )
