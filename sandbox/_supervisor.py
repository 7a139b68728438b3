"""One call, supervised: a state machine that does no waiting of its own.

Whoever drives it (the blocking `drive` below; a poller thread or an event loop later) asks for the
descriptors it wants watched and the moment it wants to be woken, and tells it what happened.
Single-threaded, no lock, and every read is bounded: all bytes but the kernel's are hostile.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import _channel, _notify, _observe, _values, _wire
from ._capture import Capture
from ._errors import SandboxError
from ._jail import Jail
from ._models import GuestException, Isolation, Limits, Outcome, Usage
from ._transfer import Cargo
from ._verdict import Facts, KillReason, Verdict, decide

if TYPE_CHECKING:
    from ._cgroup import CallGroup, Counters

_UCRED = struct.Struct("3i")
# How long a killed call may take to be reaped before the whole jail is killed.
_GRACE_SECONDS = 20.0
_LEAST_PAUSE = 0.001
_KEEP_UNLIMITED = 1 << 20
_READ = 1 << 16


class Supervisor:
    """From asking init for a worker to the outcome.

    Args:
        jail: a ready jail, used by nobody else until `done`.
        number: the call's number, unique in this jail.
        limits: in force for this call.
        cargo: the pickled call; only the worker opens it.
    """

    def __init__(
        self,
        jail: Jail,
        number: int,
        limits: Limits,
        cargo: Cargo,
    ) -> None:
        self.done = False
        self.facts = Facts(limits)
        self._jail, self._number, self._limits = jail, number, limits
        self._payload = cargo.payload
        self._began = time.monotonic()
        self._started = self._ended = 0.0
        self._pidfd = -1
        self._worker: dict[str, Any] = {}
        self._outgoing: list[memoryview] = []
        self._reader = _wire.FrameReader(number)
        self._killed_at: float | None = None
        self._next_cpu_look: float | None = None
        self._group: CallGroup | None = jail.group.call() if jail.group else None
        self._open_channels({"cloudpickle": cargo.needs_cloudpickle})

    def _open_channels(self, options: Mapping[str, Any]) -> None:
        keep = int(self._limits.output) if self._limits.output is not None else _KEEP_UNLIMITED
        theirs: list[int] = []
        captures = []
        self._result, result = socket.socketpair()
        # The kernel attaches pid, uid and gid to what the worker sends: no word of its own.
        self._result.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._result.setblocking(False)
        self._store = _new_store(int(self._limits.result))
        try:
            theirs.append(os.dup(self._store))
            for _ in range(2):
                read_end, write_end = os.pipe2(os.O_CLOEXEC)
                os.set_blocking(read_end, False)
                captures.append(Capture(read_end, keep))
                theirs.append(write_end)
            self._stdout, self._stderr = captures
            procs = self._group.procs_fds() if self._group else []
            descriptors = [result.fileno(), *theirs, *procs]
            self._jail.call(self._number, options, descriptors)
        except SandboxError as error:
            self._fail(str(error))
            self._finish()
        finally:
            result.close()
            _channel.close_all(theirs)

    # --- what a driver needs --------------------------------------------------------------------

    def interests(self) -> dict[int, int]:
        """Descriptor → poll events to watch."""
        writing = select.POLLOUT if self._outgoing else 0
        wanted = {
            self._jail.control.fileno(): select.POLLIN,
            self._jail.launcher.pidfd: select.POLLIN,
        }
        if not self.facts.frame and not self.facts.wire_error:
            wanted[self._result.fileno()] = select.POLLIN | writing
        for stream in (self._stdout, self._stderr):
            if stream.open:
                wanted[stream.descriptor] = select.POLLIN
        if self.facts.violation is None:
            wanted[self._jail.listener] = select.POLLIN
        if self._group is not None and self._group.oom_fd is not None and self._killed_at is None:
            wanted[self._group.oom_fd] = select.POLLIN | select.POLLPRI
        return wanted

    def deadline(self) -> float | None:
        """When `on_time` wants to be called next, on the monotonic clock."""
        if self._killed_at is not None:
            return self._killed_at + _GRACE_SECONDS
        if not self._started:
            return self._began + _GRACE_SECONDS
        moments = [moment for moment in (self._wall_end(), self._next_cpu_look) if moment]
        return min(moments, default=None)

    def on_event(self, descriptor: int) -> None:
        """Something is to be read (or written) at `descriptor`."""
        if descriptor == self._jail.control.fileno():
            self._on_control()
        elif descriptor == self._result.fileno():
            self._on_result()
        elif descriptor == self._jail.listener:
            self._on_denial()
        elif descriptor == self._jail.launcher.pidfd:
            self._fail("the launcher ended during the call")
            self._finish()
        elif self._group is not None and descriptor == self._group.oom_fd:
            self._on_oom()
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

    # --- events ---------------------------------------------------------------------------------

    def _on_control(self) -> None:
        try:
            message, extra = _channel.receive(self._jail.control)
        except _channel.ChannelLost:
            if self._jail.cancelled:
                self.facts.killed.append("cancel")
            else:
                self._fail("the jail's init ended during the call")
            self._finish()
            return
        _channel.close_all(extra)
        if message[0] == "failed" and len(message) == 4:
            step, number, detail = message[1:]
            reason = os.strerror(number) if isinstance(number, int) and number else ""
            self._fail(f"the worker could not be confined: {step} {detail} {reason}".strip()[:500])
        elif message[:2] == ["ended", self._number] and isinstance(message[2], int):
            self.facts.wait_status = message[2] & 0xFFFF
            self._finish()
        else:
            self._fail("the jail's init said something unknown")
            self._finish()

    def _on_result(self) -> None:
        try:
            if self._pidfd < 0:
                self._meet_worker()
                return
            if self._outgoing:
                self._send()
            data = self._result.recv(_READ)
            if data:
                self._reader.feed(data)
                self.facts.frame = self._reader.frame
        except BlockingIOError:
            return
        except ConnectionError:
            self._outgoing.clear()
        except _wire.WireError as error:
            self.facts.wire_error = str(error)
            self._kill("protocol")

    def _meet_worker(self) -> None:
        """The confined worker's first byte. Its pid comes from the kernel with that byte, is
        pinned, and looked at before the worker gets anything of the guest's."""
        space = socket.CMSG_SPACE(_UCRED.size)
        data, ancillary, _, _ = self._result.recvmsg(1, space, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return
        pid = next(_UCRED.unpack(body[: _UCRED.size])[0] for _, _, body in ancillary)
        try:
            self._pidfd = os.pidfd_open(pid)
            self._worker = _observe.observe_worker(
                pid, self._jail.pid, filters=self._jail.seen.filters + 1
            )
            if self._group is not None and not self._group.contains(pid):
                self._fail("the worker is not in its control group")
        except (OSError, KeyError, ValueError, SandboxError) as error:
            self._fail(f"the worker could not be inspected: {error}")
        if self.facts.fault is not None:
            self._kill("fault")
            return
        self._start()

    def _start(self) -> None:
        self._started = time.monotonic()
        body = {"payload": self._payload, "result": int(self._limits.result)}
        self._outgoing = [memoryview(part) for part in _wire.encode_run(self._number, body)]
        if self._group is not None and self._limits.cpu_time is not None:
            self._look_at_cpu(self._started)
        self._send()

    def _send(self) -> None:
        try:
            while self._outgoing:
                sent = self._result.send(self._outgoing[0])
                if sent == len(self._outgoing[0]):
                    self._outgoing.pop(0)
                else:
                    self._outgoing[0] = self._outgoing[0][sent:]
        except BlockingIOError:
            return
        except ConnectionError:
            self._outgoing.clear()

    def _on_denial(self) -> None:
        self.facts.violation = self.facts.violation or _notify.receive(self._jail.listener)
        if self.facts.violation is not None:
            self._kill("violation")

    def _on_oom(self) -> None:
        # v1 only: there the kernel ends one process of the group, and the host the rest.
        self._kill("memory")

    def _on_output(self, descriptor: int) -> None:
        for stream in (self._stdout, self._stderr):
            if stream.open and stream.descriptor == descriptor:
                stream.drain()
        limit = self._limits.output
        if limit is not None and self._output_bytes() > int(limit):
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
        parallel = min(self._limits.processes or 4096, os.cpu_count() or 1)
        parallel_cpus = min(float(parallel), self._limits.cpus or float(parallel))
        self._next_cpu_look = now + max(left / max(parallel_cpus, 1.0), _LEAST_PAUSE)

    # --- ends -----------------------------------------------------------------------------------

    def _kill(self, reason: KillReason) -> None:
        """End the worker; init then ends and reaps all the call left behind."""
        if reason not in self.facts.killed:
            self.facts.killed.append(reason)
        if self._killed_at is not None:
            return
        self._killed_at = time.monotonic()
        if self._pidfd < 0:
            self._give_up(self.facts.fault or "")
            return
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
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
            self._jail.kill()
        self._drain()

    def _drain(self) -> None:
        """Every process of the call is dead (or the whole jail is being killed): what lies in the
        channels is final, and nobody's open copy of them is waited for."""
        for stream in (self._stdout, self._stderr):
            stream.finish()
        while not self.facts.frame and not self.facts.wire_error and self._pidfd >= 0:
            try:
                data = self._result.recv(_READ)
                if not data:
                    break
                self._reader.feed(data)
                self.facts.frame = self._reader.frame
            except _wire.WireError as error:
                self.facts.wire_error = str(error)
            except OSError:
                break
        self._result.close()

    def _output_bytes(self) -> int:
        return self._stdout.total + self._stderr.total

    # --- outcome --------------------------------------------------------------------------------

    def outcome(self) -> Outcome:
        """What happened. Once, after `done`; gives back every resource of the call."""
        facts = self.facts
        counters = self._count()
        value, verdict = self._judge()
        stdout, lost_out = self._stdout.result()
        stderr, lost_err = self._stderr.result()
        ended = facts.wait_status
        own_end = ended is not None and not facts.killed
        return Outcome(
            status=verdict.status,
            value=value,
            error=_guest_exception(facts),
            exit_code=os.WEXITSTATUS(ended or 0) if own_end and os.WIFEXITED(ended or 0) else None,
            signal=os.WTERMSIG(ended or 0) if own_end and os.WIFSIGNALED(ended or 0) else None,
            stdout=stdout,
            stderr=stderr,
            truncated={"stdout": lost_out, "stderr": lost_err},
            violation=facts.violation,
            evidence=verdict.evidence,
            usage=self._usage(counters),
            isolation=self._isolation(),
            message=verdict.message,
        )

    def _count(self) -> Counters | None:
        facts = self.facts
        facts.output_bytes = self._output_bytes()
        facts.wall_time = self._ended - self._started if self._started else 0.0
        if self._jail.scratch >= 0:
            space = os.fstatvfs(self._jail.scratch)
            facts.disk_full = space.f_bavail == 0
            facts.inodes_full = space.f_favail == 0
        if self._group is None:
            return None
        counters = self._group.counters()
        facts.cpu_time = counters.cpu_usage
        facts.oom_kills = counters.oom_kills
        facts.oom_at_limit = counters.oom_at_own_limit + counters.oom_at_jail_limit
        facts.processes_refused = counters.pids_refused
        return counters

    def _judge(self) -> tuple[Any, Verdict]:
        """The verdict, with the value decoded only if everything else says ok."""
        try:
            verdict = decide(self.facts)
            if verdict.status != "ok":
                return None, verdict
            try:
                return self._value(), verdict
            except _values.ValueRejected as error:
                self.facts.wire_error = f"the value: {error}"
                return None, decide(self.facts)
        finally:
            os.close(self._store)
            if self._pidfd >= 0:
                os.close(self._pidfd)

    def _value(self) -> Any:
        frame = self.facts.frame
        assert frame is not None
        body: Any = frame.body
        if frame.kind == "value":
            return _values.decode_value(body, int(self._limits.result))
        size: int = body
        if not 0 < size <= int(self._limits.result):
            raise _values.ValueRejected(f"a stored length of {size}")
        with (
            mmap.mmap(self._store, size, mmap.MAP_SHARED, mmap.PROT_READ) as area,
            memoryview(area) as view,
        ):
            return _values.decode_value(view, int(self._limits.result))

    def _usage(self, counters: Counters | None) -> Usage:
        base = Usage(
            wall_time=self.facts.wall_time,
            output_bytes=self.facts.output_bytes,
            setup_time=(self._started or self._ended) - self._began,
        )
        if counters is None:
            return base
        return Usage(
            wall_time=base.wall_time,
            output_bytes=base.output_bytes,
            setup_time=base.setup_time,
            cpu_time=counters.cpu_usage,
            user_time=counters.cpu_user,
            system_time=counters.cpu_system,
            memory_peak=counters.memory_peak,
            processes_peak=counters.pids_peak,
            oom_kills=counters.oom_kills,
            throttled_time=counters.throttled_time,
        )

    def _isolation(self) -> Isolation:
        seen, layers = self._jail.seen, self._jail.blueprint.layers
        limits = {f"jail.{name}": value for name, value in self._jail.limits.items()}
        if self._group is not None:
            limits |= {f"call.{name}": value for name, value in self._group.read_back().items()}
        return Isolation(
            namespaces=seen.namespaces,
            shared_namespaces=seen.shared,
            worker={**self._worker, **seen.id_maps},
            root=seen.mounts,
            limits=limits,
            missing=dict(layers.missing),
            unobserved=layers.unobserved,
        )

    def release(self) -> None:
        """Give the call's group back, when every process of it is dead."""
        if self._group is not None and not self._jail.broken:
            self._group.finish()


def _guest_exception(facts: Facts) -> GuestException | None:
    if facts.frame is None or facts.frame.kind != "raised" or facts.fault is not None:
        return None
    body: Any = facts.frame.body
    return GuestException(*body)


def _new_store(size: int) -> int:
    """Memory for a large result: made here, its size fixed for good, its pages charged to whoever
    writes them. Read only when every process that could still write is dead."""
    import fcntl

    store = os.memfd_create("result", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(store, size)
    seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(store, fcntl.F_ADD_SEALS, seals)
    return store


def drive(call: Supervisor) -> None:
    """Run the state machine to its end, blocking this thread."""
    while not call.done:
        poll = select.poll()
        for descriptor, events in call.interests().items():
            poll.register(descriptor, events)
        deadline = call.deadline()
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        for descriptor, _ in _ordered(poll.poll(timeout), call):
            if not call.done:
                call.on_event(descriptor)
        if not call.done:
            call.on_time()


def supervise(jail: Jail, number: int, limits: Limits, cargo: Cargo) -> Outcome:
    """One call from beginning to end, blocking this thread. If the wait is interrupted
    (KeyboardInterrupt, a signal handler's exception) the call is ended first."""
    try:
        call = Supervisor(jail, number, limits, cargo)
    except BaseException:
        jail.kill()
        raise
    try:
        drive(call)
    except BaseException:
        call.cancel()
        drive(call)
        raise
    finally:
        if not call.done:  # interrupted twice
            jail.kill()
        outcome = call.outcome()
        call.release()
    return outcome


def _ordered(events: Sequence[tuple[int, int]], call: Supervisor) -> list[tuple[int, int]]:
    """The control socket last: what else was there belongs to the call that it ends."""
    last = call._jail.control.fileno()
    return sorted(events, key=lambda event: event[0] == last)
