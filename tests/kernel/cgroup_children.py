"""Real processes for the cgroup tests: each joins the groups it was given, says so, and does one
small thing when told to. What they use is capped by the group they are in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from sandbox._cgroup import Groups
from sandbox._models import Limits

_JOIN = """
import os, sys
for fd in map(int, sys.argv[1].split(",")):
    os.write(fd, b"0")
    os.close(fd)
print("in", flush=True)
sys.stdin.readline()
"""

# Bodies: wait to be told again; use more memory than any limit of these tests.
WAIT = "sys.stdin.readline()"
HOG = "data = b'x' * (200 << 20)"

MIB = 1 << 20
SMALL = Limits(memory="32M", disk="1M", processes=4)


class Child:
    """One process. Leaving the `with` block kills it if it still runs."""

    def __init__(self, procs: Sequence[int], body: str, keep: Sequence[int] = ()) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-ISc", _JOIN + body, ",".join(map(str, procs))],
            pass_fds=[*procs, *keep],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.pid = self._process.pid
        if self.line() != "in":
            raise AssertionError(f"the child could not join: status {self.status()}")

    def line(self) -> str:
        """The next line it prints; empty at its end."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def go(self) -> None:
        """Let it do its thing (or, at `WAIT`, go on)."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def status(self) -> int:
        """Its exit status once it has ended; negative for a signal."""
        return self._process.wait(60)

    def run(self) -> int:
        self.go()
        return self.status()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def opened() -> Iterator[Groups]:
    """Groups of this process, which must leave no directory when they are closed."""
    groups = Groups.open()
    try:
        yield groups
    finally:
        groups.close()
    assert folders(groups) == []


def folders(groups: Groups) -> list[str]:
    """Every directory of ours below the top groups."""
    return sorted(path for top in groups.top_dirs for path, _, _ in os.walk(top))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
