"""One group of ours across the v1 hierarchies, and the leaf of a call, which is used again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .._errors import SetupError
from ._detect import Hierarchy, holds
from ._files import Folder
from ._remove import rmdir
from ._types import AMPLE_MEMORY, NOISE, Caps, Charged, Counters
from ._v1_parts import Cpu, Cpuacct, Memory, Pids


class Node:
    """The same group in every hierarchy (some of which may be mounted together)."""

    def __init__(self, places: Sequence[Hierarchy], swap_counted: bool) -> None:
        self.places = sorted(places, key=lambda place: "pids" not in place.controllers)
        self.folders = [Folder(place.base) for place in self.places]
        self.by = {
            name: folder
            for place, folder in zip(self.places, self.folders, strict=True)
            for name in place.controllers
        }
        for made, folder in enumerate(self.folders):
            try:
                folder.make()
            except SetupError:
                for earlier in self.folders[:made]:
                    rmdir(earlier.path)
                raise
        self.memory = Memory(self.by["memory"], swap_counted)
        self.pids = Pids(self.by["pids"])

    def procs(self) -> list[int]:
        """cgroup.procs of each hierarchy, to join by: pids comes first, so that `Pids.current`
        counts whoever is in any of them."""
        # `tasks`, not cgroup.procs: for a single thread that names itself by "0" the kernel skips
        # the lock on all forks of the machine, whose writer waits for an RCU grace period (10 ms
        # here unless another write came just before). init and workers have one thread.
        return [folder.keep("tasks", os.O_WRONLY) for folder in self.folders]

    def empty(self) -> bool:
        """No process in any hierarchy. Opens the files anew: on v1 a descriptor that has read a
        cgroup.procs once shows the same list again for a second (the kernel's pidlist cache)."""
        return not any(folder.read("cgroup.procs") for folder in self.folders)

    def let_go(self) -> None:
        """Close the kept descriptors; the next use opens them again."""
        for folder in self.folders:
            folder.close()

    def close(self) -> None:
        self.memory.drop()
        self.let_go()


class Leaf(Node):
    """The group of one call at a time. Made once and used again: making and removing it takes ten
    times as long. What a used group cannot shed (files still charged to it, a peak that cannot be
    reset) makes us remove and make that controller's directory anew."""

    def __init__(self, places: Sequence[Hierarchy], swap_counted: bool) -> None:
        super().__init__(places, swap_counted)
        self.cpu = Cpu(self.by["cpu"])
        self.cpuacct = Cpuacct(self.by["cpuacct"])
        self._before = _ZERO
        self._last = _ZERO
        self.is_ample = False

    def start(self, caps: Caps, charged: Charged) -> None:
        """Put the call's limits in force; so much is charged to the jail already."""
        memory = caps.call_memory(charged)
        self.is_ample = memory is None or memory >= AMPLE_MEMORY
        self.memory.limit(memory, caps.swap)
        self.pids.limit(caps.processes)
        self.cpu.limit(caps.quota)
        self.memory.watch_oom()

    def contains(self, pid: int) -> bool:
        return holds(self.places, pid)

    def read_back(self) -> dict[str, Any]:
        memory, swap = self.memory.shown()
        cpus, processes = self.cpu.shown(), self.pids.shown()
        return {"memory": memory, "swap": swap, "processes": processes, "cpus": cpus}

    def seconds(self) -> float:
        return self.cpuacct.seconds() - self._before.cpu_usage

    def counters(self, oom_at_jail_limit: int) -> Counters:
        """What the present call used."""
        now, then = self._totals(), self._before
        peak = self.memory.peak()
        return Counters(
            cpu_usage=now.cpu_usage - then.cpu_usage,
            cpu_user=now.cpu_user - then.cpu_user,
            cpu_system=now.cpu_system - then.cpu_system,
            throttled_time=now.throttled_time - then.throttled_time,
            memory_peak=peak,
            oom_kills=now.oom_kills - then.oom_kills,
            oom_at_own_limit=int(self.memory.full(peak)),
            oom_at_jail_limit=oom_at_jail_limit,
            pids_refused=now.pids_refused - then.pids_refused,
            pids_peak=self.pids.peak(),
        )

    def renew(self) -> bool:
        """Make ready for another call. False if something is still in it."""
        if self.pids.current():
            return False
        stale = []
        if self.memory.usage() > NOISE:
            stale.append(self.by["memory"])
        if (self.pids.peak() or 0) > 1 and self.by["pids"] not in stale:
            stale.append(self.by["pids"])
        for folder in stale:
            if not self._remake(folder):
                return False
        self.memory.restart()
        self._before = self._totals() if stale else self._totals_now()
        return True

    def _totals_now(self) -> Counters:
        """As read last, if nothing has run since: five files fewer to read."""
        last = self._last
        return last if self.cpuacct.seconds() == last.cpu_usage else self._totals()

    def _remake(self, folder: Folder) -> bool:
        folder.close()
        if not rmdir(folder.path):
            return False
        folder.make()
        for name, part in (("memory", self.memory), ("pids", self.pids), ("cpu", self.cpu)):
            if self.by[name] is folder:
                part.drop()
        return True

    def _totals(self) -> Counters:
        """The counters since the directories were made."""
        user, system = self.cpuacct.split()
        self._last = Counters(
            cpu_usage=self.cpuacct.seconds(),
            cpu_user=user,
            cpu_system=system,
            throttled_time=self.cpu.throttled(),
            memory_peak=None,
            oom_kills=self.memory.kills(),
            oom_at_own_limit=0,
            oom_at_jail_limit=0,
            pids_refused=self.pids.refused(),
            pids_peak=None,
        )
        return self._last


_ZERO = Counters(
    cpu_usage=0.0,
    cpu_user=0.0,
    cpu_system=0.0,
    throttled_time=0.0,
    memory_peak=None,
    oom_kills=0,
    oom_at_own_limit=0,
    oom_at_jail_limit=0,
    pids_refused=0,
    pids_peak=None,
)
