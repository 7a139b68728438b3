"""What is kept of an output stream: head and tail, the rest counted. Memory is bounded."""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable

from ._streams import write

_READ = 1 << 16
_MOST_AT_ONCE = 1 << 18


class Spill:
    """A sink that writes to a descriptor as that takes it, so that a slow reader holds up neither
    clocks nor caps: while something waits here, the guest's pipe is not read.

    Args:
        descriptor: the caller's to close.
        replaces: what a regular file held is removed when it `begin`s.
    """

    def __init__(self, descriptor: int, *, replaces: bool = False) -> None:
        self.descriptor = descriptor
        self._left = bytearray()
        # What poll promises of a pipe or terminal; a regular file takes all.
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._most = _MOST_AT_ONCE if regular else select.PIPE_BUF
        self._replaces = replaces and regular

    def __call__(self, data: bytes) -> None:
        self._left += data

    @property
    def waits(self) -> bool:
        """Whether something is to be written."""
        return bool(self._left)

    def begin(self) -> None:
        """What follows, if only the end, is a program's that was started."""
        if self._replaces:
            os.ftruncate(self.descriptor, 0)
            self._replaces = False

    def step(self) -> None:
        """The descriptor takes some; later, if it takes nothing now. Raises OSError."""
        piece = bytes(self._left[: self._most])
        try:
            self.begin()
            del self._left[: write(self.descriptor, piece)]
        except BlockingIOError:
            return
        except OSError:
            self._left.clear()
            raise

    def finish(self) -> None:
        """The rest; here the guest is dead, and the reader may take its time. Raises OSError."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLOUT)
        while self._left:
            poll.poll()
            self.step()


class Allowance:
    """What the two streams of one call share.

    Attributes:
        most: bytes of stdout and stderr together, in the order in which they are read, beyond which
            a sink gets nothing; None: all.
        failed: whether one of them has raised, so that the call is being ended.
    """

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.failed = False
        self._seen = 0

    def cut(self, data: bytes) -> bytes:
        """Count it; as much of it as is within `most`."""
        before, self._seen = self._seen, self._seen + len(data)
        return data if self.most is None else data[: max(0, self.most - before)]


class Capture:
    """Drains one pipe without blocking.

    Args:
        descriptor: the read end, non-blocking; owned and closed here. -1: nothing is captured.
        keep: bytes kept, half from the head and half from the tail.
        sink: gets every piece as it comes, on the supervising thread; what it raises ends the call.
        allowance: the other stream's too.
    """

    def __init__(
        self,
        descriptor: int,
        keep: int,
        sink: Callable[[bytes], object] | None = None,
        allowance: Allowance | None = None,
    ) -> None:
        self.descriptor = descriptor
        self._sink = sink
        self._spill = sink if isinstance(sink, Spill) else None
        self._allowance = allowance or Allowance(None)
        self._failure: Exception | None = None
        self.total = 0
        self.open = descriptor >= 0
        self._half = max(1, keep // 2)
        self._head = bytearray()
        self._tail = bytearray()

    def interests(self) -> dict[int, int]:
        """Descriptor → poll events to watch."""
        if self._spill is not None and self._spill.waits:
            return {self._spill.descriptor: select.POLLOUT}
        return {self.descriptor: select.POLLIN} if self.open else {}

    def step(self) -> None:
        """One of `interests` is ready."""
        if self._spill is not None and self._spill.waits:
            self._ask(self._spill.step)
        else:
            self.drain()

    def drain(self) -> None:
        """Take what is there, but never more than `_MOST_AT_ONCE`: a guest that writes as fast as
        it is read must not keep the supervisor from its clocks and caps."""
        for _ in range(_MOST_AT_ONCE // _READ):
            try:
                data = os.read(self.descriptor, _READ)
            except BlockingIOError:
                return
            if not data:
                self.close()
                return
            self._keep(data)
            if len(data) < 4096:
                return

    def finish(self) -> None:
        """After every writer is dead: take the rest and close. What the sink raises here comes out
        of `result`: the call's other channels are to be closed first."""
        try:
            self._take_rest()
            if self._spill is not None:
                self._ask(self._spill.finish)
        except Exception as error:
            self._failure = error

    def _take_rest(self) -> None:
        before = -1
        try:
            while self.open and before != self.total:
                before = self.total
                self.drain()
        finally:
            self.close()

    def _ask(self, action: Callable[..., object], *arguments: bytes) -> None:
        """Something of the sink's, which is asked no more once it has raised. Of two sinks that
        raise the first one is heard: an exception while the call is ended would cost the jail."""
        try:
            action(*arguments)
        except BaseException as error:
            self._sink = self._spill = None
            if self._allowance.failed and isinstance(error, Exception):
                return
            self._allowance.failed = True
            raise

    def _keep(self, data: bytes) -> None:
        self.total += len(data)
        allowed = self._allowance.cut(data)  # counts, whoever gets it
        if self._sink is not None and allowed:
            self._ask(self._sink, allowed)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        # One buffer: a guest can make every read a short one, and small objects are not small.
        self._tail += data
        if len(self._tail) > self._half + _READ:
            del self._tail[: -self._half]

    def close(self) -> None:
        """Close the pipe; what was kept stays."""
        if self.open:
            self.open = False
            os.close(self.descriptor)

    def result(self) -> tuple[bytes, int]:
        """(what was kept, bytes left out between its two halves). Raises what the sink raised at
        the end."""
        if self._failure is not None:
            raise self._failure
        kept = bytes(self._head + self._tail[-self._half :])
        return kept, self.total - len(kept)
