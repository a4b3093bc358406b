"""Graphs of several data sets with the same keys, widths and dtypes.

>>> wide, narrow = (Data(x=torch.ones(2, w), edge_index=torch.tensor([[0], [1]])) for w in (3, 2))
>>> HGOEHarmonize("project").fit([wide])(narrow).x.tolist()
[[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
"""

from typing import Any

import torch
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from graftkit.core.validation import check_choice, check_integer, raise_invalid
from graftkit.methods.hgoe.encodings import structural_encoding
from graftkit.methods.hgoe.harmony import project, same_kind
from graftkit.pyg.hgoe_graphs import check_collection, device_of, per_node_keys, read_graph

__all__ = ["HGOEHarmonize"]


@functional_transform("hgoe_harmonize")
class HGOEHarmonize(BaseTransform):
    """Gives graphs of several data sets the same keys, width and dtype.

    Without ``fit`` it only sets the features. After ``fit`` on the ID graphs it also drops keys that those
    lack (save ``x_s``, which `HGOEStructuralEncoding` may have made before), casts features to their dtype,
    and refuses what cannot be made alike.

    Parameters
    ----------
    features : {"keep", "constant", "structural", "project"}, default="keep"
        Leave ``x``; set it to 1 (the published choice for TU data sets); set it to the structural encoding;
        or cut or zero-pad it to the width seen in ``fit``. All but "project" must be used on both sides.
    rw_dim, degree_dim : int, default=16
        Widths of the structural encoding.

    Raises
    ------
    TypeError
        If a width has the wrong type.
    ValueError
        If `features` is unknown or a width below 1.

    Notes
    -----
    As ``pre_transform`` of a ``TUDataset``, pass ``use_node_attr=True`` too: otherwise that class cuts as
    many columns off ``x`` as the raw data have node attributes.
    """

    def __init__(self, features: str = "keep", rw_dim: int = 16, degree_dim: int = 16) -> None:
        self.features = check_choice("features", features, ("keep", "constant", "structural", "project"))
        self.rw_dim = check_integer("rw_dim", rw_dim, low=1)
        self.degree_dim = check_integer("degree_dim", degree_dim, low=1)
        self._schema: dict[str, tuple[tuple[int, ...], torch.dtype]] | None = None

    def fit(self, graphs: Any) -> "HGOEHarmonize":
        """Take keys, widths and dtypes from the ID graphs.

        Parameters
        ----------
        graphs : Dataset or sequence of Data
            At least one graph.

        Returns
        -------
        HGOEHarmonize
            This object.

        Raises
        ------
        ValueError
            If there is no graph.
        """
        check_collection("graphs", graphs)
        if not len(graphs):
            raise_invalid("graphs", 0, "at least one graph")
        seen = per_node_keys([self._with_features(graphs[k]) for k in range(min(8, len(graphs)))])
        self._schema = {key: (tuple(value.shape[1:]), value.dtype) for key, value in seen.items()}
        return self

    def forward(self, data: Data) -> Data:
        """Harmonise one graph.

        Parameters
        ----------
        data : Data
            A homogeneous graph.

        Returns
        -------
        Data
            The same with other features; after ``fit`` with the ID graphs' keys alone.

        Raises
        ------
        ValueError
            If a key is missing or has another width; the message names the key.
        RuntimeError
            If `features` is "project" and `fit` was not called.
        """
        data = self._with_features(data)
        if self._schema is None:
            if self.features == "project":
                raise RuntimeError("HGOEHarmonize: call fit(graphs) first, with the ID graphs")
            return data
        for key in [key for key in per_node_keys([data]) if key not in self._schema and key != "x_s"]:
            del data[key]
        for key, (shape, dtype) in self._schema.items():
            value = data.get(key)
            if value is None:
                raise ValueError(
                    f"{key}: the ID graphs have it, this graph does not. Drop it from the ID graphs, or for "
                    "x use features='constant' or 'structural' on both"
                )
            _check_rows(key, value, data)
            if key == "x" and self.features == "project":
                value = project(value, shape[0])
            data[key] = same_kind(key, value, shape, dtype)
        return data

    def _with_features(self, data: Data) -> Data:
        packed = read_graph("data", data)
        if self.features == "constant":
            data = data.__copy__()
            data.x = torch.ones(int(packed.num_nodes[0]), 1, device=device_of(data))
        elif self.features == "structural":
            data = data.__copy__()
            data.x = structural_encoding(packed, self.rw_dim, self.degree_dim).to(device_of(data))
        return data

    def __repr__(self) -> str:
        return (
            f"HGOEHarmonize(features={self.features!r}, rw_dim={self.rw_dim}, degree_dim={self.degree_dim})"
        )


def _check_rows(key: str, value: Any, data: Data) -> None:
    nodes, edges = data.num_nodes, data.num_edges
    rows = (nodes,) if key == "x" else (edges,) if key in ("edge_attr", "edge_weight") else (nodes, edges)
    if not isinstance(value, torch.Tensor) or value.dim() == 0 or len(value) not in rows:
        raise_invalid(key, value, f"a tensor of {' or '.join(map(str, rows))} rows in this graph")
