"""The host's decoder of a guest's return value: hostile bytes in, plain values out.

The encoding is described in `worker/values.py`, which writes it for honest guests; a hostile one
writes what it likes. So: nothing is imported, called or looked up because the bytes say so (numpy,
once an array arrives, is the only import); arrays are the only containers, since msgpack allocates
them by the length they claim but at most 8192 items at a time, and nests at most 1024 of them;
tables are built only after their keys were seen not to collide; and one last walk over the result
lets nothing pass that is not of a known type.

Host memory stays below 45 times the cap in the worst case (millions of tiny objects), and
below 3 times for long strings and arrays.
"""

from __future__ import annotations

import importlib
import math
import re
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time, timedelta, timezone
from decimal import Context, Decimal, InvalidOperation
from fractions import Fraction
from itertools import chain
from typing import Any, Final
from uuid import UUID

import msgpack

_MOST_LEVELS: Final = 100
_MOST_ITEMS: Final = 8192
_MOST_FRACTION: Final = 1024  # bytes of a numerator or denominator: gcd is quadratic
_MOST_DECIMAL: Final = 1 << 20  # characters
_MOST_KEY: Final = 1024  # bytes of a hashed number: comparing int with Decimal is quadratic
_CHARGE: Final = 8
_CHUNKED: Final = 0x40

_LIST, _TUPLE, _SET, _FROZENSET, _DICT, _ARRAY, _ARRAY_SCALAR = range(1, 8)
_INT, _DECIMAL, _FRACTION = 16, 19, 20
_LONG_BYTES, _LONG_TEXT, _LONG_DATA = range(26, 29)

_CONTAINERS = frozenset((list, tuple, set, frozenset, dict))
_SCALARS = frozenset((type(None), bool, int, float, str, bytes, complex, Decimal, Fraction))
_SCALARS |= {UUID, datetime, date, time, timedelta}
# Types whose hash is keyed with the interpreter's secret, so that nobody can choose collisions.
_SALTED = frozenset((str, bytes, date)) if sys.flags.hash_randomization else frozenset()


class ValueRejected(ValueError):
    """The bytes are not an encoded value, or one that this host takes; the message says why and
    never quotes them."""


def decode_value(data: bytes | memoryview, cap: int) -> object:
    """The value that a worker encoded. It shares no memory with `data`.

    Args:
        data: the whole encoding; a memoryview may be of memory that is unmapped afterwards.
        cap: the same number the worker had: most bytes, plus 8 for each container.

    Raises:
        ValueRejected: always, whatever is wrong with `data`.
    """
    if len(data) > cap:
        raise ValueRejected(f"an encoding of {len(data)} bytes is longer than {cap}")
    with memoryview(data).cast("B") as view:
        size = int.from_bytes(view[:8], "big")
        if len(view) < 9 or size > len(view) - 8:
            raise ValueRejected("the encoding is shorter than it claims")
        reader = _Reader(view, 8 + size, cap - len(view))
        try:
            return reader.read()
        except ValueRejected:
            raise
        except (
            *(ValueError, TypeError, ArithmeticError, RecursionError, MemoryError),
            *(struct.error, msgpack.UnpackException),
            Warning,  # numpy's, where the application made warnings errors
        ) as error:
            raise ValueRejected(f"the encoding is malformed ({type(error).__name__})") from None
        finally:
            reader.release()


class _Marker:
    """The first item of an array that is not a list: the container's type."""

    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        self.code = code


_MARKERS = {c: _Marker(c) for b in range(1, 8) for c in (b, b | _CHUNKED)}


class _Reader:
    def __init__(self, view: memoryview, data_start: int, left: int) -> None:
        self.view = view
        self.document = view[8:data_start]
        self.at = data_start  # of the long data that nothing has referred to yet
        self.left = left  # what arrays may still be charged
        self.jumps = 0
        self.long_numbers = False
        self.borrowed = [self.document]
        self.types: set[type] = set(_SCALARS | _CONTAINERS)

    def read(self) -> object:
        value = msgpack.unpackb(
            self.document,
            raw=False,
            use_list=True,
            list_hook=self.container,
            ext_hook=self.extension,
            max_array_len=_MOST_ITEMS,
            max_map_len=0,
            max_str_len=len(self.document),
            max_bin_len=len(self.document),
            max_ext_len=len(self.document),
        )
        if self.at != len(self.view):
            raise ValueRejected("bytes are left over")
        self.check(value)
        return value

    def release(self) -> None:
        # Nothing may keep the caller's mapping alive, not even a traceback.
        for view in self.borrowed:
            view.release()

    def check(self, value: object) -> None:
        """Every type is one of ours (msgpack makes its Timestamp before our hook is asked), no
        marker is left, and containers are nested no deeper than the limit."""
        level: list[Any] = [[value]]
        for _ in range(_MOST_LEVELS + 1):
            kinds = set(map(type, _items(level)))
            if not kinds <= self.types:
                raise ValueRejected("the encoding holds something that is not a value")
            if kinds.isdisjoint(_CONTAINERS):
                return
            level = [item for item in _items(level) if type(item) in _CONTAINERS]
        raise ValueRejected(f"the value is nested deeper than {_MOST_LEVELS} levels")

    def container(self, items: list[Any]) -> Any:
        self.left -= _CHARGE
        if self.left < 0:
            raise ValueRejected("the value has more containers than its limit allows")
        if not items or type(items[0]) is not _Marker:
            return items
        code = items.pop(0).code
        if code & _CHUNKED:
            if not all(type(chunk) is list for chunk in items):
                raise ValueRejected("a part of a long container is not a list")
            items = list(chain.from_iterable(items))
            code &= ~_CHUNKED
            if code == _LIST:
                return items
        if code == _TUPLE:
            return tuple(items)
        if code == _DICT:
            return self.dict(items)
        if code in (_SET, _FROZENSET):
            return self.set(items) if code == _SET else frozenset(self.set(items))
        if code in (_ARRAY, _ARRAY_SCALAR):
            return self.array(items) if code == _ARRAY else self.array_scalar(items)
        raise ValueRejected("a container of an unknown type")

    def extension(self, code: int, payload: bytes) -> Any:
        build = _BUILD.get(code)
        if build is not None:
            if len(payload) > _MOST_KEY:
                self.long_numbers = True
            return build(payload)
        if code in _MARKERS and not payload:
            return _MARKERS[code]
        if code in (_LONG_BYTES, _LONG_TEXT, _LONG_DATA) and len(payload) == 8:
            return self.long(code, int.from_bytes(payload, "big"))
        raise ValueRejected(f"extension {code} is unknown or malformed")

    def long(self, code: int, size: int) -> Any:
        if size > len(self.view) - self.at:
            raise ValueRejected("the encoding refers to data it does not have")
        part = self.view[self.at : self.at + size]
        self.borrowed.append(part)
        self.at += size
        if code == _LONG_BYTES:
            return bytes(part)
        return str(part, "utf-8", "surrogatepass") if code == _LONG_TEXT else part

    def set(self, items: list[Any]) -> set[Any]:
        self.check_keys(items, of_set=True)
        made = set(items)
        if len(made) != len(items):
            raise ValueRejected("a set holds a member twice")
        return made

    def dict(self, items: list[Any]) -> dict[Any, Any]:
        keys = items[::2]
        if len(items) & 1:
            raise ValueRejected("a dict has a key without a value")
        self.check_keys(keys, of_set=False)
        made = dict(zip(keys, items[1::2], strict=True))
        if len(made) != len(keys):
            raise ValueRejected("a dict holds a key twice")
        return made

    def check_keys(self, keys: list[Any], of_set: bool) -> None:
        if self.long_numbers:
            _check_key_numbers(keys)
        if len(keys) > _MOST_EQUAL:
            self.jumps += _count_jumps(keys, of_set)
            if self.jumps > _MOST_JUMPS:
                raise ValueRejected("too many keys of dicts and sets collide")

    def array(self, items: list[Any]) -> Any:
        text, data, *shape = items
        np, dtype = _numpy_dtype(text)
        if type(data) not in (bytes, memoryview) or len(shape) > 64:
            raise ValueRejected("an array is malformed")
        if not all(type(count) is int and count >= 0 for count in shape):
            raise ValueRejected("an array has a malformed shape")
        if math.prod(shape) * dtype.itemsize != len(data):
            raise ValueRejected("an array's shape and data differ in size")
        made = np.empty(shape, dtype)
        self.types.add(type(made))
        if data:
            raw = made.reshape(-1).view(np.uint8)
            raw[:] = np.frombuffer(data, np.uint8)
            _check_elements(np, raw, text)
        return made

    def array_scalar(self, items: list[Any]) -> Any:
        text, data = items
        if (text, type(data)) == ("U", str):
            made = _numpy().str_(data)
        elif (text, type(data)) == ("S", bytes):
            made = _numpy().bytes_(data)
        else:
            made = self.array(items)[()]
        self.types.add(type(made))
        return made


def _items(containers: list[Any]) -> Iterator[Any]:
    values = (container.values() for container in containers if type(container) is dict)
    return chain(chain.from_iterable(containers), chain.from_iterable(values))


# --- Tables -----------------------------------------------------------------------------------

_MOST_EQUAL: Final = 16
_MOST_JUMPS: Final = 16_000_000  # of all tables of one value: a few seconds of replaying at most
_SET_RUN: Final = 9  # a set looks at this many neighbours before it jumps (setobject.c)
_WORD: Final = (1 << 64) - 1


def _count_jumps(keys: list[Any], of_set: bool) -> int:
    """Refuse keys that would make a table of the interpreter's quadratic; how often they collide.

    The hashes of numbers and tuples are no secret: a guest can choose a million keys that all
    probe the same slots, equal hashes or not, and one resize of such a table takes hours inside a
    single C call. So the building of the table is replayed with the hashes alone, every size on
    the way and the next included. Regular keys of honest guests (multiples of a power of two) take
    up to 30 jumps a key; more than 64 are refused, and keys that are compared with more than 16
    (in a set, some 40) of equal hash.
    """
    kinds = set(map(type, keys))
    if kinds <= _SALTED:
        return 0
    first = keys[0]
    if kinds == {int} and first >= 0 and keys == list(range(first, first + len(keys))):
        return 0  # consecutive numbers never collide
    hashes = list(map(hash, keys))
    return _set_jumps(hashes) if of_set else _dict_jumps(hashes)


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


def _check_key_numbers(keys: list[Any]) -> None:
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
            if kind is not tuple and size > _MOST_KEY:
                raise ValueRejected(f"a number in a key is longer than {_MOST_KEY} bytes")


# --- Scalars ----------------------------------------------------------------------------------

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
    if len(payload) > _MOST_DECIMAL:
        raise ValueRejected(f"a Decimal is longer than {_MOST_DECIMAL} characters")
    text = payload.decode("ascii")
    if _DECIMAL_TEXT.fullmatch(text) is None:
        raise ValueRejected("a Decimal is malformed")
    return Decimal(text, _EXACT)


def _fraction(payload: bytes) -> Fraction:
    middle = 2 + int.from_bytes(payload[:2], "big")
    if middle > 2 + _MOST_FRACTION or len(payload) - middle > _MOST_FRACTION:
        raise ValueRejected(f"a part of a Fraction is longer than {_MOST_FRACTION} bytes")
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


_BUILD: Final[dict[int, Callable[[bytes], object]]] = {
    16 + at: build
    for at, build in enumerate(
        (_int, _text, _complex, _decimal, _fraction, _uuid, _datetime, _date, _time, _timedelta)
    )
}

# --- numpy ------------------------------------------------------------------------------------

_DTYPE = re.compile(
    r"[<>|][?bBhHiIlLqQefdgFDG]|[<>]U\d{1,9}|\|S\d{1,9}"
    r"|[<>][Mm]8(\[([1-9]\d{0,8})?(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?",
    re.ASCII,
)


def _numpy() -> Any:
    try:
        return importlib.import_module("numpy")
    except ImportError:
        raise ValueRejected("numpy is not installed on the host") from None


def _numpy_dtype(text: object) -> tuple[Any, Any]:
    if type(text) is not str or _DTYPE.fullmatch(text) is None:
        raise ValueRejected("an array has a dtype that does not travel")
    np = _numpy()
    dtype = np.dtype(text)
    if dtype.itemsize == 0:
        raise ValueRejected("an array has elements of no size")
    return np, dtype


def _check_elements(np: Any, raw: Any, text: str) -> None:
    """Bit patterns that numpy would never make itself, and trusts not to meet."""
    if text[1] == "?":
        bad = raw.max() > 1
    elif text[1] == "U":
        bad = raw.view(text[0] + "u4").max() > 0x10FFFF
    elif text[1] in "gG" and np.finfo(np.longdouble).nmant == 63:
        # x87: ten bytes of sixteen, the integer bit explicit. glibc's printf once overflowed a
        # buffer on numbers that contradict it (CVE-2020-29573).
        number = raw.reshape(-1, 16)[:, :: -1 if text[0] == ">" else 1]
        exponent = (number[:, 8] != 0) | (number[:, 9] & 0x7F != 0)
        bad = (exponent != (number[:, 7] >= 0x80)).any()
    else:
        return
    if bad:
        raise ValueRejected("an array holds elements that are not of its dtype")
