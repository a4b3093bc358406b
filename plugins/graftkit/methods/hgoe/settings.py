"""Settings of HGOE, their checks, and the preset that follows the public code.

>>> HGOEConfig().pairing, HGOEConfig.official().pairing
('distinct', 'with_replacement')
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from graftkit.core.validation import check_bool, check_choice, check_integer, check_number, raise_invalid

__all__ = ["HGOEConfig"]


@dataclass(frozen=True)
class HGOEConfig:
    """How outliers are gathered and made.

    Parameters
    ----------
    rate_external, rate_internal : float, default=0.5
        Outliers of each kind, as a share of the ID graphs.
    rate_cross : float, default=0.0
        Mixtures of an ID subgroup with an external set; the public code has them, the paper is unverified.
    subgroups : str, callable or Tensor of shape (G,), default="structural"
        How ID graphs are divided: "structural", "graphcl", "node_count", labels, or a callable that gets the
        packed graphs and returns labels.
    num_subgroups : int, default=3
        k.
    resolution : int or "median", default="median"
        Rows of each graphon.
    threshold, external_threshold : float, default=0.2 and 0.01
        tau of USVT, for ID subgroups and for external sets.
    estimator : {"usvt", "mean", "sort_smooth"} or callable, default="usvt"
        How a graphon is estimated.
    normalize : {"all", "present"}, default="all"
        Divisor of the mean adjacency.
    lam_range : (float, float), default=(0.1, 1.0)
        Bounds of the mixing weight.
    num_lambdas : int, default=10
        Weights drawn.
    pairing : {"distinct", "with_replacement"}, default="distinct"
        Whether a subgroup may be mixed with itself.
    resize : {"crop_pad", "interpolate"}, default="crop_pad"
        How graphons are brought to one size.
    budget : {"exact", "official"}, default="exact"
        Exact counts, or the public code's.
    selection : {"random", "first"}, default="random"
        Which graphs of an external set are taken.
    feature_source : {"id", "external", "both"}, default="id"
        Whose nodes lend features to synthetic ones.
    close_k : int, default=1
        Nodes that lend.
    rw_dim, degree_dim : int, default=16
        Widths of the structural encoding.
    pool_size : int, default=50000
        The most nodes searched.
    edge_attr : {"drop", "zeros", "resample"}, default="drop"
        Edge attributes of outliers: none, zeros, or random ones of ID edges.
    directed : {"warn", "error"}, default="warn"
        What a directed edge does.
    leak : {"error", "drop", "keep"}, default="error"
        What an external graph that equals an ID graph does.
    max_tries : int, default=100
        Draws of a graph before giving up.
    lazy : bool, default=False
        Draw synthetic graphs when they are asked for, anew each epoch, instead of storing them.
    ssl_epochs : int, default=50
        Epochs of GraphCL.
    ssl_learning_rate : float, default=0.1
        Adam's step size in GraphCL; the public code's value, unusually large.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If it is out of range; the message names it.
    """

    rate_external: float = 0.5
    rate_internal: float = 0.5
    rate_cross: float = 0.0
    subgroups: str | Callable[[Any], Tensor] | Tensor = "structural"
    num_subgroups: int = 3
    resolution: int | str = "median"
    threshold: float = 0.2
    external_threshold: float = 0.01
    estimator: str | Callable[[Tensor, float], Tensor] = "usvt"
    normalize: str = "all"
    lam_range: tuple[float, float] = (0.1, 1.0)
    num_lambdas: int = 10
    pairing: str = "distinct"
    resize: str = "crop_pad"
    budget: str = "exact"
    selection: str = "random"
    feature_source: str = "id"
    close_k: int = 1
    rw_dim: int = 16
    degree_dim: int = 16
    pool_size: int = 50_000
    edge_attr: str = "drop"
    directed: str = "warn"
    leak: str = "error"
    max_tries: int = 100
    lazy: bool = False
    ssl_epochs: int = 50
    ssl_learning_rate: float = 0.1

    def __post_init__(self) -> None:
        """Check every argument before any work starts."""
        for name in ("rate_external", "rate_internal", "rate_cross", "threshold", "external_threshold"):
            check_number(name, getattr(self, name), low=0)
        for name in (
            "num_subgroups", "num_lambdas", "close_k", "rw_dim", "degree_dim", "pool_size", "max_tries",
            "ssl_epochs",
        ):  # fmt: skip
            check_integer(name, getattr(self, name), low=1)
        check_number("ssl_learning_rate", self.ssl_learning_rate, low=0, closed="()")
        if isinstance(self.resolution, str):
            check_choice("resolution", self.resolution, ("median",))
        else:
            check_integer("resolution", self.resolution, low=2)
        if isinstance(self.subgroups, str):
            check_choice("subgroups", self.subgroups, ("structural", "graphcl", "node_count"))
        elif not isinstance(self.subgroups, Tensor) and not callable(self.subgroups):
            raise_invalid("subgroups", self.subgroups, "a name, a callable or a tensor", error=TypeError)
        if not callable(self.estimator):
            check_choice("estimator", self.estimator, ("usvt", "mean", "sort_smooth"))
        for name, options in _CHOICES.items():
            check_choice(name, getattr(self, name), options)
        check_bool("lazy", self.lazy)
        pair = self.lam_range
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise_invalid("lam_range", pair, "a pair (low, high)", error=TypeError)
        for bound in pair:
            check_number("lam_range", bound, low=0, high=1)
        if pair[0] > pair[1]:
            raise_invalid("lam_range", pair, "low <= high")
        object.__setattr__(self, "lam_range", tuple(pair))

    @classmethod
    def official(cls, **changes: Any) -> "HGOEConfig":
        """The preset that follows the released scripts (`jweihe/HGOE@2cf8c82`).

        Parameters
        ----------
        **changes : object
            Fields to set differently.

        Returns
        -------
        HGOEConfig
            Cross mixing on, GraphCL subgroups, pairs with replacement, first graphs of each set, the
            scripts' counts, no leak guard.
        """
        preset = {
            "rate_cross": 0.5, "subgroups": "graphcl", "pairing": "with_replacement", "selection": "first",
            "budget": "official", "leak": "keep",
        }  # fmt: skip
        return cls(**{**preset, **changes})

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for a cache key.

        Returns
        -------
        dict
            JSON-like values.

        Raises
        ------
        ValueError
            If a field is a callable, whose content has no name.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in values.items():
            if callable(value):
                raise_invalid(name, value, "a named option", fix="A callable cannot be part of a cache key")
            if isinstance(value, Tensor):
                values[name] = value.tolist()
        return values


_CHOICES = {
    "normalize": ("all", "present"),
    "pairing": ("distinct", "with_replacement"),
    "resize": ("crop_pad", "interpolate"),
    "budget": ("exact", "official"),
    "selection": ("random", "first"),
    "feature_source": ("id", "external", "both"),
    "edge_attr": ("drop", "zeros", "resample"),
    "directed": ("warn", "error"),
    "leak": ("error", "drop", "keep"),
}
