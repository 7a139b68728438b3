"""Which of the host's functions cost CPU time in `fresh_cold` and `open_call`.

    python benchmarks/profile_call.py [--calls N] [--top N]

CPU time of the calling thread, system calls included and waiting left out, so that a busy machine
changes little; the profiler itself makes short Python functions look dearer than they are. The
reaper's thread, which buries closed sandboxes, is not in it.
"""

from __future__ import annotations

import argparse
import cProfile
import operator
import os
import pstats
import sys
import time
from collections.abc import Callable

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__":
    sys.path.insert(0, ROOT)

from benchmarks.baselines import trivial  # noqa: E402
from sandbox import Limits, Sandbox  # noqa: E402


def fresh_cold() -> None:
    """One sandbox, one call, the closing included."""
    with Sandbox(Limits()) as sandbox:
        sandbox.run(trivial, 1)


def profile(work: Callable[[], object], calls: int) -> tuple[float, cProfile.Profile]:
    """CPU seconds a call without the profiler, and the profile of as many calls again."""
    work()
    began = time.thread_time()
    for _ in range(calls):
        work()
    plain = (time.thread_time() - began) / calls
    found = cProfile.Profile(time.thread_time)
    found.enable()
    for _ in range(calls):
        work()
    found.disable()
    return plain, found


def _show(name: str, plain: float, found: cProfile.Profile, calls: int, top: int) -> None:
    rows: list[tuple[float, float, float, str]] = []
    stats = pstats.Stats(found).stats  # type: ignore[attr-defined]
    for (file, line, function), (_, count, own, total, _) in stats.items():
        where = f"{os.path.basename(file)}:{line} {function}" if line else function
        rows.append((own / calls * 1e6, total / calls * 1e6, count / calls, where))
    print(f"\n{name}: {plain * 1e6:.0f} microseconds of CPU in the calling thread, unprofiled")
    for title, column in (("by own time", 0), ("by time with callees", 1)):
        print(f"  {'own us':>8} {'total us':>9} {'calls':>7}  {title}")
        for own, total, count, where in sorted(rows, key=operator.itemgetter(column), reverse=True)[
            :top
        ]:
            print(f"  {own:8.1f} {total:9.1f} {count:7.1f}  {where}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--top", type=int, default=25)
    options = parser.parse_args()
    _show("fresh_cold", *profile(fresh_cold, options.calls), options.calls, options.top)
    with Sandbox(Limits()) as opened:
        plain, found = profile(lambda: opened.run(trivial, 1), options.calls)
        _show("open_call", plain, found, options.calls, options.top)


if __name__ == "__main__":
    main()
