"""Standard input of a program: fed by the supervisor as the pipe takes it, never blocking."""

from __future__ import annotations

import io
import os
import select
import stat
from typing import IO

from ._program import Content
from ._streams import IT_READS, new_pipe, reopened, write

_PIECE = 1 << 18


class Feed:
    """Writes `content` into a pipe of its own making.

    A stream with a descriptor of its own is read when poll says that it can be (regular files
    always can), and without blocking wherever that can be had: who shares it may be faster.
    Another one (`io.BytesIO`) is asked at once and must not block.

    Raises:
        ValueError: a path leads to no regular file.
        TypeError: as `pollable`.
        OSError: a file that cannot be opened.
    """

    def __init__(self, content: Content) -> None:
        self._left = memoryview(b"")
        self._source: IO[bytes] | None = None
        self._live = self._opened = -1
        if isinstance(content, (bytes, bytearray, memoryview)):
            self._left = memoryview(content).cast("B")
        elif isinstance(content, (str, os.PathLike)):
            self._live = self._opened = _open_regular(content)
        else:
            self._live = pollable("stdin", content)
            self._source = content if self._live < 0 else None
            if self._live >= 0:
                self._left = memoryview(read_ahead(content))
                # Only to read from. A FIFO that is opened when its last writer has gone does not
                # tell poll so: what was given is watched.
                self._opened = reopened(self._live, os.O_RDONLY)
        try:
            self._reader, self._writer = new_pipe(IT_READS)
        except OSError:
            self._close_source()
            raise
        os.set_blocking(self._writer, False)

    def hand_over(self) -> int:
        """The end for the program, from now on the caller's to close."""
        reader, self._reader = self._reader, -1
        return reader

    @property
    def open(self) -> bool:
        """Whether there may be more to write."""
        return self._writer >= 0

    def interests(self) -> dict[int, int]:
        """Descriptor → poll events to watch."""
        if not self.open:
            return {}
        if self._left or self._source is not None or self._live < 0:
            return {self._writer: select.POLLOUT}
        # The other end may go away while we wait for the source: poll always reports that.
        return {self._live: select.POLLIN, self._writer: 0}

    def step(self, descriptor: int, events: int) -> None:
        """One of `interests` is ready."""
        if descriptor == self._writer and not events & select.POLLOUT:
            self.close()  # nobody reads any more
            return
        if not self._left:
            self._refill()
        if self._left:
            self._write()

    def _refill(self) -> None:
        data = b""
        if self._source is not None:
            data = self._source.read(_PIECE)
            if not isinstance(data, (bytes, bytearray)):
                raise TypeError(f"stdin: the stream gave {type(data).__name__}, not bytes")
        elif self._live >= 0:
            try:
                data = os.read(self._opened if self._opened >= 0 else self._live, _PIECE)
            except BlockingIOError:
                return  # another reader took it: later
        if data:
            self._left = memoryview(data)
        else:
            self.close()

    def _write(self) -> None:
        try:
            self._left = self._left[write(self._writer, self._left) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.close()

    def close(self) -> None:
        """The end of the input."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1
        self._left = memoryview(b"")
        self._close_source()

    def _close_source(self) -> None:
        if self._opened >= 0:
            os.close(self._opened)
        self._opened = self._live = -1
        self._source = None


def _open_regular(path: str | os.PathLike[str]) -> int:
    """Not blocking: a FIFO may have come to its place since it was looked at."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"stdin: {os.fspath(path)!r} is not a regular file")
    return descriptor


def pollable(what: str, stream: IO[bytes]) -> int:
    """Its descriptor if reading from it can block; -1 for a regular file, whose own position and
    buffer count, and for what has no descriptor.

    Raises:
        TypeError: it has a descriptor that may block, but is more than a buffer over it (a
            compressed or network stream): what can be polled there is not what it reads.
    """
    try:
        descriptor = stream.fileno()
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
    except (OSError, AttributeError, ValueError):
        return -1
    if regular:
        return -1
    raw = stream.raw if isinstance(stream, io.BufferedReader) else stream
    if not isinstance(raw, io.FileIO):
        raise TypeError(
            f"{what}: a {type(stream).__name__} cannot be waited for; give a pipe, a file or bytes"
        )
    return descriptor


def read_ahead(stream: IO[bytes]) -> bytes:
    """What a buffered reader has taken from its descriptor already, and nobody from it."""
    if not isinstance(stream, io.BufferedReader):
        return b""
    blocking = os.get_blocking(stream.fileno())
    os.set_blocking(stream.fileno(), False)  # or peek waits where the buffer is empty
    try:
        return stream.read1(len(stream.peek()))
    finally:
        os.set_blocking(stream.fileno(), blocking)
