"""Which one status a finished call has: a pure function of what the host itself saw.

The order of the rules below is the table of precedence in ARCHITECTURE.md; tests hold the two
together. The guest's own words (its result frame) count only after a clean end.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ._models import Limits, Status, Violation
from ._wire import Frame

KillReason = Literal["cpu", "wall", "output", "memory", "protocol", "cancel", "violation", "fault"]


@dataclass
class Facts:
    """What the supervisor saw of one call.

    `killed` holds every reason for which the host ended the call, in the order they came up;
    `wait_status` is as waitpid gives it, None if the worker's end was never reported; `memory_cap`
    is what the control group had (the limit on memory, and the room for files); `was_full` names
    what an earlier call had left full ("disk", "inodes").
    """

    limits: Limits
    program: bool = False
    fault: str | None = None
    violation: Violation | None = None
    killed: list[KillReason] = field(default_factory=list)
    wait_status: int | None = None
    frame: Frame | None = None
    wire_error: str | None = None
    cpu_time: float | None = None
    context_switches: int | None = None
    wall_time: float = 0.0
    output_bytes: int = 0
    oom_kills: int = 0
    oom_at_limit: int = 0
    processes_refused: int = 0
    memory_cap: int | None = None
    memory_peak: int | None = None
    disk_full: bool = False
    inodes_full: bool = False
    was_full: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Verdict:
    """A status, the evidence that decided it, and the sentence for a reader."""

    status: Status
    message: str
    evidence: Mapping[str, Any]


_Found = tuple[str, dict[str, Any]] | None


def decide(facts: Facts) -> Verdict:
    """The first rule that applies gives the status; refusals the guest met are always noted."""
    for status, rule in _PRECEDENCE:
        found = rule(facts)
        if found is not None:
            message, evidence = found
            return Verdict(status, _shown(message), {**evidence, **_refusals(facts)})
    raise AssertionError("the last rule always applies")


def _shown(text: str) -> str:
    """One line for a terminal or a log: the guest's own words in it may hold line ends, escape
    sequences and marks that turn the direction of writing. Whole, they are in `Outcome.error`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _internal(facts: Facts) -> _Found:
    if facts.fault is not None:
        return facts.fault, {"fault": facts.fault}
    return None


def _violation(facts: Facts) -> _Found:
    seen = facts.violation
    if seen is None:
        return None
    return (
        f"the guest called {seen.syscall} ({seen.arch} system call {seen.number}), which its "
        "policy answers by ending the call",
        {"syscall": seen.syscall, "number": seen.number, "arch": seen.arch},
    )


def _memory(facts: Facts) -> _Found:
    if facts.oom_at_limit and (facts.oom_kills or "memory" in facts.killed):
        cap = facts.memory_cap or facts.limits.memory
        return (
            f"the call's processes and files reached {cap} bytes, the limits on memory and disk "
            "together, less what earlier calls' files take, and the kernel ended them",
            {
                "limit": "memory",
                "value": facts.limits.memory,
                "in_force": cap,
                "peak": facts.memory_peak,
                "counter": "oom_kill" if facts.oom_kills else "memory.oom_control",
                "oom_kills": facts.oom_kills,
                "oom_at_limit": facts.oom_at_limit,
            },
        )
    return None


def _foreign_oom(facts: Facts) -> _Found:
    if facts.oom_kills or "memory" in facts.killed:
        text = (
            "the machine, not the call's limit, ran out of memory, and the kernel chose this call"
        )
        return text, {"fault": text, "oom_kills": facts.oom_kills}
    return None


def _cpu(facts: Facts) -> _Found:
    limit, used = facts.limits.cpu_time, facts.cpu_time
    over = limit is not None and used is not None and used > limit
    # Only without control groups is there a limit of the process's own (RLIMIT_CPU) to send it.
    signaled = used is None and limit is not None and _signal(facts) == signal.SIGXCPU
    if over or "cpu" in facts.killed or signaled:
        shown = "?" if used is None else f"{used:.3f}"
        return (
            f"the call's processes used {shown} of {limit} seconds of CPU",
            {"limit": "cpu_time", "value": limit, "counter": "cpu usage", "used": used},
        )
    return None


def _wall(facts: Facts) -> _Found:
    limit = facts.limits.wall_time
    if "wall" in facts.killed:
        return (
            f"the call had not ended after {limit} seconds",
            {"limit": "wall_time", "value": limit, "counter": "clock", "used": facts.wall_time},
        )
    return None


def _output(facts: Facts) -> _Found:
    limit = facts.limits.output
    if limit is not None and facts.output_bytes > int(limit):
        return (
            f"the guest wrote more than {limit} bytes to stdout and stderr",
            {"limit": "output", "value": limit, "counter": "bytes", "used": facts.output_bytes},
        )
    return None


def _cancelled(facts: Facts) -> _Found:
    return ("the host cancelled the call", {}) if "cancel" in facts.killed else None


def _protocol(facts: Facts) -> _Found:
    if facts.wire_error is not None:
        text = f"what came from the result channel is not an answer: {facts.wire_error}"
        return text, {"wire": facts.wire_error}
    return None


def _signal(facts: Facts) -> int | None:
    status = facts.wait_status
    return os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None


def _failed(facts: Facts) -> bool:
    if facts.frame is not None and facts.frame.kind == "unstarted":
        return False  # no guest has run: what an earlier one left full is not why
    return facts.wait_status != 0 or (facts.frame is not None and facts.frame.kind == "raised")


def _processes(facts: Facts) -> _Found:
    if facts.processes_refused and _failed(facts):
        return (
            f"the guest failed after the kernel refused it more than {facts.limits.processes} "
            "processes and threads",
            {
                "limit": "processes",
                "value": facts.limits.processes,
                "counter": "pids.events max",
                "refused": facts.processes_refused,
            },
        )
    return None


def _disk(facts: Facts) -> _Found:
    if _signal(facts) == signal.SIGXFSZ and facts.limits.file_size is not None:
        text = (
            "the guest's process was ended by SIGXFSZ, which the kernel sends when a file grows "
            f"past the limit of {facts.limits.file_size} bytes"
        )
        return text, {"limit": "file_size", "value": facts.limits.file_size, "signal": "SIGXFSZ"}
    if not _failed(facts):
        return None
    for full, name, unit in (
        (facts.disk_full, "disk", "bytes"),
        (facts.inodes_full, "inodes", "files and folders"),
    ):
        if full and name not in facts.was_full:
            value = getattr(facts.limits, name)
            text = f"the guest failed with its writable places full: {value} {unit}"
            return text, {"limit": name, "value": value, "counter": "statfs", "free": 0}
    return None


def _signaled(facts: Facts) -> _Found:
    number = _signal(facts)
    if number is None:
        return None
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"the guest's process was ended by {name}", {"signal": number, "name": name}


def _nonzero(facts: Facts) -> _Found:
    code = os.waitstatus_to_exitcode(facts.wait_status or 0)
    if code:
        return f"the guest's process ended itself with status {code}", {"exit_code": code}
    return None


def _exception(facts: Facts) -> _Found:
    if facts.frame is not None and facts.frame.kind == "raised":
        body: Any = facts.frame.body
        name, message = body[0], body[1]
        return f"the guest raised {name}: {message}"[:500], {"type": name}
    return None


def _too_large(facts: Facts) -> _Found:
    if facts.frame is not None and facts.frame.kind == "too_large":
        cap = facts.limits.result
        text = f"the result takes more than {cap} bytes encoded"
        return text, {"limit": "result", "value": cap, "at_least": facts.frame.body}
    return None


def _invalid(facts: Facts) -> _Found:
    if facts.program:
        return None  # its answer is its exit status
    if facts.frame is None:
        return "the guest's process ended with status 0 without an answer", {"exit_code": 0}
    if facts.frame.kind == "unfit":
        body: Any = facts.frame.body
        where, type_name, reason = body
        text = f"{where}: {type_name} does not travel out"
        return (f"{text} ({reason})" if reason else text), {"where": where, "type": type_name}
    return None


def _ok(facts: Facts) -> _Found:
    return "the program ended with status 0" if facts.program else "the function returned", {}


def _refusals(facts: Facts) -> dict[str, Any]:
    noted: dict[str, Any] = {}
    if facts.processes_refused:
        noted["processes_refused"] = facts.processes_refused
    if facts.disk_full:
        noted["disk_full"] = True
    if facts.inodes_full:
        noted["inodes_full"] = True
    return noted


_PRECEDENCE: tuple[tuple[Status, Callable[[Facts], _Found]], ...] = (
    ("internal_error", _internal),
    ("policy_violation", _violation),
    ("memory_limit", _memory),
    ("internal_error", _foreign_oom),
    ("cpu_time_limit", _cpu),
    ("wall_time_limit", _wall),
    ("output_limit", _output),
    ("cancelled", _cancelled),
    ("result_invalid", _protocol),
    ("process_limit", _processes),
    ("disk_limit", _disk),
    ("signaled", _signaled),
    ("nonzero_exit", _nonzero),
    ("exception", _exception),
    ("result_too_large", _too_large),
    ("result_invalid", _invalid),
    ("ok", _ok),
)


def precedence() -> tuple[Status, ...]:
    """The statuses in the order in which their rules are tried."""
    return tuple(status for status, _ in _PRECEDENCE)
