"""Folders and files that callers mount: checked before anything is created, looked at anew for each
sandbox, and added to a copy of the plain root. The same ones again are the same root."""

from __future__ import annotations

import copy
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from ._models import Mount
from ._root import READ_ONLY, SYSTEM, RootPlan, check_readable, host_mounts, inside

_WRITABLE = ("nosuid", "nodev")
# Where a caller may not mount: the jail needs them, or they hold what it needs.
_RESERVED = ("/proc", "/dev", "/sys", "/tmp", "/work", "/etc", "/usr", *(f"/{s}" for s in SYSTEM))


@dataclass(frozen=True)
class Shown:
    """A caller's mount as it was found: what is shown at `target`, and its (device, inode), which
    the launcher has to find too: the path may lead elsewhere by then."""

    source: str
    target: str
    is_folder: bool
    writable: bool
    identity: tuple[int, int]


def mounted_root(plain: RootPlan, mounts: Iterable[Mount]) -> RootPlan:
    """`plain` with the caller's `mounts`. Raises TypeError, ValueError."""
    shown = tuple(_shown(mount) for mount in mounts)
    below = tuple(
        found
        for found in host_mounts()
        if any(inside(found[1], mount.source) for mount in shown if mount.is_folder)
    )
    return _planned(plain, shown, below)


@lru_cache(maxsize=32)
def _planned(
    plain: RootPlan, shown: tuple[Shown, ...], below: tuple[tuple[int, str], ...]
) -> RootPlan:
    """`below`, what the host has mounted there, is part of the root like the rest."""
    plan = copy.deepcopy(plain)
    for mount in shown:
        _add(plan, mount)
    return plan.finish(below)


def _add(plan: RootPlan, mount: Shown) -> None:
    for _, covered, _ in plan.binds:
        if inside("/" + covered, mount.target):
            raise ValueError(
                f"Mount: target {mount.target!r} would cover /{covered}, which the jail needs"
            )
    target = mount.target.strip("/")
    plan.mount_point(target, is_folder=mount.is_folder)
    plan.identities[target] = mount.identity
    if mount.writable:
        plan.writable.append(mount.target)
    plan.binds.append((mount.source, target, _WRITABLE if mount.writable else READ_ONLY))


def _shown(mount: Mount) -> Shown:
    source, target = os.path.abspath(os.fspath(mount.source)), os.fspath(mount.target)
    if not isinstance(source, str) or not isinstance(target, str):
        raise TypeError("Mount: source and target are str paths, not bytes")
    if not target.startswith("/") or os.path.normpath(target) != target or target == "/":
        raise ValueError(f"Mount: target {target!r} is not a normalised absolute path below /")
    if any(inside(target, reserved) for reserved in _RESERVED):
        raise ValueError(f"Mount: target {target!r} lies over a place the jail needs for itself")
    status = _status(source)
    check_readable(source)
    return Shown(
        os.path.realpath(source),
        target,
        stat.S_ISDIR(status.st_mode),
        mount.writable,
        (status.st_dev, status.st_ino),
    )


def _status(source: str) -> os.stat_result:
    try:
        status = os.stat(source)
    except OSError as error:
        raise ValueError(f"Mount: source {source!r}: {error.strerror}") from None
    if stat.S_IFMT(status.st_mode) not in (stat.S_IFDIR, stat.S_IFREG):
        raise ValueError(
            f"Mount: source {source!r} is neither a folder nor a regular file; sockets, FIFOs and "
            "devices reach past the jail even when mounted read-only"
        )
    if inside(os.path.realpath(source), "/sys"):
        raise ValueError("Mount: nothing below /sys can be shown; it tells of the whole machine")
    if os.path.realpath(source) == "/":
        raise ValueError("Mount: the whole root cannot be shown; name the folder the guest needs")
    return status
