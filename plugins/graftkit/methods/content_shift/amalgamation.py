r"""Blending the variants of a feature that several techniques give, with learned assigners.

:math:`r_1..r_b` are features of the same activations under b sets of techniques, :math:`f_j` small learned
assigners; the equations are in :mod:`graftkit.methods.content_shift.assignment`.

Source: Meng et al., NeurIPS 2024 (arXiv 2410.06719), appendix A.4; assigners from the public code. Differs
from that code: its several assigners share one convolution. The paper has one weight a feature
(``weights="scalar"``), the code, which gave the published numbers, one a channel. Only ``kind="mean"`` is
training-free: an untrained assigner gives arbitrary weights, in the public code too.

>>> import torch
>>> blend = FeatureAmalgamation(channels=4, num_features=3).eval()
>>> fused, penalty = blend(torch.randn(2, 3, 4, 8, 8))
>>> fused.shape, penalty.item()
(torch.Size([2, 4, 8, 8]), 0.0)
"""

from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.validation import check_choice, check_integer, check_number, raise_invalid
from graftkit.methods.content_shift.assignment import amalgamate, amalgamation_penalty, assignment_weights

__all__ = ["FeatureAmalgamation"]

WIDTH = 128


class FeatureAmalgamation(nn.Module):
    """Blend variants of a feature with learned assigners, or with their mean.

    Parameters
    ----------
    channels : int
        Channels C of each variant.
    num_features : int
        Number b of variants.
    num_assigners : int, default=1
        Number n of assigners; the output has n * C channels.
    weights : {"channel", "scalar"}, default="channel"
        A weight for each channel (the public code) or one a variant (the paper).
    kind : {"conv", "pixel", "mean"}, default="conv"
        "conv" looks at the whole map and weighs it as a whole; "pixel" weighs every position by its own
        vector; "mean" has no parameters: the training-free baseline, every weight is 1/b.
    sparsity, diversity : float, default=0.0
        Factors of the penalties; the paper's values are not known.
    dropout : float, default=0.5
        Of the assigners, in [0, 1).

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If it has an impossible value.

    Examples
    --------
    >>> import torch
    >>> blend = FeatureAmalgamation(channels=2, num_features=2, kind="mean")
    >>> blend(torch.stack((torch.zeros(1, 2, 1, 1), torch.ones(1, 2, 1, 1)), 1))[0].flatten()
    tensor([0.5000, 0.5000])
    """

    def __init__(
        self,
        channels: int,
        num_features: int,
        num_assigners: int = 1,
        *,
        weights: str = "channel",
        kind: str = "conv",
        sparsity: float = 0.0,
        diversity: float = 0.0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.channels = check_integer("channels", channels, low=1)
        self.num_features = check_integer("num_features", num_features, low=1)
        self.num_assigners = check_integer("num_assigners", num_assigners, low=1)
        self.weighting: str = check_choice("weights", weights, ("channel", "scalar"))
        self.kind: str = check_choice("kind", kind, ("conv", "pixel", "mean"))
        self.sparsity = check_number("sparsity", sparsity, low=0)
        self.diversity = check_number("diversity", diversity, low=0)
        p = check_number("dropout", dropout, low=0, high=1, closed="[)")
        if kind == "mean" and num_assigners > 1:
            raise_invalid("num_assigners", num_assigners, "1 with kind='mean'", fix="All means are the same.")
        build = {"conv": _conv_assigner, "pixel": _pixel_assigner}.get(kind)
        count = self.num_assigners if build else 0
        # A module each: the public code repeats one convolution.
        self.assigners = nn.ModuleList(build(self.channels, p) for _ in range(count) if build)

    def forward(self, maps: Tensor, attention: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Blend a batch.

        Parameters
        ----------
        maps : Tensor of shape (B, b, C, H, W), or (B, b, C) with kind "pixel" or "mean"
            The variants, stacked.
        attention : Tensor of shape (B, A, H, W) or None, default=None
            The one attention feature, joined behind the blend and not weighed.

        Returns
        -------
        (Tensor, Tensor)
            The blend of shape (B, n * C [+ A], H, W), and the penalty of shape () to add to the loss.

        Raises
        ------
        TypeError
            If `maps` is no floating tensor.
        ValueError
            If shapes do not fit.
        """
        w = self.assign(maps)
        penalty = amalgamation_penalty(w, self.sparsity, self.diversity)
        if self.kind == "pixel" and maps.ndim == 5:
            batch, _, _, height, width = maps.shape
            fused = amalgamate(_positions(maps), w).reshape(batch, height, width, -1).permute(0, 3, 1, 2)
        else:
            fused = amalgamate(maps, w)
        if attention is None:
            return fused, penalty
        if not isinstance(attention, Tensor) or attention.shape[:1] + attention.shape[2:] != (
            fused.shape[:1] + fused.shape[2:]
        ):
            raise_invalid(
                "attention", attention, f"shape ({len(fused)}, A, {', '.join(map(str, fused.shape[2:]))})"
            )
        return torch.cat((fused, attention.to(fused.dtype)), dim=1), penalty

    def assign(self, maps: Tensor) -> Tensor:
        """Weights of every assigner.

        Parameters
        ----------
        maps : Tensor of shape (B, b, C, H, W), or (B, b, C) with kind "pixel" or "mean"
            The variants.

        Returns
        -------
        Tensor of shape (B, n, b, C)
            Sums to 1 over the variants. With kind "pixel" and maps, B counts all positions.

        Raises
        ------
        TypeError
            If `maps` is no floating tensor.
        ValueError
            If shapes do not fit.
        """
        self._check(maps)
        if self.kind == "mean":
            shape = (len(maps), 1, self.num_features, self.channels)
            return maps.new_full(shape, 1 / self.num_features)
        if self.kind == "pixel" and maps.ndim == 5:
            maps = _positions(maps)
        flat = maps.flatten(0, 1)
        logits = [assigner(flat).reshape(len(maps), self.num_features, -1) for assigner in self.assigners]
        return torch.stack([assignment_weights(one, self.weighting) for one in logits], dim=1)

    def extra_repr(self) -> str:
        """Say what is blended and how.

        Returns
        -------
        str
            The arguments.
        """
        return (
            f"channels={self.channels}, num_features={self.num_features}, "
            f"num_assigners={self.num_assigners}, weights={self.weighting!r}, kind={self.kind!r}, "
            f"sparsity={self.sparsity:g}, diversity={self.diversity:g}"
        )

    def _check(self, maps: Any) -> None:
        if not isinstance(maps, Tensor) or not maps.is_floating_point():
            raise_invalid("maps", maps, "a floating-point tensor (B, b, C, H, W)", error=TypeError)
        sizes = (5,) if self.kind == "conv" else (3, 5)
        if maps.ndim not in sizes or maps.shape[1:3] != (self.num_features, self.channels):
            tail = ", H, W" if self.kind == "conv" else "[, H, W]"
            raise_invalid(
                "maps", maps, f"shape (B, num_features={self.num_features}, channels={self.channels}{tail})"
            )


def _positions(maps: Tensor) -> Tensor:
    """(B, b, C, H, W) as (B * H * W, b, C)."""
    return maps.permute(0, 3, 4, 1, 2).flatten(0, 2)


def _conv_assigner(channels: int, dropout: float) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, WIDTH, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(WIDTH),
        nn.Dropout(dropout),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(WIDTH, channels),
    )


def _pixel_assigner(channels: int, dropout: float) -> nn.Module:
    return nn.Sequential(
        nn.Linear(channels, WIDTH),
        nn.ReLU(),
        nn.BatchNorm1d(WIDTH),
        nn.Dropout(dropout),
        nn.Linear(WIDTH, channels),
    )
