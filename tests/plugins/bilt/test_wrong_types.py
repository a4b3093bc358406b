"""What a sceptical user passes: every boundary answers with the argument's name."""

import numpy as np
import pytest
import torch

from graftkit.methods.bilt import (
    BiLTLoss,
    HierarchicalMetrics,
    HXELoss,
    LabelTree,
    SoftLabelLoss,
    crm_scores,
    decode,
)
from tests.plugins.bilt.cases import SMALL, batch, head_of

EDGES = [("r", "x"), ("r", "y")]
NUMBERS = dict(zip(SMALL.names(), range(5), strict=True))
CALLS = {
    r"text: expected a string of JSON, got None": lambda: LabelTree.from_json(None),
    r"classes: expected a sequence of nodes, got 'x'": lambda: LabelTree.from_edges(EDGES, classes="x"),
    r"classes: expected a sequence of nodes, got \['x'\]": lambda: LabelTree.from_edges(
        EDGES, classes=[["x"]]
    ),
    r"class_to_idx\['cat'\]: expected an integer, got 0.0": lambda: SMALL.align({**NUMBERS, "cat": 0.0}),
    r"class_to_idx\['dog'\]: expected an integer, got True": lambda: SMALL.align({**NUMBERS, "dog": True}),
    r"class_to_idx\['bus'\]: expected an integer, got '4'": lambda: SMALL.align({**NUMBERS, "bus": "4"}),
    r"predictions: expected a sequence or a tensor, got 3": lambda: SMALL.is_path(3),
    r"features: expected a floating tensor, got list": lambda: head_of(SMALL)([[0.0] * 5] * 9),
    r"features: expected a floating tensor, got Tensor": lambda: head_of(SMALL)(torch.zeros(2, 5).long()),
    r"level_weights: expected a name or a sequence": lambda: BiLTLoss(SMALL, level_weights=3),
    r"target: expected a tensor": lambda: HXELoss(SMALL)(torch.zeros(2, 5), [0, 1]),
    r"output: expected floating logits or a HierarchicalOutput": (
        lambda: SoftLabelLoss(SMALL)(None, torch.tensor([0]))
    ),
    r"logits: expected a floating tensor, got None": lambda: crm_scores(None, SMALL),
    r"ks: expected a sequence of integers, got 5": lambda: HierarchicalMetrics(SMALL, 5),
    r"output: expected a HierarchicalOutput, got None": lambda: decode(None, SMALL),
}


@pytest.mark.parametrize("message", CALLS)
def test_wrong_types(message):
    with pytest.raises(TypeError, match=message):
        CALLS[message]()


def test_ragged_rows_and_empty_batches():
    with pytest.raises(ValueError, match=r"ancestors: expected rows of one length"):
        LabelTree.from_levels([[0, 0], [0]])
    head = head_of(SMALL).eval()
    with pytest.raises(ValueError, match=r"target: expected at least one sample"):
        BiLTLoss(SMALL)(head(batch(2, 5)[0][:0]), torch.zeros(0, dtype=torch.int64))


def test_arrays_of_names_are_rows():
    assert LabelTree.from_paths(np.array(SMALL.paths())) == SMALL
    assert LabelTree.from_paths(np.array(SMALL.paths(), dtype=object)) == SMALL
