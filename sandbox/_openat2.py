"""openat2(2), Linux 5.6: opens what lies below a folder, and nothing that a guest has put in the
way. For trees that a guest has written to, read with the host's rights."""

from __future__ import annotations

import os

from ._ffi import ffi

_NUMBER = 437  # one on every architecture
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x01, 0x02, 0x04, 0x08

_libc = ffi.dlopen(None)


def open_beneath(directory: int, path: bytes, flags: int) -> int:
    """A descriptor of `path` below the `directory` descriptor: no symbolic link on the way, no
    mount, no "..", no magic link; and none at its end. Nothing is created.

    Raises:
        OSError: ELOOP for a link, EXDEV for what leads out, and those of open(2).
    """
    how = ffi.new("struct open_how *")
    how.flags = flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY
    how.resolve = _NO_XDEV | _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH
    name = ffi.new("char[]", path)
    found = int(
        _libc.syscall(
            _NUMBER,
            directory,
            int(ffi.cast("uintptr_t", name)),
            int(ffi.cast("uintptr_t", how)),
            ffi.sizeof("struct open_how"),
            0,
            0,
        )
    )
    if found < 0:
        raise OSError(ffi.errno, os.strerror(ffi.errno), os.fsdecode(path))
    return found
