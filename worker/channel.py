"""Messages between the host, the launcher and init: msgpack over SEQPACKET, with descriptors.

Only our own trusted code speaks here; a worker closes its copy before it takes its last filter.
"""

from __future__ import annotations

import _socket as socket
import array
import os

import msgpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MOST_DESCRIPTORS = 32
_MOST_BYTES = 1 << 18


class TooLong(Exception):
    """A message is longer than any of ours."""


def send(channel: socket.socket, message: object, descriptors: tuple[int, ...] = ()) -> None:
    """Send one message, with copies of `descriptors`."""
    ancillary = []
    if descriptors:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    channel.sendmsg([msgpack.packb(message)], ancillary, socket.MSG_NOSIGNAL)


def receive(channel: socket.socket) -> tuple[list[Any], list[int]]:
    """Wait for one message: (message, descriptors). EOFError when the other side is gone; TooLong
    for a message that was cut, its descriptors closed."""
    size = socket.CMSG_LEN(_MOST_DESCRIPTORS * 4)
    data, ancillary, flags, _ = channel.recvmsg(_MOST_BYTES, size, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % 4])
    if not data:
        raise EOFError
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for descriptor in descriptors:
            os.close(descriptor)
        raise TooLong
    return msgpack.unpackb(data, strict_map_key=False), list(descriptors)


def take(memory: int) -> Any:
    """What the host left in a memfd; closes it."""
    try:
        size = os.fstat(memory).st_size
        return msgpack.unpackb(os.pread(memory, size, 0), strict_map_key=False)
    finally:
        os.close(memory)
