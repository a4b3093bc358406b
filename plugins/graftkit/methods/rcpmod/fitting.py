r"""Fitting over all pairs of views.

Pairs run in lexicographic order; with ``pairing="sequential"`` one autoencoder a view is handed from pair to
pair and a snapshot scores each. The result is a frozen model, `graftkit.methods.rcpmod.model.FittedPairs`.

Source: RCPMOD (ACM MM 2024), public code; specification sections 1.2 and 1.9. Unverified: whether the
paper's text describes the pairwise scheme.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any
from warnings import warn
from zlib import crc32

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed

from graftkit.core.devices import check_device
from graftkit.core.progress import progress_bar
from graftkit.methods.rcpmod.autoencoder import Autoencoder, unit_rows
from graftkit.methods.rcpmod.model import FittedPairs
from graftkit.methods.rcpmod.scaling import ViewScaler
from graftkit.methods.rcpmod.scores import (
    PairScorer,
    encode_pair,
    min_max,
    scale_errors,
    transductive_consistency,
)
from graftkit.methods.rcpmod.settings import Settings

__all__ = ["fit_pairs", "freeze_pair"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Callback = Callable[[int, dict[str, Any]], bool | None]

ALL_REFERENCES, SAMPLED_REFERENCES = 5_000, 2_048


def fit_pairs(
    arrays: list[npt.NDArray[np.floating]],
    mask: BoolArray,
    names: tuple[Hashable, ...],
    settings: Settings,
    rng: np.random.Generator,
    *,
    n_jobs: int | None = None,
    verbose: int = 0,
    callback: Callback | None = None,
    wrap: Callable[[Any], Any] | None = None,
    stacklevel: int = 2,
) -> tuple[FittedPairs, FloatArray, list[dict[str, Any]]]:
    """Train on every pair of views.

    Parameters
    ----------
    arrays : list of ndarray, each of shape (n, p_v)
        Raw views; rows of a missing view are not read.
    mask : ndarray of bool, shape (n, V)
        Which views each row has, at least one a row.
    names : tuple of hashable
        View names; they seed each view's initial weights, and each pair's draws, whatever the order of views.
    settings : Settings
        Hyper-parameters.
    rng : numpy.random.Generator
        Gives one root seed.
    n_jobs : int or None, default=None
        Pairs trained at once when they are independent.
    verbose : int, default=0
        1 shows a progress bar over epochs.
    callback : callable or None, default=None
        ``callback(epoch, losses)``; a true return ends the pair's training.
    wrap : callable or None, default=None
        Gets each encoder, a torch module, and returns what rows go through in training; for sharing them out
        among processes.
    stacklevel : int, default=2
        Frame that warnings point at; 2 is the caller.

    Returns
    -------
    model : FittedPairs
        Scores new rows.
    outlier_scores : ndarray of shape (n,)
        The published transductive score of the training rows, larger is more outlying. Above the number
        of references it equals the frozen score, whose denominator is sampled.
    curve : list of dict
        Losses of each pair and epoch.

    Raises
    ------
    ValueError
        If the device is not there, a pair shares too few rows to be learnt, or ``scale=None`` and
        inputs leave [0, 1].
    RuntimeError
        If training diverges.
    """
    check_device(settings.device)
    root = int(rng.integers(2**63))
    scalers = tuple(ViewScaler.fit(array[mask[:, v]], settings.scale) for v, array in enumerate(arrays))
    xs = [np.where(mask[:, [v]], scalers[v].transform(array), 0.0) for v, array in enumerate(arrays)]
    if settings.scale is None:
        _check_unit_interval(xs, names)
    pairs = tuple(combinations(range(len(arrays)), 2))
    _check_pairs(mask, names, pairs, settings, stacklevel)
    start = [
        Autoencoder.initial(x.shape[1], settings.hidden_layer_sizes, settings.latent_dim, _stream(root, name))
        for x, name in zip(xs, names, strict=True)
    ]
    with progress_bar(total=len(pairs) * settings.n_epochs, desc="RCPMOD", verbose=verbose) as bar:

        def fit_one(pair: tuple[int, int], networks: tuple[Autoencoder, Autoencoder]) -> _PairResult:
            return _fit_pair(pair, xs, mask, names, networks, settings, root, bar, callback, wrap)

        if settings.pairing == "independent":
            # Threads, whatever the backend: the bar and the callback live here.
            results = Parallel(n_jobs=n_jobs, require="sharedmem")(
                delayed(fit_one)((a, b), (start[a], start[b])) for a, b in pairs
            )
        else:
            results = []
            for a, b in pairs:
                results.append(fit_one((a, b), (start[a], start[b])))
                start[a], start[b] = results[-1].scorer.networks
    total = sum(np.where(result.member, result.scores, 0.0) for result in results)
    count = sum(result.member.astype(np.int64) for result in results)
    curve = [entry for result in results for entry in result.curve]
    model = FittedPairs(names, scalers, pairs, tuple(result.scorer for result in results))
    return model, np.asarray(total / count), curve


@dataclass(frozen=True)
class _PairResult:
    scorer: PairScorer
    scores: FloatArray  # (n,), 0 outside `member`
    member: BoolArray
    curve: list[dict[str, Any]]


def _fit_pair(
    pair: tuple[int, int],
    xs: list[FloatArray],
    mask: BoolArray,
    names: tuple[Hashable, ...],
    networks: tuple[Autoencoder, Autoencoder],
    settings: Settings,
    root: int,
    bar: Any,
    callback: Callback | None,
    wrap: Callable[[Any], Any] | None,
) -> _PairResult:
    from graftkit.methods.rcpmod.training import train_pair

    a, b = pair
    label = (names[a], names[b])
    member = mask[:, a] | mask[:, b]
    observed = mask[member][:, [a, b]]
    inputs = (xs[a][member], xs[b][member])
    rng = _stream(root, *sorted(map(str, label)))

    def on_epoch(epoch: int, losses: dict[str, float]) -> bool:
        bar.update()
        return bool(callback(epoch, {"pair": label, **losses})) if callback is not None else False

    trained, losses = train_pair(inputs, observed, networks, settings, rng, on_epoch, wrap)
    scorer, scores = freeze_pair(trained, inputs, observed, settings, rng)
    full = np.zeros(len(mask))
    full[member] = scores
    curve = [{"pair": label, "epoch": epoch, **entry} for epoch, entry in enumerate(losses)]
    return _PairResult(scorer, full, member, curve)


def freeze_pair(
    networks: tuple[Autoencoder, Autoencoder],
    xs: tuple[FloatArray, FloatArray],
    observed: BoolArray,
    settings: Settings,
    rng: np.random.Generator,
) -> tuple[PairScorer, FloatArray]:
    """Build the frozen scorer of a trained pair, and the transductive scores of its rows."""
    n = len(observed)
    latents, errors = encode_pair(networks, xs, observed)
    both = observed.all(axis=1)
    n_references = _reference_count(settings.n_reference, n)
    scorer = PairScorer(
        networks=networks,
        references=np.empty((0, settings.latent_dim)),
        n_rows=n,
        n_references=n_references,
        donors=(latents[0][both], latents[1][both]),
        error_range=np.column_stack((np.nanmin(errors, axis=0), np.nanmax(errors, axis=0))),
        n_neighbors=settings.n_neighbors,
        temperature=settings.temperature,
        recon_weight=settings.recon_weight,
    )
    unit = [unit_rows(z) for z in scorer.impute(latents, observed)]
    chosen = np.sort(rng.choice(n, size=n_references, replace=False))
    scorer = replace(scorer, references=np.concatenate([h[chosen] for h in unit]))
    scaled = scale_errors(errors, observed, scorer.error_range)
    consistency = scorer.consistency(unit[0], unit[1])
    total = scaled.sum(axis=1)
    scorer = replace(
        scorer,
        reconstruction_range=(float(total.min()), float(total.max())),
        consistency_range=(float(consistency.min()), float(consistency.max())),
    )
    if n_references < n:
        return scorer, scorer.score(scaled, consistency)
    published = transductive_consistency(unit[0], unit[1], settings.temperature)
    return scorer, settings.recon_weight * min_max(total) + min_max(published)


def _reference_count(n_reference: int | str, n: int) -> int:
    if n_reference == "auto":
        return n if n <= ALL_REFERENCES else SAMPLED_REFERENCES
    return min(int(n_reference), n)


def _stream(root: int, *labels: Hashable) -> np.random.Generator:
    """A generator that depends on the root seed and on names, not on order or on hash seeds."""
    return np.random.default_rng([root, *(crc32(str(label).encode()) for label in labels)])


def _check_pairs(
    mask: BoolArray,
    names: tuple[Hashable, ...],
    pairs: tuple[tuple[int, int], ...],
    settings: Settings,
    stacklevel: int,
) -> None:
    fewest = settings.n_neighbors
    for a, b in pairs:
        n_both = int((mask[:, a] & mask[:, b]).sum())
        # A row that misses one view borrows from rows that have both; an observed row needs a neighbour.
        admissible = min(
            n_both if (mask[:, v] != mask[:, w]).any() else n_both - 1 for v, w in ((a, b), (b, a))
        )
        admissible = min(admissible, int(mask[:, a].sum()) - 1, int(mask[:, b].sum()) - 1)
        if n_both == 0 or admissible < 1:
            raise ValueError(
                f"views {names[a]!r} and {names[b]!r}: expected rows observed in both (two, or one beside "
                f"others in each view), got {n_both}; the pair cannot be learnt"
            )
        fewest = min(fewest, admissible)
    if fewest < settings.n_neighbors:
        warn(
            f"n_neighbors={settings.n_neighbors} is more than the {fewest} neighbour(s) that some pair of "
            f"views offers; {fewest} will be used there",
            UserWarning,
            stacklevel=stacklevel + 1,
        )


def _check_unit_interval(xs: list[FloatArray], names: tuple[Hashable, ...]) -> None:
    for x, name in zip(xs, names, strict=True):
        if x.min() < 0 or x.max() > 1:
            raise ValueError(
                f"view {name!r}: expected values in [0, 1] with scale=None, got [{x.min():g}, {x.max():g}]. "
                "Use scale='feature' or 'global'"
            )
