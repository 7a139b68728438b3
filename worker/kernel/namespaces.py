"""Namespaces, and the id maps that have to be written after a user namespace was made."""

from __future__ import annotations

import os

from .call import syscall

NEWTIME = 0x80
NEWNS = 0x20000
NEWCGROUP = 0x2000000
NEWUTS = 0x4000000
NEWIPC = 0x8000000
NEWUSER = 0x10000000
NEWPID = 0x20000000
NEWNET = 0x40000000


def unshare(flags: int) -> None:
    """unshare(2)."""
    syscall("unshare", flags)


def write_id_maps(pid: int | str, inside: tuple[int, int], outside: tuple[int, int]) -> None:
    """Map one (uid, gid) of the caller's namespace into the user namespace of `pid`.

    setgroups is denied first: without CAP_SETGID the kernel demands it (CVE-2014-8989), and with
    it nobody inside should be able to drop a group that denies access.
    """
    _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/uid_map", f"{inside[0]} {outside[0]} 1")
    _write(f"/proc/{pid}/gid_map", f"{inside[1]} {outside[1]} 1")


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
