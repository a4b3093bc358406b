"""Hooks that neither keep an optimizer alive nor follow a model into its copies.

>>> import pickle
>>> hook = pickle.loads(pickle.dumps(Hook(nn.Identity(), "train")))
>>> hook()  # inert
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._compile import _disable_dynamo

__all__ = ["FunctionCriterion", "Hook"]


class Hook:
    """A hook that holds its owner weakly; a copied or pickled model carries an inert one.

    Parameters
    ----------
    owner : object or None
        Whose method to call; ``None`` for an inert hook.
    method : str
        The method's name.
    """

    def __init__(self, owner: object, method: str) -> None:
        self._owner = weakref.ref(owner) if owner is not None else None
        self._method = method

    def __call__(self, *args: Any) -> None:
        """Call the owner's method, if there is an owner.

        Parameters
        ----------
        *args
            What torch hands to the hook.
        """
        if torch.compiler.is_compiling():
            _apart(self, args)
            return
        owner = self._owner() if self._owner is not None else None
        if owner is not None:
            getattr(owner, self._method)(*args)

    def _run(self, args: tuple[Any, ...]) -> None:
        owner = self._owner() if self._owner is not None else None
        if owner is not None:
            getattr(owner, self._method)(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return Hook, (None, self._method)


@_disable_dynamo
def _apart(hook: Hook, args: tuple[Any, ...]) -> None:
    """A model compiled in place traces its hooks too; what they keep must be the tensors themselves."""
    hook._run(args)


class FunctionCriterion(nn.Module):
    """A criterion that was given as a function.

    Parameters
    ----------
    function : callable
        The user's.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function.

        Parameters
        ----------
        *args, **kwargs
            The function's.

        Returns
        -------
        object
            What it returns.
        """
        return self.function(*args, **kwargs)
