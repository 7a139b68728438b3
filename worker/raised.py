"""What the guest raised, as capped text for the host.

Runs in the worker, after the guest's code and on objects of the guest's own classes. What Python
itself keeps of an exception is asked of the interpreter, because a class can put a property of its
own in front of it; what only the class can say (its message, its notes) is guarded.
"""

from __future__ import annotations

import sys

from .unfit import type_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_MOST_NAME = 200
_MOST_PATH = 1_000
_MOST_TEXT = 16_000
_MOST_FRAMES = 100
_MOST_TOLD = 100  # exceptions, those of groups and chains together
_MOST_NOTES = 100
# Of groups, as in CPython.
_MOST_DEPTH = 10
_MOST_WIDTH = 15

_NAME = type.__dict__["__name__"].__get__
_CAUSE = BaseException.__dict__["__cause__"].__get__
_CONTEXT = BaseException.__dict__["__context__"].__get__
_SUPPRESS_CONTEXT = BaseException.__dict__["__suppress_context__"].__get__
_TRACEBACK = BaseException.__dict__["__traceback__"].__get__
_MEMBERS = BaseExceptionGroup.__dict__["exceptions"].__get__

_CAUSED = "The above exception was the direct cause of the following exception:"
_MEANWHILE = "During handling of the above exception, another exception occurred:"
_CLOSE = "+------------------------------------"


def describe(error: BaseException, own: str) -> list[str]:
    """Type name, message and traceback. Frames of the file `own` are left out of the traceback.
    Raises nothing, whatever the exception's class does."""
    name, message, told = "?", "", None
    try:
        sys.setrecursionlimit(1000)  # the guest may have left one too low for what follows
        name = _cut(_NAME(type(error)), _MOST_NAME)
        message = _message(error)
        told = _cut("\n".join(_Teller(own).chain(error, 0)), 4 * _MOST_TEXT)
    except BaseException:  # noqa: S110 (a signal's handler of the guest's, say: what there is, goes)
        pass
    return [name, message, f"{name}: {message}" if told is None else told]


class _Teller:
    """The traceback as Python prints it, but with qualified names of functions and without the
    source lines: the `traceback` module costs 10 ms to import and the sources are not visible in
    here."""

    def __init__(self, own: str) -> None:
        self.own = own
        self.left = _MOST_TOLD
        self.seen: set[int] = set()

    def chain(self, error: BaseException, depth: int) -> list[str]:
        """The lines of an exception and of those it came from, oldest first. `depth` is how far a
        group's members are indented, 0 outside groups."""
        lines: list[str] = []
        while self.left:
            self.left -= 1
            self.seen.add(id(error))
            lines = [*self.one(error, depth), *lines]
            earlier, link = _earlier(error)
            if earlier is None or id(earlier) in self.seen:
                return lines
            lines = [*_indented(["", link, ""], depth), *lines]
            error = earlier
        return [*_indented([f"... (no more than {_MOST_TOLD} exceptions are told)"], depth), *lines]

    def one(self, error: BaseException, depth: int) -> list[str]:
        if not issubclass(type(error), BaseExceptionGroup):
            return _indented(self.plain(error, "Traceback"), depth)
        if depth > _MOST_DEPTH:
            return _indented([f"... (max_group_depth is {_MOST_DEPTH})"], depth)
        lines = _indented(self.plain(error, "Exception Group Traceback"), depth or 1)
        if not depth and lines[0].startswith("  | Exception Group Traceback"):
            lines[0] = "  +" + lines[0][3:]
        return lines + self.members(_MEMBERS(error), depth or 1)

    def members(self, members: tuple[BaseException, ...], depth: int) -> list[str]:
        lines = []
        for number, member in enumerate(members[:_MOST_WIDTH], 1):
            lines += [_title(str(number), depth), *self.chain(member, depth + 1)]
        rest = len(members) - _MOST_WIDTH
        if rest > 0:
            text = f"and {rest} more exception{'s' if rest > 1 else ''}"
            lines += [_title("...", depth), *_indented([text], depth + 1)]
        if lines[-1].lstrip() != _CLOSE:  # of a group that was the last member
            lines.append("  " * (depth + 1) + _CLOSE)
        return lines

    def plain(self, error: BaseException, title: str) -> list[str]:
        frames = self.frames(error)
        lines = [f"{title} (most recent call last):", *frames] if frames else []
        name, message = _kind(error), _message(error)
        return [*lines, *(f"{name}: {message}" if message else name).split("\n"), *_notes(error)]

    def frames(self, error: BaseException) -> list[str]:
        traces = [each for each in _traces(error) if _file(each) != self.own]
        if len(traces) <= _MOST_FRAMES:
            return list(map(_frame, traces))
        half = _MOST_FRAMES // 2
        gap = f"  ... {len(traces) - _MOST_FRAMES} frames ..."
        return [*map(_frame, traces[:half]), gap, *map(_frame, traces[-half:])]


def _earlier(error: BaseException) -> tuple[BaseException | None, str]:
    cause = _CAUSE(error)
    if cause is not None:
        return cause, _CAUSED
    return (None if _SUPPRESS_CONTEXT(error) else _CONTEXT(error)), _MEANWHILE


def _indented(lines: list[str], depth: int) -> list[str]:
    return [f"{'  ' * depth}| {line}" for line in lines] if depth else lines


def _title(text: str, depth: int) -> str:
    # The first one opens the frame of all.
    return f"{'  ' * depth}{'+-' if text == '1' else '  '}+---------------- {text} ----------------"


def _traces(error: BaseException) -> Iterator[Any]:
    trace = _TRACEBACK(error)
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _file(trace: Any) -> str:
    return str.__str__(trace.tb_frame.f_code.co_filename)


def _frame(trace: Any) -> str:
    file, name = _cut(_file(trace), _MOST_PATH), trace.tb_frame.f_code.co_qualname
    return f'  File "{file}", line {trace.tb_lineno}, in {_cut(name, _MOST_NAME)}'


def _kind(error: BaseException) -> str:
    try:
        return type_name(type(error)).removeprefix("__main__.")
    except BaseException:
        return _cut(_NAME(type(error)), _MOST_NAME)


def _message(error: BaseException) -> str:
    return _text(error, "<no message: str() of the exception raised>")


def _notes(error: BaseException) -> list[str]:
    """What `add_note` added, bounded in number and length."""
    lines: list[str] = []
    left = _MOST_TEXT
    try:
        notes: Any = getattr(error, "__notes__", None) or ()
        if not issubclass(type(notes), (list, tuple)):
            notes = (notes,)
        for number, note in enumerate(notes):
            if number == _MOST_NOTES or left <= 0:
                lines.append("... more notes ...")
                break
            text = _text(note, "<no note: str() of it raised>")
            left -= len(text)
            lines += text.split("\n")
    except BaseException:
        lines.append("<no notes: reading __notes__ raised>")
    return lines


def _text(thing: Any, otherwise: str) -> str:
    try:
        return _cut(thing if issubclass(type(thing), str) else str(thing), _MOST_TEXT)
    except BaseException:
        return otherwise


def _cut(text: str, most: int) -> str:
    """A plain str, lone surrogates escaped, the middle left out of a long one."""
    text = str.__str__(text)  # of a class of the guest's, maybe, with methods of its own
    if len(text) > most:
        half = most // 2
        text = f"{text[:half]} ... {len(text) - 2 * half} characters ... {text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
