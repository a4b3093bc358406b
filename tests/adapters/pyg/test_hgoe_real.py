"""Real molecules through PyG's own TUDataset; each test has a twin on generated graphs beside it or above."""

import shutil

import pytest
import torch
from torch_geometric.datasets import TUDataset
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import Compose

from graftkit.pyg import (
    BoundaryAwareOELoss,
    EnergyGIN,
    GOODDLite,
    HGOEConfig,
    HGOEHarmonize,
    HGOEStructuralEncoding,
    OutlierExposureDataset,
    OutlierExposureLoader,
    estimate_graphon,
    fit_outlier_exposure,
    ood_metrics,
    score_graphs,
)
from tests.adapters.pyg.hgoe_cases import Listed, family, id_graphs


@pytest.fixture
def tu(data_root, tmp_path, capsys):
    """Makes a TU data set in a folder that can be written."""

    def make(name, **arguments):
        raw = tmp_path / name / "raw"
        raw.mkdir(parents=True)
        for file in (data_root / "tu" / name / "raw").iterdir():
            shutil.copyfile(file, raw / file.name)
        with capsys.disabled():
            return TUDataset(str(tmp_path), name, **arguments)

    return make


def flow(graphs, external, tmp_path, **arguments):
    """Outliers, a loader with workers, a short training, scores."""
    data = OutlierExposureDataset(
        graphs, external, HGOEConfig(leak="drop"), cache_dir=tmp_path / "c", **arguments
    )
    assert len(data) == len(graphs) // 2 + round(len(graphs) / 2)
    loader = OutlierExposureLoader(graphs, data, batch_size=64, num_workers=2)
    width, classes = graphs[0].num_features, 1 + max(int(graphs[k].y) for k in range(len(graphs)))
    torch.manual_seed(0)
    for detector in (EnergyGIN(width, classes), GOODDLite(width, hidden=4, layers=2)):
        optimizer = torch.optim.Adam(detector.parameters(), lr=0.01)
        history = fit_outlier_exposure(detector, loader, BoundaryAwareOELoss(), optimizer, epochs=6)
        assert history[-1]["loss"] < history[0]["loss"]
        scores = [score_graphs(detector, DataLoader(side, batch_size=64)) for side in (graphs, data)]
        truth = [0] * len(graphs) + [1] * len(data)
        assert 0 <= ood_metrics(truth, torch.cat(scores))["AUROC"] <= 1
    return data


@pytest.mark.data
def test_molecules_as_transform_and_as_pre_transform(tu, tmp_path):
    read = Compose([HGOEHarmonize("constant"), HGOEStructuralEncoding()])
    cut = tu("BZR", pre_transform=read)  # PyG's trap: BZR's three node attributes are cut from the new x
    with pytest.raises(ValueError, match=r"x: graphs have features of width 0\. .*use_node_attr=True"):
        OutlierExposureDataset(cut)
    known = TUDataset(cut.root, "BZR", pre_transform=read, use_node_attr=True)[:200]
    other = tu("COX2", transform=HGOEHarmonize("constant"))
    data = flow(known, {"COX2": other}, tmp_path, transform=HGOEStructuralEncoding())
    assert (data[0].x == 1).all()
    density = estimate_graphon(known, threshold=0.0).matrix.mean()
    assert 0.02 < density < 0.15  # molecules: a little over two bonds an atom, some forty atoms


def test_generated_graphs_take_the_same_way(tmp_path):
    read = Compose([HGOEHarmonize("constant"), HGOEStructuralEncoding()])
    known = Listed(id_graphs(40), pre_transform=read)
    other = Listed(family("tree", 60), transform=HGOEHarmonize("constant"))
    flow(known, {"trees": other}, tmp_path, transform=HGOEStructuralEncoding())


@pytest.mark.data
def test_atom_labels_of_other_width_are_refused_then_projected(tu):
    known, other = tu("BZR"), tu("COX2")
    widths = known.num_features, other.num_features
    assert widths[0] != widths[1]
    with pytest.raises(
        ValueError, match=rf"external\['COX2'\] has width {widths[1]}, the ID graphs have {widths[0]}"
    ):
        OutlierExposureDataset(known, {"COX2": other})
    other.transform = HGOEHarmonize("project").fit(known)
    data = OutlierExposureDataset(known, {"COX2": other}, HGOEConfig(leak="drop"))
    made = data[int(torch.nonzero(data.sources == 2)[0])]
    assert made.x.shape[1] == widths[0]
    assert set(made.x.sum(1).tolist()) == {1.0}  # one-hot atoms of real nodes


@pytest.mark.data
def test_molecules_that_two_sets_share_are_found(tu):
    """With features set to 1 the small molecules of one set occur in the other."""
    constant = HGOEHarmonize("constant")
    known, other = tu("AIDS", transform=constant), tu("NCI1", transform=constant)
    with pytest.raises(ValueError, match=r"external\['NCI1'\]: graph \d+ equals ID graph \d+"):
        OutlierExposureDataset(known, {"NCI1": other}, HGOEConfig(rate_internal=0))
    data = OutlierExposureDataset(known, {"NCI1": other}, HGOEConfig(rate_internal=0, leak="drop"))
    assert data.summary()["leaks_dropped"] > 0
    assert len(data) == len(known) // 2


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["families", "pixels"])
@pytest.mark.timeout(900)
def test_exposure_finds_what_the_base_does_not(experiment):
    """The acceptance of the specification, two seeds: energy detector, near families and thinned digits."""
    from tests.benchmarks import quality_hgoe as quality

    name, test = ("near", "near") if experiment == "families" else ("pixels", "thin")
    auroc = {"base": 0.0, "HGOE": 0.0}
    for seed in (0, 1):
        task = quality.family_task("near", seed) if experiment == "families" else quality.pixel_task(seed)
        for arm in auroc:
            outliers = quality.outliers_of(task, arm, seed)
            result = quality.run(task, "energy", arm, seed, quality.EPOCHS[name], outliers)
            auroc[arm] += result["metrics"][test]["AUROC"] / 2
    assert auroc["HGOE"] >= auroc["base"] + (0.08 if experiment == "families" else 0.2)
    assert auroc["HGOE"] >= 0.70
