"""The two halves of the codec share no code, so these bytes hold them together: each golden
encoding is what the worker writes today and what the host reads. Change one only with the protocol
version."""

from __future__ import annotations

import datetime as dt
import os
import uuid
from decimal import Decimal
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sandbox import _start, _wire
from sandbox._values import _reader, _scalars, _tables, decode_value
from worker import encoding
from worker import values as worker_values
from worker import wire as worker_wire

FRAMES: list[tuple[str, Any, bytes]] = [
    ("value", b"\0\1", b"\x00\x00\x00\x0f\x94\x01\xa5value\xcd\x01\x02\xc4\x02\x00\x01"),
    ("stored", 300, b"\x00\x00\x00\x0f\x94\x01\xa6stored\xcd\x01\x02\xcd\x01\x2c"),
    (
        "raised",
        ("E", "m", "t"),
        b"\x00\x00\x00\x13\x94\x01\xa6raised\xcd\x01\x02\x93\xa1E\xa1m\xa1t",
    ),
    (
        "unfit",
        ("result", "socket.socket", "why"),
        b"\x00\x00\x00\x25\x94\x01\xa5unfit\xcd\x01\x02\x93\xa6result\xadsocket.socket\xa3why",
    ),
    ("too_large", 5, b"\x00\x00\x00\x10\x94\x01\xa9too_large\xcd\x01\x02\x05"),
]
# Of worker/native/request.c: what failed, errno, which path.
UNSTARTED = (
    b"\x00\x00\x00\x21\x94\x01\xa9unstarted\xce\x00\x00\x01\x02"
    b"\x93\xce\x00\x00\x00\x01\xce\x00\x00\x00\x02\xce\x00\x00\x00\x03"
)

RUN = (
    {"a": [1, None], "b": b"x"},
    b"\x00\x00\x00\x14\x94\x01\xa3run\xcd\x01\x02\x82\xa1a\x92\x01\xc0\xa1b\xc4\x01x",
)

# The document in hexadecimal; its length goes before it.
VALUES: list[tuple[Any, str]] = [
    (None, "c0"),
    (True, "c3"),
    (-1, "ff"),
    (1.5, "cb3ff8000000000000"),
    ("é", "a2c3a9"),
    ("\ud800", "c70311eda080"),
    (b"\xff", "c401ff"),
    (1 << 64, "c70910010000000000000000"),
    (-(1 << 63) - 1, "c70910ff7fffffffffffffff"),
    ([1, []], "920190"),
    ((1,), "92c7000201"),
    ({2}, "92c7000302"),
    (frozenset({"x"}), "92c70004a178"),
    ({"a": (None,), 1: {}}, "95c70005a16192c70002c00191c70005"),
    (1 + 2j, "c710123ff00000000000004000000000000000"),
    (Decimal("-1.50"), "c705132d312e3530"),
    (Decimal("NaN"), "c703134e614e"),
    (Fraction(-1, 3), "c704140001ff03"),
    (uuid.UUID(int=7), "c7101500000000000000000000000000000007"),
    (dt.date(2024, 2, 29), "c7041707e8021d"),
    (dt.datetime(2024, 2, 29, 1, 2, 3, 4, fold=1), "c70c1607e8021d0102030000000401"),
    (
        dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        "c7141607e8010100000000000000000000000000000000",
    ),
    (
        dt.time(23, 59, tzinfo=dt.timezone(dt.timedelta(hours=-1), "x")),
        "c71218173b000000000000ffffffff296c5c003d78",
    ),
    (dt.timedelta(-1, 2, 3), "c70c19ffffffff0000000200000003"),
    (np.array([[1, 2]], "<u2"), "95c70006a23c48c404010002000102"),
    (np.float32(0.5), "93c70007a23c66c4040000003f"),
    (np.str_("s"), "93c70007a155a173"),
]


@pytest.mark.parametrize(("kind", "body", "data"), FRAMES)
def test_golden_answers(kind: str, body: Any, data: bytes) -> None:
    assert worker_wire.encode(kind, 258, body) == data
    reader = _wire.FrameReader(258)
    reader.feed(data)
    assert reader.frame == _wire.Frame(kind, body)
    with pytest.raises(_wire.WireError, match="unknown kind"):
        _wire.FrameReader(258, program=True).feed(data)


def test_golden_answer_of_what_is_no_program_yet() -> None:
    reader = _wire.FrameReader(258, program=True)
    reader.feed(UNSTARTED)
    assert reader.frame == _wire.Frame("unstarted", (1, 2, 3))
    with pytest.raises(_wire.WireError, match="unknown kind"):
        _wire.FrameReader(258).feed(UNSTARTED)


def test_golden_request_for_a_program() -> None:
    """As worker/native/request.c reads it; that it does, every test of a program shows."""
    start = _start.started(["a", "-b"], {"PATH": "/x:/y", "V": ""}, "/w", [("f/g", 0o100644, 9)])
    assert start.request() == (
        b"\x00\x00\x00\x39\x00\x00\x00\x02\x00\x00\x00\x02\x00\x00\x00\x02\x00\x00\x00\x01"
        b"/w\0/x\0/y\0a\0-b\0PATH=/x:/y\0V=\x00100644 9 f/g\0"
    )


def test_golden_request() -> None:
    body, data = RUN
    assert b"".join(_wire.encode_request("run", 258, body)) == data
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, data)
        assert worker_wire.read_frame(read_end, len(data)) == ("run", 258, body)
    finally:
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize(("value", "document"), VALUES)
def test_golden_values(value: Any, document: str) -> None:
    doc = bytes.fromhex(document)
    data = len(doc).to_bytes(8, "big") + doc
    assert b"".join(worker_values.encode_value(value, 1 << 20)) == data
    back: Any = decode_value(data, 1 << 20)
    assert type(back) is type(value)
    assert repr(back) == repr(value)


@pytest.mark.parametrize(
    ("value", "document", "data"),
    [
        (b"x" * 16384, "c7081a0000000000004000", b"x" * 16384),
        ("x" * 16384, "c7081b0000000000004000", b"x" * 16384),
        (
            np.zeros(16384, "|b"),
            "94c70006a27c62c7081c0000000000004000cd4000",
            bytes(16384),
        ),
        ((None,) * 8192, "92c70042dc2000" + "c0" * 8192, b""),
        (
            np.array([(1, b"ab")], [("n", "<i2"), ("s", "S2")]),
            "94c70006930493a16e00a23c6893a17302a37c5332c4040100616201",
            b"",
        ),
    ],
)
def test_golden_long_values(value: Any, document: str, data: bytes) -> None:
    doc = bytes.fromhex(document)
    whole = len(doc).to_bytes(8, "big") + doc + data
    assert b"".join(worker_values.encode_value(value, 1 << 20)) == whole
    assert np.array_equal(decode_value(whole, 1 << 20), value)  # type: ignore[arg-type]


def test_both_halves_speak_one_version() -> None:
    assert _wire.VERSION == worker_wire.VERSION == 1


@pytest.mark.parametrize(
    ("name", "half"),
    [
        ("MOST_LEVELS", _reader),
        ("MOST_ITEMS", _reader),
        ("CHARGE", _reader),
        ("MOST_FRACTION", _scalars),
        ("MOST_DECIMAL", _scalars),
        ("MOST_KEY", _tables),
    ],
)
def test_both_halves_have_one_limit(name: str, half: ModuleType) -> None:
    assert getattr(encoding, name) == getattr(half, name)


def test_both_halves_cut_texts_alike() -> None:
    assert worker_wire._TEXTS["raised"] == _wire._RAISED
    assert worker_wire._TEXTS["unfit"] == _wire._UNFIT
