"""What is kept of an output stream, whatever the pieces it comes in."""

from __future__ import annotations

import os
import sys

from hypothesis import given
from hypothesis import strategies as st

from sandbox._capture import Capture


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
