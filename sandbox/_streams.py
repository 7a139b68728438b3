"""The ends of pipes that a program gets as its standard streams, and those its caller keeps."""

from __future__ import annotations

import fcntl
import io
import os
import signal
import stat
from dataclasses import dataclass
from typing import IO

# Both ends of a pipe are one inode, whose mode says who may open it by /proc/self/fd. A guest of a
# host that is root owns no pipe: it can open one the way it was given it and no other, so that no
# way leads back through a pipe that joins two jails. A guest with the host's own uid is the owner.
IT_READS, IT_WRITES = 0o604, 0o602


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
    reader, writer = new_pipe(IT_READS)
    return reader, open(writer, "wb", buffering=0)


def _output(given: IO[bytes] | None) -> tuple[int, IO[bytes] | None]:
    if given is not None:
        return _taken(given), None
    reader, writer = new_pipe(IT_WRITES)
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


def new_pipe(mode: int) -> tuple[int, int]:
    """The reading and the writing end of a pipe of which a program gets the one that `mode`,
    `IT_READS` or `IT_WRITES`, is for."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.fchmod(reader, mode)
    return reader, writer


def reopened(descriptor: int, access: int) -> int:
    """A file description of our own, which does not block, of a pipe, a FIFO or a terminal that
    others share; the caller's to close. O_NONBLOCK on theirs would be theirs too. -1 if there is
    none to be had: of a socket, for example, or of what belongs to another user."""
    status = os.fstat(descriptor)
    # /dev/ptmx (5, 2) opened again would be another terminal.
    terminal = os.isatty(descriptor) and status.st_rdev != os.makedev(5, 2)
    if not terminal and not stat.S_ISFIFO(status.st_mode):
        return -1
    flags = access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:
        return -1


def write(descriptor: int, data: bytes | memoryview) -> int:
    """write(2); BrokenPipeError also where an application has given up Python's refusal of
    SIGPIPE, which a pipe, unlike a socket, cannot be asked not to send."""
    if signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN:
        return os.write(descriptor, data)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGPIPE,))
    try:
        return os.write(descriptor, data)
    except BrokenPipeError:
        signal.sigtimedwait((signal.SIGPIPE,), 0)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
