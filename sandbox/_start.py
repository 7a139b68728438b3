"""How a program is asked of a worker, and what its answer means if it could not be started.

Not a frame of `_wire`: who reads it is compiled (`worker/native/program.c`), or the same worker in
Python if it has files to place first (`worker/wire.py`).
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
    """A program, its words as the kernel takes them, without NUL.

    Attributes:
        cwd: where it starts.
        paths: tried in order, as execvp(3) does.
        argv, variables: as for execve(2).
        files: name below /work, mode and size each, in the order of their bytes in the parcel.
    """

    cwd: bytes
    paths: tuple[bytes, ...]
    argv: tuple[bytes, ...]
    variables: tuple[bytes, ...]
    files: tuple[tuple[bytes, int, int], ...]

    def request(self) -> bytes:
        """The length of the rest, counts, then strings that end in NUL. Numbers of 4 bytes,
        big-endian."""
        files = [b"%o %d %s" % (mode, size, name) for name, mode, size in self.files]
        lists = (self.paths, self.argv, self.variables, files)
        counts = _COUNTS.pack(*map(len, lists))
        strings = b"\0".join([self.cwd, *(string for each in lists for string in each), b""])
        return (len(counts) + len(strings)).to_bytes(4, "big") + counts + strings

    def failure(self, what: int, number: int, index: int) -> tuple[str, int, str]:
        """Of the worker's answer: what failed, the kernel's errno, at which path."""
        step = _STEPS[what] if what < len(_STEPS) else "program"
        places: Sequence[bytes] = (self.cwd,)
        if step == "files":
            places = [name for name, _, _ in self.files]
        elif step != "cwd":
            places = (*self.paths, self.argv[0])  # one behind the paths: none is there
        path = places[index] if index < len(places) else b""
        return step, number, path.decode("utf-8", "backslashreplace")


def started(
    argv: Sequence[str],
    environment: Mapping[str, str],
    cwd: str,
    files: Sequence[tuple[str, int, int]],
) -> Start:
    """Checked arguments, encoded. A name without a slash is looked for in the guest's PATH."""
    words = tuple(os.fsencode(word) for word in argv)
    variables = {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
    paths = words[:1]
    if b"/" not in words[0]:
        folders = variables.get(b"PATH", os.fsencode(os.defpath)).split(b":")
        paths = tuple(os.path.join(folder, words[0]) for folder in folders)
    return Start(
        cwd=os.fsencode(cwd),
        paths=paths,
        argv=words,
        variables=tuple(name + b"=" + value for name, value in variables.items()),
        files=tuple((os.fsencode(name), mode, size) for name, mode, size in files),
    )
