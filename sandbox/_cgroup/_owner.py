"""Whose group it is: the owner's identity, kept in the directory's name, so that a later start can
tell a living owner's group from what a killed one left behind."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from ._files import read_text

_NAME = re.compile(r"sandbox-([0-9a-f]{8})-(\d+)\.(\d+)-(\d+)-(\d+)(?:-\d+)?", re.ASCII)


@dataclass(frozen=True)
class Owner:
    """A process, such that no other process of this machine is ever taken for it.

    Attributes:
        boot: first 8 digits of the boot id. Some container managers show each container its own.
        pid_namespace: inode; a pid means nothing outside its namespace.
        time_namespace: inode (0 before kernel 5.6); start times are shifted per time namespace.
        pid: the process in that namespace.
        start: its start time in clock ticks, field 22 of /proc/PID/stat: tells reused pids apart.
    """

    boot: str
    pid_namespace: int
    time_namespace: int
    pid: int
    start: int

    @classmethod
    def current(cls) -> Owner:
        """The calling process."""
        boot = read_text("/proc/sys/kernel/random/boot_id")[:8]
        state = _state(os.getpid())
        start = 0 if state is None else state[1]
        return cls(boot, _namespace("pid"), _namespace("time"), os.getpid(), start)

    def gone(self, here: Owner) -> bool:
        """Whether this owner is certainly dead, as judged by the process `here`.

        An owner of another pid or time namespace, or of another boot id, may well be alive in a
        container that shares the cgroup tree: only its own kind can tell.
        """
        known = (here.boot, here.pid_namespace, here.time_namespace)
        if (self.boot, self.pid_namespace, self.time_namespace) != known:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # It exists; with hidepid /proc would not have said so.
        state = _state(self.pid)
        if state is None:
            return False
        letter, start = state
        return start != self.start or (letter in "ZX" and _threads(self.pid) <= 1)


def _state(pid: int) -> tuple[str, int] | None:
    """(state letter, start time) of a process, None if it cannot be seen."""
    try:
        text = read_text(f"/proc/{pid}/stat")
    except OSError:
        return None
    # The name (field 2) may hold anything, parentheses and spaces included.
    fields = text[text.rindex(")") + 2 :].split(" ")
    return fields[0], int(fields[19])


def _threads(pid: int) -> int:
    """Tasks of a process: a zombie leader can have living threads."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def _namespace(kind: str) -> int:
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino
    except FileNotFoundError:
        return 0


def name_of(owner: Owner, again: int = 0) -> str:
    """The directory's name; `again` counts further ones of one process."""
    text = (
        f"sandbox-{owner.boot}-{owner.pid_namespace}.{owner.time_namespace}"
        f"-{owner.pid}-{owner.start}"
    )
    return f"{text}-{again}" if again else text


def owner_of(name: str) -> Owner | None:
    """The owner named by a directory, None if it is not one of ours."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    boot, *numbers = match.groups()
    return Owner(boot, *map(int, numbers))
