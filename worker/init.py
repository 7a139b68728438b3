"""pid 1 of a jail: our own code, confined, forks one worker per call and reaps.

The worker is forked ahead of its call, when every process of the call before is dead, and waits for
it at the control socket. init only waits for the worker, so that the two never read at once. init
shares its user id with the guest, so the host believes its messages only within narrow bounds, and
keeps the means of killing for itself.
"""

from __future__ import annotations

import _signal
import _socket
import os
import select
import sys

from . import channel, runner
from .confine import Call, Jail, StepFailed, confine_jail, confine_worker, seal_jail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NOTE_BYTES = 8
# Noted instead of a call's number, which are from 1 on: init shall import cloudpickle.
_PREPARE = 0

# The folder inside, on the read-only root, that holds cloudpickle; set by the launcher.
late_imports = ""


def main(
    request: dict[str, Any], control: _socket.socket, tree: int, procs: list[int], *, mapped: int
) -> None:
    """Confine, let the host look, serve calls until the host closes the socket. Never returns."""
    status = 1
    try:
        jail = Jail(request, control.fileno(), tree, procs, mapped)
        control = _confine(jail, control)
        _serve(jail, control)
        status = 0
    except (EOFError, ConnectionError):
        status = 0
    finally:
        os._exit(status)


def _confine(jail: Jail, control: _socket.socket) -> _socket.socket:
    try:
        confine_jail(jail)
    except StepFailed as failed:
        channel.send(control, ["failed", *failed.report])
        os._exit(1)
    if jail.control != control.fileno():
        control = _socket.socket(fileno=jail.control)
    channel.send(control, ["barrier"], (jail.listener, jail.scratch))
    os.close(jail.listener)
    os.close(jail.scratch)
    (_, jail.environment), _ = channel.receive(control)
    seal_jail(jail)
    return control


def _serve(jail: Jail, control: _socket.socket) -> None:
    # By this pipe a worker says what it took from the socket; closed in it before guest code.
    noted, note = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    calls = 0
    while True:
        if calls == 1:
            # Most jails serve one call: for these the second worker would be forked to be killed.
            _wait_for_message(control)
        worker = os.fork()
        if worker == 0:
            _work(jail, control, note)
        ending = _wait(worker)
        number = _read_note(noted)
        if number is None:
            return
        if number == _PREPARE:
            _import_cloudpickle()
        else:
            channel.send(control, ["ended", number, *ending])
            calls += 1


def _wait_for_message(control: _socket.socket) -> None:
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.poll()


def _read_note(noted: int) -> int | None:
    """The number of the call that the dead worker had, `_PREPARE`, or None if it had none: the host
    closed the socket, or the worker was killed while it waited."""
    try:
        return int.from_bytes(os.read(noted, _NOTE_BYTES), "big")
    except BlockingIOError:
        return None


def _work(jail: Jail, control: _socket.socket, note: int) -> None:
    """The life of a worker. Never returns."""

    def receive() -> tuple[int, bool, list[int]]:
        message, descriptors = channel.receive(control)
        number, with_stdin = (_PREPARE, False) if message[0] == "prepare" else message[1:]
        os.write(note, number.to_bytes(_NOTE_BYTES, "big"))
        if number == _PREPARE:
            os._exit(0)
        return number, with_stdin, descriptors

    try:
        call = Call(jail, receive)
        try:
            confine_worker(call)
        except StepFailed as failed:
            channel.send(control, ["failed", *failed.report])
            os._exit(1)
        runner.main(call.number)
    finally:
        os._exit(1)


def _wait(worker: int) -> tuple[int, float, float]:
    """Reap whatever ends until the worker does, then end and reap all it left behind.

    kill(-1) by pid 1 reaches every process of the namespace but itself; one that is just forking
    either is on the list already or sees the pending signal and does not fork.
    """
    while True:
        pid, status, usage = os.wait4(-1, 0)
        if pid == worker:
            break
    try:
        os.kill(-1, _signal.SIGKILL)
    except ProcessLookupError:
        pass
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return status, usage.ru_utime, usage.ru_stime


def _import_cloudpickle() -> None:
    """From the read-only root, before the fork, once per jail: 35 ms most calls do not need."""
    if "cloudpickle" not in sys.modules:
        sys.path.append(late_imports)
        try:
            import cloudpickle  # noqa: F401
        finally:
            sys.path.remove(late_imports)
