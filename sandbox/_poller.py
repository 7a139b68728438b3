"""Calls that nobody waits for: one daemon thread per process drives them all, so that clocks and
caps hold while the caller does something else. The supervisors are those that `drive` drives."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

from ._supervisor import Supervisor


class Poller:
    """Every method may be called from any thread; `done` callables run on the poller's own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: deque[Callable[[], None]] = deque()
        self._running: dict[Supervisor, Callable[[], None]] = {}
        self._wake = -1
        self._thread: threading.Thread | None = None

    def drive(self, call: Supervisor, done: Callable[[], None]) -> None:
        """Drive a call that has begun; `done` is called once, when it is over."""
        self._ask(lambda: self._running.__setitem__(call, done))

    def cancel(self, call: Supervisor) -> None:
        """End a call for the host's own reasons."""
        self._ask(call.cancel)

    def _ask(self, what: Callable[[], None]) -> None:
        with self._lock:
            if self._thread is None:
                self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._thread = threading.Thread(
                    target=self._run, name="sandbox-poller", daemon=True
                )
                self._thread.start()
            self._asked.append(what)
        os.eventfd_write(self._wake, 1)

    def forget(self) -> None:
        """In a forked child: the thread is the parent's."""
        if self._wake >= 0:
            os.close(self._wake)

    def _run(self) -> None:
        while True:
            ready = self._wait()
            while self._asked:
                _guarded(self._asked.popleft())
            for call in list(self._running):
                self._step(call, ready)
                if call.done:
                    self._end(call)

    def _wait(self) -> dict[int, int]:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        deadlines = []
        for call in self._running:
            for descriptor, events in call.interests().items():
                poll.register(descriptor, events)
            deadlines.append(call.deadline())
        moments = [moment for moment in deadlines if moment is not None]
        timeout = max(0.0, min(moments) - time.monotonic()) * 1000 if moments else None
        ready = dict(poll.poll(timeout))
        if self._wake in ready:
            os.eventfd_read(self._wake)
        return ready

    def _step(self, call: Supervisor, ready: dict[int, int]) -> None:
        mine = call.interests()
        events = [(descriptor, ready[descriptor]) for descriptor in mine if descriptor in ready]
        try:
            call.advance(events)
        except Exception:  # a consumer's; the call ends, the others go on
            logging.getLogger(__name__).exception("a call is ended by what its consumer raised")
            call.cancel()

    def _end(self, call: Supervisor) -> None:
        _guarded(self._running.pop(call))


def _guarded(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:  # of one call; the others go on
        logging.getLogger(__name__).exception("a call could not be ended as it should")
