"""`churn`: sandboxes made, used once and destroyed, on all CPUs, and what is left afterwards.

One process for each CPU, because each has a launcher of its own, with two threads, so that one
sandbox can be asked for while another one's end is awaited. The rate counts until the last one has
vanished. Run as a program it is one of those processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__":
    sys.path.insert(0, ROOT)

from benchmarks import processes  # noqa: E402
from benchmarks.baselines import trivial  # noqa: E402
from sandbox import Limits, Sandbox  # noqa: E402

THREADS = 2
# As many at once as the library may keep directories for, so that `before` has them all.
_WARM = 6
_PATIENCE = 20.0
_LOOK_AGAIN = 0.002


def measure(seconds: float) -> dict[str, Any]:
    """Run one process for each CPU: the rate per second, and counts before and after."""
    cpus = len(os.sched_getaffinity(0))
    mounts = _own_mounts()
    command = [sys.executable, os.path.abspath(__file__), str(seconds)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(cpus)
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    reports = [json.loads(process.communicate("go\n")[0]) for process in _told_to_go(started)]
    pids = [process.pid for process in started]
    return {
        "cpus": cpus,
        "processes": cpus,
        "threads": THREADS,
        "seconds": seconds,
        "sandboxes": sum(report["count"] for report in reports),
        "per_second": sum(report["count"] / report["elapsed"] for report in reports),
        "running": {"before": _total(reports, "before"), "after": _total(reports, "after")},
        "ended": {
            "processes": [pid for report in reports for pid in report["pids"] if _alive(pid)],
            "cgroups": sum(_cgroups(pid) for pid in pids),
            "mounts": _own_mounts() - mounts,
        },
    }


def _told_to_go(started: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return started


def leaks(found: dict[str, Any]) -> list[str]:
    """What was left, in words."""
    before, after = found["running"]["before"], found["running"]["after"]
    texts = [
        f"{name}: {before[name]} before, {after[name]} after"
        for name in before
        if after[name] > before[name]
    ]
    return texts + [f"{name} after exit: {left}" for name, left in found["ended"].items() if left]


def _total(reports: list[dict[str, Any]], moment: str) -> dict[str, int]:
    return {name: sum(each[moment][name] for each in reports) for name in reports[0][moment]}


def _alive(process: list[int]) -> bool:
    pid, start = process
    return os.path.exists(f"/proc/{pid}") and _start_of(pid) == start


def _start_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return -1


def _own_mounts(pid: int | str = "self") -> int:
    with open(f"/proc/{pid}/mountinfo") as file:
        return len(file.readlines())


def _cgroups(pid: int) -> int:
    """Directories of groups that bear the name of `pid`, and those below them."""
    found = 0
    with open("/proc/mounts") as file:
        tops = [line.split()[1] for line in file if line.split()[2] in ("cgroup", "cgroup2")]
    for top in tops:
        for folder, _, _ in os.walk(top):
            found += f"-{pid}-" in os.path.relpath(folder, top)
    return found


# --- one of the processes -------------------------------------------------------------------------


def _counts(launcher: int) -> dict[str, int]:
    return {
        "jails": len(processes.children(launcher)),
        "children": len(processes.children(os.getpid())),
        "descriptors": processes.own_descriptors(),
        "launcher_descriptors": len(os.listdir(f"/proc/{launcher}/fd")),
        "mounts": _own_mounts(),
        "launcher_mounts": _own_mounts(launcher),
        "cgroups": _cgroups(os.getpid()),
        "threads": threading.active_count(),
    }


def _settled(launcher: int, most: dict[str, int] | None = None) -> dict[str, int]:
    """The counts when nothing is being removed any more: no jail, and none above `most`."""
    deadline = time.monotonic() + _PATIENCE
    last: dict[str, int] = {}
    while True:
        while processes.children(launcher) and time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN)
        found = _counts(launcher)
        if most is None and found == last:
            return found
        if most is not None and all(found[name] <= most[name] for name in found):
            return found
        if time.monotonic() > deadline:
            return found
        last = found
        time.sleep(10 * _LOOK_AGAIN)


def _warm_up() -> None:
    opened = [Sandbox(Limits()).__enter__() for _ in range(_WARM)]
    for sandbox in opened:
        sandbox.run(trivial, 1)
    for sandbox in opened:
        sandbox.close()


def _turn(end: float, counts: list[int]) -> None:
    count = 0
    while time.monotonic() < end:
        with Sandbox(Limits()) as sandbox:
            sandbox.run(trivial, 1)
        count += 1
    counts.append(count)


def main(seconds: float) -> None:
    """Warm up, say so, wait for the word, churn, report as JSON."""
    _warm_up()
    launcher = processes.launcher()
    before = _settled(launcher)
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    counts: list[int] = []
    threads = [
        threading.Thread(target=_turn, args=(began + seconds, counts)) for _ in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while processes.children(launcher):
        time.sleep(_LOOK_AGAIN)
    elapsed = time.monotonic() - began
    if len(counts) != THREADS:
        raise RuntimeError("a thread ended early")
    report = {
        "count": sum(counts),
        "elapsed": elapsed,
        "before": before,
        "after": _settled(launcher, before),
        "pids": [[pid, _start_of(pid)] for pid in (os.getpid(), launcher)],
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
