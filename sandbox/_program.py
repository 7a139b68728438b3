"""What a caller asks of `exec`, checked before anything is created: the program, the files it
finds, what it reads. Runs with the caller's rights; the host files named here are the caller's."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from ._collect import Patterns

StrPath = str | os.PathLike[str]
# What a file or standard input is made from: its bytes, the path of a regular file on the host, or
# something to read from. A file may also be the path of a folder, which is copied.
Content = bytes | bytearray | memoryview | os.PathLike[str] | str | IO[bytes]
Sink = Callable[[bytes], object] | os.PathLike[str] | str | None

_MOST_ARGUMENTS = 128 << 10
_MOST_WORDS = 4096
MOST_FILES = 4096
_MOST_NAME = 4000  # PATH_MAX, less what the worker puts around it


@dataclass(frozen=True)
class Program:
    """A checked request.

    Attributes:
        argv, environment, cwd: as for execve(2), inside the jail.
        files: name below /work → content.
        stdin: what it reads; with None /dev/null.
        collect: which files come back.
        stdout, stderr: a callable that gets the output as it comes, or None.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: str
    files: Mapping[str, Content]
    collect: Patterns
    stdin: Content | None = None
    stdout: Sink = None
    stderr: Sink = None


def checked(
    argv: Sequence[StrPath],
    environment: Mapping[str, str],
    files: Mapping[str, Content],
    collect: Sequence[str],
    cwd: StrPath | None,
) -> Program:
    """What `exec` and `popen` have in common. Raises TypeError, ValueError."""
    return Program(
        argv=checked_argv(argv),
        environment=environment,
        cwd=checked_cwd(cwd),
        files=checked_files(files),
        collect=Patterns(collect),
    )


def checked_argv(argv: Sequence[StrPath]) -> tuple[str, ...]:
    """Raises TypeError, ValueError."""
    if isinstance(argv, (str, bytes, os.PathLike)) or not isinstance(argv, Sequence):
        raise TypeError("argv: expected a sequence of strings, the program's name first")
    words = []
    for number, word in enumerate(argv):
        text = os.fspath(word) if isinstance(word, (str, os.PathLike)) else word
        if not isinstance(text, str):
            raise TypeError(f"argv[{number}]: expected a string, not {type(word).__name__}")
        words.append(text)
    if not words:
        raise ValueError("argv: it is empty; the first word names the program")
    if len(words) > _MOST_WORDS:
        raise ValueError(f"argv: {len(words)} words are more than {_MOST_WORDS}")
    if not words[0]:
        raise ValueError("argv[0]: the program's name is empty")
    size = 0
    for number, word in enumerate(words):
        size += len(_encoded(f"argv[{number}]", word)) + 1
    if size > _MOST_ARGUMENTS:
        raise ValueError(f"argv: {size} bytes are more than {_MOST_ARGUMENTS}")
    return tuple(words)


def checked_cwd(cwd: StrPath | None) -> str:
    """Where it starts: an absolute path inside, or one relative to /work."""
    if cwd is not None and not isinstance(cwd, (str, os.PathLike)):
        raise TypeError(f"cwd: expected a path, not {type(cwd).__name__}")
    text = "" if cwd is None else os.fspath(cwd)
    if not isinstance(text, str):
        raise TypeError("cwd: expected a path of text, not of bytes")
    _encoded("cwd", text)
    return os.path.join("/work", text)


def checked_files(files: Mapping[str, Content]) -> dict[str, Content]:
    """Names are relative paths that stay below /work; none is another's folder."""
    if not isinstance(files, Mapping):
        raise TypeError(f"files: expected a mapping of names, not {type(files).__name__}")
    if len(files) > MOST_FILES:
        raise ValueError(f"files: {len(files)} are more than {MOST_FILES}")
    found: dict[str, Content] = {}
    for name, content in files.items():
        checked_name("files", name)
        found[name] = _checked_content(f"files[{name!r}]", content, folders=True)
    folders = {name[:end] for name in found for end in _slashes(name)}
    for name in found:
        if name in folders:
            raise ValueError(f"files: {name!r} is a file and a folder of another one")
    return found


def checked_name(what: str, name: object) -> str:
    """A relative path without empty parts, "." and ".."."""
    if not isinstance(name, str):
        raise TypeError(f"{what}: names are strings, not {type(name).__name__}")
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{what}: {name!r} is not a relative path below the working directory")
    if any(len(_encoded(what, part)) > 255 for part in parts):
        raise ValueError(f"{what}: a part of {name!r} is longer than 255 bytes")
    if len(_encoded(what, name)) > _MOST_NAME:
        raise ValueError(f"{what}: {name[:40]!r}... is longer than {_MOST_NAME} bytes")
    return name


def checked_stdin(stdin: Content | None) -> Content | None:
    """None for what is empty. Raises TypeError, ValueError."""
    content = None if stdin is None else _checked_content("stdin", stdin)
    is_bytes = isinstance(content, (bytes, bytearray, memoryview))
    return None if is_bytes and not content else content


def checked_sink(what: str, sink: Sink) -> Sink:
    """None, a callable or a path. Raises TypeError, ValueError."""
    if sink is None or callable(sink):
        return sink
    if isinstance(sink, (str, os.PathLike)):
        _encoded(what, os.fsdecode(sink))
        return sink
    raise TypeError(f"{what}: expected a callable, a path or None, not {type(sink).__name__}")


def _slashes(name: str) -> Iterable[int]:
    return (place for place, character in enumerate(name) if character == "/")


def _encoded(what: str, text: str) -> bytes:
    if "\0" in text:
        raise ValueError(f"{what}: {text!r} holds a NUL")
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        raise ValueError(f"{what}: {text!r} cannot be written as bytes") from None


def _checked_content(what: str, content: Content, *, folders: bool = False) -> Content:
    """It, or its bytes if it is a view of others."""
    if isinstance(content, (bytes, bytearray)):
        return content
    if isinstance(content, memoryview):
        return _flat(what, content)
    if isinstance(content, (str, os.PathLike)):
        _check_source(what, os.fsdecode(content), folders=folders)
    elif not callable(getattr(content, "read", None)):
        raise TypeError(
            f"{what}: expected bytes, a path or a binary stream, not {type(content).__name__}"
        )
    return content


def _flat(what: str, view: memoryview) -> memoryview | bytes:
    """What is not one row of bytes has them copied: steps, more dimensions, other items."""
    try:
        if view.format == "B" and view.ndim == 1 and view.c_contiguous:
            return view
        return view.tobytes()
    except ValueError as error:  # it was released
        raise ValueError(f"{what}: {error}") from None


def _check_source(what: str, path: str, *, folders: bool) -> None:
    _encoded(what, path)
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ValueError(f"{what}: {path!r}: {error.strerror}") from None
    if not stat.S_ISREG(mode) and not (folders and stat.S_ISDIR(mode)):
        kinds = "regular file or folder" if folders else "regular file"
        raise ValueError(f"{what}: {path!r} is not a {kinds}")
