"""Weights that carry their tree: loading them into a model over another tree fails and says what differs.

The tree travels as bytes in an extra entry of ``state_dict``, a tensor, so that safetensors and
``torch.load(weights_only=True)`` take it.

>>> from graftkit.methods.bilt.tree import LabelTree
>>> decode_tree(encode_tree(LabelTree.from_paths([("a",), ("b",)])))
LabelTree(levels=1, classes=2)
"""

from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.validation import raise_invalid
from graftkit.methods.bilt.growth import listed
from graftkit.methods.bilt.tree import LabelTree

__all__ = ["TreeState", "check_same_tree", "decode_tree", "encode_tree"]

KEY = "_extra_state"  # torch's name for what get_extra_state returns


def encode_tree(tree: LabelTree) -> Tensor:
    """Write a tree as bytes.

    Parameters
    ----------
    tree : LabelTree
        Any tree.

    Returns
    -------
    Tensor of shape (n,)
        uint8, JSON in UTF-8.
    """
    return torch.frombuffer(bytearray(tree.to_json().encode()), dtype=torch.uint8)


def decode_tree(state: Any) -> LabelTree:
    """Read what `encode_tree` wrote.

    Parameters
    ----------
    state : Tensor of shape (n,)
        uint8.

    Returns
    -------
    LabelTree
        The tree.

    Raises
    ------
    ValueError
        If it is no such tensor.
    """
    if not isinstance(state, Tensor) or state.dtype != torch.uint8 or state.ndim != 1:
        raise_invalid("state", state, "a label tree as bytes")
    try:
        return LabelTree.from_json(bytes(state.cpu().tolist()).decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"state: expected a label tree as bytes, got no UTF-8 ({error})") from error


def check_same_tree(own: LabelTree, other: LabelTree) -> None:
    """Refuse weights of another tree.

    Parameters
    ----------
    own : LabelTree
        The model's.
    other : LabelTree
        The weights'.

    Raises
    ------
    ValueError
        If they differ; the message says in which names, or that order or parents do.
    """
    if own == other:
        return
    prints = f"fingerprints {own.fingerprint()[:12]} and {other.fingerprint()[:12]}"
    mine, theirs = dict.fromkeys(own.names()), dict.fromkeys(other.names())
    absent, extra = [n for n in mine if n not in theirs], [n for n in theirs if n not in mine]
    if absent or extra:
        reason = f"classes only here: {listed(absent) or 'none'}; only there: {listed(extra) or 'none'}"
    elif own.names() != other.names():
        reason = "the same classes in another order; align the tree as it was when the weights were made"
    else:
        reason = "the same classes under other parents"
    raise ValueError(f"state_dict: expected weights of the same label tree ({prints}), got {reason}")


class TreeState(nn.Module):
    """Adds the tree to a module's state and checks it before the weights below are loaded.

    torch hands a module its extra state before it goes down to the children, so that a module whose
    parameters are all in children stays as it was when the tree is refused.
    """

    tree: LabelTree

    def get_extra_state(self) -> Tensor:
        """The tree for ``state_dict``.

        Returns
        -------
        Tensor of shape (n,)
            uint8.
        """
        return encode_tree(self.tree)

    def set_extra_state(self, state: Any) -> None:
        """Check the tree of a ``state_dict``.

        Parameters
        ----------
        state : Tensor of shape (n,)
            From `get_extra_state`.
        """
        check_same_tree(self.tree, decode_tree(state))
