"""How values of other modules' types are written: numbers, times, enum members, numpy's arrays.
None of these modules is imported here."""

from __future__ import annotations

import struct
import sys

from .encoding import (
    ARRAY,
    ARRAY_SCALAR,
    COMPLEX,
    DATE,
    DATETIME,
    DECIMAL,
    FLAT,
    FRACTION,
    LONG,
    LONG_DATA,
    MOST_DECIMAL,
    MOST_FRACTION,
    TIME,
    TIMEDELTA,
    UUID,
)
from .unfit import MRO, Unfit, type_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .values import Writer

_DATETIME = struct.Struct(">HBBBBBIB")
_DATE = struct.Struct(">HBB")
_TIME = struct.Struct(">BBBIB")
_TIMEDELTA = struct.Struct(">iiI")


def writers() -> dict[object, Callable[[Writer, Any], None]]:
    """The types of modules the guest has imported: type → how to write it."""

    def of(module: str, name: str) -> Any:
        return getattr(sys.modules.get(module), name, None)

    found: dict[object, Callable[[Writer, Any], None]] = {
        complex: lambda w, x: w.ext(COMPLEX, struct.pack(">dd", x.real, x.imag)),
        of("decimal", "Decimal"): _decimal,
        of("fractions", "Fraction"): _fraction,
        of("uuid", "UUID"): lambda w, x: w.ext(UUID, x.int.to_bytes(16, "big")),
        of("datetime", "datetime"): _datetime,
        of("datetime", "time"): _time,
        of("datetime", "date"): lambda w, x: w.ext(DATE, _DATE.pack(x.year, x.month, x.day)),
        of("datetime", "timedelta"): lambda w, x: w.ext(
            TIMEDELTA, _TIMEDELTA.pack(x.days, x.seconds, x.microseconds)
        ),
        of("numpy", "ndarray"): _array,
    }
    scalars: Iterable[Any] = (of("numpy", "sctypeDict") or {}).values()
    found.update({kind: _array_scalar for kind in scalars if kind not in FLAT})
    found.pop(None, None)
    return found


def _decimal(w: Writer, x: Any) -> None:
    text = str(x).replace("e", "E")  # as the guest's decimal context would have it
    if len(text) > MOST_DECIMAL:
        raise Unfit(type_name(type(x)), f"longer than {MOST_DECIMAL} characters")
    w.key_number(len(text), x)
    w.ext(DECIMAL, text.encode("ascii"))


def _fraction(w: Writer, x: Any) -> None:
    parts = []
    for part in (x._numerator, x._denominator):
        if type(part) is not int:
            raise Unfit(type_name(type(x)), f"made of {type_name(type(part))}, not of int")
        count = (part.bit_length() + 8) // 8
        if count > MOST_FRACTION:
            raise Unfit(type_name(type(x)), f"a part is longer than {MOST_FRACTION} bytes")
        w.key_number(count, x)
        parts.append(part.to_bytes(count, "big", signed=True))
    w.ext(FRACTION, len(parts[0]).to_bytes(2, "big") + parts[0] + parts[1])


def _datetime(w: Writer, x: Any) -> None:
    clock = (x.hour, x.minute, x.second, x.microsecond, x.fold)
    w.ext(DATETIME, _DATETIME.pack(x.year, x.month, x.day, *clock) + _zone(x))


def _time(w: Writer, x: Any) -> None:
    clock = _TIME.pack(x.hour, x.minute, x.second, x.microsecond, x.fold)
    w.ext(TIME, clock + _zone(x))


def _array(w: Writer, x: Any) -> None:
    dtype = _dtype(x)
    w.room(x.nbytes)  # a broadcast array has no memory of its own
    w.head(2 + x.ndim, ARRAY)
    w.put(dtype, 1)
    if x.nbytes < LONG:
        w.scalar(x.tobytes())
    else:
        whole = x if x.flags.c_contiguous else x.copy(order="C")
        w.long(LONG_DATA, memoryview(whole.reshape(-1).view("u1")))
    for count in x.shape:
        w.integer(count)


def _array_scalar(w: Writer, x: Any) -> None:
    dtype: str | list[Any]
    data: str | bytes
    kind = x.dtype.kind
    if kind == "U":
        dtype, data = "U", str.__str__(x)
    elif kind == "S":
        dtype, data = "S", bytes.__getitem__(x, slice(None))
    else:
        dtype, data = _dtype(x), x.tobytes()
    w.head(2, ARRAY_SCALAR)
    w.put(dtype, 1)
    w.scalar(data)


def _zone(x: Any) -> bytes:
    """The offset in microseconds and the name, if it was given one; nothing if naive."""
    zone = x.tzinfo
    if zone is None:
        return b""
    if type(zone) is not sys.modules["datetime"].timezone:
        raise Unfit(
            type_name(type(x)),
            f"its tzinfo is a {type_name(type(zone))}; only datetime.timezone travels",
        )
    offset, *name = zone.__getinitargs__()
    micros = (offset.days * 86400 + offset.seconds) * 1_000_000 + offset.microseconds
    text = b"=" + name[0].encode("utf-8", "surrogatepass") if name else b""
    return bytes(micros.to_bytes(8, "big", signed=True) + text)


def _dtype(x: Any) -> str | list[Any]:
    description = _description(x.dtype)
    if description is None:
        raise Unfit(type_name(type(x)), f"its dtype is {str(x.dtype)[:100]}")
    return description


def _description(dtype: Any) -> str | list[Any] | None:
    """As `sandbox/_values/_records.py` reads it; None for what does not travel."""
    if dtype.kind not in "biufcSUMmV" or dtype.itemsize == 0:
        return None
    if dtype.fields is not None:
        return _record(dtype)
    # The letter, not the width: numpy.longlong and numpy.int64 are two types of one width.
    return str(dtype.str if dtype.kind in "SUMmV" else dtype.str[0] + dtype.char)


def _record(dtype: Any) -> list[Any] | None:
    """None if it is a record array's, if fields lie over one another, or have titles."""
    described: list[Any] = [dtype.itemsize]
    end = 0
    for name in dtype.names:
        field, offset, *title = dtype.fields[name]
        base, shape = field.subdtype or (field, ())
        inner = _description(base)
        if inner is None or offset < end or title or 0 in shape:
            return None
        described.append([name, offset, inner, *shape])
        end = offset + field.itemsize
    return described if dtype.type is sys.modules["numpy"].void else None


def check_distinct(x: object, keys: list[Any]) -> None:
    """Members of two enums may differ where their plain values do not."""
    try:
        distinct = len(set(map(_plain, keys)))
    except TypeError:
        raise Unfit(
            type_name(type(x)), "an enum member among its keys has no hashable value"
        ) from None
    if distinct != len(keys):
        raise Unfit(type_name(type(x)), "two of its keys are equal once enum members are values")


def _plain(key: Any) -> Any:
    kind = type(key)
    if kind is tuple or kind is frozenset:
        return kind(map(_plain, key))
    if kind not in FLAT and sys.modules["enum"].Enum in MRO(kind):
        return _plain(object.__getattribute__(key, "_value_"))
    return key
