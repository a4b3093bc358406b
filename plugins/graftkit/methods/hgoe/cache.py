"""Outliers on disk: keyed by content, written in one step, checked when read.

The key is a SHA-256 of the settings, the seed and every graph that went in, so another split, seed or edge
is another file (the public code's name has neither split nor seed). A file that cannot be read, or whose
checksum is wrong, is built again with a warning. Files hold tensors only and are read with
``weights_only=True``.
"""

import hashlib
import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graftkit.core.files import whole_file
from graftkit.methods.hgoe.graphs import PackedGraphs

__all__ = ["content_key", "load", "read", "write"]

FORMAT = 2  # of the file and of what a seed draws: another sampler is another file


def content_key(settings: Mapping[str, Any], parts: Mapping[str, PackedGraphs]) -> str:
    """Name of the file that belongs to these inputs.

    Parameters
    ----------
    settings : mapping
        JSON values: configuration, seed and whatever else matters.
    parts : mapping of str to PackedGraphs
        All graphs that go in.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    state = hashlib.sha256(json.dumps([FORMAT, dict(settings)], sort_keys=True).encode())
    for name, graphs in parts.items():
        state.update(repr((name, len(graphs))).encode())
        for tensor in (graphs.edge_index, graphs.num_nodes, graphs.x):
            if tensor is not None:
                state.update(_kind(tensor))
                state.update(_bytes(tensor))
    return state.hexdigest()


def write(path: Path, tensors: Mapping[str, Tensor], summary: Mapping[str, Any]) -> None:
    """Write tensors with their checksum; a reader sees the whole file or none.

    Parameters
    ----------
    path : pathlib.Path
        Where to.
    tensors : mapping of str to Tensor of any shape
        What.
    summary : mapping
        JSON values.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"tensors": dict(tensors), "summary": json.dumps(dict(summary)), "checksum": _checksum(tensors)}
    buffer = io.BytesIO()
    torch.save(content, buffer)  # on a full disk torch's writer has an error of its own
    with whole_file(path) as file:
        file.write(buffer.getbuffer())


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write` wrote, or fail.

    Parameters
    ----------
    path : pathlib.Path
        Where from.

    Returns
    -------
    tensors : dict of str to Tensor of any shape
        What was written.
    summary : dict
        JSON values.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError
        If the file is damaged or of another kind.
    """
    try:
        content = torch.load(path, weights_only=True)
        tensors, summary = content["tensors"], json.loads(content["summary"])
        whole = content["checksum"] == _checksum(tensors)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file fails in many ways; the answer is the same
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path.name} cannot be read ({reason})") from error
    if not whole:
        raise ValueError(f"{path.name} cannot be read (the checksum differs)")
    return tensors, summary


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """As :func:`load`, for a cache: a missing or damaged file is None.

    Parameters
    ----------
    path : pathlib.Path
        Where from.

    Returns
    -------
    tuple of dict of str to Tensor of any shape and dict, or None
        Tensors and summary; None where there is no file or, with a warning, a damaged one.
    """
    if not path.exists():
        return None
    try:
        return load(path)
    except ValueError as error:
        warnings.warn(f"damaged cache, built again: {error}", stacklevel=3)
        return None


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    state = hashlib.sha256()
    for name in sorted(tensors):
        state.update(name.encode() + _kind(tensors[name]))
        state.update(_bytes(tensors[name]))
    return state.hexdigest()


def _kind(tensor: Tensor) -> bytes:
    """Zeros of one width and dtype have the bytes of zeros of others."""
    return repr((tuple(tensor.shape), str(tensor.dtype))).encode()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
