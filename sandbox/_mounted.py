"""Folders and files that callers mount: checked before anything is created, looked at anew for each
sandbox, and added to a copy of the plain root. The same ones again are the same root."""

from __future__ import annotations

import copy
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ._models import Mount
from ._root import READ_ONLY, SYSTEM, HostMount, RootPlan, check_readable, host_mounts, inside

_WRITABLE = ("nosuid", "nodev")
# Where a caller may not mount: the jail needs them, or they hold what it needs. What hides other
# packages is a copy of /empty.
_RESERVED = (
    *("/proc", "/dev", "/sys", "/tmp", "/work", "/etc", "/usr", "/empty"),
    *(f"/{name}" for name in SYSTEM),
)
_TELLS = "it tells of the whole machine"
_NODES = "it holds device nodes"
# Kinds of file system that are the machine's own, wherever they are mounted.
_MACHINE = {"proc": _TELLS, "sysfs": _TELLS, "devtmpfs": _NODES, "devpts": _NODES}

_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # NAME_MAX; PATH_MAX without its NUL


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
    there = host_mounts()
    below = tuple(
        found
        for found in there
        if any(inside(found.path, mount.source) for mount in shown if mount.is_folder)
    )
    for number, mount in enumerate(shown):
        _check_machine(mount, there)
        check_readable(mount.source)
        _check_place(mount, plain, shown[:number], below)
    return _planned(plain, shown, below)


@lru_cache(maxsize=32)
def _planned(plain: RootPlan, shown: tuple[Shown, ...], below: tuple[HostMount, ...]) -> RootPlan:
    """`below`, what the host has mounted there, is part of the root like the rest."""
    plan = copy.deepcopy(plain)
    for number, mount in enumerate(shown):
        target = mount.target.strip("/")
        if _holder(mount, shown[:number]) is None:
            plan.mount_point(target, is_folder=mount.is_folder)
        plan.identities[target] = mount.identity
        if mount.writable:
            plan.writable.append(mount.target)
        plan.binds.append((mount.source, target, _WRITABLE if mount.writable else READ_ONLY))
    return plan.finish(below)


# --- one mount by itself --------------------------------------------------------------------------


def _shown(mount: Mount) -> Shown:
    if not isinstance(mount.writable, bool):
        raise TypeError(f"Mount: writable: expected a bool, not {type(mount.writable).__name__}")
    source = os.path.abspath(_path("source", mount.source))
    target = _path("target", mount.target)
    _check_target(target)
    status = _status(source)
    return Shown(
        os.path.realpath(source),
        target,
        stat.S_ISDIR(status.st_mode),
        mount.writable,
        (status.st_dev, status.st_ino),
    )


def _path(name: str, value: str | os.PathLike[str]) -> str:
    """What a caller gave for `name`, as text. An empty source would be the current folder."""
    try:
        path = os.fspath(value)
    except TypeError:
        raise TypeError(f"Mount: {name}: expected a path, not {type(value).__name__}") from None
    if not isinstance(path, str):
        raise TypeError(f"Mount: {name}: source and target are str paths, not bytes")
    if not path:
        raise ValueError(f"Mount: {name} is empty")
    if "\0" in path:
        raise ValueError(f"Mount: {name} {path!r:.200} has a NUL in it")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(f"Mount: {name} {path!r:.200} is not UTF-8") from None
    return path


def _check_target(target: str) -> None:
    # normpath leaves two slashes in front alone.
    if (
        not target.startswith("/")
        or target.startswith("//")
        or os.path.normpath(target) != target
        or target == "/"
    ):
        raise ValueError(f"Mount: target {target!r:.200} is not a normalised absolute path below /")
    names = target.encode().split(b"/")
    if len(target.encode()) > _LONGEST_PATH or max(map(len, names)) > _LONGEST_NAME:
        raise ValueError(
            f"Mount: target {target!r:.200} is too long: a path has {_LONGEST_PATH} bytes at most, "
            f"each name in it {_LONGEST_NAME}"
        )
    if any(inside(target, reserved) for reserved in _RESERVED):
        raise _over(target)


def _over(target: str) -> ValueError:
    return ValueError(f"Mount: target {target!r} lies over a place the jail needs for itself")


def _status(source: str) -> os.stat_result:
    try:
        status = os.stat(source)
    except OSError as error:
        raise ValueError(f"Mount: source {source!r:.200}: {error.strerror}") from None
    if stat.S_IFMT(status.st_mode) not in (stat.S_IFDIR, stat.S_IFREG):
        raise ValueError(
            f"Mount: source {source!r} is neither a folder nor a regular file; sockets, FIFOs and "
            "devices reach past the jail even when mounted read-only"
        )
    if os.path.realpath(source) == "/":
        raise ValueError("Mount: the whole root cannot be shown; name the folder the guest needs")
    return status


def _check_machine(mount: Shown, there: Iterable[HostMount]) -> None:
    """Neither on a file system of the machine's own, nor above one: what is mounted below a folder
    is shown with it. By path, too: a container's /dev is a tmpfs."""
    if inside(mount.source, "/sys") or mount.source in ("/proc", "/dev"):
        reason = _NODES if mount.source == "/dev" else _TELLS
        raise ValueError(f"Mount: source {mount.source!r} cannot be shown; {reason}")
    for found in there:
        if found.kind not in _MACHINE:
            continue
        if found.device == mount.identity[0]:
            raise ValueError(
                f"Mount: source {mount.source!r} is on {found.kind} and cannot be shown; "
                f"{_MACHINE[found.kind]}"
            )
        if mount.is_folder and inside(found.path, mount.source):
            raise ValueError(
                f"Mount: source {mount.source!r} cannot be shown with {found.path!r} below it, "
                f"which is {found.kind}; {_MACHINE[found.kind]}"
            )


# --- one mount among the others -------------------------------------------------------------------


def _check_place(
    mount: Shown, plain: RootPlan, earlier: Sequence[Shown], below: Iterable[HostMount]
) -> None:
    """There is, or will be, a place to mount it at that neither the jail nor another one needs."""
    target = mount.target
    if any(inside(target, place) for place in plain.interpreter):
        raise _over(target)
    for _, covered, _ in plain.binds:
        if inside(f"/{covered}", target):
            raise ValueError(
                f"Mount: target {target!r} would cover /{covered}, which the jail needs"
            )
    for other in earlier:
        if inside(other.target, target):
            raise ValueError(
                f"Mount: target {target!r} would cover the mount at {other.target!r}; of two, one "
                "in the other, name the outer one first"
            )
    holder = _holder(mount, earlier)
    if holder is not None:
        _check_entry(mount, holder, below)


def _holder(mount: Shown, earlier: Sequence[Shown]) -> Shown | None:
    """The mount that `mount` is to lie in: the innermost one."""
    holders = [other for other in earlier if inside(mount.target, other.target)]
    return max(holders, key=lambda other: len(other.target), default=None)


def _check_entry(mount: Shown, holder: Shown, below: Iterable[HostMount]) -> None:
    """Nothing can be made in what another mount shows: there has to be an entry, and no link that
    would lead elsewhere."""
    entry = holder.source + mount.target.removeprefix(holder.target)
    wanted = "folder" if mount.is_folder else "regular file"
    is_there = os.path.isdir if mount.is_folder else os.path.isfile
    if os.path.realpath(entry) != entry or not is_there(entry):
        raise ValueError(
            f"Mount: target {mount.target!r} lies in the mount at {holder.target!r}, and "
            f"{entry!r} is not a {wanted} that it could be mounted over"
        )
    if any(inside(found.path, entry) for found in below):
        raise ValueError(
            f"Mount: target {mount.target!r} would cover what the host has mounted at {entry!r}"
        )
