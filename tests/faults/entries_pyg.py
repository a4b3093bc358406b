"""graftkit.pyg: graphs in, outliers, losses and detectors out."""

from functools import cache
from typing import Any

import torch
from torch_geometric.loader import DataLoader

from graftkit import pyg as host
from tests.adapters.pyg.hgoe_cases import family, id_graphs
from tests.faults.entry import Entry

FAST = host.HGOEConfig(rate_internal=0, ssl_epochs=1)


@cache
def graphs() -> list[Any]:
    return id_graphs(6)


@cache
def trees() -> list[Any]:
    return family("tree", 10)


@cache
def outliers() -> Any:
    return host.OutlierExposureDataset(graphs(), {"trees": trees()}, FAST)


def transformed(cls: Any) -> Any:
    return lambda **arguments: cls(**arguments)(graphs()[0])


def weights(arguments: dict[str, Any]) -> Any:
    if not isinstance(arguments["detector"], torch.nn.Module):
        return []
    return [value.clone() for value in arguments["detector"].state_dict().values()]


def entries() -> list[Entry]:
    config = {name: getattr(host.HGOEConfig(), name) for name in host.HGOEConfig.__dataclass_fields__}
    matrix = torch.full((4, 4), 0.5) - 0.5 * torch.eye(4)
    graphon = host.Graphon(matrix)
    encoder = {"in_channels": 1, "hidden": 8, "layers": 2, "pooling": "mean", "norm": True, "seed": 0}
    loader = host.OutlierExposureLoader(graphs(), outliers(), batch_size=6)
    return [
        Entry(
            "BoundaryAwareOELoss",
            lambda **a: host.BoundaryAwareOELoss(**a)(torch.randn(4), torch.randn(4)),
            lambda: {
                "gamma": 2.0,
                "weight": 1.0,
                "calibration": None,
                "reduction": "mean",
                "higher_is_ood": True,
                "detach_weight": False,
                "gate": None,
            },
        ),
        Entry(
            "BoundaryAwareOELoss.forward",
            lambda **a: host.BoundaryAwareOELoss()(**a),
            lambda: {"scores": torch.randn(4), "id_scores": torch.randn(4), "part_weights": None},
        ),
        Entry(
            "EnergyGIN",
            host.EnergyGIN,
            lambda: {**encoder, "num_classes": 2, "temperature": 1.0, "encoder": None},
            sizes=("in_channels", "hidden", "layers", "num_classes"),
        ),
        Entry(
            "GOODDLite",
            host.GOODDLite,
            lambda: {
                "in_channels": 1,
                "structural_channels": 12,
                "hidden": 4,
                "layers": 1,
                "temperature": 0.2,
                "alpha": 0.0,
                "seed": 0,
            },
            sizes=("in_channels", "structural_channels", "hidden", "layers"),
        ),
        Entry(
            "GraphSVDD",
            host.GraphSVDD,
            lambda: {**encoder, "encoder": None},
            sizes=("in_channels", "hidden", "layers"),
        ),
        Entry(
            "GraphOutlierDetector",
            lambda **a: host.GraphOutlierDetector(**a).fit(graphs()),
            lambda: {
                "detector": host.GraphSVDD(1, hidden=4, layers=1),
                "loss": None,
                "epochs": 1,
                "lr": 1e-3,
                "batch_size": 6,
                "contamination": 0.1,
                "seed": 0,
                "verbose": 0,
            },
            sizes=("epochs", "batch_size", "verbose"),
        ),
        Entry(
            "GraphOutlierDetector.fit",
            lambda **a: host.GraphOutlierDetector(host.GraphSVDD(1, hidden=4, layers=1), epochs=1).fit(**a),
            lambda: {"graphs": graphs(), "outliers": outliers()},
        ),
        Entry("Graphon", host.Graphon, lambda: {"matrix": matrix, "num_graphs": 3, "meta": {}}),
        Entry(
            "Graphon.resize",
            graphon.resize,
            lambda: {"n": 3, "mode": "crop_pad"},
            sizes=("n",),
            says={"n": ("size",)},
        ),
        Entry(
            "Graphon.mix",
            graphon.mix,
            lambda: {"other": graphon, "lam": 0.5, "n": 4, "mode": "crop_pad"},
            sizes=("n",),
            says={"n": ("size",)},
        ),
        Entry(
            "Graphon.sample",
            graphon.sample,
            lambda: {"num": 1, "generator": 0, "size": 4, "max_tries": 9},
            sizes=("num",),
            says={"generator": ("random_state",)},
        ),
        Entry("GraphonMixup", host.GraphonMixup, lambda: {"config": FAST, "seed": 0, "label": "outlier"}),
        Entry(
            "HGOEAlignFeatures",
            lambda **a: host.HGOEAlignFeatures(**a),
            lambda: {"close_k": 1, "rw_dim": 4, "degree_dim": 4, "pool_size": 50, "seed": 0},
        ),
        Entry("HGOEConfig", host.HGOEConfig, lambda: dict(config)),
        Entry(
            "HGOEHarmonize", host.HGOEHarmonize, lambda: {"features": "keep", "rw_dim": 4, "degree_dim": 4}
        ),
        Entry(
            "HGOEMarkSource", transformed(host.HGOEMarkSource), lambda: {"source": "external", "y": "outlier"}
        ),
        Entry(
            "HGOEStructuralEncoding",
            transformed(host.HGOEStructuralEncoding),
            lambda: {"rw_dim": 4, "degree_dim": 4, "attr": "x_s"},
            sizes=("rw_dim", "degree_dim"),
        ),
        Entry(
            "OutlierExposureDataset",
            host.OutlierExposureDataset,
            lambda: {
                "graphs": graphs(),
                "external": {"trees": trees()},
                "config": FAST,
                "seed": 0,
                "forbid": (),
                "transform": None,
                "ignore": (),
            },
            only=("graphs", "external", "config", "seed", "forbid", "ignore"),
        ),
        Entry(
            "OutlierExposureLoader",
            lambda **a: next(iter(host.OutlierExposureLoader(**a))),
            lambda: {
                "graphs": graphs(),
                "outliers": outliers(),
                "batch_size": 4,
                "oe_batch_size": 4,
                "seed": 0,
                "shuffle": True,
                "exclude_keys": (),
            },
        ),
        Entry("OutlierExposureLoader.set_epoch", loader.set_epoch, lambda: {"epoch": 1}),
        Entry(
            "estimate_graphon",
            host.estimate_graphon,
            lambda: {
                "graphs": graphs(),
                "resolution": 5,
                "threshold": 0.2,
                "normalize": "all",
                "estimator": "usvt",
            },
            sizes=("resolution",),
            callables=("estimator",),
        ),
        Entry(
            "fit_outlier_exposure",
            host.fit_outlier_exposure,
            lambda: {
                "detector": host.EnergyGIN(1, 2, 4, 1),
                "loader": loader,
                "loss": host.BoundaryAwareOELoss(),
                "optimizer": None,
                "epochs": 1,
                "callbacks": (),
                "verbose": 0,
                "start_epoch": 0,
            },
            sizes=("epochs", "verbose"),
            state=weights,
            callables=("loss",),
            only=("detector", "loader", "loss", "optimizer", "epochs", "callbacks", "start_epoch"),
        ),
        Entry("ood_metrics", host.ood_metrics, lambda: {"is_ood": [0, 0, 1], "scores": [0.1, 0.2, 0.3]}),
        Entry(
            "score_graphs",
            host.score_graphs,
            lambda: {"detector": host.EnergyGIN(1, 2, 4, 1), "loader": DataLoader(graphs(), 6)},
        ),
    ]
