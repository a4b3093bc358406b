"""Where each named activation of a denoiser lives: a table of taps, made from the modules as they are now.

Resolved at call time, never at construction: a LoRA wraps ``to_q``, ``fuse_qkv_projections`` moves it, and
a user may replace the whole denoiser.

>>> [tap.name for tap in denoiser_taps(pipe.unet)][:2]  # doctest: +SKIP
['unet-in', 'unet-after-conv-in']
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

import diffusers
from graftkit.core.validation import raise_invalid

__all__ = ["FAMILIES", "Tap", "denoiser_taps", "every_module", "family_of", "module_tap"]

FAMILIES = {
    "UNet2DConditionModel": "unet",
    "UNet2DModel": "unet2d",
    "PixArtTransformer2DModel": "pixart",
    "DiTTransformer2DModel": "dit",
    "HunyuanDiT2DModel": "hunyuan",
    "SD3Transformer2DModel": "sd3",
    "FluxTransformer2DModel": "flux",
}


@dataclass(frozen=True)
class Tap:
    """One activation and how to read it.

    Parameters
    ----------
    name : str
        The canonical name, or ``module:`` and a path.
    module : nn.Module
        Whose input or output it is.
    side : {"input", "output"}, default="output"
        Which.
    part : (int, int) or None, default=None
        Position and number of parts of a fused projection.
    element : int or None, default=None
        Of a tuple that the module returns.
    spatial : nn.Module or None, default=None
        In a U-Net, the module whose 4-D input has the token grid; elsewhere the grid is the model's.
    text_first : bool, default=False
        Text tokens come before those of the image and are cut.
    text : bool, default=False
        Tokens of the text, without a grid.
    map : {"self", "cross", "joint-self", "joint-cross"} or None, default=None
        Attention probabilities of `module`.
    window : (float, float) or None, default=None
        Bounds on the number of cells outside of which a map is not computed.
    """

    name: str
    module: nn.Module
    side: str = "output"
    part: tuple[int, int] | None = None
    element: int | None = None
    spatial: nn.Module | None = None
    text_first: bool = False
    text: bool = False
    map: str | None = None
    window: tuple[float, float] | None = None


def family_of(denoiser: nn.Module) -> str:
    """The short name of a denoiser's family; a supported subclass counts as its parent."""
    for name, family in FAMILIES.items():
        if isinstance(denoiser, getattr(diffusers, name)):
            return family
    raise_invalid("denoiser", type(denoiser).__name__, "one of " + ", ".join(FAMILIES), error=TypeError)


def every_module(model: nn.Module) -> Iterator[nn.Module]:
    """A module and all below it; ``modules()`` also joins names, which takes as long as a small forward."""
    waiting = [model]
    while waiting:
        module = waiting.pop()
        yield module
        waiting.extend(child for child in module._modules.values() if child is not None)


def denoiser_taps(denoiser: nn.Module) -> list[Tap]:
    """Every named activation, in the order of execution."""
    model: Any = denoiser
    family = family_of(denoiser)
    if family in ("unet", "unet2d"):
        return list(_unet_taps(model))
    blocks = list(model.blocks if family == "hunyuan" else model.transformer_blocks)
    taps: list[Tap] = []
    for index, block in enumerate(blocks):
        prefix = f"vit-block{index}"
        if family in ("sd3", "flux"):
            taps += _joint_block(prefix, block)
        else:
            taps += _basic_block(prefix, block, None)
    if family == "flux":
        for index, block in enumerate(model.single_transformer_blocks, start=len(blocks)):
            taps += _single_block(f"vit-block{index}", block)
    return taps


def module_tap(name: str, denoiser: nn.Module) -> Tap:
    """A tap on a path of ``named_modules()``."""
    path = name.removeprefix("module:")
    modules = {name: module for name, module in denoiser.named_modules() if name}
    if path not in modules:
        import difflib

        near = ", ".join(map(repr, difflib.get_close_matches(path, list(modules), n=3, cutoff=0.0)))
        raise ValueError(f"features: unknown activation {name!r}; the closest module paths are {near}")
    # The nearest ViT around it says what grid its tokens have.
    spatial: Any = None
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        around = modules[".".join(parts[:end])]
        if isinstance(around, diffusers.Transformer2DModel):
            spatial = around
            break
    return Tap(name, modules[path], spatial=spatial)


def _unet_taps(unet: Any) -> Iterator[Tap]:
    yield Tap("unet-in", unet.conv_in, side="input")
    yield Tap("unet-after-conv-in", unet.conv_in)
    for level, block in enumerate(unet.down_blocks):
        yield from _stage_block(f"down-level{level}", block)
        if getattr(block, "downsamplers", None):
            yield Tap(f"down-level{level}-downsampler-out", block.downsamplers[0])
    if unet.mid_block is not None:
        yield from _mid_block(unet.mid_block)
    for level, block in enumerate(unet.up_blocks):
        yield from _stage_block(f"up-level{level}", block)
        if getattr(block, "upsamplers", None):
            yield Tap(f"up-level{level}-upsampler-out", block.upsamplers[0])
    yield Tap("unet-out", unet.conv_out)


def _stage_block(prefix: str, block: Any) -> Iterator[Tap]:
    attentions = getattr(block, "attentions", None) or []
    for repeat, resnet in enumerate(getattr(block, "resnets", ())):
        yield from _resnet(f"{prefix}-repeat{repeat}", resnet)
        if repeat < len(attentions) and attentions[repeat] is not None:
            yield from _vit(f"{prefix}-repeat{repeat}-vit", attentions[repeat])


def _mid_block(block: Any) -> Iterator[Tap]:
    resnets = list(getattr(block, "resnets", ()))
    attentions = list(getattr(block, "attentions", None) or [])
    present = sum(attention is not None for attention in attentions)
    if resnets:
        yield from _resnet("mid-repeat0", resnets[0])
    for index in range(max(len(attentions), len(resnets) - 1)):
        if index < len(attentions) and attentions[index] is not None:
            prefix = "mid-vit" if present == 1 else f"mid-repeat{index}-vit"
            yield from _vit(prefix, attentions[index])
        if index + 1 < len(resnets):
            yield from _resnet(f"mid-repeat{index + 1}", resnets[index + 1])


def _resnet(prefix: str, resnet: Any) -> Iterator[Tap]:
    if hasattr(resnet, "conv2"):
        yield Tap(f"{prefix}-res-increment", resnet.conv2)
    yield Tap(f"{prefix}-res-out", resnet)


def _vit(prefix: str, attention: Any) -> Iterator[Tap]:
    if hasattr(attention, "transformer_blocks"):
        for index, block in enumerate(attention.transformer_blocks):
            yield from _basic_block(f"{prefix}-block{index}", block, attention)
        if isinstance(getattr(attention, "proj_out", None), nn.Module):
            yield Tap(f"{prefix}-increment", attention.proj_out, spatial=attention)
        yield Tap(f"{prefix}-out", attention, element=0, spatial=attention)
        return
    if hasattr(attention, "to_q"):  # the plain spatial attention of unconditional U-Nets
        yield from _projections(f"{prefix}-block0-self", attention, attention, crossing=False)
    yield Tap(f"{prefix}-out", attention, element=0, spatial=attention)


def _basic_block(prefix: str, block: Any, spatial: nn.Module | None) -> list[Tap]:
    taps: list[Tap] = []
    text_only = bool(getattr(block, "only_cross_attention", False))
    taps += _projections(f"{prefix}-self", block.attn1, spatial, crossing=False, query_only=text_only)
    taps.append(Tap(f"{prefix}-self-out", block.attn1, spatial=spatial))
    if getattr(block, "attn2", None) is not None:
        taps += _projections(f"{prefix}-cross", block.attn2, spatial, crossing=True)
        taps.append(Tap(f"{prefix}-cross-out", block.attn2, spatial=spatial))
    if getattr(block, "ff", None) is not None:
        taps.append(Tap(f"{prefix}-ffn-inner", block.ff.net[0], spatial=spatial))
        taps.append(Tap(f"{prefix}-ffn-out", block.ff, spatial=spatial))
    taps.append(Tap(f"{prefix}-out", block, spatial=spatial))
    return taps


def _projections(
    prefix: str, attn: Any, spatial: nn.Module | None, *, crossing: bool, query_only: bool = False
) -> list[Tap]:
    """q, k, v and the map of one attention; ``fuse_qkv_projections`` computes several at once."""
    fused = bool(getattr(attn, "fused_projections", False))
    query = Tap(f"{prefix}-q", attn.to_q, spatial=spatial)
    if query_only:
        return [query]
    if not crossing and fused:
        three = [Tap(f"{prefix}-{n}", attn.to_qkv, part=(i, 3), spatial=spatial) for i, n in enumerate("qkv")]
    elif fused:
        two = [Tap(f"{prefix}-{n}", attn.to_kv, part=(i, 2), text=True) for i, n in enumerate("kv")]
        three = [query, *two]
    else:
        keys = [
            Tap(
                f"{prefix}-{n}",
                getattr(attn, f"to_{n}"),
                spatial=None if crossing else spatial,
                text=crossing,
            )
            for n in "kv"
            if getattr(attn, f"to_{n}", None) is not None
        ]
        three = [query, *keys]
    # With keys that the U-Net adds from the text (DeepFloyd) a map would be neither self nor cross.
    if len(three) == 3 and getattr(attn, "add_k_proj", None) is None:
        kind = "cross" if crossing else "self"
        three.append(Tap(f"{prefix}-map", attn, spatial=spatial, map=kind))
    return three


def _joint_block(prefix: str, block: Any) -> list[Tap]:
    attn = block.attn
    if getattr(attn, "fused_projections", False):
        taps = [Tap(f"{prefix}-{n}", attn.to_qkv, part=(i, 3)) for i, n in enumerate("qkv")]
    else:
        taps = [Tap(f"{prefix}-{n}", getattr(attn, f"to_{n}")) for n in "qkv"]
    taps += [Tap(f"{prefix}-{kind}-map", attn, map=f"joint-{kind}") for kind in ("self", "cross")]
    taps.append(Tap(f"{prefix}-attn-out", attn, element=0))
    # The MLP's input: normalised, scaled and shifted.
    taps.append(Tap(f"{prefix}-norm-out", block.ff, side="input"))
    return [*taps, Tap(f"{prefix}-out", block, element=1)]


def _single_block(prefix: str, block: Any) -> list[Tap]:
    attn = block.attn
    if getattr(attn, "fused_projections", False):
        taps = [Tap(f"{prefix}-{n}", attn.to_qkv, part=(i, 3), text_first=True) for i, n in enumerate("qkv")]
    else:
        taps = [Tap(f"{prefix}-{n}", getattr(attn, f"to_{n}"), text_first=True) for n in "qkv"]
    taps.insert(0, Tap(f"{prefix}-norm-out", block.norm, element=0, text_first=True))
    taps += [Tap(f"{prefix}-{kind}-map", attn, map=f"joint-{kind}") for kind in ("self", "cross")]
    taps.append(Tap(f"{prefix}-attn-out", attn, text_first=True))
    return [*taps, Tap(f"{prefix}-out", block, element=1)]
