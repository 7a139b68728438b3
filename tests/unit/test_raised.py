"""What the worker tells of an exception: as CPython does, bounded, and whatever its class says."""

from __future__ import annotations

import signal
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

import pytest

from worker.raised import describe

# Not in a file, so that CPython has no source lines to print either.
GUESTS = """
def fail(text="no"):
    raise ValueError(text)

def chained():
    try:
        fail("first")
    except ValueError as error:
        try:
            raise KeyError("second") from error
        except KeyError:
            raise OSError("third\\nline")

def suppressed():
    try:
        fail()
    except ValueError:
        raise KeyError("alone") from None

def noted():
    error = Own("with notes")
    error.add_note("note one\\nand its second line")
    error.add_note("")
    raise error

class Own(LookupError):
    pass

def caught(function):
    try:
        function()
    except BaseException as error:
        return error

def group():
    raise ExceptionGroup("many", [caught(fail), caught(chained), caught(noted), KeyError("bare")])

def nested():
    inner = caught(group)
    inner.add_note("of the inner one")
    raise BaseExceptionGroup("outer", [KeyboardInterrupt(), caught(chained_group), inner])

def chained_group():
    try:
        group()
    except ExceptionGroup as error:
        raise ExceptionGroup("again", [TypeError("t")]) from error

def wide():
    raise ExceptionGroup("wide", [ValueError(number) for number in range(20)])

def deep():
    error = ValueError("deep")
    for number in range(14):
        error = ExceptionGroup(str(number), [error])
    raise error

def bare():
    raise ExceptionGroup("held", [ExceptionGroup("bare", [ValueError("x")]), ValueError()])

def empty():
    raise Own
"""
HELPERS = ("fail", "Own", "caught")
SPACE: dict[str, Any] = {"__name__": "guests"}
exec(compile(GUESTS, "<guests>", "exec"), SPACE)
TOLD = [name for name, thing in SPACE.items() if callable(thing) and name not in HELPERS]


def raised_by(function: Callable[..., Any], *args: Any) -> BaseException:
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError("it did not raise")


def told(function: Callable[..., Any], *args: Any) -> list[str]:
    texts = describe(raised_by(function, *args), __file__)
    assert all(type(text) is str for text in texts)
    assert all(len(text) <= most for text, most in zip(texts, (250, 16_100, 64_100), strict=True))
    return texts


@pytest.mark.parametrize("name", TOLD)
def test_a_traceback_is_cpythons_without_the_source_lines(name: str) -> None:
    error = raised_by(SPACE[name])
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next  # the frame of `raised_by`
    assert describe(error, __file__)[2] + "\n" == "".join(traceback.format_exception(error))


def test_a_group_without_a_traceback_is_told_too() -> None:
    error = ExceptionGroup("g", [ValueError(1)])
    assert describe(error, __file__)[2] + "\n" == "".join(traceback.format_exception(error))


def refuse(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no")


# A text that refuses everything a text does.
REFUSED = "encode split __getitem__ __len__ __format__ __eq__ __ne__ __hash__ __str__ __iter__"
Text: Any = type("Text", (str,), dict.fromkeys(REFUSED.split(), refuse))


class OddText(Exception):
    def __str__(self) -> str:
        text: str = Text("the text")
        return text


HIDING = dict.fromkeys(("__name__", "__module__", "__mro__"), property(refuse))
Nameless: Any = type("Meta", (type,), HIDING)("Nameless", (Exception,), {})


class Numbered(type):
    __name__ = 5  # type: ignore[assignment]


class Fifth(Exception, metaclass=Numbered):
    pass


SLOTS = ("__cause__", "__context__", "__suppress_context__", "__traceback__", "__notes__")


@pytest.mark.parametrize("kind", [OddText, Nameless, Fifth], ids=["text", "nameless", "fifth"])
def test_the_name_and_the_text_are_there_whatever_the_class_says(kind: type[Exception]) -> None:
    def guest() -> None:
        raise kind("the text")

    name, message, trace = told(guest)
    assert name == type.__dict__["__name__"].__get__(kind)
    assert message == "the text"
    assert "in test_the_name" in describe(raised_by(guest), "")[2]
    assert trace.endswith(": the text")


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("value", [property(refuse), 5, "text", ()], ids=repr)
def test_attributes_of_a_class_hide_nothing(slot: str, value: Any) -> None:
    odd = type("Odd", (Exception,), {slot: value})

    def guest() -> None:
        try:
            SPACE["fail"]("the first")
        except ValueError as error:
            raise odd("the second") from error

    name, message, trace = told(guest)
    assert (name, message) == ("Odd", "the second")
    assert trace.index("ValueError: the first") < trace.index("direct cause")
    assert trace.index("direct cause") < trace.index("Odd: the second")
    assert '"<guests>", line 3, in fail' in trace


def test_notes_of_any_kind_are_told_or_said_to_be_missing() -> None:
    class Mean:
        def __str__(self) -> str:
            raise KeyboardInterrupt

    def noted(notes: Any) -> str:
        error = ValueError("text")
        error.__notes__ = notes
        return describe(error, "")[2]

    assert noted([Text("odd"), 3, Mean()]).splitlines() == [
        "ValueError: text",
        "odd",
        "3",
        "<no note: str() of it raised>",
    ]
    assert noted(7) == "ValueError: text\n7"
    hidden = type("Hidden", (Exception,), {"__notes__": property(refuse)})
    assert "no notes" in describe(hidden(), "")[2]


def test_odd_names_in_code_are_told() -> None:
    code = (lambda: 1 / 0).__code__.replace(co_filename=Text("file"), co_qualname=Text("name"))
    trace = told(types.FunctionType(code, {}))[2]
    assert 'File "file"' in trace
    assert "in name" in trace


def shared_groups() -> BaseException:
    """Some 15 ** 9 exceptions, for whoever follows every path."""
    error: Exception = ValueError("leaf")
    for _ in range(9):
        error = ExceptionGroup("g", [error] * 15)
    return error


def causes_of_members() -> BaseException:
    group = ExceptionGroup("g", [ValueError("member")])
    group.exceptions[0].__cause__ = group
    return group


def long_everywhere() -> BaseException:
    error: BaseException = ValueError("x" * 1_000_000)
    for _ in range(300):
        for _ in range(3):
            error.add_note("\n" * 100_000)
        later = ExceptionGroup("y" * 100_000, [ValueError("z" * 100_000)])
        later.__cause__ = error
        error = later
    return error


def many_notes() -> BaseException:
    error = ValueError("x")
    error.__notes__ = ["n"] * 1_000_000
    return error


@pytest.mark.parametrize(
    "make",
    [shared_groups, causes_of_members, long_everywhere, many_notes],
    ids=lambda f: f.__name__,
)
def test_depth_count_and_size_are_bounded(make: Callable[[], BaseException]) -> None:
    error = make()
    name, message, trace = describe(error, "")
    assert name == type(error).__name__
    assert len(message) < 17_000
    assert len(trace) < 65_000


def test_the_newest_of_a_long_chain_are_told() -> None:
    error: BaseException = ValueError(0)
    for number in range(1, 1000):
        later = ValueError(number)
        later.__cause__ = error
        error = later
    trace = describe(error, "")[2]
    assert trace.startswith("... (no more than 100 exceptions are told)")
    assert trace.endswith("ValueError: 999")
    assert "ValueError: 900\n" in trace
    assert "ValueError: 899\n" not in trace


def test_a_handler_that_raises_meanwhile_does_not_hide_the_exception() -> None:
    class Slow(Exception):
        def __str__(self) -> str:
            signal.raise_signal(signal.SIGUSR1)
            return "never"

    def handler(*_: Any) -> None:
        raise SystemExit(3)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        name, message, trace = describe(Slow(), "")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert name == "Slow"
    assert "no message" in message
    assert trace.endswith(message)


def test_telling_imports_nothing() -> None:
    before = set(sys.modules)
    for name in TOLD:
        describe(raised_by(SPACE[name]), "")
    assert set(sys.modules) == before
