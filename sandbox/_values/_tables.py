"""Keys of dicts and members of sets, looked at before the interpreter builds a table of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from ._rejected import ValueRejected

MOST_KEY: Final = 1024  # bytes of a hashed number: comparing int with Decimal is quadratic
# Types whose hash is keyed with the interpreter's secret, so that nobody can choose collisions.
_SALTED = frozenset((str, bytes, date)) if sys.flags.hash_randomization else frozenset()

_MOST_EQUAL: Final = 16
_MOST_JUMPS: Final = 16_000_000  # of all tables of one value: a few seconds of replaying at most
_SET_RUN: Final = 9  # a set looks at this many neighbours before it jumps (setobject.c)
_WORD: Final = (1 << 64) - 1


def count_jumps(keys: list[Any], of_set: bool, before: int) -> int:
    """Refuse keys that would make a table of the interpreter's quadratic; how often they collide,
    added to `before` of the value's other tables.

    The hashes of numbers and tuples are no secret: a guest can choose a million keys that all
    probe the same slots, equal hashes or not, and one resize of such a table takes hours inside a
    single C call. So the building of the table is replayed with the hashes alone, every size on
    the way and the next included. Regular keys of honest guests (multiples of a power of two) take
    up to 30 jumps a key; more than 64 are refused, and keys that are compared with more than 16
    (in a set, some 40) of equal hash.
    """
    if len(keys) <= _MOST_EQUAL:
        return before
    kinds = set(map(type, keys))
    if kinds <= _SALTED:
        return before
    first = keys[0]
    if kinds == {int} and first >= 0 and keys == list(range(first, first + len(keys))):
        return before  # consecutive numbers never collide
    hashes = list(map(hash, keys))
    jumps = before + (_set_jumps(hashes) if of_set else _dict_jumps(hashes))
    if jumps > _MOST_JUMPS:
        raise ValueRejected("too many keys of dicts and sets collide")
    return jumps


def _dict_jumps(hashes: list[int]) -> int:
    """dictobject.c keeps the order of insertion and doubles its table when it is 2/3 full."""
    jumps, size = 0, 64
    while size < 6 * len(hashes):
        jumps += _replay([None] * size, hashes[: 2 * size // 3], 0)
        size *= 2
    return jumps


def _set_jumps(hashes: list[int]) -> int:
    """setobject.c fills 3/5 of a table, then moves its members, in the order of their slots, to
    one of four times their number (twice above 50,000); a copy has twice their number."""
    table: list[int | None] = [None] * 8
    jumps = done = 0
    while True:
        full = -(-3 * (len(table) - 1) // 5)
        jumps += _replay(table, hashes[done:full], _SET_RUN)
        done = min(full, len(hashes))
        members = [value for value in table if value is not None]
        if done == len(hashes):
            break
        table = [None] * _set_size(done * (2 if done > 50000 else 4))
        jumps += _replay(table, members, _SET_RUN)
    for size in {_set_size(2 * done), _set_size(4 * done)} - {len(table)}:
        jumps += _replay([None] * size, members, _SET_RUN)
    return jumps


def _set_size(least: int) -> int:
    return max(8, 1 << least.bit_length())


def _replay(table: list[int | None], hashes: list[int], run: int) -> int:
    """Put `hashes` into `table` as CPython 3.11 to 3.13 do: after each jump a set looks at `run`
    neighbours, a dict at none."""
    mask = len(table) - 1
    jumps, most = 0, 64 * len(hashes) + 1000
    most_equal = 3 * _MOST_EQUAL if run else _MOST_EQUAL  # neighbourhoods overlap
    for value in hashes:
        at = value & mask
        perturb = value & _WORD
        equal = 0
        while (other := table[at]) is not None:
            equal += other == value
            if run and at + run <= mask:
                near = table[at + 1 : at + run + 1]
                equal += near.count(value)
                if None in near:
                    at += 1 + near.index(None)
                    break
            jumps += 1
            perturb >>= 5
            at = (at * 5 + perturb + 1) & mask
        table[at] = value
        if jumps > most or equal > most_equal:
            raise ValueRejected("too many keys of a dict or set collide")
    return jumps


def check_long_keys(keys: list[Any]) -> None:
    """Refuse numbers among keys that are too long to be compared."""
    waiting: list[Iterable[Any]] = [keys]
    while waiting:
        for key in waiting.pop():
            kind = type(key)
            if kind is tuple:  # a frozenset's members were checked when it was made
                waiting.append(key)
            elif kind is Decimal:
                size = len(str(key))
            elif kind is int:
                size = (key.bit_length() + 8) // 8
            elif kind is Fraction:
                size = (max(abs(key.numerator), key.denominator).bit_length() + 8) // 8
            else:
                continue
            if kind is not tuple and size > MOST_KEY:
                raise ValueRejected(f"a number in a key is longer than {MOST_KEY} bytes")
