"""Candidate pools: what the qualitative filter of the paper leaves (section 5.1; tables 4 to 6).

Rules: (a) keep the first half of the up stage, where diffusion noise is absent; (b) drop self-attention
there, it resembles spatial neighbours; (c) in the noisy second half keep only self-attention's q and k; (d)
drop every increment (``res-increment``, ``ffn-inner``, ``self-v``).

``paper_pool`` returns the tables' lists, 33 names for SD 1.x/2.x and 63 for SDXL, which the rules alone do
not give; ``generic_pool`` applies the rules to any model. For transformers nothing was published: there the
pool is every block's output and cross-attention query, and no order of quality is known.

>>> len(paper_pool("sd15")), len(paper_pool("sdxl"))
(33, 63)
"""

import math
from collections.abc import Sequence

from graftkit.core.validation import check_choice, check_number, raise_invalid
from graftkit.methods.diffusion_feature.names import is_extension, parse_name

__all__ = ["generic_pool", "paper_pool"]

SDXL_BLOCKS = ((0, 1, 3, 5, 7, 9), (0, 1))  # of up-level0 and up-level1


def paper_pool(layout: str) -> list[str]:
    """The candidates of the paper's tables.

    Parameters
    ----------
    layout : {"sd15", "sdxl"}
        The model; Playground v2 is an ``"sdxl"``.

    Returns
    -------
    list of str
        33 or 63 names in the order of execution.

    Raises
    ------
    ValueError
        If `layout` is another one.
    """
    check_choice("layout", layout, ("sd15", "sdxl"))
    names = []
    if layout == "sdxl":
        for level, blocks in enumerate(SDXL_BLOCKS):
            for repeat in range(3):
                prefix = f"up-level{level}-repeat{repeat}"
                names.append(f"{prefix}-res-out")
                for block in blocks:
                    # Only the last ViT of level 1 is late enough for rule (c).
                    names += [f"{prefix}-vit-block{block}-self-k"] if (level, repeat) == (1, 2) else []
                    names += [f"{prefix}-vit-block{block}-{kind}" for kind in ("cross-q", "out")]
                names.append(f"{prefix}-vit-out")
            names += ["up-level0-upsampler-out"] if level == 0 else []
        return names
    for level in (1, 2):
        for repeat in range(3):
            prefix = f"up-level{level}-repeat{repeat}"
            late = ["self-q", "self-k"] if (level, repeat) == (2, 2) else []
            names.append(f"{prefix}-res-out")
            names += [f"{prefix}-vit-block0-{kind}" for kind in (*late, "cross-q", "out")]
            names.append(f"{prefix}-vit-out")
    names.append("up-level2-upsampler-out")
    names += [
        f"up-level3-repeat{repeat}-vit-block0-{kind}" for repeat in range(3) for kind in ("self-q", "self-k")
    ]
    return names


def generic_pool(names: Sequence[str], *, clean_fraction: float = 0.5) -> list[str]:
    """Apply the four rules to a model's names.

    Parameters
    ----------
    names : sequence of str
        The model's names in the order of execution.
    clean_fraction : float in (0, 1], default=0.5
        The share of the up stage's modules taken as free of noise; every level that one of them lies in
        counts as clean.

    Returns
    -------
    list of str
        The candidates in the order of execution.

    Raises
    ------
    TypeError
        If `clean_fraction` is no number.
    ValueError
        If `clean_fraction` is out of range, or the model leaves no candidate.
    """
    fraction = check_number("clean_fraction", clean_fraction, low=0, high=1, closed="(]")
    parsed = {name: parse_name(name) for name in names if not is_extension(name)}
    modules = [(p.level, p.repeat) for p in parsed.values() if p.stage == "up" and p.kind == "res-out"]
    pool: list[str] = []
    if modules:
        last = modules[math.ceil(fraction * len(modules)) - 1][0]
        for name, parts in parsed.items():
            if parts.stage == "up" and parts.level is not None and last is not None:
                kept = CLEAN if parts.level <= last else NOISY
                pool += [name] if parts.kind in kept else []
    elif not any(name.startswith("unet-") for name in names):
        pool = [name for name, parts in parsed.items() if parts.kind in ("cross-q", "block-out")]
    if not pool:
        raise_invalid("names", list(names), "a model with an up stage or transformer blocks")
    return pool


CLEAN = ("res-out", "cross-q", "block-out", "vit-out", "upsampler-out")
NOISY = ("self-q", "self-k")
