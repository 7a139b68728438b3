"""A program's files, placed below /work: all of them or none. Runs in the confined worker with the
guest's rights, before guest code.

No other process of the jail lives now: what was looked at stays as it is. But an earlier call may
have left anything in the way.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat

from . import confine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_WORK = b"/work"
_PIECE = 1 << 20
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_OLD = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Unstarted(Exception):
    """Why there is no program: what failed, the kernel's answer, and at which path."""

    def __init__(self, step: str, number: int, path: bytes) -> None:
        self.step = step
        self.number = number
        self.path = path


class _File:
    """One file, and what it replaces.

    Attributes:
        target: where it belongs.
        now: where it is.
        aside: where what it replaces lies; empty if there is nothing, or no more.
        kept: a descriptor of that, or the text of a link, when `aside` is gone.
    """

    __slots__ = ("aside", "kept", "now", "target")

    def __init__(self, target: bytes, now: bytes) -> None:
        self.target = target
        self.now = now
        self.aside = b""
        self.kept: int | bytes | None = None


class Placing:
    """Places files, and takes all of it back. Each method raises `Unstarted`."""

    def __init__(self) -> None:
        self._files: list[_File] = []
        self._made: list[bytes] = []
        self._folders = {_WORK}
        # Names in the guest's folders that neither a guest nor a caller can have foreseen.
        self._mark = b"/." + os.urandom(16).hex().encode()

    def place(self, files: list[tuple[bytes, int, int]]) -> None:
        """Name, mode and size each, in the order in which their bytes lie in the memory from the
        host; an empty folder has a folder's mode. All are written beside their places first: most
        of what can fail fails before anything is replaced."""
        path = _WORK
        try:
            content = _content(sum(size for _, _, size in files))
            for path, mode, size in files:
                self._add(path, mode, content[:size])
                content = content[size:]
            for file in self._files:
                path = _name(file)
                self._swap(file)
        except OSError as error:
            raise Unstarted("files", error.errno or 0, path) from None

    def let_go(self) -> None:
        """Remove what was replaced, since the program must not find it; a folder there is an error.
        Until exec, which closes descriptors, it can still be written anew: as many files as there
        can be descriptors."""
        for file in self._files:
            if file.aside:
                file.kept = _keep(file.aside)
                try:
                    os.unlink(file.aside)
                except OSError as error:
                    raise Unstarted("files", error.errno or 0, _name(file)) from None
                file.aside = b""

    def take_back(self) -> None:
        """As if nothing had been placed."""
        os.close(confine.STORE)  # a free number, should kept files have taken all others
        for file in self._files:
            _try(os.unlink, file.now)
        for file in self._files:
            if file.aside:
                _try(os.rename, file.aside, file.target)
            elif file.kept is not None:
                _try(_write_anew, file.target, file.kept)
        for folder in reversed(self._made):
            _try(os.rmdir, folder)

    def _add(self, name: bytes, mode: int, content: memoryview) -> None:
        target = _WORK + b"/" + name
        if stat.S_ISDIR(mode):
            self._make(target)
            return
        folder = target[: target.rindex(b"/")]
        self._make(folder)
        file = _File(target, folder + b"%s.%d" % (self._mark, len(self._files)))
        self._files.append(file)
        _write(file.now, mode, content)

    def _make(self, folder: bytes) -> None:
        """It and those above it, where they are missing; no link is followed."""
        if folder in self._folders:
            return
        here = _WORK
        for part in folder[len(_WORK) + 1 :].split(b"/"):
            here += b"/" + part
            if here in self._folders:
                continue
            try:
                os.mkdir(here, 0o755)
                self._made.append(here)
            except FileExistsError:
                if not stat.S_ISDIR(os.lstat(here).st_mode):
                    raise OSError(errno.ENOTDIR, "") from None
            self._folders.add(here)

    def _swap(self, file: _File) -> None:
        aside = file.now + b".old"
        try:
            os.rename(file.target, aside)
            file.aside = aside
        except FileNotFoundError:
            pass
        os.rename(file.now, file.target)
        file.now = file.target


def _name(file: _File) -> bytes:
    return file.target[len(_WORK) + 1 :]


def _content(size: int) -> memoryview:
    """The bytes of all files, mapped: no copy of them in this process. Private, since a shared
    mapping of a memfd sealed against writing is EPERM before Linux 6.7."""
    if not size:
        return memoryview(b"")
    area = mmap.mmap(confine.STORE, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    return memoryview(area)


def _write(path: bytes, mode: int, content: memoryview) -> None:
    file = os.open(path, _NEW, mode)
    try:
        while content:
            content = content[os.write(file, content) :]
    finally:
        os.close(file)


def _keep(path: bytes) -> int | bytes | None:
    """None if it can be neither read nor, for want of descriptors, kept."""
    for way in (os.O_RDWR, os.O_RDONLY):
        try:
            return os.open(path, way | _OLD)
        except OSError:
            pass
    try:
        return os.readlink(path)
    except OSError:
        return None


def _write_anew(path: bytes, kept: int | bytes) -> None:
    """Closes `kept`."""
    if isinstance(kept, bytes):
        os.symlink(kept, path)
        return
    old = os.fstat(kept)
    if not stat.S_ISREG(old.st_mode):
        return
    file = os.open(path, _NEW, 0o600)
    try:
        _move(kept, file, old.st_size, cut=not old.st_nlink)
        os.fchmod(file, old.st_mode & 0o777)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(file)
        os.close(kept)


def _move(source: int, target: int, end: int, *, cut: bool) -> None:
    """From the end, so that what is copied can be cut off there: there may not be room for both. A
    file that has other names is not cut, nor can one be that may not be written."""
    while end:
        start = max(0, end - _PIECE)
        piece = os.pread(source, end - start, start)
        if cut:
            _try(os.ftruncate, source, start)
        if os.pwrite(target, piece, start) < len(piece):
            raise OSError(errno.ENOSPC, "")
        end = start


def _try(step: Callable[..., Any], *arguments: Any) -> None:
    try:
        step(*arguments)
    except OSError:
        pass
