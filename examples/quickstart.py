"""A dozen guests, honest and hostile, one table, and the proof that every layer was in force.

Where it is harmless a hostile guest runs outside the jail first, as a control: a denial inside only
means something if the same code succeeds outside. Exit status 1 if any row differs from what it
declares.
"""

from __future__ import annotations

import functools
import json
import os
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sandbox import Limits, Outcome, Sandbox

LIMITS = Limits(memory="128M", cpu_time=1.0, wall_time=3.0, processes=16, output="1M", disk="16M")
HERE = os.path.dirname(os.path.abspath(__file__))

# --- honest guests --------------------------------------------------------------------------------


def numpy_mean(count: int) -> Any:
    import numpy as np

    return np.sin(np.linspace(0.0, 3.0, count)).mean()


def longest_words(text: str) -> list[str]:
    return sorted(set(re.findall(r"[a-z]{10,}", text)), key=len)[-3:]


def read_json(text: str) -> dict[str, int]:
    return {name: len(values) for name, values in json.loads(text).items()}


def sum_in_threads(count: int) -> int:
    totals = [0] * count

    def work(index: int) -> None:
        totals[index] = sum(range(index * 1000))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(totals)


def large_result(size: int) -> bytes:
    return b"x" * size


# --- hostile guests -------------------------------------------------------------------------------


def read_file(path: str) -> str:
    with open(path) as file:
        return file.read()


def connect(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=2):
        return "connected"


def write_file(path: str) -> int:
    with open(path, "w") as file:
        return file.write("mine now")


def fork_bomb() -> None:
    while True:
        os.fork()


def memory_bomb() -> None:
    hoard = []
    while True:
        hoard.append(bytearray(16 << 20))


def spin_in_c() -> int:
    return sum(range(10**14))


def sleep_forever() -> None:
    time.sleep(1e6)


def flood_stdout() -> None:
    while True:
        os.write(1, b"spam " * 1000)


def crash() -> None:
    import ctypes

    ctypes.string_at(0)


def forge_answer() -> None:
    os.write(3, b"\x00\x00\x00\x05not a frame at all")
    os._exit(0)


def trace_init() -> None:
    import ctypes

    ctypes.CDLL(None).ptrace(16, 1, 0, 0)


# --- the rows -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One guest: what it tries, how it has to end, and its control outside the jail."""

    title: str
    guest: Callable[[], Any]
    status: str
    control: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def rows(secret: str, port: int, outside: str) -> list[Row]:
    with open(os.path.join(HERE, os.pardir, "README.md"), encoding="utf-8") as file:
        text = file.read()
    bind = functools.partial
    return [
        Row(
            "numpy: mean of 100,000 sines",
            bind(numpy_mean, 100_000),
            "ok",
            options={"preload": ["numpy"]},
        ),
        Row("regex over README.md", bind(longest_words, text), "ok"),
        Row("parse JSON", bind(read_json, '{"a": [1, 2], "b": []}'), "ok"),
        Row("sum in 8 threads", bind(sum_in_threads, 8), "ok"),
        Row("return 20 MB", bind(large_result, 20_000_000), "ok"),
        Row("read a file of the host", bind(read_file, secret), "exception", control=True),
        Row("connect to a port of the host", bind(connect, port), "exception", control=True),
        Row("write outside its places", bind(write_file, outside), "exception", control=True),
        Row("fork bomb", fork_bomb, "process_limit"),
        Row("memory bomb", memory_bomb, "memory_limit"),
        Row("spin in C code", spin_in_c, "cpu_time_limit"),
        Row("sleep forever", sleep_forever, "wall_time_limit"),
        Row("flood stdout", flood_stdout, "output_limit"),
        Row("crash in native code", crash, "signaled"),
        Row("forge an answer", forge_answer, "result_invalid"),
        Row("trace pid 1", trace_init, "policy_violation"),
    ]


@contextmanager
def surroundings() -> Iterator[tuple[str, int, str]]:
    """A secret file, a listening port and a writable folder, all of which the host can reach."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        secret = os.path.join(folder, "secret")
        write_file(secret)
        yield secret, server.getsockname()[1], os.path.join(folder, "written")


def control_of(row: Row) -> str:
    if not row.control:
        return ""
    row.guest()
    return "succeeds"


def size(count: int | None) -> str:
    return "?" if count is None else f"{count / (1 << 20):.1f} MB"


def evidence(outcome: Outcome) -> str:
    if outcome.status == "ok":
        text = repr(outcome.value)
        return text if len(text) < 52 else f"{type(outcome.value).__name__} of {len(outcome.value)}"
    if outcome.error is not None and outcome.status == "exception":
        return f"{outcome.error.type_name}: {outcome.error.message}"[:60]
    shown = {name: value for name, value in outcome.evidence.items() if name != "wire"}
    return (
        ", ".join(f"{name}={value}" for name, value in shown.items())[:60] or outcome.message[:60]
    )


def show(row: Row, control: str, outcome: Outcome) -> bool:
    good = outcome.status == row.status
    print(
        f"{row.title:30} {control:9} {outcome.status:17} {evidence(outcome):61}"
        f"{outcome.usage.wall_time:7.3f} s {size(outcome.usage.memory_peak):>9}"
        f"{'' if good else f'   EXPECTED {row.status}: {outcome.message}'}",
        flush=True,
    )
    return good


def show_isolation(outcome: Outcome) -> None:
    seen = outcome.isolation
    print("\nSeen from outside to be in force in the last jail:")
    for name, value in (
        ("namespaces", ", ".join(f"{kind} {inode}" for kind, inode in seen.namespaces.items())),
        ("worker", ", ".join(f"{key}={value}" for key, value in seen.worker.items())),
        ("limits", ", ".join(f"{key}={value}" for key, value in seen.limits.items())),
        ("root", "; ".join(f"{target} ({options})" for target, options in seen.root.items())),
        ("applied, shown to nobody", ", ".join(seen.unobserved)),
        (
            "missing",
            ", ".join(f"{key}: {value}" for key, value in seen.missing.items()) or "nothing",
        ),
    ):
        print(f"  {name}: {value}")


def main() -> int:
    """Run every row; 0 if each ended as declared."""
    print(
        f"{'guest':30} {'outside':9} {'inside: status':17} {'value or evidence':61}"
        f"{'time':>9} {'memory':>9}"
    )
    good = True
    with surroundings() as (secret, port, outside):
        for row in rows(secret, port, outside):
            control = control_of(row)
            with Sandbox(LIMITS, **row.options) as sandbox:
                outcome = sandbox.call(row.guest)
            good = show(row, control, outcome) and good
    show_isolation(outcome)
    print("\nevery guest ended as declared" if good else "\nsome guests did not end as declared")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
