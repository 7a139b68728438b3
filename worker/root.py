"""Templates of roots: built once by the launcher for each set of mounts, copied for each jail.

Runs with the launcher's rights and reads only what the host asked for; no guest has ever run in
the mount namespace where this happens.
"""

from __future__ import annotations

import errno
import os

from .kernel import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_SMALL = {"mode": "0755", "size": "67108864", "nr_inodes": "65536"}


class Templates:
    """The roots this launcher has built. The files of each are in a tmpfs of its own: a jail's copy
    is one of the mounts alone, and its files have to last until the last of these is gone.

    All are attached below one more tmpfs, over /sys in the launcher's own mount namespace: an
    overlay's lowers, and whatever is cloned, have to be attached somewhere; /sys is there
    everywhere and of no use here.
    (Not on "/" itself: to the kernel that is a chroot, in which CLONE_NEWUSER is EPERM.)
    """

    def __init__(self) -> None:
        self._stage = mounts.new_filesystem("tmpfs", _SMALL, mounts.NOSUID | mounts.NODEV)
        mounts.attach(self._stage, mounts.AT_FDCWD, "/sys")
        self._built: dict[str, tuple[str, int]] = {}
        self._count = 0

    def show(self, packages: list[tuple[str, str]]) -> None:
        """Show host files and folders below /sys to the launcher itself, for what it preloads."""
        for source, target in packages:
            inner = target.removeprefix("/sys/")
            self._make_mount_point(inner, os.path.isdir(source))
            _bind(self._stage, source, inner, ["ro", "nosuid", "nodev"])

    def _make_mount_point(self, path: str, is_folder: bool) -> None:
        parts = path.split("/")
        for end in range(1, len(parts) + is_folder):
            try:
                os.mkdir("/".join(parts[:end]), 0o755, dir_fd=self._stage)
            except FileExistsError:
                continue
        if not is_folder:
            _write(self._stage, path, b"")

    def copy(self, key: str, spec: dict[str, Any]) -> int:
        """A detached copy of the root that `spec` describes, for one jail to attach."""
        if key not in self._built:
            self._built[key] = self._build(spec)
        return mounts.clone_tree(self._built[key][1], "")

    def _build(self, spec: dict[str, Any]) -> tuple[str, int]:
        self._count += 1
        name = str(self._count)
        os.mkdir(name, 0o755, dir_fd=self._stage)
        files = mounts.new_filesystem("tmpfs", _SMALL, mounts.NOSUID | mounts.NODEV)
        mounts.attach(files, self._stage, name)
        overlay = -1
        try:
            _fill(files, spec)
            overlay = _overlay(files)
            for source, target, attributes in spec["binds"]:
                _bind(overlay, source, target, attributes, spec["identities"].get(target))
        except OSError:
            self._discard(name, overlay)
            raise
        finally:
            os.close(files)
        return name, overlay

    def drop(self, key: str) -> None:
        """Take a template apart; jails made from it live on."""
        if key in self._built:
            self._discard(*self._built.pop(key))

    def _discard(self, name: str, overlay: int) -> None:
        if overlay >= 0:
            os.close(overlay)
        mounts.detach(self._stage, name)  # with all below; gone when no jail has a copy any more
        os.rmdir(name, dir_fd=self._stage)


def _fill(files: int, spec: dict[str, Any]) -> None:
    for folder in ("image", "empty", "root"):
        os.mkdir(folder, 0o755, dir_fd=files)
    image = os.open("image", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=files)
    try:
        for path in spec["directories"]:
            os.mkdir(path, 0o755, dir_fd=image)
        for path, target in spec["links"]:
            os.symlink(target, path, dir_fd=image)
        for path, content in spec["files"]:
            _write(image, path, content)
    finally:
        os.close(image)


def _overlay(files: int) -> int:
    """An overlay without an upper layer is read-only by nature; it needs two lowers at least
    (EINVAL otherwise)."""
    base = f"/proc/self/fd/{files}"
    options = {"lowerdir": f"{base}/empty:{base}/image"}
    attributes = mounts.RDONLY | mounts.NOSUID | mounts.NODEV
    overlay = mounts.new_filesystem("overlay", options, attributes)
    mounts.attach(overlay, files, "root")
    return overlay


def _write(directory: int, path: str, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o644, dir_fd=directory)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def _bind(
    overlay: int,
    source: str,
    target: str,
    attributes: list[str],
    identity: list[int] | None = None,
) -> None:
    """Show a host folder or file. A source "image:PATH" is a folder of the
    image itself: bound over another it hides what is there. With an `identity` (device, inode)
    nothing else is shown: the path may have been prepared since the host looked at it."""
    flags = 0
    for name in attributes:
        flags |= {"ro": mounts.RDONLY, "nosuid": mounts.NOSUID, "nodev": mounts.NODEV}[name]
    if source.startswith("image:"):
        tree = mounts.clone_tree(overlay, source.removeprefix("image:"), recursive=False)
    else:
        tree = mounts.clone_tree(mounts.AT_FDCWD, source)
    try:
        found = os.fstat(tree)
        if identity is not None and identity != [found.st_dev, found.st_ino]:
            raise OSError(errno.ESTALE, "", source)
        mounts.set_attributes(tree, flags, propagation=mounts.PRIVATE)
        mounts.attach(tree, overlay, target)
    finally:
        os.close(tree)
