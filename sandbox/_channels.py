"""What one call is connected by: the result socket, the store for a large result (or a program's
files), stdout, stderr, a program's stdin.

All of it is made here, handed to the worker by way of init, and read here as hostile bytes.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from . import _channel, _values, _wire
from ._capture import Allowance, Capture
from ._models import Limits
from ._streams import IT_WRITES, Streams, new_pipe
from ._task import Task

_UCRED = struct.Struct("3i")
_READ = 1 << 16
_MOST_WORD = 64
_KEEP_AT_MOST = 1 << 20
_CAPTURED = Streams()


class Channels:
    """The host's ends, and until `let_go` the worker's.

    Args:
        number: the call's number, which its frames must carry.
        limits: the most bytes of the encoded result, and of output, of which as much is kept.
        task: what the call is about.
    """

    def __init__(self, number: int, limits: Limits, task: Task) -> None:
        self.wire_error: str | None = None
        self._ended = False
        self._most = int(limits.result)
        self._number = number
        self._task = task
        self._reader = _wire.FrameReader(number, program=task.start is not None)
        self._outgoing: list[memoryview] = []
        self._first: list[Any] = []
        allowance = Allowance(None if limits.output is None else int(limits.output))
        made: list[int] = []
        try:
            self.result, worker_end = socket.socketpair()
            # The kernel attaches pid, uid and gid to what the worker sends: no word of its own.
            self.result.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self.result.setblocking(False)
            self._store, store = -1, []
            if task.has_store:
                parcel = task.parcel
                self._store = parcel.hand_over() if parcel else _new_store(self._most)
                made.append(self._store)
                store.append(os.dup(self._store))
                made += store
            given = task.streams or _CAPTURED
            self.stdout, stdout = _capture(allowance, task.stdout, given.stdout, made)
            self.stderr, stderr = _capture(allowance, task.stderr, given.stderr, made)
            stdin = [] if given.stdin < 0 else [os.dup(given.stdin)]
        except BaseException:
            _channel.close_all(made)
            raise
        if task.feed is not None:
            stdin = [task.feed.hand_over()]
        self._theirs = [worker_end.detach(), stdout, stderr, *stdin, *store]

    @property
    def theirs(self) -> list[int]:
        """The worker's ends: result, stdout, stderr, and what the task has of stdin and store."""
        return self._theirs

    def let_go(self) -> None:
        """Close the worker's ends here: init has its copies, or never will."""
        theirs, self._theirs = self._theirs, []
        _channel.close_all(theirs)

    @property
    def frame(self) -> _wire.Frame | None:
        """The worker's answer, once it is complete."""
        return self._reader.frame

    @property
    def expecting(self) -> bool:
        """Whether more may come from the result socket. A guest can close its end and live on; poll
        would then report that for ever."""
        return not self._ended and self.frame is None and self.wire_error is None

    @property
    def sending(self) -> bool:
        """Whether part of the request still waits to be sent."""
        return bool(self._outgoing)

    @property
    def greeted(self) -> bool:
        """Whether the worker's first word was received."""
        return bool(self._first) and bool(self._first[0][0])

    def receive_pid(self) -> int | None:
        """The sender of the worker's first word, as the kernel says; None at the end of stream."""
        if not self._first:
            _channel.receive_into(self._first, self.result, _MOST_WORD, _UCRED.size)
        data, ancillary, _, _ = self._first[0]
        if not data:
            self._end()
            return None
        return next(int(_UCRED.unpack(body[: _UCRED.size])[0]) for _, _, body in ancillary)

    @property
    def unconfined(self) -> tuple[int, str] | None:
        """What the worker's first word was, if not a single 0: the errno and the name of the step
        of confinement that failed. No guest code has run, nor will any."""
        word = self._first[0][0]
        return None if word == b"\0" else (word[0], word[1:].decode("ascii", "replace"))

    def request(self) -> None:
        """Begin to send the request."""
        self._outgoing = [memoryview(part) for part in self._task.request(self._number)]
        self.send()

    def send(self) -> None:
        """Send what the socket takes. A worker that does not read is no fault of the host's."""
        try:
            while self._outgoing:
                sent = self.result.send(self._outgoing[0], socket.MSG_NOSIGNAL)
                if sent == len(self._outgoing[0]):
                    self._outgoing.pop(0)
                else:
                    self._outgoing[0] = self._outgoing[0][sent:]
        except BlockingIOError:
            return
        except ConnectionError:
            self._end()

    def _end(self) -> None:
        self._ended = True
        self._outgoing.clear()

    def read(self) -> bool:
        """Take what the worker sent; `frame` and `wire_error` tell. Whether anything came."""
        try:
            data = self.result.recv(_READ)
        except BlockingIOError:
            return False
        except ConnectionError:
            data = b""
        if not data:
            self._end()
            return False
        try:
            self._reader.feed(data)
        except _wire.WireError as error:
            self.wire_error = str(error)
        return self.wire_error is None

    @property
    def output_bytes(self) -> int:
        """Bytes written to stdout and stderr so far."""
        return self.stdout.total + self.stderr.total

    def finish(self) -> None:
        """Every process of the call is dead (or the whole jail is being killed): what lies in the
        channels is final, and nobody's open copy of them is waited for."""
        self.let_go()
        if self._task.feed is not None:
            self._task.feed.close()
        for stream in (self.stdout, self.stderr):
            stream.finish()
        # Also behind an answer: whether a second one counts must not depend on who was faster.
        while self.wire_error is None and self.read():
            pass
        self.result.close()

    def value(self) -> Any:
        """The decoded result. After `finish` only. Raises `_values.ValueRejected`."""
        assert self.frame is not None
        body: Any = self.frame.body
        if self.frame.kind == "value":
            return _values.decode_value(body, self._most)
        if not 0 < body <= self._most:
            raise _values.ValueRejected(f"a stored length of {body}")
        with (
            mmap.mmap(self._store, body, mmap.MAP_SHARED, mmap.PROT_READ) as area,
            memoryview(area) as view,
        ):
            return _values.decode_value(view, self._most)

    def close(self) -> None:
        """Give the store's memory back."""
        store, self._store = self._store, -1
        if store >= 0:
            os.close(store)

    def forget(self) -> None:
        """Close everything: of a forked child, its copies."""
        self.let_go()
        if self._task.feed is not None:
            self._task.feed.close()
        self.stdout.close()
        self.stderr.close()
        self.result.close()
        self.close()


def _capture(
    allowance: Allowance, sink: Callable[[bytes], object] | None, given: int, made: list[int]
) -> tuple[Capture, int]:
    if given >= 0:
        made.append(os.dup(given))
        return Capture(-1, 0), made[-1]
    read_end, write_end = new_pipe(IT_WRITES)
    made += (read_end, write_end)
    os.set_blocking(read_end, False)
    return Capture(read_end, _kept(allowance.most, sink is not None), sink, allowance), write_end


def _kept(most: int | None, has_sink: bool) -> int:
    """Bytes of a stream that the outcome keeps. Who has a sink has the whole: a limit made large
    for that is no reason to hold as much in memory."""
    if most is None:
        return _KEEP_AT_MOST
    return min(most, _KEEP_AT_MOST) if has_sink else most


def _new_store(size: int) -> int:
    """Memory for a large result: made here, its size fixed for good, its pages charged to whoever
    writes them. Read only when every process that could still write is dead."""
    store = os.memfd_create("result", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(store, size)
    seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(store, fcntl.F_ADD_SEALS, seals)
    return store
