"""The test suite on every kernel of kernels.toml, as root and as an ordinary user.

Run as root from a checkout whose .venv is ready (`make kernels`). The boots run two at a time: each
kernel has one CPU. Prints each run's tail, then one line a run; exit status 1 if any failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.kernels import catalog  # noqa: E402

_SECONDS = 1000
_LINES = 30
_TRIES = 3
_DIED = 125  # of boot.py
# All but what is pure and says nothing about a kernel: tests/unit, and of tests/contract what is
# not about running the documents' examples.
_TESTS = [
    "tests/kernel",
    "tests/lifecycle",
    "tests/escape",
    "tests/programs",
    "tests/contract/test_docs.py",
    # A clock of 10 ms that samples: too coarse for a third of a second on a busy machine.
    "--deselect=tests/kernel/test_cgroup.py::test_cpu_time_is_counted_for_each_call",
]


def run(version: str, user: bool) -> tuple[str, int, float, str]:
    """(name, exit status, seconds, output) of the suite on one kernel. A kernel with a declared
    fault that dies is booted again: the tests that bring the fault about are left out, but those
    that may, once in thousands of times, are not."""
    name = f"{version} {'user' if user else 'root'}"
    command = _command(version, user)
    tries = _TRIES if catalog.load()[f"uml-{version}"].faults else 1
    started = time.monotonic()
    text = ""
    for number in range(tries):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
        text += done.stdout + done.stderr
        if done.returncode != _DIED or number + 1 == tries:
            break
        text += f"{name} died, perhaps by its declared fault; boot {number + 2} of {tries}\n"
    return name, done.returncode, time.monotonic() - started, text


def _command(version: str, user: bool) -> list[str]:
    boot = [sys.executable, str(ROOT / "tests" / "kernels" / "boot.py"), "--kernel", version]
    words = [*boot, *(["--user"] if user else []), "--timeout", str(_SECONDS), "--"]
    # Python of the virtual environment by its place in the guest's copy of the checkout.
    return [*words, ".venv/bin/python", "-m", "pytest", "-q", "--maxfail=20", *_TESTS]


def main() -> int:
    """Run all; 0 if every suite passed."""
    versions = [kernel.version for kernel in catalog.load().values()]
    for version in versions:
        boot = [sys.executable, str(ROOT / "tests" / "kernels" / "boot.py")]
        subprocess.run([*boot, "--kernel", version, "--fetch-only"], cwd=ROOT, check=True)
    wanted = [(version, user) for user in (True, False) for version in versions]
    results = []
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        for name, status, seconds, text in pool.map(lambda pair: run(*pair), wanted):
            print(f"--- {name}: status {status}, {seconds:.0f} s", flush=True)
            lines = text.splitlines()
            for line in lines:
                if " died, perhaps" in line:
                    print(line)
            print("\n".join(lines[-_LINES:] if status == 0 else lines[-200:]), flush=True)
            results.append((name, status, seconds))
    print()
    for name, status, seconds in results:
        print(f"{name:12} {'passed' if status == 0 else f'FAILED ({status})'} in {seconds:.0f} s")
    return 0 if all(status == 0 for _, status, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main())
