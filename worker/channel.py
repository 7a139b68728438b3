"""Messages between the host, the launcher and init: msgpack over SEQPACKET, with descriptors.

Only our own trusted code speaks here; a worker closes its copy before it takes its last filter.
"""

from __future__ import annotations

import _socket as socket
import array

import msgpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MOST_DESCRIPTORS = 32
_MOST_BYTES = 1 << 18


def send(channel: socket.socket, message: object, descriptors: tuple[int, ...] = ()) -> None:
    """Send one message, with copies of `descriptors`."""
    ancillary = []
    if descriptors:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    channel.sendmsg([msgpack.packb(message)], ancillary)


def receive(channel: socket.socket) -> tuple[list[Any], list[int]]:
    """Wait for one message: (message, descriptors). EOFError when the other side is gone."""
    size = socket.CMSG_LEN(_MOST_DESCRIPTORS * 4)
    data, ancillary, _, _ = channel.recvmsg(_MOST_BYTES, size, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % 4])
    if not data:
        raise EOFError
    return msgpack.unpackb(data, strict_map_key=False), list(descriptors)
