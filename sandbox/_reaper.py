"""Teardown off the caller's path: one daemon thread per process waits for killed jails and removes
what they leave. `drain` makes it the caller's business (interpreter exit, tests)."""

from __future__ import annotations

import logging
import os
import select
import threading
from collections import deque

from . import _channel
from ._jail import Jail

_DRAIN_SECONDS = 30.0
_RETRY_MS = 2.0


class Reaper:
    """Jails that were killed, until nothing of them is left."""

    def __init__(self) -> None:
        self._new: deque[Jail] = deque()
        self._idle = threading.Event()
        self._idle.set()
        self._lock = threading.Lock()
        self._wake = -1
        self._thread: threading.Thread | None = None
        self._ended = False

    def end(self) -> None:
        """At exit, with launchers and groups gone: nothing is left to wait for, and a thread
        started while the interpreter ends may never run."""
        self._ended = True

    def bury(self, jail: Jail) -> None:
        """Take a killed jail over."""
        if self._ended:
            jail.bury()
            return
        with self._lock:
            self._idle.clear()
            self._new.append(jail)
            if self._thread is None:
                self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._thread = threading.Thread(
                    target=self._run, name="sandbox-reaper", daemon=True
                )
                self._thread.start()
        os.eventfd_write(self._wake, 1)

    def drain(self, seconds: float = _DRAIN_SECONDS) -> bool:
        """Wait until nothing is left to remove."""
        return self._idle.wait(seconds)

    def _run(self) -> None:
        dying: list[Jail] = []
        while True:
            self._wait(dying)
            while self._new:
                dying.append(self._new.popleft())
            dying = [jail for jail in dying if not _buried(jail)]
            with self._lock:
                if not dying and not self._new:
                    self._idle.set()

    def _wait(self, dying: list[Jail]) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        retry = False
        for jail in dying:
            if jail.pidfd >= 0 and not _ended(jail):
                poll.register(jail.pidfd, select.POLLIN)
            else:
                retry = True
        if poll.poll(_RETRY_MS if retry else None):
            try:
                os.eventfd_read(self._wake)
            except BlockingIOError:
                pass


def _ended(jail: Jail) -> bool:
    return _channel.readable(jail.pidfd)


def _buried(jail: Jail) -> bool:
    try:
        return _bury(jail)
    except Exception:  # whatever it was, the jails after this one have to be buried too
        logging.getLogger(__name__).exception("a jail could not be removed whole")
        return True


def _bury(jail: Jail) -> bool:
    """Whether all of `jail` is gone now. init ends last of all the jail's processes, but is counted
    in its group until it is reaped: removal is tried again until then."""
    if jail.pidfd >= 0 and not _ended(jail):
        return False
    if jail.group is not None and not jail.group.try_close():
        return False
    if jail.lease is not None:
        jail.lease.give_back(jail.uid)
    jail.bury()
    return True
