"""Hostile bytes into the host's two decoders of what a worker sends: the frame reader and the value
decoder. Nothing but the documented exceptions may come out, soon and in bounded memory.

    python fuzz/fuzz_wire.py --runs 200000 [--seed N]

Inputs are random bytes, damaged corpus entries, and msgpack made of this protocol's own parts
(types of containers, extensions, lengths that lie). An input that fails is printed in hexadecimal,
and the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import struct
import sys
import time
from collections.abc import Callable

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from sandbox._values import ValueRejected, decode_value  # noqa: E402
from sandbox._wire import FrameReader, WireError  # noqa: E402

MOST_SECONDS = 2.0  # of CPU for one input
MOST_GROWTH = 256 << 10  # KiB that one input may add to the peak of the process
MOST_INPUT = 1 << 16

_EXTENSIONS = [*range(9), *range(14, 30), *range(65, 72), 127, 128, 254, 255]
_INTS = [0, 1, -1, 127, 128, 255, 256, 65535, 65536, (1 << 31) - 1, (1 << 32) - 1, (1 << 61) - 1]
_DTYPES = ["<i4", "|?", "<U2", "|S3", "<M8[ns]", "<g", ">G", "|O8", "<m8[7D]", "<q", "<U0", "V4"]
_DEEPEST = 8


def load_corpus(name: str) -> list[bytes]:
    folder = os.path.join(ROOT, "fuzz", "corpus", name)
    entries = []
    for entry in sorted(os.listdir(folder)):
        with open(os.path.join(folder, entry), "rb") as file:
            entries.append(file.read())
    if not entries:
        raise SystemExit(f"{folder} is empty: the corpus belongs to the repository")
    return entries


def mutate(rng: random.Random, corpus: list[bytes]) -> bytes:
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0:
                data[at : at + 1] = rng.randbytes(1)
            case 1:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            case 2:
                del data[at : at + rng.randint(1, 16)]
            case 3:
                other = rng.choice(corpus)
                start = rng.randrange(len(other) + 1)
                data[at:at] = other[start : start + rng.randint(1, 64)]
            case 4:
                data[at : at + 4] = struct.pack(">I", rng.choice(_INTS) & 0xFFFFFFFF)
            case _:
                data[at:at] = bytes(data[at : at + rng.randint(1, 32)]) * rng.randint(1, 40)
    return bytes(data[:MOST_INPUT])


def _ext(rng: random.Random) -> bytes:
    payload = rng.randbytes(rng.choice((0, 0, 0, 1, 4, 5, 7, 8, 12, 16, 20, rng.randrange(1500))))
    if rng.random() < 0.3:
        payload = rng.choice(
            (b"-1.5E+9", b"NaN", b"\0\1\3\7", struct.pack(">q", rng.choice(_INTS)))
        )
    code = bytes((rng.choice(_EXTENSIONS),))
    if len(payload) < 256:
        return b"\xc7" + bytes((len(payload),)) + code + payload
    return b"\xc8" + struct.pack(">H", len(payload)) + code + payload


def _array(rng: random.Random, depth: int) -> bytes:
    count = rng.randint(0, 4)
    if rng.random() < 0.03:
        count, depth = rng.randint(5, 300), _DEEPEST  # long and flat
    claimed = count if rng.random() < 0.9 else rng.choice((0, 15, 8192, 65535))
    kind = b""
    if count and rng.random() < 0.7:
        kind = bytes((0xC7, 0, rng.choice((1, 2, 3, 4, 5, 5, 6, 7, 66, 67, 69))))
    head = bytes((0x90 | claimed,)) if claimed < 16 else b"\xdc" + struct.pack(">H", claimed)
    items = [token(rng, depth + 1) for _ in range(count - bool(kind))]
    if rng.random() < 0.2:
        items *= rng.randint(1, 3)
    return head + kind + b"".join(items)


def token(rng: random.Random, depth: int = 0) -> bytes:
    """One msgpack item, most often a well-formed one of the protocol."""
    pick = rng.random()
    if pick < 0.35 and depth < _DEEPEST:
        return _array(rng, depth)
    if pick < 0.55:
        return _ext(rng)
    if pick < 0.7:
        return b"\xd3" + struct.pack(">q", rng.choice(_INTS))
    if pick < 0.75:
        text = rng.choice(_DTYPES).encode()
        return bytes((0xA0 | len(text),)) + text
    if pick < 0.8:
        return b"\xcb" + rng.randbytes(8)
    if pick < 0.85:
        return b"\xc4\x08" + rng.randbytes(8)
    return rng.choice((b"\xc0", b"\xc2", b"\xc3", b"\x01", b"\x80", b"\x81\x01\x02", b"\xa1x"))


def structured_frame(rng: random.Random) -> bytes:
    kinds = (b"value", b"stored", b"raised", b"unfit", b"too_large", b"unstarted", b"run")
    kind = rng.choice(kinds)
    head = b"\x94\x01" + bytes((0xA0 | len(kind),)) + kind
    body = head + rng.choice((b"\x07", b"\x07", b"\x07", token(rng))) + token(rng)
    return len(body).to_bytes(4, "big") + body


def structured_value(rng: random.Random) -> bytes:
    doc = token(rng)
    if rng.random() < 0.1:
        doc = (
            rng.choice((b"\x91", b"\xdc\x20\x00", b"\x92\xc7\x00\x02")) * rng.randint(1, 2000) + doc
        )
    return len(doc).to_bytes(8, "big") + doc + rng.randbytes(rng.choice((0, 0, 0, 8, 64)))


def feed_frame(rng: random.Random, data: bytes) -> None:
    reader = FrameReader(7, program=rng.random() < 0.2)
    try:
        while data:
            size = rng.choice((1, 4, 5, len(data)))
            reader.feed(data[:size])
            data = data[size:]
    except WireError:
        if reader.frame is not None:
            raise AssertionError("a refused stream left a frame behind") from None


def feed_value(rng: random.Random, data: bytes) -> None:
    try:
        hash(type(decode_value(data, rng.choice((1 << 20, len(data) * 2 + 64)))))
    except ValueRejected:
        pass


class Watch:
    """Runs one input after the other and stops at the first that breaks a bound."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.done = 0
        self.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def run(
        self, feed: Callable[[random.Random, bytes], None], rng: random.Random, data: bytes
    ) -> None:
        started = time.process_time()
        problem = None
        try:
            feed(rng, data)
        except BaseException as error:  # whatever it is, it is not documented
            problem = f"{type(error).__name__}: {error}"
        took = time.process_time() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if problem is None and took > MOST_SECONDS:
            problem = f"took {took:.1f} s of CPU"
        if problem is None and peak - self.peak > MOST_GROWTH:
            problem = f"took {(peak - self.peak) >> 10} MiB of memory"
        self.peak = max(self.peak, peak)
        self.done += 1
        if problem is not None:
            print(f"{self.name}: input {self.done}, {feed.__name__}: {problem}\n{data.hex()}")
            print(f"{self.name}: {self.done} inputs, 1 failures")
            raise SystemExit(1)
        if self.done % 20000 == 0:
            print(f"{self.name}: {self.done} inputs", flush=True)


def arguments(name: str) -> tuple[int, int]:
    parser = argparse.ArgumentParser(prog=name)
    parser.add_argument("--runs", type=int, default=20000, help="number of inputs")
    parser.add_argument("--seed", type=int, default=None, help="to repeat a run")
    options = parser.parse_args()
    seed = int.from_bytes(os.urandom(4), "big") if options.seed is None else options.seed
    print(f"{name}: {options.runs} inputs, seed {seed}", flush=True)
    return options.runs, seed


def main() -> int:
    runs, seed = arguments("fuzz_wire")
    rng = random.Random(seed)
    corpus = load_corpus("wire")
    watch = Watch("fuzz_wire")
    feeds: tuple[Callable[[random.Random, bytes], None], ...] = (feed_frame, feed_value)
    for entry in corpus:
        for feed in feeds:
            watch.run(feed, rng, entry)
    while watch.done < runs:
        feed = rng.choice(feeds)
        pick = rng.random()
        if pick < 0.1:
            data = rng.randbytes(rng.randrange(64))
        elif pick < 0.5:
            data = mutate(rng, corpus)
        else:
            data = (structured_frame if feed is feed_frame else structured_value)(rng)
        watch.run(feed, rng, data)
    print(f"fuzz_wire: {watch.done} inputs, 0 failures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
