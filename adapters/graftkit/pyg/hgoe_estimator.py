"""A detector with PyGOD's names: ``fit``, ``predict``, ``decision_score_``; graphs instead of nodes.

>>> from graftkit.pyg import GraphSVDD
>>> from torch_geometric.datasets.graph_generator import ERGraph
>>> from torch_geometric.data import Data
>>> graphs = [Data(x=torch.ones(9, 1), edge_index=ERGraph(9, 0.4)().edge_index) for _ in range(12)]
>>> detector = GraphOutlierDetector(GraphSVDD(1, hidden=4), epochs=1).fit(graphs)
>>> detector.predict(graphs).sum().item(), detector.decision_score_.shape
(1, torch.Size([12]))
"""

import copy
from typing import Any

import torch
from torch import Tensor
from torch_geometric.loader import DataLoader

from graftkit.core.validation import check_integer, check_number, raise_invalid
from graftkit.methods.hgoe.losses import BoundaryAwareOELoss
from graftkit.methods.hgoe.streams import stream
from graftkit.methods.hgoe.thresholds import contamination_threshold
from graftkit.pyg.hgoe_detector import check_detector
from graftkit.pyg.hgoe_graphs import check_collection
from graftkit.pyg.hgoe_loader import OutlierExposureLoader
from graftkit.pyg.hgoe_training import fit_outlier_exposure, score_graphs

__all__ = ["GraphOutlierDetector"]


class GraphOutlierDetector:
    """Fits a detector, with outlier exposure where outliers are given, and labels graphs.

    Labels are PyGOD's: 1 for an outlier, 0 for an inlier; scores are higher for outliers.

    Parameters
    ----------
    detector : GraphOODDetector
        Copied at each fit, so fitting again starts anew.
    loss : callable or None, default=None
        `BoundaryAwareOELoss` by default; used only with outliers.
    epochs : int, default=40
        Passes over the graphs.
    lr : float, default=1e-3
        Adam's step size.
    batch_size : int, default=128
        Graphs a batch.
    contamination : float, default=0.1
        Share of the fitted graphs labelled as outliers, in (0, 0.5].
    seed : int, default=0
        Order of the graphs.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    detector_ : GraphOODDetector
        The fitted copy.
    decision_score_ : Tensor of shape (n,)
        Scores of the fitted graphs.
    threshold_ : float
        Graphs above it are outliers.
    label_ : Tensor of shape (n,)
        Labels of the fitted graphs.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If it is out of range.
    """

    def __init__(
        self,
        detector: Any,
        loss: Any = None,
        epochs: int = 40,
        lr: float = 1e-3,
        batch_size: int = 128,
        contamination: float = 0.1,
        seed: int = 0,
        verbose: int = 0,
    ) -> None:
        check_detector(detector)
        if loss is not None and not callable(loss):
            raise_invalid("loss", loss, "a callable over scores, or None", error=TypeError)
        self.detector = detector
        self.loss = loss
        self.epochs = check_integer("epochs", epochs, low=0)
        self.lr = check_number("lr", lr, low=0, closed="()")
        self.batch_size = check_integer("batch_size", batch_size, low=1)
        self.contamination = check_number("contamination", contamination, low=0, high=0.5, closed="(]")
        self.seed = check_integer("seed", seed, low=0)
        self.verbose = check_integer("verbose", int(verbose) if isinstance(verbose, bool) else verbose, low=0)

    def fit(self, graphs: Any, outliers: Any = None) -> "GraphOutlierDetector":
        """Train on ID graphs.

        Parameters
        ----------
        graphs : Dataset or sequence of Data
            ID graphs.
        outliers : Dataset or sequence of Data or None, default=None
            Such as an `OutlierExposureDataset`.

        Returns
        -------
        GraphOutlierDetector
            This object.

        Raises
        ------
        ValueError
            If there is no graph.
        """
        check_collection("graphs", graphs)
        if not len(graphs):
            raise_invalid("graphs", 0, "at least one graph")
        detector = copy.deepcopy(self.detector)
        loss, loader = None, self._loader(graphs, shuffle=True)
        if outliers is not None:
            loss = BoundaryAwareOELoss() if self.loss is None else copy.deepcopy(self.loss)
            loader = OutlierExposureLoader(graphs, outliers, self.batch_size, seed=self.seed)
        optimizer = torch.optim.Adam(detector.parameters(), lr=self.lr)
        fit_outlier_exposure(detector, loader, loss, optimizer, self.epochs, verbose=self.verbose)
        scores = score_graphs(detector, self._loader(graphs))
        self.detector_ = detector
        self.decision_score_ = scores
        self.threshold_ = contamination_threshold(scores, self.contamination)
        self.label_ = (scores > self.threshold_).long()
        return self

    def decision_function(self, graphs: Any) -> Tensor:
        """Scores of new graphs.

        Parameters
        ----------
        graphs : Dataset or sequence of Data
            Graphs.

        Returns
        -------
        Tensor of shape (n,)
            Higher = more out-of-distribution.

        Raises
        ------
        RuntimeError
            If `fit` was not called.
        """
        if not hasattr(self, "detector_"):
            raise RuntimeError("GraphOutlierDetector: call fit(graphs) first")
        return score_graphs(self.detector_, self._loader(graphs))

    def predict(self, graphs: Any) -> Tensor:
        """Labels of new graphs.

        Parameters
        ----------
        graphs : Dataset or sequence of Data
            Graphs.

        Returns
        -------
        Tensor of shape (n,)
            1 for an outlier, 0 for an inlier.
        """
        return (self.decision_function(graphs) > self.threshold_).long()

    def _loader(self, graphs: Any, shuffle: bool = False) -> Any:
        return DataLoader(graphs, self.batch_size, shuffle=shuffle, generator=stream(self.seed, "loader"))
