"""Graphon estimation: equal to the dense definition, planted models recovered, limits stated."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graftkit.methods.hgoe import adjacency, graphons
from graftkit.methods.hgoe.adjacency import aligned_mean, resolution_of
from graftkit.methods.hgoe.graphons import estimate, mix, resize, usvt
from graftkit.methods.hgoe.graphs import PackedGraphs
from graftkit.methods.hgoe.mixup import Mixtures
from graftkit.methods.hgoe.sampling import sample_mixtures
from tests.plugins.hgoe import reference
from tests.plugins.hgoe.cases import block_graphs, generator, pack, random_lists


def symmetric(n, seed):
    w = torch.rand(n, n, generator=generator(seed), dtype=torch.float64)
    return ((w + w.T) / 2).fill_diagonal_(0)


@given(
    count=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    size=st.integers(2, 14),
    chunk=st.sampled_from([1, 12, 25, 999]),  # nodes: a graph, one or two, a few, all
)
@pytest.mark.parametrize("normalize", ["all", "present"])
def test_streaming_mean_equals_the_dense_definition(normalize, count, seed, size, chunk):
    graphs = random_lists(count, seed)
    got = aligned_mean(pack(graphs), size, normalize=normalize, chunk=chunk)
    np.testing.assert_allclose(
        got.numpy(), reference.aligned_mean(graphs, size, normalize), rtol=0, atol=1e-12
    )


def test_the_general_order_equals_the_fast_one(monkeypatch):
    """The fallback for keys that would not fit into 63 bits."""
    graphs = pack(random_lists(20, 3))
    fast = aligned_mean(graphs, 8)
    calls = []
    original = np.lexsort
    monkeypatch.setattr(adjacency.np, "lexsort", lambda keys: calls.append(1) or original(keys))
    monkeypatch.setattr(adjacency, "KEY_BITS", 1)
    torch.testing.assert_close(aligned_mean(graphs, 8), fast, rtol=0, atol=0)
    assert calls


def test_trailing_isolated_nodes_count():
    """Two graphs with one edge each; in the second a third node, isolated, is last."""
    graphs = pack([([(0, 1), (1, 0)], 2), ([(0, 1), (1, 0)], 3)])
    # entry (0, 2): divided by both graphs, or by the one that has three nodes; no edge either way
    assert aligned_mean(graphs, 3, normalize="present").tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert resolution_of(graphs.num_nodes) == 2


def test_hand_worked_order_breaks_ties_by_neighbours():
    """Path 0-1-2-3 with a leaf 4 at 1: degrees 1, 3, 2, 1, 1; the leaves at 1 come before leaf 3."""
    pairs = [(0, 1), (1, 2), (2, 3), (1, 4)]
    graphs = pack([(pairs + [(b, a) for a, b in pairs], 5)])
    # sorted: 1 (3), 2 (2), then leaves 0 and 4 (neighbour degree 3), then 3 (neighbour degree 2)
    expected = torch.zeros(5, 5, dtype=torch.float64)
    for a, b in [(0, 1), (0, 2), (0, 3), (1, 4)]:
        expected[a, b] = expected[b, a] = 1
    torch.testing.assert_close(aligned_mean(graphs, 5), expected)


@pytest.mark.parametrize("tau", [0.01, 0.2, 0.4])
def test_usvt_equals_the_svd_definition(tau):
    mean = torch.from_numpy(reference.aligned_mean(random_lists(12, 1, low=6), 9))
    np.testing.assert_allclose(usvt(mean, tau).numpy(), reference.usvt(mean.numpy(), tau), atol=1e-10)


def test_no_threshold_is_the_mean_and_a_huge_one_is_zero():
    mean = aligned_mean(pack(random_lists(30, 2)), 7)
    torch.testing.assert_close(usvt(mean, 0.0), mean, rtol=0, atol=1e-10)
    torch.testing.assert_close(usvt(mean, 1e-12), mean, rtol=0, atol=1e-10)
    assert not usvt(mean, 100.0).any()


@pytest.mark.parametrize("method", ["usvt", "mean", "sort_smooth"])
def test_every_estimator_gives_a_graphon(method):
    mean = aligned_mean(pack(random_lists(40, 5, low=4)), 9)
    w = estimate(mean, 0.1, method)
    assert torch.equal(w, w.T)
    assert w.min() >= 0
    assert w.max() <= 1
    assert not w.diagonal().any()


def test_sort_smooth_averages_blocks():
    """N = 4, width round(log 4) = 1: nothing to average; N = 8, width 2: the mean over 2 x 2 blocks."""
    mean = symmetric(4, 0)
    torch.testing.assert_close(graphons.sort_smooth(mean), mean)
    mean = symmetric(8, 1)
    w = graphons.sort_smooth(mean)
    assert w[0, 2].item() == pytest.approx(mean[0:2, 2:4].mean().item())
    assert w[0, 1].item() == pytest.approx(mean[0, 1].item())  # inside a block the diagonal is left out
    assert w[4, 7].item() == pytest.approx(mean[4:6, 6:8].mean().item())


def test_a_callable_estimator():
    mean = symmetric(5, 0)
    torch.testing.assert_close(estimate(mean, 0.3, lambda m, t: m * t), mean * 0.3)
    with pytest.raises(ValueError, match=r"estimator: expected a finite tensor of shape \(5, 5\)"):
        estimate(mean, 0.1, lambda m, _: m[:2])
    with pytest.raises(ValueError, match="estimator: expected one of 'usvt', 'mean', 'sort_smooth'"):
        estimate(mean, 0.1, "svd")


RECOVERY = [
    ((20, 20), [[0.8, 0.4], [0.4, 0.1]], 100, 0.10, 0.03),
    ((20, 20), [[0.8, 0.4], [0.4, 0.1]], 20, 0.13, 0.05),
    ((15, 15, 15), [[0.9, 0.6, 0.3], [0.6, 0.45, 0.15], [0.3, 0.15, 0.05]], 100, 0.09, 0.03),
]


@pytest.mark.parametrize(("sizes", "chances", "count", "error", "density"), RECOVERY)
def test_blocks_that_differ_in_degree_are_recovered(sizes, chances, count, error, density):
    graphs, p = block_graphs(sizes, chances, count, seed=0)
    w = usvt(aligned_mean(pack(graphs), len(p)), 0.2).numpy()
    off = ~np.eye(len(p), dtype=bool)
    assert np.abs(w - p)[off].mean() < error
    assert abs(w[off].mean() - p[off].mean()) < density


def test_balanced_communities_are_not_recoverable():
    """All degrees are alike, so sorting by degree cannot tell the blocks apart: only the density is right."""
    graphs, p = block_graphs((20, 20), [[0.8, 0.1], [0.1, 0.8]], 100, seed=0)
    w = usvt(aligned_mean(pack(graphs), 40), 0.2).numpy()
    off = ~np.eye(40, dtype=bool)
    assert np.abs(w - p)[off].mean() > 0.3
    assert abs(w[off].mean() - p[off].mean()) < 0.03


def test_a_sparse_graphon_is_thresholded_away_and_sampling_refuses():
    graphs, _ = block_graphs((300,), [[2 / 299]], 50, seed=0)
    mean = aligned_mean(pack(graphs), 300)
    top = np.abs(np.linalg.eigvalsh(mean.numpy())).max()
    assert 2.5 < top < 0.2 * 300**0.5
    with pytest.warns(UserWarning, match=r"the graphon is zero: threshold=0\.2 removed every singular value"):
        w = estimate(mean, 0.2)
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"graphons 0 and 0 are zero: no edge can be drawn"):
        sample_mixtures([w], Mixtures.of_one(3, 300), generator())
    assert time.perf_counter() - start < 1
    assert estimate(mean, 0.01).any()


def test_edgeless_graphs_give_a_zero_graphon_with_their_own_warning():
    graphs = pack([([], 4), ([], 5)])
    with pytest.warns(UserWarning, match="the graphs have no edges"):
        estimate(aligned_mean(graphs, 4), 0.2)


def test_renumbering_nodes_of_distinct_degree_changes_nothing():
    """Degrees of a threshold graph on 6 nodes: 5, 4, 3, 3, 2, 1; the two of 3 are joined alike."""
    pairs = [(u, v) for u in range(6) for v in range(u + 1, 6) if u + v <= 5]
    order = np.random.default_rng(0).permutation(6)
    renumbered = [(int(order[a]), int(order[b])) for a, b in pairs]
    torch.testing.assert_close(aligned_mean(pack([(pairs, 6)]), 6), aligned_mean(pack([(renumbered, 6)]), 6))


@given(seed=st.integers(0, 10**6))
def test_renumbering_keeps_the_density(seed):
    rng = np.random.default_rng(seed)
    graphs = random_lists(6, seed, low=3)
    other = []
    for edges, n in graphs:
        order = rng.permutation(n)
        other.append(([(int(order[a]), int(order[b])) for a, b in edges], n))
    first, second = (aligned_mean(pack(g), 12) for g in (graphs, other))
    assert abs(first.mean() - second.mean()) < 1e-6


@pytest.mark.parametrize("mode", ["crop_pad", "interpolate"])
@pytest.mark.parametrize("n", [1, 3, 5, 8, 13])
def test_resize_equals_the_definition(mode, n):
    w = symmetric(5, 0)
    np.testing.assert_array_equal(resize(w, n, mode).numpy(), reference.resize(w.numpy(), n, mode))


@pytest.mark.parametrize("mode", ["crop_pad", "interpolate"])
def test_mixing_at_its_ends_and_between(mode):
    a, b = symmetric(5, 0), symmetric(8, 1)
    assert torch.equal(mix(a, b, 1.0, 6, mode), resize(a, 6, mode))
    assert torch.equal(mix(a, b, 0.0, 6, mode), resize(b, 6, mode))
    assert torch.equal(mix(a, a, 0.37, 5, mode), resize(a, 5, mode))
    half = mix(a, b, 0.25, 6, mode)
    low, high = (f(resize(a, 6, mode), resize(b, 6, mode)) for f in (torch.minimum, torch.maximum))
    assert ((half >= low - 1e-15) & (half <= high + 1e-15)).all()
    assert torch.equal(half, half.T)
    assert not half.diagonal().any()
    assert half[0, 1].item() == pytest.approx(
        0.25 * resize(a, 6, mode)[0, 1].item() + 0.75 * resize(b, 6, mode)[0, 1].item()
    )


def test_resolution_is_the_truncated_median():
    assert resolution_of(torch.tensor([3, 4])) == 3  # median 3.5
    assert resolution_of(torch.tensor([1, 1])) == 2
    assert resolution_of(torch.tensor([9]), 5) == 5


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda g: aligned_mean(g, 1), ValueError, r"resolution: expected an integer >= 2, got 1"),
        (lambda g: aligned_mean(g, 2.5), TypeError, "resolution: expected an integer"),
        (lambda g: aligned_mean(g, 5000), ValueError, r"resolution: expected at most 4000.*1\.1 GiB"),
        (lambda g: aligned_mean(g, 3, normalize="none"), ValueError, "normalize: expected one of"),
        (
            lambda g: aligned_mean(g.select(torch.tensor([], dtype=torch.long)), 3),
            ValueError,
            "at least one graph",
        ),
        (lambda _: usvt(torch.zeros(2, 2), -0.1), ValueError, "threshold: expected a finite number >= 0"),
        (
            lambda _: mix(symmetric(3, 0), symmetric(3, 1), 1.5, 3),
            ValueError,
            r"lam: expected .* in \[0, 1\]",
        ),
        (lambda _: resize(symmetric(3, 0), 0), ValueError, "size: expected an integer >= 1"),
        (lambda _: resize(symmetric(3, 0), 3, "stretch"), ValueError, "mode: expected one of"),
        (lambda g: resolution_of(g.num_nodes, "mean"), ValueError, "resolution: expected an integer >= 2 or"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call(pack(random_lists(3, 0)))


def test_a_large_resolution_warns():
    graphs = PackedGraphs(torch.empty(2, 0, dtype=torch.int64), torch.tensor([3]))
    with pytest.warns(UserWarning, match="resolution=1001: the decomposition grows with its cube"):
        resolution_of(graphs.num_nodes, 1001)
