"""A straight transcription of the published step, sampler and evaluation: the reference for speed.

Written from the description of the public code, not from its text, and independent of graftkit's own
implementation. Deliberately as published: Python loops with a set a user and a list of tuples in the
sampler, one Python item a sample, dense gradients of ``nn.Embedding`` by autograd, dense Adam over both
tables, the diversity term over all users in every step, all users rescaled after every step, item norms
clipped at look-up, a (users, C, items, d) difference tensor in the evaluation and lists sorted in Python
there. Device flags are left out.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Triplets = list[tuple[int, int, Any]]


def sample(train: Any, n_negatives: int, rng: np.random.Generator, *, hard: bool) -> Triplets:
    """Candidates of every positive: one tuple with all of them, or one tuple each."""
    owned = [set(train[user].indices.tolist()) for user in range(train.shape[0])]
    rows: Triplets = []
    for user, item in zip(*map(np.ndarray.tolist, train.nonzero()), strict=True):
        drawn: list[int] = []
        for _ in range(n_negatives):
            candidate = int(rng.integers(train.shape[1]))
            while candidate in owned[user]:
                candidate = int(rng.integers(train.shape[1]))
            drawn.append(candidate)
        if hard:
            rows.append((user, item, drawn))
        else:
            rows += [(user, item, candidate) for candidate in drawn]
    return rows


class _Samples(torch.utils.data.Dataset[Any]):
    def __init__(self, rows: Triplets) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        user, item, negative = self.rows[index]
        return torch.tensor(user), torch.tensor(item), torch.tensor(negative)


def loader(rows: Triplets, batch_size: int, seed: int) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
    """Shuffled batches."""
    generator = torch.Generator().manual_seed(seed)
    return torch.utils.data.DataLoader(
        _Samples(rows), batch_size=batch_size, shuffle=True, generator=generator
    )


class PublishedModel(nn.Module):
    """Two dense tables, the loss by autograd, and dense Adam."""

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_vectors: int,
        *,
        d: int = 100,
        learning_rate: float = 1e-3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.n_vectors, self.d = n_vectors, d
        self.users = nn.Embedding(n_users, n_vectors * d)
        self.items = nn.Embedding(n_items, d, max_norm=1.0)
        with torch.no_grad():
            self.users.weight.normal_(0, 0.01, generator=generator)
            self.items.weight.normal_(0, d**-0.5, generator=generator)
        self.rescale()
        self.optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate)

    def rescale(self) -> None:
        """Bring every user vector to norm 1."""
        with torch.no_grad():
            table = self.users.weight.view(-1, self.n_vectors, self.d)
            table.div_(table.norm(dim=2, keepdim=True))

    def step(
        self,
        users: Tensor,
        items: Tensor,
        negatives: Tensor,
        *,
        margin: float = 1.0,
        eta: float = 10.0,
        bounds: tuple[float, float] = (0.05, 0.25),
    ) -> float:
        """One optimizer step; `negatives` of shape (B,) or (B, S), of which the nearest counts."""
        p = self.users(users).view(-1, self.n_vectors, 1, self.d)
        near = ((p - self.items(items)[:, None, None]) ** 2).sum(3).min(1).values
        far = ((p - self.items(negatives.view(len(users), 1, -1))) ** 2).sum(3).min(1).values
        loss = torch.relu(margin + near[:, 0] - far.min(1).values).sum()
        if eta and self.n_vectors > 1:
            table = self.users.weight.view(-1, self.n_vectors, self.d)
            distance = ((table[:, :, None] - table[:, None]) ** 2).sum(3)
            off = 1 - torch.eye(self.n_vectors)
            penalty = torch.relu(bounds[0] - distance) + torch.relu(distance - bounds[1])
            loss = loss + eta * (penalty * off).mean((1, 2)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.rescale()
        return float(loss.detach())

    @torch.no_grad()
    def predict(self, users: Tensor) -> Tensor:
        """Distances of some users to all items, through the full difference tensor."""
        p = self.users.weight.view(-1, self.n_vectors, self.d)[users]
        return ((p[:, :, None] - self.items.weight) ** 2).sum(3).min(1).values


def evaluate(
    model: PublishedModel, train: Any, test: Any, users: np.ndarray, *, ks: tuple[int, ...] = (3, 5)
) -> Any:
    """The public code's metrics of some users, three passes over them, each sorting lists in Python."""
    found: dict[str, list[float]] = {}
    for kind in ("cuts", "ranks", "auc"):
        for start in range(0, len(users), 100):
            block = users[start : start + 100]
            scores = model.predict(torch.from_numpy(block)).tolist()
            for user, row in zip(block.tolist(), scores, strict=True):
                seen, held = set(train[user].indices.tolist()), set(test[user].indices.tolist())
                order = sorted((i for i in range(len(row)) if i not in seen), key=row.__getitem__)
                hits = [place for place, item in enumerate(order) if item in held]
                _collect(found, kind, hits, len(order), ks)
    return {name: float(np.mean(values)) for name, values in found.items()}


def _collect(
    found: dict[str, list[float]], kind: str, hits: list[int], size: int, ks: tuple[int, ...]
) -> None:
    n = len(hits)
    if kind == "cuts":
        for k in ks:
            if n >= k:
                top = [p for p in hits if p < k]
                gain = sum(1 / np.log2(p + 2) for p in top) / sum(1 / np.log2(r + 2) for r in range(k))
                for name, value in (("precision", len(top) / k), ("recall", len(top) / n), ("ndcg", gain)):
                    found.setdefault(f"{name}@{k}", []).append(value)
    elif n >= 3 and kind == "ranks":
        found.setdefault("map", []).append(float(np.mean([(m + 1) / (p + 1) for m, p in enumerate(hits)])))
        found.setdefault("mrr", []).append(1 / (hits[0] + 1))
    elif n >= 3:
        right = sum(size - p for p in hits) - n * (n + 1) / 2
        found.setdefault("auc", []).append(right / (n * (size - n)) if size > n else 1.0)
