"""Calls that nobody waits for: one daemon thread per process drives them all, so that clocks and
caps hold while the caller does something else. The supervisors are those that `drive` drives. Files
are brought back by a thread of their call's own: that can take seconds, as its guest pleases."""

from __future__ import annotations

import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable

from ._supervisor import Supervisor, milliseconds_until


class Poller:
    """Every method may be called from any thread; `done` callables run on a thread of ours."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given: deque[tuple[Supervisor, Callable[[], None]]] = deque()
        self._cancelled: deque[Supervisor] = deque()
        self._running: dict[Supervisor, Callable[[], None]] = {}
        self._wake = -1
        self._thread: threading.Thread | None = None

    def drive(self, call: Supervisor, done: Callable[[], None]) -> None:
        """Drive a call that has begun; `done` is called once, when it is over. If this raises, ask
        `has` whose the call is."""
        self._start()
        self._given.append((call, done))
        os.eventfd_write(self._wake, 1)

    def has(self, call: Supervisor) -> bool:
        """Whether it was given to this poller and is not over."""
        return call in self._running or any(given is call for given, _ in list(self._given))

    def cancel(self, call: Supervisor) -> None:
        """End a call for the host's own reasons."""
        self._cancelled.append(call)
        os.eventfd_write(self._wake, 1)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                if self._wake < 0:
                    self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                thread = threading.Thread(target=self._run, name="sandbox-poller", daemon=True)
                thread.start()
                self._thread = thread

    def forget(self) -> None:
        """In a forked child: the thread is the parent's."""
        if self._wake >= 0:
            os.close(self._wake)

    def _run(self) -> None:
        while True:
            ready = self._wait()
            while self._given:
                call, done = self._given[0]
                self._running[call] = done
                self._given.popleft()
            while self._cancelled:
                _guarded(self._cancelled.popleft().cancel)
            for call in list(self._running):
                self._step(call, ready)
            for call in [call for call in self._running if call.done]:
                self._conclude(call, self._running[call])
                del self._running[call]

    def _conclude(self, call: Supervisor, done: Callable[[], None]) -> None:
        if not call.concludes_slowly:
            _guarded(done)
            return
        try:
            threading.Thread(
                target=_guarded, args=(done,), name="sandbox-collector", daemon=True
            ).start()
        except RuntimeError:  # no more threads: then all wait
            _guarded(done)

    def _wait(self) -> dict[int, int]:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        deadlines = []
        for call in self._running:
            for descriptor, events in call.interests().items():
                poll.register(descriptor, events)
            deadlines.append(call.deadline())
        moments = [moment for moment in deadlines if moment is not None]
        ready = dict(poll.poll(milliseconds_until(min(moments, default=None))))
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


def _guarded(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:  # of one call; the others go on
        logging.getLogger(__name__).exception("a call could not be ended as it should")
