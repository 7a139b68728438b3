"""Extensions of the encoding that are one value each: code → how it is made of its payload."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Context, Decimal, InvalidOperation
from fractions import Fraction
from typing import Final
from uuid import UUID

from ._rejected import ValueRejected

MOST_FRACTION: Final = 1024  # bytes of a numerator or denominator: gcd is quadratic
MOST_DECIMAL: Final = 1 << 20  # characters

# A context of our own: the application's may turn what is out of range into NaN.
_EXACT: Final = Context(traps=[InvalidOperation])
_DECIMAL_TEXT = re.compile(r"-?(?:\d+(?:\.\d+)?(?:E[+-]\d+)?|Infinity|s?NaN\d*)", re.ASCII)


def _int(payload: bytes) -> int:
    value = int.from_bytes(payload, "big", signed=True)
    if -(1 << 63) <= value < 1 << 64:
        raise ValueRejected("a small int in the long form")
    return value


def _text(payload: bytes) -> str:
    return payload.decode("utf-8", "surrogatepass")


def _complex(payload: bytes) -> complex:
    return complex(*struct.unpack(">dd", payload))


def _decimal(payload: bytes) -> Decimal:
    if len(payload) > MOST_DECIMAL:
        raise ValueRejected(f"a Decimal is longer than {MOST_DECIMAL} characters")
    text = payload.decode("ascii")
    if _DECIMAL_TEXT.fullmatch(text) is None:
        raise ValueRejected("a Decimal is malformed")
    return Decimal(text, _EXACT)


def _fraction(payload: bytes) -> Fraction:
    middle = 2 + int.from_bytes(payload[:2], "big")
    if middle > 2 + MOST_FRACTION or len(payload) - middle > MOST_FRACTION:
        raise ValueRejected(f"a part of a Fraction is longer than {MOST_FRACTION} bytes")
    numerator = int.from_bytes(payload[2:middle], "big", signed=True)
    denominator = int.from_bytes(payload[middle:], "big", signed=True)
    made = Fraction(numerator, denominator)
    if made.denominator != denominator:
        raise ValueRejected("a Fraction is not in lowest terms")
    return made


def _datetime(payload: bytes) -> datetime:
    y, mo, d, h, mi, s, us, fold = struct.unpack(">HBBBBBIB", payload[:12])
    return datetime(y, mo, d, h, mi, s, us, _zone(payload[12:]), fold=fold)


def _date(payload: bytes) -> date:
    return date(*struct.unpack(">HBB", payload))


def _time(payload: bytes) -> time:
    h, mi, s, us, fold = struct.unpack(">BBBIB", payload[:8])
    return time(h, mi, s, us, _zone(payload[8:]), fold=fold)


def _timedelta(payload: bytes) -> timedelta:
    return timedelta(*struct.unpack(">iiI", payload))


def _zone(data: bytes) -> timezone | None:
    if not data:
        return None
    offset = timedelta(microseconds=int.from_bytes(data[:8], "big", signed=True))
    if len(data) == 8:
        return timezone(offset)
    if len(data) < 8 or data[8:9] != b"=":
        raise ValueRejected("a time zone is malformed")
    return timezone(offset, data[9:].decode("utf-8", "surrogatepass"))


def _uuid(payload: bytes) -> UUID:
    return UUID(bytes=payload)


MAKERS: Final[dict[int, Callable[[bytes], object]]] = {
    16 + at: build
    for at, build in enumerate(
        (_int, _text, _complex, _decimal, _fraction, _uuid, _datetime, _date, _time, _timedelta)
    )
}
