"""graftkit.torch: losses and heads are called, optimizers step, banks paste."""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from graftkit import torch as host
from tests.faults.entries_audit import audit_entries
from tests.faults.entries_trees import tree_entries
from tests.faults.entry import Entry


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(4, 3)


def labels(rows: int = 6) -> torch.Tensor:
    return torch.arange(rows) % 3


def multi(rows: int = 6, seed: int = 1) -> torch.Tensor:
    found = (draw(rows, 3, seed=seed) > 0).float()
    found[::2] = 0  # unknown
    found[1::2, 0] = 1
    return found


def stepped(cls: Any = host.SSESAM, **arguments: Any) -> None:
    model = net()
    optimizer = cls(model.parameters(), **arguments)
    x, y = draw(6, 4), labels()
    optimizer.step(lambda: (F.cross_entropy(model(x), y, reduction="none"), y))


def bank() -> Any:
    return host.TailMemoryBank([1, 2])


def bank_state(arguments: dict[str, Any]) -> Any:
    return repr(arguments["self"].state_dict())


def pictures() -> dict[str, Any]:
    return {"image": draw(3, 8, 8), "label": torch.arange(64).reshape(8, 8) % 3}


SSESAM = {
    "lr": 0.1,
    "base_optimizer": torch.optim.SGD,
    "rho": (0.05, 0.1),
    "tail_classes": [2],
    "gamma": 0.7,
    "total_steps": 10,
    "stage1": "split",
    "tail_weight": 1.0,
    "adaptive": False,
    "perturb_eps": 1e-12,
    "tail_pass": "auto",
    "model": None,
    "ignore_index": 255,
    "update_running_stats": "once",
    "preserve_rng": False,
    "sync_perturbation": True,
    "process_group": None,
    "foreach": None,
}


def entries() -> list[Entry]:
    return [
        *audit_entries(),
        *tree_entries(),
        Entry(
            "EDGELoss",
            lambda **a: host.EDGELoss(**a)(draw(6, 3), multi()),
            lambda: {
                "alpha": 1.0,
                "beta": 0.1,
                "k": 2,
                "margin": 0.0,
                "warmup_epochs": 0,
                "id_loss": None,
                "per_class_energy": False,
                "gap_method": "auto",
                "validate": True,
                "fused": True,
            },
            callables=("id_loss",),
        ),
        Entry(
            "EDGELoss.forward",
            lambda **a: host.EDGELoss(validate=True)(**a),
            lambda: {"logits": draw(6, 3), "targets": multi(), "tail_mask": None},
        ),
        Entry(
            "EDGELoss.split",
            lambda **a: host.EDGELoss(validate=True).split(**a),
            lambda: {"id_logits": draw(3, 3), "id_targets": torch.ones(3, 3), "oe_logits": draw(3, 3)},
            says={"id_logits": ("logits",), "id_targets": ("targets",), "oe_logits": ("logits",)},
        ),
        Entry(
            "EDGELoss.set_epoch",
            lambda self, epoch: self.set_epoch(epoch),
            lambda: {"self": host.EDGELoss(warmup_epochs=3), "epoch": 1},
            only=("epoch",),
            state=lambda a: repr(a["self"].state_dict()),
        ),
        Entry(
            "EnergyBoundedLoss",
            lambda **a: host.EnergyBoundedLoss(**a)(draw(6, 3), multi()),
            lambda: {"weight": 0.01, "margin_id": 8.0, "margin_oe": 1.0},
        ),
        Entry("JointEnergy", host.JointEnergy, lambda: {"model": net(), "keep": 0.95}),
        Entry("JointEnergy.fit_logits", host.JointEnergy().fit_logits, lambda: {"logits": draw(6, 3)}),
        Entry(
            "JointEnergy.predict_logits", host.JointEnergy().predict_logits, lambda: {"logits": draw(6, 3)}
        ),
        Entry(
            "JointEnergy.fit",
            host.JointEnergy(lambda _: draw(6, 3)).fit,
            lambda: {"data_loader": [draw(6, 4)]},
        ),
        Entry("JointEnergyPostprocessor", host.JointEnergyPostprocessor, lambda: {"config": None}),
        Entry(
            "OEDatasetSelector",
            lambda **a: host.OEDatasetSelector(**a).fit(draw(8, 4)).add("o", draw(8, 4)).rank(),
            lambda: {"k": 2, "batch_size": 4, "level": "batch", "center": False, "fast": False},
        ),
        Entry(
            "OEDatasetSelector.fit",
            lambda id_features: host.OEDatasetSelector(2, batch_size=4).fit(id_features),
            lambda: {"id_features": draw(8, 4)},
            says={"id_features": ("features",)},
        ),
        Entry(
            "OEDatasetSelector.add",
            lambda **a: host.OEDatasetSelector(2, batch_size=4).fit(draw(8, 4)).add(**a),
            lambda: {"name": "o", "features": draw(8, 4)},
        ),
        Entry(
            "OutlierExposureBatcher",
            lambda **a: list(host.OutlierExposureBatcher(**a)),
            lambda: {
                "id_loader": [(draw(2, 4), torch.ones(2, 3))],
                "oe_loader": [draw(2, 4)],
                "criterion": None,
            },
            says={"id_loader": ("ID inputs", "ID targets"), "oe_loader": ("OE inputs",)},
        ),
        Entry(
            "PixelAUCLoss",
            lambda **a: host.PixelAUCLoss(**a)(draw(1, 3, 4, 4), labels(16).reshape(1, 4, 4)),
            lambda: {
                "surrogate": "square",
                "scheme": "ovo",
                "activation": "sigmoid",
                "margin": 1.0,
                "ignore_index": 255,
                "min_pixels": 1,
                "sync": False,
                "validate": "auto",
            },
        ),
        Entry(
            "pixel_auc_loss",
            host.pixel_auc_loss,
            lambda: {
                "logits": draw(1, 3, 4, 4),
                "target": labels(16).reshape(1, 4, 4),
                "surrogate": "square",
                "scheme": "ovo",
                "activation": "sigmoid",
                "margin": 1.0,
                "ignore_index": 255,
                "weight": None,
                "min_pixels": 1,
                "sync": False,
                "validate": "auto",
            },
        ),
        Entry(
            "SSESAM",
            stepped,
            lambda: dict(SSESAM),
            only=tuple(name for name in SSESAM if name != "lr"),
            callables=("base_optimizer", "model"),
        ),
        Entry(
            "SSESAM.params",
            lambda params: host.SSESAM(params, lr=0.1, tail_classes=[2], switch_step=3),
            lambda: {"params": list(net().parameters())},
            says={
                "params": (
                    "parameter list",
                    "parameter",
                )
            },
        ),
        Entry(
            "SSESAM.counts",
            stepped,
            lambda: {"lr": 0.1, "class_counts": [9, 9, 1], "tail_threshold": 2.0, "switch_step": 3},
            only=("class_counts", "tail_threshold", "switch_step"),
            says={"class_counts": ("tail", "targets")},  # right counts of other classes
        ),
        Entry(
            "TailMemoryBank",
            host.TailMemoryBank,
            lambda: {
                "tail_classes": [1, 2],
                "memory_size": 5,
                "sample_ratio": 0.05,
                "resize_ratio": 0.4,
                "update": "random",
                "scope": "image",
                "protect_tail": False,
                "ignore_index": 255,
                "min_pixels": 1,
                "max_bytes": 2**28,
                "seed": 0,
            },
        ),
        Entry(
            "TailMemoryBank.store",
            lambda self, **a: self.store(**a),
            lambda: {"self": bank(), **pictures()},
            only=("image", "label"),
            state=bank_state,
        ),
        Entry(
            "TailMemoryBank.paste",
            lambda self, **a: self.paste(**a),
            lambda: {"self": bank(), **pictures()},
            only=("image", "label"),
            state=bank_state,
        ),
        Entry(
            "TailMemoryBank.load_state_dict",
            lambda self, state: self.load_state_dict(state),
            lambda: {"self": bank(), "state": bank().state_dict()},
            only=("state",),
            state=bank_state,
        ),
        Entry(
            "class_curvature",
            host.class_curvature,
            lambda: {
                "model": net(),
                "loss_fn": nn.CrossEntropyLoss(reduction="none"),
                "batches": [(draw(6, 4), labels())],
                "groups": {"tail": [2]},
                "k": 2,
                "n_probe": 1,
                "density": False,
                "mode": "eval",
                "hvp": "exact",
                "reorthogonalize": True,
                "min_samples": 2,
                "random_state": 0,
            },
            sizes=("k", "n_probe"),
            callables=("loss_fn", "model"),
        ),
        Entry(
            "count_pixels",
            host.count_pixels,
            lambda: {"labels": [labels(16).reshape(4, 4)], "num_classes": 3, "ignore_index": 255},
            sizes=("num_classes",),
        ),
        Entry("coupled_modules", host.coupled_modules, lambda: {"model": net()}),
        Entry(
            "dilation_distance",
            host.dilation_distance,
            lambda: {"id_spectrum": [3.0, 2.0, 1.0], "oe_spectrum": [3.0, 1.0, 0.5], "k": 2},
        ),
        Entry(
            "energy_gap_loss",
            host.energy_gap_loss,
            lambda: {"oe_energy": draw(5), "tail_energy": draw(4), "margin": 0.0, "method": "auto"},
        ),
        Entry(
            "frozen_running_stats",
            lambda model: host.frozen_running_stats(model).__enter__(),
            lambda: {"model": net()},
        ),
        Entry("joint_energy", host.joint_energy, lambda: {"logits": draw(4, 3), "dim": -1, "validate": True}),
        Entry("none_probability", host.none_probability, lambda: {"logits": draw(4, 3), "dim": -1}),
        Entry(
            "multilabel_map",
            host.multilabel_map,
            lambda: {"logits": draw(6, 3), "targets": multi(), "empty_class": "exclude"},
        ),
        Entry("ood_labels", host.ood_labels, lambda: {"targets": multi()}),
        Entry(
            "ood_metrics",
            host.ood_metrics,
            lambda: {"id_scores": draw(6), "ood_scores": draw(6), "positive": "id", "tpr": 0.95},
        ),
        Entry("overlapping_files", host.overlapping_files, lambda: {"one": [], "other": []}),
        Entry(
            "split_classes",
            host.split_classes,
            lambda: {"counts": [100, 10, 1], "tail_below": 0.005, "head_above": 0.02},
        ),
        Entry(
            "suggest_margin",
            host.suggest_margin,
            lambda: {"id_energy": draw(8), "oe_energy": draw(8), "k": 0.25, "active": 0.5},
        ),
        Entry(
            "tail_classes_from_counts",
            host.tail_classes_from_counts,
            lambda: {"class_counts": [9, 9, 1], "threshold": 2.0},
        ),
        Entry(
            "tail_sweep",
            host.tail_sweep,
            lambda: {
                "id_scores": draw(6),
                "id_targets": torch.eye(3).repeat(2, 1),
                "ood_scores": draw(6),
                "heads": [1],
                "label_counts": np.array([9, 5, 1]),
                "positive": "id",
                "tpr": 0.95,
            },
            says={"id_scores": ("id_targets",)},
        ),
    ]
