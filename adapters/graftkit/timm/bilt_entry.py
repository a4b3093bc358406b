"""``timm.create_model("bilt", base="resnet50", tree="tree.json")``, and so timm's own training script.

>>> import tempfile, pathlib, timm
>>> from graftkit.timm import LabelTree
>>> file = pathlib.Path(tempfile.mkdtemp()) / "tree.json"
>>> _ = file.write_text(LabelTree.from_paths([("a", "x"), ("b", "y")]).to_json())
>>> timm.create_model("bilt", base="test_resnet", tree=str(file), num_classes=2).num_classes
2
"""

from pathlib import Path
from typing import Any

from graftkit.core.files import readable_file
from graftkit.core.validation import raise_invalid
from graftkit.methods.bilt.tree import LabelTree
from graftkit.timm.bilt import HierarchicalClassifier, wrap_timm
from timm.models import is_model, model_entrypoint, register_model

__all__ = ["read_tree"]

NAME = "bilt"


def read_tree(tree: LabelTree | str | Path) -> LabelTree:
    """Take a tree, or read it from a file.

    Parameters
    ----------
    tree : LabelTree, str or path-like
        A tree, or a JSON, CSV or is-a file (``.json``, ``.csv``, otherwise "parent child" a line).

    Returns
    -------
    LabelTree
        The tree.

    Raises
    ------
    TypeError
        If it is none of these.
    ValueError
        If there is no such file, or it holds no tree.
    """
    if isinstance(tree, LabelTree):
        return tree
    if not isinstance(tree, str | Path):
        raise_invalid("tree", tree, "a LabelTree or the path of one", error=TypeError,
                      fix="As in --model-kwargs base=resnet50 tree=tree.json")  # fmt: skip
    path = Path(tree)
    if not path.is_file():
        raise_invalid("tree", str(tree), "a file that exists")
    with readable_file(path, "a label tree"):
        if path.suffix == ".json":
            return LabelTree.from_json(path.read_text(encoding="utf-8"))
        return LabelTree.from_csv(path) if path.suffix == ".csv" else LabelTree.from_edges(path)


def bilt(
    pretrained: bool = False,
    base: Any = None,
    tree: Any = None,
    num_classes: int | None = None,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: Any = None,
    **kwargs: Any,
) -> HierarchicalClassifier:
    """Build a wrapped model, for timm's registry.

    Parameters
    ----------
    pretrained : bool, default=False
        Load the base's weights.
    base : str
        The timm model to wrap.
    tree : LabelTree, str or path-like
        As in `read_tree`.
    num_classes : int or None, default=None
        If given, it must be the tree's.
    pretrained_cfg, pretrained_cfg_overlay, cache_dir : object, default=None
        Passed to the base by ``timm.create_model``.
    **kwargs
        Keywords of `wrap_timm` and of the base.

    Returns
    -------
    HierarchicalClassifier
        The model.

    Raises
    ------
    TypeError
        If `base` or `tree` is missing or of another type.
    """
    if not isinstance(base, str):
        raise_invalid("base", base, "the name of a timm model", error=TypeError,
                      fix="As in --model-kwargs base=resnet50 tree=tree.json")  # fmt: skip
    passed = {"pretrained_cfg": pretrained_cfg, "pretrained_cfg_overlay": pretrained_cfg_overlay,
              "cache_dir": cache_dir}  # fmt: skip
    kwargs.update({name: value for name, value in passed.items() if value is not None})
    return wrap_timm(base, read_tree(tree), pretrained=pretrained, num_classes=num_classes, **kwargs)


def _register() -> None:
    if is_model(NAME):
        known = model_entrypoint(NAME)
        if known.__module__ != __name__:
            raise RuntimeError(f"timm already has a model named {NAME!r} ({known!r}); it is not replaced")
        return
    register_model(bilt)  # adds its name to this module's __all__


_register()
