"""How a program is asked of a worker, and what its answer means if it could not be started.

Not a frame of `_wire`: who reads it is compiled, `worker/native/request.c`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_COUNTS = struct.Struct(">4I")
# By the numbers of the answer.
_STEPS = ("cwd", "program", "interpreter", "files")


@dataclass(frozen=True)
class Start:
    """A program; no word holds a NUL.

    Attributes:
        cwd: where it starts.
        folders: where the program is looked for, in order, as execvp(3) does; none if its name is
            its path.
        argv, variables: as for execve(2).
        files: name below /work, mode and size each, in the order of their bytes in the parcel.
    """

    cwd: str
    folders: Sequence[str]
    argv: Sequence[str]
    variables: Sequence[str]
    files: Sequence[tuple[str, int, int]]

    def request(self) -> bytes:
        """The length of the rest, counts, then strings that end in NUL. Numbers of 4 bytes,
        big-endian."""
        files = [f"{mode:o} {size} {name}" for name, mode, size in self.files]
        counts = _COUNTS.pack(*map(len, (self.folders, self.argv, self.variables, files)))
        words = [self.cwd, *self.folders, *self.argv, *self.variables, *files, ""]
        strings = os.fsencode("\0".join(words))
        return (len(counts) + len(strings)).to_bytes(4, "big") + counts + strings

    def failure(self, what: int, number: int, index: int) -> tuple[str, int, str]:
        """Of the worker's answer: what failed, the kernel's errno, at which path."""
        step = _STEPS[what] if what < len(_STEPS) else "program"
        path = self.argv[0]
        if step == "cwd":
            path = self.cwd
        elif step == "files":
            path = self.files[index][0] if index < len(self.files) else "/work"
        elif index < len(self.folders):
            path = os.path.join(self.folders[index], path)
        return step, number, os.fsencode(path).decode("utf-8", "backslashreplace")


def started(
    argv: Sequence[str],
    environment: Mapping[str, str],
    cwd: str,
    files: Sequence[tuple[str, int, int]],
) -> Start:
    """Of checked arguments. A name without a slash is looked for in the guest's PATH."""
    folders = [] if "/" in argv[0] else environment.get("PATH", os.defpath).split(":")
    variables = [f"{name}={value}" for name, value in environment.items()]
    return Start(cwd, folders, argv, variables, files)
