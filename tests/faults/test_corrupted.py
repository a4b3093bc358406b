"""Empty, cut, flipped and foreign files: every reader says ValueError with the file's name, and runs nothing.

Flipped bits that a file without a checksum cannot know of give other values; nothing else may come of them.
QEDG's ledgers, HGOE's cache (which is built again, with a warning) and optimizer and bank states of their own
classes are damaged in tests/plugins/qedg/test_resume.py, tests/plugins/hgoe/test_exposure.py,
tests/plugins/sse_sam/test_state.py and tests/plugins/aucseg/test_bank_state.py.
"""

import io
import os
import pickle
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.faults.stored import STORED, Stored

READ = {name: stored for name, stored in STORED.items() if stored.read is not None}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def saved(stored: Stored, folder: Path) -> Path:
    if stored.needed != "torch":
        pytest.importorskip(stored.needed, reason=f"needs {stored.needed}")
    path = folder / stored.suffix
    path.parent.mkdir(parents=True, exist_ok=True)
    if stored.suffix == "ab/abcd.safetensors":
        stored.write(stored.build(), folder / path.name)
    else:
        stored.write(stored.build(), path)
    return path


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, b"x")
    return buffer.getvalue()


def torch_bytes(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


FOREIGN = {
    "empty": b"", "a zero": b"\0", "text": b"hello world, no such thing\n", "binary": bytes(range(256)) * 9,
    "JSON list": b"[1, 2]", "JSON number": b"3", "JSON null": b"null", "JSON object": b'{"a": 1}',
    "a picture": b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "an archive of nothing": archive(),
    "an archive of something": archive("a", "b"), "a pickle": pickle.dumps({"a": 1}),
    "a torch file": torch_bytes({"a": torch.zeros(2)}), "a torch list": torch_bytes([1]),
}  # fmt: skip


def refuses(stored: Stored, path: Path) -> str | None:
    """What is wrong with the answer to a file that is no good, or None."""
    try:
        stored.read(path)
    except (ValueError, *stored.own) as error:
        return (
            None
            if path.name in str(error)
            else f"{type(error).__name__} without the file: {str(error)[:160]}"
        )
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:160]}"
    return "was read"


@pytest.mark.parametrize("name", READ)
def test_what_is_whole_is_read(tmp_path, name):
    READ[name].read(saved(READ[name], tmp_path))


@pytest.mark.parametrize("name", READ)
def test_foreign_files_are_refused_by_name(tmp_path, name):
    stored, faults = READ[name], {}
    for k, (kind, content) in enumerate(FOREIGN.items()):
        path = saved(stored, tmp_path / str(k))
        path.write_bytes(content)
        fault = refuses(stored, path)
        if fault is not None and not (fault == "was read" and kind in HARMLESS.get(name, ())):
            faults[kind] = fault
    assert faults == {}


# Foreign contents that are well-formed all the same.
HARMLESS = {
    "LabelTree as edges": ("JSON list", "JSON object"),
    "LabelTree as CSV": ("pickle, protocol 0",),
}


@pytest.mark.parametrize("name", READ)
def test_cut_files_are_refused_by_name(tmp_path, name):
    stored, faults = READ[name], {}
    whole = saved(stored, tmp_path / "whole").read_bytes()
    for k, size in enumerate(sorted({1, len(whole) // 10, len(whole) // 2, len(whole) - 4, len(whole) - 2})):
        path = saved(stored, tmp_path / str(k))
        path.write_bytes(whole[:size])
        fault = refuses(stored, path)
        # A list of lines that ends early is a shorter list; all pixels come before a picture's end mark.
        lines = name in ("LabelTree as CSV", "LabelTree as edges", "users.dat")
        lines |= name == "label map" and size > len(whole) - 12  # the mark of the end, no pixel
        if fault is not None and not (lines and fault == "was read"):
            faults[size] = fault
    assert faults == {}


@pytest.mark.parametrize("name", READ)
def test_flipped_bits_are_refused_or_give_other_values(tmp_path, name):
    stored, faults, rng = READ[name], {}, random.Random(0)
    whole = saved(stored, tmp_path / "whole").read_bytes()
    # The beginning holds headers; the rest is sampled.
    places = [rng.randrange(min(200, len(whole))) for _ in range(10)] + [
        rng.randrange(len(whole)) for _ in range(8)
    ]
    for k, place in enumerate(places):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path = saved(stored, tmp_path / str(k))
        path.write_bytes(bytes(damaged))
        fault = refuses(stored, path)
        if fault is not None and fault != "was read":
            faults[place] = fault
    assert faults == {}


class Bomb:
    """Writes a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def bombs(marker: Path) -> dict[str, bytes]:
    bomb = Bomb(marker)
    objects, archived = io.BytesIO(), io.BytesIO()
    np.save(objects, np.array([bomb], dtype=object), allow_pickle=True)
    np.savez(archived, __meta__=np.array([bomb], dtype=object), data=np.array([bomb], dtype=object))
    found: dict[str, Callable[[], bytes]] = {
        "pickle": lambda: pickle.dumps(bomb),
        "pickle, protocol 0": lambda: pickle.dumps(bomb, protocol=0),
        "torch": lambda: torch_bytes({"tensors": bomb, "round": bomb}),
        "torch, old": lambda: torch_bytes({"tensors": bomb}, _use_new_zipfile_serialization=False),
        "array of objects": objects.getvalue,
        "archive of objects": archived.getvalue,
    }
    return {kind: make() for kind, make in found.items()}


@pytest.mark.parametrize("name", READ)
def test_nothing_in_a_file_is_run(tmp_path, name):
    stored, marker, faults = READ[name], tmp_path / "exploded", {}
    for k, (kind, content) in enumerate(bombs(marker).items()):
        path = saved(stored, tmp_path / str(k))
        path.write_bytes(content)
        fault = refuses(stored, path)
        if fault is not None and not (fault == "was read" and kind in HARMLESS.get(name, ())):
            faults[kind] = fault
        assert not marker.exists(), f"{kind} was run"
    assert faults == {}


def test_the_bombs_go_off_where_files_are_unpickled(tmp_path):
    for k, (kind, content) in enumerate(bombs(tmp_path / "exploded").items()):
        if kind.startswith("torch"):
            torch.load(io.BytesIO(content), weights_only=False)
        elif "objects" in kind:
            loaded = np.load(io.BytesIO(content), allow_pickle=True)
            _ = loaded["data"] if kind.startswith("archive") else loaded
        else:
            pickle.loads(content)
        assert (tmp_path / "exploded").is_dir(), f"{kind} is a dud, {k}"
        (tmp_path / "exploded").rmdir()


def test_the_file_is_named_as_its_own():
    """What `refuses` looks for could not be any message's words."""
    assert all(re.fullmatch(r"[\w/]+\.\w+", stored.suffix) for stored in READ.values())
