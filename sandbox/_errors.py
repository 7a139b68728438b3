"""The exception tree. What untrusted code did is a value (`Outcome`) that `run` turns into one of
these; what we could not do is `Unsupported`, `SetupError` or `InternalError`. Bad arguments are
ordinary `ValueError`/`TypeError` subclasses, raised before anything is created."""

from __future__ import annotations

import builtins
import errno
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._models import Outcome


class SandboxError(Exception):
    """Root of all errors of this library.

    `outcome` is the `Outcome` of the call, where there was one, so that partial output and the
    evidence are never lost. Pickles and copies of an error keep it.
    """

    outcome: Outcome | None = None


class PolicyError(SandboxError, ValueError):
    """A policy that cannot be read: unknown name, key, system call or action. The message names
    the file and, where it is known, the line."""


class ClosedError(SandboxError, RuntimeError):
    """The sandbox is closed, was not entered, is entered already, or belongs to another process."""


class TransferError(SandboxError, TypeError):
    """The function or an argument cannot travel into the jail; the message names which one."""


class Unsupported(SandboxError):
    """This host cannot put a layer in force.

    `feature` is the layer's name (see ARCHITECTURE.md), `reason` says why it is missing here and
    `remedy` is what the reader can do about it, a command wherever there is one.
    """

    def __init__(self, feature: str, reason: str, remedy: str) -> None:
        super().__init__(f"{feature} cannot be put in force: {reason}. {remedy}")
        self.feature = feature
        self.reason = reason
        self.remedy = remedy

    def __reduce__(self) -> tuple[type, tuple[str, str, str], dict[str, Any]]:
        return type(self), (self.feature, self.reason, self.remedy), vars(self)


class SetupError(SandboxError):
    """A step of building the jail failed; no guest code ran.

    `step` is the step's name in `worker/native/confine.c`, `errno` the kernel's answer (0 if it was
    not a system call that failed), `detail` what the step was working on.
    """

    def __init__(self, step: str, errno: int = 0, detail: str = "") -> None:
        text = f"cannot {step.replace('_', ' ')}"
        if detail:
            text += f" ({detail})"
        if errno:
            text += f": {os.strerror(errno)}"
        super().__init__(text)
        self.step = step
        self.errno = errno
        self.detail = detail

    def __reduce__(self) -> tuple[type, tuple[str, int, str], dict[str, Any]]:
        return type(self), (self.step, self.errno, self.detail), vars(self)


class ProgramError(SandboxError):
    """A program could not be started; nothing of it ran, and files placed for it are gone again:
    what they replaced is back.

    `path` is what failed (the program, a file, the working directory), `errno` the kernel's answer.
    """

    def __init__(self, step: str, errno: int, path: str) -> None:
        super().__init__(_unstarted(step, errno, path))
        self.step = step
        self.errno = errno
        self.path = path

    def __reduce__(self) -> tuple[type, tuple[str, int, str], dict[str, Any]]:
        return type(self), (self.step, self.errno, self.path), vars(self)


def _unstarted(step: str, number: int, path: str) -> str:
    if step == "files":
        return f"cannot place the file {path!r}: {os.strerror(number)}"
    if step == "cwd":
        return f"cannot start in {path!r}: {os.strerror(number)}"
    if step == "interpreter":
        return f"{path!r} is there, but the interpreter or loader that it names is not"
    if number == errno.ENOENT:
        where = "" if "/" in path else " in the guest's PATH"
        return f"there is no program {path!r}{where}; name a path inside, or mount it"
    if number == errno.EACCES:
        return f"{path!r} may not be executed: it has no x bit, or the policy forbids it there"
    if number == errno.ENOEXEC:
        return f"{path!r} is no program for this machine, and does not begin with #!"
    return f"cannot execute {path!r}: {os.strerror(number)}"


class InternalError(SandboxError):
    """Our own fault (launcher or init lost, protocol broken between our own parts), never the
    guest's. The next call gets a new jail."""


class ResultError(SandboxError):
    """The guest returned something that does not travel out; the message names the type and where
    it sits. Also a result above `Limits.result`, or none at all."""


class PolicyViolation(SandboxError, PermissionError):
    """The guest made a system call that its policy answers by ending the call."""


class NonzeroExit(SandboxError):
    """The guest's process ended itself with a status other than 0."""


class Signaled(SandboxError):
    """The guest's process was ended by a signal (a crash in native code, for example)."""


class Cancelled(SandboxError):
    """The call was cancelled by the host."""


class LimitExceeded(SandboxError):
    """A limit ended the call; `outcome.evidence` holds the counter and value that decided it."""


class TimeLimitExceeded(LimitExceeded, TimeoutError):
    """`Limits.cpu_time` or `Limits.wall_time`."""


class MemoryLimitExceeded(LimitExceeded, MemoryError):
    """`Limits.memory`."""


class OutputLimitExceeded(LimitExceeded):
    """`Limits.output`."""


class DiskLimitExceeded(LimitExceeded):
    """`Limits.disk`, `Limits.inodes` or `Limits.file_size`."""


class ProcessLimitExceeded(LimitExceeded):
    """`Limits.processes`."""


class GuestError(SandboxError):
    """The guest raised. Only text crossed the boundary: `type_name`, `remote_message`
    and `remote_traceback` were made in the worker and are capped; nothing of the guest's own
    classes is rebuilt here.

    If `type_name` is the name of a builtin subclass of `Exception`, the raised object is also an
    instance of that builtin, so that `except ZeroDivisionError` works.
    """

    def __init__(self, type_name: str, message: str, remote_traceback: str = "") -> None:
        Exception.__init__(self, type_name, message)
        self.type_name = type_name
        self.remote_message = message
        self.remote_traceback = remote_traceback

    def __str__(self) -> str:
        return f"{self.type_name}: {self.remote_message}" if self.remote_message else self.type_name

    def __reduce__(self) -> tuple[object, tuple[str, str, str], dict[str, Any]]:
        made = (self.type_name, self.remote_message, self.remote_traceback)
        return guest_error, made, vars(self)


# Raising one of these would steer the host's own generators and event loops.
_STEERING = (StopIteration, StopAsyncIteration)


def guest_error(type_name: str, message: str, remote_traceback: str = "") -> GuestError:
    """The `GuestError` for a guest's exception, also an instance of the builtin of that name.

    `type_name` is a string from a jail: it is looked up among the builtins and nowhere else.
    """
    kind = vars(builtins).get(type_name)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return GuestError(type_name, message, remote_traceback)
    if kind is Exception or issubclass(kind, _STEERING):
        return GuestError(type_name, message, remote_traceback)
    cls = type("GuestError", (GuestError, kind), {"__module__": GuestError.__module__})
    if issubclass(kind, ExceptionGroup):
        members = [GuestError(type_name, message, remote_traceback)]
        group: GuestError = kind.__new__(cls, message, members)
        group.__init__(type_name, message, remote_traceback)  # type: ignore[misc]
        return group
    error: GuestError = cls(type_name, message, remote_traceback)
    return error
