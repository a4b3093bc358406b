"""The sampler's law beside a plain loop: every pair of nodes on its own, with its own probability.

The sampler does not look at each pair of each graph, so frequencies alone would not do: a sampler that places
the expected number of edges has them right too. Hence the variance of the edge count, correlations of pairs
within a graph and between neighbouring graphs, and all outcomes of graphs with three nodes. The generator is
fixed; bounds are five standard errors, over at most 1,000 comparisons.
"""

import numpy as np
import pytest
import torch

from graftkit.methods.hgoe.mixup import Mixtures
from graftkit.methods.hgoe.sampling import sample_mixtures
from tests.plugins.hgoe import reference
from tests.plugins.hgoe.cases import generator

COUNT = 40_000
NODES = 8
LOW, HIGH = np.triu_indices(NODES, 1)
# Both sides of one half, both certainties, and two chances that hardly ever (do not) happen.
CHANCES = np.concatenate([[0, 1, 0.0005, 0.9995, 0.5], np.linspace(0.02, 0.98, len(LOW) - 5)])
FREE = (CHANCES > 0.01) & (CHANCES < 0.99)  # two rare events together are too few for a bound in errors


def graphon(chances=CHANCES, n=NODES):
    w = torch.zeros(n, n, dtype=torch.float64)
    low, high = np.triu_indices(n, 1)
    w[low, high] = w[high, low] = torch.from_numpy(np.asarray(chances, dtype=np.float64))
    return w


def indicators(graphs, n=NODES):
    """One row a graph, one column a pair of nodes, 1 where there is an edge."""
    owner = graphs.batch[graphs.edge_index[0]]
    local = graphs.edge_index - graphs.ptr[owner]
    dense = torch.zeros(len(graphs), n, n, dtype=torch.int64)
    dense.index_put_((owner, local[0], local[1]), torch.tensor(1), accumulate=True)
    assert dense.max() <= 1, "an edge comes twice"
    assert torch.equal(dense, dense.transpose(1, 2))
    low, high = np.triu_indices(n, 1)
    return dense[:, low, high].numpy().astype(np.float64)


def ours():
    entries = Mixtures.of_one(COUNT, NODES)
    return indicators(sample_mixtures([graphon()], entries, generator(), drop_isolated=False))


def mixed():
    """Four mixtures in turn, all equal to the matrix, so that their graphs must find their own places."""
    entries = Mixtures.of_one(COUNT, NODES)
    entries.first[::2] = 1
    entries.lam[::3] = 0
    w = graphon()
    entries.second[entries.first == 1] = 1
    graphs = sample_mixtures([w, w.clone()], entries, generator(), drop_isolated=False)
    return indicators(graphs)


def loop():
    return np.array(reference.bernoulli_pairs(CHANCES, COUNT, seed=0), dtype=np.float64)


@pytest.fixture(scope="module", params=[ours, mixed, loop], ids=["ours", "mixed", "loop"])
def drawn(request):
    return request.param()


def test_each_pair_has_its_frequency(drawn):
    error = np.sqrt(CHANCES * (1 - CHANCES) / COUNT)
    assert (np.abs(drawn.mean(0) - CHANCES) <= 5 * error).all()  # exact where it is 0 or 1


def test_pairs_of_a_graph_do_not_depend_on_each_other(drawn):
    correlation = np.corrcoef(drawn[:, FREE].T)[np.triu_indices(FREE.sum(), 1)]
    assert np.abs(correlation).max() < 5 / COUNT**0.5


def test_neighbouring_graphs_do_not_depend_on_each_other(drawn):
    """Every pair of a graph with every pair of the next."""
    z = (drawn[:, FREE] - CHANCES[FREE]) / np.sqrt(CHANCES * (1 - CHANCES))[FREE]
    for lag in (1, 2):
        assert np.abs(z[:-lag].T @ z[lag:] / (COUNT - lag)).max() < 5 / COUNT**0.5


def test_the_edge_count_varies_as_a_sum_of_independent_draws(drawn):
    edges = drawn.sum(1)
    expected = (CHANCES * (1 - CHANCES)).sum()
    assert abs(edges.mean() - CHANCES.sum()) < 5 * (expected / COUNT) ** 0.5
    assert abs(edges.var() / expected - 1) < 5 * (2 / COUNT) ** 0.5


def test_a_pair_varies_over_calls_as_independent_draws_do():
    """Edges of each pair in 400 calls of 25 graphs: a fixed share of the graphs would hardly vary."""
    chances, calls, size = np.array([0.1, 0.3, 0.7]), 400, 25
    w, entries = graphon(chances, 3), Mixtures.of_one(size, 3)
    totals = np.array([
        indicators(sample_mixtures([w], entries, generator(k), drop_isolated=False), 3).sum(0)
        for k in range(calls)
    ])  # fmt: skip
    share = chances / (1 - np.prod(1 - chances))  # a graph without an edge is drawn again
    variance = size * share * (1 - share)
    assert (np.abs(totals.mean(0) - size * share) < 5 * np.sqrt(variance / calls)).all()
    assert (np.abs(totals.var(0) / variance - 1) < 5 * np.sqrt(2 / calls)).all()


def test_all_graphs_of_three_nodes_have_their_probability():
    """Eight outcomes; the one without an edge is drawn again, so seven remain."""
    chances = np.array([0.15, 0.4, 0.8])
    drawn = indicators(
        sample_mixtures([graphon(chances, 3)], Mixtures.of_one(COUNT, 3), generator(1), drop_isolated=False),
        3,
    )
    outcomes = np.bincount((drawn @ [1, 2, 4]).astype(int), minlength=8)
    bits = (np.arange(8)[:, None] >> np.arange(3)) & 1
    expected = np.prod(np.where(bits, chances, 1 - chances), axis=1)
    expected[0] = 0
    expected *= COUNT / expected.sum()
    assert outcomes[0] == 0
    assert (np.abs(outcomes - expected)[1:] < 5 * np.sqrt(expected[1:])).all()
