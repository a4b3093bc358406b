"""Files that are there whole or not at all, whenever the process dies.

Not across a power cut, which may keep the new name and lose the content: that takes an fsync before the block
ends, as QEDG has for queries that are paid for. What is torn is refused by its name (`readable_file`).

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

__all__ = ["readable_file", "whole_file"]


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


@contextmanager
def readable_file(path: str | os.PathLike[str], expected: str) -> Iterator[None]:
    """Give whatever a damaged or foreign file causes one form: a ValueError that names the file.

    Parameters
    ----------
    path : str or path-like
        The file that is read in the block.
    expected : str
        What it should be.

    Yields
    ------
    None
        The system's own errors, such as that of a missing file, pass.

    Raises
    ------
    ValueError
        For any other error in the block.
    """
    name = Path(path).name
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # a damaged file fails in many ways; the answer is the same
        if isinstance(error, ValueError) and name in str(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{name}: expected {expected}, could not read it ({reason})") from error
