"""Become the program that the host named. Runs in the confined worker with the guest's rights,
before guest code: what it reads comes from the trusted host, where it writes an earlier call may
have been, and may have made what it executes.

Descriptors 3 and up close on exec, so that what the host hears here no program can have said.
"""

from __future__ import annotations

import _signal
import errno
import os
import stat

from . import wire
from .placing import Placing, Unstarted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_UNSTARTED = 127
_MISSING = (errno.ENOENT, errno.ENOTDIR)
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
# From elf(5): e_machine of the programs whose system calls the filters know, all of 64 bits.
_MACHINES = {"x86_64": 62, "aarch64": 183}
_64_BITS = 2
_HEADER = 256  # what the kernel reads of a script, too


def become(channel: int, number: int, body: dict[str, Any]) -> NoReturn:
    """Place the files, then exec; or say why not, take the files back, and end."""
    placing = Placing()
    try:
        placing.place(body["files"])
        _enter(body["cwd"])
        _execute(body["argv"], body["environment"], placing)
    except Unstarted as error:
        placing.take_back()
        path = error.path.decode("utf-8", "backslashreplace")
        os.write(channel, wire.encode("unstarted", number, [str(error.number), path, error.step]))
    finally:
        os._exit(_UNSTARTED)


def _enter(folder: bytes) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        raise Unstarted("cwd", error.errno or 0, folder) from None


def _execute(argv: list[bytes], environment: dict[bytes, bytes], placing: Placing) -> NoReturn:
    """As execvp(3): the first that can be executed; if none can, why the first that is there
    cannot. Searched here, so that it is known which one that is."""
    refusal: Unstarted | None = None
    number = errno.ENOENT
    for path in _places(argv[0], environment):
        failure = _flaw(path)
        if failure is not None:
            number = failure.number
            if failure.step == "interpreter" or number not in _MISSING:
                refusal = refusal or failure
            continue
        placing.let_go()
        failure = _become(path, argv, environment)
        refusal = refusal or failure
    if refusal is None:
        refusal = Unstarted("program", number if b"/" in argv[0] else errno.ENOENT, argv[0])
    raise refusal


def _places(name: bytes, environment: dict[bytes, bytes]) -> list[bytes]:
    if b"/" in name:
        return [name]
    folders = environment.get(b"PATH", os.fsencode(os.defpath)).split(b":")
    return [os.path.join(folder, name) for folder in folders]


def _flaw(path: bytes) -> Unstarted | None:
    """What exec would say, as far as it can be known before, while all can still be taken back as
    it was. And ENOEXEC for what the kernel runs, but the filters end at its first call."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode) or not os.access(path, os.X_OK):
            return Unstarted("program", errno.EACCES, path)
        header = _header(path)
    except OSError as error:
        return Unstarted("program", error.errno or 0, path)
    if header.startswith(b"\x7fELF") and not _is_native(header):
        return Unstarted("program", errno.ENOEXEC, path)
    interpreter = _interpreter(header)
    if interpreter and not os.path.exists(interpreter):
        return Unstarted("interpreter", errno.ENOENT, path)
    return None


def _header(path: bytes) -> bytes:
    try:
        file = os.open(path, _READ)
    except OSError:
        return b""  # executable but not readable: the kernel will look
    try:
        return os.read(file, _HEADER)
    finally:
        os.close(file)


def _is_native(header: bytes) -> bool:
    machine = _MACHINES.get(os.uname().machine)
    if machine is None:
        return True
    return header[4:5] == bytes([_64_BITS]) and header[18:20] == machine.to_bytes(2, "little")


def _interpreter(header: bytes) -> bytes:
    """What a script names, as the kernel reads it."""
    if not header.startswith(b"#!"):
        return b""
    line = header[2:].replace(b"\0", b"\n").partition(b"\n")[0].strip(b" \t")
    return line.replace(b"\t", b" ").partition(b" ")[0]


def _become(path: bytes, argv: list[bytes], environment: dict[bytes, bytes]) -> Unstarted:
    """Returns only if exec fails. What is missing then is not the file, which is there, but the
    interpreter that it names."""
    _take_default_signals()
    try:
        os.execve(path, argv, environment)  # noqa: S606
    except OSError as error:
        step = "interpreter" if error.errno in _MISSING else "program"
        return Unstarted(step, error.errno or 0, path)


def _take_default_signals() -> None:
    # exec keeps what is ignored: programs expect SIGPIPE to end them.
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)
