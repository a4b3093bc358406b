"""Generated families, pixel graphs, borrowed edge attributes, harmony and balance of parts."""

import numpy as np
import pytest
import torch

from graftkit.methods.hgoe.balance import PartBalance
from graftkit.methods.hgoe.edges import borrowed_attributes
from graftkit.methods.hgoe.harmony import project, same_kind
from graftkit.methods.hgoe.pairs import undirected
from graftkit.methods.hgoe.pixels import digit_images, image_graphs, patch_images
from tests.plugins.hgoe.cases import generator, pack
from tests.plugins.hgoe.families import FAMILIES, generate_family
from tests.plugins.hgoe.test_graphs import unpack


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_simple_seeded_and_of_their_size(name):
    graphs = generate_family(name, 30, seed=0)
    assert graphs.num_nodes.min() >= 16
    assert graphs.num_nodes.max() <= 35
    assert undirected(graphs)[1] is None
    for edges, _ in unpack(graphs):
        assert edges == sorted(edges)
        assert len({tuple(e) for e in edges}) == len(edges)
        assert all(u != v for u, v in edges)
    assert torch.equal(generate_family(name, 30, seed=0).edge_index, graphs.edge_index)
    assert not torch.equal(generate_family(name, 30, seed=1).num_nodes, graphs.num_nodes)


def density(name):
    graphs = generate_family(name, 200, seed=0)
    n = graphs.num_nodes.double()
    return float((graphs.edge_ptr.diff() / (n * (n - 1))).mean())


def test_families_have_the_structure_of_their_names():
    trees = generate_family("tree", 20, seed=0)
    assert torch.equal(trees.edge_ptr.diff() // 2, trees.num_nodes - 1)
    hubs = generate_family("hub", 20, seed=0)
    degree = torch.bincount(hubs.edge_index[0])
    assert torch.equal(degree[hubs.ptr[:-1]], hubs.num_nodes - 1)
    regular = torch.bincount(generate_family("regular", 20, seed=0).edge_index[0])
    assert regular.max() == 4
    assert regular.double().mean() > 3.6
    assert abs(density("random") - density("two blocks")) < 0.02  # matched on purpose


def test_a_small_picture_by_hand():
    """Three bright pixels in an L: all touch, the diagonal too; a fourth stands apart."""
    image = np.zeros((4, 4))
    image[0, 0] = image[1, 0] = image[1, 1] = 8
    image[3, 3] = 16
    graphs = image_graphs(image[None], 4)
    assert graphs.x.flatten().tolist() == [0.5, 0.5, 0.5, 1.0]
    pairs = {(int(a), int(b)) for a, b in graphs.edge_index.T}
    assert pairs == {(a, b) for a in range(3) for b in range(3) if a != b}
    assert len(image_graphs(image[None], 16).num_nodes) == 1  # no bright pixel: a graph without nodes
    with pytest.raises(ValueError, match=r"images: expected shape \(m, h, w\)"):
        image_graphs(image, 4)


def test_shipped_pictures():
    images, labels = digit_images()
    assert images.shape == (1797, 8, 8)
    assert set(labels) == set(range(10))
    patches, threshold = patch_images(12, 0)
    assert patches.shape == (12, 8, 8)
    share = (patches > threshold[:, None, None]).mean((1, 2))
    assert share.min() >= 0.35
    assert share.max() <= 0.7
    assert np.array_equal(patches, patch_images(12, 0)[0])


def test_borrowed_edge_attributes_are_alike_both_ways():
    graphs = pack([([(0, 1), (1, 0), (1, 2), (2, 1)], 3), ([(0, 1), (1, 0)], 2)] * 50)
    pool = torch.arange(10)[:, None]
    got = borrowed_attributes(graphs, pool, "resample", generator())
    assert got.dtype == torch.int64
    assert set(got.flatten().tolist()) == set(range(10))
    assert torch.equal(got[0::2], got[1::2])  # each edge is followed by its reverse
    assert not borrowed_attributes(graphs, pool, "zeros", generator()).any()
    with pytest.raises(ValueError, match="edge_attr: expected one of 'zeros', 'resample'"):
        borrowed_attributes(graphs, pool, "drop", generator())


def test_harmony():
    x = torch.rand(3, 4)
    assert torch.equal(project(x, 2), x[:, :2])
    assert torch.equal(project(x, 6), torch.cat([x, torch.zeros(3, 2)], 1))
    assert same_kind("x", x, (4,), torch.float32) is x
    assert same_kind("x", torch.ones(3, 4), (4,), torch.int64).dtype == torch.int64
    with pytest.raises(ValueError, match="pos: this graph has shape"):
        same_kind("pos", x, (3,), torch.float32)
    with pytest.raises(ValueError, match=r"x: torch\.float32 values that are no integers"):
        same_kind("x", x, (4,), torch.int64)


def test_balance_by_hand():
    """Spreads 1 and 3, alpha 1: weights 0.5 and 1.5; standardised sums."""
    balance = PartBalance(("a", "b"), 1.0)
    assert balance.weights() == {"a": 1.0, "b": 1.0}
    balance.see({"a": torch.tensor([0.0]), "b": torch.tensor([0.0])})
    balance.see({"a": torch.tensor([2.0]), "b": torch.tensor([6.0])})
    assert balance.weights() == {"a": 1.0, "b": 1.0}  # until the epoch ends
    balance.end_epoch()
    assert balance.weights() == {"a": 0.5, "b": 1.5}
    scores = {"a": torch.tensor([3.0]), "b": torch.tensor([9.0])}
    assert balance.combine(scores).tolist() == [(3 - 1) / 1 + (9 - 3) / 3]
    before = balance.statistics.clone()
    balance.end_epoch()  # nothing seen: nothing changes
    assert torch.equal(balance.statistics, before)
    with pytest.raises(ValueError, match="alpha: expected a finite number >= 0"):
        PartBalance(("a",), -1)
