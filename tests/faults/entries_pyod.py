"""graftkit.pyod: the detector, fitted with one wrong argument."""

from graftkit.pyod import RCPMODDetector
from tests.faults.entries_sklearn import RCPMOD, SMALL, VIEWS, fitted
from tests.faults.entry import Entry


def entries() -> list[Entry]:
    shared = {name: value for name, value in RCPMOD.items() if name != "contamination"}
    return [
        Entry(
            "RCPMODDetector",
            fitted(RCPMODDetector, VIEWS),
            lambda: {**shared, "contamination": 0.1},
            sizes=(
                "hidden_layer_sizes",
                "latent_dim",
                "n_epochs",
                "batch_size",
                "memory_size",
                "n_jobs",
                "contamination",
            ),
            says={"view_slices": ("X",)},
        ),
        Entry(
            "RCPMODDetector.fit",
            lambda X: RCPMODDetector(**SMALL).fit(X),
            lambda: {"X": VIEWS},
            says={"X": ("view", "view_slices")},
        ),
    ]
