r"""One pass after another over the positives, with gradients in closed form.

.. math:: L = \frac1B \sum_{(u,i)} \ell_{ui} + \eta \sum_u w_u \psi_u

(P1, equation 8, on a batch.) The weight :math:`w_u` of a user's diversity penalty is

- ``paper``: 1 over the number of distinct users of the batch;
- ``code``: :math:`1 / (B |U| \pi_u)` for the batch's users, :math:`\pi_u = 1 - (1 - n^+_u / nnz)^B`, which
  has the expectation of the public code's term;
- ``full``: :math:`1 / (B |U|)` for *all* users in every step, as the public code does, at its cost.

Differs from the public code: the hinge is averaged, and norms are restored after every step on the touched
rows, so that no final projection is needed.

>>> import scipy.sparse as sp
>>> X = sp.csr_matrix(np.eye(6))
>>> trainer = Trainer(X, X, Settings(n_components=4, max_iter=1), np.random.default_rng(0))
>>> sorted(trainer.run_epoch())
['active', 'diversity', 'loss']
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from graftkit.core.devices import check_device
from graftkit.methods.dpcml.constraints import project
from graftkit.methods.dpcml.distances import gather_rows
from graftkit.methods.dpcml.diversity import diversity_penalty
from graftkit.methods.dpcml.losses import triplet_gradients
from graftkit.methods.dpcml.optimizers import RowOptimizer
from graftkit.methods.dpcml.sampling import NegativeSampler
from graftkit.methods.dpcml.settings import Settings
from graftkit.methods.dpcml.state import TrainingState
from graftkit.methods.dpcml.vectors import assign_vectors, padded_rows

__all__ = ["Trainer"]


class Trainer:
    """Tables on a device, and the pass over the positives that changes them.

    Parameters
    ----------
    positives : csr_matrix of shape (n_users, n_items)
        What a pass runs over.
    owned : csr_matrix of shape (n_users, n_items)
        What is never drawn as a negative; at least the positives.
    settings : Settings
        Hyper-parameters.
    rng : numpy.random.Generator
        Start, order and candidates.
    state : TrainingState or None, default=None
        Where to go on from; it is copied. None draws a start.
    """

    def __init__(
        self,
        positives: sp.csr_matrix,
        owned: sp.csr_matrix,
        settings: Settings,
        rng: np.random.Generator,
        state: TrainingState | None = None,
    ) -> None:
        check_device(settings.device, error=RuntimeError)
        self.settings = settings
        self.rng = rng
        counts = np.diff(owned.indptr).astype(np.int64)
        if state is None:
            n_vectors = assign_vectors(counts, settings.assignment, settings.n_vectors)
            state = TrainingState.initial(n_vectors, owned.shape[1], settings, rng)
        self._state = state.copy()
        self._sampler = NegativeSampler(owned, popular=settings.sampling == "popular")
        self.saturated = np.flatnonzero(self._sampler.saturated)
        per_user = np.diff(positives.indptr).astype(np.int64)
        users = np.repeat(np.arange(positives.shape[0], dtype=np.int64), per_user)
        usable = ~self._sampler.saturated[users]
        self._users: npt.NDArray[np.int64] = users[usable]
        self._items: npt.NDArray[np.int64] = positives.indices[usable].astype(np.int64)
        self._place_tables(per_user)

    def _place_tables(self, per_user: npt.NDArray[np.int64]) -> None:
        settings, state = self.settings, self._state
        device = torch.device(settings.device)
        rules: dict[str, Callable[[Tensor], Tensor]] = {
            "user": lambda rows: project(rows, settings.user_norm, settings.max_norm),
            "item": lambda rows: project(rows, settings.item_norm, settings.max_norm),
            "threshold": lambda rows: rows.clamp(min=0),
        }
        self._optimizers: dict[str, RowOptimizer] = {}
        for name, table in state.tables().items():
            moments = {
                moment: torch.from_numpy(state.moments[f"{name}/{moment}"]).to(device)
                for moment in ("moment1", "moment2")
            }
            self._optimizers[name] = RowOptimizer(
                torch.from_numpy(table).to(device),
                settings.optimizer,
                learning_rate=settings.learning_rate,
                weight_decay=0.0 if name == "threshold" else settings.weight_decay,
                constrain=rules[name],
                state=moments,
                n_steps=state.n_steps,
            )
        self._rows = torch.from_numpy(padded_rows(state.user_ptr)).to(device)
        self._counts = torch.from_numpy(np.diff(state.user_ptr)).to(device)
        share = per_user / max(int(per_user.sum()), 1)
        batch = min(settings.batch_size, max(len(self._users), 1))
        chance = 1.0 - (1.0 - share) ** batch
        self._chance = torch.from_numpy(np.maximum(chance, np.finfo(np.float64).tiny)).to(device)

    @property
    def n_positives(self) -> int:
        """Positives of a pass, those of saturated users left out."""
        return len(self._users)

    def run_epoch(self) -> dict[str, float]:
        """Pass once over the positives in a fresh order with fresh candidates.

        Returns
        -------
        dict of str to float
            ``loss`` (mean hinge loss of a positive), ``diversity`` (mean penalty of the users seen) and
            ``active`` (share of the selected candidates inside the margin).

        Raises
        ------
        RuntimeError
            If the loss stops being finite.
        """
        settings = self.settings
        order = self.rng.permutation(len(self._users))
        users, items = self._users[order], self._items[order]
        candidates = self._sampler.draw(users, settings.n_negatives, self.rng)
        device = self._rows.device
        on_device = [torch.from_numpy(part).to(device) for part in (users, items, candidates)]
        sums = torch.zeros(3, dtype=torch.float64, device=device)
        n_steps = 0
        # No positives (every user owns all, say) would still be one batch, an empty one.
        batches = zip(*(part.split(settings.batch_size) for part in on_device), strict=True)
        for batch in batches if len(users) else ():
            sums += self._step(*batch)
            n_steps += 1
        loss, penalty, active = sums.tolist()
        if not np.isfinite(loss):
            raise RuntimeError(
                f"DPCML's training diverged (its loss is not finite); lower learning_rate (now "
                f"{settings.learning_rate:g})"
            )
        n = max(len(users), 1)
        return {
            "loss": loss / n,
            "diversity": penalty / max(n_steps, 1),
            "active": active
            / (n * (settings.n_negatives if settings.has_threshold else settings.n_selected)),
        }

    def _step(self, users: Tensor, items: Tensor, candidates: Tensor) -> Tensor:
        settings = self.settings
        user_table, item_table = self._optimizers["user"], self._optimizers["item"]
        thresholds = self._optimizers["threshold"].table[users, 0] if settings.has_threshold else None
        gradient = triplet_gradients(
            user_table.table,
            item_table.table,
            gather_rows(self._rows, users),
            items,
            candidates,
            margin=settings.margin,
            sampling=settings.sampling,
            n_selected=settings.n_selected,
            thresholds=thresholds,
        )
        user_rows, user_gradients = [gradient.user_rows], [gradient.user_gradients]
        penalty = torch.zeros((), dtype=torch.float64, device=users.device)
        everywhere = None
        if settings.dcrs is not None and settings.dcrs_weight > 0 and self._rows.shape[1] > 1:
            penalty, rows, pulls = self._diversity(users)
            if rows is None:
                everywhere = pulls
            else:
                user_rows.append(rows)
                user_gradients.append(pulls)
        user_table.step(torch.cat(user_rows), torch.cat(user_gradients), everywhere)
        item_table.step(gradient.item_rows, gradient.item_gradients)
        if gradient.thresholds is not None:
            self._optimizers["threshold"].step(users, gradient.thresholds.unsqueeze(1))
        loss = gradient.losses.sum(dtype=torch.float64)
        return torch.stack((loss, penalty, gradient.n_active.to(loss)))

    def _diversity(self, users: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Mean penalty of the users concerned, its rows (None: every row), their weighted gradient."""
        settings = self.settings
        n_users = len(self._counts)
        if settings.dcrs_scale == "full":
            distinct = torch.arange(n_users, device=users.device)
        else:
            distinct = torch.unique(users)
        rows, counts = gather_rows(self._rows, distinct), self._counts[distinct]
        table = self._optimizers["user"].table
        penalty, gradient = diversity_penalty(
            gather_rows(table, rows),
            counts,
            form=str(settings.dcrs),
            delta_min=settings.delta_min,
            delta_max=settings.delta_max,
        )
        if settings.dcrs_scale == "paper":
            weight = torch.full_like(penalty, settings.dcrs_weight / len(distinct))
        elif settings.dcrs_scale == "code":
            weight = (settings.dcrs_weight / (len(users) * n_users * self._chance[distinct])).to(penalty)
        else:
            weight = torch.full_like(penalty, settings.dcrs_weight / (len(users) * n_users))
        mean = penalty.mean(dtype=torch.float64)
        pulls = gradient.mul_(weight[:, None, None])
        own = torch.arange(rows.shape[1], device=users.device) < counts.unsqueeze(1)
        if settings.dcrs_scale == "full" and settings.optimizer == "adam":
            # A dense step wants every row, and all users' rows are the table in its order.
            return mean, None, pulls.reshape(table.shape) if rows.numel() == len(table) else pulls[own]
        # Users within the bounds, and padding, give nothing.
        concerned = own & (penalty > 0).unsqueeze(1)
        return mean, rows[concerned], pulls[concerned]

    def state(self) -> TrainingState:
        """What training has reached, as NumPy arrays of its own.

        Returns
        -------
        TrainingState
            A copy.
        """
        moments = {
            f"{name}/{moment}": getattr(optimizer, moment).cpu().numpy().copy()
            for name, optimizer in self._optimizers.items()
            for moment in ("moment1", "moment2")
        }
        tables = {name: optimizer.table.cpu().numpy().copy() for name, optimizer in self._optimizers.items()}
        return TrainingState(
            user_vectors=tables["user"],
            user_ptr=self._state.user_ptr,
            item_vectors=tables["item"],
            thresholds=tables["threshold"],
            moments=moments,
            n_steps=self._optimizers["user"].n_steps,
        )
