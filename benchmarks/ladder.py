"""The ladder: where the time of a new sandbox, and of a call in an open one, goes, step by step.

The only benchmark that reaches below the public API: it starts the launcher under a stopwatch
(`traced_launcher.py`) and puts one around functions of the host. A renamed function is an error
here, not a missing row. The stopwatch costs about 2 microseconds a step, and a little in each fork.

    python benchmarks/ladder.py [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import mmap
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__":
    sys.path.insert(0, ROOT)

from benchmarks import traced_launcher  # noqa: E402
from benchmarks.baselines import trivial  # noqa: E402
from sandbox import Limits, Sandbox, _launcher, _paths  # noqa: E402

HOST_STEPS = (
    ("sandbox._api", "Sandbox.__init__"),
    ("sandbox._api", "Sandbox._make_jail"),
    ("sandbox._cgroup._groups", "Groups.jail"),
    ("sandbox._jail", "Jail._ask"),
    ("sandbox._observe", "observe_jail"),
    ("sandbox._transfer", "dump_call"),
    ("sandbox._cgroup._v1", "Jail.call"),
    ("sandbox._cgroup._v2", "Jail.call"),
    ("sandbox._supervisor", "Supervisor.begin"),
    ("sandbox._observe", "observe_worker"),
    ("sandbox._supervisor", "Supervisor._start"),
    ("sandbox._supervisor", "Supervisor._finish"),
    ("sandbox._drive", "outcome_of"),
    ("sandbox._supervisor", "Supervisor.release"),
    ("sandbox._api", "Sandbox.close"),
)


_STEP_TIMES = traced_launcher.AREA * len(traced_launcher.ROLES)


def confinement_steps(function: str) -> list[str]:
    """The names of the steps that a function of worker/native/confine.c takes, in order."""
    with open(os.path.join(ROOT, "worker", "native", "confine.c")) as file:
        body = re.search(rf"^\S[^\n]*\b{function}\(.*?^}}", file.read(), re.MULTILINE | re.DOTALL)
    assert body is not None
    return re.findall(r'^ +(?:STEP\(|\{")(\w+)', body[0], re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """One step of one run: seconds, `began` since the run did."""

    role: str
    name: str
    began: float
    took: float


class Notebook:
    """What all four processes noted of one run."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            file.truncate(_STEP_TIMES + traced_launcher.STEP_TIMES)
            self._memory = mmap.mmap(file.fileno(), 0)
        self._host: list[tuple[str, float, float]] = []

    def note(self, name: str, began: float, took: float) -> None:
        self._host.append((name, began, took))

    def clear(self) -> None:
        self._host.clear()
        for number in range(len(traced_launcher.ROLES)):
            traced_launcher.COUNT.pack_into(self._memory, number * traced_launcher.AREA, 0)
        self._memory[_STEP_TIMES:] = bytes(traced_launcher.STEP_TIMES)

    def steps(self, since: float) -> list[Step]:
        """In the order in which they began."""
        found = [Step("host", name, began - since, took) for name, began, took in self._host]
        for number, role in enumerate(traced_launcher.ROLES):
            area = number * traced_launcher.AREA
            (count,) = traced_launcher.COUNT.unpack_from(self._memory, area)
            for index in range(count):
                place = area + 8 + index * traced_launcher.RECORD.size
                name, began, took = traced_launcher.RECORD.unpack_from(self._memory, place)
                found.append(Step(role, name.rstrip(b"\0").decode(), began - since, took))
        found += self._confinement("init", "confine_jail", 0, since)
        found += self._confinement("worker", "confine_worker", 32, since)
        return sorted((step for step in found if step.began >= 0), key=lambda step: step.began)

    def _confinement(self, role: str, function: str, first: int, since: float) -> list[Step]:
        """The compiled steps. Empty if they were not taken since `clear`."""
        names = confinement_steps(function)
        size = 8 * (len(names) + 1)
        place = _STEP_TIMES + 8 * first
        numbers = memoryview(self._memory[place : place + size]).cast("Q")
        moments = [number / 1e9 - since for number in numbers]
        spans = zip(names, itertools.pairwise(moments), strict=True)
        return [Step(role, name, began, ended - began) for name, (began, ended) in spans]


@contextmanager
def traced() -> Iterator[Notebook]:
    """From here on, and until this process ends, launchers are started under the stopwatch."""
    descriptor, path = tempfile.mkstemp(prefix="ladder-")
    os.close(descriptor)
    try:
        notebook = Notebook(path)
        _launcher._ENVIRONMENT["LADDER_WORKER"] = _paths.WORKER
        _launcher._ENVIRONMENT["LADDER_NOTES"] = path
        _paths.LAUNCHER = os.path.join(ROOT, "benchmarks", "traced_launcher.py")
        for module, dotted in HOST_STEPS:
            owner: Any = importlib.import_module(module)
            *parents, name = dotted.split(".")
            for parent in parents:
                owner = getattr(owner, parent)
            traced_launcher.watch(owner, name, notebook.note, dotted.rpartition(".")[2].strip("_"))
        yield notebook
    finally:
        os.unlink(path)


def measure(rounds: int) -> dict[str, list[list[Step]]]:
    """Runs of `fresh_cold` (closing included) and `open_call`, each a list of steps."""
    found: dict[str, list[list[Step]]] = {"fresh_cold": [], "open_call": []}
    with traced() as notebook, Sandbox(Limits()) as opened:

        def fresh() -> None:
            with Sandbox(Limits()) as sandbox:
                sandbox.run(trivial, 1)

        def run(work: Callable[[], Any]) -> list[Step]:
            notebook.clear()
            began = time.time()
            work()
            notebook.note("(whole)", began, time.time() - began)
            return notebook.steps(began)

        for _ in range(rounds):
            found["fresh_cold"].append(run(fresh))
            found["open_call"].append(run(lambda: opened.run(trivial, 1)))
    return {name: runs[1:] or runs for name, runs in found.items()}


def medians(runs: list[list[Step]]) -> list[Step]:
    """One ladder of many runs: each step that is in most of them, with median times."""
    gathered: dict[tuple[str, str], list[Step]] = {}
    for steps in runs:
        for step in steps:
            gathered.setdefault((step.role, step.name), []).append(step)
    rungs = [
        Step(
            role,
            name,
            statistics.median(step.began for step in steps),
            statistics.median(step.took for step in steps),
        )
        for (role, name), steps in gathered.items()
        if len(steps) * 2 > len(runs)
    ]
    return sorted(rungs, key=lambda step: step.began)


def table(rungs: list[Step]) -> str:
    """Microseconds: a column a process, a line a step, in the order in which they begin."""
    roles = ("host", *traced_launcher.ROLES)
    lines = [f"{'began':>7} {'took':>7}  " + "".join(f"{role:<26}" for role in roles)]
    for step in rungs:
        indent = " " * 26 * roles.index(step.role)
        lines.append(f"{step.began * 1e6:7.0f} {step.took * 1e6:7.0f}  {indent}{step.name}")
    return "\n".join(line.rstrip() for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", action="store_true", help="print JSON and no table")
    options = parser.parse_args()
    ladders = {name: medians(runs) for name, runs in measure(options.rounds).items()}
    if options.json:
        print(json.dumps({name: [vars(rung) for rung in rungs] for name, rungs in ladders.items()}))
        return
    for name, rungs in ladders.items():
        print(f"\n{name} (microseconds)\n{table(rungs)}")


if __name__ == "__main__":
    main()
