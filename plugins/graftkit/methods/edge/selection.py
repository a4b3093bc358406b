"""Choosing the outlier set: candidates in the order of their dilation distance from the known data.

Which direction is better is **unverified**: the paper's text could not be read. A small distance means
outliers near the known data; in the specification's toy the nearest set gave the best AUROC on near OOD and
clearly not on far OOD. So `rank` does not judge, and `select` wants to be told.
``tests/benchmarks/bench_edge.py --only selector`` measures the rank correlation of distance and AUROC.

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> known, near, far = (rng.normal(m, 1, (128, 16)) for m in (0, 0.5, 5))
>>> selector = OEDatasetSelector(k=4).fit(known).add("far", far).add("near", near)
>>> selector.select(1, prefer="smallest")
['near']
"""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from graftkit.core.validation import check_bool, check_choice, check_integer, check_iterable, raise_invalid
from graftkit.methods.edge.spectra import batch_spectrum, dilation_distance, read_features, set_spectrum

__all__ = ["NotFittedError", "OEDatasetSelector", "overlapping_files"]


class NotFittedError(ValueError, AttributeError):
    """A selector was asked before it had seen the known data; scikit-learn's bases of that name."""


class OEDatasetSelector:
    """Ranks candidate outlier sets by their dilation distance from the known data.

    Parameters
    ----------
    k : int, default=32
        Singular values that take part; at most min(B, D).
    batch_size : int, default=64
        B, the same on both sides.
    level : {"batch", "set"}, default="batch"
        Mean spectrum of batches, as published, or one spectrum of the whole set that does not depend on its
        size (our extension; `batch_size` is not used).
    center : bool, default=False
        Subtract the mean of each batch or set (our extension).
    fast : bool, default=False
        Use Gram matrices for batches: several times faster, fewer digits in small values.

    Attributes
    ----------
    id_spectrum_ : Tensor of float64, shape (r,)
        Of the known data.
    spectra_ : dict of str to Tensor of shape (r,)
        Of the candidates.
    n_features_in_ : int
        Width of the features.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If it is out of range.

    Notes
    -----
    Features are those after a backbone's global pooling, in eval mode, each set in passes of its own:
    `graftkit.timm.pooled_features` gives them.
    """

    def __init__(
        self,
        k: int = 32,
        *,
        batch_size: int = 64,
        level: str = "batch",
        center: bool = False,
        fast: bool = False,
    ) -> None:
        self.k = check_integer("k", k, low=1)
        self.batch_size = check_integer("batch_size", batch_size, low=1)
        self.level: str = check_choice("level", level, ("batch", "set"))
        self.center = check_bool("center", center)
        self.fast = check_bool("fast", fast)

    def __repr__(self) -> str:
        return (
            f"OEDatasetSelector(k={self.k}, batch_size={self.batch_size}, level={self.level!r}, "
            f"center={self.center}, fast={self.fast})"
        )

    def fit(self, id_features: Any) -> "OEDatasetSelector":
        """Take the known data's spectrum; candidates of an earlier fit are forgotten.

        Parameters
        ----------
        id_features : array-like or Tensor of shape (n, D)
            Features of the known data, at least `batch_size` rows.

        Returns
        -------
        OEDatasetSelector
            Itself.

        Raises
        ------
        ValueError
            If rows are too few, not finite, or `k` exceeds min(B, D).
        """
        table = read_features(id_features, "id_features")
        width = table.shape[1]
        limit = width if self.level == "set" else min(self.batch_size, width)
        if self.k > limit:
            raise_invalid(
                "k", self.k, f"at most min(batch_size, D) = {limit}, for features of width D = {width}"
            )
        spectrum = self._spectrum(table)
        self.id_spectrum_, self.n_features_in_ = spectrum, width
        self.spectra_: dict[str, Tensor] = {}
        return self

    def add(self, name: str, features: Any) -> "OEDatasetSelector":
        """Add a candidate; one of the same name is replaced.

        Parameters
        ----------
        name : str
            How the candidate is called.
        features : array-like or Tensor of shape (n, D)
            Its features, from the same backbone.

        Returns
        -------
        OEDatasetSelector
            Itself.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        TypeError
            If the name is no string.
        ValueError
            If the set is empty, has too few rows, or features of another width.
        """
        self._check_fitted()
        if not isinstance(name, str):
            raise_invalid("name", name, "a string", error=TypeError)
        table = read_features(features)
        if table.shape[1] != self.n_features_in_:
            raise_invalid("features", table, f"{self.n_features_in_} features a row, as the known data have")
        self.spectra_[name] = self._spectrum(table)
        return self

    def rank(self) -> list[tuple[str, float]]:
        """All candidates with their distances, the nearest first; no judgement.

        Returns
        -------
        list of (str, float)
            Name and dilation distance; ties in the order in which they were added.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        ValueError
            If there is no candidate.
        """
        self._check_fitted()
        if not self.spectra_:
            raise_invalid("candidates", 0, "at least one", fix='Call add("name", features) first.')
        distances = {
            name: dilation_distance(self.id_spectrum_, spectrum, self.k)
            for name, spectrum in self.spectra_.items()
        }
        return sorted(distances.items(), key=lambda item: item[1])

    def select(self, n: int = 1, *, prefer: str) -> list[str]:
        """Name the n nearest or the n farthest candidates; the choice is yours.

        Parameters
        ----------
        n : int, default=1
            How many.
        prefer : {"smallest", "largest"}
            Which end of the ranking; there is no default, because nobody knows (see the module).

        Returns
        -------
        list of str
            Names, the preferred first.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        TypeError
            If `n` is no integer.
        ValueError
            If `n` exceeds the candidates or `prefer` is unknown.
        """
        check_choice("prefer", prefer, ("smallest", "largest"))
        ranking = self.rank()
        check_integer("n", n, low=1, high=len(ranking))
        return [name for name, _ in (ranking if prefer == "smallest" else ranking[::-1])[:n]]

    def _spectrum(self, table: Tensor) -> Tensor:
        if self.level == "set":
            return set_spectrum(table, center=self.center).cpu()
        return batch_spectrum(table, self.batch_size, center=self.center, fast=self.fast).cpu()

    def _check_fitted(self) -> None:
        if not hasattr(self, "id_spectrum_"):
            raise NotFittedError("OEDatasetSelector is not fitted: call fit(id_features) first")


def overlapping_files(
    one: Iterable[str | PathLike[str]], other: Iterable[str | PathLike[str]]
) -> list[tuple[Path, Path]]:
    """Find files that two sets share by content, such as outliers for training and OOD pictures for tests.

    Parameters
    ----------
    one, other : iterable of path
        Files. Copies under other names are found, re-encoded pictures are not.

    Returns
    -------
    list of (Path, Path)
        Pairs of equal content, in the order of `one`; empty if the sets are disjoint.

    Raises
    ------
    OSError
        If a file cannot be read.
    """
    import hashlib

    def digest(path: Path) -> bytes:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    paths = [_paths("one", one), _paths("other", other)]
    known: dict[bytes, list[Path]] = {}
    for path in paths[1]:
        known.setdefault(digest(path), []).append(path)
    return [(path, twin) for path in paths[0] for twin in known.get(digest(path), [])]


def _paths(name: str, files: Any) -> list[Path]:
    listed = list(check_iterable(name, files, "paths of files"))
    for entry in listed:
        if not isinstance(entry, str | PathLike):
            raise_invalid(name, entry, "paths of files", error=TypeError)
    return [Path(entry) for entry in listed]
