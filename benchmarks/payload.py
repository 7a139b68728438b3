"""`payload`: a large bytes result, beside the same bytes through a plain pipe."""

from __future__ import annotations

import functools
import time

from benchmarks import baselines
from benchmarks.stats import Entry, Series, interleave
from sandbox import Limits, Sandbox

MEGABYTE = 1_000_000
SIZES = (1, 100)
# The guest writes a large result into a memfd of the host, to which its own file_size applies.
_LIMITS = Limits(memory="1G", result="256M", file_size="256M", wall_time=60.0, cpu_time=60.0)


def make_bytes(size: int) -> bytes:
    return b"x" * size


def measure(rounds: int) -> dict[str, Series]:
    """`payload_N` and `pipe_N` for N megabytes."""
    with Sandbox(_LIMITS) as sandbox, baselines.pipe_copy() as pipe:

        def call(size: int) -> float:
            began = time.perf_counter()
            value = sandbox.run(make_bytes, size)
            took = time.perf_counter() - began
            if len(value) != size:
                raise RuntimeError(f"{len(value)} of {size} bytes came back")
            return took

        entries = []
        for size in SIZES:
            count = size * MEGABYTE
            burst = 3 if size == 1 else 1
            entries.append(Entry(f"payload_{size}", functools.partial(call, count), burst))
            entries.append(Entry(f"pipe_{size}", functools.partial(pipe.ask, str(count)), burst))
        return interleave(entries, rounds)
