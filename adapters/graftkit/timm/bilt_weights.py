"""Weights that travel with their tree, as safetensors; another tree is refused before anything is loaded.

>>> import pathlib, tempfile, timm
>>> from graftkit.timm import LabelTree, wrap_timm
>>> model = wrap_timm("test_resnet", LabelTree.from_paths([("animal", "cat"), ("vehicle", "car")]), neck=8)
>>> model.save_weights(pathlib.Path(tempfile.mkdtemp()) / "weights.safetensors")
"""

import os
from collections.abc import Mapping
from typing import Any

from safetensors.torch import load_file, save
from torch import nn

from graftkit.core.files import readable_file, whole_file
from graftkit.methods.bilt.state import KEY, check_same_tree, decode_tree
from graftkit.methods.bilt.tree import LabelTree

__all__ = ["TreeWeights"]


class TreeWeights(nn.Module):
    """Reading and writing of a model that has a `HierarchicalHead` as ``head``, or none."""

    head: Any
    num_classes: int

    @property
    def tree(self) -> LabelTree:
        """The label tree of the head."""
        tree: LabelTree = self.head.tree
        return tree

    def _need_head(self) -> None:
        if not self.num_classes:
            raise ValueError(
                "model: expected a head, got none after reset_classifier(0). "
                "model.reset_classifier(tree) puts one on"
            )

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights of the same tree; another tree changes nothing here and raises.

        Parameters
        ----------
        state_dict : mapping
            As ``torch.nn.Module.load_state_dict`` takes it.
        strict : bool, default=True
            As in torch.
        assign : bool, default=False
            As in torch.

        Returns
        -------
        NamedTuple
            Missing and unexpected keys, as torch gives them.
        """
        if f"head.{KEY}" in state_dict and self.num_classes:
            check_same_tree(self.tree, decode_tree(state_dict[f"head.{KEY}"]))
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def save_weights(self, path: str | os.PathLike[str]) -> None:
        """Write weights and tree as safetensors; the file is there whole or not at all.

        Parameters
        ----------
        path : str or path-like
            The target.
        """
        self._need_head()
        state = {name: value.detach().cpu().contiguous().clone() for name, value in self.state_dict().items()}
        metadata = {"format": "pt", "tree": self.tree.to_json(), "fingerprint": self.tree.fingerprint()}
        with whole_file(path) as file:
            file.write(save(state, metadata=metadata))

    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Read what `save_weights` wrote, for the same tree.

        Parameters
        ----------
        path : str or path-like
            A safetensors file.

        Raises
        ------
        ValueError
            If the file is damaged or of another kind, or holds weights of another tree.
        RuntimeError
            If it holds weights of another backbone, as in torch.
        """
        with readable_file(path, "weights in safetensors"):
            state = load_file(path)
        self.load_state_dict(state)
