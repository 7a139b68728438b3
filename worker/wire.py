"""The worker half of the frames on a call's result socket (SOCK_STREAM): a 4-byte big-endian
length, then one msgpack array ``[version, kind, call, body]``.

Read before the guest's code runs: what arrives comes from the trusted host, and is checked all the
same, so that a fault of ours ends as a clear error and not as a strange guest. Written by the
process that ran the guest: the guest may have replaced anything here, and gains nothing by it,
because the host believes none of it. `sandbox/_wire.py` is the other half.
"""

from __future__ import annotations

import os

import msgpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = 1

# Longest texts a frame may carry, in bytes of UTF-8; the host refuses longer ones.
_TEXTS = {
    "raised": (1 << 10, 64 << 10, 256 << 10),
    "unfit": (4 << 10, 1 << 10, 4 << 10),
}

# msgpack allocates an array or a map by the length it claims, before its items are there.
_MOST_ITEMS = 8192


class FrameError(ValueError):
    """Bytes that are not a frame of the protocol."""


def encode(kind: str, call: int, body: Any) -> bytes:
    """One frame: ``"value"`` (bytes), ``"stored"`` and ``"too_large"`` (int), ``"raised"`` and
    ``"unfit"`` (three texts, cut here to what the host takes)."""
    limits = _TEXTS.get(kind)
    if limits is not None:
        first, second, third = body
        body = [clip(first, limits[0]), clip(second, limits[1]), clip(third, limits[2])]
    frame: bytes = msgpack.packb([VERSION, kind, call, body], use_bin_type=True)
    return len(frame).to_bytes(4, "big") + frame


def clip(text: str, most: int) -> str:
    """`text` in at most `most` bytes of UTF-8: lone surrogates escaped, the middle left out."""
    if len(text) > most:
        # Before encoding, so that a text of a gigabyte is not copied whole.
        text = text[:most] + text[-most:]
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= most:
        return data.decode()
    gap = b" ... "
    head = (most - len(gap)) // 2
    tail = most - len(gap) - head
    cut = data[:head] + gap + data[-tail:]
    return cut.decode("utf-8", "ignore")


def read_frame(fd: int, cap: int) -> tuple[str, int, object]:
    """Read one frame from a blocking descriptor: its kind, call number and body.

    Raises:
        EOFError: the stream ended before the frame did.
        FrameError: more than `cap` bytes, or not a frame.
        OSError: from the read.
    """
    head = _read_exactly(fd, 4)
    length = int.from_bytes(head, "big")
    if not 0 < length <= cap:
        raise FrameError(f"a frame of {length} bytes is outside 1 to {cap}")
    return _parse(_read_exactly(fd, length))


def _read_exactly(fd: int, length: int) -> bytearray:
    buffer = bytearray(length)
    with memoryview(buffer) as view:
        done = 0
        while done < length:
            with view[done:] as rest:
                count = os.readv(fd, [rest])
            if count == 0:
                raise EOFError(f"the stream ended after {done} of {length} bytes")
            done += count
    return buffer


def _refuse_ext(code: int, data: bytes) -> object:
    raise FrameError("a request has no extension types")


def _parse(buffer: bytearray) -> tuple[str, int, object]:
    try:
        items = msgpack.unpackb(
            buffer,
            raw=False,
            use_list=True,
            strict_map_key=True,
            ext_hook=_refuse_ext,
            max_array_len=_MOST_ITEMS,
            max_map_len=_MOST_ITEMS,
            max_ext_len=0,
        )
    except FrameError:
        raise
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise FrameError(f"a request is not msgpack ({type(error).__name__})") from None
    if type(items) is not list or len(items) != 4:
        raise FrameError("a request is not an array of four")
    version, kind, call, body = items
    if type(version) is not int or version != VERSION:
        raise FrameError("a request of another protocol version")
    if type(call) is not int or call < 0:
        raise FrameError("a request's call is not a number")
    if kind != "run":
        raise FrameError("a request of an unknown kind")
    if type(body) is not dict or not all(type(key) is str for key in body):
        raise FrameError("the body of a request is not a map of names")
    return kind, call, body
