"""Guests that take all they can get. Only ever run in a jail and under small caps."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import resource
import signal
import socket
import time

from tests.probes.raw import name_of

_MIB = 1 << 20


def touch(megabytes: int) -> int:
    """Anonymous memory, every page written."""
    return len(bytearray(megabytes * _MIB))


def touch_and_hold_on(megabytes: int) -> int:
    """The same, where a MemoryError would be coped with."""
    hoard = []
    try:
        for _ in range(megabytes):
            hoard.append(bytearray(b"x") * _MIB)
    except MemoryError:
        return -1
    return len(hoard)


def hog_in_a_child(megabytes: int) -> str:
    """The child is the hog; its parent would be there to tell."""
    child = os.fork()
    if child == 0:
        touch(megabytes)
        os._exit(0)
    return str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def fill_memfds(megabytes: int) -> int:
    block = b"x" * _MIB
    areas = [os.memfd_create("bomb")]
    for _ in range(megabytes):
        try:
            os.write(areas[-1], block)
        except OSError as error:
            # File size has a cap of its own: the next file.
            if error.errno != errno.EFBIG:
                raise
            areas.append(os.memfd_create("bomb"))
    return len(areas)


def build_page_tables(gigabytes: int) -> int:
    """One byte in every 2 MiB of a reservation: each needs a page, and a page of the table."""
    area = mmap.mmap(
        -1,
        gigabytes << 30,
        mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000),
    )
    try:
        area.madvise(15)  # MADV_NOHUGEPAGE: pages of 4 KiB
    except OSError as error:
        if error.errno != errno.EINVAL:  # a kernel that has no other pages
            raise
    for place in range(0, gigabytes << 30, 2 * _MIB):
        area[place] = 1
    return gigabytes


def split_mappings(most: int) -> str:
    """Single pages of alternating rights, none of which can be merged with the next."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    first: list[int] = []
    for index in range(most):
        place = libc.mmap(None, 4096, 1 + index % 2, flags, -1, 0)
        if place == ctypes.c_void_p(-1).value:
            found = name_of(ctypes.get_errno())
            for page in first:  # or there might be no memory to answer with
                libc.munmap(page, 4096)
            return found
        if index < 200:
            first.append(place)
    return "done"


def huge_pages(flags: int) -> str:
    try:
        mmap.mmap(-1, 2 * _MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | flags).close()
    except OSError as error:
        return name_of(error.errno or 0)
    return "done"


def huge_memfd() -> str:
    try:
        os.close(os.memfd_create("huge", os.MFD_HUGETLB))
    except OSError as error:
        return name_of(error.errno or 0)
    return "done"


def fill_sockets() -> int:
    """Pairs of sockets with all the data they hold, as many as there are descriptors: the bytes."""
    block, pairs, total = b"x" * 4096, [], 0
    try:
        while True:
            pairs.append(socket.socketpair())
            for end in pairs[-1]:
                end.setblocking(False)
                total += _fill(end, block)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    return total


def _fill(end: socket.socket, block: bytes) -> int:
    sent = 0
    try:
        while True:
            sent += end.send(block)
    except BlockingIOError:
        return sent


def fill_disk(directory: str) -> None:
    """Files, each below the cap of one file, until there is no room."""
    block = b"x" * (64 << 10)
    for index in range(10_000):
        with open(f"{directory}/fill-{index}", "wb", buffering=0) as file:
            for _ in range(16):
                file.write(block)


def fill_disk_and_cope(directory: str) -> str:
    try:
        fill_disk(directory)
    except OSError as error:
        return name_of(error.errno or 0)
    return "done"


def fill_inodes(directory: str) -> None:
    for index in range(100_000):
        open(f"{directory}/empty-{index}", "wb").close()


def empty(directory: str) -> int:
    names = os.listdir(directory)
    for name in names:
        os.unlink(f"{directory}/{name}")
    return len(names)


def sparse_file(size: int) -> int:
    with open("/tmp/sparse", "wb") as file:
        return file.truncate(size)


def sparse_file_with_the_signal(size: int) -> int:
    """Python ignores SIGXFSZ; other programs die of it."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    return sparse_file(size)


def deep_tree(depth: int) -> int:
    """Folders in folders, with names of 255 bytes that are no text."""
    os.chdir("/tmp")
    name = bytes(range(128, 255)) + b"\n\x1b" + b"\xff" * 126
    for _ in range(depth):
        os.mkdir(name)
        os.chdir(name)
    return depth


# --- processes and time ---------------------------------------------------------------------------


def fork_without_end() -> None:
    while True:
        os.fork()


def fork_and_cope(times: int) -> int:
    """Children that wait; how many there could be."""
    children = []
    for _ in range(times):
        try:
            child = os.fork()
        except BlockingIOError:
            break
        if child == 0:
            signal.pause()
        children.append(child)
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
    return len(children)


def farm_zombies(times: int) -> None:
    """Children that end at once and are never waited for."""
    for _ in range(times):
        if os.fork() == 0:
            os._exit(0)


def make_orphans(times: int) -> int:
    """One after the other: children of a child that ended. Init has to reap each."""
    for _ in range(times):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            if os.fork() == 0:
                os._exit(0)
            os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        os.read(reader, 1)  # ends when the orphan did
        os.close(reader)
    return times


def daemonize(detach: bool) -> int:
    """A process that outlives its parents, in a session of its own: its pid. Without `detach` it
    keeps every descriptor, stdout and the result channel among them."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(1, signal.NSIG):
                if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
                    signal.signal(number, signal.SIG_IGN)
            os.write(writer, str(os.getpid()).encode())
            if detach:
                os.closerange(0, 64)
            while True:
                time.sleep(60)
        os._exit(0)
    os.wait()
    pid = int(os.read(reader, 20))
    os.kill(pid, 0)  # it lives
    return pid


def leave_children_spinning(count: int) -> None:
    for _ in range(count):
        if os.fork() == 0:
            break
    while True:
        pass


def spin_in_one_call() -> int:
    """No bytecode in between: no signal handler of Python's runs."""
    return sum(range(10**14))


def match_without_end() -> bool:
    return re.fullmatch("(a+)+b", "a" * 64) is not None


def spin_unkillable() -> None:
    """Every signal blocked or ignored, and alarms turned off."""
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
    signal.alarm(0)
    while True:
        pass


def raise_cpu_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
    while True:
        pass


def burn(seconds: float) -> float:
    begun = time.process_time()
    while time.process_time() - begun < seconds:
        pass
    return time.process_time() - begun


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "awake"


def mark_and_sleep(path: str, seconds: float) -> str:
    open(path, "w").close()
    return sleep(seconds)


def come_and_go(times: int) -> int:
    """Short lives, so that numbers are used again quickly."""
    for _ in range(times):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
    return times


def flood(stream: int) -> None:
    while True:
        os.write(stream, b"spam " * 1000)


def write_both(size: int) -> int:
    """To stdout and stderr by turns, each more than a pipe holds."""
    block = b"x" * 4096
    for _ in range(size // len(block)):
        for stream in (1, 2):
            view = memoryview(block)
            while view:
                view = view[os.write(stream, view) :]
    return size
