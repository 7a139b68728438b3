"""The host's side of the messages with the launcher and a jail's init (SEQPACKET, msgpack).

Init is our own code, but it shares its user id with the guest: what it says is decoded with caps,
checked for its form, and believed only where nothing depends on it but the call itself.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
from collections.abc import Sequence
from typing import Any

import msgpack

_MOST_DESCRIPTORS = 8
_MOST_BYTES = 1 << 16


class ChannelLost(Exception):
    """The other side is gone, or said something that is not a message."""


def pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair; both ends close on exec. Neither is 0, 1 or 2, which are free in a program
    that was started without them: what writes to its stdout would write to a launcher."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return _above_the_standard_ones(one), _above_the_standard_ones(other)


def _above_the_standard_ones(end: socket.socket) -> socket.socket:
    if end.fileno() > 2:
        return end
    with end:
        return socket.socket(fileno=fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))


def send(channel: socket.socket, message: object, descriptors: Sequence[int] = ()) -> None:
    """Send one message with copies of `descriptors`. Raises ChannelLost."""
    ancillary = []
    if descriptors:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    try:
        # MSG_NOSIGNAL: an application may have given up Python's refusal of SIGPIPE.
        channel.sendmsg([msgpack.packb(message)], ancillary, socket.MSG_NOSIGNAL)
    except OSError as error:
        raise ChannelLost(f"cannot send: {error.strerror}") from None


def readable(descriptor: int, seconds: float = 0.0) -> bool:
    """Whether `descriptor` is, or becomes, readable. By poll: select knows only numbers below
    1024."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def receive(channel: socket.socket) -> tuple[list[Any], list[int]]:
    """The next message (waiting for it unless the socket is non-blocking): a non-empty list that
    begins with a string, and the descriptors that came with it. Raises ChannelLost."""
    size = socket.CMSG_LEN(_MOST_DESCRIPTORS * 4)
    try:
        data, ancillary, flags, _ = channel.recvmsg(_MOST_BYTES, size, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError as error:
        raise ChannelLost(str(error)) from None
    descriptors = _descriptors(ancillary)
    try:
        return _decode(data, flags), descriptors
    except ChannelLost:
        close_all(descriptors)
        raise


def _decode(data: bytes, flags: int) -> list[Any]:
    if not data:
        raise ChannelLost("the other side closed the channel")
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise ChannelLost("a message was longer than any of ours")
    try:
        message = msgpack.unpackb(data, max_ext_len=0, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise ChannelLost(f"not a message: {error}") from None
    if not (isinstance(message, list) and message and isinstance(message[0], str)):
        raise ChannelLost("not a message")
    return message


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(payload[: len(payload) - len(payload) % 4])
    return list(found)


def close_all(descriptors: Sequence[int]) -> None:
    """Close each descriptor."""
    for descriptor in descriptors:
        os.close(descriptor)
