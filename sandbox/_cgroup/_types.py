"""What the two cgroup versions have in common: the caps of a jail, what a call used, and the two
kinds of group that the rest of the host works with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from .._models import Limits

PAGE = os.sysconf("SC_PAGE_SIZE")

# What init itself may use on top of the guest's limits: its interpreter's private pages, kernel
# memory of its namespaces and mounts. The jail's caps are a backstop; the call's are the verdict.
INIT_MEMORY = 32 << 20
INIT_PROCESSES = 8
# Of it for what init may still come to use during a call (the import of cloudpickle).
INIT_GROWTH = 16 << 20
# A call gets this much of what a jail has left, however little that is.
LEAST_MEMORY = 1 << 20
# With less its worker may run out of it before it is the guest's program: it must not share init's.
AMPLE_MEMORY = 16 << 20

# CFS bandwidth is granted per period (microseconds). The kernel refuses a quota below 1 ms.
CPU_PERIOD = 100_000

# Charges below this are not worth a closer look: the kernel charges in batches of 64 pages per
# CPU, and a few dying objects stay with every group.
NOISE = 1 << 20


@dataclass(frozen=True, slots=True)
class Caps:
    """`Limits` in the units of the control files. ``None`` is unlimited.

    Attributes:
        memory: bytes a call may use, the jail's writable files included.
        disk: how many of these bytes are there for files.
        swap: bytes of swap on top.
        processes: tasks of a call.
        quota: microseconds of CPU time per `CPU_PERIOD`.
    """

    memory: int | None
    disk: int
    swap: int
    processes: int | None
    quota: int | None

    @classmethod
    def of(cls, limits: Limits) -> Caps:
        disk = int(limits.disk)
        return cls(
            memory=None if limits.memory is None else int(limits.memory) + disk,
            disk=disk,
            swap=int(limits.swap),
            processes=limits.processes,
            quota=None if limits.cpus is None else int(limits.cpus * CPU_PERIOD),
        )

    @property
    def jail_memory(self) -> int | None:
        return None if self.memory is None else self.memory + INIT_MEMORY

    @property
    def jail_processes(self) -> int | None:
        return None if self.processes is None else self.processes + INIT_PROCESSES

    def call_memory(self, charged: Charged) -> int | None:
        """The cap of a call's group. Earlier calls' files use up the room for files. What the
        kernel keeps for them (inodes, tables of sparse files) stays charged to the jail as well,
        and is in no limit of its own: where there is much of it the cap is lower still. For at the
        jail's own cap the kernel would choose whom to kill, init among them."""
        if self.memory is None or self.jail_memory is None:
            return None
        room = self.jail_memory - charged.total - INIT_GROWTH
        return max(min(self.memory - min(max(charged.files, 0), self.disk), room), LEAST_MEMORY)


class Charged(NamedTuple):
    """What is charged to a jail before a call: bytes of files that earlier calls left, and in all,
    init included."""

    files: int
    total: int


@dataclass(frozen=True, slots=True)
class Counters:
    """What one call used, from its own group; also on a jail that serves many calls.

    Seconds and bytes; ``None`` where this kernel does not count it.

    Attributes:
        cpu_usage, cpu_user, cpu_system: CPU time over every process of the call. On v1 the split
            into user and system has a grain of 10 ms, and need not add up to `cpu_usage`.
        throttled_time: time the call's tasks waited for their quota.
        memory_peak: highest charge of the call's group.
        oom_kills: processes of the call that the OOM killer ended, whatever group ran out.
        oom_at_own_limit: OOMs at the limit of the call's own group; on v1 0 or 1: whether the
            charge had come up to that limit (its failure counters do not tell, see `_v1_parts`).
        oom_at_jail_limit: the same at the limit of the jail's group.
        pids_refused: forks refused by the limit on processes.
        pids_peak: highest number of tasks at once (kernel 6.1 and later).
    """

    cpu_usage: float
    cpu_user: float
    cpu_system: float
    throttled_time: float
    memory_peak: int | None
    oom_kills: int
    oom_at_own_limit: int
    oom_at_jail_limit: int
    pids_refused: int
    pids_peak: int | None


class CallGroup(Protocol):
    """The group of one call: the worker is in it before guest code runs, init never is."""

    @property
    def oom_fd(self) -> int | None:
        """v1: readable (an eventfd) when the group ran out of memory; whoever polls it must then
        kill the rest of the call. v2: None, since the kernel ends the call whole
        (memory.oom.group). Owned by the group: do not close it."""

    def procs_fds(self) -> list[int]:
        """cgroup.procs of each hierarchy: a process that writes "0" to each of them has joined.
        Owned by the group: send them, do not close them."""

    def contains(self, pid: int) -> bool:
        """Whether `pid` is in this group in every hierarchy, as the kernel says. The caller pins
        the pid (pidfd). False also for a process that is gone."""

    def is_ample(self) -> bool:
        """Whether its memory suffices for all that our own code does in it."""

    def read_back(self) -> dict[str, Any]:
        """The limits as the kernel shows them: memory, swap, processes, cpus; None is unlimited."""

    def cpu_seconds(self) -> float:
        """CPU time of the call so far, dead processes included. One pread."""

    def counters(self) -> Counters:
        """What the call used so far."""

    def finish(self) -> None:
        """Give the group back, when every process of the call is dead and reaped. No more calls
        on this object after that; a second `finish` does nothing."""


class JailGroup(Protocol):
    """The group of one jail. Not for two threads at once."""

    def init_fds(self) -> list[int]:
        """cgroup.procs of init's leaf, one for each hierarchy. Owned by the group, and valid until
        the first `call`: init has joined by then."""

    def call(self) -> CallGroup:
        """A group for one call, its limits written and read back.

        Raises:
            SetupError: a group or a limit could not be put in force.
        """

    def read_back(self) -> dict[str, Any]:
        """The jail's backstops as the kernel shows them; keys as in `CallGroup.read_back`."""

    def try_close(self) -> bool:
        """Kill what is left, remove what is empty; never waits. True when nothing is left."""

    def close(self, timeout: float = 2.0) -> None:
        """`try_close` until it is done, at most `timeout` seconds. What takes longer (a process in
        an uninterruptible wait) is removed with a later jail or by `Groups.close`."""

    def let_go(self) -> None:
        """Close every descriptor of this jail's groups and leave the groups alone: what a forked
        child does with its parent's."""


class Home(Protocol):
    """What a jail's group asks of `Groups` when it closes."""

    def closed(self, jail: JailGroup) -> None:
        """Nothing is left of it."""

    def defer(self, jail: JailGroup) -> None:
        """Try again later to close it."""
