"""What one host process holds on behalf of all its sandboxes: control groups, the lease of user
ids, launchers and the reaper. Made when first needed, ended at exit, forgotten by a forked child.
"""

from __future__ import annotations

import atexit
import os
import threading

from . import _forks
from ._cgroup import Groups
from ._errors import Unsupported
from ._ids import IdLease
from ._launcher import Launcher, Launchers, Profile
from ._poller import Poller
from ._reaper import Reaper


class Runtime:
    """See the module. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._groups: Groups | None = None
        self._lease: IdLease | None = None
        self.launchers = Launchers()
        self.reaper = Reaper()
        self.poller = Poller()

    def groups(self) -> Groups:
        """This process's control groups. Raises Unsupported."""
        with self._lock:
            if self._groups is None:
                self._groups = Groups.open()
            return self._groups

    def groups_or_none(self, *, waived: bool) -> tuple[Groups | None, str]:
        """The groups; or, where the layer is waived, None with the reason why there are none."""
        try:
            return self.groups(), ""
        except Unsupported as error:
            if not waived:
                raise
            return None, error.reason

    def lease(self) -> IdLease | None:
        """User ids for jails, where the host may map them (root)."""
        if os.geteuid() != 0:
            return None
        with self._lock:
            if self._lease is None:
                self._lease = IdLease()
            return self._lease

    def launcher(self, profile: Profile) -> Launcher:
        """The living launcher of `profile`."""
        groups = self._groups
        return self.launchers.get(profile, groups.top_dirs if groups else ())

    def close(self) -> None:
        """At exit: end every jail and launcher, remove every group."""
        self.reaper.drain()
        self.launchers.close()
        self.reaper.drain(1.0)
        self.reaper.end()
        with self._lock:
            if self._groups is not None:
                self._groups.close()
                self._groups = None

    def after_fork(self) -> None:
        """In a forked child everything is the parent's: drop our copies of the descriptors."""
        _forks.forget_all()
        self.poller.forget()
        self.launchers.after_fork()
        if self._groups is not None:
            self._groups.forget()
        if self._lease is not None:
            self._lease.socket.close()
        self._reset()


RUNTIME = Runtime()
atexit.register(RUNTIME.close)
os.register_at_fork(after_in_child=RUNTIME.after_fork)
