"""Models as one npz file without pickle: arrays, and JSON for the rest, with a version.

>>> import tempfile, pathlib
>>> path = pathlib.Path(tempfile.mkdtemp()) / "m.npz"
>>> write_model(path, {"a": np.arange(3)}, {"b": 1})
>>> read_model(path)[1]["b"]
1
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graftkit.core.files import whole_file

__all__ = ["read_model", "restore_generator", "write_model"]

FORMAT, VERSION = "graftkit.dpcml", (1, 0)
GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


def write_model(path: str | Path, arrays: dict[str, npt.NDArray[Any]], meta: dict[str, Any]) -> None:
    """Write a model in one step: an interrupted write leaves the old file.

    Parameters
    ----------
    path : str or Path
        The file; it gets exactly this name.
    arrays : dict of str to ndarray, each of any shape
        Numeric arrays.
    meta : dict
        What JSON can hold, arrays within it as lists.

    Raises
    ------
    ValueError
        If an array would need pickle.
    """
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"{name}: expected a numeric array, got dtype {array.dtype}")
    header = {"format": FORMAT, "version": list(VERSION), **meta}
    text = np.frombuffer(json.dumps(header, default=_plain).encode(), dtype=np.uint8)
    with whole_file(path) as file:
        # No allow_pickle=, which an older NumPy takes for one more array.
        np.savez(file, __meta__=text, **arrays)  # type: ignore[arg-type]


def read_model(path: str | Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Read what `write_model` wrote.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    arrays : dict of str to ndarray, each of any shape
        The arrays.
    meta : dict
        The rest.

    Raises
    ------
    ValueError
        If the file is none of these, is damaged, or comes from a newer major version.
    FileNotFoundError
        If there is no file.
    """
    name = Path(path).name
    if not Path(path).exists():
        raise FileNotFoundError(f"path: expected a file written by save, found none at {name}")
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        meta: dict[str, Any] = json.loads(arrays.pop("__meta__").tobytes().decode())
        major, minor = map(int, meta["version"]) if meta.get("format") == FORMAT else VERSION
    except (TypeError, ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{name}: expected a model written by save, could not read it ({error})") from error
    if meta.get("format") != FORMAT:
        raise ValueError(f"{name}: expected a file of format {FORMAT!r}, got another")
    if major > VERSION[0]:
        raise ValueError(
            f"{name}: expected file version {VERSION[0]}.x or older, got {major}.{minor}; it was "
            "written by a newer graftkit"
        )
    return arrays, meta


def restore_generator(state: dict[str, Any]) -> np.random.Generator:
    """Bring a stored generator back.

    Parameters
    ----------
    state : dict
        ``generator.bit_generator.state``, possibly through JSON.

    Returns
    -------
    numpy.random.Generator
        It draws what the stored one would have drawn next.

    Raises
    ------
    ValueError
        If the kind of generator is unknown, or the state is not one of its own.
    """
    kind = state.get("bit_generator") if isinstance(state, dict) else None
    if kind not in GENERATORS:
        raise ValueError(f"generator: expected one of {', '.join(GENERATORS)}, got {kind!r}")
    bits = getattr(np.random, str(kind))()
    try:
        bits.state = state
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"generator: expected a state of {kind}, got another ({error!r})") from error
    return np.random.Generator(bits)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
