"""Training and scoring of any detector with outlier exposure.

A detector that is not coupled within the batch sees ID graphs and outliers in one pass, so that batch
normalisation has the same statistics for both; a coupled (contrastive) one sees them in two, so that outliers
are no negatives of ID graphs.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch

from graftkit.core.progress import progress_bar
from graftkit.core.validation import check_integer, check_iterable, raise_invalid
from graftkit.pyg.hgoe_batches import join_batches
from graftkit.pyg.hgoe_detector import Scores, check_detector

__all__ = ["fit_outlier_exposure", "score_graphs"]


def fit_outlier_exposure(
    detector: Any,
    loader: Iterable[Any],
    loss: Any = None,
    optimizer: torch.optim.Optimizer | None = None,
    epochs: int = 40,
    callbacks: Sequence[Callable[[dict[str, float]], Any]] = (),
    verbose: int = 0,
    start_epoch: int = 0,
) -> list[dict[str, float]]:
    """Train a detector on ID graphs, with outliers where the loader gives them.

    Parameters
    ----------
    detector : GraphOODDetector
        A ``torch.nn.Module`` with the protocol's members; trained in place, on its own device.
    loader : iterable
        An `OutlierExposureLoader`, or any iterable of ID batches or of pairs ``(id, outliers)``.
    loss : callable or None, default=None
        Such as `BoundaryAwareOELoss`; called with outlier scores, ID scores and part weights. None trains
        on ID graphs alone.
    optimizer : torch.optim.Optimizer or None, default=None
        Adam with step size 1e-3 by default.
    epochs : int, default=40
        Passes over the ID graphs; the last one is kept, nothing is selected.
    callbacks : sequence of callable, default=()
        Each gets the epoch's record.
    verbose : int, default=0
        1 shows a progress bar.
    start_epoch : int, default=0
        Epochs that are done, for a detector and an optimizer whose states were loaded: the detector is not
        prepared again, and a loader with ``set_epoch`` goes on in that epoch's order.

    Returns
    -------
    list of dict
        "epoch", "loss", "id_loss", "oe_loss" and "seconds" of each epoch that was trained here.

    Raises
    ------
    TypeError
        If an argument has the wrong type, `detector` lacks a member of the protocol, `loader` can be iterated
        only once or gives no batches, or `loss` is given and the loader has no outliers.
    ValueError
        If scores have the wrong shape or are not finite, or the loader is empty.
    """
    check_detector(detector)
    check_iterable("loader", loader, "a loader or a list of batches")
    if isinstance(loader, Iterator):  # iter(loader) would start its workers
        raise_invalid(
            "loader", loader, "a loader or a list of batches, iterated once an epoch", error=TypeError
        )
    if loss is not None and not callable(loss):
        raise_invalid("loss", loss, "a callable or None", error=TypeError)
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise_invalid("optimizer", optimizer, "a torch optimizer or None", error=TypeError)
    for callback in check_iterable("callbacks", callbacks, "a sequence of callables"):
        if not callable(callback):
            raise_invalid("callbacks", callback, "a sequence of callables", error=TypeError)
    check_integer("epochs", epochs, low=0)
    check_integer("start_epoch", start_epoch, low=0)
    device = _device(detector)
    if optimizer is None:
        optimizer = torch.optim.Adam(detector.parameters(), lr=1e-3)
    detector.train()
    if start_epoch == 0:
        id_loader: Any = getattr(loader, "id_loader", None)
        prepare: Any = detector.prepare  # checked above; torch types a module's attributes as tensors
        prepare(_id_side(loader) if id_loader is None else id_loader())
    elif hasattr(loader, "set_epoch"):
        loader.set_epoch(start_epoch)
    history = []
    for epoch in progress_bar(range(start_epoch, epochs), verbose=verbose, desc="outlier exposure"):
        start = time.perf_counter()
        totals, steps = torch.zeros(3), 0
        for step in loader:
            id_batch, oe_batch = _sides(step)
            if loss is not None and oe_batch is None:
                raise_invalid(
                    "loader", loader, "pairs (id, outliers), since a loss is given", error=TypeError
                )
            id_loss, oe_loss = _losses(detector, id_batch.to(device), oe_batch, loss, device)
            optimizer.zero_grad()
            (id_loss + oe_loss).backward()
            optimizer.step()
            totals += torch.stack([id_loss + oe_loss, id_loss, oe_loss]).detach().cpu()
            steps += 1
        if steps == 0:
            raise_invalid("loader", loader, "at least one batch")
        end_epoch: Any = getattr(detector, "end_epoch", None)
        if end_epoch is not None:
            end_epoch()
        values = (totals / steps).tolist()
        record = {"epoch": epoch, **dict(zip(("loss", "id_loss", "oe_loss"), values, strict=True))}
        record["seconds"] = time.perf_counter() - start
        history.append(record)
        for callback in callbacks:
            callback(record)
    return history


def score_graphs(detector: Any, loader: Iterable[Any]) -> Tensor:
    """Scores of all graphs of a loader, in its order.

    Parameters
    ----------
    detector : GraphOODDetector
        A trained detector; its mode is as before afterwards.
    loader : iterable of Batch
        Graphs, not shuffled. A batch-coupled detector's scores depend on the batches.

    Returns
    -------
    Tensor of shape (n,)
        Scores on the CPU, higher = more out-of-distribution; the parts of a detector with several are
        combined by its ``combine``, or added.

    Raises
    ------
    TypeError
        If `detector` is none, or the loader gives no batches.
    ValueError
        If scores have the wrong shape or are not finite, or the loader is empty.
    """
    _check_scorer(detector)
    check_iterable("loader", loader, "a loader or a list of batches")
    device = _device(detector)
    mode = detector.training
    detector.eval()
    found = []
    try:
        with torch.no_grad():
            for batch in loader:
                _check_batch(batch)
                scores = _checked(detector, detector.score(batch.to(device)), batch.num_graphs)
                if isinstance(scores, Mapping):
                    combined = getattr(detector, "combine", _add)(scores)
                else:
                    combined = scores
                found.append(combined.cpu())
    finally:
        detector.train(mode)
    if not found:
        raise_invalid("loader", loader, "at least one batch")
    return torch.cat(found)


def _check_scorer(detector: Any) -> None:
    if not isinstance(detector, torch.nn.Module) or not hasattr(detector, "score"):
        raise_invalid("detector", detector, "a torch.nn.Module with score", error=TypeError)


def _losses(
    detector: Any, id_batch: Batch, oe_batch: Batch | None, loss: Any, device: torch.device
) -> tuple[Tensor, Tensor]:
    n = id_batch.num_graphs
    if loss is None or oe_batch is None:
        scores = _checked(detector, detector.score(id_batch), n)
        id_loss = detector.id_loss(id_batch, scores)
        return id_loss, torch.zeros_like(id_loss)
    oe_batch = oe_batch.to(device)
    if detector.batch_coupled:
        id_scores = _checked(detector, detector.score(id_batch), n)
        oe_scores = _checked(detector, detector.score(oe_batch), oe_batch.num_graphs)
    else:
        joint = join_batches(id_batch, oe_batch)
        both = _checked(detector, detector.score(joint), joint.num_graphs)
        id_scores, oe_scores = _cut(both, slice(None, n)), _cut(both, slice(n, None))
    id_loss = detector.id_loss(id_batch, id_scores)
    weights = getattr(detector, "part_weights", None)
    return id_loss, loss(oe_scores, id_scores=id_scores, part_weights=weights)


def _checked(detector: Any, scores: Any, count: int) -> Scores:
    for name, value in (scores if isinstance(scores, Mapping) else {"score": scores}).items():
        where = f"{type(detector).__name__}.score: {name}"
        if not isinstance(value, Tensor) or value.shape != (count,):
            raise_invalid(where, value, f"a tensor of shape ({count},), one score a graph")
        if not bool(torch.isfinite(value).all()):
            graph = int((~torch.isfinite(value)).nonzero()[0, 0])
            raise_invalid(where, float(value[graph]), f"finite scores, graph {graph} of its batch")
    checked: Scores = scores
    return checked


def _cut(scores: Scores, rows: slice) -> Scores:
    if isinstance(scores, Mapping):
        return {name: value[rows] for name, value in scores.items()}
    return scores[rows]


def _add(scores: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(scores.values())).sum(0)


def _sides(step: Any) -> tuple[Any, Any]:
    sides = (step[0], step[1]) if isinstance(step, tuple | list) else (step, None)
    _check_batch(sides[0])
    if sides[1] is not None:
        _check_batch(sides[1])
    return sides


def _check_batch(batch: Any) -> None:
    if not isinstance(batch, Batch):
        raise_invalid("loader", batch, "batches of graphs, as PyG's DataLoader gives", error=TypeError)


def _id_side(loader: Iterable[Any]) -> Iterable[Any]:
    return (_sides(step)[0] for step in loader)


def _device(detector: torch.nn.Module) -> torch.device:
    return next((p.device for p in detector.parameters()), torch.device("cpu"))
