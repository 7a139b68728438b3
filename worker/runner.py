"""Run the guest's function in a confined worker and write its answer. Hostile from the moment the
function is unpickled: what stands here is convenience for honest guests, not a boundary."""

from __future__ import annotations

import mmap
import os
import sys

from . import confine, program, transfer, unfit, values, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Larger values go through the memory the host provided instead of the socket.
_INLINE = 64 << 10
_MOST_REQUEST = 1 << 30
_MOST_TEXT = 16_000
_MOST_FRAMES = 100


def main(number: int) -> None:
    """Report for inspection, wait for the request, run it, answer, end. Never returns."""
    descriptor = confine.RESULT
    confine.take_guest_signals()
    os.write(descriptor, b"\0")
    kind, _, content = wire.read_frame(descriptor, _MOST_REQUEST)
    body: Any = content
    if kind == "exec":
        program.become(descriptor, number, body)
    cap: int = body["result"]
    worker = os.getpid()
    answer = _run(body["payload"], cap)
    _flush()
    if os.getpid() != worker:
        # A child the function forked and let return: the answer is its parent's to give.
        os._exit(int(answer[0] == "raised"))
    _send(descriptor, number, answer)
    os._exit(0)


def _run(payload: bytes, cap: int) -> tuple[str, Any]:
    try:
        if "numpy.random" in sys.modules:
            # Preloaded: its global state is a copy of the launcher's, alike in every worker.
            sys.modules["numpy.random"].seed()
        function, arguments, keywords = transfer.load_call(payload)
        value = function(*arguments, **keywords)
    except BaseException as error:
        return "raised", _describe(error)
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
    with mmap.mmap(confine.STORE, sum(len(buffer) for buffer in buffers)) as area:
        for buffer in buffers:
            area.write(buffer)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: S110 (a guest may have replaced or closed it)
            pass


def _describe(error: BaseException) -> list[str]:
    """Type name, message and traceback as capped text."""
    return [
        _cut(type(error).__name__, 200),
        _cut(_message(error), _MOST_TEXT),
        _cut(_traceback(error), 4 * _MOST_TEXT),
    ]


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:
        return "<no message: str() of the exception raised>"


def _cut(text: str, most: int) -> str:
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) <= most:
        return text
    return f"{text[: most // 2]} ... {len(text) - most} characters ... {text[-(most // 2) :]}"


def _traceback(error: BaseException) -> str:
    """As Python prints it, without the source lines: the `traceback` module costs 10 ms to import
    and the sources are not visible in here."""
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(parts) < _MOST_FRAMES:
        seen.add(id(current))
        parts.insert(0, _one(current))
        cause = current.__cause__
        if cause is not None:
            parts.insert(0, "The exception above was the direct cause of the one below:")
        elif not current.__suppress_context__:
            cause = current.__context__
            if cause is not None:
                parts.insert(0, "During handling of the exception above, the one below occurred:")
        current = cause
    return "\n".join(parts)


def _one(error: BaseException) -> str:
    lines = ["Traceback (most recent call last):"]
    trace = error.__traceback__
    frames: list[str] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename != __file__:
            name = code.co_qualname
            frames.append(f'  File "{code.co_filename}", line {trace.tb_lineno}, in {name}')
        trace = trace.tb_next
    if len(frames) > _MOST_FRAMES:
        half = _MOST_FRAMES // 2
        frames[half:-half] = [f"  ... {len(frames) - _MOST_FRAMES} frames ..."]
    return "\n".join([*lines, *frames, f"{type(error).__name__}: {_message(error)}"])
