"""What this library could leave behind, as seen from outside: processes, mounts, control groups,
descriptors, sockets. Tests compare before with after, and wait for the thing itself."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sandbox._cgroup._owner import owner_of
from sandbox._runtime import RUNTIME

_PATIENCE = 30.0
_PAUSE = 0.005


def until(condition: Callable[[], bool], what: str, seconds: float = _PATIENCE) -> None:
    """Look at `condition` until it holds; AssertionError naming `what` if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:.0f} s")
        time.sleep(_PAUSE)


@dataclass(frozen=True)
class Process:
    """A process told apart from a later one with the same pid."""

    pid: int
    start: int

    def running(self) -> bool:
        """Whether it exists and is not a zombie (whose reaping may be the machine's pid 1's)."""
        return any(found == self for found, _ in _processes([str(self.pid)], zombies=False))


def _processes(pids: Iterable[str], *, zombies: bool = True) -> Iterable[tuple[Process, int]]:
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] in "ZX" and not zombies:
            continue
        yield Process(int(pid), int(fields[19])), int(fields[1])


def descendants(root: int) -> dict[Process, int]:
    """All processes below `root` → the pid of their parent; parents come before children."""
    everything = dict(_processes(name for name in os.listdir("/proc") if name.isdigit()))
    found: dict[Process, int] = {}
    known = {root}
    while True:
        new = {p: parent for p, parent in everything.items() if parent in known and p not in found}
        if not new:
            return found
        found |= new
        known |= {process.pid for process in new}


def groups_of(pid: int) -> set[str]:
    """The control groups whose name says that `pid` made them, with all below."""
    found = set()
    for tree in _cgroup_trees():
        for folder, _, _ in os.walk(tree):
            owners = [owner_of(part) for part in folder.split("/")]
            if any(owner is not None and owner.pid == pid for owner in owners):
                found.add(folder)
    return found


def _cgroup_trees() -> list[str]:
    with open("/proc/self/mounts") as file:
        lines = [line.split() for line in file]
    return [fields[1] for fields in lines if fields[2] in ("cgroup", "cgroup2")]


def unix_sockets() -> set[str]:
    """Names of the unix sockets of this network namespace; abstract ones begin with "@"."""
    with open("/proc/net/unix") as file:
        lines = [line.split() for line in file]
    return {fields[7] for fields in lines if len(fields) > 7}


@dataclass(frozen=True)
class Traces:
    """The state of this process, as far as sandboxes could have changed it."""

    children: frozenset[Process]
    mounts: str
    groups: frozenset[str]
    descriptors: Counter[str]


def traces() -> Traces:
    """What is there now, but for what is kept for the next jail (see `Groups`): on v1 some used
    groups; how many depends on the pages still charged to them."""
    with open("/proc/self/mountinfo", errors="replace") as file:
        mounts = file.read()
    spare = tuple(f"{place.base}/" for slot in RUNTIME.groups()._spare for place in slot.places)
    groups = {path for path in groups_of(os.getpid()) if not f"{path}/".startswith(spare)}
    children = frozenset(descendants(os.getpid()))
    return Traces(children, mounts, frozenset(groups), _descriptors())


def _descriptors() -> Counter[str]:
    """What is open, without the numbers that the kernel gives each socket and pipe; and without
    the eventfds by which v1 tells of an OOM, since those of kept groups cannot be told apart."""
    for slot in RUNTIME.groups()._spare:
        slot.let_go()
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the listing's own
        found[target if target.startswith(("/", "anon_inode")) else target.partition("[")[0]] += 1
    del found["anon_inode:[eventfd]"]
    return found


def settled() -> Traces:
    """The traces once everything that was closed is gone."""
    assert RUNTIME.reaper.drain()
    return traces()


def expect_no_more_than(before: Traces) -> None:
    """Nothing is there that was not there before. A dead init is its launcher's to reap, which may
    be a moment after all else is gone."""
    after = settled()
    assert after.groups == before.groups
    assert after.mounts == before.mounts
    assert after.descriptors <= before.descriptors
    until(lambda: traces().children <= before.children, "the end of the jails' processes")
