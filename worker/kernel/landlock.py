"""Landlock (Linux 5.13), as far as it is not `native/landlock.c`: what this kernel knows of it, and
what a policy's words mean."""

from __future__ import annotations

import errno

from .call import syscall

_CREATE_RULESET_VERSION = 1

_EXECUTE, _READ_FILE, _READ_DIR = 1, 4, 8
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_KNOWN_TO_ABI_3 = (1 << 15) - 1

# Rights for each word of a policy; devices' ioctls, which came with ABI 5, are in none.
MEANING = {
    "read": _READ_FILE | _READ_DIR,
    "execute": _READ_FILE | _READ_DIR | _EXECUTE,
    "write": _KNOWN_TO_ABI_3 & ~(_MAKE_CHAR | _MAKE_BLOCK | _EXECUTE),
}


def abi() -> int:
    """The kernel's Landlock ABI, 0 where it has none or has it switched off."""
    try:
        return syscall("landlock_create_ruleset", 0, 0, _CREATE_RULESET_VERSION)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return 0
        raise
