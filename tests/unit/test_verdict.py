"""One status for each end, decided by the order that ARCHITECTURE.md shows."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from typing import get_args

import pytest

from sandbox import Limits, Status, Violation
from sandbox._verdict import Facts, decide, precedence
from sandbox._wire import Frame

LIMITS = Limits(cpu_time=1.0, wall_time=2.0, output=100, memory="64M", processes=4)

RETURNED = Frame("value", b"x")
RAISED = Frame("raised", ("ValueError", "no", "Traceback"))


def facts() -> Facts:
    """A clean end with an answer."""
    return Facts(LIMITS, wait_status=0, frame=RETURNED, cpu_time=0.5)


def fault(f: Facts) -> None:
    f.fault = "the launcher ended"


def violation(f: Facts) -> None:
    f.violation = Violation("ptrace", 101, "x86_64", (0,) * 6)
    f.killed.append("violation")


def memory(f: Facts) -> None:
    f.oom_kills, f.oom_at_limit = 1, 1


def foreign_oom(f: Facts) -> None:
    f.oom_kills = 1


def cpu(f: Facts) -> None:
    f.cpu_time = 1.5


def wall(f: Facts) -> None:
    f.killed.append("wall")


def output(f: Facts) -> None:
    f.output_bytes = 101


def cancelled(f: Facts) -> None:
    f.killed.append("cancel")


def protocol(f: Facts) -> None:
    f.frame, f.wire_error = None, "a length of 2 GB"


def processes(f: Facts) -> None:
    f.processes_refused, f.frame = 3, RAISED


def disk(f: Facts) -> None:
    f.disk_full, f.frame = True, RAISED


def signaled(f: Facts) -> None:
    f.wait_status, f.frame = signal.SIGSEGV, None


def nonzero(f: Facts) -> None:
    f.wait_status, f.frame = 3 << 8, None


def exception(f: Facts) -> None:
    f.frame = RAISED


def too_large(f: Facts) -> None:
    f.frame = Frame("too_large", 1 << 30)


def silent(f: Facts) -> None:
    f.frame = None


def nothing(_: Facts) -> None:
    return None


# In the order of precedence.
CAUSES: list[tuple[Callable[[Facts], None], Status]] = [
    (fault, "internal_error"),
    (violation, "policy_violation"),
    (memory, "memory_limit"),
    (foreign_oom, "internal_error"),
    (cpu, "cpu_time_limit"),
    (wall, "wall_time_limit"),
    (output, "output_limit"),
    (cancelled, "cancelled"),
    (protocol, "result_invalid"),
    (processes, "process_limit"),
    (disk, "disk_limit"),
    (signaled, "signaled"),
    (nonzero, "nonzero_exit"),
    (exception, "exception"),
    (too_large, "result_too_large"),
    (silent, "result_invalid"),
    (nothing, "ok"),
]


@pytest.mark.parametrize(("cause", "status"), CAUSES)
def test_each_cause_has_its_status(cause: Callable[[Facts], None], status: Status) -> None:
    seen = facts()
    cause(seen)
    verdict = decide(seen)
    assert verdict.status == status
    assert verdict.message


def test_the_table_is_complete_and_in_order() -> None:
    assert tuple(status for _, status in CAUSES) == precedence()
    assert set(precedence()) == set(get_args(Status))


# The later causes exclude each other by how they set the end and the answer; memory counters of
# one's own limit replace those of another's.
EARLY = [pair for pair in CAUSES[:8] if pair[0] is not foreign_oom]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *itertools.combinations(EARLY, 2),
        *itertools.product(EARLY, CAUSES[8:]),
    ],
    ids=lambda pair: pair[0].__name__,
)
def test_of_two_causes_the_earlier_decides(
    first: tuple[Callable[[Facts], None], Status], second: tuple[Callable[[Facts], None], Status]
) -> None:
    seen = facts()
    second[0](seen)
    first[0](seen)
    assert decide(seen).status == first[1]


def test_refusals_a_guest_copes_with_are_noted_and_decide_nothing() -> None:
    seen = facts()
    seen.processes_refused, seen.disk_full, seen.inodes_full = 2, True, True
    verdict = decide(seen)
    assert verdict.status == "ok"
    assert verdict.evidence == {"processes_refused": 2, "disk_full": True, "inodes_full": True}


def test_a_file_past_its_size_is_the_disks_limit() -> None:
    seen = facts()
    seen.wait_status, seen.frame = signal.SIGXFSZ, None
    assert decide(seen).status == "disk_limit"


def test_sigxcpu_is_the_cpu_limit() -> None:
    seen = facts()
    seen.wait_status, seen.frame, seen.cpu_time = signal.SIGXCPU, None, None
    assert decide(seen).status == "cpu_time_limit"


@pytest.mark.parametrize("number", [signal.SIGXCPU, signal.SIGXFSZ])
def test_a_limits_signal_where_no_such_limit_can_send_it_is_the_guests_own(number: int) -> None:
    """CPU time is the group's, with groups in force; a file size of None sets no limit."""
    seen = Facts(Limits(cpu_time=1.0, file_size=None), wait_status=number, cpu_time=0.1)
    verdict = decide(seen)
    assert verdict.status == "signaled"
    assert verdict.evidence["signal"] == number


def test_a_forged_answer_before_a_crash_counts_for_nothing() -> None:
    seen = facts()
    seen.wait_status = signal.SIGSEGV
    assert decide(seen).status == "signaled"


def test_memory_that_ran_out_above_the_call_is_not_the_guests_doing() -> None:
    seen = facts()
    seen.killed.append("memory")
    seen.wait_status, seen.frame = signal.SIGKILL, None
    assert decide(seen).status == "internal_error"
