"""What is kept of an output stream: head and tail, the rest counted. Memory is bounded."""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable

_READ = 1 << 16
_MOST_AT_ONCE = 1 << 18


class Spill:
    """A sink that writes to a descriptor as that takes it, so that a slow reader holds up neither
    clocks nor caps: while something waits here, the guest's pipe is not read."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._left = bytearray()
        # What poll promises of a pipe or terminal; a regular file takes all.
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._most = _MOST_AT_ONCE if regular else select.PIPE_BUF

    def __call__(self, data: bytes) -> None:
        self._left += data

    @property
    def waits(self) -> bool:
        """Whether something is to be written."""
        return bool(self._left)

    def step(self) -> None:
        """The descriptor takes some."""
        piece = bytes(self._left[: self._most])
        try:
            del self._left[: os.write(self.descriptor, piece)]
        except OSError:
            self._left.clear()
            raise

    def finish(self) -> None:
        """The rest; here the guest is dead, and the reader may take its time."""
        while self._left:
            self.step()


class Capture:
    """Drains one pipe without blocking.

    Args:
        descriptor: the read end, non-blocking; owned and closed here. -1: nothing is captured.
        keep: bytes kept, half from the head and half from the tail.
        sink: gets every piece as it comes, on the supervising thread; what it raises ends the call.
    """

    def __init__(
        self, descriptor: int, keep: int, sink: Callable[[bytes], object] | None = None
    ) -> None:
        self.descriptor = descriptor
        self._sink = sink
        self._spill = sink if isinstance(sink, Spill) else None
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
            self._spill.step()
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
        """After every writer is dead: take the rest and close."""
        before = -1
        while self.open and before != self.total:
            before = self.total
            self.drain()
        self.close()
        if self._spill is not None:
            self._spill.finish()

    def _keep(self, data: bytes) -> None:
        self.total += len(data)
        if self._sink is not None:
            sink, self._sink = self._sink, None  # not again for what comes after an exception
            sink(data)
            self._sink = sink
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
        """(what was kept, bytes left out between its two halves)."""
        kept = bytes(self._head + self._tail[-self._half :])
        return kept, self.total - len(kept)
