"""Become the program that the host named. Runs in the confined worker with the guest's rights,
before guest code: what it reads comes from the trusted host, where it writes an earlier call may
have been.

Descriptors 3 and up close on exec, so that what the host hears here no program can have said.
"""

from __future__ import annotations

import _signal
import errno
import mmap
import os

from . import confine, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_UNSTARTED = 127
_UNFINISHED = b".being-placed"


def become(channel: int, number: int, body: dict[str, Any]) -> NoReturn:
    """Place the files, then exec; or say why not, take the files back, and end."""
    placed: list[bytes] = []
    step = "files"
    try:
        _place(body["files"], placed)
        step = "cwd"
        os.chdir(body["cwd"])
        step = "program"
        _take_default_signals()
        os.execvpe(body["argv"][0], body["argv"], body["environment"])  # noqa: S606
    except OSError as error:
        path = body["cwd"]
        if step == "files":
            path = body["files"][len(placed)][0] if len(placed) < len(body["files"]) else b"/work"
        elif step == "program":
            path, step = body["argv"][0], _why(body, error)
        for name in placed:
            _remove(b"/work/" + name)
        texts = [str(error.errno), path.decode("utf-8", "backslashreplace"), step]
        os.write(channel, wire.encode("unstarted", number, texts))
    finally:
        os._exit(_UNSTARTED)


def _why(body: dict[str, Any], error: OSError) -> str:
    """ENOENT for a program that is there means the interpreter that it names."""
    name: bytes = body["argv"][0]
    if error.errno == errno.ENOENT and b"/" in name and os.path.exists(name):
        return "interpreter"
    return "program"


def _take_default_signals() -> None:
    # exec keeps what is ignored: programs expect SIGPIPE to end them.
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)


def _place(files: list[tuple[bytes, int, int]], placed: list[bytes]) -> None:
    """Each file below /work, in the order in which their bytes lie in the memory from the host."""
    if not files:
        return
    work = os.open(b"/work", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    content = _content(sum(size for _, _, size in files))
    for name, mode, size in files:
        *folders, last = name.split(b"/")
        here = _enter(work, folders)
        try:
            _write(here, last, mode, content[:size])
        finally:
            os.close(here)
        placed.append(name)
        content = content[size:]
    os.close(work)


def _content(size: int) -> memoryview:
    """The bytes of all files, mapped: no copy of them in this process. Private, since a shared
    mapping of a memfd sealed against writing is EPERM before Linux 6.7."""
    if not size:
        return memoryview(b"")
    area = mmap.mmap(confine.STORE, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    return memoryview(area)


def _enter(work: int, folders: list[bytes]) -> int:
    """The folder, made where it is missing; no link is followed."""
    here = os.dup(work)
    for folder in folders:
        try:
            os.mkdir(folder, 0o755, dir_fd=here)
        except FileExistsError:
            pass
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        below = os.open(folder, flags, dir_fd=here)
        os.close(here)
        here = below
    return here


def _remove(name: bytes, here: int | None = None) -> None:
    try:
        os.unlink(name, dir_fd=here)
    except OSError:
        pass


def _write(here: int, name: bytes, mode: int, content: memoryview) -> None:
    """Whole or not at all: beside its place first, then over what an earlier call left there, a
    link perhaps."""
    _remove(_UNFINISHED, here)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    file = os.open(_UNFINISHED, flags, mode, dir_fd=here)
    try:
        while content:
            content = content[os.write(file, content) :]
        os.rename(_UNFINISHED, name, src_dir_fd=here, dst_dir_fd=here)
    except OSError:
        _remove(_UNFINISHED, here)
        raise
    finally:
        os.close(file)
