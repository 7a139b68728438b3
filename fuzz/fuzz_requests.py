"""Damaged requests into the worker's reader. What it reads comes from the trusted host, so this is
about our own faults: anything but a request must end as the documented exceptions.

    python fuzz/fuzz_requests.py --runs 200000 [--seed N]
"""

from __future__ import annotations

import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from fuzz.fuzz_wire import Watch, arguments, load_corpus, mutate, token
from worker.wire import FrameError, read_frame

MOST_FRAME = 1 << 16


def structured(rng: random.Random) -> bytes:
    names = [b"\xa1" + bytes((rng.randrange(97, 103),)) for _ in range(rng.randrange(5))]
    claimed = len(names) if rng.random() < 0.9 else 15
    body = bytes((0x80 | claimed,)) + b"".join(name + token(rng) for name in names)
    if rng.random() < 0.2:
        body = token(rng)
    kind = rng.choice((b"\xa3run", b"\xa3ran"))
    frame = b"\x94\x01" + kind + rng.choice((b"\x07", b"\xcf" + b"\xff" * 8, token(rng))) + body
    length = len(frame) if rng.random() < 0.9 else rng.randrange(2 * len(frame))
    return length.to_bytes(4, "big") + frame


def feed_request(rng: random.Random, data: bytes) -> None:
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, data[: 1 << 16])  # a pipe holds 64 KiB, so this does not block
        os.close(write_end)
        kind, call, body = read_frame(read_end, MOST_FRAME)
        if kind != "run" or type(call) is not int or type(body) is not dict:
            raise AssertionError("a request of the wrong types came through")
    except (FrameError, EOFError):
        pass
    finally:
        os.close(read_end)


def main() -> int:
    runs, seed = arguments("fuzz_requests")
    rng = random.Random(seed)
    corpus = load_corpus("requests")
    watch = Watch("fuzz_requests")
    for entry in corpus:
        watch.run(feed_request, rng, entry)
    while watch.done < runs:
        pick = rng.random()
        if pick < 0.1:
            data = rng.randbytes(rng.randrange(64))
        else:
            data = mutate(rng, corpus) if pick < 0.5 else structured(rng)
        watch.run(feed_request, rng, data)
    print(f"fuzz_requests: {watch.done} inputs, 0 failures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
