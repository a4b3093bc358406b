"""One round's candidates: a fresh generator, its optimisation through the frozen substitute, the filter.

No query is spent here. The images of the step with the smallest loss are kept; images that the substitute
is surer of than tau are dropped, as are those queried before.

Followed is the authors' code (steps 1 to 3 of the specification's section 1.2), per batch instead of per
image and without files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from graftkit.methods.qedg.generators import make_generator, reinitialise
from graftkit.methods.qedg.losses import boundary_weight, class_deviation, pairwise_similarity
from graftkit.methods.qedg.metrics import pair_entropy
from graftkit.methods.qedg.modes import frozen
from graftkit.methods.qedg.pool import Pool, quantise, unit
from graftkit.methods.qedg.settings import QEDGConfig
from graftkit.methods.qedg.streams import private_torch, stream
from graftkit.methods.qedg.transforms import transform_batch

__all__ = ["Candidates", "DivergenceError", "GeneratedQueries", "generator_losses"]


class DivergenceError(RuntimeError):
    """The substitute's answers are no longer finite."""


@dataclass
class Candidates:
    """What one round may ask, in order, and what was measured on the way.

    Parameters
    ----------
    images : Tensor of shape (k, ...)
        As stored in the pool.
    made : int
        Images before the filter.
    info : dict, default={}
        Loss terms and coverage.
    """

    images: Tensor
    made: int
    info: dict[str, float] = field(default_factory=dict)


def generator_losses(
    images: Tensor, logits: Tensor, intended: Tensor, config: QEDGConfig
) -> dict[str, Tensor]:
    """The generator's loss and its terms.

    Parameters
    ----------
    images : Tensor of shape (B, ...)
        Augmented images.
    logits : Tensor of shape (B, C)
        The substitute's scores of them.
    intended : Tensor of shape (B,)
        Intended classes.
    config : QEDGConfig
        Weights.

    Returns
    -------
    dict of str to Tensor, each 0-d
        ``total, class, boundary, diversity``.
    """
    classes = logits.shape[1]
    vectors = images if config.diversity_space == "input" else logits.softmax(1)
    terms = {
        "class": cross_entropy(logits, intended),
        "boundary": class_deviation(logits),
        "diversity": pairwise_similarity(vectors, intended, classes, normalised=config.diversity_normalised),
    }
    weight = config.boundary_weight
    if config.target_confidence is not None:
        weight = boundary_weight(config.target_confidence, classes)
    total = terms["class"] + weight * terms["boundary"] + config.diversity_weight * terms["diversity"]
    return {"total": total, **terms}


class GeneratedQueries:
    """The queries of QEDG.

    Parameters
    ----------
    input_shape : tuple of int
        Of one row.
    num_classes : int
        C.
    config : QEDGConfig
        Settings, transforms resolved.
    seed : int
        Of the run.
    device : torch.device
        Where the generator lives.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        config: QEDGConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.input_shape, self.num_classes = input_shape, num_classes
        self.config, self.seed, self.device = config, seed, device
        with private_torch(seed, "build", device=device):
            self.generator = make_generator(input_shape, config.latent, config.width).to(
                device, torch.float32
            )

    def propose(self, index: int, substitute: nn.Module, tau: float, pool: Pool) -> Candidates:
        """Candidates of one round.

        Parameters
        ----------
        index : int
            The round.
        substitute : torch.nn.Module
            On values in [0, 1]; it comes back as it was.
        tau : float
            The filter in force.
        pool : Pool
            What was queried before.

        Returns
        -------
        Candidates
            In the order in which they are to be asked.

        Raises
        ------
        DivergenceError
            If the substitute's answers are not finite.
        """
        config = self.config
        with frozen(substitute):
            images, info = self._optimise(index, substitute)
            random = stream(self.seed, "query transform", index)
            moved = transform_batch(config.query_transform, images, random, each=True).clamp(0, 1)
            stored = quantise(moved) if config.quantise else moved.float()
            with torch.no_grad():
                logits = substitute(unit(stored))
        keep = (logits.softmax(1).amax(1) <= tau).cpu() | (tau >= 1)
        stored = stored.cpu()
        if config.deduplicate:
            kept = torch.nonzero(keep).flatten()
            keep[kept] = pool.new_rows(stored[kept])
        info["pair_entropy"] = pair_entropy(logits.cpu()[keep])
        return Candidates(stored[keep], len(stored), info)

    def _optimise(self, index: int, substitute: nn.Module) -> tuple[Tensor, dict[str, float]]:
        config, device = self.config, self.device
        reinitialise(self.generator, stream(self.seed, "weights", index))
        random = stream(self.seed, "latent", index)
        latent = torch.randn(config.batch_size, config.latent, generator=random, dtype=torch.float32)
        intended = torch.randint(self.num_classes, (config.batch_size,), generator=random).to(device)
        latent = latent.to(device)
        optimizer = torch.optim.Adam(self.generator.parameters(), lr=config.lr_g)
        random = stream(self.seed, "loop transform", index)
        best, kept, info = math.inf, None, {}
        for step in range(1, config.g_steps + 1):
            images = transform_batch(config.loop_transform, self.generator(latent), random, each=False)
            losses = generator_losses(images, substitute(images), intended, config)
            value = float(losses["total"].detach())
            if value < best:
                best, kept = value, images.detach()
                info = {f"loss_{name}": float(term.detach()) for name, term in losses.items()}
            if step == config.g_steps:
                break  # the next round begins with fresh weights: nothing would see this step
            optimizer.zero_grad()
            losses["total"].backward()
            optimizer.step()
        if kept is None:
            raise DivergenceError(
                f"round {index}: the substitute's scores are not finite; lower lr ({config.lr:g})"
            )
        return kept, info
