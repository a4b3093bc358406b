"""The rules that a public docstring is held against, each a function that returns complaints."""

import ast
import builtins
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from numpydoc.docscrape import get_doc_object
from numpydoc.validate import validate

# numpydoc's own checks. Left out: layout of quotes (the formatter's business), capitals (a description
# may open with a symbol), and the sections that not every function needs (Examples, See Also, extended).
ENFORCED = {
    "GL03",  # double blank lines, which the renderers show
    "GL06",  # unknown section: a typo hides its content
    "GL07",  # sections in numpydoc's order
    "GL08",  # no docstring
    "GL10",  # a directive without its colons is printed, not run
    "SS01",  # no summary
    "SS03",  # summary without a full stop
    "SS04",  # summary indented
    "SS06",  # summary longer than one line
    "PR01",  # a parameter of the signature is missing
    "PR02",  # a documented parameter does not exist
    "PR03",  # other order than the signature
    "PR04",  # no type
    "PR05",  # type ends with a full stop
    "PR07",  # no description
    "PR09",  # description without a full stop
    "PR10",  # no space before the colon: the name swallows the type
    "RT01",  # returns something that is not documented
    "RT03",  # return value without description
    "YD01",  # yields something that is not documented
}

ARRAY = re.compile(r"\b(ndarray|array-likes?|array|Tensor|tensor|sparse matrix|csr_matrix|csr_array)\b")
SHAPE = re.compile(r"\bshapes?\b|\bscalar\b|\b0-d\b|\b[0-9]-D\b")

# What a call to one of the shared checks may raise.
CHECKS = {
    "check_bool": {"TypeError"},
    "check_choice": {"ValueError"},
    "check_integer": {"TypeError", "ValueError"},
    "check_number": {"TypeError", "ValueError"},
    "require": {"ImportError"},
}


def numpydoc_complaints(name: str) -> list[str]:
    """What numpydoc finds wrong, of the codes that we enforce."""
    return [f"{code} {text}" for code, text in validate(name)["errors"] if code in ENFORCED]


def shape_complaints(obj: Any) -> list[str]:
    """Array parameters and results whose entry says no shape."""
    doc = get_doc_object(obj)
    complaints = []
    for section in ("Parameters", "Returns", "Yields", "Attributes"):
        for entry in doc[section]:
            text = " ".join([entry.type, *entry.desc])
            if ARRAY.search(entry.type) and not SHAPE.search(text):
                complaints.append(f"{section}: {entry.name or entry.type} is an array without a stated shape")
    return complaints


def raises_complaints(obj: Any, body: Any = None) -> list[str]:
    """Exceptions raised in the function's own body that its Raises section does not name.

    For a class, `body` is its ``__init__`` or ``__post_init__``, and the class docstring is read.
    """
    documented = " ".join(entry.type or entry.name for entry in get_doc_object(obj)["Raises"])
    module = inspect.getmodule(obj)
    return [
        f"Raises: {name} is raised here and not documented"
        for name in sorted(raised_names(body if body is not None else obj, vars(module) if module else {}))
        if name not in documented
    ]


def raised_names(function: Any, namespace: dict[str, Any]) -> set[str]:
    """Names of exception classes that a function's own body raises, directly or by a shared check."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    (definition,) = tree.body
    names: set[str] = set()
    for node in _own_nodes(definition):
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            name = _last_name(raised)
            if _is_exception(name, namespace):
                names.add(name)
        elif isinstance(node, ast.Call):
            name = _last_name(node.func)
            if name == "raise_invalid":
                chosen = [_last_name(k.value) for k in node.keywords if k.arg == "error"]
                names.update(n for n in chosen or ["ValueError"] if _is_exception(n, namespace))
            else:
                names |= CHECKS.get(name, set())
    return names


def attribute_complaints(cls: type) -> list[str]:
    """Fitted attributes (``self.name_``) that the class docstring does not list."""
    documented = {entry.name for entry in get_doc_object(cls)["Attributes"]}
    documented |= {name.strip() for joined in documented for name in joined.split(",")}
    assigned = set()
    for owner in cls.__mro__:
        if owner.__module__.startswith("graftkit.") or owner is cls:
            tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
            assigned |= {
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and isinstance(node.value, ast.Name)
                and node.value.id == "self"
                and node.attr.endswith("_")
                and not node.attr.startswith("_")
            }
    return [f"Attributes: {name} is set in fit and not documented" for name in sorted(assigned - documented)]


def _own_nodes(definition: ast.AST) -> Iterator[ast.AST]:
    """Nodes of a function without those of functions and classes defined inside it."""
    stack = list(ast.iter_child_nodes(definition))
    while stack:
        node = stack.pop()
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield node
            stack.extend(ast.iter_child_nodes(node))


def _last_name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _is_exception(name: str, namespace: dict[str, Any]) -> bool:
    found = namespace.get(name, getattr(builtins, name, None))
    return inspect.isclass(found) and issubclass(found, BaseException)
