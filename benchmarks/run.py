"""All benchmarks: `python benchmarks/run.py [--quick] [--json FILE]`.

See README.md for what each figure means. No figure fails the run: machines differ, and only ratios
within one run tell anything. What does fail it is a leak, or a sandbox that does not work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__":
    sys.path.insert(0, ROOT)

from benchmarks import baselines, churn, entries, ladder, payload, programs, report  # noqa: E402
from benchmarks.stats import Entry, Series, interleave  # noqa: E402
from sandbox import Limits, Sandbox  # noqa: E402


def latency(rounds: int) -> dict[str, Series]:
    """Everything that is timed call by call, in one rotation."""
    with contextlib.ExitStack() as stack:
        # Before any sandbox: it starts its process while this one has a single thread.
        pool = stack.enter_context(baselines.executor())
        opened = stack.enter_context(Sandbox(Limits()))
        fork = stack.enter_context(baselines.launcher_fork())
        teardown = entries.Teardown()
        measured = [
            Entry("fresh_cold", entries.fresh_cold, 3),
            Entry("open_call", lambda: entries.open_call(opened), 5),
            Entry("teardown (close)", teardown.caller),
            Entry("B1 launcher fork", lambda: fork.ask("fork"), 10),
            Entry("B1 six namespaces", lambda: fork.ask("namespaces"), 3),
            Entry("B2 python", baselines.plain_python),
            Entry("B4 executor", lambda: baselines.round_trip(pool), 5),
        ]
        if baselines.bubblewrap():
            measured.insert(-1, Entry("B3 bubblewrap", baselines.bubblewrap_python))
        gone = Series()
        with_gone = [
            Entry(entry.name, lambda: _both(teardown, gone))
            if entry.name == "teardown (close)"
            else entry
            for entry in measured
        ]
        found = interleave(with_gone, rounds)
        gone.rounds = gone.rounds[-rounds:]
        return {**found, "teardown (all gone)": gone}


def _both(teardown: entries.Teardown, gone: Series) -> float:
    took = teardown.caller()
    gone.rounds.append([teardown.gone()])
    return took


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "root": os.geteuid() == 0,
        "bubblewrap": baselines.bubblewrap() is not None,
    }


def ladders(rounds: int) -> dict[str, list[ladder.Step]]:
    """In a process of its own, because its stopwatches stay."""
    program = [sys.executable, os.path.join(ROOT, "benchmarks", "ladder.py")]
    command = [*program, "--json", "--rounds", str(rounds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {
        name: [ladder.Step(**rung) for rung in rungs]
        for name, rungs in json.loads(done.stdout).items()
    }


def main() -> int:
    """Run, print, write; 1 if something was left behind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds: does it all work?")
    parser.add_argument("--json", metavar="FILE", help="write all figures there too")
    options = parser.parse_args()
    about = machine()
    print(", ".join(f"{name} {value}" for name, value in about.items()), end="\n\n")

    found = latency(5 if options.quick else 60)
    found |= payload.measure(2 if options.quick else 15)
    found |= programs.starts(3 if options.quick else 40)
    found |= programs.streams(2 if options.quick else 10)
    rows = report.ratios(found)
    print(report.times(found), end="\n\n")
    print(report.ratio_table(rows))
    if not about["bubblewrap"]:
        print("B3 was not measured: there is no bwrap (Debian: apt-get install bubblewrap)")

    rate = churn.measure(1.0 if options.quick else 10.0)
    leaked = churn.leaks(rate)
    print("\n" + report.churn_text(rate, leaked))

    rungs = ladders(5 if options.quick else 60)
    for name, steps in rungs.items():
        print(f"\nladder of {name} (microseconds)\n{ladder.table(steps)}")
    if options.json:
        _write(options.json, about, found, rows, rate, leaked, rungs)
    return 1 if leaked else 0


def _write(
    path: str,
    about: dict[str, Any],
    found: dict[str, Series],
    rows: list[dict[str, Any]],
    rate: dict[str, Any],
    leaked: list[str],
    rungs: dict[str, list[ladder.Step]],
) -> None:
    content = {
        "machine": about,
        "seconds": {name: series.summary() for name, series in found.items()},
        "ratios": rows,
        "churn": {**rate, "leaked": leaked},
        "ladders": {name: [vars(step) for step in steps] for name, steps in rungs.items()},
    }
    with open(path, "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    sys.exit(main())
