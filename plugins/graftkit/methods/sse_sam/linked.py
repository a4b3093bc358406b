"""Two torch optimizers that are one to the outside: groups, state, stage counter, checkpoints and copies.

The wrapper and its base share one list of parameter groups and one state dict, so that schedulers, hooks and
checkpoint code see a single optimizer. ``Optimizer.load_state_dict`` replaces both, so they are linked again
after loading, copying and unpickling. The stage counter is a key of every group: the only place that survives
torch's ``state_dict`` and every host's checkpoint alike.

Source: specification section 3.4; the published optimizer, and SAM wrappers in use, lose the base's state.
"""

import warnings
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from graftkit.core.validation import check_choice, raise_invalid
from graftkit.methods.sse_sam.settings import Settings, check_rho

__all__ = ["LinkedOptimizer"]

_GROUP_KEYS = ("rho_head", "rho_tail", "adaptive", "completed_steps", "switch_step")


class LinkedOptimizer(Optimizer):
    """The torch contract of an optimizer around another one, with a stage counter in the groups."""

    base_optimizer: Optimizer
    _settings: Settings
    _model: nn.Module | None

    def _fresh(self) -> None:
        """Reset what lives between calls and belongs in no checkpoint."""
        raise NotImplementedError

    def _link(self) -> None:
        """One list of groups and one state for both optimizers, so that nobody sees two."""
        self.base_optimizer.param_groups = self.param_groups
        self.base_optimizer.state = self.state

    @property
    def completed_steps(self) -> int:
        """Steps that moved the weights; one that a GradScaler skipped does not count."""
        return int(self.param_groups[0]["completed_steps"])

    @property
    def steps_until_switch(self) -> int | None:
        """Steps left in stage 1; ``None`` where it never ends."""
        switch = self.param_groups[0]["switch_step"]
        return None if switch is None else max(0, int(switch) - self.completed_steps)

    @property
    def stage(self) -> int:
        """The stage of the next step, 1 or 2; set it to 2 to switch now, to 1 to stay in stage 1 for good."""
        first = self.param_groups[0]
        switch = first["switch_step"]
        return 1 if switch is None or int(switch) > int(first["completed_steps"]) else 2

    @stage.setter
    def stage(self, value: int) -> None:
        stage = check_choice("stage", value, (1, 2))
        if stage == 2 and self._settings.membership is None:
            raise_invalid("stage", value, "1: plain SAM was built without tail classes")
        for group in self.param_groups:
            group["switch_step"] = group["completed_steps"] if stage == 2 else None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as every torch optimizer does; the stage counter is that of the other groups.

        Parameters
        ----------
        param_group : dict
            ``params`` and whatever differs from the defaults.

        Raises
        ------
        ValueError
            If a radius of the group is negative, NaN or infinite.
        """
        for key in ("rho_head", "rho_tail"):
            if isinstance(param_group, dict) and key in param_group:
                check_rho(param_group[key])
        if "base_optimizer" not in self.__dict__:
            super().add_param_group(param_group)
            return
        for key in _GROUP_KEYS:
            counter = key in ("completed_steps", "switch_step")
            param_group.setdefault(key, self.param_groups[0][key] if counter else self.defaults[key])
        self._link()
        self.base_optimizer.add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; a base optimizer's own loads too and keeps the present radii and stage counter.

        Parameters
        ----------
        state_dict : dict
            From ``state_dict()``.

        Warns
        -----
        UserWarning
            If the state was saved by an optimizer without radii.
        """
        before = [{key: group[key] for key in _GROUP_KEYS} for group in self.param_groups]
        super().load_state_dict(state_dict)
        missing: set[str] = set()
        for group, old in zip(self.param_groups, before, strict=True):
            for key in _GROUP_KEYS:
                if key not in group:
                    missing.add(key)
                    group[key] = old[key]
        if missing:
            warnings.warn(
                f"the state_dict lacks {', '.join(sorted(missing))}, as a base optimizer's own does; the "
                "present values are kept",
                UserWarning,
                stacklevel=2,
            )

    def __getstate__(self) -> dict[str, Any]:
        # DDP's wrapper holds a process group, which cannot be copied.
        wrapped = isinstance(self._model, DistributedDataParallel)
        return {
            **super().__getstate__(),
            "base_optimizer": self.base_optimizer,
            "_settings": self._settings,
            "_model": self._model.module if wrapped and self._model is not None else self._model,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        if (
            "base_optimizer" in state
        ):  # a copy or an unpickled one; load_state_dict brings groups and state only
            self._fresh()
        super().__setstate__(state)
        # Links both, and the base fills in keys that older checkpoints lack, on the groups that are shared.
        self.base_optimizer.__setstate__({"state": self.state, "param_groups": self.param_groups})
