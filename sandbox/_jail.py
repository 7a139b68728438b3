"""A jail as the host holds it: its control socket, init's pidfd, its groups, and what was seen of
it. Made by asking the launcher and looking at the answer before any guest code can run."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import _channel, _forks, _observe
from ._blueprint import Blueprint
from ._errors import InternalError, SandboxError, SetupError, Unsupported
from ._launcher import Launcher, LauncherLost, userns_remedy
from ._layers import WAIVABLE

if TYPE_CHECKING:
    from ._cgroup import JailGroup
    from ._ids import IdLease
    from ._task import Task

# From request to ready; generous, because a machine under load is not a broken one.
_START_SECONDS = 60.0
_LAST_BREATH = 0.1


class Jail:
    """A living jail. `close` kills it and hands what is left to the reaper."""

    def __init__(
        self,
        launcher: Launcher,
        blueprint: Blueprint,
        group: JailGroup | None,
        lease: IdLease | None,
        environment: Mapping[str, str],
    ) -> None:
        self.blueprint = blueprint
        self._environment = environment
        self.launcher = launcher
        self.group = group
        self.lease = lease
        self.broken = self.cancelled = False
        # Descriptors of the set-up's messages, whose owner that inbox is until the end.
        self.listener = self.scratch = self.pidfd = -1
        self.uid = lease.take() if lease else os.geteuid()
        self._outside = (self.uid, self.uid if lease else os.getegid())
        self._pidfd_lock = threading.Lock()
        self.control, self._theirs = _channel.pair()
        self._set_up = _channel.Inbox(self.control)
        self.inbox = _channel.Inbox(self.control)
        _forks.hold(self)

    def start(self) -> None:
        """Have it made, and look at it. If this raises, what was made is the caller's to bury.

        Raises:
            Unsupported, SetupError, InternalError: see `Sandbox`.
        """
        with self._theirs:
            self._ask(self._theirs)
        self._meet()

    def _ask(self, theirs: socket.socket) -> None:
        procs = self.group.init_fds() if self.group else []
        self.launcher.request(self.blueprint, self._outside, [theirs.fileno(), *procs])

    def _meet(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        (self.pid,), (self.pidfd,) = self._expect(0, "born", 1, 1, deadline)
        _, (self.listener, self.scratch) = self._expect(1, "barrier", 0, 2, deadline)
        self.seen = _observe.observe_jail(
            self.pid,
            self.blueprint.layers.namespaces,
            self._outside,
            self.blueprint.targets,
            self.blueprint.scratch,
            self.blueprint.content["rlimits"],
            self.blueprint.cpuset,
        )
        self.limits = self.group.read_back() if self.group else {}
        # Not waited for: init takes messages in order, so the first call cannot overtake it.
        # The environment goes to init alone: the launcher's memory is in every jail.
        self._send(["go", dict(self._environment)])

    def _expect(
        self, number: int, kind: str, fields: int, descriptors: int, deadline: float
    ) -> tuple[list[Any], list[int]]:
        """The `number`-th message of the set-up, which has to be that one."""
        message, received = self._receive(number, deadline)
        if message[0] == "failed" and len(message) == 4:
            raise _failure(message[1], message[2], message[3])
        if message[0] != kind or len(message) != fields + 1 or len(received) != descriptors:
            raise InternalError(f"expected {kind!r} of the new jail, got {message[0]!r:.50}")
        return message[1:], received

    def _receive(self, number: int, deadline: float) -> tuple[list[Any], list[int]]:
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(self.launcher.pidfd, select.POLLIN)
        left = max(0.0, deadline - time.monotonic())
        ready = dict(poll.poll(left * 1000))
        if not ready:
            raise InternalError(f"the jail was not ready within {_START_SECONDS:.0f} seconds")
        if self.control.fileno() not in ready:
            raise LauncherLost("the launcher ended while it built a jail")
        try:
            return self._set_up.get(number)
        except _channel.ChannelLost as lost:
            # A launcher takes its jails along; its own end may show a moment later.
            ended = _channel.readable(self.launcher.pidfd, _LAST_BREATH)
            kind = LauncherLost if ended else InternalError
            raise kind(f"the jail's init ended while it was set up: {lost}") from None

    def _send(
        self, message: object, descriptors: Sequence[int] = (), sent: list[int] | None = None
    ) -> None:
        try:
            _channel.send(self.control, message, descriptors, sent)
        except _channel.ChannelLost as lost:
            raise InternalError(f"the jail's init is gone: {lost}") from None

    def call(
        self, number: int, descriptors: Sequence[int], task: Task, asked: list[int], *, ample: bool
    ) -> None:
        """Ask init to start a worker; `asked` has an item from the moment it is asked."""
        kind = b"f" if task.start is None else b"p"
        flags = _WITH_STDIN * task.has_stdin | _WITH_STORE * task.has_store
        flags |= _WITH_CLOUDPICKLE * task.needs_cloudpickle
        # Charges for files would be init's, and an OOM too.
        flags |= _MAY_SHARE_MEMORY * (ample and not task.has_store)
        self._send(_CALL.pack(kind, flags, number), descriptors, asked)

    def full_places(self) -> frozenset[str]:
        """What there is no room left for in the writable places: "disk" (bytes), "inodes"."""
        if self.scratch < 0:
            return frozenset()
        space = os.fstatvfs(self.scratch)
        free = {"disk": space.f_bavail, "inodes": space.f_favail}
        return frozenset(name for name, count in free.items() if count == 0)

    @property
    def usable(self) -> bool:
        """Whether another call can be made in it."""
        return not self.broken and self.launcher.alive

    def cancel(self) -> None:
        """SIGKILL to pid 1, and with it to everything in the jail; its owner wishes so. Callable
        from any thread: no descriptor is closed under a supervisor's feet."""
        self.cancelled = True
        self._signal()

    def kill(self) -> None:
        """The same, because it is of no use any more. Does not wait."""
        self.broken = True
        self._signal()
        self.control.close()

    def _signal(self) -> None:
        with self._pidfd_lock:  # or `close` of one thread meets a number that another gave away
            if self.pidfd >= 0:
                try:
                    signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    def bury(self) -> None:
        """After its end: close our descriptors."""
        _forks.release(self)
        with self._pidfd_lock:
            self.forget()

    def forget(self) -> None:
        """Close our descriptors, end nothing: of a forked child, its copies."""
        self.control.close()
        self._theirs.close()
        self.listener = self.scratch = self.pidfd = -1
        self._set_up.close()
        self.inbox.close()


# For init, as in worker/native/native.h: kind, flags, number.
_CALL = struct.Struct(">cBI")
_WITH_STDIN, _WITH_STORE, _WITH_CLOUDPICKLE, _MAY_SHARE_MEMORY = 1, 2, 4, 8

_STEPS_OF_LAYERS = {
    "start_clocks_at_zero": "time_namespace",
    "hide_group_path": "cgroup_namespace",
    "prepare_landlock": "landlock",
    "enter_landlock": "landlock",
    "deny_writable_code": "mdwe",
    "load_first_filter": "seccomp",
}


def _failure(step: object, number: object, detail: object) -> SandboxError:
    """The sentence for a failed step. All three come from our own code before any guest ran."""
    name = str(step)[:100]
    errno = number if isinstance(number, int) else 0
    text = str(detail)[:500]
    if name in ("clone_namespaces", "write_id_maps") and errno in (1, 13, 28):
        return Unsupported("user_namespace", os.strerror(errno), userns_remedy())
    if name == "mount_proc" and errno == 1:
        return Unsupported(
            "proc",
            "a new /proc may be mounted only where the old one is fully visible, and this "
            "container masks parts of it",
            "docker run --security-opt systempaths=unconfined ...",
        )
    if name in _STEPS_OF_LAYERS:
        layer = _STEPS_OF_LAYERS[name]
        reason = ": ".join(filter(None, (text, os.strerror(errno) if errno else "")))
        remedy = "Run `sandbox doctor`"
        remedy += f", or allow_missing={{{layer!r}}}." if layer in WAIVABLE else "."
        return Unsupported(layer, reason, remedy)
    return SetupError(name, errno, text)
