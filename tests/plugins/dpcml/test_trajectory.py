"""Whole passes, step by step, against autograd and a row-by-row optimizer in float64.

Independent of the plugin but for the draws: the same generator gives start, order and candidates. Every
sampling, penalty, scale, optimizer and constraint occurs, with ragged users, a user without items, one who
owns all and one who lacks a single item.
"""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from graftkit.methods.dpcml import Settings
from graftkit.methods.dpcml.sampling import NegativeSampler
from graftkit.methods.dpcml.state import TrainingState
from graftkit.methods.dpcml.training import Trainer
from graftkit.methods.dpcml.vectors import assign_vectors

USERS, ITEMS, BATCH, RATE, RADIUS = 12, 17, 13, 0.05, 1.3
LOW, HIGH, ETA = 0.2, 0.6, 2.0
SAMPLINGS = [("hard", "topk"), ("uniform", "topk"), ("dihars", "topk"), ("dihars", "threshold")]
SAMPLINGS += [("popular", "topk")]
PENALTIES = [
    (None, "paper"),
    ("pairwise", "paper"),
    ("pairwise", "code"),
    ("mean", "full"),
    ("mean", "paper"),
]


def interactions():
    dense = np.random.default_rng(5).random((USERS, ITEMS)) < 0.3
    dense[:, 0] |= ~dense.any(axis=1)
    dense[3], dense[5], dense[6] = False, True, np.arange(ITEMS) > 0
    return dense


def loss_of(positive, hinges, threshold):
    sampling, mode = positive
    if sampling in ("uniform", "popular"):
        return hinges.sum()
    if sampling == "hard":
        return hinges.max()
    if mode == "topk":
        return hinges.sort(descending=True).values[:3].mean()  # k = ceil(0.5 * 5)
    return threshold + (0.1 * torch.log1p(torch.exp((hinges - threshold) / 0.1))).sum() / 3


def penalty_of(vectors, form):
    c = len(vectors)
    square = ((vectors[:, None] - vectors[None]) ** 2).sum(2)
    if form == "mean":
        delta = square.sum() / (2 * c * (c - 1))
        return torch.relu(LOW - delta) + torch.relu(delta - HIGH)
    off = 1 - torch.eye(c, dtype=torch.float64)
    return ((torch.relu(LOW - square) + torch.relu(square - HIGH)) * off).mean()


def constrain(rows, rule):
    for row in rows:
        norm = row.norm()
        if (rule == "sphere" and norm > 0) or (rule == "ball" and norm > RADIUS):
            row *= RADIUS / norm


class Loops:
    """Tables and Adam's moments, moved row by row."""

    def __init__(self, state, settings, dense):
        self.tables = {"user": state.user_vectors, "item": state.item_vectors, "threshold": state.thresholds}
        self.tables = {name: torch.tensor(table) for name, table in self.tables.items()}
        self.moments = {name: [torch.zeros_like(t), torch.zeros_like(t)] for name, t in self.tables.items()}
        self.ptr, self.settings, self.dense, self.n_steps = state.user_ptr, settings, dense, 0

    def step(self, users, items, negatives, n_positives):
        settings, ptr = self.settings, self.ptr
        self.n_steps += 1
        leaves = {name: table.clone().requires_grad_() for name, table in self.tables.items()}
        P, Q, G = leaves.values()

        def score(u, i):
            return ((P[ptr[u] : ptr[u + 1]] - Q[i]) ** 2).sum(1).min()

        total = 0.0
        for u, i, candidates in zip(users, items, negatives, strict=True):
            hinges = torch.stack([torch.relu(1.0 + score(u, i) - score(u, j)) for j in candidates])
            total = total + loss_of((settings.sampling, settings.dihars_mode), hinges, G[u, 0]) / len(users)
        distinct = np.unique(users)
        pulled = set()  # rows of users outside the bounds are touched, even where their gradient is 0
        for u in range(USERS) if settings.dcrs_scale == "full" else distinct:
            if settings.dcrs is None or ptr[u + 1] - ptr[u] < 2:
                continue
            psi = penalty_of(P[ptr[u] : ptr[u + 1]], settings.dcrs)
            chance = 1 - (1 - self.dense[u].sum() / self.dense.sum()) ** min(BATCH, n_positives)
            weight = {"paper": 1 / len(distinct), "full": 1 / (len(users) * USERS)}
            weight["code"] = 1 / (len(users) * USERS * max(chance, 1e-300))
            total = total + ETA * weight[settings.dcrs_scale] * psi
            if psi > 0:
                pulled |= set(range(ptr[u], ptr[u + 1]))
        total.backward()
        for name, rule in (("user", settings.user_norm), ("item", settings.item_norm), ("threshold", None)):
            gradient = leaves[name].grad
            if name == "threshold" and not settings.has_threshold:
                continue
            if settings.optimizer == "adam":
                rows = range(len(gradient))
            elif name == "threshold":
                rows = distinct
            else:
                touched = (gradient != 0).any(dim=1)
                rows = [
                    row
                    for row in range(len(touched))
                    if touched[row] or (name, row) in {("user", r) for r in pulled}
                ]
            self._move(name, rows, gradient)
            if name == "threshold":
                self.tables[name].clamp_(min=0)
            else:
                constrain([self.tables[name][row] for row in rows], rule)

    def _move(self, name, rows, gradient):
        table, (first, second) = self.tables[name], self.moments[name]
        decay = 0.0 if name == "threshold" else self.settings.weight_decay
        for row in rows:
            g = gradient[row] + decay * table[row]
            if self.settings.optimizer == "adagrad":
                second[row] += g * g
                table[row] -= RATE * g / (second[row].sqrt() + 1e-8)
                continue
            first[row] = 0.9 * first[row] + 0.1 * g
            second[row] = 0.999 * second[row] + 0.001 * g * g
            rise = first[row] / (1 - 0.9**self.n_steps)
            table[row] -= RATE * rise / ((second[row] / (1 - 0.999**self.n_steps)).sqrt() + 1e-8)


CASES = [
    (optimizer, positive, penalty)
    for optimizer in ("lazy_adam", "adam", "adagrad")
    for positive in SAMPLINGS
    for penalty in PENALTIES
]


@pytest.mark.parametrize("case", range(0, len(CASES), 4))
def test_passes_equal_autograd(case):
    optimizer, (sampling, mode), (dcrs, scale) = CASES[case]
    dense = interactions()
    X = sp.csr_matrix(dense.astype(np.float32))
    settings = Settings(
        n_components=4,
        n_vectors=3,
        assignment=("bpa", "apa")[case // 4 % 2],
        sampling=sampling,
        dihars_mode=mode,
        n_negatives=5,
        beta=0.5,
        dcrs=dcrs,
        dcrs_weight=ETA,
        delta_min=LOW,
        delta_max=HIGH,
        dcrs_scale=scale,
        optimizer=optimizer,
        learning_rate=RATE,
        batch_size=BATCH,
        weight_decay=(0.0, 0.01)[case % 3 == 1],
        user_norm=("sphere", "ball", None)[case % 3],
        item_norm=("ball", "sphere", None)[case // 3 % 3],
        max_norm=RADIUS,
        dtype="float64",
    )
    n_vectors = assign_vectors(dense.sum(axis=1), settings.assignment, 3)
    start = TrainingState.initial(n_vectors, ITEMS, settings, np.random.default_rng(1))
    trainer = Trainer(X, X, settings, np.random.default_rng(2), start)
    loops = Loops(start, settings, dense)
    rng, sampler = np.random.default_rng(2), NegativeSampler(X, popular=sampling == "popular")
    pairs = np.array([(u, i) for u in range(USERS) for i in range(ITEMS) if dense[u, i] and u != 5])
    for _ in range(2):
        trainer.run_epoch()
        users, items = pairs[rng.permutation(len(pairs))].T
        candidates = sampler.draw(users, 5, rng)
        for at in range(0, len(users), BATCH):
            batch = slice(at, at + BATCH)
            loops.step(users[batch], items[batch], candidates[batch], len(pairs))
    reached = trainer.state()
    assert np.abs(reached.user_vectors - start.user_vectors).max() > 0.01
    for name, table in reached.tables().items():
        np.testing.assert_allclose(table, loops.tables[name].numpy(), rtol=0, atol=1e-11)
