"""Trainings that are really killed: run by test_killed.py in a process of its own, which forks the victims.

Prints JSON: how many died, where each process started, and the names of what differs at the end from a run
that nobody disturbed.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from tests.faults.trainings import TRAININGS, State, save

DEATHS = 3  # a run, before it is let alone


def train(name: str, folder: Path) -> None:
    end = TRAININGS[name][0](folder)
    save(folder / "end.pt", **end)


def forked(name: str, folder: Path, wait: float | None) -> int:
    """A process that trains; killed after `wait` seconds. Its status."""
    child = os.fork()
    if child == 0:
        try:
            train(name, folder)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if wait is not None:
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def differing(found: State, expected: State, tolerance: float) -> list[str]:
    names = sorted(found.keys() ^ expected.keys())
    for name in found.keys() & expected.keys():
        a, b = found[name], expected[name]
        same = a.shape == b.shape and a.dtype == b.dtype
        if same and tolerance and a.is_floating_point():
            same = torch.allclose(a, b, rtol=0, atol=tolerance)
        elif same:
            same = torch.equal(a, b)
        if not same:
            names.append(name)
    return names


def main(name: str, place: Path, seed: int) -> None:
    torch.set_num_threads(1)
    _, kills, tolerance = TRAININGS[name]
    (place / "warm").mkdir()
    train(name, place / "warm")  # imports, and fills what is cached in memory
    (place / "whole").mkdir()
    start = time.perf_counter()
    if status := forked(name, place / "whole", None):
        raise SystemExit(f"the undisturbed run ended with status {status}")
    duration = time.perf_counter() - start
    expected = torch.load(place / "whole" / "end.pt", weights_only=True)
    rng, died, runs = random.Random(seed), 0, []
    while died < kills:
        (folder := place / str(len(runs))).mkdir()
        deaths, finished = 0, False
        while not finished:
            mortal = died < kills and deaths < DEATHS
            status = forked(name, folder, rng.uniform(0, duration) if mortal else None)
            if status and not os.WIFSIGNALED(status):
                raise SystemExit(f"a run that went on after {deaths} deaths ended with status {status}")
            finished = status == 0
            deaths += os.WIFSIGNALED(status)
            died += os.WIFSIGNALED(status)
        end = torch.load(folder / "end.pt", weights_only=True)
        starts = [int(line) for line in (folder / "starts").read_text().split()]
        runs.append({"deaths": deaths, "starts": starts, "differs": differing(end, expected, tolerance)})
    print(json.dumps({"died": died, "entries": len(expected), "runs": runs}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
