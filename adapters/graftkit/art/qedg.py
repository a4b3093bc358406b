"""QEDG as an ART extraction attack: queries through ``classifier.predict``, so that its defences apply.

>>> from graftkit.art import QEDGExtraction
>>> from art.estimators.classification import BlackBoxClassifier
>>> victim = BlackBoxClassifier(lambda x: x.reshape(len(x), -1)[:, :3], (1, 8, 8), 3, clip_values=(0, 1))
>>> attack = QEDGExtraction(victim, nb_stolen=100, owner_confirmation=True, target_id="toy v1")
>>> attack.nb_stolen
100
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from art.attacks.attack import ExtractionAttack
from art.estimators.classification.classifier import ClassifierMixin
from art.estimators.estimator import BaseEstimator
from graftkit.art.victim import Predict, check_victim, clip_range, index_labels
from graftkit.methods.qedg import AuditResult, QEDGAuditor, QEDGConfig

if TYPE_CHECKING:
    from art.estimators.classification import PyTorchClassifier

__all__ = ["QEDGExtraction"]

logger = logging.getLogger(__name__)

PARAMETERS = (
    "batch_size_fit", "batch_size_query", "nb_epochs", "nb_stolen", "use_probability", "config", "seed",
    "owner_confirmation", "target_id", "baselines", "verbose",
)  # fmt: skip
BASELINES = ("noise", "majority")


class QEDGExtraction(ExtractionAttack):
    """Query-efficient data-free extraction with hard labels, as an audit of a classifier that you own.

    Only the labels of `classifier.predict` are used (unless `use_probability`), and every query is booked:
    ``attack.report`` holds ledger, curve and caveats after ``extract``. ART 1.20.1's ``ClassLabels`` defence
    marks the labels of a whole batch in each of its rows; audit it with ``batch_size_query=1``.

    Parameters
    ----------
    classifier : art.estimators.classification.ClassifierMixin
        The audited classifier, channels first, with ``clip_values``; a ``BlackBoxClassifier`` will do.
    batch_size_fit : int or None, default=None
        Rows a step of the thieved classifier; ``None`` takes the config's.
    batch_size_query : int, default=256
        The most rows a call of ``predict``.
    nb_epochs : int or None, default=None
        Epochs over all answers after each round; ``None`` takes the config's.
    nb_stolen : int, default=5000
        The budget: the most queries, failed ones included.
    use_probability : bool, default=False
        Learn from probabilities; no part of the published method.
    config : QEDGConfig or None, default=None
        The other settings; ``None`` works from 8x8 pixels up.
    seed : int, default=0
        Of everything that the attack draws.
    owner_confirmation : bool, default=False
        Must be set to True: you own the classifier, or act for its owner.
    target_id : str, default=""
        Name and version of the classifier; must not be empty.
    baselines : tuple of {"noise", "majority"}, default=()
        What to run beside it; "noise" spends as many queries again, on a ledger of its own.
    verbose : bool, default=False
        Show a progress bar.

    Attributes
    ----------
    report : AuditResult or None
        The outcome of the last ``extract``.

    Raises
    ------
    ValueError
        If a parameter is wrong, as in ART's own attacks.
    """

    attack_params = ExtractionAttack.attack_params + list(PARAMETERS)
    _estimator_requirements = (BaseEstimator, ClassifierMixin)

    def __init__(
        self,
        classifier: ClassifierMixin,
        batch_size_fit: int | None = None,
        batch_size_query: int = 256,
        nb_epochs: int | None = None,
        nb_stolen: int = 5000,
        use_probability: bool = False,
        config: QEDGConfig | None = None,
        seed: int = 0,
        owner_confirmation: bool = False,
        target_id: str = "",
        baselines: tuple[str, ...] = (),
        verbose: bool = False,
    ) -> None:
        super().__init__(estimator=classifier)
        self.batch_size_fit = batch_size_fit
        self.batch_size_query = batch_size_query
        self.nb_epochs = nb_epochs
        self.nb_stolen = nb_stolen
        self.use_probability = use_probability
        self.config = config
        self.seed = seed
        self.owner_confirmation = owner_confirmation
        self.target_id = target_id
        self.baselines = baselines
        self.verbose = verbose
        self.report: AuditResult | None = None
        self._check_params()

    def set_params(self, **kwargs: Any) -> None:
        """Change parameters; a refused change leaves all of them as they were.

        Parameters
        ----------
        **kwargs : object
            Parameters by name.

        Raises
        ------
        ValueError
            If a name is unknown or a value wrong.
        """
        before = {name: getattr(self, name) for name in self.attack_params}
        try:
            super().set_params(**kwargs)
        except ValueError:
            for name, value in before.items():
                setattr(self, name, value)
            raise

    def extract(self, x: Any = None, y: Any = None, **kwargs: Any) -> PyTorchClassifier:
        """Extract a thieved classifier.

        Parameters
        ----------
        x : object, default=None
            Not used: the attack makes its own queries.
        y : object, default=None
            Not used.
        **kwargs : object
            ``thieved_classifier`` (required), a ``PyTorchClassifier`` whose model gives logits; it gets the
            copy's weights. ``x_eval`` (required), rows to measure on, and ``y_eval``, their labels.
            Further ``callback``, ``checkpoint``, ``resume``, ``eval_every``, ``eval_budget``,
            ``eval_origin`` and ``finish_each``, as in ``QEDGAuditor.run``.

        Returns
        -------
        PyTorchClassifier
            The thieved classifier.

        Raises
        ------
        ValueError
            If an argument is missing, unknown or wrong, before the first query.
        """
        if x is not None:
            logger.warning("This attack does not use the provided data x.")
        if y is not None:
            logger.warning("This attack does not use the provided label y.")
        thief = kwargs.pop("thieved_classifier", None)
        x_eval, y_eval = kwargs.pop("x_eval", None), kwargs.pop("y_eval", None)
        unknown = sorted(set(kwargs) - RUN_OPTIONS)
        if unknown:
            raise ValueError(f"extract: unknown arguments {unknown}; known are {sorted(RUN_OPTIONS)}.")
        if x_eval is None:
            raise ValueError("`x_eval` is needed: rows on which the copy is compared with the classifier.")
        if y_eval is not None:
            y_eval = index_labels(y_eval, self.estimator.nb_classes)
        auditor = self._auditor(thief)
        try:
            result = auditor.run((x_eval, y_eval), baselines=self.baselines, verbose=self.verbose, **kwargs)
        except TypeError as error:  # ART's callers expect ValueError for every bad argument
            raise ValueError(str(error)) from error
        copied: Any = result.substitute  # a Thief
        thief.model.load_state_dict(copied.core.state_dict())
        self.report = result
        return thief

    def _auditor(self, thief: Any) -> QEDGAuditor:
        from graftkit.art.thief import Thief, check_thief

        classifier = self.estimator
        check_thief(thief, classifier)
        bounds = clip_range(classifier.clip_values)
        config = self.config or QEDGConfig()
        changes: dict[str, Any] = {"batch_size_query": self.batch_size_query}
        if self.batch_size_fit is not None:
            changes["fit_batch_size"] = max(2, self.batch_size_fit)
        if self.nb_epochs is not None:
            changes["inner_epochs"] = self.nb_epochs
        device = "cpu" if thief.device.type == "cpu" else str(thief.device)
        return QEDGAuditor(
            Predict(classifier, self.batch_size_query),
            tuple(classifier.input_shape),
            classifier.nb_classes,
            substitute=Thief(thief),
            budget=self.nb_stolen,
            owner_confirmation=self.owner_confirmation,
            target_id=self.target_id,
            value_range=bounds,
            label_mode="soft" if self.use_probability else "hard",
            config=replace(config, **changes),
            seed=self.seed,
            device=device,
            target_input="numpy",
        )

    def _check_params(self) -> None:
        for name in ("batch_size_fit", "nb_epochs"):
            value = getattr(self, name)
            if value is not None and (not _is_integer(value) or value <= 0):
                raise ValueError(f"The argument `{name}` has to be a positive integer or None: {value!r}.")
        for name in ("batch_size_query", "nb_stolen"):
            value = getattr(self, name)
            if not _is_integer(value) or value <= 0:
                raise ValueError(f"The argument `{name}` has to be a positive integer, got {value!r}.")
        for name in ("use_probability", "verbose"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"The argument `{name}` has to be of type bool.")
        if not _is_integer(self.seed) or self.seed < 0:
            raise ValueError(f"The argument `seed` has to be a non-negative integer, got {self.seed!r}.")
        if self.config is not None and not isinstance(self.config, QEDGConfig):
            raise ValueError(f"The argument `config` has to be a QEDGConfig or None, got {self.config!r}.")
        if not isinstance(self.baselines, tuple | list) or any(b not in BASELINES for b in self.baselines):
            raise ValueError(f"The argument `baselines` has to be a tuple from {BASELINES}.")
        if self.owner_confirmation is not True:
            raise ValueError(
                "The argument `owner_confirmation` has to be True. This audit copies a model: run it only on "
                "a classifier that you own or whose owner has asked you to."
            )
        if not isinstance(self.target_id, str) or not self.target_id.strip():
            raise ValueError("The argument `target_id` has to name the audited classifier and its version.")
        check_victim(self.estimator)
        super()._check_params()


RUN_OPTIONS = {
    "callback", "checkpoint", "resume", "eval_every", "eval_budget", "eval_origin", "finish_each",
}  # fmt: skip


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
