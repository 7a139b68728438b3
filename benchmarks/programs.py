"""Programs: a static C hello in a fresh jail and in an open one, beside a plain spawn and
bubblewrap; 100 MB through stdin and stdout, beside a plain pipe."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import baselines
from benchmarks.payload import MEGABYTE
from benchmarks.stats import Entry, Series, interleave
from sandbox import Limits, Mount, Sandbox

_SOURCE = '#include <unistd.h>\nint main(void) { return write(1, "hello\\n", 6) != 6; }\n'
_LARGE = Limits(output=None, memory="512M", wall_time=60.0, cpu_time=60.0)
_COUNT = 100 * MEGABYTE


@contextmanager
def _hello() -> Iterator[str | None]:
    """The path of the program; None without a compiler."""
    if shutil.which("gcc") is None:
        yield None
        return
    # Not below /tmp: that is another folder in a jail, and in bubblewrap's.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        path = os.path.join(folder, "hello")
        command = ["gcc", "-static", "-O2", "-x", "c", "-o", path, "-"]
        subprocess.run(command, input=_SOURCE.encode(), check=True)
        os.chmod(folder, 0o755)
        yield path


def _spawn(command: list[str]) -> float:
    with open(os.devnull, "wb") as null:
        began = time.perf_counter()
        actions = [(os.POSIX_SPAWN_DUP2, null.fileno(), 1)]
        pid = os.posix_spawn(command[0], command, {}, file_actions=actions)
        status = os.waitpid(pid, 0)[1]
        took = time.perf_counter() - began
    if status != 0:
        raise RuntimeError(f"{command[0]} ended with wait status {status:#x}")
    return took


def _under_bubblewrap(path: str) -> list[str]:
    bwrap = baselines.bubblewrap()
    assert bwrap is not None
    places = ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    return [bwrap, "--unshare-all", "--ro-bind", path, "/hello", *places, "/hello"]


def _fresh(mount: Mount) -> float:
    """As bubblewrap is given it: shown, not copied."""
    began = time.perf_counter()
    with Sandbox(Limits(), policy="program", mounts=[mount]) as sandbox:
        outcome = sandbox.exec([f"{mount.target}/hello"])
        took = time.perf_counter() - began
    _check(outcome.stdout == b"hello\n")
    return took


def _fresh_placed(program: bytes) -> float:
    began = time.perf_counter()
    with Sandbox(Limits(), policy="program") as sandbox:
        outcome = sandbox.exec(["./hello"], files={"hello": program})
        took = time.perf_counter() - began
    _check(outcome.stdout == b"hello\n")
    return took


def _again(sandbox: Sandbox) -> float:
    began = time.perf_counter()
    outcome = sandbox.exec(["./hello"])
    took = time.perf_counter() - began
    _check(outcome.stdout == b"hello\n")
    return took


def starts(rounds: int) -> dict[str, Series]:
    """`fresh_exec`, `fresh_placed`, `open_exec`, and their baselines."""
    with _hello() as path, Sandbox(Limits(), policy="program") as opened:
        if path is None:
            return {}
        with open(path, "rb") as file:
            program = file.read()
        opened.exec(["./hello"], files={"hello": program})
        mount = Mount(os.path.dirname(path), "/opt/hello")
        entries = [
            Entry("fresh_exec", lambda: _fresh(mount), 3),
            Entry("fresh_placed", lambda: _fresh_placed(program), 3),
            Entry("open_exec", lambda: _again(opened), 5),
            Entry("spawn hello", lambda: _spawn([path]), 5),
        ]
        if baselines.bubblewrap():
            entries.append(Entry("bubblewrap hello", lambda: _spawn(_under_bubblewrap(path)), 3))
        return interleave(entries, rounds)


def streams(rounds: int) -> dict[str, Series]:
    """`stdin_100`, `stdout_100` and `program_pipe_100`."""
    data = bytes(_COUNT)
    with Sandbox(_LARGE, policy="program") as sandbox, baselines.pipe_copy() as pipe:

        def feed() -> float:
            began = time.perf_counter()
            outcome = sandbox.exec(["wc", "-c"], stdin=data)
            took = time.perf_counter() - began
            _check(int(outcome.stdout) == _COUNT)
            return took

        def drain() -> float:
            seen = 0

            def count(piece: bytes) -> None:
                nonlocal seen
                seen += len(piece)

            began = time.perf_counter()
            sandbox.exec(["head", "-c", str(_COUNT), "/dev/zero"], stdout=count)
            took = time.perf_counter() - began
            _check(seen == _COUNT)
            return took

        return interleave(
            [
                Entry("stdin_100", feed),
                Entry("stdout_100", drain),
                Entry("program_pipe_100", lambda: pipe.ask(str(_COUNT))),
            ],
            rounds,
        )


def _check(holds: bool) -> None:
    if not holds:
        raise RuntimeError("the benchmark did not do what it times")
