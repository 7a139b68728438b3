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
from itertools import starmap
from typing import Any

import msgpack

_MOST_DESCRIPTORS = 8
_MOST_BYTES = 1 << 16


class ChannelLost(Exception):
    """The other side is `gone`, or said something that is not a message."""

    def __init__(self, reason: str, *, gone: bool = False) -> None:
        super().__init__(reason)
        self.gone = gone


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


def send(
    channel: socket.socket,
    message: object,
    descriptors: Sequence[int] = (),
    sent: list[int] | None = None,
) -> None:
    """Send one message with copies of `descriptors`. `sent` gets an item in the same moment, as
    `receive_into` explains. Raises ChannelLost."""
    ancillary = []
    if descriptors:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    # MSG_NOSIGNAL: an application may have given up Python's refusal of SIGPIPE.
    arguments = ([msgpack.packb(message)], ancillary, socket.MSG_NOSIGNAL)
    try:
        ([] if sent is None else sent).extend(starmap(channel.sendmsg, (arguments,)))
    except OSError as error:
        gone = isinstance(error, ConnectionError)
        raise ChannelLost(f"cannot send: {error.strerror}", gone=gone) from None


def readable(descriptor: int, seconds: float = 0.0) -> bool:
    """Whether `descriptor` is, or becomes, readable. By poll: select knows only numbers below
    1024."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


class Inbox:
    """The messages of one socket, in order. Whoever uses it may be interrupted anywhere, by Ctrl-C
    or a signal handler: a message stays here, with its descriptors, until `drop`."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._arrived: list[Any] = []

    def __len__(self) -> int:
        """How many messages were received and not dropped."""
        return len(self._arrived)

    def get(self, number: int = 0) -> tuple[list[Any], list[int]]:
        """A message that was not dropped, by its place; waits for it: a non-empty list that begins
        with a string, and the descriptors that came with it. Raises ChannelLost."""
        while len(self._arrived) <= number:
            receive_into(self._arrived, self._channel, _MOST_BYTES, _MOST_DESCRIPTORS * 4)
        data, ancillary, flags, _ = self._arrived[number]
        return _decode(data, flags), _descriptors(ancillary)

    def drop(self) -> None:
        """The first message was seen to; its descriptors are closed."""
        close_all(_descriptors(self._arrived.pop(0)[1]))

    def close(self) -> None:
        """Close the descriptors of all messages that are left."""
        while self._arrived:
            self.drop()


def receive_into(arrived: list[Any], channel: socket.socket, size: int, ancillary: int) -> None:
    """recvmsg(2), its result appended to `arrived`. In one call of the C library, because between
    any two of ours an exception may come from a signal handler, and what was received be lost:
    descriptors, or the word that a call has ended. Raises ChannelLost, BlockingIOError."""
    arguments = (size, socket.CMSG_SPACE(ancillary), socket.MSG_CMSG_CLOEXEC)
    try:
        arrived.extend(starmap(channel.recvmsg, (arguments,)))
    except ConnectionError as error:
        raise ChannelLost(str(error), gone=True) from None


def receive(channel: socket.socket) -> tuple[list[Any], list[int]]:
    """The next message, as `Inbox.get`. Raises ChannelLost, and closes the descriptors then."""
    inbox = Inbox(channel)
    try:
        return inbox.get()
    except ChannelLost:
        inbox.close()
        raise


def _decode(data: bytes, flags: int) -> list[Any]:
    if not data:
        raise ChannelLost("the other side closed the channel", gone=True)
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
