"""What is measured of the library, through its public API alone."""

from __future__ import annotations

import os
import select
import time

from benchmarks import processes
from benchmarks.baselines import trivial
from sandbox import Limits, Sandbox

# How long a closed sandbox may take to vanish before the benchmark calls it a leak.
_PATIENCE = 20.0
_LOOK_AGAIN = 0.0002


def fresh_cold() -> float:
    """A sandbox made, one call, its value; it is closed after the clock has stopped. Its own
    network namespace and control group, every layer on."""
    began = time.perf_counter()
    sandbox = Sandbox(Limits())
    with sandbox:
        value = sandbox.run(trivial, 1)
        took = time.perf_counter() - began
    _check(value == {"answer": 1})
    return took


def open_call(sandbox: Sandbox) -> float:
    """A call in an open sandbox: a fresh worker, forked from init, in a leaf group of its own."""
    began = time.perf_counter()
    value = sandbox.run(trivial, 1)
    took = time.perf_counter() - began
    _check(value == {"answer": 1})
    return took


class Teardown:
    """`caller` is the time `close` takes, `gone` that until init is reaped, and with it the jail's
    mounts and namespaces, and the host has given back its descriptors and the control groups."""

    def __init__(self) -> None:
        self._launcher = processes.launcher()
        self._kept = set(processes.children(self._launcher))
        self._descriptors = processes.jail_descriptors()
        self._last = 0.0

    def caller(self) -> float:
        self._wait()
        sandbox = Sandbox(Limits())
        with sandbox:
            sandbox.run(trivial, 1)
            (init,) = set(processes.children(self._launcher)) - self._kept
            pidfd = os.pidfd_open(init)
            began = time.perf_counter()
            sandbox.close()
            took = time.perf_counter() - began
        _wait_for_end(pidfd)
        self._wait(init)
        self._last = time.perf_counter() - began
        return took

    def _wait(self, init: int = 0) -> None:
        """Until `init` is reaped, and the host has no more descriptors than at first."""
        deadline = time.perf_counter() + _PATIENCE
        while os.path.exists(f"/proc/{init}/stat") or self._descriptors_left():
            _check(time.perf_counter() < deadline)
            time.sleep(_LOOK_AGAIN)

    def _descriptors_left(self) -> bool:
        return processes.jail_descriptors() > self._descriptors

    def gone(self) -> float:
        """Of the sandbox that the last `caller` closed."""
        return self._last


def _wait_for_end(pidfd: int) -> None:
    try:
        _check(bool(select.select([pidfd], [], [], _PATIENCE)[0]))
    finally:
        os.close(pidfd)


def _check(holds: bool) -> None:
    if not holds:
        raise RuntimeError("the benchmark did not do what it times")
