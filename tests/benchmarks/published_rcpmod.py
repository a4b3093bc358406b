"""The published training and scoring procedure of RCPMOD, transcribed plainly from its description.

The reference for speed and memory, own code, sharing nothing with the plugin: float64 throughout,
n x k x d copies of neighbour inputs, neighbour copies encoded twice a step and view (alignment and
completion), 139-candidate tables, one fixed order of batches, logits gathered through boolean masks,
dense (2n) x (2n) scoring. Departures where the published code would crash or not repeat: missing rows
search among complete rows, and every draw comes from one seed.
"""

from itertools import pairwise

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import nn
from torch.nn import functional

CANDIDATES = 139
RANK = 50


def run(
    views: list[np.ndarray],
    mask: np.ndarray,
    *,
    hidden: tuple[int, ...] = (1024, 1024),
    latent: int = 64,
    epochs: int = 90,
    batch_size: int = 256,
    k: int = 6,
    temperature: float = 0.5,
    bank_blocks: int = 5,
    bank_share: float = 0.05,
    recon_weight: float = 0.25,
    neighbor_refresh: int = 50,
    negative_refresh: int = 5,
    impute_from: int = 50,
    spread: tuple[float, float, int] = (0.4, 0.02, 400),
    seed: int = 0,
) -> np.ndarray:
    """Train on two views and return the transductive score of every row, larger is more outlying."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    xs = [torch.from_numpy(_scaled(view, mask[:, v])) for v, view in enumerate(views)]
    seen = [torch.from_numpy(mask[:, v].copy()) for v in range(2)]
    nets = [_Autoencoder(x.shape[1], hidden, latent, generator) for x in xs]
    optimizer = torch.optim.Adam([p for net in nets for p in net.parameters()], lr=1e-3)
    raw, _ = _tables([x.numpy() for x in xs], mask, k)
    order = rng.permutation(len(mask))
    bank: list[list[torch.Tensor]] = []
    copies: list[torch.Tensor] = []
    far: list[np.ndarray] = []
    for epoch in range(epochs):
        if epoch % neighbor_refresh == 0 or epoch % negative_refresh == 0:
            with torch.no_grad():
                latents = [net.encoder(x).numpy() for net, x in zip(nets, xs, strict=True)]
            tables, ranked = _tables(latents, mask, k)
            if epoch % neighbor_refresh == 0:
                copies = [x[torch.from_numpy(table)] for x, table in zip(xs, tables, strict=True)]
            if epoch % negative_refresh == 0:
                far = ranked
        weight = (
            spread[1] * epoch / 99
            if epoch < 100
            else spread[1] + (spread[0] - spread[1]) * (epoch - 100) / (spread[2] - 101)
        )
        near = [table[np.arange(len(mask)), rng.integers(table.shape[1], size=len(mask))] for table in raw]
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            if len(rows) < 2:
                continue
            loss = _step(
                rows,
                xs,
                seen,
                nets,
                copies,
                near,
                far,
                bank,
                weight,
                temperature,
                epoch >= impute_from,
                bank_blocks,
                bank_share,
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return _score(xs, mask, nets, copies, temperature, recon_weight)


class _Autoencoder(nn.Module):
    def __init__(self, width: int, hidden: tuple[int, ...], latent: int, generator: torch.Generator) -> None:
        super().__init__()
        sizes = (width, *hidden, latent)
        self.encoder = self._stack(sizes, generator)
        self.decoder = self._stack(sizes[::-1], generator).append(nn.Sigmoid())

    @staticmethod
    def _stack(sizes: tuple[int, ...], generator: torch.Generator) -> nn.Sequential:
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            linear = nn.Linear(n_in, n_out, dtype=torch.float64)
            bound = n_in**-0.5
            with torch.no_grad():
                linear.weight.uniform_(-bound, bound, generator=generator)
                linear.bias.uniform_(-bound, bound, generator=generator)
            layers += [linear, nn.ReLU()]
        return nn.Sequential(*layers[:-1])


def _scaled(view: np.ndarray, observed: np.ndarray) -> np.ndarray:
    low, high = np.nanmin(view[observed]), np.nanmax(view[observed])
    out = (view - low) / (high - low)
    out[~observed] = 0.0
    return out


def _tables(points: list[np.ndarray], mask: np.ndarray, k: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    tables, ranked = [], []
    both = np.flatnonzero(mask.all(axis=1))
    for v in range(2):
        table = np.zeros((len(mask), k), dtype=np.int64)
        rank = np.zeros(len(mask), dtype=np.int64)
        have = np.flatnonzero(mask[:, v])
        index = NearestNeighbors(n_neighbors=min(CANDIDATES, len(have))).fit(points[v][have])
        found = have[index.kneighbors(points[v][have], return_distance=False)][:, 1:]
        table[have], rank[have] = found[:, :k], found[:, min(RANK, found.shape[1]) - 1]
        lost = np.flatnonzero(~mask[:, v])
        if len(lost):
            index = NearestNeighbors(n_neighbors=k).fit(points[1 - v][both])
            table[lost] = both[index.kneighbors(points[1 - v][lost], return_distance=False)]
        tables.append(table)
        ranked.append(rank)
    return tables, ranked


def _step(
    rows, xs, seen, nets, copies, near, far, bank, weight, temperature, impute, bank_blocks, bank_share
):
    index = torch.from_numpy(rows)
    latents, loss = [], torch.zeros((), dtype=torch.float64)
    negatives = [[], []]
    neighbors = []
    for v, (x, net) in enumerate(zip(xs, nets, strict=True)):
        z = net.encoder(x[index])
        own = seen[v][index]
        loss = loss + (net.decoder(z[own]) - x[index][own]).square().sum(1).mean()
        around = copies[v][index]  # (B, k, d): copies, encoded once for completion and once for alignment
        filled = net.encoder(around.reshape(-1, x.shape[1])).reshape(len(rows), around.shape[1], -1).mean(1)
        latents.append(torch.where(own[:, None], z, filled))
        neighbors.append(
            [functional.normalize(net.encoder(around[:, r]), dim=1) for r in range(around.shape[1])]
        )
        negatives[v] = [functional.normalize(net.encoder(block[v]), dim=1) for block in bank]
        if weight > 0:
            loss = loss + weight * _spread(
                z[own], net, x, near[v][rows[own.numpy()]], far[v][rows[own.numpy()]]
            )
    used = torch.ones(len(rows), dtype=torch.bool) if impute else seen[0][index] & seen[1][index]
    unit = [functional.normalize(z[used], dim=1) for z in latents]
    extra = torch.cat(negatives[0] + negatives[1]) if bank else None
    loss = loss + _contrast(unit[0], unit[1], extra, temperature)
    aligned = [_contrast(a, b, None, temperature) for a, b in zip(*neighbors, strict=True)]
    loss = loss + torch.stack(aligned).mean()
    with torch.no_grad():
        similarity = (unit[0] * unit[1]).sum(1)
        chosen = index[used][similarity.argsort()[: max(1, int(bank_share * len(similarity)))]]
        bank.append([x[chosen].clone() for x in xs])
        if len(bank) > bank_blocks:
            bank.pop(0)
    return loss


def _spread(z, net, x, near, far):
    positive, negative = net.encoder(x[torch.from_numpy(near)]), net.encoder(x[torch.from_numpy(far)])
    distance = nn.PairwiseDistance()
    rank = functional.relu(distance(z, positive) - distance(z, negative)).mean()
    with torch.no_grad():
        dots = z @ z.T
        dots.fill_diagonal_(-1.0)
        nearest = dots.argmax(1)
    return rank - (len(z) * distance(z, z[nearest])).log().mean()


def _negative_mask(n: int) -> torch.Tensor:
    mask = torch.ones((2 * n, 2 * n), dtype=torch.bool)
    mask.fill_diagonal_(False)
    for i in range(n):
        mask[i, n + i] = False
        mask[n + i, i] = False
    return mask


def _contrast(a, b, extra, temperature):
    n = len(a)
    h = torch.cat((a, b))
    similarity = h @ h.T / temperature
    positive = torch.cat((similarity.diagonal(n), similarity.diagonal(-n)))[:, None]
    logits = [positive, similarity[_negative_mask(n)].reshape(2 * n, -1)]
    if extra is not None:
        logits.append(h @ extra.T / temperature)
    logits = torch.cat(logits, dim=1)
    return functional.cross_entropy(logits, torch.zeros(2 * n, dtype=torch.long))


@torch.no_grad()
def _score(xs, mask, nets, copies, temperature, recon_weight):
    errors, unit = np.zeros(mask.shape), []
    for v, (x, net) in enumerate(zip(xs, nets, strict=True)):
        z = net.encoder(x)
        error = (net.decoder(z) - x).square().sum(1).numpy()
        low, high = error[mask[:, v]].min(), error[mask[:, v]].max()
        errors[:, v] = (error - low) / (high - low)
        around = copies[v]
        filled = net.encoder(around.reshape(-1, x.shape[1])).reshape(len(x), around.shape[1], -1).mean(1)
        unit.append(functional.normalize(torch.where(torch.from_numpy(mask[:, [v]]), z, filled), dim=1))
    reconstruction = np.where(mask, errors, errors[:, ::-1]).sum(1)
    n = len(mask)
    h = torch.cat(unit)
    similarity = h @ h.T / temperature
    negatives = torch.exp(similarity) * _negative_mask(n)
    positive = torch.cat((similarity.diagonal(n), similarity.diagonal(-n)))
    anchors = -positive + torch.log(positive.exp() + negatives.sum(1))
    consistency = (0.5 * (anchors[:n] + anchors[n:])).numpy()
    return recon_weight * _min_max(reconstruction) + _min_max(consistency)


def _min_max(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / (values.max() - values.min())
