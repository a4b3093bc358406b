"""Optional hosts: a missing one is an ImportError that says what to install."""

from importlib import import_module
from types import ModuleType

__all__ = ["require"]


def require(
    module: str, *, extra: str, distribution: str | None = None, minimum: str | None = None
) -> ModuleType:
    """Import a host, or say which extra brings it.

    Parameters
    ----------
    module : str
        The import name, such as ``"torch_geometric"``.
    extra : str
        The graftkit extra that installs it.
    distribution : str or None, default=None
        The package's name on the index where it differs from `module`.
    minimum : str or None, default=None
        The oldest supported version, named in the message.

    Returns
    -------
    module
        The imported module.

    Raises
    ------
    ImportError
        If the module, or something that it needs, cannot be imported.

    Examples
    --------
    >>> require("json", extra="none").__name__
    'json'
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = (distribution or module) + (f">={minimum}" if minimum else "")
        raise ImportError(
            f"graftkit needs {package} here, which could not be imported ({error}). "
            f"Install it with: pip install 'graftkit[{extra}]'",
            name=module,
        ) from error
