"""The versions that graftkit is tested with: the oldest supported, the newest pinned.

    python tests/house/versions.py oldest > constraints.txt    # pins for `make test-oldest`
    python tests/house/versions.py matrix                      # the README's table

The oldest are the bounds in pyproject.toml; the newest are those of constraints.txt. What the suite itself
needs (the extra ``test``) is always the newest: an old pytest is no part of the promise.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
BOUND = re.compile(r"^([A-Za-z0-9_.-]+)>=([0-9][0-9a-z.]*)$")
# Extras that repeat others, or hold the suite's own tools.
LEFT_OUT = ("all", "test", "dev")
# In no table for users: what examples and benchmarks need.
OWN = ("examples", "bench")


def bound(requirement: str) -> tuple[str, str]:
    """Name and oldest version of ``name>=version``."""
    match = BOUND.match(requirement)
    if match is None:
        raise ValueError(f"pyproject.toml: {requirement!r} states no oldest version as name>=version")
    name, version = match.groups()
    return name, version


def oldest() -> dict[str, str]:
    """Distribution to oldest version, over the core and all extras; the highest bound counts."""
    found: dict[str, str] = {}
    wanted = [*PROJECT["dependencies"], *(r for e in EXTRAS if e not in LEFT_OUT for r in EXTRAS[e])]
    for name, version in map(bound, wanted):
        found[name] = max(version, found.get(name, "0"), key=parts)
    return found


def newest() -> dict[str, str]:
    """Distribution to the version of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {_canonical(name): version for name, version in pairs}


def constraints() -> str:
    """Pins of the oldest versions, and the newest of what the suite needs."""
    pinned = newest()
    tools = [_canonical(bound(requirement)[0]) for requirement in EXTRAS["test"]]
    lines = [f"{name}=={version}" for name, version in oldest().items()]
    return "\n".join([*lines, *(f"{name}=={pinned[name]}" for name in tools)])


def matrix() -> str:
    """A Markdown table: extra, what it brings, oldest version supported, newest that passed the suite."""
    pinned, rows = newest(), []
    for extra, requirements in {"": PROJECT["dependencies"], **EXTRAS}.items():
        if extra in (*LEFT_OUT, *OWN):
            continue
        pairs = [bound(requirement) for requirement in requirements]
        names = ", ".join(name for name, _ in pairs)
        old = ", ".join(version for _, version in pairs)
        new = ", ".join(pinned[_canonical(name)] for name, _ in pairs)
        rows.append(f"| {f'`{extra}`' if extra else '(none)'} | {names} | {old} | {new} |")
    head = "| extra | brings | oldest | newest |\n| --- | --- | --- | --- |"
    return "\n".join([head, *rows])


def parts(version: str) -> tuple[int, ...]:
    """A version's numbers, for comparison."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    tables = {"oldest": constraints, "matrix": matrix}
    if len(sys.argv) != 2 or sys.argv[1] not in tables:
        sys.exit(f"expected one of {', '.join(tables)}, got {' '.join(sys.argv[1:]) or 'nothing'}")
    sys.stdout.write(tables[sys.argv[1]]() + "\n")
