"""Birth of the jail's init, and the attributes of a process that prctl(2) and keyctl(2) hold."""

from __future__ import annotations

import _signal as signal

from ._ffi import ffi
from .call import address, prctl, syscall

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_MDWE = 65
_PR_GET_MDWE = 66
_MDWE_REFUSE_EXEC_GAIN = 1
_KEYCTL_JOIN_SESSION_KEYRING = 1
_CLONE_PIDFD = 0x1000

_args = ffi.new("struct clone_args *")
_pidfd = ffi.new("int *")


def clone(namespaces: int) -> tuple[int, int]:
    """clone3(2) of the calling process into fresh `namespaces`: (pid, pidfd), or (0, -1) in the
    child. Linux 5.3.

    Raw, past the C library's and Python's fork handlers: safe because the launcher has one thread,
    so that no lock can be held by another; glibc's cached thread id is stale in the child, which
    only the child's own fork (of the worker, an ordinary `os.fork`) sets right.
    """
    _args.flags = namespaces | _CLONE_PIDFD
    _args.pidfd = int(ffi.cast("uintptr_t", _pidfd))
    _args.exit_signal = signal.SIGCHLD
    pid = syscall("clone3", address(_args), ffi.sizeof("struct clone_args"))
    return (pid, _pidfd[0]) if pid else (0, -1)


def die_with_parent() -> None:
    """SIGKILL when the parent (the launcher) ends. setresuid clears it: call it after."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def set_dumpable(value: bool) -> None:
    """A process that is not dumpable cannot be traced, and its /proc files belong to root."""
    prctl(_PR_SET_DUMPABLE, int(value))


def no_new_privileges() -> None:
    """exec gives no more rights than there are. Without CAP_SYS_ADMIN, seccomp and Landlock ask
    for it."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def deny_writable_code() -> None:
    """PR_SET_MDWE: no mapping becomes executable after it was writable. Linux 6.3; irrevocable."""
    prctl(_PR_SET_MDWE, _MDWE_REFUSE_EXEC_GAIN)


def has_deny_writable_code() -> bool:
    """Whether this kernel has PR_SET_MDWE."""
    try:
        return prctl(_PR_GET_MDWE) >= 0
    except OSError:
        return False


def join_new_keyring() -> None:
    """An empty session keyring, so that the caller's keys are not possessed here."""
    syscall("keyctl", _KEYCTL_JOIN_SESSION_KEYRING)


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """Close every descriptor from `first` to `last`. Linux 5.9."""
    if first <= last:
        syscall("close_range", first, last, 0)
