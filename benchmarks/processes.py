"""What can be seen of the library's processes in /proc, without asking the library."""

from __future__ import annotations

import os


def children(pid: int) -> list[int]:
    """The living or unreaped children of a process."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.append(int(name))
    return found


def command_of(pid: int) -> list[str]:
    """The command line a process was started with."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return os.fsdecode(file.read()).split("\0")[:-1]


def launcher(owner: int | None = None) -> int:
    """The launcher of a process (this one if not given) that has opened a sandbox: its child that
    runs the worker program.

    Raises:
        LookupError: there is none.
    """
    for child in children(owner or os.getpid()):
        if any(os.path.basename(part) == "__main__.py" for part in command_of(child)[:6]):
            return child
    raise LookupError("no launcher runs; open a sandbox first")


def program_of(pid: int) -> tuple[list[str], str, list[str]]:
    """A launcher's command line in parts: interpreter and flags, worker folder, import folders."""
    command = command_of(pid)
    place = next(i for i, part in enumerate(command) if os.path.basename(part) == "__main__.py")
    return command[:place], os.path.dirname(command[place]), command[place + 2 :]


def own_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd")) - 1


def jail_descriptors() -> int:
    """How many of them keep something of a jail alive or within reach: all but those of control
    groups (files and event counters), which the library keeps for the next jail."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        found += not ("/cgroup" in target or target == "anon_inode:[eventfd]")
    return found
