"""What is kept of an output stream, whatever the pieces it comes in."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox._capture import Allowance, Capture, Spill


def capture_of(pieces: list[bytes], keep: int) -> Capture:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    capture = Capture(read_end, keep)
    for piece in pieces:
        os.write(write_end, piece)
        capture.drain()
    os.close(write_end)
    capture.finish()
    return capture


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=40), st.integers(2, 300))
def test_head_and_tail_are_kept_and_the_rest_is_counted(pieces: list[bytes], keep: int) -> None:
    whole = b"".join(pieces)
    kept, lost = capture_of(pieces, keep).result()
    half = keep // 2
    if len(whole) <= 2 * half:
        assert (kept, lost) == (whole, 0)
    else:
        assert kept == whole[:half] + whole[-half:]
        assert lost == len(whole) - 2 * half


def test_short_pieces_cost_no_more_memory_than_long_ones() -> None:
    capture = capture_of([b"ab"] * 50_000, 20_000)
    held = sum(sys.getsizeof(buffer) for buffer in (capture._head, capture._tail))
    assert held < 200_000
    assert capture.result() == (b"ab" * 10_000, 80_000)


def full_pipe() -> tuple[int, int]:
    """Its ends, neither of which blocks."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    while select.select((), (writer,), (), 0)[1]:
        os.write(writer, bytes(select.PIPE_BUF))
    return reader, writer


def test_what_a_full_pipe_does_not_take_now_it_gets_later() -> None:
    reader, writer = full_pipe()
    spill = Spill(writer)
    spill(b"x" * 100_000)
    spill.step()
    assert spill.waits
    finishing = threading.Thread(target=spill.finish)
    finishing.start()
    count = 0
    while count < 100_000:
        select.select((reader,), (), ())
        count += os.read(reader, 1 << 20).count(b"x")
    finishing.join()
    assert not spill.waits
    os.close(reader)
    os.close(writer)


def capture_with(
    sink: Callable[[bytes], object] | None, data: bytes, allowance: Allowance | None = None
) -> Capture:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    os.write(writer, data)
    os.close(writer)
    return Capture(reader, 1000, sink, allowance)


def test_what_a_sink_raises_at_the_end_comes_out_when_all_is_closed() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    capture = capture_with(Spill(writer), b"x")
    capture.finish()
    assert not capture.open
    with pytest.raises(BrokenPipeError):
        capture.result()
    os.close(writer)


def test_a_sink_that_raised_is_asked_no_more() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        capture = capture_with(Spill(full.fileno()), b"x")
        capture.step()
        with pytest.raises(OSError, match="No space"):
            capture.step()
        assert capture.interests() == {capture.descriptor: select.POLLIN}
        capture.finish()
        assert capture.result() == (b"x", 0)


def test_of_two_sinks_that_raise_the_first_is_heard() -> None:
    def refuse(_: bytes) -> None:
        raise KeyError("mine")

    allowance = Allowance(None)
    first, second = (capture_with(refuse, b"x", allowance) for _ in range(2))
    with pytest.raises(KeyError):
        first.step()
    second.step()
    for capture in (first, second):
        capture.finish()


def test_an_allowance_is_one_for_both() -> None:
    pieces: list[bytes] = []
    allowance = Allowance(5)
    for sink, data in (
        (pieces.append, b"ab"), (None, b"c"), (pieces.append, b"def"), (pieces.append, b"ghi"),
    ):  # fmt: skip
        capture = capture_with(sink, data, allowance)
        capture.finish()
        assert capture.result() == (data, 0)
    assert pieces == [b"ab", b"de"]


def test_a_file_keeps_what_it_held_until_something_comes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("what was there before")
    with open(tmp_path / "file", "r+b", buffering=0) as file:
        spill = Spill(file.fileno(), replaces=True)
        spill(b"new")
        assert (tmp_path / "file").read_text() == "what was there before"
        spill.finish()
    assert (tmp_path / "file").read_text() == "new"
