"""graftkit.art: the extraction attack."""

from torch import nn

from graftkit import art as host
from tests.faults.entry import Entry
from tests.plugins.qedg.cases import TINY, network


def entries() -> list[Entry]:
    from art.estimators.classification import PyTorchClassifier

    def victim() -> object:
        options = {"clip_values": (0.0, 1.0), "device_type": "cpu"}
        return PyTorchClassifier(network(), nn.CrossEntropyLoss(), (1, 8, 8), 4, **options)

    return [
        Entry(
            "QEDGExtraction",
            host.QEDGExtraction,
            lambda: {
                "classifier": victim(),
                "batch_size_fit": 8,
                "batch_size_query": 8,
                "nb_epochs": 1,
                "nb_stolen": 8,
                "use_probability": False,
                "config": TINY,
                "seed": 0,
                "owner_confirmation": True,
                "target_id": "x",
                "baselines": (),
                "verbose": False,
            },
            only=(
                "batch_size_fit",
                "batch_size_query",
                "nb_epochs",
                "nb_stolen",
                "use_probability",
                "config",
                "seed",
                "owner_confirmation",
                "target_id",
                "baselines",
                "verbose",
            ),
        ),
    ]
