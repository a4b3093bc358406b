"""Published selections, and the official JSON form of a selection.

Source: arXiv 2410.03558, appendices B.1 to B.4 and table 4, and the public configurations. No selection was
published for PixArt, DiT, Hunyuan-DiT, SD3, Flux or DeepFloyd IF, and none is made up here.

>>> PRESETS["sd15"].channels
3520
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftkit.core.files import readable_file
from graftkit.core.validation import raise_invalid

__all__ = ["ENSEMBLES", "PRESETS", "Preset", "load_selection"]


@dataclass(frozen=True)
class Preset:
    """A published selection.

    Parameters
    ----------
    layout : {"sd15", "sdxl"}
        The U-Net that it is for.
    names : tuple of str
        The activations.
    widths : tuple of int
        Their channels in the published model.
    size : int
        Side of the square image in the paper.
    """

    layout: str
    names: tuple[str, ...]
    widths: tuple[int, ...]
    size: int

    @property
    def channels(self) -> int:
        """Channels of all maps together in the published model."""
        return sum(self.widths)


_SDXL = (
    "up-level0-repeat0-vit-block7-out",
    "up-level0-repeat0-vit-block5-out",
    "up-level1-repeat0-vit-block0-cross-q",
    "up-level1-repeat0-vit-block0-out",
)
_SD15 = (
    "up-level1-repeat1-vit-block0-cross-q",
    "up-level1-repeat2-res-out",
    "up-level2-repeat1-vit-block0-cross-q",
    "up-level3-repeat0-vit-block0-self-k",
)

PRESETS = {
    "sd15": Preset("sd15", _SD15, (1280, 1280, 640, 320), 512),
    "sdxl": Preset("sdxl", _SDXL, (1280, 1280, 640, 640), 1024),
    "sd15-legacy": Preset(
        "sd15",
        (*(f"up-level{level}-upsampler-out" for level in range(3)), "up-level3-repeat2-vit-out"),
        (1280, 1280, 640, 320),
        512,
    ),
    "sdxl-legacy": Preset(
        "sdxl",
        ("up-level0-upsampler-out", "up-level1-upsampler-out", "up-level2-repeat2-res-out"),
        (1280, 640, 320),
        1024,
    ),
    # Playground v2, best on simple scenes and on complex ones (table 4).
    "pgv2": Preset("sdxl", ("up-level0-repeat0-vit-block3-out",), (1280,), 1024),
    "pgv2-complex": Preset("sdxl", ("up-level0-repeat0-vit-block5-out",), (1280,), 1024),
    # What the ensembles take from SD 1.5 and Playground v2. `attn` adds 154 channels to the first (B.3).
    "sdxl-t/sd15": Preset(
        "sd15",
        (_SD15[0], _SD15[2], "up-level2-upsampler-out", _SD15[3], "attn"),
        (1280, 640, 640, 320, 154),
        512,
    ),
    "sdxl-t-complex/sdxl": Preset(
        "sdxl", (*_SDXL, "up-level1-upsampler-out"), (1280, 1280, 640, 640, 640), 1024
    ),
    "sdxl-t-complex/pgv2": Preset(
        "sdxl",
        (
            "up-level0-repeat0-vit-block5-out",
            "up-level1-repeat0-vit-block0-cross-q",
            "up-level1-upsampler-out",
        ),
        (1280, 640, 640),
        1024,
    ),
}

# Ensembles are run model by model: the presets of their members, concatenated by the caller.
ENSEMBLES = {
    "sdxl-t": ("sdxl", "sdxl-t/sd15", "pgv2"),
    "sdxl-t-complex": ("sdxl-t-complex/sdxl", "sdxl-t-complex/pgv2"),
}


def load_selection(source: str | os.PathLike[str] | Mapping[str, bool]) -> list[str]:
    """Read a selection in the official form, ``{name: true | false}``.

    Parameters
    ----------
    source : path, JSON text or mapping
        A file; a text that begins with ``{``; or the mapping itself.

    Returns
    -------
    list of str
        The names whose value is true, in the order of the file.

    Raises
    ------
    TypeError
        If the content is no mapping of names to booleans.
    ValueError
        If the text is no JSON, or nothing is selected.
    FileNotFoundError
        If the file does not exist.

    Examples
    --------
    >>> load_selection({"up-level1-repeat2-res-out": True, "unet-out": False})
    ['up-level1-repeat2-res-out']
    """
    content: Any = source
    where = "source"
    if isinstance(source, str | os.PathLike):
        text = str(source)
        if not text.lstrip().startswith("{"):
            where = f"source: {Path(source).name}"
            with readable_file(source, "a JSON object of names and booleans"):
                text = Path(source).read_text(encoding="utf-8")
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: expected a JSON object of names and booleans, got {error}") from error
    if not isinstance(content, Mapping):
        raise_invalid(where, content, "a mapping of names to booleans", error=TypeError)
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, bool):
            raise_invalid(f"{where}[{name!r}]", value, "True or False", error=TypeError)
    selected = [name for name, value in content.items() if value]
    if not selected:
        raise_invalid(where, content, "at least one name that is true")
    return selected
