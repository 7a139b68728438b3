"""What the figures stand beside: B1 to B4, and a plain pipe."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from benchmarks import processes

HERE = os.path.dirname(os.path.abspath(__file__))


class Helper:
    """A program that measures in itself and answers each line with seconds."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/", env={}
        )

    def ask(self, line: str) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        return float(answer)

    def close(self) -> None:
        with self._process:
            pass


@contextmanager
def launcher_fork() -> Iterator[Helper]:
    """B1. A sandbox must be open: the command line is that of its launcher."""
    python, worker, folders = processes.program_of(processes.launcher())
    helper = Helper([*python, os.path.join(HERE, "launcher_fork.py"), worker, *folders])
    try:
        yield helper
    finally:
        helper.close()


@contextmanager
def pipe_copy() -> Iterator[Helper]:
    """The baseline of `payload`."""
    helper = Helper([sys.executable, "-I", "-S", os.path.join(HERE, "pipe_copy.py")])
    try:
        yield helper
    finally:
        helper.close()


def system_python() -> str:
    """The interpreter that B2 and B3 start: one that lies in /usr, which bubblewrap shows."""
    return shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin") or sys.executable


def _spawn_and_wait(command: list[str]) -> float:
    began = time.perf_counter()
    pid = os.posix_spawn(command[0], command, {"PATH": "/usr/bin:/bin"})
    status = os.waitpid(pid, 0)[1]
    took = time.perf_counter() - began
    if status != 0:
        raise RuntimeError(f"{' '.join(command)} ended with wait status {status:#x}")
    return took


def plain_python() -> float:
    """B2: exec of an interpreter that does nothing."""
    return _spawn_and_wait([system_python(), "-I", "-S", "-c", "pass"])


def bubblewrap() -> str | None:
    """The bwrap program, if it is there."""
    return shutil.which("bwrap")


def bubblewrap_python() -> float:
    """B3: the same under bubblewrap with namespaces of its own and a small root."""
    links = []
    for name in ("bin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            links += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            links += ["--ro-bind", f"/{name}", f"/{name}"]
    places = ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    inside = [os.path.realpath(system_python()), "-I", "-S", "-c", "pass"]
    bwrap = bubblewrap()
    assert bwrap is not None
    return _spawn_and_wait(
        [bwrap, "--unshare-all", "--ro-bind", "/usr", "/usr", *links, *places, *inside]
    )


def trivial(number: int) -> dict[str, int]:
    """What every timed call runs."""
    return {"answer": number}


@contextmanager
def executor() -> Iterator[ProcessPoolExecutor]:
    """B4. Spawned, not forked: this process has threads by then."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(trivial, 0).result()
        yield pool


def round_trip(pool: ProcessPoolExecutor) -> float:
    """One call through it."""
    began = time.perf_counter()
    pool.submit(trivial, 1).result()
    return time.perf_counter() - began
