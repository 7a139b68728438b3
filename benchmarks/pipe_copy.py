"""The baseline of `payload`: the same bytes, made in a forked child, through a plain pipe.

Run as a program (one thread, little memory: a fork of the benchmark itself would cost more). Reads
a size from stdin, answers with the seconds from before the fork until the value is there and the
child is reaped.
"""

import os
import sys
import time


def _copy(size: int) -> float:
    began = time.perf_counter()
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        left = memoryview(b"x" * size)
        while left:
            left = left[os.write(theirs, left) :]
        os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as stream:
        value = stream.read()
    os.waitpid(pid, 0)
    took = time.perf_counter() - began
    if len(value) != size:
        raise RuntimeError(f"{len(value)} of {size} bytes came through")
    return took


def main() -> None:
    while line := sys.stdin.readline():
        print(_copy(int(line)), flush=True)


if __name__ == "__main__":
    main()
