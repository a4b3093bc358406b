r"""The bidirectional logits tree: a head that classifies at every level of a label tree.

.. math::
    z^H = f^H(\phi), \qquad z^h = f^h\big(g^h(z^{h+1})\big), \qquad p^h = \mathrm{softmax}(z^h), \qquad
    s^h = \tilde D^h p^h

Only the finest classifier sees the features; each coarser one reads the raw logits of the next finer level,
and nothing is detached on the way, so that coarse labels refine the fine decision. Source: Lu et al., BiLT,
AAAI 2025, section "Bidirectional Logits Tree", and its public code (specification section 1.3). Scores are
for ranking; they are no probabilities and ``softmax(scores)`` is never sharp (specification section 1.7).

>>> from graftkit.methods.bilt.tree import LabelTree
>>> tree = LabelTree.from_paths([("animal", "cat"), ("animal", "dog"), ("vehicle", "car")])
>>> [tuple(z.shape) for z in HierarchicalHead(8, tree, neck=None)(torch.zeros(4, 8)).level_logits]
[(4, 2), (4, 3)]
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from graftkit.core.validation import (
    check_bool,
    check_choice,
    check_integer,
    check_number,
    raise_invalid,
)
from graftkit.methods.bilt.cost import FactoredCost, FullCost, LowRankCost
from graftkit.methods.bilt.state import TreeState
from graftkit.methods.bilt.tree import LabelTree

__all__ = ["HierarchicalHead", "HierarchicalOutput"]

ACTIVATIONS = {"elu": nn.ELU, "leaky_relu": lambda: nn.LeakyReLU(0.1)}
# A C x C weight with its gradient and momentum takes 200 MB here, and 1.2 GB at 10,000 classes.
LARGEST_DENSE = 4096


class HierarchicalOutput(NamedTuple):
    """What the head returns; the first entry is what code that knows nothing of levels should rank by.

    Parameters
    ----------
    scores : Tensor of shape (B, C_H)
        Risk scores of the finest level, or its logits without AIGDL.
    level_logits : tuple of Tensor of shape (B, C_h)
        Coarse to fine; the finest alone with ``levels="finest"``.
    level_scores : tuple of Tensor of shape (B, C_h)
        Risk scores, or the logits without AIGDL.
    level_cost : tuple of Tensor of shape (C_h, C_h)
        Corrected distances (`FactoredCost` where there is no matrix); empty without AIGDL.
    """

    scores: Tensor
    level_logits: tuple[Tensor, ...]
    level_scores: tuple[Tensor, ...]
    level_cost: tuple[Tensor | FactoredCost, ...]


class HierarchicalHead(TreeState):
    """A head for every level of a tree, over features of any model.

    Parameters
    ----------
    in_features : int
        Width of the features.
    tree : LabelTree
        Its finest classes are the targets.
    neck : int or None, default=600
        Width of the published neck (batch norm, linear, batch norm, activation); None for none.
    beta : float, default=0.5
        Size of AIGDL's correction, 0 or more. From 0.71 on it may reorder levels of the tree.
    chain : bool, default=True
        False gives every level a linear classifier on the features: parallel heads.
    levels : {"all", "finest"}, default="all"
        "finest" builds the finest classifier alone.
    aigdl : bool, default=True
        False leaves out the scores; the prediction is then that of the logits.
    activation : {"elu", "leaky_relu"}, default="elu"
        Between levels and in the neck. The paper names ELU, the public CIFAR code uses the other.
    detach_delta_prob : bool, default=False
        True keeps the probabilities of the correction out of the gradient, as two of the four public
        variants do.
    rank : int or None, default=None
        A low-rank correction, which needs no matrix over pairs of classes. None takes the published full
        matrix up to 4,096 classes and rank 8 above, which departs from the paper.
    compat : {None, "official-cifar"}, default=None
        "official-cifar" adds the identity to the correction in the score.

    Attributes
    ----------
    tree : LabelTree
        The tree.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If it has an unknown or impossible value.
    """

    def __init__(
        self,
        in_features: int,
        tree: LabelTree,
        *,
        neck: int | None = 600,
        beta: float = 0.5,
        chain: bool = True,
        levels: str = "all",
        aigdl: bool = True,
        activation: str = "elu",
        detach_delta_prob: bool = False,
        rank: int | None = None,
        compat: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(tree, LabelTree):
            raise_invalid("tree", tree, "a LabelTree", error=TypeError)
        self.in_features = check_integer("in_features", in_features, low=1)
        self.tree = tree
        self.beta = check_number("beta", beta, low=0)
        self.chain = check_bool("chain", chain)
        self.levels: str = check_choice("levels", levels, ("all", "finest"))
        self.aigdl = check_bool("aigdl", aigdl)
        self.activation: str = check_choice("activation", activation, ACTIVATIONS)
        check_bool("detach_delta_prob", detach_delta_prob)
        check_choice("compat", compat, (None, "official-cifar"))
        width = self.in_features
        self.neck: nn.Module = nn.Identity()
        if neck is not None:
            width = check_integer("neck", neck, low=1)
            self.neck = _block(self.in_features, width, self.activation)
        if rank is not None:
            check_integer("rank", rank, low=1)
        if compat is not None and aigdl and (rank is not None or tree.num_classes > LARGEST_DENSE):
            raise_invalid("compat", compat, "None with a low-rank correction, which has no such form")
        sizes = tree.sizes if levels == "all" else tree.sizes[-1:]
        chained = chain and len(sizes) > 1
        self.classifiers = nn.ModuleList(
            nn.Linear(size if chained and h < len(sizes) - 1 else width, size) for h, size in enumerate(sizes)
        )
        self.links = nn.ModuleList(
            _block(fine, coarse, self.activation) for coarse, fine in (pairwise(sizes) if chained else ())
        )
        self.costs = nn.ModuleList()
        first = tree.num_levels - len(sizes) + 1
        for h in range(first, tree.num_levels + 1) if aigdl else ():
            used = rank or (8 if tree.sizes[h - 1] > LARGEST_DENSE else None)
            lineage = tree.lineage(h)
            if used is None:
                identity = compat == "official-cifar"
                self.costs.append(FullCost(lineage, self.beta, detach=detach_delta_prob, identity=identity))
            else:
                self.costs.append(
                    LowRankCost(lineage, tree.sizes[:h], self.beta, used, detach=detach_delta_prob)
                )
        # What comes from the tree lies on the CPU; torch may have another default.
        self.costs.to(next(self.parameters()).device)

    @property
    def num_classes(self) -> int:
        """Number of finest classes."""
        return self.tree.num_classes

    def forward(self, features: Tensor) -> HierarchicalOutput:
        """Classify at every level.

        Parameters
        ----------
        features : Tensor of shape (B, in_features)
            Pooled features. In training B is 2 or more where there is batch norm.

        Returns
        -------
        HierarchicalOutput
            Scores and logits.

        Raises
        ------
        TypeError
            If this is no floating tensor.
        ValueError
            If the shape is wrong or batch norm would see a single sample.
        """
        if not isinstance(features, Tensor) or not features.is_floating_point():
            raise_invalid("features", features, "a floating tensor", error=TypeError)
        if features.ndim != 2 or features.shape[1] != self.in_features:
            raise_invalid("features", features, f"shape (B, {self.in_features})")
        normed = len(self.links) > 0 or not isinstance(self.neck, nn.Identity)
        if self.training and normed and features.shape[0] < 2:
            raise_invalid("features", features, "2 samples or more in training, for batch norm",
                          fix="Use drop_last=True, or model.eval()")  # fmt: skip
        base = self.neck(features)
        logits = [self.classifiers[-1](base)]
        for h in range(len(self.classifiers) - 2, -1, -1):
            below = self.links[h](logits[0]) if len(self.links) else base
            logits.insert(0, self.classifiers[h](below))
        level_logits = tuple(logits)
        if not self.aigdl:
            return HierarchicalOutput(logits[-1], level_logits, level_logits, ())
        scores, costs = [], []
        # Scores of neighbours differ by about beta / sqrt(C), less than bf16 tells apart at distance h.
        with torch.autocast(features.device.type, enabled=False):
            for module, z in zip(self.costs, logits, strict=True):
                s, cost = module(z.to(torch.promote_types(z.dtype, torch.float32)).softmax(1))
                scores.append(s)
                costs.append(cost)
        return HierarchicalOutput(scores[-1], level_logits, tuple(scores), tuple(costs))

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay should leave alone: a row of W has no scale.

        Returns
        -------
        set of str
            For optimizers that ask, as timm's do.
        """
        return {name for name, _ in self.named_parameters() if name.startswith("costs.")}

    def extra_repr(self) -> str:
        """Arguments for ``repr``.

        Returns
        -------
        str
            In the order of the signature.
        """
        return (f"in_features={self.in_features}, tree={self.tree}, beta={self.beta:g}, chain={self.chain}, "
                f"levels={self.levels!r}, aigdl={self.aigdl}")  # fmt: skip


def _block(inputs: int, outputs: int, activation: str) -> nn.Sequential:
    build: Any = ACTIVATIONS[activation]
    return nn.Sequential(nn.BatchNorm1d(inputs), nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), build())
