"""The proof that a filter answers as its rules say: it refuses programs that are wrong in one
place, and follows what libseccomp emits."""

from __future__ import annotations

import errno
from itertools import product

import pytest

from sandbox._errors import PolicyError
from sandbox._filter_proof import Instruction, NotProvedError, Way, decode, prove
from sandbox._policy import Condition, Policy, Rule, kernel_names
from sandbox._policy_file import load_policy
from sandbox._rule_file import init_rules
from sandbox._seccomp import _ways_by_call, compile_filters
from tests import bpf
from tests.bpf import Judge

CALL = 42
LOAD, AND, EQUAL, ABOVE, RETURN = 0x20, 0x54, 0x15, 0x25, 0x06
REFUSED = bpf.ERRNO | errno.EPERM
# arg 0 == 7, or (arg 1 & 12) == 4 and arg 2 == 1
WAYS = [((0, 0xFFFF_FFFF, 7),), ((1, 12, 4), (2, 0xFFFF_FFFF, 1))]
RIGHT: list[Instruction] = [
    (LOAD, 0, 0, 0),
    (EQUAL, 0, 8, CALL),
    (LOAD, 0, 0, 16),
    (EQUAL, 5, 0, 7),
    (LOAD, 0, 0, 24),
    (AND, 0, 0, 12),
    (EQUAL, 0, 3, 4),
    (LOAD, 0, 0, 32),
    (EQUAL, 0, 1, 1),
    (RETURN, 0, 0, bpf.ALLOW),
    (RETURN, 0, 0, REFUSED),
]


def prove_it(code: list[Instruction], number: int = CALL) -> None:
    ways = WAYS if number == CALL else []
    prove(code, bpf.X86_64, number, ways, bpf.ALLOW, REFUSED)


def test_a_right_program_is_proved() -> None:
    for number in (CALL, CALL - 1, CALL + 1):
        prove_it(RIGHT, number)


@pytest.mark.parametrize(
    ("at", "wrong"),
    [
        (1, (EQUAL, 8, 0, CALL)),  # the rules of another call
        (2, (LOAD, 0, 0, 24)),  # another argument
        (2, (LOAD, 0, 0, 20)),  # the upper half of the argument
        (3, (EQUAL, 0, 5, 7)),  # yes and no exchanged
        (3, (EQUAL, 5, 0, 8)),  # another value
        (3, (EQUAL, 6, 0, 7)),  # stricter than the rules
        (3, (EQUAL, 4, 0, 7)),
        (4, (LOAD, 0, 0, 16)),
        (5, (AND, 0, 0, 4)),  # fewer bits: weaker
        (5, (AND, 0, 0, 15)),  # more bits: stricter
        (6, (EQUAL, 2, 3, 4)),  # a comparison left out
        (6, (EQUAL, 0, 2, 4)),
        (8, (EQUAL, 0, 0, 1)),
        (9, (RETURN, 0, 0, REFUSED)),
        (9, (RETURN, 0, 0, bpf.LOG)),
        (10, (RETURN, 0, 0, bpf.ALLOW)),
        (10, (RETURN, 0, 0, bpf.ERRNO | errno.ENOSYS)),
        (3, (ABOVE, 5, 0, 7)),  # not followed
        (2, (0x30, 0, 0, 16)),
    ],
)
def test_one_wrong_instruction_is_found(at: int, wrong: Instruction) -> None:
    with pytest.raises(NotProvedError):
        for number in (CALL, CALL - 1):
            prove_it([*RIGHT[:at], wrong, *RIGHT[at + 1 :]], number)


def test_what_takes_too_many_steps_is_not_proved() -> None:
    chain: list[Instruction] = []
    for bit in range(32):
        chain += [(LOAD, 0, 0, 16), (AND, 0, 0, 1 << bit), (EQUAL, 0, 0, 1 << bit)]
    with pytest.raises(NotProvedError, match="too many"):
        prove([*chain, (RETURN, 0, 0, REFUSED)], bpf.X86_64, CALL, [], bpf.ALLOW, REFUSED)


def test_no_comparison_of_a_shipped_filter_can_be_turned_round() -> None:
    """Each jump on an argument is exchanged in turn: the proof, which passes without, fails."""
    policy = load_policy("python")
    code = decode(compile_filters(policy, "x86_64").first)
    conditional = _conditional(policy)
    prove_all(code, conditional)
    turned = 0
    for at, (op, yes, no, k) in enumerate(code):
        before, _, _, word = code[at - 1]
        if op == EQUAL and yes != no and (before == AND or (before == LOAD and word >= 16)):
            with pytest.raises(NotProvedError):
                prove_all([*code[:at], (op, no, yes, k), *code[at + 1 :]], conditional)
            turned += 1
    assert turned > 10


def _conditional(policy: Policy) -> dict[int, set[Way]]:
    """Number → its ways, for the calls that pass with some arguments only."""
    ways = _ways_by_call(policy.rules)
    for call, ours in _ways_by_call(init_rules()).items():
        ways[call] = ways.get(call, set()) | ours
    numbers = kernel_names().numbers
    return {numbers[call]["x86_64"]: found for call, found in ways.items() if () not in found}


def prove_all(code: list[Instruction], conditional: dict[int, set[Way]]) -> None:
    for number, ways in conditional.items():
        prove(code, bpf.X86_64, number, ways, bpf.ALLOW, REFUSED)


def test_a_filter_that_libseccomp_gets_wrong_is_made_another_way() -> None:
    """2.5.4 lets arguments through here that no rule allows: found by the fuzzer."""
    whole = 0xFFFF_FFFF
    rules = (
        Rule("allow", ("pkey_free",), "first", (Condition(1, (0, 9, 14, 3694146383), whole),)),
        Rule(
            "allow",
            ("pkey_free",),
            "second",
            (
                Condition(2, (1, 2452002691), whole),
                Condition(5, (0,), 3313203968),
                Condition(1, (0, 1, 8, 10), whole),
            ),
        ),
    )
    judge = Judge(Policy("found by the fuzzer", rules), "x86_64")
    number = kernel_names().numbers["pkey_free"]["x86_64"]
    for args in product([0], [0, 1, 8, 9, 10, 14, 2], [0, 1, 2452002691], [0], [0], [0, whole]):
        assert judge.guest(number, args) == judge.expected(number, args), args


def test_a_filter_that_cannot_be_made_right_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second way of making one is checked too: what it does not mend is the policy's error."""
    monkeypatch.setattr("sandbox._filter_proof._MOST_STEPS", 3)
    with pytest.raises(PolicyError, match="not proved") as caught:
        compile_filters(Policy("nothing provable", load_policy("base").rules))
    assert "Use fewer conditions" in str(caught.value)
