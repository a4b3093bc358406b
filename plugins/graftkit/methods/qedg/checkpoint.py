"""A run's folder: its description, its ledgers, and the state after the last complete round.

``run.json`` says what the run is; a run that goes on with other settings, another target or another
substitute is refused. ``<arm>.jsonl`` is a ledger, ``<arm>.pt`` a state (tensors and plain values, read
with ``weights_only=True``). Every file is there whole or not at all.

>>> import tempfile
>>> folder = RunFolder(tempfile.mkdtemp(), {"seed": 0}, resume=True)
>>> folder.load("qedg", 0) is None
True
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.files import whole_file
from graftkit.core.validation import raise_invalid

__all__ = ["RunFolder", "fingerprint"]

FORMAT = "graftkit.qedg 1"
STATE = {
    "round", "tau", "stalls", "steps", "stopped", "curve", "events", "plan", "substitute", "optimizer",
    "images", "labels",
}  # fmt: skip


class RunFolder:
    """Where a run is kept.

    Parameters
    ----------
    path : path-like
        The folder; it is made.
    description : dict
        What must be the same when the run goes on, as JSON holds it.
    resume : bool
        Whether a run that is already there may go on.

    Raises
    ------
    TypeError
        If `path` is no path.
    ValueError
        If there is a run and `resume` is false, or it is another run, or `path` is a file.
    """

    def __init__(self, path: str | os.PathLike[str], description: dict[str, Any], *, resume: bool) -> None:
        if not isinstance(path, str | os.PathLike):
            raise_invalid("checkpoint", path, "a folder", error=TypeError)
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise_invalid("checkpoint", str(self.path), "a folder")
        description = json.loads(json.dumps({"format": FORMAT, **description}))
        header = self.path / "run.json"
        if header.exists():
            if not resume:
                raise_invalid(
                    "checkpoint",
                    str(self.path),
                    "a folder without a run",
                    fix="Pass resume=True to go on with it, or another folder",
                )
            _compare(header, description)
            return
        left = sorted(part.name for part in self.path.glob("*.jsonl"))
        if left:
            raise_invalid(
                "checkpoint", left, f"no ledgers in a folder without {header.name}, whose run they would join"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        with whole_file(header) as file:
            file.write(json.dumps(description, indent=1, sort_keys=True).encode())

    def ledger(self, arm: str) -> Path:
        """Where an arm's ledger lies.

        Parameters
        ----------
        arm : str
            "qedg", or a baseline.

        Returns
        -------
        pathlib.Path
            JSON lines.
        """
        return self.path / f"{arm}.jsonl"

    def save(self, arm: str, state: dict[str, Any]) -> None:
        """Replace an arm's state.

        Parameters
        ----------
        arm : str
            Whose.
        state : dict
            Tensors and plain values.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with whole_file(self.path / f"{arm}.pt") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())

    def load(self, arm: str, answered: int) -> dict[str, Any] | None:
        """An arm's state.

        Parameters
        ----------
        arm : str
            Whose.
        answered : int
            Answers in its ledger; a state that holds more was not made with that ledger.

        Returns
        -------
        dict or None
            ``None`` if no round is complete.

        Raises
        ------
        ValueError
            If the file is no state, or the ledger not its own.
        """
        path = self.path / f"{arm}.pt"
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file fails in many ways; the answer is the same
            raise ValueError(f"checkpoint: expected a state of QEDG in {path.name}, got {error}") from error
        if not isinstance(state, dict) or not state.keys() >= STATE:
            raise_invalid("checkpoint", state, f"a state of QEDG in {path.name}")
        if len(state["labels"]) > answered:
            raise_invalid(
                f"checkpoint: {arm}.jsonl",
                f"{answered} answers",
                f"the {len(state['labels'])} or more that {path.name} was made with",
                fix="Without its ledger nobody knows what was spent: put it back, or take another folder",
            )
        return state


def fingerprint(*parts: Tensor | nn.Module | None) -> str:
    """A hash of tensors and of modules' states.

    Parameters
    ----------
    *parts : Tensor, torch.nn.Module or None
        Tensors of any shape.

    Returns
    -------
    str
        Hexadecimal.
    """
    digest = hashlib.sha256()
    for part in parts:
        tensors = part.state_dict() if isinstance(part, nn.Module) else {"": part}
        for name, tensor in tensors.items():
            digest.update(name.encode())
            if tensor is not None:
                plain = tensor.detach().cpu().contiguous()
                digest.update(f"{tuple(plain.shape)}{plain.dtype}".encode())
                digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _compare(header: Path, description: dict[str, Any]) -> None:
    try:
        stored = json.loads(header.read_text())
    except ValueError as error:
        raise ValueError(f"checkpoint: expected JSON in {header.name}, got {error}") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise_invalid("checkpoint", str(header), f"a run of format {FORMAT!r}")
    for name, value in description.items():
        if stored.get(name) != value:
            raise_invalid(
                f"checkpoint: {name}",
                value,
                f"{stored.get(name)!r} as in the run that is to go on",
                fix="Only the budget may change",
            )
