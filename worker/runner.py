"""Run the guest's function in a confined worker and write its answer. Hostile from the moment the
function is unpickled: what stands here is convenience for honest guests, not a boundary."""

from __future__ import annotations

import _signal
import mmap
import os
import sys

from . import raised, transfer, unfit, values, wire
from .kernel.native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Larger values go through the memory the host provided instead of the socket.
_INLINE = 64 << 10
_MOST_REQUEST = 1 << 30


def main(number: int) -> None:
    """Report for inspection, wait for the request, run it, answer, end. Never returns."""
    descriptor = lib.RESULT
    _take_guest_signals()
    _, _, content = wire.read_frame(descriptor, _MOST_REQUEST)
    body: Any = content
    cap: int = body["result"]
    worker = os.getpid()
    answer = _run(body["payload"], cap)
    _flush()
    if os.getpid() != worker:
        # A child the function forked and let return: the answer is its parent's to give.
        os._exit(int(answer[0] == "raised"))
    _send(descriptor, number, answer)
    os._exit(0)


def _take_guest_signals() -> None:
    """Python's usual SIGINT handler, which the launcher gave up, for guest code."""
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def _run(payload: bytes, cap: int) -> tuple[str, Any]:
    try:
        if "numpy.random" in sys.modules:
            # Preloaded: its global state is a copy of the launcher's, alike in every worker.
            sys.modules["numpy.random"].seed()
        function, arguments, keywords = transfer.load_call(payload)
        value = function(*arguments, **keywords)
    except BaseException as error:
        return "raised", raised.describe(error, __file__)
    try:
        return "value", values.encode_value(value, cap)
    except unfit.Unfit as error:
        return "unfit", [error.where, error.type_name, error.reason]
    except unfit.TooLarge as error:
        return "too_large", error.at_least


def _send(descriptor: int, number: int, answer: tuple[str, Any]) -> None:
    kind, body = answer
    if kind == "value":
        buffers: list[bytes] = body
        size = sum(len(buffer) for buffer in buffers)
        if size > _INLINE:
            _store(buffers)
            kind, body = "stored", size
        else:
            body = b"".join(buffers)
    data = memoryview(wire.encode(kind, number, body))
    while data:
        data = data[os.write(descriptor, data) :]


def _store(buffers: list[bytes]) -> None:
    """Into the host's memfd, whose size is fixed and whose pages are charged to this call. Mapped,
    because a write is held to the limit on the size of files."""
    with mmap.mmap(lib.STORE, sum(len(buffer) for buffer in buffers)) as area:
        for buffer in buffers:
            area.write(buffer)


def _flush() -> None:
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except BaseException:  # noqa: S110 (a guest may have replaced, closed or deleted it)
            pass
