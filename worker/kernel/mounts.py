"""Mounts by file descriptor (Linux 5.2, mount_setattr 5.12): no path a guest could prepare is ever
looked up, and a folder below one that the jail's user cannot enter can still be shown to it."""

from __future__ import annotations

import os

from ._ffi import ffi
from .call import AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE, address, syscall
from .native import lib, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

RDONLY = 0x1
NOSUID = 0x2
NODEV = 0x4
NOEXEC = 0x8
PRIVATE = 1 << 18
SLAVE = 1 << 19

_MNT_DETACH = 2


def clone_tree(directory: int, path: str, *, recursive: bool = True) -> int:
    """A detached copy of the mounts at `path` (open_tree with OPEN_TREE_CLONE).

    The source must be attached in the caller's own mount namespace (before Linux 6.15, EINVAL
    otherwise).
    """
    return _checked(lib.clone_mount(directory, text(path), recursive))


def attach(tree: int, directory: int, path: str) -> None:
    """Put a detached mount at `path` below the `directory` descriptor (AT_FDCWD: by path)."""
    _checked(lib.attach_mount(tree, directory, text(path)))


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
    texts = [(_kept(key), _kept(value)) for key, value in options.items()]
    array = ffi.new("struct option[]", texts)  # points into `texts`
    return _checked(lib.new_filesystem(text(kind), array, len(texts), attributes))


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


def _kept(value: str | None) -> Any:
    return ffi.NULL if value is None else ffi.new("char[]", text(value))


def _checked(result: int) -> int:
    if result < 0:
        number = ffi.errno
        detail = ffi.string(lib.failed_detail).decode(errors="replace")
        raise OSError(number, os.strerror(number), detail)
    return result


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
    "set_attributes",
    "set_propagation",
]
