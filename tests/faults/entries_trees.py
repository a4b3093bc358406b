"""graftkit.torch's label trees, their head, loss and metrics."""

import torch

from graftkit import torch as host
from tests.faults.entry import Entry

TREE = host.LabelTree.from_paths([("a", "x"), ("a", "y"), ("b", "z")])


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(rows: int = 6) -> torch.Tensor:
    return torch.arange(rows) % 3


def tree_entries() -> list[Entry]:
    output = host.HierarchicalHead(4, TREE, neck=5).eval()(draw(3, 4))
    head_options = {
        "neck": 5,
        "beta": 0.5,
        "chain": True,
        "levels": "all",
        "aigdl": True,
        "activation": "elu",
        "detach_delta_prob": False,
        "rank": 2,
        "compat": None,
    }
    return [
        Entry(
            "BiLTLoss",
            host.BiLTLoss,
            lambda: {
                "tree": TREE,
                "alpha": 1.0,
                "epsilon": 0.5,
                "gamma": 1.0,
                "level_weights": None,
                "smooth_logits": False,
                "validate": "auto",
            },
        ),
        Entry(
            "BiLTLoss.forward",
            lambda output, target: host.BiLTLoss(TREE)(output, target),
            lambda: {"output": output, "target": labels(3)},
        ),
        Entry(
            "HierarchicalHead",
            host.HierarchicalHead,
            lambda: {"in_features": 4, "tree": TREE, **head_options},
            sizes=("in_features", "neck", "rank"),
        ),
        Entry(
            "HierarchicalHead.forward",
            lambda features: host.HierarchicalHead(4, TREE, neck=5)(features),
            lambda: {"features": draw(3, 4)},
        ),
        Entry(
            "HierarchicalMetrics",
            host.HierarchicalMetrics,
            lambda: {"tree": TREE, "ks": (1, 2), "source": "risk", "sync_on_compute": True},
        ),
        Entry(
            "HierarchicalMetrics.update",
            lambda self, output, target: self.update(output, target),
            lambda: {"self": host.HierarchicalMetrics(TREE), "output": output, "target": labels(3)},
            only=("output", "target"),
            says={"output": ("target",)},
            state=lambda a: repr(a["self"].state_dict()),
        ),
        Entry(
            "LabelTree",
            host.LabelTree,
            lambda: {"names": [["a", "b"], ["x", "y", "z"]], "ancestors": [[0, 0, 1], [0, 1, 2]]},
        ),
        Entry(
            "LabelTree.from_levels",
            host.LabelTree.from_levels,
            lambda: {"ancestors": [[0, 0, 1], [0, 1, 2]], "names": [["a", "b"], ["x", "y", "z"]]},
        ),
        Entry("LabelTree.from_paths", host.LabelTree.from_paths, lambda: {"paths": [("a", "x"), ("b", "y")]}),
        Entry(
            "LabelTree.from_parents",
            host.LabelTree.from_parents,
            lambda: {"parents": {"x": "a", "y": "a", "a": None}},
        ),
        Entry(
            "LabelTree.from_edges",
            host.LabelTree.from_edges,
            lambda: {"edges": [("r", "x"), ("r", "y")]},
            says={"edges": ("could not read it",)},
        ),
        Entry("LabelTree.from_networkx", host.LabelTree.from_networkx, lambda: {"graph": TREE.to_networkx()}),
        Entry("LabelTree.from_json", host.LabelTree.from_json, lambda: {"text": TREE.to_json()}),
        Entry("LabelTree.names", TREE.names, lambda: {"level": -1}),
        Entry("LabelTree.level", TREE.level, lambda: {"level": 1}),
        Entry("LabelTree.lineage", TREE.lineage, lambda: {"level": 2}),
        Entry("LabelTree.distance", TREE.distance, lambda: {"level": -1, "kind": "lca"}),
        Entry("LabelTree.is_path", TREE.is_path, lambda: {"predictions": ["a", "x"]}),
        Entry("LabelTree.align", TREE.align, lambda: {"class_to_idx": ["z", "x", "y"]}),
    ]
