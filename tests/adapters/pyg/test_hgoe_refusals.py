"""What a user may pass by mistake, over the whole surface: type of the error and its words."""

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from graftkit.pyg import (
    BoundaryAwareOELoss,
    EnergyGIN,
    GOODDLite,
    Graphon,
    GraphonMixup,
    GraphOutlierDetector,
    GraphSVDD,
    HGOEHarmonize,
    HGOEStructuralEncoding,
    OutlierExposureDataset,
    OutlierExposureLoader,
    estimate_graphon,
    fit_outlier_exposure,
    ood_metrics,
    score_graphs,
)
from tests.adapters.pyg.hgoe_cases import edge_pair, family, id_graphs

IN, TREES = id_graphs(5), family("tree", 6)
W = Graphon(torch.full((3, 3), 0.5).fill_diagonal_(0))
PAIRS = OutlierExposureLoader(IN, TREES, batch_size=4)
LONELY = [Data(x=torch.tensor([[torch.inf]]), edge_index=torch.empty(2, 0, dtype=torch.long))]


def train(loader=PAIRS, detector=None, **arguments):
    return fit_outlier_exposure(detector or EnergyGIN(1, 2, hidden=4), loader, epochs=1, **arguments)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        # collections
        (
            lambda: OutlierExposureDataset({"a": IN}),
            TypeError,
            "graphs: expected a data set or a list of Data",
        ),
        (lambda: OutlierExposureDataset("abc"), TypeError, "graphs: expected a data set or a list"),
        (lambda: OutlierExposureLoader(IN, None), TypeError, "outliers: expected a data set or a list"),
        (lambda: OutlierExposureLoader(3, IN), TypeError, "graphs: expected a data set or a list"),
        (lambda: HGOEHarmonize().fit(None), TypeError, "graphs: expected a data set or a list"),
        (
            lambda: OutlierExposureDataset(IN, {"a": LONELY}),
            ValueError,
            r"\['a'\]: x: graph 0 has .* inf",
        ),
        (
            lambda: OutlierExposureDataset(IN, {"a": [TREES[0], edge_pair(x=torch.ones(1, 1))]}),
            ValueError,
            r"external\['a'\]: edge_index: graph 1 has 1 nodes, but an edge names node 1",
        ),
        # names
        (lambda: OutlierExposureDataset(IN, forbid=None), TypeError, "forbid: expected a sequence of names"),
        (lambda: OutlierExposureDataset(IN, ignore="pos"), TypeError, "ignore: expected a sequence of names"),
        (
            lambda: OutlierExposureLoader(IN, TREES, exclude_keys="x"),
            TypeError,
            "exclude_keys: expected a sequence of names, got 'x'",
        ),
        # graphons
        (lambda: estimate_graphon(IN, threshold="a"), TypeError, "threshold: expected a finite number"),
        (lambda: estimate_graphon(IN, threshold=True), TypeError, "threshold: expected a finite number"),
        (lambda: Graphon(torch.zeros(2, 2), meta=3), TypeError, "meta: expected a dictionary or None"),
        (lambda: W.resize(10**6), ValueError, "size: expected at most 20000, got 1000000.* 7450.6 GiB"),
        (lambda: W.mix(W, 0.5, 20_001), ValueError, "size: expected at most 20000"),
        (lambda: W.sample(1, size=10**6), ValueError, "size: expected at most 20000"),
        (lambda: W.sample(1, size=1), ValueError, "size: expected an integer >= 2, got 1"),
        (lambda: W.sample(1, size=2.5), TypeError, "size: expected an integer >= 2"),
        (lambda: GraphonMixup().fit(IN, [0, 1] * 5), TypeError, "labels: expected integers in a tensor"),
        (lambda: GraphonMixup().fit(IN, np.zeros(10)), TypeError, "labels: expected integers in a tensor"),
        (lambda: GraphonMixup().fit(IN, torch.zeros(10)), TypeError, "labels: expected integers in a tensor"),
        # transforms
        (
            lambda: HGOEStructuralEncoding()(Data(edge_index=torch.tensor([[0.0], [1.0]]), num_nodes=2)),
            ValueError,
            r"data\.edge_index: expected an int64 tensor of shape \(2, E\)",
        ),
        (lambda: HGOEHarmonize("project")(IN[0]), RuntimeError, r"HGOEHarmonize: call fit\(graphs\)"),
        # detectors
        (lambda: EnergyGIN(1, 2, seed="a"), TypeError, "seed: expected an integer >= 0"),
        (lambda: GraphSVDD(1, seed=-1), ValueError, "seed: expected an integer >= 0"),
        (lambda: GOODDLite(1, seed=True), TypeError, "seed: expected an integer >= 0"),
        (
            lambda: EnergyGIN(1, 2, encoder=3),
            TypeError,
            "encoder: expected a torch.nn.Module",
        ),
        (
            lambda: GraphSVDD(1, encoder=nn.Linear(1, 1)),
            TypeError,
            "encoder: expected a torch.nn.Module",
        ),
        (
            lambda: score_graphs(EnergyGIN(3, 2), DataLoader(IN, 5)),
            ValueError,
            r"x: expected shape \(N, 3\), as in_channels says, got Tensor of shape \(\d+, 1\)",
        ),
        (
            lambda: train(detector=EnergyGIN(1, 1)),
            ValueError,
            "y: expected labels below num_classes=1, got 1",
        ),
        (lambda: GraphOutlierDetector(3), TypeError, "detector: expected a torch.nn.Module with prepare"),
        # training
        (lambda: train(loss=3), TypeError, "loss: expected a callable or None, got 3"),
        (lambda: train(optimizer=3), TypeError, "optimizer: expected a torch optimizer or None, got 3"),
        (lambda: train(iter(DataLoader(IN, 5))), TypeError, "loader: expected a loader or a list"),
        (lambda: train(IN), TypeError, "loader: expected batches of graphs, as PyG's DataLoader gives"),
        (lambda: score_graphs(EnergyGIN(1, 2), IN), TypeError, "loader: expected batches of graphs"),
        (lambda: score_graphs(EnergyGIN(1, 2), PAIRS), TypeError, "loader: expected batches of graphs"),
    ],
)
def test_mistakes_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_refused_call_leaves_the_detector_as_it_was():
    detector = EnergyGIN(1, 2, hidden=4).eval()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    for bad in ({"loss": 3}, {"optimizer": 3}, {"loader": iter([])}):
        with pytest.raises(TypeError, match="expected"):
            train(detector=detector, **bad)
    assert not detector.training
    assert all(torch.equal(before[name], value) for name, value in detector.state_dict().items())


def test_checks_do_not_start_an_epoch():
    """A loader with workers reads ahead as soon as iter() is called; training must see epoch 0 first."""
    loader = OutlierExposureLoader(IN, TREES, batch_size=4, num_workers=1)
    train(loader, loss=BoundaryAwareOELoss())
    assert loader.batch_sampler.epoch == 1


def test_what_is_harmless_is_taken():
    scores = torch.tensor([1.0, 2.0], requires_grad=True)
    assert ood_metrics(torch.tensor([0, 1]), scores)["AUROC"] == 1
    assert len(OutlierExposureLoader(tuple(IN), TREES, batch_size=np.int64(4))) == 3
    mixup = GraphonMixup().fit(IN, torch.tensor([0, 1] * 5))
    first, second = (mixup.generate(2, generator=3) for _ in range(2))
    assert first[0].x.shape[1] == second[0].x.shape[1] == 1
    assert BoundaryAwareOELoss(gamma=np.float64(2))(torch.tensor([0.0]).half()).dtype == torch.float16
