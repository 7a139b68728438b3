"""The exception tree: what is caught by what, what survives pickling, what a guest can name."""

from __future__ import annotations

import builtins
import copy
import pickle
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sandbox
from sandbox import (
    GuestError,
    LimitExceeded,
    Outcome,
    ProgramError,
    SandboxError,
    SetupError,
    Unsupported,
)
from sandbox._errors import guest_error

ALL = [
    value
    for name in sandbox.__all__
    if isinstance(value := getattr(sandbox, name), type) and issubclass(value, Exception)
]
ALSO = {
    "ClosedError": RuntimeError,
    "MemoryLimitExceeded": MemoryError,
    "PolicyError": ValueError,
    "PolicyViolation": PermissionError,
    "TimeLimitExceeded": TimeoutError,
    "TransferError": TypeError,
}
BUILTINS = [
    value
    for value in vars(builtins).values()
    if isinstance(value, type) and issubclass(value, BaseException)
]
STEERING = (StopIteration, StopAsyncIteration)


@pytest.mark.parametrize("kind", ALL)
def test_everything_is_a_sandbox_error_and_documented(kind: type[Exception]) -> None:
    assert issubclass(kind, SandboxError)
    assert kind.__doc__
    assert kind.__module__.startswith("sandbox")


@pytest.mark.parametrize("name", [kind.__name__ for kind in ALL])
def test_the_builtin_bases_are_the_promised_ones(name: str) -> None:
    ours = {*ALL, Exception, BaseException, object, OSError, SandboxError, LimitExceeded}
    foreign = [kind for kind in getattr(sandbox, name).__mro__ if kind not in ours]
    assert foreign == ([ALSO[name]] if name in ALSO else [])


@pytest.mark.parametrize("name", [kind.__name__ for kind in ALL if "Limit" in kind.__name__])
def test_every_limit_is_caught_as_one(name: str) -> None:
    assert issubclass(getattr(sandbox, name), LimitExceeded)


def test_unsupported_says_what_why_and_what_to_do() -> None:
    error = Unsupported("landlock", "this kernel has none", "Boot with lsm=landlock.")
    assert str(error) == (
        "landlock cannot be put in force: this kernel has none. Boot with lsm=landlock."
    )
    assert (error.feature, error.reason, error.remedy) == error.__reduce__()[1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("mount_proc", 1, "proc"), "cannot mount proc (proc): Operation not permitted"),
        (("confirm_isolation", 0, "x"), "cannot confirm isolation (x)"),
        (("prepare_root",), "cannot prepare root"),
    ],
)
def test_a_setup_error_is_a_sentence(arguments: tuple[str, ...], text: str) -> None:
    assert str(SetupError(*arguments)) == text  # type: ignore[arg-type]


SPECIAL = [
    Unsupported("a", "b", "c"),
    SetupError("step", 13, "detail"),
    ProgramError("exec", 2, "/bin/none"),
    guest_error("Own", "m", "t"),
    *[guest_error(kind.__name__, "m", "t") for kind in BUILTINS],
]
OTHERS = [kind("why") for kind in ALL if kind not in set(map(type, SPECIAL)) | {GuestError}]


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
@pytest.mark.parametrize("error", [*SPECIAL, *OTHERS], ids=repr)
def test_errors_survive_pickling_and_copying(
    error: SandboxError, again: Callable[[SandboxError], SandboxError]
) -> None:
    error.outcome = Outcome("exception", stdout=b"so far")
    error.add_note("a note")
    copied = again(error)
    assert [kind.__name__ for kind in type(copied).__mro__] == [
        kind.__name__ for kind in type(error).__mro__
    ]
    assert (str(copied), copied.args) == (str(error), error.args)
    assert copied.outcome == error.outcome
    assert vars(copied) == vars(error)


@pytest.mark.parametrize("kind", BUILTINS, ids=lambda kind: kind.__name__)
def test_a_guest_error_is_the_builtin_of_its_name_unless_that_steers_the_host(
    kind: type[BaseException],
) -> None:
    error = guest_error(kind.__name__, "message", "trace")
    assert isinstance(error, GuestError)
    assert not isinstance(error, STEERING)
    assert isinstance(error, Exception)
    harmless = issubclass(kind, Exception) and not issubclass(kind, STEERING)
    assert isinstance(error, kind) == (harmless or kind is BaseException)
    assert (error.type_name, error.remote_message) == (kind.__name__, "message")
    assert error.remote_traceback == "trace"
    assert str(error) == f"{kind.__name__}: message"
    with pytest.raises(GuestError):
        raise error


@given(st.text(), st.text(), st.text())
def test_any_name_and_text_makes_an_error(name: str, message: str, trace: str) -> None:
    error = guest_error(name, message, trace)
    assert (error.type_name, error.remote_message) == (name, message)
    assert str(error) == (f"{name}: {message}" if message else name)


@pytest.mark.parametrize("name", ["print", "open", "__import__", "__name__", "eval", "None", "int"])
def test_a_name_is_looked_up_among_exceptions_only(name: str) -> None:
    assert type(guest_error(name, "x")) is GuestError


def test_an_oserror_of_a_guest_has_no_errno_of_the_hosts() -> None:
    error = guest_error("FileNotFoundError", "[Errno 2] no", "")
    assert isinstance(error, FileNotFoundError)
    assert error.errno is None
