"""What the probes have in common: system calls by number, answers by name.

A probe is a plain function of the standard library alone: it travels into a jail by value, and runs
outside unchanged, as its own control.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable

DONE = "done"


def name_of(number: int) -> str:
    """The name of an errno; of two names the one that policies use."""
    if number == errno.EOPNOTSUPP:
        return "EOPNOTSUPP"
    return errno.errorcode.get(number, str(number))


def attempt(action: Callable[..., object], *arguments: object) -> str:
    """ "done", or the name of the errno that `action` met."""
    try:
        action(*arguments)
    except OSError as error:
        return name_of(error.errno or 0)
    return DONE


def value_of(number: int, *arguments: int | bytes) -> int:
    """What a system call returns; -errno where it fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    wide = [each if isinstance(each, bytes) else ctypes.c_long(each) for each in arguments]
    ctypes.set_errno(0)
    result: int = libc.syscall(ctypes.c_long(number), *wide)
    return -ctypes.get_errno() if result == -1 and ctypes.get_errno() else result


def system_call(number: int, *arguments: int | bytes) -> str:
    """ "done", or the name of the errno of a system call."""
    value = value_of(number, *arguments)
    return DONE if value >= 0 else name_of(-value)


def each_of(calls: list[tuple[int, tuple[int | bytes, ...]]]) -> list[str]:
    """The answers to several system calls, in order."""
    return [system_call(number, *arguments) for number, arguments in calls]


def address(buffer: object) -> int:
    """Where a ctypes object lies."""
    return ctypes.addressof(buffer)  # type: ignore[arg-type]


def machine_code(code: bytes) -> Callable[[], int]:
    """Instructions as a function. By way of a memfd, because a file mapped for execution is
    nothing that MDWE forbids."""
    area = os.memfd_create("code")
    os.write(area, code)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    place = libc.mmap(
        None, ctypes.c_size_t(4096), mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, area, 0
    )
    if place in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap")
    return ctypes.CFUNCTYPE(ctypes.c_long)(place)


def in_child(action: Callable[..., object], *arguments: object) -> int:
    """Run `action` in a forked child: its exit status, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            action(*arguments)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
