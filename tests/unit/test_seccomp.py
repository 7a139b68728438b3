"""Policies as the kernel sees them: the emitted bytes, judged by tests/bpf.py."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator

import pytest

from sandbox._errors import PolicyError, Unsupported
from sandbox._policy import Condition, Policy, Rule, kernel_names
from sandbox._policy_file import SHIPPED, load_policy
from sandbox._rule_file import init_rules
from sandbox._seccomp import arch_name, compile_filters, syscall_name
from tests import bpf
from tests.bpf import MACHINES, Judge

BOTH = [(name, machine) for name in SHIPPED for machine in MACHINES]


def interesting_arguments(policy: Policy, call: str, rng: random.Random) -> Iterator[list[int]]:
    """Every value of every condition of the policy or of init on this call, its neighbours, each
    with the high half of the register set too; and random ones."""
    yield [0] * 6
    yield [(1 << 64) - 1] * 6
    yield [0xFFFF_FFFF] * 6
    rules = [*policy.rules, *init_rules()]
    conditions = [c for rule in rules if call in rule.calls for c in rule.when]
    values = {value for c in conditions for value in c.values}
    values |= {c.mask for c in conditions} | {1 << bit for bit in range(32)}
    positions = {c.arg for c in conditions} or {0}
    for position in positions:
        for value in values:
            for near in (value, value ^ 1, value + 1):
                for high in (0, 1 << 32, 0xFFFF_FFFF << 32):
                    args = [rng.choice([0, 1, 5, rng.getrandbits(64)]) for _ in range(6)]
                    args[position] = (near & 0xFFFF_FFFF) | high
                    yield args
    for _ in range(40):
        args = [rng.getrandbits(rng.choice((1, 3, 8, 32, 64))) for _ in range(6)]
        for c in conditions:
            if rng.random() < 0.7:
                args[c.arg] = rng.choice(c.values) | rng.getrandbits(32) << 32
        yield args


@pytest.mark.parametrize(("name", "machine"), BOTH)
def test_every_number_is_answered_as_the_policy_reads(name: str, machine: str) -> None:
    judge = Judge(load_policy(name), machine)
    rng = random.Random(f"{name} {machine}")
    for number in range(601):
        call = judge.names.get(number)
        samples = [[rng.getrandbits(64) for _ in range(6)]]
        if call is not None:
            samples = list(interesting_arguments(judge.policy, call, rng))
        for args in samples:
            got, wanted = judge.guest(number, args), judge.expected(number, args)
            assert got == wanted, (call, number, [hex(a) for a in args], hex(got), hex(wanted))


@pytest.mark.parametrize(("name", "machine"), BOTH)
def test_unknown_numbers_get_the_default(name: str, machine: str) -> None:
    judge = Judge(load_policy(name), machine)
    for number in (470, 600, 1023, 0x10000, 0x3FFFFFFF, 0xFFFFFFFF):
        assert judge.guest(number, [0] * 6) == bpf.ERRNO | errno.ENOSYS


@pytest.mark.parametrize(("name", "machine"), BOTH)
def test_foreign_architectures_are_violations(name: str, machine: str) -> None:
    judge = Judge(load_policy(name), machine)
    for arch in (bpf.I386, bpf.AARCH64, bpf.X86_64, 0x40000028, 0xC00000F3, 0, 0xFFFFFFFF):
        if arch != judge.token:
            for number in [*range(601), 0x40000000, 0xFFFFFFFF]:
                assert judge.guest(number, [0] * 6, arch) == bpf.NOTIFY


@pytest.mark.parametrize("name", SHIPPED)
def test_x32_calls_are_violations(name: str) -> None:
    judge = Judge(load_policy(name), "x86_64")
    for number in [*range(601), 0x3FFFFFFF, 0xBFFFFFFE]:
        assert judge.guest(bpf.X32_BIT + number, [0] * 6) == bpf.NOTIFY


@pytest.mark.parametrize(("name", "machine"), BOTH)
def test_init_has_what_it_needs_under_the_first_filter_alone(name: str, machine: str) -> None:
    judge = Judge(load_policy(name), machine)
    rng = random.Random(7)
    seen = 0
    for rule in init_rules():
        for call in rule.calls:
            number = kernel_names().numbers[call].get(machine)
            if number is None:
                continue
            args = [rng.getrandbits(64) for _ in range(6)]
            for condition in rule.when:
                args[condition.arg] = rng.choice(condition.values)
            assert bpf.run(judge.first, judge.token, number, args) == bpf.ALLOW, (call, args)
            seen += 1
    assert seen > 50


@pytest.mark.parametrize(("name", "machine"), BOTH)
def test_the_last_filter_never_hides_a_violation(name: str, machine: str) -> None:
    judge = Judge(load_policy(name), machine)
    violations = [c for r in judge.policy.rules if r.action == "violation" for c in r.calls]
    numbers = [kernel_names().numbers[c].get(machine) for c in violations]
    assert len(violations) > 20
    for number in numbers:
        if number is not None:
            assert bpf.run(judge.last, judge.token, number, [0] * 6) == bpf.ALLOW


def test_the_set_ups_calls_are_closed_for_the_guest() -> None:
    for name in SHIPPED:
        judge = Judge(load_policy(name), "x86_64")
        for call, args, wanted in (
            ("seccomp", [1, 0], errno.EPERM),
            ("landlock_restrict_self", [3, 0], errno.ENOSYS),
            ("keyctl", [1, 0], errno.ENOSYS),
            ("prctl", [4, 1], errno.EPERM),
            ("prctl", [1, 0], errno.EPERM),
        ):
            number = kernel_names().numbers[call]["x86_64"]
            full = [*args, 0, 0, 0, 0]
            assert bpf.run(judge.first, judge.token, number, full) == bpf.ALLOW, call
            assert bpf.errno_of(judge.guest(number, full)) == wanted, call


# call, arguments, whether they pass: what the shipped policies allow in part, in the bytes.
IN_PART = [
    ("getsockopt", (3, 1, 3), True),
    ("getsockopt", (3, 1, 39), True),
    ("getsockopt", (3, 1, 77), False),  # SO_PEERPIDFD
    ("getsockopt", (3, 1, 77 | 1 << 32), False),
    ("getsockopt", (3, 0, 3), False),
    ("preadv2", (3, 0, 0, 0, 0, 0), True),
    ("preadv2", (3, 0, 0, 0, 0, 8), False),  # RWF_NOWAIT
    ("preadv2", (3, 0, 0, 0, 0, 9), False),
    ("preadv2", (3, 0, 0, 0, 0, 1 << 32), True),
    ("pwritev2", (3, 0, 0, 0, 0, 0x16), True),
    ("pwritev2", (3, 0, 0, 0, 0, 0x18), False),
    ("pwritev2", (3, 0, 0, 0, 0, 0x40), False),
    ("fadvise64", (3, 0, 0, 5), True),
    ("fadvise64", (3, 0, 0, 4), False),  # POSIX_FADV_DONTNEED
    ("openat", (3, 0, 0o2, 0o6755), True),  # no file is made: the mode may be anything
    ("openat", (3, 0, 0o200000, 0xFFFFFFFFFFFFFFFF), True),
    ("openat", (3, 0, 0o102, 0o1777), True),
    ("openat", (3, 0, 0o102, 0o4755), False),
    ("openat", (3, 0, 0o102, 0o2755), False),
    ("openat", (3, 0, 0o20200002, 0o4700), False),  # O_TMPFILE
    ("openat", (3, 0, 0o102 | 1 << 32, 0o4755 | 1 << 32), False),
    ("open", (0, 0o2, 0o6755), True),
    ("open", (0, 0o102, 0o644), True),
    ("open", (0, 0o102, 0o4755), False),
    ("open", (0, 0o20200002, 0o2700), False),
]


@pytest.mark.parametrize(("name", "machine"), BOTH)
def test_what_is_allowed_in_part_passes_so_and_no_other_way(name: str, machine: str) -> None:
    judge = Judge(load_policy(name), machine)
    for call, values, passes in IN_PART:
        number = kernel_names().numbers[call].get(machine)
        if number is not None:
            full = [*values, 0, 0, 0, 0, 0][:6]
            wanted = bpf.ALLOW if passes else bpf.ERRNO | errno.EPERM
            assert judge.guest(number, full) == wanted, (call, values)


@pytest.mark.parametrize(
    ("mode", "passes"), [(0o644, True), (0o4644, False), (0o2644, False), (0o6644, False)]
)
def test_creat_makes_no_file_that_gives_rights(mode: int, passes: bool) -> None:
    judge = Judge(load_policy("python"), "x86_64")
    wanted = bpf.ALLOW if passes else bpf.ERRNO | errno.EPERM
    assert judge.guest(kernel_names().numbers["creat"]["x86_64"], [0, mode, 0, 0, 0, 0]) == wanted


NOBODY = 0xFFFFFFFF
BUILDING = [
    ("flock", (3, 1), True),
    ("flock", (3, 2), True),
    ("flock", (3, 8), True),
    ("flock", (3, 2 | 4), True),
    ("flock", (3, 0), False),
    ("flock", (3, 2 | 32), False),  # LOCK_MAND
    ("setresuid", (NOBODY, 1000, NOBODY), True),
    ("setresgid", (NOBODY, 1000, NOBODY), True),
    ("setresuid", (NOBODY, 0, NOBODY), False),
    ("setresuid", (1000, 1000, 1000), False),
    ("setresgid", (NOBODY, 1000, 0), False),
]


@pytest.mark.parametrize("machine", MACHINES)
def test_build_tools_lock_files_and_become_who_they_are(machine: str) -> None:
    building, running = (Judge(load_policy(name), machine) for name in ("compiler", "program"))
    for call, values, passes in BUILDING:
        number = kernel_names().numbers[call][machine]
        full = [*values, 0, 0, 0, 0][:6]
        wanted = bpf.ALLOW if passes else bpf.ERRNO | errno.EPERM
        assert building.guest(number, full) == wanted, (call, values)
        refused = errno.ENOLCK if call == "flock" else errno.EPERM
        assert running.guest(number, full) == bpf.ERRNO | refused


@pytest.mark.parametrize("machine", MACHINES)
def test_the_set_up_itself_makes_no_file_and_asks_for_no_peer(machine: str) -> None:
    judge = Judge(Policy("nothing", ()), machine)
    for call, values, passes in (
        ("openat", (3, 0, 0, 0o6755), True),
        ("openat", (3, 0, 0o102, 0o644), False),
        ("openat", (3, 0, 0o20200002, 0o600), False),
        ("getsockopt", (3, 1, 3), True),
        ("getsockopt", (3, 1, 38), True),
        ("getsockopt", (3, 1, 17), False),
        ("getsockopt", (3, 1, 77), False),
    ):
        number = kernel_names().numbers[call][machine]
        full = [*values, 0, 0, 0, 0][:6]
        wanted = bpf.ALLOW if passes else bpf.ERRNO | errno.EPERM
        assert bpf.run(judge.first, judge.token, number, full) == wanted, (call, values)


def test_a_policy_of_nothing_leaves_the_set_up_working_and_the_guest_without_a_call() -> None:
    judge = Judge(Policy("nothing", ()), "x86_64")
    assert all(judge.guest(n, [0] * 6) == bpf.ERRNO | errno.ENOSYS for n in range(601))
    assert bpf.run(judge.first, judge.token, 0, [0] * 6) == bpf.ALLOW


def test_a_refusals_errno_wins_over_the_default() -> None:
    rules = (Rule("refuse", ("read", "keyctl"), "for the test", errno="EROFS"),)
    judge = Judge(Policy("narrow", rules, default="EACCES"), "x86_64")
    assert bpf.errno_of(judge.guest(0, [0] * 6)) == errno.EROFS
    assert bpf.errno_of(judge.guest(250, [1] * 6)) == errno.EROFS
    assert bpf.errno_of(judge.guest(1, [0] * 6)) == errno.EACCES
    assert bpf.errno_of(judge.guest(0x12345, [0] * 6)) == errno.EACCES


def test_masks_and_several_conditions_in_alternatives() -> None:
    rules = (
        Rule("allow", ("socket",), "a", (Condition(0, (1, 16)), Condition(1, (1,), 0xF))),
        Rule("allow", ("socket",), "b", (Condition(0, (2,)), Condition(2, (6, 17)))),
    )
    judge = Judge(Policy("sockets", rules), "x86_64")
    rng = random.Random(3)
    outcomes = set()
    for _ in range(4000):
        args = [rng.choice((0, 1, 2, 6, 16, 17)) | rng.choice((0, 0x800)) for _ in range(6)]
        args = [a | rng.choice((0, 1 << 32, 1 << 63)) for a in args]
        got = judge.guest(41, args)
        outcomes.add(got)
        assert got == judge.expected(41, args), args
    assert outcomes == {bpf.ALLOW, bpf.ERRNO | errno.EPERM}


def test_part_of_what_the_set_up_needs_is_an_error_not_a_hole() -> None:
    rules = (Rule("allow", ("write",), "only stdout", (Condition(0, (1,)),)),)
    with pytest.raises(PolicyError, match="write is allowed in part"):
        compile_filters(Policy("part", rules), "x86_64")


def test_equal_policies_share_filters_and_different_ones_differ() -> None:
    ours = compile_filters(load_policy("python"), "x86_64")
    assert compile_filters(load_policy("python"), "x86_64") is ours
    assert len(ours.digest) == 64
    assert compile_filters(load_policy("compute"), "x86_64").digest != ours.digest


def test_an_unknown_machine_is_unsupported() -> None:
    with pytest.raises(Unsupported) as caught:
        compile_filters(load_policy("base"), "vax")
    assert caught.value.feature == "seccomp"


def test_names_of_reported_calls() -> None:
    assert syscall_name(bpf.X86_64, 101) == "ptrace"
    assert syscall_name(bpf.AARCH64, 117) == "ptrace"
    assert syscall_name(bpf.X86_64, 999) == "syscall 999"
    assert syscall_name(bpf.X86_64, -1) == "syscall 4294967295"
    assert syscall_name(bpf.I386, 20) == "getpid"
    assert syscall_name(bpf.X86_64, bpf.X32_BIT | 39) == "getpid"
    assert syscall_name(0x1234, 5) == "syscall 5"
    assert arch_name(bpf.X86_64, 39) == "x86_64"
    assert arch_name(bpf.X86_64, bpf.X32_BIT | 39) == "x32"
    assert arch_name(bpf.I386, 20) == "i386"
    assert arch_name(0x1234) == "architecture 0x1234"


def test_the_interpreter_itself() -> None:
    allow = bytes.fromhex("0600 00 00 0000ff7f")
    assert bpf.run(bpf.decode(allow), 0, 0, [0] * 6) == bpf.ALLOW
    with pytest.raises(bpf.BadProgramError):
        bpf.decode(bytes.fromhex("1500 05 00 00000000") + allow)
    kill, notify, one, two = bpf.KILL_PROCESS, bpf.NOTIFY, bpf.ERRNO | 1, bpf.ERRNO | 2
    assert bpf.combine([notify, bpf.ALLOW]) == notify
    assert bpf.combine([notify, one]) == one
    assert bpf.combine([one, two]) == two
    assert bpf.combine([kill, two, notify]) == kill
