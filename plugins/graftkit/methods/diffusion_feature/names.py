"""Names of activations: their grammar, globs and suggestions.

A U-Net name is ``stage-levelL-repeatR-kind`` or ``stage-levelL-repeatR-vit-blockB-kind``; ``mid`` has no
level and its ViT no repeat; a transformer's is ``vit-blockB-kind``. Levels count in the order of execution,
so ``up-level0`` is the coarsest. Beside them stand ``unet-in``, ``unet-after-conv-in``, ``unet-out``, the
extras ``vae-out`` and ``attn``, and ``module:`` followed by a path of ``named_modules()``.

Source: Meng et al., NeurIPS 2024 (arXiv 2410.03558), names of the public configurations. Unlike there, the
result follows the order of the request, so a concatenation does not depend on the model.

>>> expand_names("up-*-cross-q", ["mid-vit-block0-cross-q", "up-level1-repeat0-vit-block0-cross-q"])
['up-level1-repeat0-vit-block0-cross-q']
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from graftkit.core.validation import raise_invalid

__all__ = [
    "EXTENSIONS",
    "EXTRAS",
    "MAPS",
    "ActivationName",
    "check_known",
    "expand_names",
    "is_extension",
    "is_glob",
    "is_map",
    "match_names",
    "parse_name",
]

MAPS = ("self-map", "cross-map")
EXTENSIONS = ("self-out", "cross-out", "ffn-out", "vit-increment")  # ours, not in the published lists
TEXT = ("cross-k", "cross-v")
EXTRAS = ("vae-out", "attn")  # made after the forward, from more than one activation

_PATTERN = re.compile(
    r"(?:(?P<stage>down|mid|up)-(?:level(?P<level>\d+)-)?(?:repeat(?P<repeat>\d+)-)?)?"
    r"(?P<vit>vit-)?(?:block(?P<block>\d+)-)?(?P<kind>[a-z][a-z-]*)"
)


@dataclass(frozen=True)
class ActivationName:
    """The parts of a name; ``None`` where the name has no such part.

    Parameters
    ----------
    stage : {"down", "mid", "up"} or None
        ``None`` in a transformer and for ``unet-*``.
    level, repeat, block : int or None
        Counted from 0, in the order of execution.
    kind : str
        What is left, such as ``"cross-q"``, ``"res-out"``; ``"vit-out"`` keeps its prefix, ``"block-out"``
        is the output of a basic block.
    """

    stage: str | None
    level: int | None
    repeat: int | None
    block: int | None
    kind: str


def parse_name(name: str) -> ActivationName:
    """Take a canonical name apart.

    Parameters
    ----------
    name : str
        Such as ``"up-level1-repeat0-vit-block0-cross-q"``.

    Returns
    -------
    ActivationName
        Its parts.

    Raises
    ------
    ValueError
        If `name` does not follow the grammar.

    Examples
    --------
    >>> parse_name("up-level1-repeat0-vit-block0-cross-q").kind
    'cross-q'
    """
    found = _PATTERN.fullmatch(name) if isinstance(name, str) else None
    if found is None:
        raise_invalid("name", name, "an activation name such as 'up-level1-repeat0-vit-block0-cross-q'")
    level, repeat, block = (None if found[g] is None else int(found[g]) for g in ("level", "repeat", "block"))
    kind = found["kind"]
    if found["vit"]:
        kind = f"vit-{kind}" if block is None else ("block-out" if kind == "out" else kind)
    return ActivationName(found["stage"], level, repeat, block, kind)


def is_map(name: str) -> bool:
    """Whether a name asks for attention probabilities.

    Parameters
    ----------
    name : str
        A canonical name or a glob.

    Returns
    -------
    bool
        True for ``*-self-map`` and ``*-cross-map``.
    """
    return name.endswith(MAPS)


def is_extension(name: str) -> bool:
    """Whether a name is one that the published lists do not have.

    Parameters
    ----------
    name : str
        A canonical name.

    Returns
    -------
    bool
        True for the increments ``self-out``, ``cross-out``, ``ffn-out`` and ``vit-increment``.
    """
    return name.endswith(EXTENSIONS)


def is_glob(pattern: str) -> bool:
    """Whether a request is a pattern rather than a name.

    Parameters
    ----------
    pattern : str
        A request.

    Returns
    -------
    bool
        True if it holds ``*``, ``?`` or ``[`` and is no ``module:`` path.
    """
    return not pattern.startswith("module:") and any(sign in pattern for sign in "*?[")


def match_names(pattern: str, names: Sequence[str]) -> list[str]:
    """Names that a glob covers, in the order of execution.

    Attention maps can be huge, so only a pattern that itself speaks of ``map`` covers them.

    Parameters
    ----------
    pattern : str
        A glob, such as ``"up-level1-*-cross-q"``.
    names : sequence of str
        The model's names in the order of execution.

    Returns
    -------
    list of str
        What matches.

    Raises
    ------
    ValueError
        If nothing does.
    """
    found = [n for n in names if fnmatchcase(n, pattern) and ("map" in pattern or not is_map(n))]
    if not found:
        raise ValueError(
            f"features: no activation matches {pattern!r}; the model has {len(names)} names, "
            f"such as {', '.join(map(repr, names[:3]))}. List them with activation_names()"
        )
    return found


def expand_names(features: Any, names: Sequence[str], *, others: Sequence[str] = ()) -> list[str]:
    """The names that a request means: by request, and within one glob by execution; each once.

    Parameters
    ----------
    features : str, list of str, or dict of str to bool
        Names, globs or ``module:`` paths; of a dict, the entries that are true.
    names : sequence of str
        The model's names in the order of execution, which globs look through.
    others : sequence of str, default=()
        Names that are valid when they are spelt out. Of these, a glob that ends in ``cross-k`` or
        ``cross-v`` covers the text's.

    Returns
    -------
    list of str
        The names, without repetition.

    Raises
    ------
    TypeError
        If the request or an entry is of another type.
    ValueError
        If a name is unknown, a glob matches nothing, or nothing is asked for.
    """
    known = [*names, *others]
    result: dict[str, None] = {}
    for request in _requests(features):
        if is_glob(request):
            # Text has no grid: only a glob that can mean nothing else covers it, where it is allowed.
            text = request.endswith(TEXT)
            result.update(dict.fromkeys(match_names(request, _of_text(request, others) if text else names)))
        else:
            if not request.startswith("module:"):
                check_known(request, known)
            result[request] = None
    return list(result)


def check_known(name: str, known: Sequence[str]) -> None:
    """Refuse a name that the model does not have, and propose the closest.

    Parameters
    ----------
    name : str
        What was asked for.
    known : sequence of str
        What there is.

    Raises
    ------
    ValueError
        If `name` is not among `known`.
    """
    if name in known:
        return
    if name.endswith(TEXT):
        raise ValueError(
            f"features: {name!r} belongs to the text and has no spatial grid; ask for it with as_tokens=True"
        )
    near = ", ".join(map(repr, difflib.get_close_matches(name, known, n=3, cutoff=0.0)))
    raise ValueError(f"features: unknown activation {name!r}; the closest names are {near}")


def _of_text(pattern: str, others: Sequence[str]) -> list[str]:
    names = [name for name in others if name.endswith(TEXT)]
    if not names:
        raise ValueError(
            f"features: {pattern!r} belongs to the text and has no spatial grid; ask with as_tokens=True"
        )
    return names


def _requests(features: Any) -> Iterable[str]:
    if isinstance(features, str):
        requests = [features]
    elif isinstance(features, Mapping):
        wrong = [key for key, value in features.items() if not isinstance(value, bool)]
        if wrong:
            raise_invalid(f"features[{wrong[0]!r}]", features[wrong[0]], "True or False", error=TypeError)
        requests = [key for key, value in features.items() if value]
    elif isinstance(features, Sequence):
        requests = list(features)
    else:
        raise_invalid("features", features, "a name, a list of names or a dict of booleans", error=TypeError)
    for request in requests:
        if not isinstance(request, str):
            raise_invalid("features", request, "names, which are strings", error=TypeError)
    if not requests:
        raise_invalid("features", features, "at least one name")
    return requests
