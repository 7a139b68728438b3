"""Load a given filter (seccomp(2)). Knows nothing of policies; libseccomp is not loaded here."""

from __future__ import annotations

from ._ffi import ffi
from .call import address, syscall

_SET_MODE_FILTER = 1
_NEW_LISTENER = 1 << 3
_INSTRUCTION_BYTES = 8


def load(program: bytes, *, listener: bool = False) -> int:
    """Install `program` (an array of struct sock_filter). With `listener` (Linux 5.0) the answer
    is the descriptor that receives RET_USER_NOTIF calls; one a chain (EBUSY for a second)."""
    instructions = ffi.from_buffer(program)
    fprog = ffi.new("struct sock_fprog *")
    fprog.len = len(program) // _INSTRUCTION_BYTES
    fprog.filter = ffi.cast("void *", instructions)
    flags = _NEW_LISTENER if listener else 0
    return syscall("seccomp", _SET_MODE_FILTER, flags, address(fprog))
