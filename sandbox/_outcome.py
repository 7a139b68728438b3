"""From what a supervisor saw to the `Outcome`: counters, verdict, value, usage, isolation."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from . import _values
from ._channels import Channels
from ._collect import Collected, Patterns, collect
from ._jail import Jail
from ._models import GuestException, Isolation, Outcome, Usage
from ._verdict import Facts, Verdict, decide

if TYPE_CHECKING:
    from ._cgroup import CallGroup, Counters


@dataclass(frozen=True)
class Finished:
    """A call that is over. Moments are on the monotonic clock; `started` is 0 if the guest never
    got a byte."""

    facts: Facts
    jail: Jail
    group: CallGroup | None
    channels: Channels
    isolation: Isolation
    began: float
    started: float
    ended: float
    collect: Patterns | None = None


def outcome_of(call: Finished) -> Outcome:
    """What happened in one call."""
    facts, channels = call.facts, call.channels
    counters = _count(call)
    value, verdict = _judge(call)
    stdout, lost_out = channels.stdout.result()
    stderr, lost_err = channels.stderr.result()
    exit_code, signal = _own_end(facts)
    collected = _collected(call)
    return Outcome(
        status=verdict.status,
        value=value,
        error=_guest_exception(facts),
        exit_code=exit_code,
        signal=signal,
        stdout=stdout,
        stderr=stderr,
        truncated={"stdout": lost_out, "stderr": lost_err},
        files=collected.files,
        refused=collected.refused,
        violation=facts.violation,
        evidence=verdict.evidence,
        usage=_usage(call, counters),
        isolation=call.isolation,
        message=verdict.message,
    )


def _count(call: Finished) -> Counters | None:
    facts = call.facts
    facts.frame, facts.wire_error = call.channels.frame, call.channels.wire_error
    facts.output_bytes = call.channels.output_bytes
    facts.wall_time = call.ended - call.started if call.started else 0.0
    full = call.jail.full_places()
    facts.disk_full, facts.inodes_full = "disk" in full, "inodes" in full
    if call.group is None:
        return None
    counters = call.group.counters()
    facts.cpu_time = counters.cpu_usage
    facts.memory_cap = call.isolation.limits.get("call.memory")
    facts.memory_peak = counters.memory_peak
    facts.oom_kills = counters.oom_kills
    facts.oom_at_limit = counters.oom_at_own_limit + counters.oom_at_jail_limit
    facts.processes_refused = counters.pids_refused
    return counters


def _judge(call: Finished) -> tuple[Any, Verdict]:
    """The verdict, with the value decoded only if everything else says ok."""
    verdict = decide(call.facts)
    if verdict.status != "ok" or call.facts.program:
        return None, verdict
    try:
        return call.channels.value(), verdict
    except _values.ValueRejected as error:
        call.facts.wire_error = f"the value: {error}"
        return None, decide(call.facts)


def _collected(call: Finished) -> Collected:
    """The files that were asked for, whatever the end: all processes of the call are dead, unless
    init is lost, and then nothing is read."""
    if call.collect is None or call.facts.wait_status is None:
        return Collected()
    return collect(call.jail.scratch, "work", call.collect, int(call.facts.limits.result))


def _own_end(facts: Facts) -> tuple[int | None, int | None]:
    """(exit code, signal) of a process that the host did not end."""
    status = facts.wait_status
    if status is None or facts.killed:
        return None, None
    if os.WIFSIGNALED(status):
        return None, os.WTERMSIG(status)
    return os.WEXITSTATUS(status), None


def _guest_exception(facts: Facts) -> GuestException | None:
    if facts.frame is None or facts.frame.kind != "raised" or facts.fault is not None:
        return None
    body: Any = facts.frame.body
    return GuestException(*body)


def _usage(call: Finished, counters: Counters | None) -> Usage:
    wall_time = call.facts.wall_time
    output_bytes = call.facts.output_bytes
    setup_time = (call.started or call.ended) - call.began
    usage = Usage(
        wall_time=wall_time,
        output_bytes=output_bytes,
        setup_time=setup_time,
        context_switches=call.facts.context_switches,
    )
    if counters is None:
        return usage
    return replace(
        usage,
        cpu_time=counters.cpu_usage,
        user_time=counters.cpu_user,
        system_time=counters.cpu_system,
        memory_peak=counters.memory_peak,
        processes_peak=counters.pids_peak,
        oom_kills=counters.oom_kills,
        throttled_time=counters.throttled_time,
    )
