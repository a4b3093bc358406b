"""The graftkit command: what is here, what is installed, what to cite.

    graftkit list            # methods, their hosts, and what is missing for them
    graftkit doctor          # versions found beside the range supported, and what will not work
    graftkit cite rcpmod     # BibTeX of a method's papers

No host is imported to find out versions. Exit code 1 of ``doctor``: something installed will not work.

>>> main(["cite", "edge"])  # doctest: +ELLIPSIS
@inproceedings{sun2025edge,
...
"""

import platform
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from graftkit.core.catalogue import HOSTS, METHODS, TESTED, bibtex
from graftkit.core.extras import require

__all__ = ["main"]

# Extras that name a way to run rather than a place to plug in.
_RUNNERS = ("accelerate", "lightning", "dask")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str or None, default=None
        Arguments; None takes those of the process.

    Raises
    ------
    SystemExit
        With 1 if the doctor found something that will not work, with 2 for a wrong command.
    """
    try:
        app = _app()
    except ImportError as error:
        sys.exit(str(error))
    try:
        app(args=None if argv is None else list(argv), prog_name="graftkit")
    except SystemExit as error:
        if error.code:
            raise


def _app() -> Any:
    typer = require("typer", extra="cli")
    app = typer.Typer(help=__doc__.partition("\n")[0], no_args_is_help=True, add_completion=False)
    app.command("list", help="Methods, their hosts, and what is missing.")(_list)
    app.command("doctor", help="Versions found, versions supported, what will not work.")(_doctor)
    app.command("cite", help="BibTeX of a method's papers.")(_cite)
    return app


def _list() -> None:
    table = _table("method", "for", "import", "status")
    missing = []
    for name, method in METHODS.items():
        built = find_spec(f"graftkit.methods.{name}") is not None
        for position, key in enumerate(method.hosts):
            host = HOSTS[key]
            here = _version(host.distribution) is not None
            status = "planned" if not built else "installed" if here else _absent(host.extra)
            missing += [] if here else [host.extra]
            first = position == 0
            table.add_row(name if first else "", method.purpose if first else "", f"graftkit.{key}", status)
    _print(table)
    _advise(missing)


def _doctor() -> None:
    table = _table("package", "found", "supported", "tested", "says")
    where = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    print(f"graftkit {metadata.version('graftkit')}, {where}")  # noqa: T201
    broken, missing = [], []
    for distribution, extra, supported in _requirements():
        found = _version(distribution)
        says = "ok"
        if found is None:
            says = _absent(extra)
            broken += [] if extra else [f"{distribution} is not installed (pip install graftkit)"]
            missing.append(extra)
        elif not supported.contains(found, prereleases=True):
            says = "too old"
            broken.append(f"{distribution} {found} is older than {supported}")
        elif _newer(found, TESTED[distribution]):
            says = "newer than tested"
        table.add_row(distribution, found or "-", str(supported), TESTED[distribution], says)
    _print(table)
    _advise(missing)
    broken += _mismatches()
    for complaint in broken:
        print(f"will not work: {complaint}")  # noqa: T201
    for remark in _remarks():
        print(f"note: {remark}")  # noqa: T201
    if broken:
        raise SystemExit(1)


def _cite(method: str) -> None:
    # By folder or by title, as the README's table has both: content_shift is GATE.
    found = [one for name, one in METHODS.items() if _plain(method) in (name, _plain(one.title))]
    if not found:
        print(f"method: expected one of {', '.join(METHODS)}, got {method!r}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2)
    print("\n\n".join(map(bibtex, found[0].papers)))  # noqa: T201


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def _requirements() -> Iterator[tuple[str, str, Any]]:
    """Every dependency that has a tested version: its name, its extra ("" for the core), its range."""
    requirement = require("packaging.requirements", extra="cli", distribution="packaging").Requirement
    parsed = [requirement(text) for text in metadata.requires("graftkit") or ()]
    extras = ("", *(host.extra for host in HOSTS.values() if host.extra), *_RUNNERS)
    seen = set()
    for extra in extras:
        for one in parsed:
            belongs = one.marker.evaluate({"extra": extra}) if one.marker else not extra
            if belongs and one.name in TESTED and one.name not in seen:
                seen.add(one.name)
                yield one.name, extra, one.specifier


def _mismatches() -> list[str]:
    """Pairs that fail at import although each alone looks well."""
    torch, vision = _version("torch"), _version("torchvision")
    if torch is None or vision is None:
        return []
    built, beside = torch.partition("+")[2], vision.partition("+")[2]
    if built != beside and (built == "cpu" or beside == "cpu"):
        return [f"torch {torch} beside torchvision {vision}: take both from one index, or import fails"]
    requirement = require("packaging.requirements", extra="cli", distribution="packaging").Requirement
    for text in metadata.requires("torchvision") or ():
        needed = requirement(text)
        if needed.name == "torch" and not needed.specifier.contains(torch, prereleases=True):
            return [f"torchvision {vision} needs torch{needed.specifier}, found {torch}"]
    return []


def _remarks() -> list[str]:
    """What works in part."""
    remarks = []
    if _version("onedl-mmsegmentation") is None and _version("mmsegmentation") is not None:
        remarks.append("mmsegmentation's original line is installed; the onedl-* line is what is tested")
    files = metadata.files("onedl-mmcv") if _version("onedl-mmcv") is not None else None
    if files and not any(file.name.startswith("_ext") for file in files):
        remarks.append("mmcv has no compiled operators: heads that use mmcv.ops (PointHead) do not run")
    return remarks


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _newer(found: str, tested: str) -> bool:
    version = require("packaging.version", extra="cli", distribution="packaging").Version
    # A local tag (+cpu) names a build of the same version.
    return bool(version(version(found).public) > version(tested))


def _absent(extra: str) -> str:
    return f"missing: extra {extra}" if extra else "missing"


def _advise(missing: list[str]) -> None:
    """One command for all missing extras, outside the table, whose cells may be broken into lines."""
    extras = ",".join(dict.fromkeys(filter(None, missing)))
    if extras:
        print(f"to add what is missing: pip install 'graftkit[{extras}]'")  # noqa: T201


def _table(*columns: str) -> Any:
    table = require("rich.table", extra="cli", distribution="rich").Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Any) -> None:
    # Square brackets in "graftkit[timm]" are no markup.
    console = require("rich.console", extra="cli", distribution="rich").Console(markup=False, highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
