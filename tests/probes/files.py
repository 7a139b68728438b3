"""Attempts on files: walks out of the root, writes to what is read-only, /proc and its knobs."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import stat
from typing import Any

from tests.probes.raw import attempt, name_of, system_call, value_of

_MOST = 256


def read_text(path: str) -> str:
    with open(path) as file:
        return file.read()


def write_text(path: str) -> str:
    def write() -> None:
        with open(path, "w") as file:
            file.write("mine now")

    return attempt(write)


def open_for_writing(path: str) -> str:
    return attempt(lambda: os.close(os.open(path, os.O_RDWR)))


def open_with(path: str, flags: int) -> str:
    return attempt(lambda: os.close(os.open(path, flags)))


def create(path: str) -> str:
    return attempt(lambda: os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)))


def walk_up(path: str) -> str:
    """By more `..` than any folder is deep, from here."""
    return read_text("../" * 60 + path.lstrip("/"))


def walk_up_from_descriptors(path: str) -> list[str]:
    """The same from every open descriptor that will serve as a folder."""
    found = []
    for descriptor in range(_MOST):
        try:
            file = os.open("../" * 60 + path.lstrip("/"), os.O_RDONLY, dir_fd=descriptor)
        except OSError:
            continue
        found.append(os.read(file, 100).decode())
        os.close(file)
    return found


def walk_up_from_an_open_folder(path: str) -> str:
    """From a folder opened before, which is then moved away and left."""
    os.makedirs("/tmp/a/b", exist_ok=True)
    folder = os.open("/tmp/a/b", os.O_RDONLY)
    os.rename("/tmp/a/b", "/tmp/b")
    file = os.open("../" * 60 + path.lstrip("/"), os.O_RDONLY, dir_fd=folder)
    os.rmdir("/tmp/b")
    return os.read(file, 100).decode()


def follow_a_link(path: str) -> str:
    link = f"/tmp/link-{os.getpid()}"
    os.symlink(path, link)
    try:
        return read_text(link)
    finally:
        os.unlink(link)


def reopen_for_writing(path: str) -> str:
    """A file open for reading, opened again through /proc."""
    with open(path) as file:
        return open_for_writing(f"/proc/self/fd/{file.fileno()}")


def map_for_writing(path: str) -> str:
    with open(path) as file:
        return attempt(
            lambda: mmap.mmap(file.fileno(), 4, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        )


def make_setuid(directory: str) -> str:
    path = f"{directory}/setuid-{os.getpid()}"
    open(path, "w").close()
    try:
        os.chmod(path, 0o755)
        return attempt(os.chmod, path, 0o4755)
    finally:
        os.unlink(path)


def create_with(directory: str, mode: int) -> str:
    """A file with set-id bits from its birth; "lost" if the kernel left them out."""
    path = f"{directory}/born-{os.getpid()}"
    os.umask(0)
    answer = attempt(lambda: os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)))
    return _born(path, mode) if answer == "done" else answer


def create_unnamed_with(directory: str, mode: int) -> str:
    """The same without a name, by O_TMPFILE; /proc or linkat() could give it one."""
    os.umask(0)
    try:
        file = os.open(directory, os.O_RDWR | os.O_TMPFILE, mode)
    except OSError as error:
        return name_of(error.errno or 0)
    with open(file, "rb") as unnamed:
        return "done" if stat.S_IMODE(os.fstat(unnamed.fileno()).st_mode) == mode else "lost"


def create_by_creat(creat: int, directory: str, mode: int) -> str:
    path = f"{directory}/born-{os.getpid()}"
    os.umask(0)
    answer = system_call(creat, path.encode(), mode)
    return _born(path, mode) if answer == "done" else answer


def create_by_openat2(openat2: int, directory: str, mode: int) -> str:
    """Flags and mode in memory: struct open_how."""
    path = f"{directory}/born-{os.getpid()}"
    os.umask(0)
    how = (ctypes.c_uint64 * 3)(os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode, 0)
    answer = system_call(openat2, -100, path.encode(), ctypes.addressof(how), 24)
    return _born(path, mode) if answer == "done" else answer


def make_node_with(directory: str, mode: int) -> str:
    """A regular file by mknod."""
    path = f"{directory}/born-{os.getpid()}"
    os.umask(0)
    answer = attempt(os.mknod, path, stat.S_IFREG | mode)
    return _born(path, mode) if answer == "done" else answer


def _born(path: str, mode: int) -> str:
    kept = stat.S_IMODE(os.stat(path).st_mode) == mode
    os.unlink(path)
    return "done" if kept else "lost"


def mode_of_new_folder(directory: str, mode: int) -> int:
    path = f"{directory}/folder-{os.getpid()}"
    os.umask(0)
    os.mkdir(path, mode)
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    finally:
        os.rmdir(path)


def open_with_mode(path: str, mode: int) -> str:
    """Without O_CREAT the mode means nothing, and C programs leave in it what was there."""
    return attempt(lambda: os.close(os.open(path, os.O_RDONLY, mode)))


def make_node(directory: str, kind: int, device: int) -> str:
    path = f"{directory}/node-{os.getpid()}"
    answer = attempt(os.mknod, path, kind | 0o600, device)
    if os.path.lexists(path):
        os.unlink(path)
    return answer


def make_whiteout(directory: str) -> str:
    """The character device 0:0, which hides a file of an overlay. Needs no right since Linux 5.8."""
    return make_node(directory, stat.S_IFCHR, 0)


def set_attribute(name: str) -> str:
    path = f"/tmp/attribute-{os.getpid()}"
    open(path, "w").close()
    try:
        return attempt(os.setxattr, path, name, b"y")
    finally:
        os.unlink(path)


def mounts() -> list[str]:
    """The places where something is mounted, as this process sees them."""
    with open("/proc/self/mountinfo") as file:
        return [line.split()[4] for line in file]


def sources_of_mounts() -> list[str]:
    """Of each mount, the place in its own file system that is shown there."""
    with open("/proc/self/mountinfo") as file:
        return [line.split()[3] for line in file]


def mounts_without_nosuid() -> list[str]:
    with open("/proc/self/mountinfo") as file:
        lines = [line.split() for line in file]
    return [line[4] for line in lines if "nosuid" not in line[5].split(",")]


def listing(path: str) -> list[str]:
    return sorted(os.listdir(path))


def visible_of(paths: list[str]) -> list[str]:
    return [path for path in paths if os.path.lexists(path)]


def read_of_process(pid: int) -> dict[str, str]:
    """What /proc tells of another process."""

    def read(path: str) -> None:
        os.close(os.open(path, os.O_RDONLY))

    found = {}
    for name in ("environ", "maps", "mem", "status"):
        found[name] = attempt(read, f"/proc/{pid}/{name}")
    for name in ("root", "cwd", "exe"):
        found[name] = attempt(os.readlink, f"/proc/{pid}/{name}")
    found["fd"] = attempt(os.listdir, f"/proc/{pid}/fd")
    return found


def turn_knobs(values: dict[str, str]) -> dict[str, str]:
    """Write to files of /proc/self."""

    def write(name: str, text: str) -> None:
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)

    return {name: attempt(write, name, text) for name, text in values.items()}


def open_by_handle(name_to_handle_at: int, open_by_handle_at: int, path: str) -> str:
    """A file by the number its file system gave it, as "Shocker" did."""
    handle = (ctypes.c_uint * 34)(128)
    mount = ctypes.c_int()
    pointers = ctypes.addressof(handle), ctypes.addressof(mount)
    value_of(name_to_handle_at, -100, path.encode(), *pointers, 0)
    here = os.open(path, os.O_RDONLY)

    def reopen() -> None:
        value = value_of(open_by_handle_at, here, ctypes.addressof(handle), os.O_RDONLY)
        if value < 0:
            raise OSError(-value, "open_by_handle_at")

    return attempt(reopen)


def lock(path: str) -> str:
    """An exclusive lock, which a file that is only open for reading takes as well."""
    with open(path) as file:
        return attempt(fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def record_lock(path: str) -> str:
    with open(path) as file:
        return attempt(fcntl.lockf, file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sync(path: str) -> str:
    """fsync of a file that is open for reading only."""
    with open(path) as file:
        return attempt(os.fsync, file.fileno())


def read_with(path: str, flags: int) -> str:
    """One byte by preadv2."""
    with open(path, "rb") as file:
        return attempt(os.preadv, file.fileno(), [bytearray(1)], 0, flags)


def write_with(path: str, flags: int) -> str:
    """One byte by pwritev2."""
    with open(path, "wb") as file:
        return attempt(os.pwritev, file.fileno(), [b"x"], 0, flags)


def write_to_pipe_with(flags: int) -> str:
    """One byte into a pipe of one's own by pwritev2, at the place where it is (-1)."""
    _, end = os.pipe()
    return attempt(os.pwritev, end, [b"x"], -1, flags)


def advise(path: str, advice: int) -> str:
    with open(path, "rb") as file:
        return attempt(os.posix_fadvise, file.fileno(), 0, 0, advice)


def control_file(path: str, request: int, argument: Any = 0) -> str:
    return attempt(fcntl.fcntl, os.open(path, os.O_RDONLY), request, argument)


def remount_writable(mount: int, unshare: int) -> list[str]:
    """From a user and mount namespace of one's own, where there are such: make the root writable."""
    made = value_of(unshare, 0x10000000 | 0x00020000)
    if made < 0:
        return [str(made)]
    remounted = value_of(mount, b"none", b"/", 0, 32 | 4096, 0)  # MS_REMOUNT | MS_BIND
    return ["done", os.strerror(-remounted) if remounted < 0 else "done", create("/new")]
