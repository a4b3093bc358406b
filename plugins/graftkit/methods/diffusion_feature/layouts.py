"""Layouts of the two U-Nets that the paper studied, and the names that they have.

SD 1.x/2.x has 197 names, SDXL 612; both counts are those of the published configurations (arXiv 2410.03558).

>>> len(layout_names(SD15)), len(layout_names(SDXL))
(197, 612)
"""

from dataclasses import dataclass

__all__ = ["SD15", "SDXL", "Layout", "layout_names", "recognize_layout"]

# Kinds of one basic block, in the order of execution.
BLOCK = ("self-q", "self-k", "self-v", "self-map", "cross-q", "cross-map", "ffn-inner", "out")


@dataclass(frozen=True)
class Layout:
    """A conditional U-Net's structure.

    Parameters
    ----------
    down, up : tuple of (int, int)
        Per level, in the order of execution: ResNets, and basic blocks per ViT (0: no ViT).
    mid : int
        Basic blocks of the middle ViT.
    """

    down: tuple[tuple[int, int], ...]
    mid: int
    up: tuple[tuple[int, int], ...]


SD15 = Layout(down=((2, 1), (2, 1), (2, 1), (2, 0)), mid=1, up=((3, 0), (3, 1), (3, 1), (3, 1)))
SDXL = Layout(down=((2, 0), (2, 2), (2, 10)), mid=10, up=((3, 10), (3, 2), (3, 0)))


def layout_names(layout: Layout) -> list[str]:
    """Canonical names of a layout in the order of execution, without our extensions.

    Parameters
    ----------
    layout : Layout
        The structure.

    Returns
    -------
    list of str
        The names.
    """
    names = ["unet-in", "unet-after-conv-in"]
    for level, (repeats, blocks) in enumerate(layout.down):
        names += _level(f"down-level{level}", repeats, blocks)
        names += [f"down-level{level}-downsampler-out"] if level + 1 < len(layout.down) else []
    names += _resnet("mid-repeat0") + _vit("mid-vit", layout.mid) + _resnet("mid-repeat1")
    for level, (repeats, blocks) in enumerate(layout.up):
        names += _level(f"up-level{level}", repeats, blocks)
        names += [f"up-level{level}-upsampler-out"] if level + 1 < len(layout.up) else []
    return [*names, "unet-out"]


def recognize_layout(names: list[str]) -> str | None:
    """Which of the studied U-Nets has the up stage of these names.

    Parameters
    ----------
    names : list of str
        A model's names; extensions may be among them.

    Returns
    -------
    {"sd15", "sdxl"} or None
        ``None`` for any other model.
    """
    given = set(names)
    for key, layout in (("sd15", SD15), ("sdxl", SDXL)):
        expected = {name for name in layout_names(layout) if name.startswith(("up-", "mid-"))}
        # Levels beyond the layout's last, or more blocks, are another model.
        beyond = f"up-level{len(layout.up)}-repeat0-res-out"
        more = [f"up-level{i}-repeat0-vit-block{blocks}-out" for i, (_, blocks) in enumerate(layout.up)]
        if expected <= given and beyond not in given and not given & set(more):
            return key
    return None


def _level(prefix: str, repeats: int, blocks: int) -> list[str]:
    names = []
    for repeat in range(repeats):
        names += _resnet(f"{prefix}-repeat{repeat}")
        names += _vit(f"{prefix}-repeat{repeat}-vit", blocks) if blocks else []
    return names


def _resnet(prefix: str) -> list[str]:
    return [f"{prefix}-res-increment", f"{prefix}-res-out"]


def _vit(prefix: str, blocks: int) -> list[str]:
    inner = [f"{prefix}-block{block}-{kind}" for block in range(blocks) for kind in BLOCK]
    return [*inner, f"{prefix}-out"]
