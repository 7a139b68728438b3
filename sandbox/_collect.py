"""Files a guest has written, brought to the host when every process of its call is dead.

Everything here was made by an enemy: names, kinds, links, depths, sizes. Folders are entered one
at a time by descriptor, files opened by `openat2`, and only regular files with one link on the
jail's own file system are read. What is not taken is listed with the reason.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ._openat2 import open_beneath

_MOST_DEPTH: Final = 64
_MOST_ENTRIES: Final = 100_000
_MOST_FILES: Final = 4096
_MOST_REFUSALS: Final = 256
_SECONDS: Final = 10.0
_PIECE: Final = 1 << 20
_ANY_FOLDERS: Final = None  # the part "**"


class _Part(NamedTuple):
    """A part of a pattern that names something: all but "**"."""

    match: Callable[[str], re.Match[str] | None]
    literal: bool


# Where in a pattern the path so far has come to: (number of the pattern, part that is next).
_Places = frozenset[tuple[int, int]]


class Patterns:
    """Patterns of relative paths: ``*``, ``?`` and ``[...]`` within a part, ``**`` for any number
    of folders. Each part is matched by itself, so that no name can make matching slow.

    Raises:
        TypeError, ValueError: a pattern that is none, or that leads out.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        if isinstance(patterns, (str, bytes)) or not isinstance(patterns, Sequence):
            raise TypeError("collect: expected a sequence of patterns")
        self._parts = [[_part(p) for p in _split(pattern)] for pattern in patterns]

    def __bool__(self) -> bool:
        return bool(self._parts)

    def start(self) -> _Places:
        """Before any part of a path."""
        return self._past_any((number, 0) for number in range(len(self._parts)))

    def after(self, places: _Places, name: str) -> _Places:
        """Behind one more part of a path."""
        found = set()
        for number, place in places:
            if place == len(self._parts[number]):
                continue
            part = self._parts[number][place]
            if part is _ANY_FOLDERS:
                found.add((number, place))
            elif part.match(name):
                found.add((number, place + 1))
        return self._past_any(found)

    def _past_any(self, places: Iterator[tuple[int, int]] | set[tuple[int, int]]) -> _Places:
        """With what comes behind each "**", which may stand for no folder at all."""
        found = set()
        for number, place in places:
            found.add((number, place))
            while place < len(self._parts[number]) and self._parts[number][place] is _ANY_FOLDERS:
                place += 1
                found.add((number, place))
        return frozenset(found)

    def complete(self, places: _Places) -> bool:
        """Whether a file here is wanted. A last "**" means every file below."""
        return any(
            place == len(self._parts[number])
            or (place == len(self._parts[number]) - 1 and self._parts[number][-1] is _ANY_FOLDERS)
            for number, place in places
        )

    def go_on(self, places: _Places) -> bool:
        """Whether anything below here may be wanted."""
        return any(place < len(self._parts[number]) for number, place in places)

    def want_named(self, places: _Places, name: str) -> bool:
        """Whether `name` is wanted for itself, not as something below a last "**"."""
        return any(not rest for _, rest in self._naming(places, name))

    def want_folder(self, places: _Places, name: str, *, literally: bool) -> bool:
        """Whether `name` has to be a folder, for itself, not by a "**"; `literally`: is meant
        alone, not among others that a wildcard matches."""
        return any(
            rest and (part.literal or not literally) for part, rest in self._naming(places, name)
        )

    def _naming(self, places: _Places, name: str) -> Iterator[tuple[_Part, int]]:
        """The parts that match `name` next, and how many come behind each."""
        for number, place in places:
            parts = self._parts[number]
            part = parts[place] if place < len(parts) else _ANY_FOLDERS
            if part is not _ANY_FOLDERS and part.match(name):
                yield part, len(parts) - place - 1


def _split(pattern: object) -> list[str]:
    if not isinstance(pattern, str):
        raise TypeError(f"collect: patterns are strings, not {type(pattern).__name__}")
    parts = pattern.split("/")
    if "\0" in pattern or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"collect: {pattern!r} is not a relative path below the working directory")
    if len(parts) > _MOST_DEPTH:
        raise ValueError(f"collect: {pattern!r} has more than {_MOST_DEPTH} parts")
    return parts


def _part(text: str) -> _Part | None:
    if text == "**":
        return _ANY_FOLDERS
    if "**" in text:
        raise ValueError(f"collect: in {text!r}, ** has to stand for a whole part")
    literal = not any(character in text for character in "*?[")
    return _Part(re.compile(fnmatch.translate(text)).match, literal)


@dataclass
class Collected:
    """Path → content, and path → reason for what was not taken."""

    files: dict[str, bytes] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def collect(scratch: int, folder: str, patterns: Patterns, most_bytes: int) -> Collected:
    """The wanted regular files below `folder` of the file system that `scratch` is a descriptor of,
    `most_bytes` in all. Names that are not UTF-8 have surrogate escapes."""
    collector = _Collector(patterns, most_bytes)
    try:
        root = open_beneath(scratch, os.fsencode(folder), os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:  # a guest can forbid its own user, which an ordinary host is, too
        return Collected(refused={"**": error.strerror or type(error).__name__})
    collector.run(root)
    return collector.found


class _Enough(Exception):
    """A cap on the whole was reached; what was found until then stays."""


class _Collector:
    def __init__(self, patterns: Patterns, most_bytes: int) -> None:
        self.found = Collected()
        self._patterns = patterns
        self._most = self._room = most_bytes
        self._entries = 0
        self._until = time.monotonic() + _SECONDS
        self._device = 0

    def run(self, root: int) -> None:
        """Closes `root`."""
        # One descriptor a level: as many as `_MOST_DEPTH`, whatever the tree.
        self._device = os.fstat(root).st_dev
        try:
            self._walk(root, "", self._patterns.start(), 1)
        except _Enough as reason:
            self._refuse("**", str(reason))

    def _walk(self, here: int, path: str, places: _Places, depth: int) -> None:
        try:
            with os.scandir(here) as entries:
                for entry in sorted(self._counted(entries), key=lambda found: found.name):
                    self._look(here, entry.name, path, places, depth)
        finally:
            os.close(here)

    def _counted(self, entries: Iterator[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
        for entry in entries:
            self._entries += 1
            if self._entries > _MOST_ENTRIES:
                raise _Enough(f"there are more than {_MOST_ENTRIES} files and folders")
            yield entry

    def _look(self, here: int, name: str, above: str, places: _Places, depth: int) -> None:
        """`places` and the path `above` are those of the folder that it lies in."""
        if time.monotonic() > self._until:
            raise _Enough(f"looking took longer than {_SECONDS:.0f} seconds")
        path, behind = above + name, self._patterns.after(places, name)
        if not behind:
            return
        try:
            mode = os.stat(name, dir_fd=here, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                if self._patterns.want_named(places, name):
                    self._refuse(path, "it is a folder, not a regular file")
                if self._patterns.go_on(behind):
                    self._enter(here, name, path, behind, depth)
            elif self._patterns.complete(behind):
                self._take(here, name, path, mode)
            elif self._patterns.want_folder(places, name, literally=stat.S_ISREG(mode)):
                self._refuse(path, f"it is a {_kind(mode)}, not a folder")
        except OSError as error:
            self._refuse(path, error.strerror or type(error).__name__)

    def _enter(self, here: int, name: str, path: str, places: _Places, depth: int) -> None:
        if depth >= _MOST_DEPTH:
            self._refuse(path, f"it lies deeper than {_MOST_DEPTH} folders")
            return
        below = open_beneath(here, os.fsencode(name), os.O_RDONLY | os.O_DIRECTORY)
        self._walk(below, f"{path}/", places, depth + 1)

    def _take(self, here: int, name: str, path: str, mode: int) -> None:
        if not stat.S_ISREG(mode):
            self._refuse(path, f"it is a {_kind(mode)}, not a regular file")
            return
        file = open_beneath(here, os.fsencode(name), os.O_RDONLY | os.O_NONBLOCK)
        try:
            self._read(file, path)
        finally:
            os.close(file)

    def _read(self, file: int, path: str) -> None:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_dev != self._device:
            self._refuse(path, "it is not a regular file of the jail's own")
        elif found.st_nlink != 1:
            self._refuse(path, f"it has {found.st_nlink} names")
        elif found.st_size > self._room:
            self._refuse(path, f"its {found.st_size} bytes go beyond the {self._most} in all")
        elif len(self.found.files) >= _MOST_FILES:
            raise _Enough(f"there are more than {_MOST_FILES} wanted files")
        else:
            self.found.files[path] = _content(file, found.st_size)
            self._room -= found.st_size

    def _refuse(self, path: str, reason: str) -> None:
        if len(self.found.refused) < _MOST_REFUSALS:
            self.found.refused[path] = reason
        else:
            self.found.refused["**"] = f"more than {_MOST_REFUSALS} were refused"


def _content(file: int, size: int) -> bytes:
    pieces = []
    while size > 0 and (piece := os.read(file, min(size, _PIECE))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISREG, "regular file"),
        (stat.S_ISLNK, "symbolic link"),
        (stat.S_ISFIFO, "FIFO"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISCHR, "character device"),
        (stat.S_ISBLK, "block device"),
    ):
        if test(mode):
            return name
    return "file of an unknown kind"
