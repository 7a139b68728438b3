"""The worker's encoder of a guest's return value. `sandbox/_values.py` is the decoder, written
separately on purpose.

Runs in the worker, after the guest's code and with the guest's rights: the objects, their classes
and metaclasses are the guest's, and it may have replaced this very function. So nothing here
protects the host; it serves honest guests, whose mistakes it names and places. Types are compared
with ``is``, never asked.

The encoding: 8 bytes (big-endian length of the document), the document, then the long byte strings
it refers to, in order. The document is msgpack without maps (msgpack interns the keys of maps, and
an interned string is never freed on CPython 3.12): None, bool, float, str, bytes, 64-bit ints and
lists as themselves; other containers as an array that starts with an empty extension, its type;
other scalars as an extension. An array holds at most 8192 items, because a reader allocates by the
length an array claims: a longer container has the bit 0x40 in its type and holds lists of its
items. Each array counts 8 bytes more than it takes, so that a value on the host cannot be out of
proportion to its cap.

Modules like numpy or decimal are never imported here: an object of theirs can only exist if the
guest has.
"""

from __future__ import annotations

import struct
import sys
from itertools import chain

import msgpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

LIST, TUPLE, SET, FROZENSET, DICT, ARRAY, ARRAY_SCALAR = range(1, 8)
CHUNKED = 0x40
INT, TEXT, COMPLEX, DECIMAL, FRACTION, UUID, DATETIME, DATE, TIME, TIMEDELTA = range(16, 26)
LONG_BYTES, LONG_TEXT, LONG_DATA = range(26, 29)

MOST_LEVELS = 100
MOST_ITEMS = 8192
MOST_FRACTION = 1024  # bytes of a numerator or denominator
MOST_DECIMAL = 1 << 20  # characters
MOST_KEY = 1024  # bytes of a number that is hashed, alone or in a tuple
WEIGH = 4 << 20  # bytes from which the whole value is weighed once before more is written
LONG = 16 << 10  # bytes from which data is referred to, not copied
CHARGE = 8

_FLAT = frozenset((type(None), bool, int, float, str, bytes))
_SIZED = frozenset((str, bytes))
_CODES: dict[type, int] = {list: LIST, tuple: TUPLE, set: SET, frozenset: FROZENSET, dict: DICT}
_MARKERS = {c: msgpack.ExtType(c, b"") for b in range(1, 8) for c in (b, b | CHUNKED)}
_HASHED = (SET, FROZENSET, SET | CHUNKED, FROZENSET | CHUNKED)
_PACK = msgpack.Packer(use_bin_type=True, strict_types=True).pack

# What a class says of itself can be a property of its metaclass; these ask the interpreter.
_QUALNAME = type.__dict__["__qualname__"].__get__
_MODULE = type.__dict__["__module__"].__get__
_MRO = type.__dict__["__mro__"].__get__

_DATETIME = struct.Struct(">HBBBBBIB")
_DATE = struct.Struct(">HBB")
_TIME = struct.Struct(">BBBIB")
_TIMEDELTA = struct.Struct(">iiI")


class Unfit(Exception):
    """The value cannot leave the jail: `where` it holds what it may not (``result['a'][3]``), the
    `type_name` of that, and the `reason`."""

    def __init__(self, type_name: str, reason: str) -> None:
        super().__init__(type_name, reason)
        self.type_name = type_name
        self.reason = reason
        self.steps: list[tuple[str, str]] = []

    @property
    def where(self) -> str:
        text = "result"
        for before, after in reversed(self.steps):
            text = before + text + after
        return text if len(text) <= 2000 else text[:900] + " ... " + text[-900:]


class TooLarge(Exception):
    """The value takes `at_least` this many bytes, more than the cap."""

    def __init__(self, at_least: int) -> None:
        self.at_least = min(at_least, 1 << 62)  # what a frame can say
        super().__init__(self.at_least)


def encode_value(value: object, cap: int) -> list[bytes | memoryview]:
    """The encoding of `value` as buffers to write one after the other. Long bytes and arrays are
    borrowed, not copied: keep `value` alive and unchanged until they are written.

    Args:
        value: see the README for the types that travel; subclasses of them do not.
        cap: most bytes, plus 8 for each container.

    Raises:
        Unfit: the value, or something in it, does not travel.
        TooLarge: it would take more than `cap`.
    """
    writer = _Writer(cap, value)
    try:
        writer.put(value, 1)
    except (Unfit, TooLarge):
        raise
    except Exception as error:
        # The guest's own threads may change what is being read; its classes may raise anything.
        raise Unfit(type_name(type(value)), f"reading it raised {type_name(type(error))}") from None
    doc = writer.doc
    doc[:8] = (len(doc) - 8).to_bytes(8, "big")
    return [memoryview(doc), *writer.data]


def type_name(kind: type) -> str:
    """``socket.socket``, or ``int`` for a builtin; plain text whatever the class says."""
    module, name = "", "?"
    try:
        name, module = _QUALNAME(kind), _MODULE(kind)
    except AttributeError:
        pass
    if type(module) is str and module not in ("", "builtins"):
        name = f"{module[:400]}.{name[:400]}"
    return name[:900].encode("utf-8", "backslashreplace").decode()


class _Writer:
    __slots__ = ("cap", "data", "doc", "enum_key", "hashed", "open", "others", "root", "size")

    def __init__(self, cap: int, root: object) -> None:
        self.cap = cap
        self.root: object = root  # until it is weighed
        self.doc = bytearray(8)
        self.data: list[bytes | memoryview] = []
        self.size = 8  # of the document and the data, plus the charge for arrays
        self.open: set[int] = set()  # ids of the containers that are being written
        self.hashed = False  # what is being written is (part of) a key or a member of a set
        self.enum_key = False  # an enum member was written as (part of) one
        self.others: dict[object, Callable[[Any, int], None]] | None = None

    def put(self, x: object, level: int) -> None:
        kind = type(x)
        if kind in _FLAT:
            self.scalar(x)
        elif kind in _CODES:
            self.container(x, _CODES[kind], level)
        else:
            self.other(x, kind, level)

    def grow(self, count: int) -> None:
        self.size += count
        if self.size > self.cap:
            raise TooLarge(self.size)

    def room(self, count: int) -> None:
        if self.size + count > self.cap:
            raise TooLarge(self.size + count)

    def write(self, packed: bytes) -> None:
        self.grow(len(packed))
        self.doc += packed

    def head(self, count: int, code: int = 0) -> None:
        """The start of an array of `count` items, the type included if there is a `code`."""
        count += bool(code)
        head = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
        self.size += CHARGE
        self.write(head + (bytes((0xC7, 0, code)) if code else b""))

    def ext(self, code: int, payload: bytes) -> None:
        if len(payload) < 256:
            head = bytes((0xC7, len(payload), code))
        elif len(payload) < 1 << 32:
            head = b"\xc9" + len(payload).to_bytes(4, "big") + bytes((code,))
        else:
            raise TooLarge(self.size + len(payload))
        self.write(head)
        self.write(payload)

    def long(self, code: int, data: bytes | memoryview) -> None:
        self.ext(code, len(data).to_bytes(8, "big"))
        self.grow(len(data))
        self.data.append(data)

    def scalar(self, x: Any) -> None:
        kind = type(x)
        if kind is int:
            self.integer(x)
        elif kind is bytes:
            self.room(len(x))
            if len(x) < LONG:
                self.write(_PACK(x))
            else:
                self.long(LONG_BYTES, x)
        elif kind is str:
            self.room(len(x))
            if len(x) >= LONG:
                self.long(LONG_TEXT, x.encode("utf-8", "surrogatepass"))
                return
            try:
                self.write(_PACK(x))
            except UnicodeEncodeError:
                self.ext(TEXT, x.encode("utf-8", "surrogatepass"))
        else:
            self.write(_PACK(x))

    def integer(self, x: int) -> None:
        if -(1 << 63) <= x < 1 << 64:
            self.write(_PACK(x))
            return
        count = (x.bit_length() + 8) // 8
        self.room(count)
        self.key_number(count, x)
        self.ext(INT, x.to_bytes(count, "big", signed=True))

    def key_number(self, count: int, x: object) -> None:
        # Comparing long numbers of different types is quadratic; a key is compared by whoever
        # builds the table, and that is the host.
        if self.hashed and count > MOST_KEY:
            raise Unfit(type_name(type(x)), f"a number in a key is longer than {MOST_KEY} bytes")

    def container(self, x: Any, code: int, level: int) -> None:
        if id(x) in self.open:
            raise Unfit(type_name(type(x)), "cycle: it contains itself")
        if level > MOST_LEVELS:
            raise Unfit(type_name(type(x)), f"nested deeper than {MOST_LEVELS} levels")
        self.room(len(x))
        if self.size > WEIGH and self.root is not None:
            least, self.root = _least(self.root, {}, 1), None
            if least > self.cap:
                raise TooLarge(least)
        items: list[Any] = x
        if code != LIST:
            items = list(chain.from_iterable(x.items()) if code == DICT else x)
        if len(items) >= MOST_ITEMS:
            code |= CHUNKED
            if len(items) > (MOST_ITEMS - 1) * MOST_ITEMS:
                raise Unfit(type_name(type(x)), f"{len(x)} items are too many for one container")
        kinds = set(map(type, items))
        if kinds <= _FLAT and self.flat(items, kinds, code):
            return
        self.open.add(id(x))
        self.nested(x, items, code, level)
        self.open.discard(id(x))

    def flat(self, items: list[Any], kinds: set[type], code: int) -> bool:
        """Write `items`, of flat types only, at C speed; False (and nothing written) if one of
        them needs a form of its own."""
        if not _SIZED.isdisjoint(kinds):
            sizes = [len(i) for i in items if type(i) in _SIZED]
            if max(sizes) >= LONG:
                return False
            self.room(sum(sizes))
        start, size = len(self.doc), self.size
        try:
            if not code & CHUNKED:
                self.size += CHARGE
                self.write(_PACK(items if code == LIST else [_MARKERS[code], *items]))
                return True
            self.head(-(-len(items) // MOST_ITEMS), code)
            for at in range(0, len(items), MOST_ITEMS):
                self.size += CHARGE
                self.write(_PACK(items[at : at + MOST_ITEMS]))
        except (OverflowError, UnicodeEncodeError):  # an int beyond 64 bits, a lone surrogate
            del self.doc[start:]
            self.size = size
            return False
        return True

    def nested(self, x: Any, items: list[Any], code: int, level: int) -> None:
        if code & CHUNKED:
            self.head(-(-len(items) // MOST_ITEMS), code)
        else:
            self.head(len(items), code if code != LIST else 0)
        outer = self.hashed
        always, pairs = outer or code in _HASHED, code & ~CHUNKED == DICT
        at = 0
        try:
            for at, item in enumerate(items):
                if code & CHUNKED and at % MOST_ITEMS == 0:
                    self.head(min(MOST_ITEMS, len(items) - at))
                self.hashed = always or (pairs and not at & 1)
                self.put(item, level + 1)
        except Unfit as error:
            error.steps.append(_step(items, at, code & ~CHUNKED))
            raise
        self.hashed = outer
        if self.enum_key and (pairs or code in _HASHED):
            _check_distinct(x, items[::2] if pairs else items)

    def other(self, x: object, kind: type, level: int) -> None:
        if self.others is None:
            self.others = _others(self)
        write = self.others.get(kind)
        if write is not None:
            write(x, level)
            return
        enum = getattr(sys.modules.get("enum"), "Enum", None)
        if enum is not None and enum in _MRO(kind):
            if level > MOST_LEVELS:
                raise Unfit(type_name(kind), f"nested deeper than {MOST_LEVELS} levels")
            self.enum_key = self.enum_key or self.hashed
            try:
                self.put(object.__getattribute__(x, "_value_"), level + 1)
            except Unfit as error:
                error.steps.append(("", ".value"))
                raise
            return
        raise Unfit(type_name(kind), _advice(kind))

    def decimal(self, x: Any, level: int) -> None:
        text = str(x).replace("e", "E")  # as the guest's decimal context would have it
        if len(text) > MOST_DECIMAL:
            raise Unfit(type_name(type(x)), f"longer than {MOST_DECIMAL} characters")
        self.key_number(len(text), x)
        self.ext(DECIMAL, text.encode("ascii"))

    def fraction(self, x: Any, level: int) -> None:
        parts = []
        for part in (x._numerator, x._denominator):
            if type(part) is not int:
                raise Unfit(type_name(type(x)), f"made of {type_name(type(part))}, not of int")
            count = (part.bit_length() + 8) // 8
            if count > MOST_FRACTION:
                raise Unfit(type_name(type(x)), f"a part is longer than {MOST_FRACTION} bytes")
            self.key_number(count, x)
            parts.append(part.to_bytes(count, "big", signed=True))
        self.ext(FRACTION, len(parts[0]).to_bytes(2, "big") + parts[0] + parts[1])

    def datetime(self, x: Any, level: int) -> None:
        clock = (x.hour, x.minute, x.second, x.microsecond, x.fold)
        self.ext(DATETIME, _DATETIME.pack(x.year, x.month, x.day, *clock) + _zone(x))

    def time(self, x: Any, level: int) -> None:
        clock = _TIME.pack(x.hour, x.minute, x.second, x.microsecond, x.fold)
        self.ext(TIME, clock + _zone(x))

    def array(self, x: Any, level: int) -> None:
        dtype = _dtype(x)
        self.room(x.nbytes)  # a broadcast array has no memory of its own
        self.head(2 + x.ndim, ARRAY)
        self.scalar(dtype)
        if x.nbytes < LONG:
            self.scalar(x.tobytes())
        else:
            whole = x if x.flags.c_contiguous else x.copy(order="C")
            self.long(LONG_DATA, memoryview(whole.reshape(-1).view("u1")))
        for count in x.shape:
            self.integer(count)

    def array_scalar(self, x: Any, level: int) -> None:
        data: str | bytes
        kind = x.dtype.kind
        if kind == "U":
            dtype, data = "U", str.__str__(x)
        elif kind == "S":
            dtype, data = "S", bytes.__getitem__(x, slice(None))
        else:
            dtype, data = _dtype(x), x.tobytes()
        self.head(2, ARRAY_SCALAR)
        self.scalar(dtype)
        self.scalar(data)


def _least(x: Any, known: dict[int, int], level: int) -> int:
    """Bytes that `x` takes at least. Each container is looked at once, so that a few lists that
    hold each other a million million times over are refused without writing them out."""
    if type(x) not in _CODES or level > MOST_LEVELS:
        return 1
    if id(x) not in known:
        known[id(x)] = 0
        total = len(x) + 1 + CHARGE
        for part in (x, x.values()) if type(x) is dict else (x,):
            if not _CODES.keys().isdisjoint(map(type, part)):
                total += sum([_least(i, known, level + 1) for i in part if type(i) in _CODES])
        known[id(x)] = total
    return known[id(x)]


def _check_distinct(x: object, keys: list[Any]) -> None:
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
    if kind not in _FLAT and sys.modules["enum"].Enum in _MRO(kind):
        return _plain(object.__getattribute__(key, "_value_"))
    return key


def _others(w: _Writer) -> dict[object, Callable[[Any, int], None]]:
    """The types of modules the guest has imported: type → how to write it."""

    def of(module: str, name: str) -> Any:
        return getattr(sys.modules.get(module), name, None)

    found: dict[object, Callable[[Any, int], None]] = {
        complex: lambda x, _: w.ext(COMPLEX, struct.pack(">dd", x.real, x.imag)),
        of("decimal", "Decimal"): w.decimal,
        of("fractions", "Fraction"): w.fraction,
        of("uuid", "UUID"): lambda x, _: w.ext(UUID, x.int.to_bytes(16, "big")),
        of("datetime", "datetime"): w.datetime,
        of("datetime", "time"): w.time,
        of("datetime", "date"): lambda x, _: w.ext(DATE, _DATE.pack(x.year, x.month, x.day)),
        of("datetime", "timedelta"): lambda x, _: w.ext(
            TIMEDELTA, _TIMEDELTA.pack(x.days, x.seconds, x.microseconds)
        ),
        of("numpy", "ndarray"): w.array,
    }
    scalars: Iterable[Any] = (of("numpy", "sctypeDict") or {}).values()
    found.update({kind: w.array_scalar for kind in scalars if kind not in _FLAT})
    found.pop(None, None)
    return found


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


def _dtype(x: Any) -> str:
    dtype = x.dtype
    if dtype.kind not in "biufcSUMm" or dtype.fields is not None or dtype.itemsize == 0:
        raise Unfit(type_name(type(x)), f"its dtype is {str(dtype)[:100]}")
    # The letter, not the width: numpy.longlong and numpy.int64 are two types of one width.
    text = dtype.str if dtype.kind in "SUMm" else dtype.str[0] + dtype.char
    return str(text)


def _step(items: list[Any], at: int, code: int) -> tuple[str, str]:
    if code in (SET, FROZENSET):
        return "list(", f")[{at}]"
    if code != DICT:
        return "", f"[{at}]"
    if not at & 1:
        return "list(", f")[{at >> 1}]"
    key = items[at - 1]
    if type(key) in _SIZED and len(key) > 60:
        return "", f"[{key[:60]!r}...]"
    if type(key) in _FLAT and (type(key) is not int or key.bit_length() < 200):
        return "", f"[{key!r}]"
    return "list(", f".values())[{at >> 1}]"


def _advice(kind: type) -> str:
    if kind is bytearray or kind is memoryview:
        return "not a type that travels: return bytes(...) instead"
    for base in _MRO(kind)[1:]:
        if base in _CODES or (base in _FLAT and base is not bool):
            name = base.__name__
            return f"a subclass of {name} does not travel: return {name}(...) instead"
    return "not a type that travels"
