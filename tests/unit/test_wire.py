"""The frames between host and worker: each half against bytes its peer would not write."""

from __future__ import annotations

import mmap
import os
import socket
import threading
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox._wire import Frame, FrameReader, WireError, encode_request
from worker.wire import FrameError, clip, encode, read_frame

GOOD: list[tuple[str, Any, Any]] = [
    ("value", b"\0\xff", b"\0\xff"),
    ("stored", 1 << 40, 1 << 40),
    ("raised", ["E", "message", "traceback"], ("E", "message", "traceback")),
    ("unfit", ["result['a']", "socket.socket", "why"], ("result['a']", "socket.socket", "why")),
    ("too_large", 0, 0),
]


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def packed(*items: Any) -> bytes:
    return framed(msgpack.packb(list(items)))


def read(data: bytes, **options: Any) -> Frame | None:
    reader = FrameReader(7, **options)
    reader.feed(data)
    return reader.frame


def refused(data: bytes, **options: Any) -> str:
    with pytest.raises(WireError) as caught:
        read(data, **options)
    return str(caught.value)


# --- the host reads ---------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "body", "expected"), GOOD)
def test_each_kind_arrives(kind: str, body: Any, expected: Any) -> None:
    assert read(encode(kind, 7, body)) == Frame(kind, expected)


@given(st.lists(st.integers(1, 9), max_size=60))
def test_a_frame_arrives_in_pieces_of_any_size(sizes: list[int]) -> None:
    data = encode("raised", 7, ["ValueError", "m" * 50, "t" * 200])
    reader = FrameReader(7)
    for size in sizes:
        reader.feed(data[:size])
        data = data[size:]
        assert (reader.frame is None) == bool(data)
    reader.feed(data)
    assert reader.frame is not None
    reader.feed(b"")


def test_a_frame_is_as_long_as_allowed_and_no_longer() -> None:
    data = encode("value", 7, b"x" * 1000)
    assert read(data, max_frame=len(data) - 4)
    assert "outside 1 to" in refused(data, max_frame=len(data) - 5)


@pytest.mark.parametrize("length", [0, (1 << 20) + 1, 1 << 31, (1 << 32) - 1])
def test_a_length_that_does_not_fit_is_refused_before_its_bytes(length: int) -> None:
    tracemalloc.start()
    assert "outside 1 to" in refused(length.to_bytes(4, "big"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_one_frame_a_call_and_nothing_after_it() -> None:
    data = encode("value", 7, b"x")
    reader = FrameReader(7)
    reader.feed(data)
    assert reader.frame is not None
    for _ in range(2):
        with pytest.raises(WireError, match="more bytes"):
            reader.feed(b"\0")
        assert reader.frame is None
    assert "more bytes" in refused(data + b"\0")
    assert "more bytes" in refused(data + data)


def test_a_reader_that_refused_once_stays_so() -> None:
    reader = FrameReader(7)
    with pytest.raises(WireError, match="outside"):
        reader.feed(b"\xff" * 4)
    with pytest.raises(WireError, match="outside"):
        reader.feed(encode("value", 7, b""))


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ((2, "value", 7, b""), "version"),
        ((True, "value", 7, b""), "version"),
        ((1.0, "value", 7, b""), "version"),
        ((1, "value", 8, b""), "another call"),
        ((1, "value", 7.0, b""), "another call"),
        ((1, "run", 7, {}), "unknown kind"),
        ((1, "run", 7, b""), "unknown kind"),
        ((1, b"value", 7, b""), "not a string"),
        ((1, ["value"], 7, b""), "not a string"),
        ((1, "value", 7, "text"), "wrong type"),
        ((1, "value", 7, None), "wrong type"),
        ((1, "stored", 7, -1), "wrong type"),
        ((1, "stored", 7, True), "wrong type"),
        ((1, "stored", 7, 1.0), "wrong type"),
        ((1, "stored", 7, 1 << 63), "wrong type"),
        ((1, "too_large", 7, "9"), "wrong type"),
        ((1, "raised", 7, ["a", "b"]), "three texts"),
        ((1, "raised", 7, ["a", "b", 3]), "three texts"),
        ((1, "raised", 7, ["a", "b", b"c"]), "three texts"),
        ((1, "raised", 7, "abc"), "three texts"),
        ((1, "raised", 7, ["a" * 1025, "b", "c"]), "longer than 1024"),
        ((1, "raised", 7, ["é" * 513, "b", "c"]), "longer than 1024"),
        ((1, "raised", 7, ["a", "b" * 65537, "c"]), "longer than 65536"),
        ((1, "raised", 7, ["a", "b", "c" * 262145]), "not msgpack"),
        ((1, "unfit", 7, ["a" * 4097, "b", "c"]), "longer than 4096"),
        ((1, "unfit", 7, ["a", "b" * 1025, "c"]), "longer than 1024"),
        ((1, "value", 7), "array of four"),
        ((1, "unstarted", 7, [0, 1, 2]), "unknown kind"),
        ((1, "value", 7, b"", 0), "not msgpack"),
    ],
)
def test_frames_that_no_worker_of_ours_writes(items: tuple[Any, ...], reason: str) -> None:
    assert reason in refused(packed(*items))


@pytest.mark.parametrize(
    "body", [[0, 1], [0, 1, 2, 3], [0, 1, -1], [0, True, 2], [0, "1", 2], [0, 1, 1.0], 7, "abc"]
)
def test_answers_that_no_worker_for_a_program_writes(body: object) -> None:
    reader = FrameReader(7, program=True)
    with pytest.raises(WireError, match=r"wrong type|not msgpack"):
        reader.feed(packed(1, "unstarted", 7, body))


@pytest.mark.parametrize(
    "body",
    [
        b"\xc0",
        b"\xc1",
        b"\x94\x01\xa5value\x07",
        b"\x94\x01\xa5value\x07\xc4\x00\x00",
        b"\x94\x01\xa5value\x07\xc6\xff\xff\xff\xff",
        b"\x94\x01\xa5value\x07\xdd\xff\xff\xff\xff",
        b"\x94\x01\xa5value\x07\xdf\xff\xff\xff\xff",
        b"\x94\x01\xa5value\x07\xdb\xff\xff\xff\xff",
        b"\x94\x01\xa5value\x07\xd4\x05\x00",
        b"\x94\x01\xa5value\x07\xc7\x00\x05",
        b"\x94\x01\xa5value\x07\xd6\xff\x00\x00\x00\x00",
        b"\x94\x01\xa6raised\x07\x93\xa1\xff\xa0\xa0",
        b"\x91" * 100_000,
        b"\x94" * 100_000,
        b"\xdd\x00\x00\x00\x04" * 100_000,
    ],
)
def test_msgpack_that_lies_or_nests_is_refused(body: bytes) -> None:
    tracemalloc.start()
    refused(framed(body))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


@given(st.binary(max_size=64))
def test_any_bytes_are_refused_or_wait_for_more(data: bytes) -> None:
    for blob in (data, framed(data)):
        try:
            assert read(blob) is None
        except WireError:
            pass


# --- the worker writes ------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=()), max_size=80), st.integers(10, 90))
def test_a_clipped_text_fits_and_is_utf8(text: str, most: int) -> None:
    cut = clip(text, most)
    assert len(cut.encode()) <= most
    whole = text.encode("utf-8", "backslashreplace")
    assert len(whole) > most or cut.encode() == whole


def test_clipping_keeps_both_ends_of_a_text() -> None:
    cut = clip("a" * 10_000_000 + "b" * 10_000_000, 1000)
    assert cut.startswith("aaa")
    assert cut.endswith("bbb")
    assert " ... " in cut


def test_texts_are_cut_to_what_the_host_takes() -> None:
    for kind in ("raised", "unfit"):
        frame = read(encode(kind, 7, ["\ud800é" * 1_000_000] * 3))
        assert frame is not None
        assert frame.kind == kind


# --- the host asks ----------------------------------------------------------------------------


def through_a_socket(data: bytes | list[bytes | memoryview], cap: int = 1 << 30) -> Any:
    """What a worker reads from a stream that carries `data` and ends."""
    parts = [data] if isinstance(data, bytes) else data
    here, there = socket.socketpair()
    with here, there:

        def send() -> None:
            for part in parts:
                there.sendall(part)
            there.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            return read_frame(here.fileno(), cap)
        finally:
            while here.recv(1 << 20):
                pass
            sender.join()


native = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), native, max_size=5), st.integers(0, (1 << 64) - 1))
def test_a_request_arrives(body: dict[str, Any], call: int) -> None:
    assert through_a_socket(encode_request("run", call, body)) == ("run", call, body)


def test_long_bytes_of_a_request_are_borrowed_not_copied() -> None:
    payload = bytes(1 << 20)
    body = {"a": 1, "payload": payload, "view": memoryview(payload)[:50000], "b": "x"}
    buffers = encode_request("run", 1, body)
    assert [part.obj for part in buffers if isinstance(part, memoryview)] == [payload, payload]
    assert through_a_socket(buffers) == ("run", 1, body | {"view": bytes(50000)})


def test_a_request_that_does_not_fit_is_refused_by_the_host() -> None:
    with mmap.mmap(-1, 1 << 32) as area, memoryview(area) as view:  # never touched
        with pytest.raises(ValueError, match="do not fit"):
            encode_request("run", 1, {"payload": view})
        with view[: 3 << 30] as most, pytest.raises(ValueError, match="does not fit"):
            encode_request("run", 1, {"a": most, "b": most})


@pytest.mark.parametrize("cut", [0, 3, 4, 10])
def test_a_stream_that_ends_early_is_an_eof(cut: int) -> None:
    data = b"".join(encode_request("run", 1, {"x": 1}))
    with pytest.raises(EOFError):
        through_a_socket(data[:cut])


@pytest.mark.parametrize(
    "data",
    [
        framed(b""),
        (1 << 31).to_bytes(4, "big"),
        framed(b"\xc1"),
        framed(b"\x91" * 5000),
        framed(b"\xdd\xff\xff\xff\xff" * 100),
        packed(1, "run", 1),
        packed(2, "run", 1, {}),
        packed(True, "run", 1, {}),
        packed(1, "value", 1, {}),
        packed(1, "run", -1, {}),
        packed(1, "run", True, {}),
        packed(1, "run", 1, []),
        packed(1, "run", 1, {1: 2}),
        packed(1, "run", 1, {b"a": 2}),
        packed(1, "run", 1, {"a": msgpack.ExtType(5, b"x")}),
        packed(1, "run", 1, {"a": msgpack.Timestamp(1)}),
        framed(msgpack.packb([1, "run", 1, {}]) + b"\0"),
    ],
)
def test_requests_that_no_host_of_ours_writes(data: bytes) -> None:
    with pytest.raises(FrameError):
        through_a_socket(data, cap=1 << 20)


def test_reading_a_closed_descriptor_is_an_os_error() -> None:
    read_end, write_end = os.pipe()
    os.close(write_end)
    os.close(read_end)
    with pytest.raises(OSError, match="Bad file"):
        read_frame(read_end, 100)
