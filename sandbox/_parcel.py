"""The files that go with a program, in one piece of memory. Runs with the caller's rights and reads
the caller's files; what the program finds of them is a copy."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING

from ._openat2 import open_beneath
from ._program import MOST_FILES, Content, checked_name

if TYPE_CHECKING:
    from ._models import Limits

_PIECE = 1 << 20
_PROGRAM_STARTS = (b"\x7fELF", b"#!")
# Not blocking: a FIFO may have come to the place of a file since it was looked at.
_READ_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class Parcel:
    """The files of a program in one memfd, in order, and a list of what is in it.

    Attributes:
        descriptor: read from the start by the worker, sealed.
        table: (name, mode, bytes) each; a folder's mode for one that is empty.

    Raises:
        TypeError, ValueError: a stream gives no bytes, a folder holds what is no file, or all take
            more than `Limits.disk`; nothing is left open.
        OSError: a file of the caller's cannot be read.
    """

    def __init__(self, files: Mapping[str, Content], limits: Limits) -> None:
        self._end = 0
        self._most = int(limits.disk)
        self.table: list[tuple[str, int, int]] = []
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        self.descriptor = os.memfd_create("files", flags)
        try:
            for name, content in files.items():
                self._add(name, content)
            seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)
        except BaseException:
            os.close(self.descriptor)
            raise

    def _add_folder(self, name: str, folder: str) -> None:
        """Its regular files and empty folders. What else is in there is an error: a link would lead
        to other files than it does on the host. It may itself be given by a link."""
        top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # By descriptor: a guest may be writing to that folder while it is read.
            for path, folders, files, here in os.fwalk(".", dir_fd=top, onerror=_raise):
                below = path.removeprefix(".")
                if not folders and not files:
                    self._list(checked_name("files", name + below), stat.S_IFDIR | 0o755, 0)
                for entry in sorted((*folders, *files)):
                    inner = checked_name("files", f"{name}{below}/{entry}")
                    self._add_entry(inner, f"{folder}{below}/{entry}", here, entry)
        finally:
            os.close(top)

    def _add_entry(self, name: str, source: str, here: int, entry: str) -> None:
        if stat.S_ISDIR(os.stat(entry, dir_fd=here, follow_symlinks=False).st_mode):
            return
        try:
            file = open_beneath(here, os.fsencode(entry), os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise ValueError(
                f"files[{name!r}]: {source!r} is not a regular file or folder ({error.strerror})"
            ) from None
        self._add_file(name, source, file)

    def _add_file(self, name: str, source: str, descriptor: int) -> None:
        """Closes `descriptor`."""
        with open(descriptor, "rb", buffering=0) as file:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise ValueError(f"files[{name!r}]: {source!r} is not a regular file or folder")
            self._enter(name, self._copy(name, file), executable=bool(mode & 0o100))

    def _add(self, name: str, content: Content) -> None:
        if isinstance(content, (bytes, bytearray, memoryview)):
            self._enter(name, self._write(name, memoryview(content)))
        elif not isinstance(content, (str, os.PathLike)):
            self._enter(name, self._copy(name, content))
        elif os.path.isdir(content):
            self._add_folder(name, os.fsdecode(content))
        else:
            source = os.fsdecode(content)
            self._add_file(name, source, os.open(source, _READ_FILE))

    def _enter(self, name: str, size: int, executable: bool | None = None) -> None:
        if executable is None:
            beginning = os.pread(self.descriptor, 4, self._end - size) if size else b""
            executable = beginning.startswith(_PROGRAM_STARTS)
        self._list(name, 0o755 if executable else 0o644, size)

    def _list(self, name: str, mode: int, size: int) -> None:
        if len(self.table) >= MOST_FILES:
            raise ValueError(f"files: with {name!r} they are more than {MOST_FILES}")
        self.table.append((name, mode, size))

    def _copy(self, name: str, source: IO[bytes]) -> int:
        size = 0
        while True:
            piece = source.read(_PIECE)
            if piece is None:
                raise ValueError(
                    f"files[{name!r}]: the stream is not blocking and has nothing yet; give one "
                    "that blocks, or bytes"
                )
            if not isinstance(piece, (bytes, bytearray)):
                raise TypeError(f"files[{name!r}]: the stream gave {type(piece).__name__}")
            if not piece:
                return size
            size += self._write(name, memoryview(piece))

    def _write(self, name: str, data: memoryview) -> int:
        self._end += data.nbytes
        if self._end > self._most:
            raise ValueError(f"files: with {name!r} they take more than Limits.disk, {self._most}")
        size = data.nbytes
        while data:
            data = data[os.write(self.descriptor, data) :]
        return size

    def hand_over(self) -> int:
        """The descriptor, from now on the caller's to close."""
        descriptor, self.descriptor = self.descriptor, -1
        return descriptor

    def close(self) -> None:
        """Give the memory back, unless it was handed over."""
        if self.descriptor >= 0:
            os.close(self.hand_over())


def _raise(error: OSError) -> None:
    raise error
