"""Birth of a jail's init."""

from __future__ import annotations

import _signal as signal

from ._ffi import ffi
from .call import address, prctl, syscall

_PR_GET_MDWE = 66
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


def has_deny_writable_code() -> bool:
    """Whether this kernel has PR_SET_MDWE."""
    try:
        return prctl(_PR_GET_MDWE) >= 0
    except OSError:
        return False
