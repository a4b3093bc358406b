"""Running a few lines in a fresh interpreter, where nothing has been imported yet."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from tests.house.surface import ROOT

# Importing a blocked name fails as if it were not installed; find_spec says None.
BLOCK = """
import sys
for name in {names!r}:
    sys.modules[name] = None
"""


def run_python(code: str, *, block: tuple[str, ...] = (), path: Path | None = None) -> str:
    """Run code in a fresh interpreter and return its standard output; a failure shows its standard error."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    script = BLOCK.format(names=block) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=ROOT / "tests",
    )
    if done.returncode:
        raise AssertionError(done.stderr or f"exit status {done.returncode}")
    return done.stdout


def run_json(code: str, **kwargs: Any) -> Any:
    """As :func:`run_python`; the last line printed is JSON."""
    return json.loads(run_python(code, **kwargs).splitlines()[-1])
