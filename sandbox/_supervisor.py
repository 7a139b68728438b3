"""One call, supervised: a state machine that does no waiting of its own.

Whoever drives it (`_drive` for a caller that waits, `_poller` for one that does not) asks for the
descriptors it wants watched and the moment it wants to be woken, and tells it what happened.
Single-threaded, no lock, and every read is bounded: all bytes but the kernel's are hostile.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import _channel, _forks, _notify, _observe
from ._channels import Channels
from ._errors import SandboxError, SetupError
from ._isolation import isolation_of
from ._jail import Jail
from ._models import Isolation, Limits
from ._outcome import Finished
from ._task import Task
from ._verdict import Facts, KillReason

if TYPE_CHECKING:
    from ._cgroup import CallGroup

# How long a killed call may take to be reaped before the whole jail is killed.
_GRACE_SECONDS = 20.0
_LEAST_PAUSE = 0.001
_LONGEST_POLL = 3600.0
# As many as there were: asked for each call it costs more than the counter that it is asked for.
_CPUS = os.cpu_count() or 1


def milliseconds_until(moment: float | None) -> float | None:
    """For poll, which takes no more than 24 days; whoever wakes early looks again."""
    if moment is None:
        return None
    return min(max(0.0, moment - time.monotonic()), _LONGEST_POLL) * 1000


class Supervisor:
    """From handing the call to a worker to the outcome.

    Args:
        jail: a ready jail, used by nobody else until `done`.
        number: the call's number, unique in this jail.
        limits: in force for this call.
        task: what the call is about.
    """

    def __init__(
        self,
        jail: Jail,
        number: int,
        limits: Limits,
        task: Task,
    ) -> None:
        self.done = False
        self.facts = Facts(limits, program=task.start is not None, was_full=jail.full_places())
        self._jail, self._number, self._limits = jail, number, limits
        self._task = task
        self._began = time.monotonic()
        self._started = self._ended = 0.0
        self._said_ended: float | None = None
        self._pidfds: list[int] = []
        self._listening = True
        self._asked: list[int] = []
        self._worker: dict[str, Any] = {}
        self._isolation: Isolation | None = None
        self._killed_at: float | None = None
        self._next_cpu_look: float | None = None
        self._group: CallGroup | None = jail.group.call() if jail.group else None
        try:
            self._channels = Channels(number, limits, task)
        except BaseException:
            if self._group is not None:
                self._group.finish()
            raise
        _forks.hold(self)

    def begin(self) -> None:
        """Hand the call to the jail."""
        procs = self._group.procs_fds() if self._group else []
        descriptors = [*self._channels.theirs, *procs]
        try:
            ample = self._group is None or self._group.is_ample()
            self._jail.call(self._number, descriptors, self._task, self._asked, ample=ample)
        except SandboxError as error:
            self._fail(str(error))
            self._finish()
        finally:
            self._channels.let_go()

    # --- what a driver needs --------------------------------------------------------------------

    def interests(self) -> dict[int, int]:
        """Descriptor → poll events to watch."""
        channels = self._channels
        wanted = {
            self._jail.control.fileno(): select.POLLIN,
            self._jail.launcher.pidfd: select.POLLIN,
        }
        if channels.expecting:
            writing = select.POLLOUT if channels.sending else 0
            wanted[channels.result.fileno()] = select.POLLIN | writing
        for stream in (channels.stdout, channels.stderr):
            wanted |= stream.interests()
        if self._task.feed is not None and self._started:
            wanted |= self._task.feed.interests()
        if self._listening:
            wanted[self._jail.listener] = select.POLLIN
        if self._group is not None and self._group.oom_fd is not None and self._killed_at is None:
            wanted[self._group.oom_fd] = select.POLLIN | select.POLLPRI
        return wanted

    def deadline(self) -> float | None:
        """When `advance` wants to be called next, on the monotonic clock."""
        if self._jail.inbox or self._unmet:
            return self._began  # an interruption came between receiving and acting
        if self._killed_at is not None:
            return self._killed_at + _GRACE_SECONDS
        if not self._started:
            return self._began + _GRACE_SECONDS
        moments = [moment for moment in (self._wall_end(), self._next_cpu_look) if moment]
        return min(moments, default=None)

    def on_event(self, descriptor: int, events: int) -> None:
        """Poll said `events` of `descriptor`: something is to be read or written, or it ended."""
        if descriptor == self._jail.control.fileno():
            self._on_control()
        elif descriptor == self._channels.result.fileno():
            self._on_result()
        elif descriptor == self._jail.listener:
            self._on_denial(events)
        elif descriptor == self._jail.launcher.pidfd:
            self._fail("the launcher ended during the call")
            self._finish()
        elif self._group is not None and descriptor == self._group.oom_fd:
            self._on_oom()
        elif self._task.feed is not None and descriptor in self._task.feed.interests():
            self._task.feed.step(descriptor, events)
        else:
            self._on_output(descriptor)

    def on_time(self) -> None:
        """The deadline came, or may have come."""
        now = time.monotonic()
        if self._killed_at is not None:
            if now >= self._killed_at + _GRACE_SECONDS:
                self._give_up("the killed call did not end")
            return
        if not self._started:
            if now >= self._began + _GRACE_SECONDS:
                self._give_up("the worker did not start")
            return
        end = self._wall_end()
        if end is not None and now >= end:
            self._kill("wall")
        elif self._next_cpu_look is not None and now >= self._next_cpu_look:
            self._look_at_cpu(now)

    def cancel(self) -> None:
        """End the call for the host's own reasons (KeyboardInterrupt, shutdown)."""
        if not self.done:
            self._kill("cancel")

    def abandon(self) -> None:
        """Stop supervising a jail that was killed."""
        self._fail("the supervision was interrupted")
        self._finish()

    # --- events ---------------------------------------------------------------------------------

    def _on_control(self) -> None:
        try:
            message, _ = self._jail.inbox.get()
        except _channel.ChannelLost:
            self._fail("the jail's init ended during the call")
            self._finish()
            return
        if message[:2] == ["ended", self._number] and _tells_an_end(message[2:]):
            _, _, status, self._said_ended, self.facts.context_switches = message
            self.facts.wait_status = status & 0xFFFF
            self._finish()
        elif not self._is_stale(message):
            self._fail("the jail's init said something unknown")
            self._finish()
        self._jail.inbox.drop()

    def _is_stale(self, message: list[Any]) -> bool:
        """The end of an earlier call, which was interrupted before it was dropped."""
        return message[0] == "ended" and message[1:2] == [self._number - 1]

    def _on_result(self) -> None:
        if not self._pidfds:
            self._meet_worker()
            return
        if self._channels.sending:
            self._channels.send()
        self._channels.read()
        if self._channels.wire_error is not None:
            self._kill("protocol")

    @property
    def _unmet(self) -> bool:
        """Whether the worker's first word came, and was not acted upon."""
        return self._channels.greeted and not self._pidfds and self._killed_at is None

    def _meet_worker(self) -> None:
        """The confined worker's first word. Its pid comes from the kernel with it, is pinned, and
        looked at before the worker gets anything of the guest's."""
        try:
            pid = self._channels.receive_pid()
            if pid is None:
                return
            if self._channels.unconfined is not None:
                number, step = self._channels.unconfined
                self._give_up(f"the worker could not be confined: {SetupError(step, number)}")
                return
            self._pidfds.extend(map(os.pidfd_open, (pid,)))  # see `_channel.receive_into`
            self._worker = _observe.observe_worker(
                pid,
                self._jail.pid,
                filters=self._jail.seen.filters + 1,
                cpus=self._jail.blueprint.cpuset,
            )
            if self._group is not None and not self._group.contains(pid):
                self._fail("the worker is not in its control group")
        except (OSError, KeyError, ValueError, SandboxError, _channel.ChannelLost) as error:
            self._fail(f"the worker could not be inspected: {error}")
        if self.facts.fault is not None:
            self._kill("fault")
        elif "cancel" in self.facts.killed:
            self._kill("cancel")
        else:
            self._start()

    def _start(self) -> None:
        self._started = time.monotonic()
        self._channels.request()
        # While the worker is at work, and nobody waits for this.
        if self._group is not None and self._limits.cpu_time is not None:
            self._look_at_cpu(self._started)
        self._isolation = isolation_of(self._jail, self._group, self._worker)

    def _on_denial(self, events: int) -> None:
        self._listening = bool(events & select.POLLIN)
        self.facts.violation = _notify.receive(self._jail.listener, events)
        if self.facts.violation is not None:
            self._listening = False
            self._kill("violation")

    def _on_oom(self) -> None:
        # v1 only: there the kernel ends one process of the group, and the host the rest.
        self._kill("memory")

    def _on_output(self, descriptor: int) -> None:
        for stream in (self._channels.stdout, self._channels.stderr):
            if descriptor in stream.interests():
                stream.step()
        limit = self._limits.output
        if limit is not None and self._channels.output_bytes > int(limit):
            self._kill("output")

    # --- clocks ---------------------------------------------------------------------------------

    def _wall_end(self) -> float | None:
        limit = self._limits.wall_time
        return None if limit is None else self._started + limit

    def _look_at_cpu(self, now: float) -> None:
        """CPU time is polled, but never later than it could have run out on all CPUs at once."""
        assert self._group is not None
        assert self._limits.cpu_time is not None
        left = self._limits.cpu_time - self._group.cpu_seconds()
        if left < 0:
            self._kill("cpu")
            return
        parallel = min(self._limits.processes or 4096, _CPUS)
        parallel_cpus = min(float(parallel), self._limits.cpus or float(parallel))
        self._next_cpu_look = now + max(left / max(parallel_cpus, 1.0), _LEAST_PAUSE)

    # --- ends -----------------------------------------------------------------------------------

    def _kill(self, reason: KillReason) -> None:
        """End the worker; init then ends and reaps all the call left behind."""
        if reason not in self.facts.killed:
            self.facts.killed.append(reason)
        if self._killed_at is not None:
            return
        if reason == "cancel" and self._asked and not self._pidfds:
            return  # `_meet_worker` ends it: to kill the jail instead would cost its files
        self._killed_at = time.monotonic()
        if self._task.feed is not None:
            self._task.feed.close()  # nobody needs it any more, and it may be what failed
        if not self._pidfds:
            self._give_up(self.facts.fault or "")
            return
        try:
            signal.pidfd_send_signal(self._pidfds[0], signal.SIGKILL)
        except ProcessLookupError:
            pass

    def _fail(self, fault: str) -> None:
        self.facts.fault = self.facts.fault or fault

    def _give_up(self, fault: str) -> None:
        if fault:
            self._fail(fault)
        self._finish()

    def _finish(self) -> None:
        if self.done:
            return
        self.done = True
        self._ended = time.monotonic()
        if self.facts.wait_status is None:
            if self._jail.cancelled:  # whatever failed is a consequence of that
                self.facts.fault = None
                self.facts.killed.append("cancel")
            self._jail.kill()
        self._channels.finish()

    @property
    def ended(self) -> float:
        """When the worker ended, on the monotonic clock, after `done`. init saw it, however busy
        the host was; its word counts within what the host saw, since it shares the guest's uid."""
        said = self._said_ended
        # Not by min and max: NaN would pass through them.
        if said is not None and self._started <= said <= self._ended:
            return said
        return self._ended

    @property
    def concludes_slowly(self) -> bool:
        """Whether its outcome may take seconds to make: files are to be brought back."""
        return self._task.collect is not None

    def finished(self) -> Finished:
        """Everything the outcome is made from, after `done`."""
        return Finished(
            facts=self.facts,
            jail=self._jail,
            group=self._group,
            channels=self._channels,
            isolation=self._isolation or isolation_of(self._jail, self._group, self._worker),
            began=self._began,
            started=self._started,
            ended=self._ended,
            collect=self._task.collect,
        )

    @property
    def unstarted(self) -> tuple[str, int, str] | None:
        """Why a program was not started (step, errno, path). Only our own code can say so: the
        channel closes with the exec."""
        frame = self._channels.frame
        if self._task.start is None or frame is None or frame.kind != "unstarted":
            return None
        body: Any = frame.body
        return self._task.start.failure(*body)

    def release(self) -> None:
        """Give back every resource of the call, when every process of it is dead."""
        _forks.release(self)  # first: a child forked in the middle must not close a number twice
        self.forget()
        if self._group is not None and not self._jail.broken:
            self._group.finish()

    def _close_pidfd(self) -> None:
        while self._pidfds:
            os.close(self._pidfds.pop())

    def forget(self) -> None:
        """Close descriptors, end nothing: of a forked child, its copies."""
        self._channels.forget()
        self._close_pidfd()

    def advance(self, ready: Sequence[tuple[int, int]]) -> None:
        """Poll said so of `interests`, or the deadline came. The control socket comes last: what
        else was there belongs to the call that it ends."""
        if self._unmet:
            self._meet_worker()
        if self._jail.inbox:
            self._on_control()
        last = self._jail.control.fileno()
        for descriptor, events in sorted(ready, key=lambda found: found[0] == last):
            if not self.done:
                self.on_event(descriptor, events)
        if not self.done:
            self.on_time()


def _tells_an_end(values: list[Any]) -> bool:
    """Wait status, moment, context switches."""
    return [type(value) for value in values] == [int, float, int] and values[2] >= 0
