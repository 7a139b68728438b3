"""Attempts to talk: sockets, names, keys, watches, queues."""

from __future__ import annotations

import ctypes
import os
import socket
import struct

from tests.probes.raw import attempt, system_call


def connect_tcp(host: str, port: int) -> str:
    def connect() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as channel:
            channel.settimeout(1)
            channel.connect((host, port))

    return attempt(connect)


def send_udp(host: str, port: int) -> str:
    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            channel.sendto(b"x", (host, port))

    return attempt(send)


def look_up(name: str) -> str:
    try:
        socket.getaddrinfo(name, 80)
    except OSError as error:
        return type(error).__name__
    return "done"


def connect_unix(address: str) -> str:
    def connect() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.connect(address)

    return attempt(connect)


def send_to_path(address: str) -> str:
    """By a datagram socket of a pair, which may be sent anywhere."""

    def send() -> None:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with one, other:
            one.sendto(b"x", address)

    return attempt(send)


def send_to_path_from_a_stream(address: str) -> str:
    def send() -> None:
        one, other = socket.socketpair()
        with one, other:
            one.sendto(b"x", address)

    return attempt(send)


def make_socket(family: int, kind: int, protocol: int) -> str:
    return attempt(lambda: socket.socket(family, kind, protocol).detach())


def make_pair(family: int, kind: int) -> str:
    return attempt(lambda: [end.detach() for end in socket.socketpair(family, kind)])


def attach_filter() -> str:
    """SO_ATTACH_FILTER: a program of one instruction on a socket of one's own."""
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0xFFFF))
    program = struct.pack("HxxxxxxP", 1, ctypes.addressof(instruction))
    one, other = socket.socketpair()
    with one, other:
        return attempt(one.setsockopt, socket.SOL_SOCKET, 26, program)


def option_of(descriptor: int, level: int, option: int) -> str:
    """Ask a socket that is open already; -1: one of a pair of one's own."""
    one, other = socket.socketpair()
    with (
        one,
        other,
        socket.socket(fileno=os.dup(one.fileno() if descriptor < 0 else descriptor)) as asked,
    ):
        return attempt(asked.getsockopt, level, option, 64)


def set_buffer() -> str:
    one, other = socket.socketpair()
    with one, other:
        return attempt(one.setsockopt, socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)


def pass_a_descriptor() -> int:
    """Among processes of one's own that is honest."""
    one, other = socket.socketpair()
    with one, other:
        socket.send_fds(one, [b"x"], [0])
        return len(socket.recv_fds(other, 1, 1)[1])


def write_to_pipe(path: str) -> str:
    """A named pipe, without waiting for a reader."""

    def write() -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(descriptor, b"x")
        finally:
            os.close(descriptor)

    return attempt(write)


def watch(inotify_init1: int, inotify_add_watch: int, path: str) -> str:
    """Everything that happens to a file."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(inotify_init1, 0)
    if descriptor < 0:
        return system_call(inotify_init1, 0)
    return system_call(inotify_add_watch, descriptor, path.encode(), 0xFFF)


def interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def sockets_open_by_default() -> str:
    """What asyncio and multiprocessing need."""
    return make_pair(socket.AF_UNIX, socket.SOCK_STREAM)
