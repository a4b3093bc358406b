"""Readers of the public code's files, and a generated catalogue with minority interests.

>>> generated = make_multi_interest(n_users=20, n_items=30, n_groups=3, random_state=0)
>>> generated.train.shape, generated.groups.shape
((20, 30), (30,))
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from graftkit.core.files import readable_file
from graftkit.core.random import numpy_generator
from graftkit.core.validation import check_integer, raise_invalid
from graftkit.methods.dpcml.interactions import from_pairs, read_interactions

__all__ = ["MultiInterest", "load_libcml_split", "load_users_dat", "make_multi_interest"]

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MultiInterest:
    """Generated interactions of users with a large and a small interest.

    Parameters
    ----------
    train, test : csr_matrix of shape (n_users, n_items)
        The test matrix holds one item of each user's small interest.
    groups : ndarray of int, shape (n_items,)
        Group of each item.
    tastes : ndarray of int, shape (n_users, 2)
        Group of each user's large and small interest.
    """

    train: sp.csr_matrix
    test: sp.csr_matrix
    groups: IntArray
    tastes: IntArray


def load_users_dat(path: str | Path, *, min_interactions: int = 1) -> sp.csr_matrix:
    """Read a file with one line a user: the number of items, then their ids.

    Parameters
    ----------
    path : str or Path
        The file, such as CiteULike's ``users.dat``.
    min_interactions : int, default=1
        Users with fewer are dropped, and items keep their ids.

    Returns
    -------
    csr_matrix of shape (n_users, n_items)
        Interactions, users in the file's order.

    Raises
    ------
    ValueError
        If a line's count is not the number of its items, or no user is left.
    TypeError
        If `min_interactions` is no integer, or `path` no path.
    """
    check_integer("min_interactions", min_interactions, low=1)
    if not isinstance(path, str | Path):
        raise_invalid("path", path, "a path", error=TypeError)
    rows, largest = [], -1
    with readable_file(path, "lines of integers"):
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            count, *items = map(int, line.split() or ["0"])
        except ValueError as error:
            raise ValueError(f"{Path(path).name}: expected integers in line {number}") from error
        if count != len(items):
            raise ValueError(
                f"{Path(path).name}: expected {count} items in line {number} as its first number says, got "
                f"{len(items)}"
            )
        largest = max(largest, *items, -1)
        if count >= min_interactions:
            rows.append(np.unique(items))
    if not rows:
        raise ValueError(
            f"{Path(path).name}: expected a user with {min_interactions} item(s) or more, got none"
        )
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return from_pairs(users, np.concatenate(rows), len(rows), largest + 1)


def load_libcml_split(folder: str | Path) -> tuple[sp.csr_matrix, sp.csr_matrix, sp.csr_matrix]:
    """Read the authors' split: ``user_{train,val,test}_matrix.npz`` of one folder.

    Parameters
    ----------
    folder : str or Path
        Such as ``steam-200k/np_data``.

    Returns
    -------
    train, val, test : csr_matrix of shape (n_users, n_items)
        Read without pickle.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    TypeError
        If `folder` is no path.
    ValueError
        If the shapes differ, or a file is damaged.
    """
    if not isinstance(folder, str | Path):
        raise_invalid("folder", folder, "a path", error=TypeError)
    parts = []
    for name in ("train", "val", "test"):
        path = Path(folder) / f"user_{name}_matrix.npz"
        if not path.exists():
            raise FileNotFoundError(
                f"{path.name}: expected in {Path(folder).name}, with those of the other parts"
            )
        with readable_file(path, "a sparse matrix as scipy saves it"):
            parts.append(read_interactions(sp.load_npz(path), path.name))
    if len({part.shape for part in parts}) > 1:
        raise_invalid("folder", folder, f"three matrices of one shape, not {[part.shape for part in parts]}")
    return parts[0], parts[1], parts[2]


def make_multi_interest(
    n_users: int = 200,
    n_items: int = 60,
    n_groups: int = 6,
    *,
    n_major: int = 8,
    n_minor: int = 3,
    random_state: Any = None,
) -> MultiInterest:
    """Users who like many items of one group and a few of another.

    Parameters
    ----------
    n_users : int, default=200
        Users.
    n_items : int, default=60
        Items, in groups of near-equal size.
    n_groups : int, default=6
        Groups, at least 2.
    n_major : int, default=8
        Items of the large interest, all in training.
    n_minor : int, default=3
        Items of the small interest, of which one is held out; at least 2.
    random_state : None, int, Generator or RandomState, default=None
        Seed.

    Returns
    -------
    MultiInterest
        Training and test interactions with the groups.

    Raises
    ------
    ValueError
        If a group is too small for what users take from it, or a count is too small.
    TypeError
        If a count is no integer.
    """
    check_integer("n_users", n_users, low=1)
    check_integer("n_groups", n_groups, low=2)
    check_integer("n_major", n_major, low=1)
    check_integer("n_minor", n_minor, low=2)
    check_integer("n_items", n_items, low=n_groups * max(n_major, n_minor))
    rng = numpy_generator(random_state)
    groups = np.sort(np.arange(n_items) % n_groups)
    members = [np.flatnonzero(groups == g) for g in range(n_groups)]
    tastes = np.stack([rng.choice(n_groups, 2, replace=False) for _ in range(n_users)])
    train, test = [], []
    for user, (major, minor) in enumerate(tastes):
        few = rng.choice(members[minor], n_minor, replace=False)
        many = rng.choice(members[major], n_major, replace=False)
        train += [(user, item) for item in np.concatenate((many, few[1:]))]
        test.append((user, few[0]))
    pairs = [np.array(part) for part in (train, test)]
    parts = [from_pairs(pair[:, 0], pair[:, 1], n_users, n_items) for pair in pairs]
    return MultiInterest(parts[0], parts[1], groups, tastes)
