"""Training of one pair as the specification's pseudo-code says, one batch an epoch, in loops.

Sections 1.5 to 1.7 and 1.11; losses and tables come from `reference`. Every row is in the batch, so no
permutation enters; with k = 1 the positive of the rank loss is no draw either.
"""

import torch

from tests.plugins.rcpmod import reference


def apply(layers, x):
    out = x
    for depth, (weight, bias) in enumerate(layers):
        out = out @ weight.T + bias
        if depth < len(layers) - 1:
            out = out * (out > 0)
    return out


def leaves(layers):
    return [
        tuple(torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in pair)
        for pair in layers
    ]


def train(networks, xs, observed, settings):
    """Return weights after `settings.n_epochs` steps and the unweighted terms of every epoch."""
    n, k = len(observed), settings.n_neighbors
    nets = [(leaves(net.encoder), leaves(net.decoder)) for net in networks]
    optimizer = torch.optim.Adam(
        [p for net in nets for part in net for layer in part for p in layer], lr=settings.learning_rate
    )
    inputs = [torch.tensor(x, dtype=torch.float64) for x in xs]
    have = [[i for i in range(n) if observed[i][v]] for v in (0, 1)]
    complete = [i for i in range(n) if observed[i][0] and observed[i][1]]
    raw = tables(xs, observed, k)
    bank, curve = [], []
    for epoch in range(settings.n_epochs):
        z = [apply(nets[v][0], inputs[v]) for v in (0, 1)]
        frozen = [latent.detach().numpy() for latent in z]
        if epoch % settings.neighbor_refresh == 0:
            lists = tables(frozen, observed, k)
        if epoch % settings.negative_refresh == 0:
            far = [
                {i: farthest(frozen[v], i, have[v], settings.negative_rank) for i in have[v]} for v in (0, 1)
            ]
        terms = [torch.zeros(()), torch.zeros(()), torch.zeros(()), torch.zeros(())]
        for v in (0, 1):
            out = torch.sigmoid(apply(nets[v][1], z[v]))
            terms[0] = terms[0] + reference.reconstruction(out, inputs[v], have[v])
        # Imputed latents: the plain mean of the listed rows, with gradient.
        filled = [
            [z[v][i] if observed[i][v] else sum(z[v][j] for j in lists[v][i]) / k for i in range(n)]
            for v in (0, 1)
        ]
        rows = list(range(n)) if epoch >= settings.impute_from else complete
        h = [reference.unit([filled[v][i] for i in rows]) for v in (0, 1)]
        stored = [i for block in bank for i in block]
        extra = [q for v in (0, 1) for q in reference.unit([z[v][i] for i in stored])]
        terms[1] = reference.nce(h[0], h[1], extra, settings.temperature)
        terms[2] = reference.neighbor_alignment(
            z[0], z[1], lists[0], lists[1], range(n), settings.temperature
        )
        for v in (0, 1):
            own = [z[v][i] for i in have[v]]
            positive = [z[v][raw[v][i][0]] for i in have[v]]
            negative = [z[v][far[v][i]] for i in have[v]]
            terms[3] = terms[3] + reference.rank(own, positive, negative) + reference.nearest_distance(own)
        weight = reference.spread_weight(
            epoch, settings.spread_warm, settings.spread_weight, settings.spread_schedule
        )
        loss = terms[0] + settings.outlier_weight * terms[1] + settings.neighbor_weight * terms[2]
        loss = loss + weight * terms[3]
        curve.append([*(term.item() for term in terms), loss.item()])
        if settings.memory_size:
            similarity = [reference.dot(h[0][rows.index(i)], h[1][rows.index(i)]).item() for i in complete]
            chosen = reference.least_similar(similarity, settings.memory_fraction)
            bank = [*bank, [complete[position] for position in chosen]][-settings.memory_size :]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [
        [tuple(p.detach().numpy() for p in layer) for part in net for layer in part] for net in nets
    ], curve


def tables(representation, observed, k):
    a, b = [row[0] for row in observed], [row[1] for row in observed]
    return [
        reference.neighbor_lists(representation[0], representation[1], a, b, k),
        reference.neighbor_lists(representation[1], representation[0], b, a, k),
    ]


def farthest(z, i, have, rank):
    order = reference.sorted_by_distance(z, i, have)
    return order[min(rank, len(order)) - 1]
