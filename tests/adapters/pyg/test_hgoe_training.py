"""Training any detector: three references and a user's own, passes, scores, errors; a real improvement."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GIN, global_mean_pool

from graftkit.methods.hgoe.networks import GINEncoder
from graftkit.pyg import (
    BoundaryAwareOELoss,
    EnergyGIN,
    GOODDLite,
    GraphOODDetector,
    GraphSVDD,
    HGOEConfig,
    HGOEStructuralEncoding,
    OutlierExposureDataset,
    OutlierExposureLoader,
    fit_outlier_exposure,
    ood_metrics,
    score_graphs,
)
from graftkit.pyg.hgoe_batches import join_batches
from tests.adapters.pyg.hgoe_cases import Listed, edge_pair, family, id_graphs, same

ENCODE = HGOEStructuralEncoding(4, 8)
IN = [ENCODE(graph) for graph in id_graphs(24)]
TREES = [ENCODE(graph) for graph in family("tree", 40)]
OUTLIERS = OutlierExposureDataset(
    IN, {"trees": family("tree", 40)}, HGOEConfig(rate_external=0.8, rate_internal=0), transform=ENCODE
)
PACKED = Listed(IN), Listed([OUTLIERS[k] for k in range(len(OUTLIERS))])  # batches come much faster


class Own(nn.Module):
    """A user's detector: a linear score on the mean degree, in PyG's pieces."""

    batch_coupled = False

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(12))
        self.calls, self.sizes = 0, []

    def prepare(self, loader):
        self.prepared = sum(batch.num_graphs for batch in loader)

    def score(self, batch):
        self.calls += 1
        self.sizes.append(batch.num_graphs)
        return global_mean_pool(batch.x_s, batch.batch) @ self.weight

    def id_loss(self, batch, scores):
        assert len(scores) == batch.num_graphs
        return torch.nn.functional.softplus(scores).mean()


DETECTORS = {
    "energy": lambda: EnergyGIN(1, 2, hidden=16),
    "svdd": lambda: GraphSVDD(1, hidden=16),
    "good-d": lambda: GOODDLite(1, 12, hidden=8, layers=2, alpha=0.2),
    "own": Own,
}


def train(make, loss=None, epochs=40, lr=0.01, outliers=PACKED[1]):
    detector = make()
    loader = OutlierExposureLoader(PACKED[0], outliers, batch_size=16)
    optimizer = torch.optim.Adam(detector.parameters(), lr=lr)
    return detector, fit_outlier_exposure(detector, loader, loss, optimizer, epochs)


@pytest.mark.parametrize("name", DETECTORS)
def test_training_outliers_end_above_id_graphs(name):
    detector, history = train(DETECTORS[name], BoundaryAwareOELoss())
    assert isinstance(detector, GraphOODDetector)
    assert history[-1]["loss"] < history[0]["loss"]
    assert [record["epoch"] for record in history] == list(range(40))
    assert all(abs(r["loss"] - r["id_loss"] - r["oe_loss"]) < 1e-4 for r in history)
    scores = torch.cat([score_graphs(detector, DataLoader(side, batch_size=16)) for side in PACKED])
    truth = torch.arange(len(scores)) >= len(IN)
    assert ood_metrics(truth, scores)["AUROC"] > 0.95


@pytest.mark.parametrize("name", DETECTORS)
def test_one_seed_one_result(name):
    scores = []
    for burn in (0, 3):
        torch.rand(burn)
        detector, _ = train(DETECTORS[name], BoundaryAwareOELoss(), epochs=2)
        scores.append(score_graphs(detector, DataLoader(TREES, batch_size=16)))
    assert torch.equal(*scores)


@pytest.mark.parametrize("name", DETECTORS)
def test_without_a_loss_outliers_are_not_touched(name):
    first, history = train(DETECTORS[name], None, epochs=2)
    other = OutlierExposureDataset(
        IN, {"g": family("grid", 40)}, HGOEConfig(rate_internal=0), transform=ENCODE
    )
    second, _ = train(DETECTORS[name], None, epochs=2, outliers=other)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert all(record["oe_loss"] == 0 for record in history)


def test_uncoupled_detectors_see_both_kinds_in_one_pass():
    detector, _ = train(Own, BoundaryAwareOELoss(), epochs=1)
    assert detector.calls == 3  # 48 graphs in batches of 16
    assert detector.sizes == [32] * 3
    assert detector.prepared == 48


def test_coupled_detectors_see_them_in_two():
    class Coupled(Own):
        batch_coupled = True

    detector, _ = train(Coupled, BoundaryAwareOELoss(), epochs=1)
    assert detector.sizes == [16] * 6


def test_batch_norm_is_fed_both_kinds():
    seen = []
    detector = EnergyGIN(1, 2)
    detector.encoder.steps[0][1].register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    loader = OutlierExposureLoader(IN, OUTLIERS, batch_size=48)
    fit_outlier_exposure(detector, loader, BoundaryAwareOELoss(), epochs=1)
    first, second = next(iter(OutlierExposureLoader(IN, OUTLIERS, batch_size=48)))
    assert seen == [first.num_nodes + second.num_nodes]


def test_joined_batches_are_the_batch_of_all_graphs():
    sides = [IN[:3], TREES[:4]]
    joined = join_batches(*(Batch.from_data_list(side) for side in sides))
    plain = [Data(x=g.x, edge_index=g.edge_index, x_s=g.x_s) for side in sides for g in side]
    assert same(joined, Batch.from_data_list(plain))  # y is the ID graphs' alone
    assert joined.num_graphs == 7
    bare = [edge_pair(num_nodes=3), edge_pair(num_nodes=2)]
    joined = join_batches(*(Batch.from_data_list([graph]) for graph in bare))
    assert (joined.num_nodes, joined.edge_index.tolist()) == (5, [[0, 1, 3, 4], [1, 0, 4, 3]])


def test_labels_of_other_width_do_not_stop_the_join():
    first, second = (Batch.from_data_list([edge_pair(num_nodes=2, y=torch.zeros(1, w))]) for w in (2, 3))
    assert "y" not in join_batches(first, second)


def test_parts_are_weighed_alike_in_both_losses():
    seen = []

    class Spy(BoundaryAwareOELoss):
        def forward(self, scores, id_scores=None, part_weights=None):
            seen.append(dict(part_weights))
            return super().forward(scores, id_scores, part_weights)

    detector, _ = train(lambda: GOODDLite(1, 12, hidden=4, layers=1, alpha=1.0), Spy(), epochs=2)
    assert seen[:3] == [{"graph": 1.0, "node": 1.0}] * 3
    assert seen[3] != seen[0]
    assert sum(seen[3].values()) == pytest.approx(2, abs=1e-6)
    assert sum(detector.part_weights.values()) == pytest.approx(2, abs=1e-6)


def test_combined_scores_are_standardised_by_the_last_epoch():
    detector, _ = train(lambda: GOODDLite(1, 12, hidden=4, layers=1), None, epochs=1, lr=0.0)
    mean, spread = detector.balance.statistics.T
    detector.eval()
    (batch,) = DataLoader(TREES, batch_size=40)
    parts = detector.score(batch)
    expected = (parts["graph"] - mean[0]) / spread[0] + (parts["node"] - mean[1]) / spread[1]
    torch.testing.assert_close(score_graphs(detector, [batch]), expected.detach())


def test_svdd_centre_is_the_mean_initial_embedding_and_stays():
    detector = GraphSVDD(1, norm=False)
    (batch,) = DataLoader(IN, batch_size=48)
    expected = detector.encoder(batch.x, batch.edge_index, batch.batch, 48)[0].mean(0)
    with pytest.raises(RuntimeError, match=r"GraphSVDD: call prepare\(loader\) before scoring"):
        detector.score(batch)
    detector.prepare(DataLoader(IN, batch_size=7))
    torch.testing.assert_close(detector.centre, expected.detach())
    with pytest.raises(ValueError, match="loader: expected at least one ID batch"):
        GraphSVDD(1).prepare([])
    normed = GraphSVDD(1)
    normed.prepare(DataLoader(IN, batch_size=7))
    assert not normed.encoder.steps[0][1].running_mean.any()  # its running statistics did not move
    assert normed.encoder.steps[0][1].num_batches_tracked == 0


@pytest.mark.parametrize("name", DETECTORS)
def test_a_loaded_state_goes_on_as_if_it_had_not_stopped(name):
    """The centre and the scales of the start are kept, and the third epoch's order comes third."""

    def run(epochs, state=None, start=0):
        detector = DETECTORS[name]()
        optimizer = torch.optim.Adam(detector.parameters(), lr=0.01)
        if state is not None:
            detector.load_state_dict(state[0])
            optimizer.load_state_dict(state[1])
        loader = OutlierExposureLoader(*PACKED, batch_size=16)
        history = fit_outlier_exposure(
            detector, loader, BoundaryAwareOELoss(), optimizer, epochs, start_epoch=start
        )
        return (detector.state_dict(), optimizer.state_dict()), [record["loss"] for record in history]

    whole, losses = run(3)
    first, before = run(2)
    rest, after = run(3, first, start=2)
    assert before + after == losses
    assert all(torch.equal(rest[0][key], value) for key, value in whole[0].items())


def test_state_dicts_carry_everything():
    for make in list(DETECTORS.values())[:3]:
        detector, _ = train(make, BoundaryAwareOELoss(), epochs=1)
        other = make()
        other.load_state_dict(detector.state_dict())
        loader = DataLoader(TREES, batch_size=16)
        assert torch.equal(score_graphs(detector, loader), score_graphs(other, loader))


def test_energy_loss_is_the_cross_entropy_of_the_id_graphs():
    detector = EnergyGIN(1, 2, norm=False)
    (batch,) = DataLoader(IN[:6], batch_size=6)
    joint = join_batches(batch, Batch.from_data_list(TREES[:5]))
    scores = detector.score(joint)
    logits = detector.logits(batch)
    torch.testing.assert_close(scores[:6], -torch.logsumexp(logits, 1))
    torch.testing.assert_close(
        detector.id_loss(batch, scores[:6]), torch.nn.functional.cross_entropy(logits, batch.y)
    )
    torch.testing.assert_close(
        detector.id_loss(batch, scores[:6]), torch.nn.functional.cross_entropy(logits, batch.y)
    )  # again: nothing is kept, so it scores anew
    for y in (None, torch.tensor([-1] * 6), torch.tensor([0.5] * 6)):
        batch.y = y
        with pytest.raises(ValueError, match="y: expected one class label >= 0 for each ID graph"):
            detector.id_loss(batch, scores[:6])


def test_pygs_own_gin_can_be_the_encoder():
    class Encoder(nn.Module):
        out_channels = 8

        def __init__(self):
            super().__init__()
            self.gin = GIN(1, 8, 2)

        def forward(self, x, edge_index, batch, num_graphs):
            node = self.gin(x, edge_index)
            return global_mean_pool(node, batch, num_graphs), node

    torch.manual_seed(0)
    detector, history = train(lambda: EnergyGIN(1, 2, encoder=Encoder()), BoundaryAwareOELoss(), epochs=5)
    assert history[-1]["loss"] < history[0]["loss"]
    assert type(detector.encoder) is Encoder


def test_our_encoder_is_pygs_gin_convolution():
    from torch_geometric.nn import GINConv

    ours = GINEncoder(1, 8, 1, "sum", norm=None)
    conv = GINConv(ours.steps[0])
    (batch,) = DataLoader(IN[:4], batch_size=4)
    _, node = ours(batch.x, batch.edge_index, batch.batch, 4)
    torch.testing.assert_close(node, torch.relu(conv(batch.x, batch.edge_index)))


def test_missing_attributes_are_explained():
    batch = Batch.from_data_list([edge_pair(num_nodes=2, y=torch.tensor([0]))])
    with pytest.raises(ValueError, match=r"x: the batch has none\. HGOEHarmonize\(features='constant'\)"):
        EnergyGIN(1, 2).score(batch)
    batch.x = torch.ones(2, 1)
    with pytest.raises(ValueError, match=r"x_s: the batch has none\. Use transform=HGOEStructuralEncoding"):
        GOODDLite(1).score(batch)


def scoring(value):
    detector = Own()
    detector.score = value
    return detector


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda b: torch.zeros(b.num_graphs, 1),
            r"Own\.score: score: .*shape \(32,\).*got Tensor of shape \(32, 1\)",
        ),
        (lambda _: torch.zeros(()), r"expected a tensor of shape \(32,\)"),
        (lambda _: [0.0], r"expected a tensor of shape \(32,\)"),
        (
            lambda _: {"a": torch.full((32,), torch.nan)},
            r"Own\.score: a: expected finite scores, graph 0 .*got nan",
        ),
    ],
)
def test_bad_scores_name_the_detector(make, words):
    loader = OutlierExposureLoader(IN, OUTLIERS, batch_size=16)
    with pytest.raises(ValueError, match=words):
        fit_outlier_exposure(scoring(make), loader, BoundaryAwareOELoss(), epochs=1)


def test_other_errors_and_callbacks():
    loader = OutlierExposureLoader(IN, OUTLIERS, batch_size=16)
    with pytest.raises(
        TypeError, match=r"detector: expected a torch\.nn\.Module with prepare, score, id_loss"
    ):
        fit_outlier_exposure(nn.Linear(1, 1), loader)
    with pytest.raises(TypeError, match="loader: expected pairs"):
        fit_outlier_exposure(Own(), DataLoader(IN, batch_size=16), BoundaryAwareOELoss())
    with pytest.raises(ValueError, match="epochs: expected an integer >= 0"):
        fit_outlier_exposure(Own(), loader, epochs=-1)
    with pytest.raises(ValueError, match="loader: expected at least one batch"):
        fit_outlier_exposure(Own(), [])
    with pytest.raises(ValueError, match="loader: expected at least one batch"):
        score_graphs(Own(), [])
    seen = []
    fit_outlier_exposure(Own(), DataLoader(IN, batch_size=16), epochs=2, callbacks=[seen.append])
    assert [record["epoch"] for record in seen] == [0, 1]


def test_scoring_keeps_the_mode_and_the_order():
    detector = EnergyGIN(1, 2)
    before = [p.clone() for p in detector.buffers()]
    whole = score_graphs(detector, DataLoader(TREES, batch_size=40))
    assert torch.allclose(whole, score_graphs(detector, DataLoader(TREES, batch_size=7)), atol=1e-5)
    assert detector.training
    assert all(torch.equal(a, b) for a, b in zip(before, detector.buffers(), strict=True))
    detector.eval()
    score_graphs(detector, DataLoader(TREES, batch_size=40))
    assert not detector.training


def test_the_readmes_own_loop(monkeypatch):
    """Its lines as they stand: one pass a step, as its batch normalisation needs; outliers end on top."""
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    (snippet,) = [text for text in snippets if "OutlierExposureLoader(" in text]
    lines = snippet.strip().splitlines()
    assert len(lines) - next(k for k, line in enumerate(lines) if line.startswith("outliers")) == 10
    passes, forward = [], GIN.forward
    monkeypatch.setattr(
        GIN, "forward", lambda self, x, *a, **k: passes.append(len(x)) or forward(self, x, *a, **k)
    )
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        random.seed(2)
        np.random.seed(2)  # noqa: NPY002  (PyG's FakeDataset draws from the global generators)
        torch.manual_seed(2)
        names = {}
        exec(compile(snippet, "README.md", "exec"), names)  # noqa: S102  (our own README)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
    assert len(passes) == 20 * len(names["loader"])
    names["gin"].eval()
    with torch.no_grad():
        scores = [
            -names["model"](Batch.from_data_list(list(names[side]))).logsumexp(1)
            for side in ("graphs", "others")
        ]
    assert ood_metrics([0] * 128 + [1] * 128, torch.cat(scores))["AUROC"] > 0.6
