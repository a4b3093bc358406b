"""Benchmark records: one JSON file a method, written atomically, resumable by key."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from graftkit.core.files import readable_file, whole_file

RESULTS = Path(__file__).parent / "results"


def environment(distributions: tuple[str, ...]) -> dict[str, Any]:
    """What the figures were measured on: CPU, threads, versions, commit."""
    import torch

    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    versions = {name: metadata.version(name) for name in distributions}
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


class Records:
    """The records of one method, saved after each addition.

    Every record carries a ``key``; adding a key that exists replaces it, and `has` lets a rerun skip it. It
    also says what it ``took``: CPU seconds, ended children included, since the record before it.
    """

    def __init__(self, name: str, path: Path | None = None) -> None:
        self.path = path or RESULTS / f"{name}.json"
        self.records: dict[str, dict[str, Any]] = {}
        self.environments: list[dict[str, Any]] = []
        self._since = sum(os.times()[:4])
        if self.path.exists():
            with readable_file(self.path, "benchmark records"):
                stored = json.loads(self.path.read_text())
                self.records = {record["key"]: record for record in stored["records"]}
                self.environments = list(stored["environments"])

    def has(self, key: str) -> bool:
        return key in self.records

    def add(self, key: str, environment: dict[str, Any], **values: Any) -> None:
        if environment not in self.environments:
            self.environments.append(environment)
        before, self._since = self._since, sum(os.times()[:4])
        where, took = self.environments.index(environment), round(self._since - before, 2)
        self.records[key] = {"key": key, "environment": where, "took": took, **values}
        self.save()

    def adopt(self, path: Path) -> None:
        """Take over another file's records as they are: `add` would say that they took no time."""
        other = Records("", path)
        for key, record in other.records.items():
            environment = other.environments[record["environment"]]
            if environment not in self.environments:
                self.environments.append(environment)
            self.records[key] = {**record, "environment": self.environments.index(environment)}
        self.save()

    def save(self) -> None:
        """Replace the file in one step, so that an interrupted run leaves the last complete state."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n  ".join(
            json.dumps(_short(self.records[key]), sort_keys=True) for key in sorted(self.records)
        )
        environments = json.dumps(self.environments, indent=1, sort_keys=True)
        text = f'{{"environments": {environments},\n "records": [\n  {lines}\n ]}}\n'
        with whole_file(self.path) as file:
            file.write(text.encode())


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process's memory now (VmRSS) or at its peak (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def forget_peak() -> int:
    """Start the peak anew at what is resident now, which is returned: imports may have held more before."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident()


def _short(value: Any) -> Any:
    """Numbers to eight digits: nothing is printed with more, and the rest makes files large."""
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return [_short(item) for item in value] if isinstance(value, list | tuple) else value
