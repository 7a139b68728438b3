"""The ends of pipes that a program gets as its standard streams, and those its caller keeps."""

from __future__ import annotations

import fcntl
import io
import os
import stat
from dataclasses import dataclass
from typing import IO


@dataclass(frozen=True)
class Streams:
    """Descriptors for a program's standard streams; -1 where the host feeds and captures. Copies
    of them go to the program."""

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1

    def close(self) -> None:
        """Give ours up."""
        for descriptor in (self.stdin, self.stdout, self.stderr):
            if descriptor >= 0:
                os.close(descriptor)


@dataclass(frozen=True)
class Pipes:
    """The caller's ends; None where a stream was given or is captured."""

    stdin: IO[bytes] | None
    stdout: IO[bytes] | None
    stderr: IO[bytes] | None

    def close(self) -> None:
        """Close each."""
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()


def make_streams(
    stdin: IO[bytes] | None, stdout: IO[bytes] | None, stderr: IO[bytes] | bool | None
) -> tuple[Streams, Pipes]:
    """A pipe for each stream that is not given; for `stderr` only if it is True. Given streams are
    ends of pipes, and are closed here: theirs is the program's now.

    Raises:
        TypeError, ValueError: not an end of a pipe, or the wrong one; nothing is closed then.
    """
    captures = stderr is None or stderr is False
    given_stderr = None if stderr is None or isinstance(stderr, bool) else stderr
    for name, stream in (("stdin", stdin), ("stdout", stdout), ("stderr", given_stderr)):
        if stream is not None:
            _check_end(name, stream)
    their_stdin, our_stdin = _input(stdin)
    their_stdout, our_stdout = _output(stdout)
    their_stderr, our_stderr = (-1, None) if captures else _output(given_stderr)
    return (
        Streams(their_stdin, their_stdout, their_stderr),
        Pipes(our_stdin, our_stdout, our_stderr),
    )


def _input(given: IO[bytes] | None) -> tuple[int, IO[bytes] | None]:
    if given is not None:
        return _taken(given), None
    reader, writer = os.pipe2(os.O_CLOEXEC)
    return reader, open(writer, "wb", buffering=0)


def _output(given: IO[bytes] | None) -> tuple[int, IO[bytes] | None]:
    if given is not None:
        return _taken(given), None
    reader, writer = os.pipe2(os.O_CLOEXEC)
    return writer, open(reader, "rb")


def _taken(stream: IO[bytes]) -> int:
    if isinstance(stream, io.BufferedWriter):
        stream.flush()
    descriptor = os.dup(stream.fileno())
    stream.close()
    return descriptor


def _check_end(name: str, stream: IO[bytes]) -> None:
    try:
        descriptor = stream.fileno()
    except (AttributeError, OSError, ValueError):
        raise TypeError(f"{name}: expected an end of a pipe, not {type(stream).__name__}") from None
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        raise ValueError(f"{name}: only an end of a pipe can be given to a program")
    wanted, end = (os.O_RDONLY, "reading") if name == "stdin" else (os.O_WRONLY, "writing")
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != wanted:
        raise ValueError(f"{name}: it needs the end for {end}")
