"""Empty all five capability sets and lock the securebits (capabilities(7))."""

from __future__ import annotations

import errno

from ._ffi import ffi
from .call import address, prctl, syscall

_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP = 24
_PR_SET_SECUREBITS = 28
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

# NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE set and locked, KEEP_CAPS clear and locked.
_SECUREBITS = 0b11_10_11_11


def drop_all() -> None:
    """Run by init while it still has every capability over its own user namespace: the bounding
    set and the securebits need CAP_SETPCAP, so the other sets go last."""
    prctl(_PR_SET_SECUREBITS, _SECUREBITS)
    _drop_bounding_set()
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = ffi.new("struct cap_header *", {"version": _VERSION_3, "pid": 0})
    data = ffi.new("struct cap_data[2]")
    syscall("capset", address(header), address(data))


def _drop_bounding_set() -> None:
    # The kernel ends the list with EINVAL: no need to know how many capabilities it has. Each call
    # copies the credentials; together they are the largest part of dropping all.
    try:
        for capability in range(64):
            prctl(_PR_CAPBSET_DROP, capability)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
