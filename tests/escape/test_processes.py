"""E: a guest reaches no process but its own."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from sandbox import Sandbox
from tests.escape.cases import Case, call, check_refused, each, number, violation
from tests.escape.outside import Outside
from tests.probes import identity

SELF, INIT = 0, 1
PTRACE_TRACEME, PTRACE_ATTACH, PTRACE_SEIZE = 0, 16, 0x4206
SIGNALS = {"KILL": 9, "STOP": 19, "INT": 2, "TERM": 15, "SEGV": 11}


def reach(name: str, probe: Callable[..., str], syscall: str, jail: str) -> list[Case]:
    """A case against init, which is not dumpable, and its control against the guest itself."""
    return [
        Case(f"{name}-init", probe, (number(syscall), INIT), jail, "EPERM"),
        Case(f"{name}-self", probe, (number(syscall), SELF), jail, "done", "done"),
    ]


ATTEMPTS = [
    violation("E01-attach-init", "ptrace", PTRACE_ATTACH, INIT, 0, 0, bare="EPERM"),
    violation("E01-seize-init", "ptrace", PTRACE_SEIZE, INIT, 0, 0, bare="EPERM"),
    violation("E03-traceme", "ptrace", PTRACE_TRACEME, 0, 0, 0),
    Case(
        "E01-attach-child",
        identity.own_child_traced,
        (number("ptrace"), PTRACE_ATTACH),
        "violation ptrace",
        "EPERM",  # a worker's children are not dumpable either
        "done",
    ),
    *reach("E04-readv", identity.read_memory, "process_vm_readv", "violation process_vm_readv"),
    violation("E04-writev", "process_vm_writev", INIT, 0, 0, 0, 0, 0),
    *reach("E04-pidfd_getfd", identity.take_descriptor, "pidfd_getfd", "EPERM"),
    Case(
        "E06-madvise", identity.advise_memory, (number("process_madvise"), INIT), "EPERM", "EACCES"
    ),
    call("E06-mrelease", "process_mrelease", 0, 0, jail="EPERM", bare="EBADF"),
    call("E06-kcmp", "kcmp", INIT, INIT, 0, 0, 0, jail="EPERM"),
    call("E06-move_pages", "move_pages", INIT, 0, 0, 0, 0, 0, jail="EPERM"),
    call("E06-migrate_pages", "migrate_pages", INIT, 0, 0, 0, jail="EPERM"),
    call("E09-userfaultfd", "userfaultfd", 1, jail="EPERM"),
    call("E-perf_event_open", "perf_event_open", bytes(128), 0, -1, -1, 0, jail="EPERM"),
]

# What the kernel lets a process of the same user do to init: here seccomp alone holds, by letting
# through pid 0 only.
INIT_SHARES_THE_UID = [
    Case("E-prlimit", identity.set_limit, (INIT,), "EPERM", "done"),
    Case("E-affinity", identity.set_affinity, (INIT,), "EPERM", "done"),
    Case("E-scheduler", identity.set_scheduler, (INIT, os.SCHED_OTHER, 0), "EPERM", "done"),
    Case("E-priority", identity.set_priority, (INIT, 0), "EPERM", "done"),
    call("E-ioprio", "ioprio_set", 1, INIT, 0, jail="EPERM", bare="done"),
]


@pytest.mark.parametrize("case", each(ATTEMPTS + INIT_SHARES_THE_UID))
def test_e_other_processes_are_out_of_reach(
    case: Case, jail: Sandbox, bare: Sandbox, outside: Outside
) -> None:
    check_refused(case, jail, bare, outside)


def test_e_the_same_to_oneself_is_allowed(jail: Sandbox) -> None:
    assert jail.run(identity.set_limit, 0) == "done"
    assert jail.run(identity.set_affinity, 0) == "done"
    assert jail.run(identity.set_priority, 0, 5) == "done"


@pytest.mark.needs("landlock")
@pytest.mark.parametrize("number_", SIGNALS.values(), ids=SIGNALS)
def test_e07_init_cannot_be_signalled(number_: int, jail: Sandbox) -> None:
    assert jail.run(identity.signal_process, 1, number_) == "EPERM"


@pytest.mark.parametrize("number_", SIGNALS.values(), ids=SIGNALS)
def test_e07_init_ignores_signals_where_landlock_is_missing(number_: int, bare: Sandbox) -> None:
    """pid 1 of a namespace gets no signal from inside that it has no handler for."""
    assert bare.run(identity.signal_process, 1, number_) == "done"
    assert bare.run(identity.own_pid_of) > 1


@pytest.mark.needs("landlock")
def test_i18_no_other_call_signals_init_either(jail: Sandbox) -> None:
    queue = number("rt_sigqueueinfo")
    assert jail.run(identity.queue_signal, queue, 1) == "EPERM"
    assert jail.run(identity.signal_by_pidfd, 1) == "EPERM"


def test_i18_a_process_of_the_host_cannot_be_signalled(jail: Sandbox, outside: Outside) -> None:
    """There is no number by which to name it."""
    assert outside(identity.signal_process, os.getpid(), 0) == "done"
    assert jail.run(identity.signal_process, os.getpid() + 100_000, 0) == "ESRCH"
    outcome = jail.call(identity.signal_process, -1, 9)
    assert outcome.value in ("ESRCH", "EPERM"), outcome.message


def test_e07_a_guest_that_kills_its_group_kills_itself_alone(jail: Sandbox) -> None:
    outcome = jail.call(identity.signal_process, 0, 9)
    assert (outcome.status, outcome.signal) == ("signaled", 9)
