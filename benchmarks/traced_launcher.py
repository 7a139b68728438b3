"""The launcher with a clock at its steps, started by `ladder.py` in place of the worker folder.

It imports the very same program and puts a stopwatch around functions of it; nothing else differs.
Times go into memory shared with the host, which stays mapped through every step of confinement.
Wall-clock time, because the worker's other clocks are set back by its time namespace.
"""

import importlib
import mmap
import os
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# (module, function or Class.method): where a step of the ladder begins and ends.
STEPS = (
    ("worker.launcher", "_Launcher._start"),
    ("worker.root", "Templates.copy"),
    ("worker.launcher", "_Launcher._clone"),
    ("worker.launcher", "_Launcher._map"),
    ("worker.wire", "read_frame"),
    ("worker.transfer", "load_call"),
    ("worker.values", "encode_value"),
    ("worker.runner", "_send"),
)
ROLES = ("launcher", "init", "worker")
RECORD = struct.Struct("32s2d")
COUNT = struct.Struct("I")
AREA = 16 << 10
STEP_TIMES = 64 * 8


def watch(owner: "Any", name: str, note: "Callable[[str, float, float], None]", text: str) -> None:
    """Put a stopwatch around a function."""
    function = getattr(owner, name)

    def timed(*args: "Any", **kwargs: "Any") -> "Any":
        began = time.time()
        try:
            return function(*args, **kwargs)
        finally:
            note(text, began, time.time() - began)

    setattr(owner, name, timed)


class _Notes:
    def __init__(self, path: str) -> None:
        self._launcher = os.getpid()
        descriptor = os.open(path, os.O_RDWR)
        self._memory = mmap.mmap(descriptor, AREA * len(ROLES) + STEP_TIMES)
        # The compiled steps of confinement write their times there themselves.
        self.step_times = memoryview(self._memory)[AREA * len(ROLES) :]
        os.close(descriptor)

    def note(self, name: str, began: float, took: float) -> None:
        """Each process writes to its own area, so that no two write to the same place."""
        pid = os.getpid()
        area = AREA * (0 if pid == self._launcher else 1 if pid == 1 else 2)
        (count,) = COUNT.unpack_from(self._memory, area)
        RECORD.pack_into(self._memory, area + 8 + count * RECORD.size, name.encode(), began, took)
        COUNT.pack_into(self._memory, area, count + 1)


def _watch_all(notes: _Notes) -> None:
    for module, path in STEPS:
        owner = sys.modules[module]
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        watch(owner, name, notes.note, name.strip("_"))
    watch(os, "fork", notes.note, "fork")
    native = sys.modules["worker.kernel.native"]
    native.lib.step_times = native.ffi.from_buffer("uint64_t[]", notes.step_times)


def main() -> None:
    folder, notes = os.environ.pop("LADDER_WORKER"), os.environ.pop("LADDER_NOTES")
    borrowed = [os.path.dirname(folder), *sys.argv[2:]]
    sys.path[:0] = borrowed
    importlib.import_module("worker.launcher")
    del sys.path[: len(borrowed)]
    _watch_all(_Notes(notes))
    worker_program = sys.modules["worker.launcher"]
    worker_program.main(int(sys.argv[1]))


if __name__ == "__main__":
    main()
