"""Training of one pair of autoencoders (the only part of RCPMOD that needs torch).

Each distinct row that a step needs (batch, neighbours, positives, negatives, bank) is encoded once and
gathered where it is used; without batch norm or dropout that equals the public code's repeated encoding
of neighbour copies. Hidden units that no row of a step switches on are left out (`networks`).

Source: RCPMOD (ACM MM 2024), public code; specification sections 1.5 to 1.7 and 1.11. Differs from it:
batches are drawn anew every epoch unless ``reshuffle=False``, training runs in float32 by default, and
``alignment_ranks`` may draw some of the k neighbour ranks a step in place of all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from graftkit.methods.rcpmod.autoencoder import Autoencoder, Layer
from graftkit.methods.rcpmod.losses import (
    fused_contrastive_loss,
    nearest_distance_loss,
    neighbor_alignment_loss,
    rank_loss,
    reconstruction_loss,
    spread_weight,
)
from graftkit.methods.rcpmod.memory import OutlierMemory
from graftkit.methods.rcpmod.neighbors import EXACT_LIMIT, neighbor_table, rank_neighbor
from graftkit.methods.rcpmod.networks import ReluNetwork
from graftkit.methods.rcpmod.settings import Settings

__all__ = ["train_pair"]

IntArray = npt.NDArray[np.int64]
ENCODE_CHUNK = 8192
TERMS = ("reconstruction", "contrast", "alignment", "spreading")


def train_pair(
    xs: tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]],
    observed: npt.NDArray[np.bool_],
    networks: tuple[Autoencoder, Autoencoder],
    settings: Settings,
    rng: np.random.Generator,
    on_epoch: Callable[[int, dict[str, float]], bool],
    wrap: Callable[[nn.Module], nn.Module] | None = None,
) -> tuple[tuple[Autoencoder, Autoencoder], list[dict[str, float]]]:
    """Train the two autoencoders of a pair and return their new weights.

    Parameters
    ----------
    xs : tuple of two ndarray of shape (n, p_v)
        Scaled inputs, finite everywhere; rows of a missing view are never read into a loss.
    observed : ndarray of bool, shape (n, 2)
        Which views each row has, at least one a row.
    networks : tuple of two Autoencoder
        Where training starts.
    settings : Settings
        Hyper-parameters.
    rng : numpy.random.Generator
        Source of permutations and of the rank loss's positives.
    on_epoch : callable
        Called with the epoch and its mean losses; a true return stops training.
    wrap : callable or None, default=None
        Gets each encoder and returns what rows go through, such as a module that has several processes encode
        them (``examples/distributed/rcpmod.py``).

    Returns
    -------
    networks : tuple of two Autoencoder
        Trained weights, float64 copies in NumPy.
    curve : list of dict
        One entry an epoch: each loss term and their weighted total.

    Raises
    ------
    RuntimeError
        If a loss stops being finite.
    """
    with torch.inference_mode(False), torch.enable_grad():
        state = _PairTraining(xs, observed, networks, settings, rng, wrap)
        curve = []
        epoch = 0
        try:
            for epoch in range(settings.n_epochs):
                losses = state.run_epoch(epoch)
                if not np.isfinite(losses["total"]):
                    raise FloatingPointError
                curve.append(losses)
                if on_epoch(epoch, losses):
                    break
            for view in state.views:
                view.latents()  # the last step may have destroyed the weights
        except FloatingPointError as error:
            raise RuntimeError(
                f"RCPMOD training diverged in epoch {epoch + 1} (losses or latents are not finite); lower "
                f"learning_rate (now {settings.learning_rate:g}) or the weights of the losses, or raise "
                f"temperature (now {settings.temperature:g})"
            ) from error
        return (state.views[0].weights(), state.views[1].weights()), curve


@dataclass
class _Gathered:
    """Latents of one view for one batch."""

    batch: Tensor  # (n_observed_in_batch, d)
    positive: Tensor | None
    negative: Tensor | None
    completed: Tensor | None  # (B, d), missing rows imputed
    neighbors: Tensor | None  # (ranks, B, d), unit
    bank: Tensor  # (m, d), unit
    rows: IntArray  # positions within the batch that have this view


class _View:
    """One view's tensors, layers and tables during training."""

    def __init__(
        self,
        x: npt.NDArray[np.floating],
        observed: npt.NDArray[np.bool_],
        network: Autoencoder,
        settings: Settings,
        wrap: Callable[[nn.Module], nn.Module] | None,
    ) -> None:
        options: dict[str, Any] = {"dtype": getattr(torch, settings.dtype), "device": settings.device}
        self.x = torch.as_tensor(np.ascontiguousarray(x)).to(**options)
        self.observed = observed
        self.encoder = ReluNetwork(network.encoder, **options)
        self.encode: nn.Module = self.encoder if wrap is None else wrap(self.encoder)
        self.decoder = ReluNetwork(network.decoder, **options)
        self.raw: IntArray = np.empty((len(observed), 0), dtype=np.int64)
        self.table: IntArray = self.raw
        self.far: IntArray | None = None
        self.positive: IntArray | None = None

    def latents(self) -> npt.NDArray[np.floating]:
        with torch.no_grad():
            parts = [self.encode(part) for part in self.x.split(ENCODE_CHUNK)]
            z = np.asarray(torch.cat(parts).cpu().numpy())
        if not np.isfinite(z).all():
            raise FloatingPointError
        return z

    def gather(
        self, batch: IntArray, bank: IntArray, ranks: IntArray, *, spread: bool, impute: bool
    ) -> _Gathered:
        """Encode every distinct row that this step needs once, then hand the latents out.

        `ranks` are the neighbour ranks that the alignment contrasts in this step; none turns it off.
        """
        here = np.flatnonzero(self.observed[batch])
        lost = np.flatnonzero(~self.observed[batch])
        neighbors = self.table[batch]
        groups = [batch[here]]
        if spread and self.positive is not None and self.far is not None:
            groups += [self.positive[batch[here]], self.far[batch[here]]]
        if impute:
            groups.append(neighbors[lost].ravel())
        unit_groups = [neighbors[:, ranks].T.ravel(), bank]
        wanted = np.concatenate([*groups, *unit_groups])
        rows, inverse = np.unique(wanted, return_inverse=True)
        z = self.encode(self.x[torch.as_tensor(rows, device=self.x.device)])
        plain = sum(map(len, groups))
        # functional.embedding: its CPU backward sums in a fixed order, that of plain indexing does not.
        index = torch.as_tensor(inverse, device=z.device)
        parts = iter(functional.embedding(index[:plain], z).split([len(group) for group in groups]))
        unit = functional.normalize(z, dim=1, eps=1e-12)
        aligned, banked = functional.embedding(index[plain:], unit).split(
            [len(group) for group in unit_groups]
        )
        own = next(parts)
        positive, negative = (next(parts), next(parts)) if len(groups) >= 3 else (None, None)
        completed = None
        if impute:
            # Scatter observed and imputed rows into batch order by one permutation.
            filled = next(parts).view(len(lost), neighbors.shape[1], z.shape[1]).mean(dim=1)
            order = np.empty(len(batch), dtype=np.int64)
            order[np.concatenate((here, lost))] = np.arange(len(batch))
            completed = torch.cat((own, filled))[torch.as_tensor(order, device=z.device)]
        return _Gathered(
            batch=own,
            positive=positive,
            negative=negative,
            completed=completed,
            neighbors=aligned.view(len(ranks), len(batch), z.shape[1]) if len(ranks) else None,
            bank=banked,
            rows=here,
        )

    def weights(self) -> Autoencoder:
        return Autoencoder(_layers(self.encoder), _layers(self.decoder))


class _PairTraining:
    """The state of one pair's training."""

    def __init__(
        self,
        xs: tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]],
        observed: npt.NDArray[np.bool_],
        networks: tuple[Autoencoder, Autoencoder],
        settings: Settings,
        rng: np.random.Generator,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        self.settings = settings
        self.rng = rng
        self.complete: npt.NDArray[np.bool_] = np.asarray(observed.all(axis=1))
        self.views = [_View(xs[v], observed[:, v], networks[v], settings, wrap) for v in (0, 1)]
        parameters = [
            p for view in self.views for net in (view.encoder, view.decoder) for p in net.parameters()
        ]
        fused = torch.device(settings.device).type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate, fused=fused)
        self.memory = OutlierMemory(settings.memory_size, settings.memory_fraction)
        self.order = rng.permutation(len(observed))
        self.spreads = settings.spread_weight > 0 or settings.spread_warm > 0
        if self.spreads:
            self._refresh("raw", [np.asarray(x) for x in xs])

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """Refresh what is due, then take one step per batch; return the mean of each loss term."""
        settings = self.settings
        weight = spread_weight(
            epoch, warm=settings.spread_warm, end=settings.spread_weight, schedule=settings.spread_schedule
        )
        self._refresh_tables(epoch, spread=weight > 0)
        if settings.reshuffle and epoch:
            self.order = self.rng.permutation(len(self.order))
        sums = torch.zeros(len(TERMS), dtype=torch.float64)
        n_steps = 0
        for start in range(0, len(self.order), settings.batch_size):
            batch = self.order[start : start + settings.batch_size]
            if len(batch) < 2:
                continue
            terms = self._step(batch, weight, impute=epoch >= settings.impute_from)
            sums += terms.detach().to("cpu", torch.float64)
            n_steps += 1
        means = sums / max(n_steps, 1)
        weights = torch.tensor(
            [1.0, settings.outlier_weight, settings.neighbor_weight, weight], dtype=torch.float64
        )
        return {**dict(zip(TERMS, means.tolist(), strict=True)), "total": float(means @ weights)}

    def _step(self, batch: IntArray, weight: float, *, impute: bool) -> Tensor:
        settings = self.settings
        bank = self.memory.rows
        ranks = self._ranks()
        a, b = (view.gather(batch, bank, ranks, spread=weight > 0, impute=impute) for view in self.views)
        complete = np.flatnonzero(self.complete[batch])
        zero = a.batch.sum() * 0.0
        terms = [zero, zero, zero, zero]
        for view, latents in zip(self.views, (a, b), strict=True):
            target = view.x[torch.as_tensor(batch[latents.rows], device=view.x.device)]
            terms[0] = terms[0] + reconstruction_loss(view.decoder(latents.batch).sigmoid(), target)
        if settings.outlier_weight > 0:
            terms[1] = terms[1] + self._contrast(a, b, batch, complete, impute=impute)
        if a.neighbors is not None and b.neighbors is not None:
            terms[2] = neighbor_alignment_loss(a.neighbors, b.neighbors, temperature=settings.temperature)
        if weight > 0:
            for latents in (a, b):
                terms[3] = terms[3] + nearest_distance_loss(latents.batch)
                if latents.positive is not None and latents.negative is not None:
                    terms[3] = terms[3] + rank_loss(latents.batch, latents.positive, latents.negative)
        loss = terms[0] + settings.outlier_weight * terms[1]
        loss = loss + settings.neighbor_weight * terms[2] + weight * terms[3]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return torch.stack(terms)

    def _ranks(self) -> IntArray:
        """The neighbour ranks of this step's alignment: all, or a draw whose mean is unbiased for theirs."""
        settings, width = self.settings, self.views[0].table.shape[1]
        if settings.neighbor_weight == 0:
            return np.arange(0)
        if settings.alignment_ranks is None or settings.alignment_ranks >= width:
            return np.arange(width)
        return self.rng.choice(width, size=settings.alignment_ranks, replace=False)

    def _contrast(
        self, a: _Gathered, b: _Gathered, batch: IntArray, complete: IntArray, *, impute: bool
    ) -> Tensor:
        """Outlier-aware contrast over complete rows, or over all once imputed rows join; feeds the bank."""
        pair = []
        for latents in (a, b):
            if latents.completed is not None:
                z = latents.completed
            else:
                within = torch.as_tensor(np.searchsorted(latents.rows, complete), device=latents.batch.device)
                z = latents.batch[within]
            pair.append(functional.normalize(z, dim=1, eps=1e-12))
        if not len(pair[0]):
            return pair[0].sum() * 0.0
        negatives = torch.cat((a.bank, b.bank))
        loss = fused_contrastive_loss(pair[0], pair[1], negatives, temperature=self.settings.temperature)
        with torch.no_grad():
            similarity = (pair[0] * pair[1]).sum(dim=1).cpu().numpy()
        self.memory.push(batch[complete], similarity[complete] if impute else similarity)
        return loss

    def _refresh_tables(self, epoch: int, *, spread: bool) -> None:
        settings = self.settings
        n = len(self.order)
        refresh = epoch % settings.neighbor_refresh == 0
        # Above the exact limit both searches are done together, as the specification's section 4.2 proposes.
        rank_every = settings.negative_refresh if n <= EXACT_LIMIT else settings.neighbor_refresh
        ranks = self.spreads and n - 1 > settings.n_neighbors
        rank_due = ranks and epoch % rank_every == 0
        if refresh or rank_due:
            latents = [view.latents() for view in self.views]
            if refresh:
                self._refresh("table", latents)
            if rank_due:
                for view, z in zip(self.views, latents, strict=True):
                    view.far = self._far(z, view)
        if ranks and spread:
            for view in self.views:
                pick = self.rng.integers(view.raw.shape[1], size=n)
                view.positive = view.raw[np.arange(n), pick]

    def _far(self, z: npt.NDArray[np.floating], view: _View) -> IntArray | None:
        far = rank_neighbor(z, view.observed, self.settings.negative_rank, rng=self.rng)
        return far if bool(np.all(far[np.flatnonzero(view.observed)] >= 0)) else None

    def _refresh(self, name: str, representation: list[npt.NDArray[np.floating]]) -> None:
        for v, w in ((0, 1), (1, 0)):
            table = neighbor_table(
                representation[v],
                representation[w],
                self.views[v].observed,
                self.views[w].observed,
                self.settings.n_neighbors,
                backend=self.settings.knn_backend,
            )
            setattr(self.views[v], name, table)
        width = min(getattr(view, name).shape[1] for view in self.views)
        for view in self.views:
            setattr(view, name, getattr(view, name)[:, :width])


def _layers(net: ReluNetwork) -> tuple[Layer, ...]:
    return tuple(
        (weight.detach().cpu().double().numpy().copy(), bias.detach().cpu().double().numpy().copy())
        for weight, bias in zip(net.weights, net.biases, strict=True)
    )
