"""What the attack is compared with: queries of noise and queries of public data, on the attack's own plan.

A baseline asks as many rows in each round as the attack offered in it, and trains as long after each round,
so that the two differ in nothing but what they ask. The third baseline, the majority label, asks nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.validation import check_choice, raise_invalid
from graftkit.methods.qedg.generation import Candidates
from graftkit.methods.qedg.pool import Pool, quantise
from graftkit.methods.qedg.streams import stream

__all__ = ["BASELINES", "NoiseQueries", "PublicQueries", "check_baselines"]

BASELINES = ("noise", "public", "majority")


def check_baselines(baselines: Any, *, public: bool) -> tuple[str, ...]:
    """Names of baselines, each once.

    Parameters
    ----------
    baselines : object
        What was asked for.
    public : bool
        Whether there is public data; "public" is added then.

    Returns
    -------
    tuple of str
        The names.

    Raises
    ------
    TypeError
        If it is no sequence.
    ValueError
        If a name is unknown, or "public" has no data.
    """
    if isinstance(baselines, str) or not isinstance(baselines, Sequence):
        raise_invalid("baselines", baselines, f"a sequence of {BASELINES}", error=TypeError)
    names = dict.fromkeys(check_choice("baselines", name, BASELINES) for name in baselines)
    if "public" in names and not public:
        raise_invalid("public_data", None, 'rows, since baselines has "public"')
    return tuple(names) + (("public",) if public and "public" not in names else ())


class NoiseQueries:
    """Uniform noise.

    Parameters
    ----------
    input_shape : tuple of int
        Of one row.
    plan : sequence of int
        Rows a round.
    quantised : bool
        8-bit or not.
    seed : int
        Of the run.
    """

    def __init__(
        self, input_shape: tuple[int, ...], plan: Sequence[int], *, quantised: bool, seed: int
    ) -> None:
        self.input_shape, self.plan, self.quantised, self.seed = input_shape, plan, quantised, seed

    def propose(self, index: int, substitute: nn.Module, tau: float, pool: Pool) -> Candidates | None:
        """Candidates of one round.

        Parameters
        ----------
        index : int
            The round.
        substitute : torch.nn.Module
            Not looked at.
        tau : float
            Not looked at.
        pool : Pool
            Not looked at.

        Returns
        -------
        Candidates or None
            ``None`` after the plan's end.
        """
        del substitute, tau, pool
        if index >= len(self.plan):
            return None
        size, random = self.plan[index], stream(self.seed, "noise", index)
        if self.quantised:
            images = torch.randint(256, (size, *self.input_shape), generator=random, dtype=torch.uint8)
        else:
            images = torch.rand((size, *self.input_shape), generator=random, dtype=torch.float32)
        return Candidates(images, size)


class PublicQueries:
    """Rows of data that an attacker might own, each once, in random order.

    Parameters
    ----------
    x : Tensor of shape (n, ...)
        Values in [0, 1].
    plan : sequence of int
        Rows a round.
    quantised : bool
        8-bit or not.
    seed : int
        Of the run.
    """

    def __init__(self, x: Tensor, plan: Sequence[int], *, quantised: bool, seed: int) -> None:
        order = torch.randperm(len(x), generator=stream(seed, "public"))
        self.x, self.plan = (quantise(x) if quantised else x)[order], plan

    def propose(self, index: int, substitute: nn.Module, tau: float, pool: Pool) -> Candidates | None:
        """Candidates of one round; fewer once the data is used up.

        Parameters
        ----------
        index : int
            The round.
        substitute : torch.nn.Module
            Not looked at.
        tau : float
            Not looked at.
        pool : Pool
            Not looked at.

        Returns
        -------
        Candidates or None
            ``None`` after the plan's or the data's end.
        """
        del substitute, tau, pool
        if index >= len(self.plan):
            return None
        start = sum(self.plan[:index])
        if start >= len(self.x):
            return None
        images = self.x[start : start + self.plan[index]]
        return Candidates(images, len(images))
