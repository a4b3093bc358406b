"""Queries and keys read by hooks, and maps made from them; the forward keeps its own (fused) attention.

>>> reader = MapReader(reduce="mean", limit=2**26)
>>> handles = reader.attach(unet.mid_block.attentions[0].transformer_blocks[0].attn2)  # doctest: +SKIP
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from diffusers.models.embeddings import apply_rotary_emb
from graftkit.diffusers.taps import Tap
from graftkit.methods.diffusion_feature.attention import attention_map, check_map_size

__all__ = ["MapReader"]


class MapReader:
    """Attention maps of the modules it is attached to.

    Parameters
    ----------
    reduce : {"mean", "none"}
        Average heads or keep them as channels.
    limit : int
        The largest map, in elements.
    """

    def __init__(self, *, reduce: str, limit: int) -> None:
        self.reduce, self.limit = reduce, limit
        self._seen: dict[int, dict[str, Any]] = {}

    def attach(self, module: nn.Module) -> list[RemovableHandle]:
        """Hooks on an attention's projections and on its arguments."""
        attn: Any = module
        seen: dict[str, Any] = {}
        self._seen[id(module)] = seen

        def arguments(_: nn.Module, __: Any, kwargs: Any) -> None:
            seen.clear()
            seen["kwargs"] = kwargs

        handles = [attn.register_forward_pre_hook(arguments, with_kwargs=True)]
        keys = ("to_q", "to_k", "to_qkv", "to_kv", "add_q_proj", "add_k_proj", "to_added_qkv")
        there = [key for key in keys if isinstance(getattr(attn, key, None), nn.Module)]
        return [*handles, *(getattr(attn, key).register_forward_hook(_keep(seen, key)) for key in there)]

    def clear(self) -> None:
        """Forget what was read."""
        self._seen.clear()

    def read(self, tap: Tap, grid: tuple[int, int] | None) -> Tensor:
        """The map of a tap as (B, keys, H, W), or (B, heads * keys, H, W) with heads kept."""
        attn: Any = tap.module
        seen = self._seen[id(tap.module)]
        query, key, text_length, text_leads = _queries_and_keys(attn, seen)
        if grid is None:
            raise RuntimeError(f"features: {tap.name!r} has no spatial grid")
        height, width = grid
        cells = height * width
        rows = columns = None
        if tap.map in ("joint-self", "joint-cross"):
            image = slice(text_length, text_length + cells) if text_leads else slice(0, cells)
            text = slice(0, text_length) if text_leads else slice(cells, cells + text_length)
            if not text_length:  # a single-stream block: what is no image is text, and stands first
                text, image = slice(0, query.shape[2] - cells), slice(query.shape[2] - cells, None)
            rows, columns = image, image if tap.map == "joint-self" else text
        keys = len(range(key.shape[2])[columns or slice(None)])
        heads = 1 if self.reduce == "mean" else query.shape[1]
        check_map_size(tap.name, (query.shape[0], heads * keys, height, width), self.limit)
        bias = _bias(seen["kwargs"].get("attention_mask"), query)
        probabilities = attention_map(query, key, bias=bias, rows=rows, columns=columns, reduce=self.reduce)
        if probabilities.shape[-2] != cells:
            raise RuntimeError(
                f"features: {tap.name!r} has {probabilities.shape[-2]} queries, the grid {cells}"
            )
        flat = probabilities.transpose(-1, -2)  # (B, [heads,] keys, cells)
        return flat.reshape(len(flat), heads * keys, height, width)


def _keep(seen: dict[str, Any], key: str) -> Any:
    def hook(_: nn.Module, __: Any, output: Tensor) -> None:
        seen[key] = output

    return hook


def _queries_and_keys(attn: Any, seen: dict[str, Any]) -> tuple[Tensor, Tensor, int, bool]:
    """Both as the attention uses them, (B, heads, N, d), the length of added text, and whether it leads."""
    if "to_qkv" in seen:
        query, key = seen["to_qkv"].chunk(3, dim=-1)[:2]
    else:
        query = seen["to_q"]
        key = seen["to_kv"].chunk(2, dim=-1)[0] if "to_kv" in seen else seen["to_k"]
    query, key = _split(query, attn.heads), _split(key, attn.heads)
    query, key = _normed(attn, "norm_q", query), _normed(attn, "norm_k", key)
    added = None
    if "to_added_qkv" in seen:
        added = seen["to_added_qkv"].chunk(3, dim=-1)[:2]
    elif "add_q_proj" in seen:
        added = seen["add_q_proj"], seen["add_k_proj"]
    length, leads = 0, type(attn).__name__ == "FluxAttention"
    if added is not None:
        text_query = _normed(attn, "norm_added_q", _split(added[0], attn.heads))
        text_key = _normed(attn, "norm_added_k", _split(added[1], attn.heads))
        length = text_query.shape[2]
        order = (0, 1) if leads else (1, 0)
        query = torch.cat([(text_query, query)[i] for i in order], dim=2)
        key = torch.cat([(text_key, key)[i] for i in order], dim=2)
    rotation = seen["kwargs"].get("image_rotary_emb")
    if rotation is not None:
        query = apply_rotary_emb(query, rotation)
        if not getattr(attn, "is_cross_attention", False):
            key = apply_rotary_emb(key, rotation)
    return query, key, length, leads


def _split(tokens: Tensor, heads: int) -> Tensor:
    split: Tensor = tokens.unflatten(-1, (heads, -1)).transpose(1, 2)
    return split


def _normed(attn: Any, name: str, tensor: Tensor) -> Tensor:
    norm = getattr(attn, name, None)
    normed: Tensor = tensor if norm is None else norm(tensor)
    return normed


def _bias(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """An attention's mask argument as something to add to (B, heads, Q, K)."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=query.dtype, device=mask.device).masked_fill(~mask, -torch.inf)
    if mask.ndim == 2:
        mask = mask[:, None]
    return (mask[:, None] if mask.ndim == 3 else mask).to(query.dtype)
