"""Killing what is left in groups, by the host: pids are turned into pidfds and checked again before
a signal is sent, so that a reused pid is never hit."""

from __future__ import annotations

import os
import select
import signal
import time

from ._files import read_text, write_text

# Between two looks at a group that is nearly gone, where nothing can be polled for it (seconds).
_LOOK_AGAIN = 0.002


def members(folder: str) -> list[int]:
    """The processes of one group, as seen from our pid namespace (others read as 0: left out)."""
    try:
        return [pid for pid in map(int, read_text(f"{folder}/cgroup.procs").split()) if pid]
    except OSError:
        return []


class Killing:
    """Processes that were sent SIGKILL and have not ended yet."""

    def __init__(self) -> None:
        self._dying: dict[int, int] = {}

    def kill(self, folder: str) -> None:
        """SIGKILL to every process of a group, in a way that no fork outruns.

        v2: cgroup.kill (5.14), after which the group must never be used again: later
        CLONE_INTO_CGROUP children of the same group are killed at birth up to 7.2 at least.
        v1: no more forks (pids.max 0), then each process by itself.
        """
        if os.path.exists(f"{folder}/cgroup.kill"):
            _try_write(f"{folder}/cgroup.kill", "1")
        elif os.path.exists(f"{folder}/pids.max"):
            _try_write(f"{folder}/pids.max", "0")
        opened = {pid: fd for pid in members(folder) if (fd := self._open(pid)) is not None}
        # A pid may have ended and been given to somebody else between listing and opening; what
        # the pidfd holds is a member for certain only if the pid is still listed now.
        still = set(members(folder)) if opened else set()
        for pid, pidfd in opened.items():
            if pid in still and _signal(pidfd):
                self._dying[pid] = pidfd
            else:
                os.close(pidfd)

    def wait(self, seconds: float) -> None:
        """Until the killed processes have ended; for a moment if there is none to poll."""
        if not self._dying:
            select.select([], [], [], min(seconds, _LOOK_AGAIN))
            return
        deadline = time.monotonic() + seconds
        while self._dying and (left := deadline - time.monotonic()) > 0:
            poll = select.poll()
            for pidfd in self._dying.values():
                poll.register(pidfd, select.POLLIN)
            ended = {fd for fd, _ in poll.poll(left * 1000)}
            for pid in [pid for pid, pidfd in self._dying.items() if pidfd in ended]:
                os.close(self._dying.pop(pid))

    def close(self) -> None:
        """Stop watching them."""
        while self._dying:
            os.close(self._dying.popitem()[1])

    def _open(self, pid: int) -> int | None:
        """A pidfd, None if the process is gone, killed already, or descriptors have run out."""
        try:
            return None if pid in self._dying else os.pidfd_open(pid)
        except OSError:
            return None


def _signal(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _try_write(path: str, text: str) -> None:
    try:
        write_text(path, text)
    except OSError:
        return  # The group went away meanwhile; if it did not, rmdir says so.
