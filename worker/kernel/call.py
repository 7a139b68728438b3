"""The only caller of the C library: raw system calls, errors as OSError."""

from __future__ import annotations

import os

from ._ffi import ffi

_libc = ffi.dlopen(None)

NULL = 0
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

# Calls added since Linux 5.0 have one number on every architecture; only the old ones differ.
_OLD = {
    "x86_64": {
        "umount2": 166,
        "unshare": 272,
    },
    "aarch64": {
        "umount2": 39,
        "unshare": 97,
    },
}
_NEW = {
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
}
NUMBERS: dict[str, int] = {**_NEW, **_OLD.get(os.uname().machine, {})}


def address(data: object) -> int:
    """The address of a cffi object or a bytes-like object's memory. The caller keeps it alive."""
    if isinstance(data, ffi.CData):
        return int(ffi.cast("uintptr_t", data))
    return int(ffi.cast("uintptr_t", ffi.from_buffer(data)))


def syscall(name: str, *args: int) -> int:
    """Make one system call by name; strings are passed as the address of NUL-ended bytes.

    Raises:
        OSError: with the kernel's errno and the call's name as `filename`.
    """
    a, b, c, d, e, f = (*args, 0, 0, 0, 0, 0, 0)[:6]
    result = int(_libc.syscall(NUMBERS[name], a, b, c, d, e, f))
    if result < 0:
        number = ffi.errno
        raise OSError(number, os.strerror(number), name)
    return result
