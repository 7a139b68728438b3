"""pid 1 of a jail: our own code, confined, forks one worker per call and reaps.

It holds the control socket and reads only from it. It shares its user id with the guest, so the
host believes its messages only within narrow bounds, and keeps the means of killing for itself.
"""

from __future__ import annotations

import _signal
import _socket
import os
import sys
import time

from . import channel, runner
from .confine import Call, Jail, StepFailed, confine_jail, confine_worker, seal_jail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

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
    while True:
        (_, number, options), descriptors = channel.receive(control)
        if options["cloudpickle"]:
            _import_cloudpickle()
        worker = os.fork()
        if worker == 0:
            _work(Call(jail, number, options["stdin"], descriptors))
        for descriptor in descriptors:
            os.close(descriptor)
        channel.send(control, ["ended", number, *_wait(worker)])


def _work(call: Call) -> None:
    """The life of a worker. Never returns."""
    try:
        try:
            confine_worker(call)
        except StepFailed as failed:
            control = _socket.socket(fileno=os.dup(call.jail.control))
            channel.send(control, ["failed", *failed.report])
            os._exit(1)
        runner.main(call.number)
    finally:
        os._exit(1)


def _wait(worker: int) -> tuple[int, float, int]:
    """Reap whatever ends until the worker does, then end and reap all it left behind: the worker's
    wait status, when it ended (on the host's clock: the jail's own begins with the workers), and
    how often all of them were switched away from.

    kill(-1) by pid 1 reaches every process of the namespace but itself; one that is just forking
    either is on the list already or sees the pending signal and does not fork.
    """
    switches = 0
    while True:
        pid, status, usage = os.wait4(-1, 0)
        switches += usage.ru_nvcsw + usage.ru_nivcsw
        if pid == worker:
            break
    moment = time.monotonic()
    try:
        os.kill(-1, _signal.SIGKILL)
    except ProcessLookupError:
        pass
    while True:
        try:
            usage = os.wait4(-1, 0)[2]
        except ChildProcessError:
            return status, moment, switches
        switches += usage.ru_nvcsw + usage.ru_nivcsw


def _import_cloudpickle() -> None:
    """From the read-only root, before the fork, once per jail: 35 ms most calls do not need."""
    if "cloudpickle" not in sys.modules:
        sys.path.append(late_imports)
        try:
            import cloudpickle  # noqa: F401
        finally:
            sys.path.remove(late_imports)
