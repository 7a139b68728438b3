"""Host ids for jails. A host that is root gives each jail an unprivileged (uid, gid) of its own, so
that per-uid kernel quotas (inotify, queues, pipe pages, pending signals) couple nothing."""

from __future__ import annotations

import itertools
import os
import socket
import threading

# The range systemd leaves unused (UIDS-GIDS): 0x70000000 to 0x7FFDFFFF.
_BASE = 0x7000_0000
_BLOCK = 1024
_BLOCKS = 4096


class IdLease:
    """One block of ids, this process's own on the whole machine while it lives.

    The lock is an abstract unix socket: it vanishes with its last holder and leaves no file. It
    is one per network namespace; hosts in different ones can pick the same block, which couples
    quotas but gives no access, since the ids own nothing.
    """

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._lock = threading.Lock()
        self._free: set[int] = set()
        self._next = 0
        start = int.from_bytes(os.urandom(2), "big")
        for number in itertools.islice(itertools.count(start), _BLOCKS):
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                self.socket.bind(f"\0sandbox-ids-{number % _BLOCKS}")
            except OSError:
                self.socket.close()
                continue
            self._base = _BASE + number % _BLOCKS * _BLOCK
            return
        raise OSError("every block of user ids for jails is taken")

    def take(self) -> int:
        """An id no living jail of this process has."""
        with self._lock:
            if self._free:
                return self._free.pop()
            if self._next == _BLOCK:
                raise OSError(f"{_BLOCK} jails of one process are open; close some")
            self._next += 1
            return self._base + self._next - 1

    def give_back(self, number: int) -> None:
        """After the jail's last process is gone."""
        with self._lock:
            self._free.add(number)
