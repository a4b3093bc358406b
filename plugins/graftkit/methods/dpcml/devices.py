"""Which torch devices there are; torch is imported when asked, not before.

>>> check_device("cpu")
"""

from graftkit.core.validation import raise_invalid

__all__ = ["check_device"]


def check_device(device: str) -> None:
    """Refuse a device that torch does not know or that is not there.

    Parameters
    ----------
    device : str
        Such as ``"cpu"`` or ``"cuda:0"``.

    Raises
    ------
    RuntimeError
        If nothing can be allocated there.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise_invalid("device", device, f"a torch device of this machine ({reason})", error=RuntimeError)
