"""Mounts by file descriptor (Linux 5.2, mount_setattr 5.12): no path a guest could prepare is ever
looked up, and a folder below one that the jail's user cannot enter can still be shown to it."""

from __future__ import annotations

import os

from ._ffi import ffi
from .call import AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE, address, syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

RDONLY = 0x1
NOSUID = 0x2
NODEV = 0x4
NOEXEC = 0x8
PRIVATE = 1 << 18
SLAVE = 1 << 19

_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 4
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_MNT_DETACH = 2


def clone_tree(directory: int, path: str, *, recursive: bool = True) -> int:
    """A detached copy of the mounts at `path` (open_tree with OPEN_TREE_CLONE).

    The source must be attached in the caller's own mount namespace (before Linux 6.15, EINVAL
    otherwise).
    """
    name = os.fsencode(path) + b"\0"
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    flags |= AT_RECURSIVE if recursive else 0
    flags |= 0 if path else AT_EMPTY_PATH
    return _named(path, "open_tree", directory, address(ffi.from_buffer(name)), flags)


def attach(tree: int, directory: int, path: str) -> None:
    """Put a detached mount at `path` below the `directory` descriptor (AT_FDCWD: by path)."""
    empty, name = b"\0", os.fsencode(path) + b"\0"
    source, target = ffi.from_buffer(empty), ffi.from_buffer(name)
    flags = _MOVE_MOUNT_F_EMPTY_PATH
    _named(path, "move_mount", tree, address(source), directory, address(target), flags)


def set_attributes(mount: int, attributes: int, *, propagation: int = 0) -> None:
    """Set attributes on a mount and all below it; nothing is ever cleared."""
    attr = ffi.new("struct mount_attr *")
    attr.attr_set = attributes
    attr.propagation = propagation
    empty = ffi.from_buffer(b"\0")
    flags = AT_EMPTY_PATH | AT_RECURSIVE
    size = ffi.sizeof("struct mount_attr")
    syscall("mount_setattr", mount, address(empty), flags, address(attr), size)


def set_propagation(path: str, propagation: int) -> None:
    """Make the mounts at `path` and below private, or slaves of the host's."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        set_attributes(descriptor, 0, propagation=propagation)
    finally:
        os.close(descriptor)


def new_filesystem(kind: str, options: Mapping[str, str | None], attributes: int) -> int:
    """A detached new file system (fsopen, fsconfig, fsmount); an option of None is a flag."""
    name = _c(kind)
    context = _named(kind, "fsopen", address(name), _FSOPEN_CLOEXEC)
    try:
        for key, value in options.items():
            if value is None:
                _config(context, _FSCONFIG_SET_FLAG, key, 0)
            else:
                text = _c(value)
                _config(context, _FSCONFIG_SET_STRING, key, address(text))
        syscall("fsconfig", context, _FSCONFIG_CMD_CREATE)
        return _named(kind, "fsmount", context, _FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)


def _config(context: int, command: int, key: str, value: int) -> None:
    name = _c(key)
    _named(key, "fsconfig", context, command, address(name), value, 0)


def pivot_into(root: int) -> None:
    """Make the mount `root` the root directory and detach everything else.

    pivot_root(".", ".") stacks the old root on the new one: no folder for it has to exist. umount2
    follows mounts down from "." to the topmost one: nothing may be stacked on the old root, or that
    is what goes, and the old root stays (the host's look at mountinfo would show it).
    """
    dot = ffi.from_buffer(b".\0")
    old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(root)
        syscall("pivot_root", address(dot), address(dot))
        os.fchdir(old)
        syscall("umount2", address(dot), _MNT_DETACH)
    finally:
        os.close(old)
    os.chdir("/")


def detach(directory: int, path: str) -> None:
    """Unmount lazily what is mounted at `path` below `directory`."""
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(directory)
        name = ffi.from_buffer(os.fsencode(path) + b"\0")
        syscall("umount2", address(name), _MNT_DETACH)
    finally:
        os.fchdir(here)
        os.close(here)


def _c(text: str) -> object:
    return ffi.new("char[]", os.fsencode(text))


def _named(path: str, name: str, *args: int) -> int:
    try:
        return syscall(name, *args)
    except OSError as error:
        error.filename = f"{name} {path}"
        raise


__all__ = [
    "AT_FDCWD",
    "NODEV",
    "NOEXEC",
    "NOSUID",
    "PRIVATE",
    "RDONLY",
    "SLAVE",
    "attach",
    "clone_tree",
    "detach",
    "new_filesystem",
    "pivot_into",
    "set_attributes",
    "set_propagation",
]
