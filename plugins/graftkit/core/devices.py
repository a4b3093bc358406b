"""torch devices by name; torch is imported when asked, not before.

>>> check_device("cpu")
"""

from typing import Any

from graftkit.core.validation import raise_invalid

__all__ = ["check_device"]


def check_device(device: Any, *, error: type[Exception] = ValueError) -> None:
    """Refuse a device that torch does not know or that is not there.

    Parameters
    ----------
    device : str or torch.device
        Such as ``"cpu"`` or ``"cuda:0"``.
    error : type of Exception, default=ValueError
        The class to raise.

    Raises
    ------
    TypeError
        If it is no name and no device.
    Exception
        Of class `error`, if nothing can be computed there; the message holds torch's reason.
    """
    import torch

    if not isinstance(device, str | torch.device):
        raise_invalid("device", device, "the name of a torch device", error=TypeError)
    try:
        torch.zeros(1, device=device).item()  # "meta" allocates but holds no value
    except (RuntimeError, AssertionError, NotImplementedError, ValueError, TypeError) as cause:
        reason = str(cause).splitlines()[0]
        raise_invalid("device", device, f"a torch device of this machine ({reason})", error=error)
