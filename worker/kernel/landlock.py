"""Landlock (Linux 5.13): what a process may do with files, TCP ports and signals, by its own wish.

A second line behind the mounts: it also covers what a read-only bind lets through (writing to a
FIFO, devices' ioctls), signals to init, and abstract sockets. It does not cover prlimit, sched_*
or setpriority of other processes: the last seccomp filter does.
"""

from __future__ import annotations

import errno
import os

from ._ffi import ffi
from .call import address, syscall

_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

# Rights on files known to each ABI: 1 (5.13), 2 adds REFER, 3 TRUNCATE (6.2), 5 IOCTL_DEV (6.10).
_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}
_LATEST_FS_BITS = 16
_NET_RIGHTS = 3  # bind and connect of TCP, ABI 4 (6.7)
_SCOPES = 3  # abstract unix sockets and signals, ABI 6 (6.12)

_READ = _READ_FILE | _READ_DIR
_MEANING = {
    "read": _READ,
    "execute": _READ | _EXECUTE,
    # everything but making devices and device ioctls
    "write": ((1 << 15) - 1) & ~(1 << 6 | 1 << 11 | _EXECUTE),
}


def abi() -> int:
    """The kernel's Landlock ABI, 0 where it has none or has it switched off."""
    try:
        return syscall("landlock_create_ruleset", 0, 0, _CREATE_RULESET_VERSION)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return 0
        raise


def ruleset(level: int, rules: list[tuple[str, str]]) -> int:
    """A ruleset that handles every right of ABI `level` and allows only `rules`, (path, meaning)
    with meaning read, write or execute. Returns its descriptor."""
    handled = (1 << _FS_BITS.get(level, _LATEST_FS_BITS)) - 1
    attr = ffi.new("struct landlock_ruleset_attr *")
    attr.handled_access_fs = handled
    attr.handled_access_net = _NET_RIGHTS if level >= 4 else 0
    attr.scoped = _SCOPES if level >= 6 else 0
    size = 24 if level >= 6 else 16 if level >= 4 else 8
    descriptor = syscall("landlock_create_ruleset", address(attr), size, 0)
    for path, meaning in rules:
        _allow(descriptor, path, _MEANING[meaning] & handled)
    return descriptor


def _allow(rules: int, path: str, rights: int) -> None:
    beneath = ffi.new("struct landlock_path_beneath_attr *")
    beneath.parent_fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        is_directory = os.fstat(beneath.parent_fd).st_mode & 0o170000 == 0o040000
        beneath.allowed_access = rights if is_directory else rights & _FILE_RIGHTS
        syscall("landlock_add_rule", rules, _RULE_PATH_BENEATH, address(beneath), 0)
    finally:
        os.close(beneath.parent_fd)


def restrict(rules: int) -> None:
    """Enter a domain of one's own under `rules`. Irrevocable; needs no_new_privs."""
    syscall("landlock_restrict_self", rules, 0)
