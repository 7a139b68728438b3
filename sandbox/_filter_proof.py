"""Does a compiled filter answer as its rules say? Proved over the bytes, on the host, for every
value of every argument, before a jail gets them.

A compiler of filters is trusted with everything behind it, and libseccomp is known to be wrong:
2.5.4 makes of one policy in some thousands a filter that allows calls no rule allows. So the
program is walked along every path that one system call can take, keeping what the comparisons
passed on the way say about the arguments. That is exact for what libseccomp emits for masked
comparisons: loads, ANDs, jumps on equality, and on order for the number alone. Anything else counts
as not proved.

*Not covered*: architectures other than the filter's own, which the first instructions turn away.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

# One way in which a call passes: (argument, mask, value), all of which must match.
Way = tuple[tuple[int, int, int], ...]
Instruction = tuple[int, int, int, int]  # struct sock_filter: code, jt, jf, k

# Of linux/filter.h, in the only combinations that are walked.
_LOAD, _AND, _RETURN, _JUMP = 0x20, 0x54, 0x06, 0x05
_EQUAL, _ABOVE, _FROM = 0x15, 0x25, 0x35
_NUMBER, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data
_ALL = 0xFFFF_FFFF
_MOST_STEPS = 200_000  # for one call; the policies that ship need some dozens

# What is known of the 32-bit words of the arguments: (offset, mask, value).
_Facts = frozenset[tuple[int, int, int]]


class NotProvedError(Exception):
    """The filter answers otherwise than its rules, or cannot be followed."""


def decode(program: bytes) -> list[Instruction]:
    return list(struct.iter_unpack("=HBBI", program))


def prove(
    code: list[Instruction],
    arch: int,
    number: int,
    ways: Iterable[Way],
    inside: int,
    outside: int,
) -> None:
    """That system call `number` of `arch` (an AUDIT_ARCH_ token) is answered with `inside` where
    one of `ways` matches and with `outside` everywhere else.

    Raises:
        NotProvedError: it is not so, or it cannot be told.
    """
    known = [_facts(way) for way in ways]
    for answer, facts in _leaves(code, arch, number, frozenset()):
        if answer == inside and any(_implies(facts, way) for way in known):
            continue
        if answer != outside:
            raise NotProvedError(f"answers {answer:#x} to {number} where {sorted(facts)}")
    for way in known:
        for answer, facts in _leaves(code, arch, number, way):
            if answer != inside:
                raise NotProvedError(f"answers {answer:#x} to {number} where {sorted(facts)}")


def _facts(way: Way) -> _Facts:
    """The lower words: arguments are compared in their lower 32 bits only."""
    return frozenset((_ARGS + 8 * arg, mask, value) for arg, mask, value in way)


def _leaves(
    code: list[Instruction], arch: int, number: int, assumed: _Facts
) -> Iterator[tuple[int, _Facts]]:
    """Each answer that can be reached where `assumed` holds, with what holds there."""
    # Where, the accumulator as (word, mask), and what is known.
    todo = [(0, (_NUMBER, _ALL), assumed)]
    seen = set(todo)
    for _ in range(_MOST_STEPS):
        if not todo:
            return
        at, (word, mask), facts = todo.pop()
        op, yes, no, k = code[at]
        at += 1
        if op == _RETURN:
            yield k, facts
            continue
        if op == _LOAD:
            after = [(at, (k, _ALL), facts)]
        elif op == _AND:
            after = [(at, (word, mask & k), facts)]
        elif op == _JUMP:
            after = [(at + k, (word, mask), facts)]
        elif word in (_NUMBER, _ARCH):
            value = mask & (number if word == _NUMBER else arch)
            after = [(at + (yes if _compare(op, value, k) else no), (word, mask), facts)]
        elif op == _EQUAL:
            after = [
                (at + jump, (word, mask), then)
                for jump, then in _branches(yes, no, (word, mask, k), facts)
            ]
        else:
            raise NotProvedError(f"instruction {op:#x}")
        todo += [state for state in after if state not in seen]
        seen.update(after)
    raise NotProvedError("too many paths")


def _compare(op: int, value: int, k: int) -> bool:
    if op == _EQUAL:
        return value == k
    if op == _ABOVE:
        return value > k
    if op == _FROM:
        return value >= k
    raise NotProvedError(f"instruction {op:#x}")


def _branches(
    yes: int, no: int, fact: tuple[int, int, int], facts: _Facts
) -> Iterator[tuple[int, _Facts]]:
    """Which ways on from "is `fact` so?" are open. What a "no" says is not kept: the proof then
    takes too many paths for possible, never too few."""
    word, mask, value = fact
    known, its_value = _known(facts, word)
    if not value & ~mask and not known & mask & (value ^ its_value):
        yield yes, facts | {fact}
    if mask & ~known or value != its_value & mask:
        yield no, facts


def _implies(facts: _Facts, way: _Facts) -> bool:
    for word, mask, value in way:
        known, its_value = _known(facts, word)
        if mask & ~known or its_value & mask != value:
            return False
    return True


def _known(facts: _Facts, word: int) -> tuple[int, int]:
    """(mask, value) of the bits of a word that are known."""
    mask = value = 0
    for its_word, its_mask, its_value in facts:
        if its_word == word:
            mask |= its_mask
            value |= its_value
    return mask, value
