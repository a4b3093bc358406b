"""RCPMOD's training over mini-batches, naive: every neighbour encoded on its own, Adam written out.

Written from sections 1.5 to 1.7 of the method's specification; nothing here calls the plugin. Random
choices (row orders, positives of the rank loss) are read from a `Chance` that wrote them down, so that
any batch size and any k can be followed without knowing the random stream.
"""

import numpy as np
import torch

from tests.plugins.rcpmod import reference


class Chance:
    """Stands in for a NumPy generator and writes down what it drew; row orders may be scripted."""

    def __init__(self, seed, orders=()):
        self.rng = np.random.default_rng(seed)
        self.scripted = list(orders)
        self.orders, self.picks, self.widths, self.ranks = [], [], [], []

    def permutation(self, n):
        self.orders.append(np.array(self.scripted.pop(0)) if self.scripted else self.rng.permutation(n))
        return self.orders[-1]

    def integers(self, high, size):
        self.widths.append(int(high))
        self.picks.append(self.rng.integers(high, size=size))
        return self.picks[-1]

    def choice(self, n, size, replace):
        self.ranks.append(self.rng.choice(n, size=size, replace=replace))
        return self.ranks[-1]


class Adam:
    """Kingma and Ba (2015), algorithm 1."""

    def __init__(self, parameters, rate):
        self.parameters, self.rate, self.steps = parameters, rate, 0
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]

    def step(self, gradients):
        self.steps += 1
        for p, g, m, v in zip(self.parameters, gradients, self.first, self.second, strict=True):
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.999).add_(0.001 * g * g)
            deviation = torch.sqrt(v / (1 - 0.999**self.steps)) + 1e-8
            with torch.no_grad():
                p -= self.rate * (m / (1 - 0.9**self.steps)) / deviation


def forward(layers, x):
    """One row through Linear, ReLU, ..., Linear."""
    out = torch.as_tensor(x)
    for depth, (weight, bias) in enumerate(layers):
        out = weight @ out + bias
        if depth < len(layers) - 1:
            out = torch.clamp(out, min=0)
    return out


def leaves(layers):
    return [(torch.tensor(w, requires_grad=True), torch.tensor(b, requires_grad=True)) for w, b in layers]


class Naive:
    """One pair's training; `bank_sizes` and `banks` tell what each contrast saw."""

    def __init__(self, xs, observed, networks, settings):
        self.xs, self.observed, self.settings = xs, observed, settings
        self.encoders = [leaves(network.encoder) for network in networks]
        self.decoders = [leaves(network.decoder) for network in networks]
        self.parameters = [p for net in (*self.encoders, *self.decoders) for layer in net for p in layer]
        self.adam = Adam(self.parameters, settings.learning_rate)
        self.blocks, self.bank_sizes = [], []
        self.raw = self.tables(xs)

    def f(self, v, i):
        return forward(self.encoders[v], self.xs[v][i])

    def latents(self):
        return [[self.f(v, i).detach().tolist() for i in range(len(self.observed))] for v in (0, 1)]

    def tables(self, points):
        """Section 1.5; rows are cut to what every row of either view can have."""
        seen, k = self.observed.T, self.settings.n_neighbors
        lists = [reference.neighbor_lists(points[v], points[1 - v], seen[v], seen[1 - v], k) for v in (0, 1)]
        shortest = min(len(row) for view in lists for row in view)
        return [[row[:shortest] for row in view] for view in lists]

    def farther(self, points):
        """q_v(i): the row at the asked rank, or the farthest there is."""
        found, rank = [], self.settings.negative_rank
        for v in (0, 1):
            have = [j for j in range(len(self.observed)) if self.observed[j, v]]
            ranked = {i: reference.sorted_by_distance(points[v], i, have) for i in have}
            found.append({i: row[min(rank, len(row)) - 1] for i, row in ranked.items()})
        return found

    def run(self, chance):
        """Follow the orders and picks of `chance`; return each epoch's mean terms."""
        settings, n = self.settings, len(self.observed)
        picks, self.ranks, curve = list(chance.picks), list(chance.ranks), []
        for epoch in range(settings.n_epochs):
            weight = reference.spread_weight(
                epoch, settings.spread_warm, settings.spread_weight, settings.spread_schedule
            )
            if epoch % settings.neighbor_refresh == 0:
                self.table = self.tables(self.latents())
            if epoch % settings.negative_refresh == 0:
                self.far = self.farther(self.latents())
            near = None
            if weight > 0 and n - 1 > settings.n_neighbors:
                near = [[self.raw[v][i][c] for i, c in enumerate(picks.pop(0).tolist())] for v in (0, 1)]
            order = chance.orders[epoch if settings.reshuffle else 0]
            steps = []
            for start in range(0, n, settings.batch_size):
                batch = [int(i) for i in order[start : start + settings.batch_size]]
                if len(batch) > 1:
                    steps.append(self.step(batch, weight, near, impute=epoch >= settings.impute_from))
            curve.append([sum(terms[t].item() for terms in steps) / len(steps) for t in range(4)])
        assert not picks
        assert not self.ranks
        return curve

    def step(self, batch, weight, near, *, impute):
        settings = self.settings
        have = [[i for i in batch if self.observed[i, v]] for v in (0, 1)]
        rec = oc = na = spread = torch.zeros((), dtype=torch.float64)
        for v in (0, 1):
            if have[v]:
                out = {i: torch.sigmoid(forward(self.decoders[v], self.f(v, i))) for i in have[v]}
                rec = rec + reference.reconstruction(out, self.xs[v], have[v])
        if settings.outlier_weight > 0 and (impute or set(have[0]) & set(have[1])):
            oc = self.contrast(batch, impute)
        if settings.neighbor_weight > 0:
            table = self.table
            if settings.alignment_ranks and settings.alignment_ranks < len(table[0][0]):
                ranks = self.ranks.pop(0).tolist()
                table = [[[row[r] for r in ranks] for row in view] for view in table]
            z = [{j: self.f(v, j) for i in batch for j in table[v][i]} for v in (0, 1)]
            na = reference.neighbor_alignment(*z, *table, batch, settings.temperature)
        if weight > 0:
            for v in (0, 1):
                z = [self.f(v, i) for i in have[v]]
                if len(z) > 1:
                    spread = spread + reference.nearest_distance(z)
                if near is not None and z:
                    positive = [self.f(v, near[v][i]) for i in have[v]]
                    negative = [self.f(v, self.far[v][i]) for i in have[v]]
                    spread = spread + reference.rank(z, positive, negative)
        loss = rec + settings.outlier_weight * oc + settings.neighbor_weight * na + weight * spread
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        self.adam.step(
            [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, gradients, strict=True)]
        )
        return rec, oc, na, spread

    def contrast(self, batch, impute):
        """L_oc; afterwards the complete rows that agree least join the bank."""
        settings = self.settings
        complete = [i for i in batch if self.observed[i].all()]
        rows, h = batch if impute else complete, []
        for v in (0, 1):
            z = []
            for i in rows:
                near = [i] if self.observed[i, v] else self.table[v][i]
                z.append(sum(self.f(v, j) for j in near) / len(near))
            h.append(reference.unit(z))
        stored = [i for block in self.blocks for i in block]
        self.bank_sizes.append(len(stored))
        bank = [u for v in (0, 1) for u in reference.unit([self.f(v, i) for i in stored])]
        loss = reference.nce(h[0], h[1], bank, settings.temperature)
        if complete and settings.memory_size:
            sigma = [reference.dot(h[0][rows.index(i)], h[1][rows.index(i)]).item() for i in complete]
            chosen = reference.least_similar(sigma, settings.memory_fraction)
            self.blocks = [*self.blocks, [complete[c] for c in chosen]][-settings.memory_size :]
        return loss

    def weights(self):
        return [p.detach().numpy() for p in self.parameters]
