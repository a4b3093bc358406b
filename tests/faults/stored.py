"""What graftkit writes to disk and reads again, small: a writer and, where there is one, a reader."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch


@dataclass(frozen=True)
class Stored:
    """``build`` makes the object, ``write`` puts it at a path, ``read`` takes it back from there.

    ``needed`` is the host, ``suffix`` the file's. ``own`` are errors other than ValueError that the reader
    documents. ``plain`` files have no checksum: a flipped bit may give other numbers.
    """

    build: Callable[[], Any]
    write: Callable[[Any, Path], Any]
    read: Callable[[Path], Any] | None = None
    suffix: str = ""
    needed: str = "torch"
    own: tuple[type[Exception], ...] = ()
    plain: bool = True


def tree() -> Any:
    from graftkit.torch import LabelTree

    return LabelTree.from_paths([("animal", "cat"), ("animal", "dog"), ("vehicle", "car")])


def read_tree(path: Path) -> Any:
    from graftkit.timm.bilt_entry import read_tree as read

    return read(path)


@cache
def recommender() -> Any:
    from tests.adapters.sklearn.dpcml_cases import interactions, tiny

    return tiny().fit(interactions())


def load_recommender(path: Path) -> Any:
    from graftkit.sklearn import DPCML

    return DPCML.load(path)


def graphon() -> Any:
    from graftkit.pyg import Graphon

    return Graphon(torch.full((40, 40), 0.5) - 0.5 * torch.eye(40))


def load_graphon(path: Path) -> Any:
    from graftkit.pyg import Graphon

    return Graphon.load(path)


@cache
def classifier() -> Any:
    from tests.adapters.timm.bilt_cases import small

    return small()


def load_classifier(path: Path) -> Any:
    model = classifier()
    model.load_weights(path)
    return model


@cache
def audit() -> Any:
    from tests.plugins.qedg.cases import auditor, evaluation

    return auditor(budget=8).run(evaluation(), baselines=())


def run_folder(path: Path, resume: bool = False) -> Any:
    from graftkit.methods.qedg.checkpoint import STATE, RunFolder

    return RunFolder(path.parent / "run", {"seed": 0}, resume=resume), {
        **dict.fromkeys(STATE, 0),
        "labels": torch.zeros(2),
        "images": torch.zeros(2, 64),
    }


def write_state(_: Any, path: Path) -> None:
    folder, state = run_folder(path, resume=True)
    folder.save("qedg", state)
    folder.ledger("qedg")
    path.write_bytes((folder.path / "qedg.pt").read_bytes())


def read_state(path: Path) -> Any:
    folder, _ = run_folder(path, resume=True)
    path.replace(folder.path / path.name)
    return folder.load(path.stem, 2)


def gate_report() -> Any:
    from graftkit.methods.content_shift import GateReport

    row = {"technique": "t", "metric": "m", "gain_mean": 0.5, "control_gain": None}
    return GateReport([row], {"t": "helps"}, ["t"])


def load_report(path: Path) -> Any:
    from graftkit.methods.content_shift import GateReport

    return GateReport.from_json(path)


def put_features(maps: Any, path: Path) -> None:
    from graftkit.diffusers import FeatureCache

    cache_ = FeatureCache(path.parent)
    cache_.put(path.stem, maps)


def get_features(path: Path) -> Any:
    from graftkit.diffusers import FeatureCache

    return FeatureCache(path.parent.parent).get(path.stem)


def write_manifest(keys: Any, path: Path) -> None:
    from graftkit.diffusers import FeatureCache

    FeatureCache(path.parent).write_order(keys)


def read_manifest(path: Path) -> Any:
    from graftkit.diffusers import FeatureCache

    return FeatureCache(path.parent).order


def load_selection(path: Path) -> Any:
    from graftkit.methods.diffusion_feature.presets import load_selection as load

    return load(path)


def split_part(path: Path) -> Any:
    from graftkit.sklearn import load_libcml_split

    for part in ("train", "val", "test"):
        target = path.parent / f"user_{part}_matrix.npz"
        if target != path:
            sp.save_npz(target, sp.eye(4, format="csr"))
    return load_libcml_split(path.parent)


def load_users(path: Path) -> Any:
    from graftkit.sklearn import load_users_dat

    return load_users_dat(path)


def records(path: Path) -> Any:
    from tests.benchmarks.results_io import Records

    return Records("x", path)


def add_record(_: Any, path: Path) -> None:
    records(path).add("k", {"cpu": "x"}, value=1.0)


def counted(path: Path) -> Any:
    from graftkit.torch import count_pixels

    return count_pixels([path], 2)


def write_picture(pixels: Any, path: Path) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(path)


STORED: dict[str, Stored] = {
    "DPCML": Stored(
        recommender,
        lambda model, path: model.save(path),
        load_recommender,
        "model.npz",
        needed="sklearn",
        plain=False,
    ),
    "Graphon": Stored(
        graphon,
        lambda one, path: one.save(path),
        load_graphon,
        "graphon.pt",
        needed="torch_geometric",
        plain=False,
    ),
    "LabelTree as JSON": Stored(
        tree, lambda one, path: path.write_text(one.to_json()), read_tree, "tree.json", needed="timm"
    ),
    "LabelTree as CSV": Stored(
        tree, lambda one, path: one.to_csv(path), read_tree, "tree.csv", needed="timm"
    ),
    "LabelTree as edges": Stored(
        lambda: "root a\nroot b\na x\na y\n",
        lambda text, path: path.write_text(text),
        read_tree,
        "tree.txt",
        needed="timm",
    ),
    "HierarchicalClassifier": Stored(
        classifier,
        lambda model, path: model.save_weights(path),
        load_classifier,
        "weights.safetensors",
        needed="timm",
    ),
    "GateReport": Stored(gate_report, lambda one, path: one.to_json(path), load_report, "gate.json"),
    "AuditResult as JSON": Stored(audit, lambda one, path: one.to_json(path), None, "audit.json"),
    "AuditResult as CSV": Stored(audit, lambda one, path: one.to_csv(path), None, "audit.csv"),
    "AuditResult's page": Stored(
        audit, lambda one, path: one.to_html(path, figure=False), None, "audit.html"
    ),
    "AuditResult's queries": Stored(audit, lambda one, path: one.export_queries(path), None, "queries.npz"),
    "QEDG's state": Stored(lambda: None, write_state, read_state, "qedg.pt"),
    "FeatureCache's maps": Stored(
        lambda: {"a": torch.arange(64.0).reshape(1, 8, 8)},
        put_features,
        get_features,
        "ab/abcd.safetensors",
        needed="diffusers",
    ),
    "FeatureCache's manifest": Stored(
        lambda: ["abcd", "efgh"], write_manifest, read_manifest, "manifest.json", needed="diffusers"
    ),
    "selection": Stored(
        lambda: {"unet-out": True},
        lambda one, path: path.write_text(json.dumps(one)),
        load_selection,
        "selection.json",
        own=(TypeError,),
    ),
    "libcml split": Stored(
        lambda: sp.eye(4, format="csr"),
        lambda one, path: sp.save_npz(path, one),
        split_part,
        "user_val_matrix.npz",
        needed="sklearn",
    ),
    "users.dat": Stored(
        lambda: "2 0 1\n1 2\n",
        lambda text, path: path.write_text(text),
        load_users,
        "users.dat",
        needed="sklearn",
    ),
    "Records": Stored(lambda: None, add_record, records, "records.json"),
    "label map": Stored(lambda: np.zeros((8, 8), np.uint8), write_picture, counted, "label.png"),
}
