"""Files that are there whole or not at all.

>>> import pathlib, tempfile
>>> target = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
>>> with whole_file(target) as part:
...     _ = part.write(b"all of it")
...     target.exists()
False
>>> target.read_text()
'all of it'
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

__all__ = ["whole_file"]


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file beside `path` that takes its place when the block ends, and vanishes when it fails.

    Parameters
    ----------
    path : str or path-like
        The target, in a folder that exists. What it held stays until the block has ended.

    Yields
    ------
    binary file
        To be written.
    """
    target = Path(path)
    # Opened as any file is, with the permissions of the user's umask; tempfile's are the owner's alone.
    part = target.with_name(f"{target.name}.{uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
