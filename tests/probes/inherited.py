"""What a process finds on itself: descriptors, memory, environment, random state."""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import random
import resource
import socket
import stat
import struct
import uuid

from tests.probes.raw import attempt

_MOST = 1024


def descriptors() -> dict[int, str]:
    """Open descriptor → the kind of what it is."""
    kinds = {
        stat.S_IFSOCK: "socket",
        stat.S_IFREG: "file",
        stat.S_IFIFO: "pipe",
        stat.S_IFDIR: "folder",
        stat.S_IFCHR: "device",
    }
    found = {}
    for descriptor in range(_MOST):
        try:
            mode = os.fstat(descriptor).st_mode
        except OSError:
            continue
        found[descriptor] = kinds.get(stat.S_IFMT(mode), "other")
    return found


def names_of_descriptors() -> dict[int, str]:
    """Where each leads to, for those processes that may ask."""
    found = {}
    for descriptor in descriptors():
        try:
            found[descriptor] = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
    return found


def peer_of(descriptor: int) -> tuple[int, int]:
    """The pid and uid of who made a socket's other end."""
    with socket.socket(fileno=os.dup(descriptor)) as channel:
        data = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, _ = struct.unpack("3i", data)
    return pid, uid


def occurrences(first: bytes, second: bytes, plant: bool) -> int:
    """How often `first + second` lies anywhere in this process's writable memory, stack included.
    The two halves come apart, so that asking does not put it there; `plant` does."""
    planted = bytearray(first + second) if plant else bytearray()
    count = 0
    with open("/proc/self/maps") as file:
        areas = [line.split()[:2] for line in file]
    for span, rights in areas:
        if not rights.startswith("rw"):
            continue
        low, high = (int(number, 16) for number in span.split("-"))
        view = (ctypes.c_char * (high - low)).from_address(low)
        count += _matches(memoryview(view).cast("B"), first, second)
    return count if planted or not plant else -1


def _matches(area: memoryview, first: bytes, second: bytes) -> int:
    """In pieces, the copy of each of which is searched with two comparisons."""
    count = 0
    size = 1 << 20
    for start in range(0, len(area), size):
        piece = bytes(area[start : start + size + len(first) + len(second)])
        place = piece.find(first)
        while place >= 0:
            behind = place + len(first)
            count += piece[behind : behind + len(second)] == second
            place = piece.find(first, behind)
    return count


def environment() -> dict[str, str]:
    return dict(os.environ)


def random_state() -> tuple[float, bytes, str, int]:
    return random.random(), os.urandom(8), str(uuid.uuid4()), random.SystemRandom().getrandbits(64)


def hash_of_text() -> int:
    return hash("canary")


def resize(descriptor: int, size: int) -> str:
    return attempt(os.ftruncate, descriptor, size)


def own_memory_resized(size: int) -> str:
    return resize(os.memfd_create("own"), size)


def reopened_and_resized(descriptor: int, size: int) -> str:
    """Opened anew through /proc, which may give wider rights than the first opening had."""

    def reopen() -> None:
        os.ftruncate(os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR), size)

    return attempt(reopen)


def change_flags() -> list[int]:
    """O_NONBLOCK and O_APPEND on everything; the flags that were there before."""
    before = []
    for descriptor in descriptors():
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        before.append(flags)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    return before


def own_by_signal(request: int, argument: int) -> str:
    return attempt(fcntl.fcntl, 1, request, argument)


def pass_descriptors(descriptor: int, count: int, times: int) -> int:
    """Send descriptors along an open socket, as often as it takes them; how often that was."""
    passed = array.array("i", [os.open("/dev/null", os.O_RDONLY) for _ in range(count)])
    with socket.socket(fileno=os.dup(descriptor)) as channel:
        channel.setblocking(False)
        for sent in range(times):
            try:
                channel.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
            except OSError:
                return sent
    return times


def duplicate(target: int) -> str:
    return attempt(os.dup2, 1, target)


def raise_hard_limit() -> str:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard + 1))
    except ValueError:
        return "refused"
    return "done"


def open_many() -> int:
    """How many descriptors there can be at once."""
    try:
        while True:
            os.open("/dev/null", os.O_RDONLY)
    except OSError:
        return len(descriptors())


def modules_of_ours() -> list[str]:
    """What could be imported, or is named, of the program that started this process."""
    import sys

    found = [name for name in ("sandbox", "worker", "msgpack", "_cffi_backend") if _imports(name)]
    found += [name for name in sys.modules if name.partition(".")[0] in ("worker", "msgpack")]
    main = sys.modules["__main__"]
    named = [*sys.argv, *sys.orig_argv, getattr(main, "__file__", "")]
    return found + [text for text in named if "worker" in text]


def _imports(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def task_of_my_worker() -> object:
    import sys

    sys.path.insert(0, "/data")
    return __import__("worker").task()
