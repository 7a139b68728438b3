"""Attempts on namespaces, user ids, capabilities, and on other processes."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import time

from tests.probes.raw import attempt, system_call, value_of

_SIGCHLD = 17
_PR_CAPBSET_READ, _PR_GET_SECUREBITS, _PR_GET_NO_NEW_PRIVS, _PR_GET_DUMPABLE = 23, 27, 39, 3


def clone_with(clone: int, flags: int) -> str:
    """A child with these flags, as fork makes one."""
    child = value_of(clone, flags | _SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    if child < 0:
        return attempt(_fail, -child)
    os.waitpid(child, 0)
    return "done"


def _fail(number: int) -> None:
    raise OSError(number, "")


def capabilities() -> dict[str, int]:
    """As the kernel tells the process itself."""
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return {name: int(text, 16) for name, text in lines.items() if name.startswith("Cap")}


def bounding_set(prctl: int) -> list[int]:
    """Capabilities that a program could still be given."""
    return [n for n in range(64) if value_of(prctl, _PR_CAPBSET_READ, n, 0, 0, 0) == 1]


def securebits(prctl: int) -> int:
    return value_of(prctl, _PR_GET_SECUREBITS, 0, 0, 0, 0)


def no_new_privileges(prctl: int) -> int:
    return value_of(prctl, _PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)


def dumpable(prctl: int) -> int:
    return value_of(prctl, _PR_GET_DUMPABLE, 0, 0, 0, 0)


def identity() -> tuple[tuple[int, int, int], tuple[int, int, int], int]:
    return os.getresuid(), os.getresgid(), os.getpid()


def change_to_root() -> list[str]:
    return [
        attempt(os.setuid, 0),
        attempt(os.setgid, 0),
        attempt(os.setreuid, 0, 0),
        attempt(os.setresuid, 0, 0, 0),
        attempt(os.setresgid, 0, 0, 0),
        attempt(os.setgroups, [0]),
    ]


def to_be_root() -> tuple[int, int]:
    return os.geteuid(), os.getegid()


def host_name() -> str:
    return socket.gethostname()


def uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def uptime_by_offsets() -> float:
    """The host's, from this process's clock and what it was set back by."""
    with open("/proc/self/timens_offsets") as file:
        offsets = {clock: float(seconds) for clock, seconds, _ in map(str.split, file)}
    return uptime() - offsets["boottime"]


def join_by_pidfd(setns: int, flags: int) -> str:
    """The namespaces of a process, by its pidfd: here one's own."""
    return system_call(setns, os.pidfd_open(os.getpid()), flags)


def signal_process(pid: int, number: int) -> str:
    return attempt(os.kill, pid, number)


def own_pid_of() -> int:
    return os.getpid()


def stop_oneself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def queue_signal(rt_sigqueueinfo: int, pid: int) -> str:
    """With information that claims to come from the kernel's timer."""
    info = (ctypes.c_int * 32)(signal.SIGINT, 0, -1)
    return system_call(rt_sigqueueinfo, pid, signal.SIGINT, ctypes.addressof(info))


def signal_by_pidfd(pid: int) -> str:
    def send() -> None:
        signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGINT)

    return attempt(send)


def own_child_traced(ptrace: int, attach: int) -> str:
    """PTRACE_ATTACH to a child."""
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    answer = system_call(ptrace, attach, child, 0, 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return answer


def read_memory(process_vm_readv: int, pid: int) -> str:
    """Eight bytes of another process (0: of this one), at an address that is mapped here."""
    source, target = ctypes.create_string_buffer(8), ctypes.create_string_buffer(8)
    theirs = (ctypes.c_void_p * 2)(ctypes.addressof(source), 8)
    ours = (ctypes.c_void_p * 2)(ctypes.addressof(target), 8)
    pointers = ctypes.addressof(ours), 1, ctypes.addressof(theirs), 1, 0
    return system_call(process_vm_readv, pid or os.getpid(), *pointers)


def take_descriptor(pidfd_getfd: int, pid: int) -> str:
    """Descriptor 0 of another process (0: of this one)."""
    return system_call(pidfd_getfd, os.pidfd_open(pid or os.getpid()), 0, 0)


def advise_memory(process_madvise: int, pid: int) -> str:
    """MADV_COLD on a page of another process (0: of this one)."""
    page = ctypes.create_string_buffer(8192)
    place = (ctypes.c_void_p * 2)((ctypes.addressof(page) + 4095) & ~4095, 4096)
    pidfd = os.pidfd_open(pid or os.getpid())
    return system_call(process_madvise, pidfd, ctypes.addressof(place), 1, 20, 0)


def compare(kcmp: int, pid: int) -> str:
    """Whether descriptors 0 are the same (KCMP_FILE)."""
    return system_call(kcmp, os.getpid(), pid or os.getpid(), 0, 0, 0)


def set_limit(pid: int) -> str:
    """RLIMIT_CORE of a process, to what it is."""
    return attempt(resource.prlimit, pid, resource.RLIMIT_CORE, (1, 1))


def set_affinity(pid: int) -> str:
    return attempt(os.sched_setaffinity, pid, os.sched_getaffinity(pid))


def set_scheduler(pid: int, kind: int, priority: int) -> str:
    return attempt(os.sched_setscheduler, pid, kind, os.sched_param(priority))


def set_priority(pid: int, value: int) -> str:
    return attempt(os.setpriority, os.PRIO_PROCESS, pid, value)
