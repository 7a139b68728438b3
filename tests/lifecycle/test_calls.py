"""What travels in and out of a real call, and what calls of one sandbox share."""

from __future__ import annotations

import datetime as dt
import enum
import functools
import math
import os
import pickle
import random
import signal
import sys
import uuid
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sandbox import (
    GuestError,
    Limits,
    NonzeroExit,
    ResultError,
    Sandbox,
    SandboxError,
    TransferError,
)

OFFSET = 40
Point = namedtuple("Point", "x y")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Base:
    def double(self, value: int) -> int:
        return 2 * value


class Derived(Base):
    __slots__ = ("start",)

    def __init__(self, start: int) -> None:
        self.start = start

    def double(self, value: int) -> int:
        return self.start + super().double(value)


class OwnError(LookupError):
    pass


def add_offset(value: int, *, times: int = 1) -> int:
    return (value + OFFSET) * times


def factorial(n: int) -> int:
    return 1 if n == 0 else n * factorial(n - 1)


def echo(value: Any) -> Any:
    return value


# --- in ---------------------------------------------------------------------------------------------


def closure(amount: int) -> Callable[[int], int]:
    return lambda value: value + amount


@pytest.mark.parametrize(
    ("function", "args", "expected"),
    [
        (add_offset, (2,), 42),
        (functools.partial(add_offset, times=2), (2,), 84),
        (lambda: sorted({3, 1, 2}), (), [1, 2, 3]),
        (closure(5), (37,), 42),
        (factorial, (20,), math.factorial(20)),
        (Derived(2).double, (20,), 42),
        (Derived, (7,), None),
        (math.sqrt, (9.0,), 3.0),
        (int, ("42",), 42),
        ("{:>4}".format, ("x",), "   x"),
        (functools.cache(factorial), (5,), 120),
    ],
    ids=lambda value: getattr(value, "__qualname__", None) or repr(value)[:30],
)
def test_any_kind_of_callable_travels_in(
    shared: Sandbox, function: Callable[..., Any], args: tuple[Any, ...], expected: object
) -> None:
    if expected is None:
        assert shared.call(function, *args).status == "result_invalid"  # an instance, made inside
    else:
        assert shared.run(function, *args) == expected


def test_keyword_arguments_and_own_classes_travel_in(shared: Sandbox) -> None:
    assert shared.run(add_offset, 1, times=2) == 82

    def double(each: Derived, *, add: int) -> int:
        return each.double(1) + add

    assert shared.run(double, Derived(1), add=7) == 10
    assert shared.run(lambda p: (p.x, type(p).__name__), Point(4, 5)) == (4, "Point")
    assert shared.run(lambda colour: colour.name, Colour.RED) == "RED"


def test_what_the_function_reads_is_a_copy(shared: Sandbox) -> None:
    data = {"list": [1]}

    def change() -> int:
        data["list"].append(2)
        return len(data["list"])

    assert shared.run(change) == 2
    assert data == {"list": [1]}


def test_preview_names_what_would_travel(shared: Sandbox) -> None:
    assert f"{__name__}.OFFSET (int)" in shared.preview(add_offset)
    assert shared.preview(math.sqrt) == ()
    assert f"{__name__}.Derived.start (int)" in shared.preview(Derived(2).double)
    assert "functools.partial.keywords['times'] (int)" in shared.preview(
        functools.partial(add_offset, times=2)
    )


def test_an_argument_that_cannot_travel_is_named(shared: Sandbox) -> None:
    frame: Any = sys._getframe()
    with pytest.raises(TransferError, match="argument 2"):
        shared.run(max, 1, frame)
    with pytest.raises(TransferError, match="'each'"):
        shared.run(dict, each=(i for i in range(3)))
    assert shared.run(echo, 5) == 5


# --- out --------------------------------------------------------------------------------------------

VALUES: list[Any] = [
    None, True, 0, -1, 2**64, -(2**5000), 1.5, -0.0, math.inf, "", "é\0\U0001f600", b"", b"\xff" * 9,
    [], [1, [2, [3]]], (), (1, ("a",)), {}, {"a": {1: (None,)}}, {(1, "x"): [2], 3.5: b"", None: 1},
    {1, "a", (2, 3)}, set(), frozenset({1, frozenset()}), 3 - 4j,
    dt.datetime(2024, 2, 29, 1, 2, 3, 4), dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
    dt.date(1, 1, 1), dt.time(23, 59, 59, 999999), dt.timedelta(-1, 2, 3), Decimal("1.10"),
    Fraction(-1, 3), uuid.UUID(int=5), [0] * 20_000, "x" * 300_000, b"y" * 3_000_000,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__}-{value!r:.12}")
def test_values_come_back_as_they_were(shared: Sandbox, value: Any) -> None:
    back = shared.run(echo, value)
    assert type(back) is type(value)
    assert repr(back) == repr(value) if isinstance(value, float | complex) else back == value


def test_nan_comes_back_as_nan(shared: Sandbox) -> None:
    assert math.isnan(shared.run(float, "nan"))


def test_enum_members_come_back_as_their_plain_value(shared: Sandbox) -> None:
    back = shared.run(lambda: [Colour.RED, Level.HIGH])
    assert back == ["red", 3]
    assert [type(each) for each in back] == [str, int]


def test_shared_parts_are_written_out_again(shared: Sandbox) -> None:
    def make() -> list[list[int]]:
        part = [1]
        return [part, part]

    back = shared.run(make)
    assert back == [[1], [1]]
    assert back[0] is not back[1]


def nested_socket() -> Any:
    import socket

    return {"a": [0, 1, 2, socket.socketpair()[0]]}


def cycle() -> Any:
    loop: list[Any] = []
    loop.append([loop])
    return loop


@pytest.mark.parametrize(
    ("guest", "text"),
    [
        (nested_socket, r"result\['a'\]\[3\]: socket"),
        (cycle, r"result\[0\]\[0\]: list .*cycle"),
        (lambda: {"x": object()}, r"result\['x'\]: object"),
        (lambda: (1, Derived(1)), r"result\[1\]: .*\.Derived"),
        (lambda: OrderedDict(a=1), r"result: collections\.OrderedDict"),
        (lambda: Point(1, 2), r"result: .*\.Point"),
        (lambda: {1: lambda: 1}, r"result\[1\]: function"),
    ],
)
def test_anything_else_is_refused_by_type_and_place(
    shared: Sandbox, guest: Callable[[], Any], text: str
) -> None:
    with pytest.raises(ResultError, match=text) as caught:
        shared.run(guest)
    assert caught.value.outcome is not None
    assert caught.value.outcome.status == "result_invalid"


def test_a_large_result_comes_through_memory_once(shared: Sandbox) -> None:
    outcome = shared.call(lambda: bytes(range(256)) * (20 << 12))
    assert outcome.value == bytes(range(256)) * (20 << 12)
    assert outcome.usage.memory_peak is None or outcome.usage.memory_peak >= 20 << 20


@pytest.fixture(scope="module")
def numeric(make_sandbox: Callable[..., Sandbox]) -> Any:
    with make_sandbox(Limits(memory="192M"), preload=["numpy"]) as sandbox:
        yield sandbox


ARRAYS = [
    np.arange(12, dtype=np.int16).reshape(3, 4),
    np.array(2.5),
    np.zeros((0, 3), dtype=bool),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(10)[::-2],
    np.array([1 + 2j], dtype=np.complex64),
    np.array(["2024-01-01"], dtype="datetime64[D]"),
    np.array(["ab", "c"]),
    np.arange(300_000.0),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_arrays_come_back_as_they_were(numeric: Sandbox, array: np.ndarray[Any, Any]) -> None:
    back = numeric.run(echo, array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert np.array_equal(back, array)


@pytest.mark.parametrize("scalar", [np.float64(0.1), np.uint8(200), np.bool_(True), np.int64(-1)])
def test_numpy_scalars_keep_their_type(numeric: Sandbox, scalar: Any) -> None:
    back = numeric.run(echo, scalar)
    assert type(back) is type(scalar)
    assert back == scalar


def test_arrays_of_objects_are_refused(numeric: Sandbox) -> None:
    with pytest.raises(ResultError, match=r"result: numpy\.ndarray .*object"):
        numeric.run(lambda: np.array([object()]))


def test_without_preload_numpy_is_not_there(shared: Sandbox) -> None:
    with pytest.raises(ModuleNotFoundError):
        shared.run(lambda: __import__("numpy").__version__)


# --- exceptions -------------------------------------------------------------------------------------


def raises(kind: type[BaseException], *args: Any) -> None:
    raise kind(*args)


@pytest.mark.parametrize(
    "kind", [ValueError, ZeroDivisionError, KeyError, OSError, RecursionError, FileNotFoundError]
)
def test_a_builtin_exception_is_caught_as_itself(shared: Sandbox, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        shared.run(raises, kind, "why")
    assert isinstance(caught.value, GuestError)
    assert caught.value.type_name == kind.__name__
    assert "why" in caught.value.remote_message
    assert "in raises" in caught.value.remote_traceback
    assert caught.value.outcome is not None
    assert caught.value.outcome.error is not None


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, StopAsyncIteration]
)
def test_what_steers_the_host_is_a_guest_error_only(
    shared: Sandbox, kind: type[BaseException]
) -> None:
    with pytest.raises(GuestError) as caught:
        shared.run(raises, kind)
    assert not isinstance(caught.value, kind)
    assert caught.value.type_name == kind.__name__


def test_the_guests_own_exception_is_only_a_name(shared: Sandbox) -> None:
    with pytest.raises(GuestError) as caught:
        shared.run(raises, OwnError, "mine")
    assert caught.value.type_name == "OwnError"
    assert not isinstance(caught.value, LookupError)


def test_a_chain_of_exceptions_is_told_in_the_traceback(shared: Sandbox) -> None:
    def chain() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    with pytest.raises(ValueError, match="second") as caught:
        shared.run(chain)
    text = getattr(caught.value, "remote_traceback", "")
    assert text.index("KeyError: 'first'") < text.index("direct cause") < text.index("second")


def test_an_error_keeps_its_outcome_on_the_way_to_another_process(shared: Sandbox) -> None:
    def fail() -> None:
        print("so far")
        raise FileNotFoundError("why")

    for guest, kind in ((fail, FileNotFoundError), (lambda: os._exit(3), NonzeroExit)):
        with pytest.raises(SandboxError) as caught:
            shared.run(guest)
        again: Any = pickle.loads(pickle.dumps(caught.value))
        assert isinstance(again, SandboxError)
        assert isinstance(again, kind)
        assert (str(again), again.args) == (str(caught.value), caught.value.args)
        assert caught.value.outcome is not None
        assert vars(again) == vars(caught.value)


def test_notes_and_the_members_of_a_group_are_told_in_the_traceback(shared: Sandbox) -> None:
    def gather() -> None:
        first = ValueError("first")
        first.add_note("a note on the first")
        raise ExceptionGroup("all", [first, KeyError("second")])

    with pytest.raises(ExceptionGroup) as caught:
        shared.run(gather)
    assert isinstance(caught.value, GuestError)
    _, _, *lines = caught.value.remote_traceback.splitlines()
    assert lines == [
        "  | ExceptionGroup: all (2 sub-exceptions)",
        "  +-+---------------- 1 ----------------",
        "    | ValueError: first",
        "    | a note on the first",
        "    +---------------- 2 ----------------",
        "    | KeyError: 'second'",
        "    +------------------------------------",
    ]


def test_the_texts_of_an_exception_are_capped(shared: Sandbox) -> None:
    def long(depth: int) -> None:
        if depth:
            long(depth - 1)
        raise ValueError("x" * 1_000_000)

    error = shared.call(long, 300).error
    assert error is not None
    assert len(error.message) < 1 << 16
    assert len(error.traceback) < 1 << 18


def test_an_exception_whose_text_raises_is_still_told(shared: Sandbox) -> None:
    class Mean(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    error = shared.call(raises, Mean).error
    assert error is not None
    assert error.type_name == "Mean"


def test_ways_to_end_without_an_answer(shared: Sandbox) -> None:
    with pytest.raises(NonzeroExit) as caught:
        shared.run(os._exit, 3)
    assert caught.value.outcome is not None
    assert caught.value.outcome.exit_code == 3
    assert shared.call(os._exit, 0).status == "result_invalid"


# --- what calls share -------------------------------------------------------------------------------


def test_calls_share_files(shared: Sandbox) -> None:
    def write(place: str) -> None:
        with open(f"{place}/note", "w") as file:
            file.write(place)

    def read(place: str) -> str:
        with open(f"{place}/note") as file:
            return file.read()

    for place in ("/work", "/tmp", "/dev/shm"):
        shared.run(write, place)
        assert shared.run(read, place) == place
    assert shared.run(os.getcwd) == "/work"


def test_calls_share_no_state_of_python(shared: Sandbox) -> None:
    def pollute() -> None:
        import builtins
        import json

        builtins.open = json.loads = print  # type: ignore[assignment]
        os.environ["LEFT"] = "behind"
        os.chdir("/tmp")
        os.umask(0o777)
        sys.path.append("/work")
        sys.modules["left_behind"] = json
        sys.setrecursionlimit(50)

    def look() -> list[Any]:
        import json

        umask = os.umask(0)
        return [
            json.loads("[1]"), os.environ.get("LEFT"), os.getcwd(), umask, "/work" in sys.path,
            "left_behind" in sys.modules, sys.getrecursionlimit(), os.getpid() == 1,
        ]  # fmt: skip

    clean = shared.run(look)
    shared.run(pollute)
    assert shared.run(look) == clean


def test_sandboxes_share_no_files(make_sandbox: Callable[..., Sandbox], shared: Sandbox) -> None:
    shared.run(lambda: open("/work/mine", "w").close())
    with make_sandbox() as other:
        assert other.run(os.listdir, "/work") == []


def draw() -> list[Any]:
    return [random.random(), uuid.uuid4(), os.urandom(8), random.SystemRandom().random()]


def test_random_state_is_fresh_in_every_worker(shared: Sandbox) -> None:
    first, second = shared.run(draw), shared.run(draw)
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_a_preloaded_random_is_fresh_in_every_worker(make_sandbox: Callable[..., Sandbox]) -> None:
    with make_sandbox(preload=["random", "uuid"]) as sandbox:
        first, second = sandbox.run(draw), sandbox.run(draw)
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_a_preloaded_modules_signal_handler_is_not_inits(
    make_sandbox: Callable[..., Sandbox], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one it would be sent signals, also by guests before Linux 6.12, and be interrupted."""
    (tmp_path / "handles.py").write_text(
        "import signal\nsignal.signal(signal.SIGUSR1, lambda *arguments: None)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def attempt() -> bool:
        for _ in range(100):
            try:
                os.kill(1, signal.SIGUSR1)
            except PermissionError:
                pass
        return bool(signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL)

    with make_sandbox(preload=["handles"]) as sandbox:
        assert sandbox.run(attempt)
        assert sandbox._jail is not None
        init = sandbox._jail.pid
        with open(f"/proc/{init}/status") as file:
            caught = next(line for line in file if line.startswith("SigCgt:"))
        assert int(caught.split()[1], 16) == 0


def test_numpys_global_random_state_is_fresh_in_every_worker(numeric: Sandbox) -> None:
    def draw_numpy() -> float:
        return float(np.random.random())

    assert numeric.run(draw_numpy) != numeric.run(draw_numpy)


def test_the_environment_is_what_was_asked_for(make_sandbox: Callable[..., Sandbox]) -> None:
    with make_sandbox(env={"GREETING": "hello", "LANG": "C"}) as sandbox:
        seen = sandbox.run(lambda: dict(os.environ))
    assert seen.pop("GREETING") == "hello"
    assert seen.pop("LANG") == "C"
    documented = {"PATH", "HOME", "TMPDIR"} | {
        f"{n}_NUM_THREADS" for n in ("OPENBLAS", "OMP", "MKL")
    }
    assert set(seen) == documented


def test_a_jail_outlives_the_template_of_its_root(make_sandbox: Callable[..., Sandbox]) -> None:
    """The launcher keeps the templates of the last 32 kinds of sandbox; jails of older ones live on."""
    with make_sandbox() as sandbox:
        before = sandbox.run(os.listdir, "/dev"), sandbox.run(os.listdir, "/etc")
        assert all(before)
        for number in range(33):
            with make_sandbox(Limits(inodes=100 + number)):
                pass
        assert (sandbox.run(os.listdir, "/dev"), sandbox.run(os.listdir, "/etc")) == before
        assert sandbox.run(len, "abc") == 3
