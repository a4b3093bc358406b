"""The ledger's file: JSON lines that are on disk before anything follows, held by one process.

>>> import tempfile
>>> journal = Journal(Path(tempfile.mkdtemp()) / "ledger.jsonl")
>>> journal.append({"op": "budget", "rows": 10})
>>> list(journal.entries())
[{'op': 'budget', 'rows': 10}]
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from graftkit.core.validation import raise_invalid

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows: nothing keeps a second process away
    fcntl = None  # type: ignore[assignment]

__all__ = ["Journal"]

OPERATIONS = ("budget", "reserve", "commit", "fail")


class Journal:
    """An append-only file.

    Parameters
    ----------
    path : pathlib.Path
        It is made, or continued.

    Raises
    ------
    ValueError
        If another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Unbuffered: what was written is the kernel's, and survives the death of this process.
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise_invalid("path", str(path), "a ledger that no other process has open")

    def entries(self) -> Iterator[dict[str, Any]]:
        """What is in it; a line that a dying process tore off is cut away: its query was never sent.

        Yields
        ------
        dict
            One a line.
        """
        os.lseek(self._file, 0, os.SEEK_SET)
        size, data = os.fstat(self._file).st_size, b""
        while len(data) < size:
            data += os.read(self._file, size - len(data))
        whole = data[: data.rfind(b"\n") + 1]
        for line in whole.splitlines():
            try:
                entry = json.loads(line)
                known = entry["op"] in OPERATIONS
            except (ValueError, KeyError, TypeError):
                known = False
            if not known:
                self.refuse()
            yield entry
        os.ftruncate(self._file, len(whole))

    def append(self, entry: dict[str, Any]) -> None:
        """Write a line, and wait until it is on disk.

        Parameters
        ----------
        entry : dict
            As JSON holds it.

        Raises
        ------
        OSError
            If the disk takes no more; the entry is then not in the file.
        """
        # One write a line, so that a line is torn only at the end.
        line = (json.dumps(entry) + "\n").encode()
        whole = os.fstat(self._file).st_size
        try:
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, whole)  # a half line would be joined to the next entry
            raise

    def refuse(self) -> NoReturn:
        """Say that this is no ledger.

        Raises
        ------
        ValueError
            Always.
        """
        raise_invalid("path", str(self.path), "a ledger of QEDG, JSON lines")

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)
