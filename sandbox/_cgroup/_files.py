"""Control files: read, written, and read back, each failure with its path and errno."""

from __future__ import annotations

import os
from io import FileIO

from .._errors import SetupError
from ._types import PAGE

# PAGE_COUNTER_MAX of v1 in bytes, rounded to pages: "no limit".
_UNLIMITED = 1 << 62


def read_text(path: str) -> str:
    """The contents of a small file of /proc or cgroupfs."""
    with FileIO(path) as file:
        return file.readall().decode("utf-8", "surrogateescape")


def write_text(path: str, text: str) -> None:
    """One write(2) to a control file: the kernel takes each write as one command."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def number(text: str | bytes) -> int | None:
    """A limit as the kernel prints it; None for "max", -1 and v1's largest number."""
    text = text.strip()
    if text in ("max", b"max"):
        return None
    value = int(text)
    return None if value < 0 or value >= _UNLIMITED else value


def field(text: str | bytes, key: str) -> int:
    """The number behind `key` in a file of "key number" lines; 0 if the kernel has no such line."""
    for line in (text if isinstance(text, str) else text.decode()).splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


class Folder:
    """One group in one hierarchy: a directory whose hot files are kept open.

    cgroupfs makes its content up at each read, so that a kept descriptor and pread(2) replace
    open, read and close (1.4 instead of 9 microseconds).
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fds: dict[str, int] = {}

    def make(self) -> Folder:
        try:
            os.mkdir(self.path, 0o755)
        except OSError as error:
            raise SetupError("make_cgroup", error.errno or 0, self.path) from error
        return self

    def keep(self, name: str, flags: int = os.O_RDONLY) -> int:
        """A descriptor of one of this group's files, opened once."""
        fd = self._fds.get(name)
        if fd is None:
            try:
                fd = os.open(f"{self.path}/{name}", flags | os.O_CLOEXEC)
            except OSError as error:
                detail = f"{self.path}/{name}"
                raise SetupError("open_cgroup_file", error.errno or 0, detail) from error
            self._fds[name] = fd
        return fd

    def read_kept(self, name: str) -> bytes:
        """The file's content through its kept descriptor."""
        return os.pread(self.keep(name), 4096, 0)

    def read(self, name: str) -> str:
        try:
            return read_text(f"{self.path}/{name}")
        except OSError as error:
            raise SetupError("read_cgroup_file", error.errno or 0, f"{self.path}/{name}") from error

    def has(self, name: str) -> bool:
        return os.access(f"{self.path}/{name}", os.F_OK)

    def write(self, name: str, text: str) -> None:
        """A command that has no value to read back."""
        try:
            write_text(f"{self.path}/{name}", text)
        except OSError as error:
            detail = f"{self.path}/{name}, value {text}"
            raise SetupError("write_cgroup_limit", error.errno or 0, detail) from error

    def limit(
        self, name: str, value: int | None, unlimited: str = "max", period: int | None = None
    ) -> None:
        """Write a limit and read it back; the kernel may round down to whole pages. `period` is
        the second number of cpu.max."""
        path, text = f"{self.path}/{name}", unlimited if value is None else str(value)
        text = text if period is None else f"{text} {period}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
                shown = os.pread(fd, 256, 0)
            finally:
                os.close(fd)
        except OSError as error:
            detail = f"{path}, value {text}"
            raise SetupError("write_cgroup_limit", error.errno or 0, detail) from error
        limit, *rest = shown.split()
        if not _agrees(value, number(limit)) or (period is not None and int(rest[0]) != period):
            detail = f"{path}: wrote {text}, the kernel shows {shown.decode().strip()}"
            raise SetupError("verify_cgroup_limit", 0, detail)

    def close(self) -> None:
        """Close the kept descriptors; the group stays."""
        while self._fds:
            os.close(self._fds.popitem()[1])


def _agrees(wrote: int | None, shown: int | None) -> bool:
    if wrote is None or shown is None:
        return wrote is shown
    return shown in (wrote, wrote // PAGE * PAGE)
