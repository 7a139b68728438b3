"""Jails on cgroup v2: a fresh group for each jail and for each call, removed after use.

Never used again: after cgroup.kill a group kills later CLONE_INTO_CGROUP children at birth, and a
group's peaks and event counts cannot be reset on every kernel.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from .._errors import SetupError
from ._detect import NEEDED_V2, Hierarchy, holds
from ._files import Folder, field, number
from ._remove import Removal, rmdir
from ._types import AMPLE_MEMORY, CPU_PERIOD, NOISE, Caps, Charged, Counters, Home

SUBTREE = " ".join(f"+{name}" for name in NEEDED_V2)


def swap_counted(group: str) -> bool:
    """Whether this kernel caps swap (swapaccount=1)."""
    return Folder(group).has("memory.swap.max")


class Jail:
    """`JailGroup` on v2: `jail-n` with the leaves `init` and `call-m`."""

    def __init__(self, place: Hierarchy, caps: Caps, home: Home, counted: bool) -> None:
        self._place = place
        self._caps = caps
        self._home = home
        self._counted = counted
        self._folder = Folder(place.base)
        self._init = Folder(place.child("init").base)
        self._calls: list[Call] = []
        self._left: list[str] = []
        self._made = 0
        self._removal: Removal | None = None
        self._closed = False
        self._folder.make()
        try:
            self._folder.write("cgroup.subtree_control", SUBTREE)
            limit_memory(self._folder, caps.jail_memory, caps.swap, counted)
            self._folder.limit("pids.max", caps.jail_processes)
            self._init.make()
        except SetupError:
            self.close()
            raise

    def init_fds(self) -> list[int]:
        return [self._init.keep("cgroup.procs", os.O_WRONLY)]

    def call(self) -> Call:
        self._left = [folder for folder in self._left if not rmdir(folder)]
        self._made += 1
        call = Call(self, self._place.child(f"call-{self._made}"), self._counted)
        self._calls.append(call)
        call.start(self._caps, self._charged())
        return call

    def read_back(self) -> dict[str, Any]:
        return {**shown_limits(self._folder, self._counted), "cpus": None}

    def out_of_memory(self) -> int:
        """Allocations that failed at the jail's own cap so far."""
        return field(self._folder.read_kept("memory.events.local"), "oom")

    def ended(self, call: Call) -> None:
        """Remove a finished call's group, now or with the next one. (Since 6.19 a process is in
        its group for a moment after its end was reported.)"""
        self._calls.remove(call)
        if not rmdir(call.folder.path):
            self._left.append(call.folder.path)

    def _charged(self) -> Charged:
        """To the jail, before a call. The files are those that earlier calls left: charged to it,
        and to no group that is there any more. Exact (memory.stat) only where it can matter: that
        file is slow."""
        used = [self._init, *(call.folder for call in self._calls)]
        total = _usage(self._folder)
        if total - sum(map(_usage, used)) <= NOISE:
            return Charged(0, total)
        return Charged(_shmem(self._folder) - sum(map(_shmem, used)), total)

    def try_close(self) -> bool:
        if self._closed:
            return True
        if self._removal is None:
            self.let_go()
            self._removal = Removal([self._place.base])
        return self._step(self._removal.step())

    def _step(self, gone: bool) -> bool:
        if gone:
            self._closed = True
            self._home.closed(self)
        return gone

    def let_go(self) -> None:
        for folder in (self._folder, self._init, *(call.folder for call in self._calls)):
            folder.close()

    def close(self, timeout: float = 2.0) -> None:
        if self.try_close() or self._removal is None:
            return
        if not self._step(self._removal.run(timeout)):
            self._home.defer(self)


class Call:
    """`CallGroup` on v2."""

    def __init__(self, jail: Jail, place: Hierarchy, counted: bool) -> None:
        self._jail = jail
        self._place = place
        self._counted = counted
        self._jail_failures = jail.out_of_memory()
        self._finished = False
        self._ample = False
        self.folder = Folder(place.base).make()

    def start(self, caps: Caps, charged: Charged) -> None:
        """Put the call's limits in force; so much is charged to the jail already."""
        memory = caps.call_memory(charged)
        self._ample = memory is None or memory >= AMPLE_MEMORY
        limit_memory(self.folder, memory, caps.swap, self._counted)
        # An OOM in this group ends every process in it; the jail's init lives elsewhere.
        self.folder.limit("memory.oom.group", 1)
        self.folder.limit("pids.max", caps.processes)
        if caps.quota is not None:
            self.folder.limit("cpu.max", caps.quota, period=CPU_PERIOD)

    @property
    def oom_fd(self) -> int | None:
        return None

    def procs_fds(self) -> list[int]:
        return [self.folder.keep("cgroup.procs", os.O_WRONLY)]

    def contains(self, pid: int) -> bool:
        return holds([self._place], pid)

    def is_ample(self) -> bool:
        return self._ample

    def read_back(self) -> dict[str, Any]:
        quota, period = self.folder.read("cpu.max").split()
        cpus = None if quota == "max" else int(quota) / int(period)
        return {**shown_limits(self.folder, self._counted), "cpus": cpus}

    def cpu_seconds(self) -> float:
        return field(self.folder.read_kept("cpu.stat"), "usage_usec") / 1e6

    def counters(self) -> Counters:
        cpu, memory = self.folder.read("cpu.stat"), self.folder.read("memory.events.local")
        return Counters(
            cpu_usage=field(cpu, "usage_usec") / 1e6,
            cpu_user=field(cpu, "user_usec") / 1e6,
            cpu_system=field(cpu, "system_usec") / 1e6,
            throttled_time=field(cpu, "throttled_usec") / 1e6,
            memory_peak=self._peak("memory.peak"),
            oom_kills=field(memory, "oom_kill"),
            oom_at_own_limit=field(memory, "oom"),
            oom_at_jail_limit=self._jail.out_of_memory() - self._jail_failures,
            # Up to 6.10 the forker's group counts, whoever holds the limit; later the group whose
            # limit it was: both are this one, since it has the tighter limit.
            pids_refused=field(self.folder.read("pids.events"), "max"),
            pids_peak=self._peak("pids.peak"),
        )

    def _peak(self, name: str) -> int | None:
        """A kernel that has no such counter (memory.peak: 5.19, pids.peak: 6.1) has no file."""
        try:
            return int(self.folder.read(name))
        except SetupError as error:
            if error.errno != errno.ENOENT:
                raise
            return None

    def finish(self) -> None:
        if not self._finished:
            self._finished = True
            self.folder.close()
            self._jail.ended(self)


def limit_memory(folder: Folder, memory: int | None, swap: int, counted: bool) -> None:
    """memory.max, and memory.swap.max where swap is accounted."""
    folder.limit("memory.max", memory)
    if counted:
        folder.limit("memory.swap.max", swap)


def shown_limits(folder: Folder, counted: bool) -> dict[str, Any]:
    """The caps that every group of ours has, as the kernel shows them."""
    return {
        "memory": number(folder.read("memory.max")),
        "swap": number(folder.read("memory.swap.max")) if counted else 0,
        "processes": number(folder.read("pids.max")),
    }


def _usage(folder: Folder) -> int:
    return int(folder.read_kept("memory.current"))


def _shmem(folder: Folder) -> int:
    """tmpfs and shared memory of a group and of those below it, dead ones included."""
    return field(folder.read("memory.stat"), "shmem")
