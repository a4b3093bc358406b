"""Audits that are really killed: run by test_kill.py in a process of its own, which forks the victims.

Prints JSON: for each run the rows that the target saw over all processes, and what the ledger says at the
end. The target notes each batch in a file, with one unbuffered write, before it answers.
"""

import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from graftkit.methods.qedg import QEDGConfig
from tests.plugins.qedg.cases import TINY, auditor, quadrants

BUDGET = 45
CONFIG: QEDGConfig = replace(TINY, tau=1.0, batch_size_query=4, transfer_rows=0, final_rounds=1)
# Flat images, to be told from generated ones.
X = torch.linspace(0, 1, 6)[:, None, None, None].expand(6, 1, 8, 8)


def audit(folder: Path) -> None:
    """One process: go on with the run until it ends or is killed."""
    seen = os.open(folder / "seen", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def target(x):
        if x[0].max() > x[0].min():
            os.write(seen, b"." * len(x))
        time.sleep(0.002)  # so that many a kill falls between reservation and answer
        return quadrants(x)

    audited = auditor(target, BUDGET, config=CONFIG)
    result = audited.run(X, baselines=(), checkpoint=folder / "run", resume=True, eval_every=15)
    (folder / "result.json").write_text(result.to_json())


def main(folder: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    rng = random.Random(seed)
    for name in ("warm", "timed"):
        (folder / name).mkdir()
        start = time.perf_counter()
        audit(folder / name)
        duration = time.perf_counter() - start
    died, runs = 0, []
    while died < kills:
        (place := folder / str(len(runs))).mkdir()
        finished, deaths = False, 0
        while not finished:
            child = os.fork()
            if child == 0:
                audit(place)
                os._exit(0)
            if died < kills and deaths < 5:
                time.sleep(rng.uniform(0, duration))
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            finished = status == 0
            deaths += os.WIFSIGNALED(status)
            died += os.WIFSIGNALED(status)
        ledger = json.loads((place / "result.json").read_text())["ledger"]
        runs.append({"seen": (place / "seen").stat().st_size, "deaths": deaths, **ledger})
    print(json.dumps({"died": died, "runs": runs}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
