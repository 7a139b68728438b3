"""The control files of cgroup v1, one class per controller (Documentation/admin-guide/cgroup-v1).

Each class is one group's view of one controller: its limits (written only when they change, read
back when written) and its counters. Controllers may share a directory ("cpu,cpuacct").
"""

from __future__ import annotations

import errno
import os

from .._errors import SetupError
from ._files import Folder, field, number
from ._types import CPU_PERIOD, NOISE

_TICK = os.sysconf("SC_CLK_TCK")

# A value no limit has: the file's content is not known.
_UNKNOWN = -2


class Memory:
    """memory.*: bytes and the OOM killer. With swap accounting (memory.memsw.*) the sum of memory
    and swap is capped too; for closed swap both caps are the same."""

    def __init__(self, folder: Folder, swap_counted: bool) -> None:
        self._folder = folder
        self._swap_counted = swap_counted
        self._set: tuple[int | None, int] = (None, 0)
        self._event: int | None = None

    def limit(self, memory: int | None, swap: int) -> None:
        if (memory, swap) == self._set:
            return
        total = None if memory is None else memory + swap
        writes = [("memory.limit_in_bytes", memory)]
        if self._swap_counted:
            writes.append(("memory.memsw.limit_in_bytes", total))
            # The kernel refuses a moment in which memory is above memory and swap together.
            before = None if self._set[0] is None else sum(filter(None, self._set))
            if before is not None and (total is None or total > before):
                writes.reverse()
        for name, value in writes:
            self._folder.limit(name, value, unlimited="-1")
        self._set = (memory, swap)

    def close_swap(self) -> None:
        """Also under pressure from outside the group, which the caps don't see: nothing of this
        group goes to swap. Groups made below inherit it."""
        self._folder.limit("memory.swappiness", 0)

    def watch_oom(self) -> int:
        """An eventfd that the kernel writes to when this group, or one above it, is out of
        memory (cgroup.event_control; absent from PREEMPT_RT kernels)."""
        if self._event is None:
            self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            control = self._folder.keep("memory.oom_control")
            self._folder.write("cgroup.event_control", f"{self._event} {control}")
        return self._event

    def shown(self) -> tuple[int | None, int | None]:
        """(memory, swap) caps as the kernel shows them."""
        memory = number(self._folder.read_kept("memory.limit_in_bytes"))
        if not self._swap_counted:
            return memory, 0
        total = number(self._folder.read_kept("memory.memsw.limit_in_bytes"))
        return memory, None if total is None or memory is None else total - memory

    def usage(self) -> int:
        return int(self._folder.read_kept("memory.usage_in_bytes"))

    def shmem(self, below: bool) -> int:
        """Bytes of tmpfs and shared memory; with those of the groups below, dead ones included."""
        return field(self._folder.read("memory.stat"), "total_shmem" if below else "shmem")

    def peak(self) -> int:
        self._folder.keep("memory.max_usage_in_bytes", os.O_RDWR)
        return int(self._folder.read_kept("memory.max_usage_in_bytes"))

    def kills(self) -> int:
        return field(self._folder.read_kept("memory.oom_control"), "oom_kill")

    def full(self, peak: int) -> bool:
        """Whether the charge, `peak` since `restart`, came up to the cap. (The failure counters do
        not tell: since 6.15 memory.memsw.failcnt stays 0, and with swap closed it is that cap
        which is hit first.)"""
        cap = self._set[0]
        return cap is not None and peak >= cap - NOISE

    def restart(self) -> None:
        """Forget the last call's peak and notification."""
        os.pwrite(self._folder.keep("memory.max_usage_in_bytes", os.O_RDWR), b"0", 0)
        if self._event is not None:
            try:
                os.eventfd_read(self._event)
            except BlockingIOError:
                pass

    def drop(self) -> None:
        """The directory is gone or going."""
        if self._event is not None:
            os.close(self._event)
        self._event, self._set = None, (None, 0)


class Pids:
    """pids.*: tasks at once."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._set: int | None = None
        self._counts_peak = folder.has("pids.peak")

    def limit(self, processes: int | None) -> None:
        if processes != self._set:
            self._folder.limit("pids.max", processes)
            self._set = processes

    def forget(self) -> None:
        """Somebody else wrote pids.max (see `Killing`)."""
        self._set = _UNKNOWN

    def shown(self) -> int | None:
        return number(self._folder.read_kept("pids.max"))

    def current(self) -> int:
        return int(self._folder.read_kept("pids.current"))

    def refused(self) -> int:
        return field(self._folder.read_kept("pids.events"), "max")

    def peak(self) -> int | None:
        """Highest number of tasks since the group was made (6.1 and later; cannot be reset)."""
        return int(self._folder.read_kept("pids.peak")) if self._counts_peak else None

    def drop(self) -> None:
        self._set = None


class Cpu:
    """cpu.cfs_*: bandwidth. v1 refuses a quota above that of a group further up."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._set: int | None = None

    def limit(self, quota: int | None) -> None:
        if quota == self._set:
            return
        try:
            self._folder.limit("cpu.cfs_period_us", CPU_PERIOD)
            self._folder.limit("cpu.cfs_quota_us", quota, unlimited="-1")
        except SetupError as error:
            if error.errno != errno.EINVAL:
                raise
            detail = f"{error.detail}; a group further up allows less CPU time than that"
            raise SetupError(error.step, error.errno, detail) from error
        self._set = quota

    def shown(self) -> float | None:
        quota = number(self._folder.read_kept("cpu.cfs_quota_us"))
        return None if quota is None else quota / int(self._folder.read_kept("cpu.cfs_period_us"))

    def throttled(self) -> float:
        """Seconds since the group was made; 0 without a quota."""
        if self._set is None:
            return 0.0
        return field(self._folder.read_kept("cpu.stat"), "throttled_time") / 1e9

    def drop(self) -> None:
        self._set = None


class Cpuacct:
    """cpuacct.*: CPU time, dead tasks included, since the group was made."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def seconds(self) -> float:
        return int(self._folder.read_kept("cpuacct.usage")) / 1e9

    def split(self) -> tuple[float, float]:
        """(user, system) seconds, in clock ticks."""
        text = self._folder.read_kept("cpuacct.stat")
        return field(text, "user") / _TICK, field(text, "system") / _TICK
