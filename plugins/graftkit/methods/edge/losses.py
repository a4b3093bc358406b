r"""EDGE's loss: classify known rows, push outliers down, keep the lowest known rows above them.

.. math:: L = L_{id} + \alpha L_{conf} + \beta(t) L_{gap}, \qquad
    L_{conf} = \frac{1}{n_o C} \sum_{j,c} \log(1 + e^{U_{jc}}) = \frac{\mathrm{mean}_j(O_j)}{C}

with binary cross-entropy for :math:`L_{id}`, :math:`\beta(t) = 0` before the warm-up's end, and the hinge
of `energy_gap_loss` between the outliers and the k known rows of lowest JointEnergy in the batch. Each side
is averaged over its own rows.

Source: Sun et al., "EDGE", AAAI 2025 (arXiv 2412.07499): Algorithm 1 as quoted, and the released code
(specification 1.2 to 1.8). Unverified: the equations as typeset, the hyper-parameters by data set, that the
paper's training tail is the released one. The defaults are those of the one complete published command.
**A margin of 0 can switch the gap term off**: once each tail row lies above each outlier, EDGE is its own
ablation. Watch ``last.active_fraction``; small tasks want a margin above 0. ``beta`` and ``margin`` are in
units of summed energy: do not carry them from 20 labels to 80. A too large margin costs mAP.

Under DistributedDataParallel the tail is that of each process's batch: divide an integer `k` by the number
of processes, or give a share.

>>> import torch
>>> criterion = EDGELoss(k=1, margin=1.0)
>>> float(criterion(torch.zeros(2, 3), torch.tensor([[1.0, 0, 0], [-1, -1, -1]])))  # 2 ln 2 + 0.1
1.486...
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.validation import check_bool, check_choice, check_integer, check_number, raise_invalid
from graftkit.methods.edge.energies import check_tail, tail_size, widened
from graftkit.methods.edge.fused import fused_terms
from graftkit.methods.edge.gap import METHODS
from graftkit.methods.edge.rows import check_finite, check_mask, check_targets, known_first, outlier_rows
from graftkit.methods.edge.terms import EDGETerms, plain_terms

__all__ = ["EDGELoss"]


class EDGELoss(nn.Module):
    r"""Unknown-aware multi-label loss: a criterion for batches of known rows and outliers.

    Parameters
    ----------
    alpha : float, default=1.0
        Weight of the confidence term, 0 or above.
    beta : float, default=0.1
        Weight of the gap term, 0 or above.
    k : int or float, default=32
        Rows of lowest energy that form the tail; an int is clamped to the known rows of the batch (one
        warning), a float in (0, 1] is their share, rounded up.
    margin : float, default=0.0
        The gap asked for, 0 or above, in units of summed energy. See `suggest_margin`.
    warmup_epochs : int, default=0
        Epochs without the gap term; call `set_epoch`. It has to wait for the classifier: its gradient on
        a row is in proportion to the sigmoid of the row's logits.
    id_loss : callable or None, default=None
        ``id_loss(logits, targets) -> scalar`` over known rows, such as timm's asymmetric loss. ``None`` is
        the mean binary cross-entropy.
    per_class_energy : bool, default=False
        Divide energies by the number of labels inside the gap term (our extension): `margin` then means
        the same for any number of labels.
    gap_method : {"auto", "pairwise", "sorted"}, default="auto"
        How the hinge is computed; see `energy_gap_loss`.
    validate : bool, default=False
        Look for NaN and infinity in the logits at each call, and at the targets of `split`; a synchronisation
        on a GPU.
    fused : bool, default=True
        Compute the three terms as one node of the graph where `id_loss`, `per_class_energy` and `tail_mask`
        are not used and the targets want no gradient; the same value and gradient to rounding. False takes
        the plain form always, which torch.func's transforms need.

    Attributes
    ----------
    epoch : Tensor of int, shape ()
        A buffer, saved in ``state_dict``, so that a run resumes in the middle of the warm-up.
    last : EDGETerms or None
        The parts of the last loss.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If it is out of range; `k` below 1, a negative margin.

    Notes
    -----
    Feed known rows and outliers through the model in **one** forward pass, or batch normalisation sees two
    distributions in turn (`OutlierExposureBatcher` gives such batches). `split` neither synchronises (without
    `tail_mask`) nor breaks a compiled graph; the concatenated form reads the targets and does both once.

    Examples
    --------
    >>> import torch
    >>> criterion = EDGELoss(k=2, margin=1.0, warmup_epochs=1)
    >>> logits = torch.randn(6, 4, requires_grad=True)
    >>> targets = torch.cat([torch.eye(4), -torch.ones(2, 4)])  # four known rows, two outliers
    >>> for epoch in range(2):
    ...     criterion.set_epoch(epoch)
    ...     criterion(logits, targets).backward()
    >>> criterion.last.n_id, criterion.last.n_oe, criterion.last.k_used
    (4, 2, 2)
    """

    epoch: Tensor

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 0.1,
        k: int | float = 32,
        margin: float = 0.0,
        *,
        warmup_epochs: int = 0,
        id_loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        per_class_energy: bool = False,
        gap_method: str = "auto",
        validate: bool = False,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.alpha = check_number("alpha", alpha, low=0)
        self.beta = check_number("beta", beta, low=0)
        self.k = check_tail("k", k)
        self.margin = check_number("margin", margin, low=0)
        self.warmup_epochs = check_integer("warmup_epochs", warmup_epochs, low=0)
        if id_loss is not None and not callable(id_loss):
            raise_invalid(
                "id_loss", id_loss, "a callable (logits, targets) -> scalar, or None", error=TypeError
            )
        self.id_loss = id_loss
        self.per_class_energy = check_bool("per_class_energy", per_class_energy)
        self.gap_method: str = check_choice("gap_method", gap_method, METHODS)
        self.validate = check_bool("validate", validate)
        self.fused = check_bool("fused", fused)
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self._last: tuple[Any, Tensor, int, int, int] | None = None
        # The active fractions since the last set_epoch, summed. No buffer: it follows the logits' device.
        self._active, self._called = torch.zeros(()), False
        # Beta as a tensor, and what it was made for.
        self._weight: tuple[Any, Tensor] = None, torch.zeros(())
        self._warned: set[str] = set()

    @property
    def last(self) -> EDGETerms | None:
        """The parts of the last loss.

        Returns
        -------
        EDGETerms or None
            ``None`` before the first call.
        """
        if self._last is None:
            return None
        (id_term, conf, gap, active), beta, n_id, n_oe, size = self._last
        return EDGETerms(id_term, conf, gap, beta, n_id, n_oe, size, active)

    def forward(self, logits: Tensor, targets: Tensor, *, tail_mask: Tensor | None = None) -> Tensor:
        """Loss of a batch in which rows of -1 are outliers.

        Parameters
        ----------
        logits : Tensor of shape (B, C)
            Known rows and outliers, in any order.
        targets : Tensor of shape (B, C)
            In [0, 1], integer or floating; all -1 for an outlier. A row of zeros is a known picture without
            a label.
        tail_mask : Tensor of bool, shape (B,), or None, default=None
            Names the tail instead of the lowest energies (our extension), such as rows with rare labels
            only; outliers' entries do not count.

        Returns
        -------
        Tensor of shape ()
            float32, or float64 for float64 logits; on the graph also where a side is empty.

        Raises
        ------
        TypeError
            If `logits` is not floating, or an argument no tensor.
        ValueError
            If shapes do not fit, a row mixes -1 with labels, or a value is out of range.
        """
        wide = widened(logits)
        check_targets(wide, targets)
        mask = None if tail_mask is None else check_mask(tail_mask, wide)
        order, n_id = known_first(targets)
        if order is not None:
            wide, targets = wide[order], targets[order]
            mask = None if mask is None else mask[order]
        return self._loss(wide, targets[:n_id], None if mask is None else mask[:n_id])

    def split(
        self, id_logits: Tensor, id_targets: Tensor, oe_logits: Tensor, *, tail_mask: Tensor | None = None
    ) -> Tensor:
        """Loss of two sides that are already apart; equals the concatenated form.

        Parameters
        ----------
        id_logits : Tensor of shape (n, C)
            Logits of known rows.
        id_targets : Tensor of shape (n, C)
            Their targets in [0, 1]; values are read with `validate` only, so that nothing synchronises.
        oe_logits : Tensor of shape (n_o, C)
            Logits of outliers.
        tail_mask : Tensor of bool, shape (n,), or None, default=None
            Names the tail instead of the lowest energies.

        Returns
        -------
        Tensor of shape ()
            float32, or float64 for float64 logits.

        Raises
        ------
        TypeError
            If logits are not floating, or an argument no tensor.
        ValueError
            If shapes do not fit, or `validate` finds a target or logit that means nothing.
        """
        known, outliers = widened(id_logits, "id_logits"), widened(oe_logits, "oe_logits")
        check_targets(known, id_targets)
        if outliers.ndim != 2 or outliers.shape[1] != known.shape[1]:
            raise_invalid(
                "oe_logits", oe_logits, f"shape (n_o, {known.shape[1]}), the C of the known rows' logits"
            )
        if outliers.device != known.device:
            raise_invalid("oe_logits", outliers.device, f"logits on the device of id_logits, {known.device}")
        if self.validate and bool(outlier_rows(id_targets).any()):
            raise_invalid("id_targets", -1, "known rows only, without rows of -1")
        mask = None if tail_mask is None else check_mask(tail_mask, known)
        return self._loss(torch.cat([known, outliers]), id_targets, mask)

    def set_epoch(self, epoch: int) -> None:
        """Tell the loss which epoch begins; warns once if the gap term did nothing in the one that ends.

        Parameters
        ----------
        epoch : int
            From 0; the gap term is on from ``epoch == warmup_epochs``.

        Raises
        ------
        TypeError
            If it is no integer.
        ValueError
            If it is negative.
        """
        check_integer("epoch", epoch, low=0)
        on = self._called and self.beta and int(self.epoch) >= self.warmup_epochs
        if on and not bool(self._active > 0):
            self._warn(
                "gap",
                "EDGELoss: the gap term was 0 for a whole epoch (no pair inside the hinge), so that EDGE "
                f"equals its own beta=0. Raise margin above {self.margin:g}; suggest_margin proposes one.",
            )
        self.epoch.fill_(int(epoch))
        self._active, self._called = torch.zeros(()), False

    def extra_repr(self) -> str:
        """Say what defines the loss.

        Returns
        -------
        str
            The arguments.
        """
        return (
            f"alpha={self.alpha:g}, beta={self.beta:g}, k={self.k}, margin={self.margin:g}, "
            f"warmup_epochs={self.warmup_epochs}, per_class_energy={self.per_class_energy}"
        )

    def _loss(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of known rows, which `targets` belong to, followed by outliers."""
        n_id, n_oe = len(targets), len(logits) - len(targets)
        if self.validate:
            check_finite(logits, n_id)
        targets = targets.to(logits.dtype)
        beta, both = self._beta(logits), n_id > 0 and n_oe > 0
        size = self._tail_size(n_id) if both and mask is None else 0
        parts: Tensor | tuple[Tensor, ...]
        if both and mask is None and self._fusible(targets):
            total, parts = fused_terms(logits, targets, size, self.margin, beta, self.alpha, self.gap_method)
        else:
            (id_term, conf, gap), active = plain_terms(
                logits,
                targets,
                size if mask is None else mask,
                self.margin,
                scale=targets.shape[1] if self.per_class_energy else 1,
                method=self.gap_method,
                id_loss=self.id_loss,
            )
            total = id_term
            if self.alpha:
                total = total + self.alpha * conf
            if self.beta:
                total = total + beta * gap
            if both and mask is not None:
                size = int(mask.sum())
            parts = id_term.detach(), conf.detach(), gap.detach(), active
        # Past nn.Module's __setattr__, which looks for parameters at each of the three.
        kept = vars(self)
        if both:
            kept["_active"], kept["_called"] = self._active + parts[3], True
        kept["_last"] = parts, beta, n_id, n_oe, size
        return total

    def _fusible(self, targets: Tensor) -> bool:
        plain = self.id_loss is not None or self.per_class_energy or targets.requires_grad
        return self.fused and not plain and bool(self.alpha or self.beta)

    def _beta(self, like: Tensor) -> Tensor:
        if not self.warmup_epochs:
            made_for, weight = self._weight
            if made_for != (self.beta, like.dtype, like.device):
                made_for, weight = (self.beta, like.dtype, like.device), like.new_full((), self.beta)
                vars(self)["_weight"] = made_for, weight
            return weight
        return (self.epoch >= self.warmup_epochs).to(like) * self.beta

    def _tail_size(self, rows: int) -> int:
        if isinstance(self.k, int) and self.k > rows:
            self._warn(
                "k", f"EDGELoss: k={self.k} is more than the {rows} known rows of a batch; all are tail"
            )
        return tail_size(self.k, rows)

    def _warn(self, key: str, text: str) -> None:
        if key not in self._warned and not torch.compiler.is_compiling():
            self._warned.add(key)
            warnings.warn(text, stacklevel=4)
