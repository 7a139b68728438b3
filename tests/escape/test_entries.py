"""F: no way around the filters: other entries to the kernel, arguments, threads, own filters."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sandbox import Limits, Sandbox
from sandbox._policy_file import load_policy
from tests.escape.cases import MACHINE, Case, answer, call, check_refused, each, number, violation
from tests.escape.outside import Outside
from tests.probes import entries
from tests.probes.raw import system_call

Make = Callable[..., Sandbox]

HIGH = 1 << 32  # the kernel looks at 32 bits of an int argument; a filter that compares 64 is blind
TIOCSTI, TIOCLINUX, TCGETS = 0x5412, 0x541C, 0x5401
CLONE_NEWUSER = 0x10000000
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_GET_DUMPABLE = 4, 22, 3
ALLOW, ANSWER_ZERO = 0x7FFF0000, 0x00050000

x86_64 = pytest.mark.skipif(MACHINE != "x86_64", reason="entries that only x86_64 has")


@x86_64
def test_f01_the_32_bit_entry_is_closed(jail: Sandbox, outside: Outside) -> None:
    """User-mode Linux has no such entry, and takes `int 0x80` for the 64-bit one: nothing gained."""
    assert jail.run(entries.by_instruction) > 1
    told = outside(entries.by_interrupt)
    outcome = jail.call(entries.by_interrupt)
    if told < 0:
        assert outcome.value == told
        return
    assert answer(outcome) == "violation getpid"
    assert outcome.violation is not None
    assert (outcome.violation.arch, outcome.violation.number) == ("i386", 20)


@x86_64
def test_f01_x32_is_closed(jail: Sandbox, outside: Outside) -> None:
    assert outside(entries.by_x32) in ("done", "ENOSYS")
    outcome = jail.call(entries.by_x32)
    assert answer(outcome) == "violation getpid"
    assert outcome.violation is not None
    assert outcome.violation.arch == "x32"


@x86_64
def test_f01_entries_stay_closed_when_everything_else_is_open(bare: Sandbox) -> None:
    assert answer(bare.call(entries.by_x32)) == "violation getpid"


TRICKS = [
    call("F04-clone3", "clone3", 0, 0, jail="ENOSYS", bare="EINVAL", outside="EINVAL"),
    call("F05-ioctl", "ioctl", 0, HIGH | TIOCSTI, b"x", jail="EPERM", bare="ENOTTY"),
    call("F05-ioctl-negative", "ioctl", 0, -HIGH | TIOCLINUX, b"x", jail="EPERM", bare="ENOTTY"),
    call("F05-ioctl-that-may", "ioctl", 0, HIGH | TCGETS, bytes(64), jail="ENOTTY", bare="ENOTTY"),
    call("F05-prctl", "prctl", HIGH | PR_SET_DUMPABLE, 1, 0, 0, 0, jail="EPERM", bare="done"),
    call("F05-prctl-that-may", "prctl", HIGH | PR_GET_DUMPABLE, 0, 0, 0, 0, jail="done"),
    call("F05-personality", "personality", HIGH | 0x0040000, jail="EPERM", bare="done"),
    call("F05-clone", "clone", HIGH | CLONE_NEWUSER, 0, 0, 0, 0, jail="EPERM"),
    call("F05-socket", "socket", HIGH | 2, 1, 0, jail="EACCES", bare="done"),
    Case("F07-minus-one", system_call, (-1,), "ENOSYS", "ENOSYS", "ENOSYS"),
    Case("F07-all-bits", system_call, (0xFFFFFFFF,), "ENOSYS", "ENOSYS", "ENOSYS"),
    Case("F07-high-bits", system_call, (0x7FFFFFFF00000000 | 0x3FFF,), "ENOSYS", "ENOSYS"),
    Case("F07-not-yet", system_call, (900,), "ENOSYS", "ENOSYS", "ENOSYS"),
    Case("F07-hole", system_call, (0x3FFFFFFF,), "ENOSYS", "ENOSYS", "ENOSYS"),
    call("F17-strict-mode", "prctl", PR_SET_SECCOMP, 1, 0, 0, 0, jail="EPERM"),
    Case("F17-own-filter", entries.own_filter, (number("seccomp"), ALLOW), "EPERM", "done"),
    Case("F17-by-prctl", entries.own_filter_by_prctl, (number("prctl"), ALLOW), "EPERM", "done"),
    Case("F17-false-success", entries.own_filter, (number("seccomp"), ANSWER_ZERO), "EPERM"),
    call("F-io_uring", "io_uring_setup", 0, 0, jail="ENOSYS"),
    call("L12-bpf", "getpid", jail="done", bare="done", outside="done"),
    violation("L12-bpf-load", "bpf", 5, 0, 0),
]


@pytest.mark.parametrize("case", each(TRICKS))
def test_f_tricks_with_numbers_and_arguments(
    case: Case, jail: Sandbox, bare: Sandbox, outside: Outside
) -> None:
    check_refused(case, jail, bare, outside)


@pytest.mark.parametrize(
    "how", [entries.from_a_thread, entries.from_a_child, entries.with_signals_blocked]
)
def test_f13_f14_whoever_of_the_call_does_it(how: Callable[[int], str], jail: Sandbox) -> None:
    assert jail.run(how, number("getpid")) == "done"
    assert answer(jail.call(how, number("unshare"))) == "violation unshare"


@pytest.mark.spares("killed_forks")
def test_f13_many_violations_at_once_are_one_verdict(jail: Sandbox) -> None:
    outcome = jail.call(entries.from_many, number("unshare"), 8)
    assert outcome.status == "policy_violation"
    assert outcome.evidence["syscall"] == "unshare"
    assert outcome.evidence["number"] == number("unshare")


def test_f16_a_forged_signal_frame_is_a_crash(jail: Sandbox) -> None:
    outcome = jail.call(entries.forged_signal_frame, number("rt_sigreturn"))
    assert (outcome.status, outcome.signal) == ("signaled", signal.SIGSEGV)


def test_f_the_arguments_of_a_violation_are_the_kernels(jail: Sandbox) -> None:
    outcome = jail.call(system_call, number("unshare"), CLONE_NEWUSER)
    assert outcome.violation is not None
    assert outcome.violation.args[0] == CLONE_NEWUSER
    assert outcome.violation.arch == MACHINE


def with_writable_code(make_sandbox: Make, **options: Any) -> Sandbox:
    policy = replace(load_policy("python"), name="writable code", mdwe=False)
    return make_sandbox(policy=policy, **options)


@pytest.mark.needs("mdwe")
@pytest.mark.parametrize("make", [entries.make_code_writable, entries.map_writable_code])
def test_e_memory_that_was_writable_does_not_become_executable(
    make: Callable[[], str], jail: Sandbox, make_sandbox: Make, small: Limits, outside: Outside
) -> None:
    assert outside(make) == "done"
    with with_writable_code(make_sandbox, limits=small) as loose:
        outcome = loose.call(make)
        assert outcome.value == "done"
        assert "mdwe" in outcome.isolation.missing
    assert jail.run(make) == "EACCES"
    assert jail.run(entries.callback) == 42


def test_e_the_same_memory_can_be_mapped_twice(jail: Sandbox) -> None:
    """MDWE looks at one mapping at a time, as SECURITY.md says: a guest may bring code."""
    assert jail.run(entries.map_twice) == "done"


def test_f_a_violation_that_a_signal_withdraws_does_not_run(jail: Sandbox, bare: Sandbox) -> None:
    """Recorded or not, as SECURITY.md says, it has no effect. Control: where it may run, it
    does."""
    arguments = number("unshare"), CLONE_NEWUSER
    assert bare.run(entries.interrupted, *arguments) == ("done", True)
    for _ in range(10):
        outcome = jail.call(entries.interrupted, *arguments)
        if outcome.violation is None:
            assert outcome.value == ("EINTR", False), outcome.message
        else:
            assert outcome.evidence["syscall"] == "unshare"
