"""A full disk, a folder that cannot be written: an OSError, the file as it was, the object as it was.

Tests run as root, whom permissions do not stop: folders that refuse are stood in for by paths under a file
and by an `open` that fails as on a read-only file system. Interrupted writes:
tests/plugins/core/test_files.py.
"""

import contextlib
import errno
import io
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from graftkit.core import files
from graftkit.methods.qedg.journal import Journal
from tests.faults.stored import STORED, Stored

# What the library itself writes; the others are written by the test.
WRITTEN = {
    name: stored
    for name, stored in STORED.items()
    if name
    not in ("LabelTree as JSON", "LabelTree as edges", "selection", "libcml split", "users.dat", "label map")
}
MAKE_FOLDERS = ("FeatureCache's maps", "FeatureCache's manifest", "Graphon", "QEDG's state", "Records")
HOME = {"FeatureCache's maps": ("ab", "abcd.safetensors"), "QEDG's state": ("run", "qedg.pt")}


def prepared(stored: Stored) -> Any:
    if stored.needed != "torch":
        pytest.importorskip(stored.needed, reason=f"needs {stored.needed}")
    return stored.build()


def target(name: str, folder: Path) -> tuple[Path, Path]:
    """The path that the writer is given, and the file that it writes."""
    given = folder / Path(STORED[name].suffix).name
    return given, folder.joinpath(*HOME[name]) if name in HOME else given


class Full(io.FileIO):
    """A file on a disk with room for `limit` bytes."""

    limit = 0

    def write(self, data: Any) -> int:
        room = max(0, self.limit - self.tell())
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(bytes(data)[:room])


@contextlib.contextmanager
def full_disk(limit: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = Path.open

    def opened(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode != "xb":
            return real(self, mode, *args, **kwargs)
        raw = Full(str(self), "x")
        raw.limit = limit
        return io.BufferedWriter(raw)

    with monkeypatch.context() as patch:
        patch.setattr(files.Path, "open", opened)
        yield


@contextlib.contextmanager
def limited(limit: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernel's own refusal: no file of this process may grow beyond `limit`."""
    del monkeypatch
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def read_only(limit: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    del limit
    real = Path.open

    def opened(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode != "r" and set(mode) & set("wxa+"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        return real(self, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(files.Path, "open", opened)
        yield


DISKS: dict[str, tuple[Callable[..., Any], set[int]]] = {
    "full": (full_disk, {errno.ENOSPC}),
    "limited": (limited, {errno.EFBIG}),
    "read-only": (read_only, {errno.EROFS}),
}


@pytest.mark.parametrize("disk", DISKS)
@pytest.mark.parametrize("name", WRITTEN)
def test_a_disk_that_refuses_leaves_file_and_object_as_they_were(tmp_path, monkeypatch, name, disk):
    stored, (refusing, numbers) = WRITTEN[name], DISKS[disk]
    one = prepared(stored)
    given, path = target(name, tmp_path)
    stored.write(one, given)
    whole = path.read_bytes()
    for limit in (0, len(whole) // 2, len(whole) - 1):
        for file in sorted(set(tmp_path.rglob("*")) - {path}):
            if file.is_file() and file.name != "run.json":
                file.unlink()
        before = listing(tmp_path)
        with pytest.raises(OSError, match=r".") as caught, refusing(limit, monkeypatch):
            stored.write(one, given)
        assert caught.value.errno in numbers
        assert listing(tmp_path) == before, "something half-written, or the old file gone"
    stored.write(one, given)  # the object is as it was: it writes the same
    assert stripped(path.read_bytes()) == stripped(whole)


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stripped(content: bytes) -> bytes | int:
    """Archives hold the time of writing, safetensors have metadata in any order: their sizes are compared."""
    return len(content) if content[:2] == b"PK" or b"__metadata__" in content[:30] else content


@pytest.mark.parametrize("name", WRITTEN)
def test_a_file_where_a_folder_should_be(tmp_path, name):
    stored = WRITTEN[name]
    one = prepared(stored)
    (tmp_path / "file").write_text("x")
    given, _ = target(name, tmp_path / "file")
    # QEDG's and the cache's folders are arguments of their own, refused by name.
    with pytest.raises((OSError, ValueError), match=r"file"):
        stored.write(one, given)
    assert listing(tmp_path) == {str(tmp_path / "file"): b"x"}


@pytest.mark.parametrize("name", [name for name in WRITTEN if name not in MAKE_FOLDERS])
def test_a_folder_that_is_missing(tmp_path, name):
    """Those that write one file; caches, runs and benchmarks make their folder."""
    stored = WRITTEN[name]
    one = prepared(stored)
    with pytest.raises(FileNotFoundError, match=r"missing"):
        stored.write(one, target(name, tmp_path / "missing")[0])
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_on_a_full_disk_tears_no_line(tmp_path, monkeypatch):
    """A failed entry leaves no half line behind, which the next one would be joined to."""
    journal = Journal(tmp_path / "qedg.jsonl")
    journal.append({"op": "budget", "rows": 10})
    real, calls = os.write, []

    def full(file: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) == 1:
            return real(file, data[:7])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space") as caught:
            journal.append({"op": "reserve", "rows": 4})
    assert caught.value.errno == errno.ENOSPC
    journal.append({"op": "reserve", "rows": 2})
    assert list(journal.entries()) == [{"op": "budget", "rows": 10}, {"op": "reserve", "rows": 2}]
    journal.close()


def test_an_extraction_on_a_full_disk_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("diffusers", reason="needs diffusers")
    from graftkit.diffusers import FeatureCache, extract_features
    from tests.adapters.diffusers.extraction_cases import ARGUMENTS, make_pipe, pictures

    pipe, put, done = make_pipe(), FeatureCache.put, []

    def until_full(self: Any, key: str, maps: Any) -> None:
        if len(done) == 2:
            with full_disk(100, monkeypatch):
                put(self, key, maps)
        done.append(key)
        put(self, key, maps)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureCache, "put", until_full)
        with pytest.raises(OSError, match="No space"):
            extract_features(pipe, pictures(), tmp_path / "cache", **ARGUMENTS)
    left = FeatureCache(tmp_path / "cache")
    assert sorted(left.keys()) == sorted(done)
    assert left.order == []
    found = extract_features(pipe, pictures(), tmp_path / "cache", **ARGUMENTS)
    alone = extract_features(pipe, pictures(), tmp_path / "alone", **ARGUMENTS)
    assert found.order == alone.order
    for k in range(5):
        for name, value in alone[k].items():
            torch.testing.assert_close(found[k][name], value, atol=1e-5, rtol=0)
