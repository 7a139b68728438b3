"""The host half of the frames on a call's result socket (SOCK_STREAM): a 4-byte big-endian length,
then one msgpack array ``[version, kind, call, body]``.

What arrives was written by a process that ran the guest's code: every byte is hostile. Nothing is
kept before the length is known to fit, no length inside a frame is believed beyond the frame, and
only the exact types below come out. `worker/wire.py` is the other half, written separately on
purpose: the two have different enemies and share no import.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

import msgpack

VERSION: Final = 1

# Longest texts a frame may carry, in bytes of UTF-8. The worker cuts its own to the same lengths.
_RAISED = (1 << 10, 64 << 10, 256 << 10)
_UNFIT = (4 << 10, 1 << 10, 4 << 10)
_FUNCTION_KINDS = frozenset(("value", "stored", "raised", "unfit", "too_large"))
# All that is ever said by the process a program would have become, before any guest code.
_PROGRAM_KINDS = frozenset(("unstarted",))
_MOST_COUNT = 1 << 63

# Below this, copying is cheaper than one more buffer for the caller's sendmsg.
_SPLICE = 16 << 10


class WireError(ValueError):
    """Bytes on a result socket that are not one frame of the protocol. The guest made them; the
    message says what was wrong and never quotes them."""


@dataclass(frozen=True)
class Frame:
    """One checked frame.

    Attributes:
        kind: ``"value"`` (body: bytes, an encoded value), ``"stored"`` (body: int, the length of
            the encoded value in the call's memfd), ``"raised"`` (body: type name, message,
            traceback), ``"unfit"`` (body: where, type name, reason), ``"too_large"`` (body: int,
            bytes it would have taken at least) or ``"unstarted"`` (body: three numbers, see
            `_start`).
        body: of the type its kind prescribes; texts and numbers come as a tuple of three.
    """

    kind: str
    body: bytes | int | tuple[str, str, str] | tuple[int, int, int]


def _refuse_ext(code: int, data: bytes) -> NoReturn:
    raise WireError("a frame has no extension types")


class FrameReader:
    """Collects the single frame a call may send.

    Memory is bounded by `max_frame` twice over: the bytes so far, then what they decode to.

    Args:
        call: the call's number; a frame with another one is refused.
        max_frame: most bytes of the msgpack part.
        program: whether the call is a program's.
    """

    def __init__(self, call: int, max_frame: int = 1 << 20, *, program: bool = False) -> None:
        self._call = call
        self._kinds = _PROGRAM_KINDS if program else _FUNCTION_KINDS
        self._max = max_frame
        self._buffer = bytearray()
        self._length: int | None = None
        self._failure: str | None = None
        self.frame: Frame | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream, in pieces of any size.

        Raises:
            WireError: the bytes break the protocol, now or in an earlier call.
        """
        if self._failure is not None:
            raise WireError(self._failure)
        try:
            self._take(data)
        except WireError as error:
            self._failure = str(error)
            self._buffer = bytearray()
            self.frame = None
            raise

    def _take(self, data: bytes) -> None:
        if not data:
            return
        if self.frame is not None:
            raise WireError("more bytes follow the one frame of a call")
        if self._length is None:
            missing = 4 - len(self._buffer)
            self._buffer += data[:missing]
            if len(self._buffer) < 4:
                return
            self._length = self._checked_length()
            self._buffer.clear()
            data = data[missing:]
        if len(self._buffer) + len(data) > self._length:
            raise WireError("more bytes follow the one frame of a call")
        self._buffer += data
        if len(self._buffer) == self._length:
            buffer, self._buffer = self._buffer, bytearray()
            self.frame = self._parse(buffer)

    def _checked_length(self) -> int:
        length = int.from_bytes(self._buffer, "big")
        if not 0 < length <= self._max:
            raise WireError(f"a frame of {length} bytes is outside 1 to {self._max}")
        return length

    def _parse(self, buffer: bytearray) -> Frame:
        try:
            items = msgpack.unpackb(
                buffer,
                raw=False,
                use_list=True,
                ext_hook=_refuse_ext,
                # Arrays are allocated by the length they claim; four items is the longest of ours.
                max_array_len=4,
                max_map_len=0,
                max_ext_len=0,
                max_str_len=_RAISED[2],
                max_bin_len=self._max,
            )
        except WireError:
            raise
        except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
            raise WireError(f"a frame is not msgpack ({type(error).__name__})") from None
        if type(items) is not list or len(items) != 4:
            raise WireError("a frame is not an array of four")
        version, kind, call, body = items
        if type(version) is not int or version != VERSION:
            raise WireError("a frame of another protocol version")
        if type(call) is not int or call != self._call:
            raise WireError("a frame of another call")
        if type(kind) is not str:
            raise WireError("a frame's kind is not a string")
        if kind not in self._kinds:
            raise WireError("a frame of an unknown kind")
        return Frame(kind, _checked_body(kind, body))


def _checked_body(
    kind: str, body: object
) -> bytes | int | tuple[str, str, str] | tuple[int, int, int]:
    if kind == "value":
        if type(body) is bytes:
            return body
    elif kind in ("stored", "too_large"):
        if type(body) is int and 0 <= body < _MOST_COUNT:
            return body
    elif kind == "unstarted":
        if type(body) is list and len(body) == 3 and all(_is_count(number) for number in body):
            return body[0], body[1], body[2]
    else:
        return _texts(body, {"raised": _RAISED, "unfit": _UNFIT}[kind])
    raise WireError(f"the body of a {kind!r} frame is of the wrong type")


def _is_count(number: object) -> bool:
    return type(number) is int and 0 <= number < _MOST_COUNT


def _texts(body: object, longest: tuple[int, int, int]) -> tuple[str, str, str]:
    if type(body) is not list or len(body) != 3:
        raise WireError("the body of a frame is not three texts")
    for text, most in zip(body, longest, strict=True):
        if type(text) is not str:
            raise WireError("the body of a frame is not three texts")
        if len(text) > most or len(text.encode()) > most:
            raise WireError(f"a text of a frame is longer than {most} bytes")
    return body[0], body[1], body[2]


def encode_request(kind: str, call: int, body: Mapping[str, object]) -> list[bytes | memoryview]:
    """The frame that asks a worker to ``"run"`` a function, as buffers for ``sendmsg``.

    `body` maps names to anything msgpack writes natively. Long bytes among its values are not
    copied: the buffers borrow them until they are sent. Lists and maps inside hold at most 8192
    items (the reader's bound).

    Raises:
        ValueError: the frame would be 4 GiB or longer.
        TypeError: a value that msgpack has no form for.
    """
    packer = msgpack.Packer(use_bin_type=True, autoreset=False)
    packer.pack_array_header(4)
    for item in (VERSION, kind, call):
        packer.pack(item)
    packer.pack_map_header(len(body))
    buffers: list[bytes | memoryview] = []
    for name, value in body.items():
        packer.pack(name)
        if isinstance(value, (bytes, memoryview)) and len(value) >= _SPLICE:
            view = memoryview(value).cast("B")
            if view.nbytes >= 1 << 32:
                raise ValueError(f"{name}: {view.nbytes} bytes do not fit in one frame")
            buffers += [packer.bytes() + b"\xc6" + view.nbytes.to_bytes(4, "big"), view]
            packer.reset()
        else:
            packer.pack(value)
    buffers.append(packer.bytes())
    length = sum(memoryview(part).nbytes for part in buffers)
    if length >= 1 << 32:
        raise ValueError(f"a request of {length} bytes does not fit in one frame")
    buffers[0] = length.to_bytes(4, "big") + bytes(buffers[0])
    return buffers
