"""A straight transcription of RCPMOD's published procedure: the reference for speed, memory and accuracy.

Written from the description of the public code, not from its text, and independent of graftkit's own
implementation. Deliberately as published: float64 throughout, one fixed batch order, neighbour features
copied (n x k x d_v) and encoded twice per view and step, 139 candidates kept a row, zero rows in the bank,
a diagonal of -1 in the spreading term, a mask built in Python and dense (2n) x (2n) scoring matrices,
neighbour lists as old as the last refresh, and "score is not 0" as the test of a pair's membership.

One reading is ours: the neighbours' second encoding (for the missing views' latents) is done in every step
and, before epoch 50, only forward.
"""

from collections.abc import Callable
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.nn import functional

Array = np.ndarray[Any, Any]
CANDIDATES = 139
IMPUTE_FROM = 50


def run(
    views: list[Array],
    mask: Array,
    *,
    hidden: tuple[int, ...] = (1024, 1024),
    latent: int = 64,
    epochs: int = 90,
    seed: int = 1,
    recon_weight: float = 0.25,
    spread: tuple[float, float, int] = (0.02, 0.4, 400),
    bank_blocks: int = 5,
    bank_fraction: float = 0.05,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    temperature: float = 0.5,
    k: int = 6,
    neighbor_refresh: int = 50,
    negative_refresh: int = 5,
    on_epoch: Callable[[int], None] | None = None,
) -> Array:
    """Train and score, pair by pair; one score a row, larger is more outlying.

    `spread` is (w_warm, w_end, T). The defaults are those published for Scene-15.
    """
    options = locals()
    for name in ("views", "mask", "hidden", "latent", "recon_weight", "seed", "on_epoch"):
        del options[name]
    xs = [_scale_as_published(np.nan_to_num(view), mask[:, v]) for v, view in enumerate(views)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        nets = [_Net(x.shape[1], hidden, latent) for x in xs]
        total, count = np.zeros(len(mask)), np.zeros(len(mask))
        for a, b in combinations(range(len(xs)), 2):
            rows = np.flatnonzero(mask[:, a] | mask[:, b])
            pair = _Pair(
                [nets[a], nets[b]], [xs[a][rows], xs[b][rows]], mask[rows][:, [a, b]], seed, **options
            )
            for epoch in range(epochs):
                pair.run_epoch(epoch)
                if on_epoch is not None:
                    on_epoch(epoch)
            scores = np.zeros(len(mask))
            scores[rows] = pair.score(recon_weight)
            total += scores
            count += scores != 0
    return total / np.maximum(count, 1)


def nce(u: Tensor, w: Tensor, bank: Tensor | None, temperature: float) -> Tensor:
    """Contrastive loss of each of the 2N anchors, with the positives' mask built pair by pair."""
    n = len(u)
    h = torch.cat((u, w))
    similarity = h @ h.T / temperature
    positives = torch.cat((torch.diag(similarity, n), torch.diag(similarity, -n)))[:, None]
    keep = torch.ones((2 * n, 2 * n), dtype=torch.bool)
    keep.fill_diagonal_(False)
    for i in range(n):
        keep[i, n + i] = False
        keep[n + i, i] = False
    logits = torch.cat((positives, similarity[keep].reshape(2 * n, -1)), dim=1)
    if bank is not None:
        logits = torch.cat((logits, h @ bank.T / temperature), dim=1)
    return functional.cross_entropy(logits, torch.zeros(2 * n, dtype=torch.long), reduction="none")


class _Net(nn.Module):
    def __init__(self, n_features: int, hidden: tuple[int, ...], latent: int) -> None:
        super().__init__()
        widths = (n_features, *hidden, latent)
        self.encoder = _mlp(widths)
        self.decoder = nn.Sequential(_mlp(widths[::-1]), nn.Sigmoid())


class _Pair:
    def __init__(
        self,
        nets: list[_Net],
        xs: list[Array],
        observed: Array,
        seed: int,
        *,
        epochs: int,
        spread: tuple[float, float, int],
        bank_blocks: int,
        bank_fraction: float,
        batch_size: int,
        learning_rate: float,
        temperature: float,
        k: int,
        neighbor_refresh: int,
        negative_refresh: int,
    ) -> None:
        torch.manual_seed(seed)
        self.nets, self.raw, self.observed = nets, xs, observed
        self.xs = [torch.from_numpy(x) for x in xs]
        self.spread, self.blocks, self.fraction = spread, bank_blocks, bank_fraction
        self.batch_size, self.temperature, self.k = batch_size, temperature, k
        self.neighbor_refresh, self.negative_refresh = neighbor_refresh, negative_refresh
        self.epochs, self.rng = epochs, np.random.default_rng(seed)
        self.optimizer = torch.optim.Adam([p for net in nets for p in net.parameters()], lr=learning_rate)
        self.order = np.random.default_rng(seed).permutation(len(observed))
        self.bank: list[list[Tensor]] = []
        self.raw_neighbors = self._neighbors(xs)
        self.copies: list[Tensor] = []
        self.far: list[Tensor] = []

    def run_epoch(self, epoch: int) -> None:
        if epoch % self.neighbor_refresh == 0:
            tables = self._neighbors(self._latents())
            # The features themselves, once for each of the k neighbours of each row.
            self.copies = [self.xs[v][torch.from_numpy(table)] for v, table in enumerate(tables)]
        if epoch % self.negative_refresh == 0:
            self.far = [self.xs[v][torch.from_numpy(row)] for v, row in enumerate(self._far(self._latents()))]
        picks = self.rng.integers(self.k, size=len(self.observed))
        near = [
            self.xs[v][torch.from_numpy(table[np.arange(len(table)), picks])]
            for v, table in enumerate(self.raw_neighbors)
        ]
        for start in range(0, len(self.order), self.batch_size):
            batch = self.order[start : start + self.batch_size]
            if len(batch) > 1:
                self._step(batch, near, epoch)

    def score(self, recon_weight: float) -> Array:
        with torch.no_grad():
            z = [net.encoder(x) for net, x in zip(self.nets, self.xs, strict=True)]
            scaled = []
            for v, (net, x) in enumerate(zip(self.nets, self.xs, strict=True)):
                error = (net.decoder(z[v]) - x).square().sum(dim=1).numpy()
                seen = error[self.observed[:, v]]
                scaled.append((error - seen.min()) / (seen.max() - seen.min()))
            errors = [np.where(self.observed[:, v], scaled[v], scaled[1 - v]) for v in (0, 1)]
            for v, net in enumerate(self.nets):
                z[v] = self._completed(z[v], net, self.copies[v], self.observed[:, v])
            loss = nce(_unit(z[0]), _unit(z[1]), None, self.temperature).numpy()
        n = len(self.observed)
        return recon_weight * _min_max(errors[0] + errors[1]) + _min_max((loss[:n] + loss[n:]) / 2)

    def _step(self, batch: Array, near: list[Tensor], epoch: int) -> None:
        seen = self.observed[batch]
        rows, index = (seen.all(axis=1), torch.from_numpy(batch))
        loss = torch.zeros((), dtype=torch.float64)
        unit, aligned, banked = [], [], []
        weight = self._spread_weight(epoch)
        for v, net in enumerate(self.nets):
            x, here = self.xs[v][index], torch.from_numpy(seen[:, v])
            z = net.encoder(x)
            loss = loss + (net.decoder(z[here]) - x[here]).square().sum() / max(int(here.sum()), 1)
            copies = self.copies[v][index]
            aligned.append(
                _unit(net.encoder(copies.reshape(-1, copies.shape[2]))).reshape(*copies.shape[:2], -1)
            )
            imputing = epoch >= IMPUTE_FROM
            with torch.set_grad_enabled(imputing):
                completed = self._completed(z, net, copies, seen[:, v])
            unit.append(_unit(completed) if imputing else _unit(z[torch.from_numpy(rows)]))
            if self.bank:
                banked.append(_unit(net.encoder(torch.cat([block[v] for block in self.bank]))))
            if weight > 0 and int(here.sum()) > 1:
                loss = loss + weight * self._spreading(
                    z[here], net.encoder(near[v][index][here]), net.encoder(self.far[v][index][here])
                )
        taking_part = batch if epoch >= IMPUTE_FROM else batch[rows]
        if len(taking_part):
            bank = torch.cat(banked) if banked else None
            loss = loss + nce(unit[0], unit[1], bank, self.temperature).mean()
        for rank in range(self.k):
            loss = (
                loss + nce(aligned[0][:, rank], aligned[1][:, rank], None, self.temperature).mean() / self.k
            )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if len(taking_part):
            agreement = (unit[0] * unit[1]).sum(dim=1).detach().numpy()
            least = np.argsort(agreement)[: max(1, int(self.fraction * len(taking_part)))]
            chosen = torch.from_numpy(taking_part[least])
            self.bank = [*self.bank, [x[chosen].clone() for x in self.xs]][-self.blocks :]

    def _completed(self, z: Tensor, net: _Net, copies: Tensor, seen: Array) -> Tensor:
        """Latents with those of missing views replaced by the mean over the neighbours' latents."""
        mean = net.encoder(copies.reshape(-1, copies.shape[2])).reshape(*copies.shape[:2], -1).mean(dim=1)
        return torch.where(torch.from_numpy(seen)[:, None], z, mean)

    def _spreading(self, z: Tensor, near: Tensor, far: Tensor) -> Tensor:
        rank = functional.relu(
            functional.pairwise_distance(z, near) - functional.pairwise_distance(z, far)
        ).mean()
        with torch.no_grad():
            inner = z @ z.T
            inner.fill_diagonal_(-1.0)
            nearest = inner.argmax(dim=1)
        return rank - torch.log(len(z) * functional.pairwise_distance(z, z[nearest])).mean()

    def _spread_weight(self, epoch: int) -> float:
        warm, end, length = self.spread
        table = np.concatenate((np.linspace(0, warm, 100), np.linspace(warm, end, length - 100)))
        return float(table[epoch])

    def _latents(self) -> list[Array]:
        with torch.no_grad():
            return [net.encoder(x).numpy() for net, x in zip(self.nets, self.xs, strict=True)]

    def _candidates(self, representation: Array, seen: Array) -> Array:
        """Up to 139 neighbours of each row among the rows that have this view, the first one dropped."""
        have = np.flatnonzero(seen)
        count = min(CANDIDATES + 1, len(have))
        search = NearestNeighbors(n_neighbors=count).fit(representation[have])
        table = np.zeros((len(seen), count - 1), dtype=np.int64)
        table[have] = have[search.kneighbors(representation[have], return_distance=False)[:, 1:]]
        return table

    def _neighbors(self, representation: list[Array]) -> list[Array]:
        found = [self._candidates(representation[v], self.observed[:, v]) for v in (0, 1)]
        tables = []
        for v in (0, 1):
            table = found[v][:, : self.k].copy()
            for row in np.flatnonzero(~self.observed[:, v]):
                admissible = [j for j in found[1 - v][row] if self.observed[j, v]]
                if len(admissible) < self.k:
                    raise ValueError(
                        f"row {row}: fewer than {self.k} candidates have view {v} (as published)"
                    )
                table[row] = admissible[: self.k]
            tables.append(table)
        return tables

    def _far(self, latents: list[Array]) -> list[Array]:
        return [self._candidates(latents[v], self.observed[:, v])[:, :50][:, -1] for v in (0, 1)]


def _mlp(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out, dtype=torch.float64), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _unit(z: Tensor) -> Tensor:
    return functional.normalize(z, dim=1)


def _scale_as_published(view: Array, seen: Array) -> Array:
    scaled = _min_max(view.astype(np.float64))
    scaled[~seen] = 0.0
    return _min_max(scaled)


def _min_max(values: Array) -> Array:
    low, high = values.min(), values.max()
    return (values - low) / (high - low)
