"""Features on disk, for data sets that are visited many times: a safetensors file an image, named by content.

A key is a digest of the picture, of the settings and of the model (its configuration, a sample of its
weights, and how adapters and FreeU are set), so a changed image, request or LoRA is another entry. Files
appear whole or not at all; a killed run goes on where it was.

>>> import tempfile
>>> cache = FeatureCache(tempfile.mkdtemp())
>>> cache.put("k", {"a": torch.ones(2, 3, 3)}); cache.get("k")["a"].shape
torch.Size([2, 3, 3])
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from graftkit.core.files import readable_file, whole_file
from graftkit.core.validation import check_integer, raise_invalid

__all__ = ["FeatureCache", "content_key", "fingerprint"]

MANIFEST = "manifest.json"
# In no configuration and no weight, and yet they count: a LoRA's scales and state, FreeU's factors.
SWITCHES = ("scaling", "_active_adapter", "_disable_adapters", "s1", "s2", "b1", "b2")


class FeatureCache:
    """A folder of feature maps.

    It is a mapping from keys, and, once ``extract_features`` has finished, a sequence in the data set's
    order, so that it can stand as a torch ``Dataset``.

    Parameters
    ----------
    folder : path-like
        Created if it is not there.

    Raises
    ------
    TypeError
        If `folder` is no path.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        if not isinstance(folder, str | os.PathLike):
            raise_invalid("folder", folder, "a path", error=TypeError)
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._stamp: tuple[int, ...] | None = None  # of the manifest that was read last
        self._keys: list[str] = []

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._path(key).is_file()

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The maps of a key.

        Parameters
        ----------
        key : str
            As ``content_key`` makes it.

        Returns
        -------
        dict of str to Tensor of shape (C, H, W), or None
            ``None`` if there is no such entry. The order is that of writing.

        Raises
        ------
        ValueError
            If the entry's file is damaged; delete it, and the next extraction writes it again.
        """
        path = self._path(key)
        if not path.is_file():
            return None
        with readable_file(path, "feature maps in safetensors"):
            tensors: dict[str, Tensor] = load_file(path)
            order = sorted(tensors, key=lambda name: int(name.split(":", 1)[0]))
            return {name.split(":", 1)[1]: tensors[name] for name in order}

    def put(self, key: str, features: Mapping[str, Tensor]) -> None:
        """Store maps under a key; what was there is replaced in one step.

        Parameters
        ----------
        key : str
            The key.
        features : mapping of str to Tensor of shape (C, H, W)
            The maps.

        Raises
        ------
        TypeError
            If `features` is no mapping of names to tensors.
        ValueError
            If there is no map.
        """
        if not isinstance(features, Mapping) or not all(isinstance(t, Tensor) for t in features.values()):
            raise_invalid("features", features, "a mapping of names to maps", error=TypeError)
        if not features:
            raise_invalid("features", features, "at least one map")
        # safetensors orders by name; the position in front keeps ours.
        numbered = {
            f"{i:04d}:{name}": t.detach().cpu().contiguous() for i, (name, t) in enumerate(features.items())
        }
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as part:
            part.write(save(numbered))

    def keys(self) -> Iterator[str]:
        """Every key.

        Yields
        ------
        str
            In no particular order.
        """
        yield from (path.stem for path in self.folder.glob("??/*.safetensors"))

    @property
    def nbytes(self) -> int:
        """Size on disk.

        Returns
        -------
        int
            Bytes of all entries.
        """
        return sum(path.stat().st_size for path in self.folder.glob("??/*.safetensors"))

    @property
    def order(self) -> list[str]:
        """Keys in the data set's order.

        Returns
        -------
        list of str
            Empty until an extraction has finished.
        """
        return list(self._manifest())

    def _manifest(self) -> list[str]:
        """The keys, read again only where the file is another one: an epoch asks once an item."""
        path = self.folder / MANIFEST
        if not path.is_file():
            return []
        found = path.stat()
        stamp = found.st_ino, found.st_mtime_ns, found.st_size
        if stamp != self._stamp:
            with readable_file(path, "the order of a finished extraction"):
                self._keys = [str(key) for key in json.loads(path.read_text(encoding="utf-8"))["keys"]]
            self._stamp = stamp
        return self._keys

    def write_order(self, keys: list[str]) -> None:
        """Say which entry belongs to which item of the data set.

        Parameters
        ----------
        keys : list of str
            One an item.
        """
        with whole_file(self.folder / MANIFEST) as part:
            part.write(json.dumps({"keys": keys}).encode())

    def __len__(self) -> int:
        return len(self._manifest()) or sum(1 for _ in self.keys())

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        order, place = self._manifest(), check_integer("index", index)
        if not -len(order) <= place < len(order):  # an IndexError ends a loop over the items
            raise IndexError(f"index: expected an item of {len(order)}, got {place}")
        found = self.get(order[place])
        if found is None:
            raise KeyError(f"index {index}: the entry {order[index]} is gone")
        return found

    def __repr__(self) -> str:
        return f"FeatureCache({str(self.folder)!r}: {len(self)} items, {self.nbytes / 2**20:.1f} MiB)"

    def _path(self, key: str) -> Path:
        if not isinstance(key, str):
            raise_invalid("key", key, "letters and digits", error=TypeError)
        name = key if len(key) > 2 else f"{key:_<3}"
        if not name.replace("_", "").isalnum():
            raise_invalid("key", key, "letters and digits")
        return self.folder / name[:2] / f"{name}.safetensors"


def content_key(pixels: Tensor, settings: Mapping[str, Any], model: str) -> str:
    """A key that changes with the picture, the settings and the model.

    Parameters
    ----------
    pixels : Tensor of shape (C, H, W)
        What is encoded.
    settings : mapping
        JSON values.
    model : str
        As ``fingerprint`` gives it.

    Returns
    -------
    str
        40 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps([dict(settings), model, list(pixels.shape)], sort_keys=True).encode())
    digest.update(pixels.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:40]


def fingerprint(pipe: Any, sample: int = 64) -> str:
    """A digest of a pipeline's models: configurations, switches, some elements of every parameter and buffer.

    Parameters
    ----------
    pipe : DiffusionFeaturePipeline
        The pipeline.
    sample : int, default=64
        Elements per tensor, evenly spread.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, part in sorted(pipe.components.items()):
        digest.update(name.encode())
        if hasattr(part, "config"):
            config = part.config if isinstance(part.config, Mapping) else part.config.to_dict()
            # Private entries hold paths, versions and sets whose order differs from process to process.
            kept = {key: value for key, value in config.items() if not key.startswith("_")}
            kept.pop("transformers_version", None)
            digest.update(json.dumps(kept, sort_keys=True, default=str).encode())
        if isinstance(part, torch.nn.Module):
            for key, tensor in sorted(part.state_dict().items()):
                flat = tensor.detach().reshape(-1)
                chosen = flat[:: max(1, flat.numel() // sample)]
                digest.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
                digest.update(chosen.double().cpu().numpy().tobytes())
            for key, module in part.named_modules():
                given = vars(module)
                switches = {name: given[name] for name in SWITCHES if given.get(name) is not None}
                if switches:
                    digest.update(json.dumps([key, switches], sort_keys=True, default=str).encode())
    return digest.hexdigest()
