"""What travels out of the jail: both halves together, and the host's half against hostile bytes."""

from __future__ import annotations

import collections
import datetime as dt
import enum
import itertools
import math
import mmap
import resource
import socket
import struct
import sys
import time
import tracemalloc
import uuid
import zoneinfo
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from sandbox._values import ValueRejected, _tables, decode_value
from worker.unfit import TooLarge, Unfit
from worker.values import encode_value

CAP = 1 << 26
LIST, TUPLE, SET, FROZENSET, DICT, ARRAY, ARRAY_SCALAR = range(1, 8)


def encoded(value: object, cap: int = CAP) -> bytes:
    return b"".join(encode_value(value, cap))


def travel(value: object) -> object:
    return decode_value(encoded(value), CAP)


def document(doc: bytes, data: bytes = b"") -> bytes:
    return len(doc).to_bytes(8, "big") + doc + data


def ext(code: int, payload: bytes = b"") -> msgpack.ExtType:
    return msgpack.ExtType(code, payload)


def deep_record(levels: int) -> list[Any]:
    inner: Any = "|b"
    for _ in range(levels):
        inner = [1, ["a", 0, inner]]
    return inner  # type: ignore[no-any-return]


OVERLAPPING = np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 2]})


def packed(value: object, data: bytes = b"") -> bytes:
    return document(msgpack.packb(value), data)


def refused(blob: bytes, cap: int = CAP) -> str:
    with pytest.raises(ValueRejected) as caught:
        decode_value(blob, cap)
    return str(caught.value)


def unfit(value: object) -> tuple[str, str, str]:
    with pytest.raises(Unfit) as caught:
        encode_value(value, CAP)
    return caught.value.where, caught.value.type_name, caught.value.reason


def same(a: Any, b: Any) -> bool:
    """Equal in type and value, all the way down; NaN is NaN and -0.0 is not 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a), list(b)) and same(list(a.values()), list(b.values()))
    if isinstance(a, (set, frozenset)):
        return same_members(a, list(b))
    return bool(same_scalar(a, b))


def same_members(a: Any, rest: list[Any]) -> bool:
    for item in a:
        match = next((i for i, other in enumerate(rest) if same(item, other)), None)
        if match is None:
            return False
        del rest[match]
    return not rest


def same_scalar(a: Any, b: Any) -> Any:
    if isinstance(a, (np.ndarray, np.generic)):
        alike = a.dtype == b.dtype and a.shape == b.shape
        return alike and (a.tobytes() == b.tobytes() or np.array_equal(a, b, equal_nan=True))
    if isinstance(a, complex):
        return struct.pack(">dd", a.real, a.imag) == struct.pack(">dd", b.real, b.imag)
    if isinstance(a, float):
        return struct.pack(">d", a) == struct.pack(">d", b)
    if isinstance(a, Decimal):
        return str(a) == str(b)
    if isinstance(a, (dt.datetime, dt.time)):
        zone: Any = a.tzinfo
        other: Any = b.tzinfo
        if zone is None or other is None or zone.__getinitargs__() != other.__getinitargs__():
            return zone is other and a == b and a.fold == b.fold
        return a.replace(tzinfo=None) == b.replace(tzinfo=None) and a.fold == b.fold
    return a == b


# --- what travels -----------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=())) | st.text()
zones = (
    st.none()
    | st.builds(
        dt.timezone,
        st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)),
        st.text(max_size=5),
    )
    | st.builds(dt.timezone, st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)))
)
dtypes = (
    nps.boolean_dtypes()
    | nps.integer_dtypes(endianness="?")
    | nps.unsigned_integer_dtypes(endianness="?")
    | nps.floating_dtypes(endianness="?")
    | nps.complex_number_dtypes(endianness="?")
    | nps.datetime64_dtypes(endianness="?")
    | nps.timedelta64_dtypes(endianness="?")
    | nps.unicode_string_dtypes(endianness="?")
    | nps.byte_string_dtypes(endianness="?")
)
dtypes |= nps.array_dtypes(dtypes, allow_subarrays=True) | nps.nested_dtypes(dtypes, max_leaves=6)
shapes = nps.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def goes(dtype: Any) -> bool:
    """Whether it and its fields have a size, and no field a title."""
    base, shape = dtype.subdtype or (dtype, ())
    fields = list((base.fields or {}).values())
    return (
        base.itemsize > 0
        and 0 not in shape
        and all(len(field) == 2 and goes(field[0]) for field in fields)
    )


arrays = (
    dtypes.filter(goes)
    .filter(lambda dtype: dtype.subdtype is None)
    .flatmap(lambda dtype: nps.arrays(dtype, shapes))
)
scalars: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(1 << 2000), 1 << 2000)
    | st.floats()
    | text
    | st.binary()
    | st.complex_numbers()
    | st.decimals()
    | st.fractions()
    | st.uuids()
    | st.dates()
    | st.datetimes(timezones=zones)
    | st.times(timezones=zones)
    | st.timedeltas()
)
keys = st.recursive(
    scalars.filter(lambda x: not (isinstance(x, Decimal) and x.is_snan())),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=4),
    max_leaves=4,
)
values = st.recursive(
    scalars | arrays,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(keys, inner)
        | st.sets(keys)
        | st.frozensets(keys)
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(values)
def test_a_value_travels_with_its_type(value: object) -> None:
    assert same(travel(value), value)


@pytest.mark.parametrize("code", "?bBhHiIlLqQefdgFDG")
@pytest.mark.parametrize("order", "<>")
def test_every_numeric_dtype_travels(code: str, order: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(order + code)
    assert same(travel(array), array)
    back = travel(array[0, 0, 1])
    assert type(back) is type(array[0, 0, 1])
    assert back == array[0, 0, 1]


RECORDS = [
    np.dtype("i4,f8"),
    np.dtype("i1,f8", align=True),
    np.dtype([("name", "U5"), ("inner", [("on", "?"), ("at", "M8[ns]")], (2, 3)), ("", "S2")]),
    np.dtype({"names": ["b", "a"], "formats": ["i2", "g"], "offsets": [1, 16], "itemsize": 40}),
    np.dtype("V3"),
]


@pytest.mark.parametrize("dtype", RECORDS, ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 2000)], ids=str)
def test_arrays_of_records_travel(dtype: Any, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, dtype)
    back: Any = travel(array)
    assert (type(back), back.dtype, back.shape) == (np.ndarray, dtype, shape)
    assert back.dtype.names == dtype.names
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", RECORDS, ids=str)
def test_a_record_travels(dtype: Any) -> None:
    record = np.ones(2, dtype if dtype.names else "u1,u2")[1]
    back: Any = travel(record)
    assert (type(back), back.dtype, back) == (np.void, record.dtype, record)


@pytest.mark.parametrize(
    "scalar",
    [
        np.void(b"abc"),
        np.str_(""),
        np.str_("aé\ud800"),
        np.bytes_(b""),
        np.bytes_(b"ab"),
        np.datetime64("NaT", "ns"),
        np.datetime64("2020-02-28", "ns"),
        np.timedelta64(3, "W"),
        np.longlong(3),
        np.ulonglong(4),
        np.longdouble(1) / 3,
        np.longdouble(np.inf),
    ],
)
def test_a_numpy_scalar_travels(scalar: Any) -> None:
    back: Any = travel(scalar)
    assert type(back) is type(scalar)
    assert back.tobytes() == scalar.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.arange(20000)[::-2],
        np.arange(20000).reshape(100, 200).T,
        np.broadcast_to(np.float32(7), (50, 200)),
        np.zeros((0, 5), "<M8[ns]"),
        np.array(5.0),
        np.frombuffer(b"x" * 20000, "S5"),
        np.arange(5000, dtype=">i8"),
    ],
)
def test_an_array_arrives_writable_and_contiguous(array: Any) -> None:
    back: Any = travel(array)
    assert same(back, np.array(array))
    assert back.flags.writeable
    assert back.flags.c_contiguous
    assert back.flags.owndata


@pytest.mark.parametrize("length", [8190, 8191, 8192, 8193, 20000])
@pytest.mark.parametrize("odd", [None, 1 << 70, "\ud800", [1]])
def test_long_containers_travel_in_parts(length: int, odd: object) -> None:
    items = [*range(length - 1), odd]
    for value in (items, tuple(items), dict(enumerate(items)), [tuple(items)] * 2):
        assert same(travel(value), value)
    if not isinstance(odd, list):
        for made in (set(items), frozenset(items), dict.fromkeys(items)):
            assert travel(made) == made


@pytest.mark.parametrize("size", [16383, 16384, 100_000])
def test_long_texts_and_bytes_travel_beside_the_document(size: int) -> None:
    value = {"b": b"x" * size, "s": "é" * size, "q": "\udcff" * size, "n": 1 << (8 * size)}
    assert same(travel([value, value]), [value, value])


def test_long_bytes_are_borrowed_not_copied() -> None:
    big, array = bytes(1 << 20), np.zeros(1 << 17)
    buffers = encode_value([big, array], CAP)
    assert buffers[1] is big
    assert np.shares_memory(np.frombuffer(buffers[2], np.uint8), array)


@pytest.mark.parametrize(
    "zone",
    [
        dt.UTC,
        dt.timezone(dt.timedelta(0), ""),
        dt.timezone(dt.timedelta(hours=-23, microseconds=1)),
        dt.timezone(dt.timedelta(hours=5, minutes=30), "\ud800 IST"),
    ],
)
@pytest.mark.parametrize("fold", [0, 1])
def test_a_time_zone_travels_with_its_name(zone: dt.timezone, fold: int) -> None:
    for value in (
        dt.datetime(2024, 2, 29, 1, 2, 3, 4, zone, fold=fold),
        dt.time(1, 2, 3, 4, zone, fold=fold),
    ):
        back: Any = travel(value)
        assert same(back, value)
        assert back.tzname() == value.tzname()
        assert (back.tzinfo is dt.UTC) == (zone is dt.UTC)


class Colour(enum.Enum):
    RED = "red"
    BOX = (1, [2])
    FUNCTION = (print,)


class Number(enum.IntEnum):
    ONE = 1


class Other(enum.Enum):
    UNO = 1


class Mode(enum.Flag):
    A = 1
    B = 2


def test_an_enum_member_travels_as_its_plain_value() -> None:
    value = [Colour.RED, Colour.BOX, Number.ONE, Mode.A | Mode.B, {Colour.RED: 1}]
    assert same(travel(value), ["red", (1, [2]), 1, 3, {"red": 1}])


def test_enum_keys_that_become_equal_are_refused() -> None:
    for value in (
        {Other.UNO: 1, 1: 2},
        {(Other.UNO, 0), (1, 0)},
        {frozenset({Other.UNO}), frozenset({1})},
    ):
        where, _, reason = unfit([value])
        assert where == "result[0]"
        assert "equal once enum members are values" in reason
    assert "no hashable value" in unfit({Colour.BOX: 1})[2]


def test_a_shared_value_is_written_again() -> None:
    shared = [1, 2]
    back: Any = travel([shared, shared])
    assert back == [[1, 2], [1, 2]]
    assert back[0] is not back[1]


# --- what does not ----------------------------------------------------------------------------


class ListChild(list[Any]):
    pass


class Liar:
    __class__ = int  # type: ignore[assignment]


class Meta(type):
    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError(name)


class Odd(metaclass=Meta):
    pass


@pytest.mark.parametrize(
    ("value", "name", "reason"),
    [
        (ListChild(), "ListChild", "a subclass of list does not travel: return list(...) instead"),
        (collections.OrderedDict(), "collections.OrderedDict", "return dict(...)"),
        (time.gmtime(0), "time.struct_time", "return tuple(...)"),
        (bytearray(b"x"), "bytearray", "return bytes(...)"),
        (memoryview(b"x"), "memoryview", "return bytes(...)"),
        (print, "builtin_function_or_method", "not a type that travels"),
        (object(), "object", "not a type that travels"),
        (int, "type", "not a type that travels"),
        (Liar(), "Liar", "not a type that travels"),
        (Odd(), "Odd", "not a type that travels"),
        (msgpack.ExtType(5, b""), "msgpack.ext.ExtType", "return tuple(...)"),
        (msgpack.Timestamp(1), "msgpack.ext.Timestamp", "not a type that travels"),
        (dt.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")), "datetime.datetime", "ZoneInfo"),
        (np.array([object()]), "numpy.ndarray", "dtype is object"),
        (np.zeros(2, [("a", "i4"), ("b", "O")]), "numpy.ndarray", "dtype is"),
        (np.zeros(2, [(("title", "a"), "i4")]), "numpy.ndarray", "dtype is"),
        (np.zeros(2, OVERLAPPING), "numpy.ndarray", "dtype is"),
        (np.zeros(2, "i4,f8").view(np.recarray), "recarray", "not a type that travels"),
        (np.zeros(2, "i4,f8").view(np.recarray)[0], "numpy.record", "not a type that travels"),
        (np.ma.masked_array([1]), "numpy.ma.MaskedArray", "not a type that travels"),
        (Fraction(1, 1 << 40000), "fractions.Fraction", "longer than 1024 bytes"),
        (Decimal("1" * ((1 << 20) + 1)), "decimal.Decimal", "longer than 1048576 characters"),
        ({1 << 9000: 1}, "int", "a number in a key is longer than 1024 bytes"),
        ({(0, Decimal("1" * 2000))}, "decimal.Decimal", "a number in a key is longer"),
        ({frozenset({Fraction(1, 1 << 9000)})}, "fractions.Fraction", "longer than 1024 bytes"),
    ],
)
def test_what_does_not_travel_is_named(value: object, name: str, reason: str) -> None:
    where, found, why = unfit(value)
    assert found.endswith(name)
    assert reason in why
    assert "result" in where


def test_where_it_sits_is_named() -> None:
    with socket.socket() as sock:
        assert unfit({"a": [1, 2, (3, sock)]})[:2] == ("result['a'][2][1]", "socket.socket")
        assert unfit({1: 0, (1, sock): 2})[0] == "list(result)[1][1]"
        assert unfit([{sock}])[0] == "list(result[0])[0]"
        assert unfit({(1, 2): sock})[0] == "list(result.values())[0]"
        assert unfit({"k" * 100: sock})[0] == f"result[{'k' * 60!r}...]"
        assert unfit([*range(10000), sock])[0] == "result[10000]"
        assert unfit({b"b": {None: sock}})[0] == "result[b'b'][None]"
        assert len(unfit({"k" * 60: {"k" * 60: nest(60, {"k" * 60: sock})}})[0]) < 4096


def nest(levels: int, inner: Any) -> Any:
    for _ in range(levels):
        inner = {"x" * 60: inner}
    return inner


def test_a_member_of_an_enum_names_its_value() -> None:
    assert unfit([Colour.FUNCTION])[0] == "result[0].value[0]"


def test_cycles_are_refused() -> None:
    loop: list[Any] = [1]
    loop.append({"again": (loop,)})
    where, name, reason = unfit(loop)
    assert (where, name) == ("result[1]['again'][0]", "list")
    assert reason.startswith("cycle")


def test_nesting_has_a_limit_on_both_sides() -> None:
    deep: list[Any] = []
    for _ in range(99):
        deep = [deep]
    assert travel(deep) == deep
    assert "deeper than 100" in unfit([deep])[2]
    assert "deeper than 100" in refused(document(b"\x91" * 101 + b"\xc0"))
    assert decode_value(document(b"\x91" * 100 + b"\xc0"), CAP)


def test_the_cap_counts_every_copy() -> None:
    assert len(encoded(b"x" * 100, 108 + 2)) == 110
    for value in (b"x" * 101, "x" * 109, [None] * 111, np.zeros(14), 1 << 900):
        with pytest.raises(TooLarge):
            encode_value(value, 110)
    shared = "s" * 1000
    assert encoded([shared] * 10, 11000)
    with pytest.raises(TooLarge):
        encode_value([shared] * 11, 11000)
    with pytest.raises(TooLarge) as caught:
        encode_value(np.broadcast_to(np.float64(0), (1 << 20, 1 << 20)), CAP)
    assert caught.value.at_least >= 1 << 43


@pytest.mark.parametrize("wrap", [list, tuple, lambda items: dict(enumerate(items))])
def test_a_million_laughs_end_soon_and_small(wrap: Any) -> None:
    laugh: Any = ["lol"] * 10
    for _ in range(90):
        laugh = wrap([laugh] * 10)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(TooLarge) as caught:
        encode_value(laugh, CAP)
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    assert caught.value.at_least == 1 << 62


@settings(max_examples=100, deadline=None)
@given(values)
def test_a_cap_that_is_enough_there_is_enough_here(value: object) -> None:
    low, high = 8, 1 << 20
    while low < high:  # the least cap the encoder accepts
        middle = (low + high) // 2
        try:
            blob = encoded(value, middle)
            high = middle
        except TooLarge:
            low = middle + 1
    blob = encoded(value, low)
    assert len(blob) <= low
    assert same(decode_value(blob, low), value)


def test_what_raises_while_it_is_read_is_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Explosive:
        def __str__(self) -> str:
            raise KeyError

    monkeypatch.setitem(sys.modules, "decimal", type("fake", (), {"Decimal": Explosive}))
    assert unfit([Explosive()])[1:] == ("list", "reading it raised KeyError")


def test_modules_are_looked_up_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("numpy", "decimal", "fractions", "uuid", "enum"):
        monkeypatch.delitem(sys.modules, name)
    assert encoded([1, 1j, dt.date(2020, 1, 1)])
    assert "numpy" not in sys.modules
    assert "fractions" not in sys.modules


# --- hostile bytes ----------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(values, st.data())
def test_damaged_encodings_are_refused_or_read(value: object, data: st.DataObject) -> None:
    blob = bytearray(encoded(value))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_value(bytes(blob), CAP)
    except ValueRejected:
        pass


@pytest.mark.parametrize("blob", [b"", b"\0" * 8, b"\0" * 7 + b"\2\xc0", b"\xff" * 9])
def test_lengths_of_the_document_that_lie(blob: bytes) -> None:
    assert "shorter than it claims" in refused(blob)


def test_left_over_bytes_are_refused() -> None:
    assert "left over" in refused(document(b"\xc0", b"x"))
    assert "ExtraData" in refused(document(b"\xc0\xc0"))


@pytest.mark.parametrize("nested", [1, 10, 500, 5000])
def test_arrays_that_claim_items_they_lack(nested: int) -> None:
    tracemalloc.start()
    for head in (
        b"\xdd\xff\xff\xff\xff",
        b"\xdc\xff\xff",
        b"\xdc\x20\x00",
        b"\xdf\xff\xff\xff\xff",
    ):
        refused(document(head * nested))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20


@pytest.mark.parametrize("head", [b"\xc6", b"\xdb", b"\xc9"])
def test_strings_that_claim_bytes_they_lack(head: bytes) -> None:
    refused(document(head + b"\xff\xff\xff\xff\x05"))


@pytest.mark.parametrize("head", [b"\x91", b"\x92\xc7\x00\x02", b"\x81\xc0", b"\x92\xc7\x00\x05"])
def test_a_million_levels_are_refused(head: bytes) -> None:
    refused(document(head * 1_000_000 + b"\xc0"))


@pytest.mark.parametrize("code", [c for c in range(-128, 128) if not 16 <= c <= 28])
@pytest.mark.parametrize("payload", [b"", b"\0" * 4, b"\0" * 8, b"\0" * 12, b"x" * 30])
def test_unknown_extensions_are_refused(code: int, payload: bytes) -> None:
    if code & 0x3F in range(1, 8) and code > 0 and not payload:
        return  # the type of a container, where it has its place
    raw = bytes((0xC7, len(payload), code & 0xFF)) + payload
    for doc in (raw, b"\x91" + raw, b"\x92\xc0" + raw, b"\x93\xc7\x00\x05\x01" + raw):
        refused(document(doc))


@pytest.mark.parametrize(
    "value",
    [
        [1, ext(TUPLE)],
        [ext(99 & 0x7F)],
        [ext(LIST), 1],
        [ext(LIST | 0x40), 1],
        [ext(TUPLE | 0x40), [1], 2],
        [ext(TUPLE), ext(TUPLE)],
        [ext(ARRAY | 0x40)],
        [ext(DICT), 1],
        [ext(DICT), 1, 2, 1, 3],
        [ext(DICT), 1, 2, True, 3],
        [ext(DICT), "a", 1, "a", 2],
        [ext(DICT), [1], 2],
        [ext(DICT), [ext(DICT)], 2],
        [ext(DICT), ext(TUPLE), 1],
        [ext(SET), 1, 1.0],
        [ext(SET), [ext(SET)]],
        [ext(FROZENSET), [ext(TUPLE), [1]]],
        {"a": 1},
        {},
    ],
)
def test_containers_that_no_encoder_writes(value: Any) -> None:
    if value == {}:
        assert "not a value" not in refused(document(b"\x81\xc0\xc0"))
        return
    refused(packed(value))


@pytest.mark.parametrize(
    ("code", "payload"),
    [
        (16, b""),
        (16, b"\0" * 8),
        (16, b"\x7f"),
        (17, b"\xff"),
        (18, b"\0" * 15),
        (19, b""),
        (19, b"0x1"),
        (19, b" 1"),
        (19, b"1_0"),
        (19, "\u0661".encode()),
        (19, b"1E+99999999999999999999999"),
        (19, b"1" * ((1 << 20) + 1)),
        (20, b""),
        (20, b"\0\x01\x01\0"),
        (20, b"\0\x01\x02\x04"),
        (20, b"\0\x01\x01\xff"),
        (20, b"\xff\xff\x01\x01"),
        (20, b"\0\x01\x01" + b"\x01" * 4097),
        (21, b"\0" * 15),
        (22, b"\0" * 12),
        (22, struct.pack(">HBBBBBIB", 2020, 1, 1, 0, 0, 0, 0, 2)),
        (22, struct.pack(">HBBBBBIB", 2020, 1, 1, 0, 0, 0, 0, 0) + b"\0"),
        (22, struct.pack(">HBBBBBIB", 2020, 1, 1, 0, 0, 0, 0, 0) + b"\x7f" * 8),
        (22, struct.pack(">HBBBBBIB", 2020, 1, 1, 0, 0, 0, 0, 0) + b"\0" * 8 + b"x"),
        (22, struct.pack(">HBBBBBIB", 2020, 1, 1, 0, 0, 0, 0, 0) + b"\0" * 8 + b"=\xff"),
        (23, struct.pack(">HBB", 10000, 1, 1)),
        (24, struct.pack(">BBBIB", 24, 0, 0, 0, 0)),
        (25, struct.pack(">iiI", 2**31 - 1, 0, 0)),
        (26, b"\0" * 8 + b"\0"),
        (26, b"\xff" * 8),
        (27, b"\0" * 7 + b"\1"),
        (28, b"\0" * 8),
    ],
)
def test_scalars_that_no_encoder_writes(code: int, payload: bytes) -> None:
    refused(packed(ext(code, payload)))


def test_text_that_is_not_utf8_is_refused() -> None:
    refused(document(b"\xa1\xff"))
    refused(document(b"\xa3\xed\xa0\x80"))


@pytest.mark.parametrize(
    "items",
    [
        ["<i4"],
        ["<i4", b"1234"],
        ["<i4", b"1234", 2],
        ["<i4", b"1234", -1, -1],
        ["<i4", b"1234", True],
        ["<i4", b"1234", 1.0],
        ["<i4", "1234", 1],
        ["<i4", [1], 1],
        ["O", b"12345678", 1],
        ["|O8", b"12345678", 1],
        ["<i4,<i4", b"12345678", 1],
        ["(2,)<i4", b"12345678", 1],
        ["<U0", b"", 1 << 60],
        ["|S0", b"", 5],
        ["<U999999999", b"", 0, 1],
        ["<M8[0s]", b"12345678", 1],
        ["<M8[2Y/3]", b"12345678", 1],
        ["<i4\n", b"1234", 1],
        [b"<i4", b"1234", 1],
        ["<i4", b"", 0, 1 << 62, 1 << 62],
        ["|b", b"", *([0] * 65)],
        ["|?", b"\x02", 1],
        ["<U1", b"\xff\xff\xff\xff", 1],
        [">U1", b"\x00\x11\x00\x00", 1],
        ["<g", b"\0" * 9 + b"\x40" + b"\0" * 6, 1],
        ["<G", b"\0" * 25 + b"\x40" + b"\0" * 6, 1],
        [">g", b"\0" * 6 + b"\x40" + b"\0" * 9, 1],
        ["|V0", b"", 1],
        ["|O", b"12345678", 1],
        [[], b"", 1],
        [[4], b"1234", 1],
        [[0, ["a", 0, "|b"]], b"", 0],
        [[-4, ["a", 0, "|b"]], b"1234", 1],
        [[1 << 31, ["a", 0, "|b"]], b"", 0],
        [["4", ["a", 0, "|b"]], b"1234", 1],
        [[4, ["a", 0, "<i4"], ["b", 2, "<i2"]], b"1234", 1],
        [[4, ["a", 2, "<i4"]], b"1234", 1],
        [[4, ["a", -1, "<i4"]], b"1234", 1],
        [[4, ["a", 0, "|b"], ["a", 1, "|b"]], b"1234", 1],
        [[4, [b"a", 0, "|b"]], b"1234", 1],
        [[4, ["a", 0]], b"1234", 1],
        [[4, "a"], b"1234", 1],
        [[4, ["a", 0, "|O"]], b"1234", 1],
        [[8, ["a", 0, "<i4", 3]], b"12345678", 1],
        [[8, ["a", 0, "<i4", 0]], b"12345678", 1],
        [[8, ["a", 0, "<i4", -2]], b"12345678", 1],
        [[8, ["a", 0, "<i4", "2"]], b"12345678", 1],
        [[4, ["a", 0, "|b", *([1] * 33)]], b"1234", 1],
        [[2, ["a", 0, "|b"], ["b", 1, "|?"]], b"\0\x02", 1],
        [[6, ["a", 0, [3, ["b", 1, "|?", 2]], 2]], b"\0\0\0\0\0\x02", 1],
        [[5, ["a", 1, "<U1"]], b"\0\xff\xff\xff\xff", 1],
        [[2001, *([str(at), at, "|b"] for at in range(2001))], bytes(2001), 1],
        [[2000, ["a", 0, [1, ["b", 0, "|b"]], 2000]], bytes(2000), 1],
        [deep_record(9), b"1", 1],
    ],
)
def test_arrays_that_no_encoder_writes(items: list[Any]) -> None:
    refused(packed([ext(ARRAY), *items]))
    refused(packed([ext(ARRAY_SCALAR), *items]))


def test_long_data_is_only_for_arrays() -> None:
    reference = ext(28, (4).to_bytes(8, "big"))
    assert decode_value(packed([ext(ARRAY), "|b", reference, 4], b"abcd"), CAP) is not None
    for value in (reference, [reference], [ext(SET), reference], [ext(DICT), reference, 1]):
        refused(packed(value, b"abcd"))


def test_an_array_without_numpy_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    blob = encoded(np.arange(3))
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert refused(blob) == "numpy is not installed on the host"


# --- the host's time and memory ---------------------------------------------------------------


def attack(bits: int, run: int, count: int) -> list[int]:
    """Keys with different hashes that make a table of 2**bits slots quadratic. First fillers: a
    block of slots to probe in vain, and a stretch of the cycle that all probing ends in. Then keys
    that look only at full neighbourhoods until they enter the stretch, found five bits (one shift
    of the perturbation) at a time."""
    size = 1 << bits
    filled, stretch, at = set(range(size // 4)), set(), size // 4
    while len(filled) < size * 55 // 100:
        filled.update(range(at, min(at + run + 1, size)))
        if len(filled) < size * 40 // 100:
            stretch.add(at)
        at = (5 * at + 1) % size
    full = [at for at in range(size - run) if filled.issuperset(range(at, at + run + 1))]
    blocked = set(full)

    def extend(value: int, known: int, step: int, at: int) -> Iterator[int]:
        # The first `step` probes are settled by the `known` low bits; the last looked at `at`.
        if known > 55 and value >> 5 * (step - 1) == 0:
            if at in stretch:
                yield value
            return
        for more in range(32) if known <= 55 else (0,):
            wider = value | more << known
            then = (5 * at + (wider >> 5 * step) + 1) % size
            if then in blocked:
                yield from extend(wider, known + 5, step + 1, then)

    found: set[int] = set()
    for start in full:
        found.update(itertools.islice(extend(start, bits, 1, start), 100))
        found -= filled
        if len(found) >= count:
            break
    return [*sorted(filled), *sorted(found)[:count]]


def test_different_hashes_that_probe_the_same_slots_are_refused() -> None:
    keys = attack(14, 0, 1500)
    assert len(set(map(hash, keys))) == len(keys)
    items = [x for key in keys for x in (key, 0)]
    assert "collide" in refused(chunked(DICT, items))


def test_a_set_that_probes_the_same_slots_is_seen_to_do_so() -> None:
    # Neighbourhoods make sets ten times as hard to attack: refused are only larger ones.
    keys, fillers = attack(15, 9, 200), attack(15, 9, 0)
    assert len(set(map(hash, keys))) == len(keys)
    assert _tables._set_jumps(keys) > _tables._set_jumps(fillers) + 50 * 200


def chunked(code: int, items: list[Any]) -> bytes:
    parts = [items[at : at + 8192] for at in range(0, len(items), 8192)]
    return packed([ext(code | 0x40), *parts])


@pytest.mark.parametrize("code", [SET, FROZENSET, DICT])
@pytest.mark.parametrize(
    "keys",
    [
        [ext(16, (i * ((1 << 61) - 1)).to_bytes(12, "big")) for i in range(16, 3000)],
        [ext(16, (i * ((1 << 61) - 1)).to_bytes(12, "big")) for i in range(16, 80)],
    ],
)
def test_equal_hashes_are_refused(code: int, keys: list[Any]) -> None:
    items = [x for key in keys for x in ((key, 0) if code == DICT else (key,))]
    assert "collide" in refused(packed([ext(code), *items]))


@pytest.mark.parametrize("count", [17, 100, 5000, 60000])
@pytest.mark.parametrize("shift", [0, 30])
def test_the_replay_of_a_set_is_what_the_interpreter_does(
    count: int, shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables: list[list[int | None]] = []
    replay = _tables._replay

    def spy(table: list[int | None], hashes: list[int], run: int) -> int:
        tables.append(table)
        return replay(table, hashes, run)

    monkeypatch.setattr(_tables, "_replay", spy)
    keys = [(i * 0x9E3779B97F4A7C15 << shift) % (1 << 61) for i in range(count)]
    _tables._set_jumps(keys)
    orders = [[value for value in table if value is not None] for table in tables]
    made = set(keys)
    assert list(made) in orders
    assert list(frozenset(made)) in orders


def test_a_few_equal_hashes_are_fine() -> None:
    modulus = (1 << 61) - 1
    value = {i * modulus for i in range(16)} | {"a", 5}
    assert travel(value) == value


@pytest.mark.parametrize("shift", range(0, 62, 3))
def test_honest_regular_keys_are_not_mistaken_for_an_attack(shift: int) -> None:
    for count in (17, 100, 3000, 8000):
        keys = [i << shift for i in range(count)]
        for made in (dict.fromkeys(keys), set(keys), dict.fromkeys(-k for k in keys)):
            assert travel(made) == made


@pytest.mark.parametrize(
    "keys",
    [
        [i / 8 for i in range(5000)],
        [(i, j) for i in range(70) for j in range(70)],
        [Fraction(i, 7) for i in range(3000)],
        [Decimal(i) / 100 for i in range(3000)],
        [dt.timedelta(seconds=i) for i in range(3000)],
        [uuid.UUID(int=i << 64) for i in range(3000)],
        [frozenset((i, i + 1)) for i in range(3000)],
        [complex(i, i) for i in range(3000)],
        [np.int64(i) for i in range(500)],
        [math.nan] + [float("nan") for _ in range(100)],
    ],
)
def test_honest_keys_of_every_kind_travel(keys: list[Any]) -> None:
    back: Any = travel(dict.fromkeys(keys))
    assert same(list(back), keys)
    assert same(travel(set(keys)), set(keys))


def test_long_numbers_in_keys_are_refused() -> None:
    # int against Decimal of one hash: the comparison would convert the int, which is quadratic.
    number = ext(16, b"\x01" + b"\0" * 1_000_000)
    for key in (number, [ext(TUPLE), 1, [ext(TUPLE), number]], ext(19, b"1" * 2000)):
        assert "longer than 1024" in refused(packed([ext(DICT), key, 1]))
        assert "longer than 1024" in refused(packed([ext(SET), key]))
    assert decode_value(packed([number]), CAP)


@pytest.mark.parametrize(
    "item",
    [
        b"\x90",
        b"\x91\xc7\x00\x03",
        b"\x92\xc7\x00\x03\x01",
        b"\x91\xc7\x00\x05",
        b"\x93\xc7\x00\x05\x00\x00",
        b"\x92\xc7\x00\x02\x00",
        b"\xa2ab",
        b"\xd4\x135",
        b"\xcb" + b"\1" * 8,
        b"\xc7\x10\x15" + bytes(16),
        b"\xc0",
    ],
)
def test_memory_stays_in_proportion_to_the_cap(item: bytes) -> None:
    cap = 1 << 20
    chunk = b"\xdc\x20\x00" + item * 8192
    charge = 8 * (item[0] & 0xF0 == 0x90)
    chunks = max(1, cap // (len(chunk) + 8 * 8192 * bool(charge) + 8) - 1)
    blob = document(b"\xdc" + chunks.to_bytes(2, "big") + chunk * chunks)
    tracemalloc.start()
    value = decode_value(blob, cap)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert value
    assert peak < 45 * cap


@pytest.mark.parametrize(
    "doc",
    [
        b"\xdc\x20\x00" * 300,
        b"\xdc\x20\x00" * 300 + b"\xc1",
        b"\xdc\x20\x00" * 300 + b"\xd4\x00\x00",
        b"\xdc\x20\x00" * 300 + b"\x92\xc7\x00\x05\xc0",
        b"\xdc\x20\x00" * 300 + b"\xdc\xff\xff",
        b"\x91" * 2000,
    ],
)
def test_what_is_refused_leaves_no_memory_behind(doc: bytes) -> None:
    # msgpack before 1.2 forgets the inner arrays of what it gives up: 20 MB for each of these.
    tracemalloc.start()
    for _ in range(5):
        refused(document(doc))
    left = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert left < 1 << 20


def test_more_containers_than_the_cap_allows_are_refused() -> None:
    blob = document(b"\xdc\x20\x00" + b"\x90" * 8192)
    assert "more containers" in refused(blob, len(blob) + 8 * 8192)
    assert decode_value(blob, len(blob) + 8 * 8193)
    assert "longer than" in refused(blob, len(blob) - 1)


@pytest.mark.parametrize("good", [True, False])
def test_nothing_of_the_result_lies_in_the_mapping(good: bool) -> None:
    value = [b"b" * 50000, "s" * 50000, np.ones(50000), "short", b"short", np.ones(3)]
    blob = encoded(value) + (b"" if good else b"!")
    with mmap.mmap(-1, len(blob)) as area:
        area[:] = blob
        view = memoryview(area)
        error: ValueRejected | None = None
        back: object = None
        try:
            back = decode_value(view, CAP)
        except ValueRejected as caught:
            error = caught  # its traceback lives on while the mapping is closed
        view.release()
    assert area.closed
    assert (error is None) == good
    assert not good or same(back, value)


def test_small_values_take_microseconds() -> None:
    value = {"a": 1, "b": 2.5, "c": "x"}
    best = math.inf
    for _ in range(5):
        started = time.process_time()
        for _ in range(200):
            travel(value)
        best = min(best, (time.process_time() - started) / 200)
    assert best < 1e-3  # some 15 µs here; the margin is for slow machines
