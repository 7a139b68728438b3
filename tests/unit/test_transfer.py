"""What `dump_call` packs, `load_call` rebuilds in a clean interpreter, where nothing of the
application or of this suite can be found by accident."""

from __future__ import annotations

import abc
import asyncio
import collections
import contextlib
import dis
import enum
import functools
import importlib
import importlib.util
import itertools
import json
import marshal
import operator
import os
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import types
import xml
import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, NewType, ParamSpec, TypeVar

import cloudpickle
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import _transfer
from sandbox._code_reads import global_reads
from sandbox._errors import TransferError
from sandbox._lister import Lister
from sandbox._packer import Packer
from sandbox._transfer import Cargo, dump_call, preview
from sandbox._visible import Visible

ROOT = str(Path(__file__).resolve().parents[2])
NOTHING = Visible()
NUMPY = Visible.of(["numpy"])

# Runs every call it is sent and answers with its result, as marshal writes it, or the error's name.
CHILD = """
import sys
sys.path[:0] = sys.argv[1:]
import marshal, os, worker.transfer
sys.path.remove(sys.argv[1])
before = set(sys.modules)
source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
while size := source.read(8):
    try:
        function, args, kwargs = worker.transfer.load_call(source.read(int.from_bytes(size)))
        answer = True, function(*args, **kwargs)
    except Exception as error:
        answer = False, f"{type(error).__name__}: {error}"
    data = marshal.dumps((answer, sorted(set(sys.modules) - before)))
    target.write(len(data).to_bytes(8) + data)
    target.flush()
"""


class Jail:
    """A clean interpreter that sees this repository's `worker` and the named folders only."""

    def __init__(self, *folders: str) -> None:
        command = [sys.executable, "-I", "-S", "-B", "-c", CHILD, ROOT, *folders]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.modules: set[str] = set()

    def run(self, payload: bytes) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(len(payload).to_bytes(8) + payload)
        self.process.stdin.flush()
        size = int.from_bytes(self.process.stdout.read(8))
        (ok, value), modules = marshal.loads(self.process.stdout.read(size))
        self.modules = set(modules)
        if not ok:
            raise RuntimeError(value)
        return value

    def close(self) -> None:
        self.process.communicate()


@contextlib.contextmanager
def jail(*folders: str) -> Iterator[Jail]:
    child = Jail(*folders)
    try:
        yield child
    finally:
        child.close()


def library(name: str) -> str:
    spec = importlib.util.find_spec(name)
    assert spec
    assert spec.origin
    return str(Path(spec.origin).parents[1])


def inside(fn: Callable[..., Any], *args: object, **kwargs: object) -> Any:
    """The result from a jail without cloudpickle: the call must not need it."""
    cargo = dump_call(fn, args, kwargs, visible=NOTHING)
    assert not cargo.needs_cloudpickle
    with jail() as child:
        return child.run(cargo.payload)


def inside_with_cloudpickle(fn: Callable[..., Any], *args: object, **kwargs: object) -> Any:
    cargo = dump_call(fn, args, kwargs, visible=NOTHING)
    assert cargo.needs_cloudpickle
    with jail(library("cloudpickle")) as child:
        return child.run(cargo.payload)


# --- plain functions ---------------------------------------------------------------------------

SCALE = 10
SECRET = "never referenced"


def add(a: int, b: int = 2, *, c: int = 3) -> int:
    """Adds."""
    return a + b + c


def scaled(x: int) -> int:
    return SCALE * x


def factorial(n: int) -> int:
    return n * factorial(n - 1) if n else 1


def even(n: int) -> bool:
    return n == 0 or odd(n - 1)


def odd(n: int) -> bool:
    return n != 0 and even(n - 1)


@functools.lru_cache(maxsize=7)
def fibonacci(n: int) -> int:
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def twice(function: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(function)
    def wrapper(*args: int) -> int:
        return 2 * function(*args)

    return wrapper


@twice
def decorated(x: int) -> int:
    return x + 1


@contextlib.contextmanager
def entered(value: int) -> Iterator[int]:
    yield value + 1


def uses_context() -> int:
    with entered(4) as value:
        return value


counter = 0


def bump() -> None:
    global counter
    counter += 1


def bumped() -> int:
    bump()
    bump()
    return counter


def shared_cell() -> tuple[Callable[[], None], Callable[[], int]]:
    count = 0

    def up() -> None:
        nonlocal count
        count += 1

    def read() -> int:
        return count

    return up, read


def generate(n: int) -> Iterator[int]:
    yield from range(n * SCALE)


async def waits() -> int:
    await asyncio.sleep(0)
    return SCALE


def class_body_reads_a_global() -> int:
    class Local:
        value = SCALE + 1

    return Local.value


add_one = functools.partial(add, 1)


def uses_partial() -> int:
    return add_one() if add_one.func is add else -1


looping: Any = functools.partial(lambda: looping.args == (), *())


def test_plain_functions_need_no_cloudpickle() -> None:
    assert inside(add, 1) == 6
    assert inside(add, 1, 1, c=1) == 3
    assert inside(scaled, 4) == 40
    assert inside(factorial, 5) == 120
    assert inside(even, 10) is True
    assert inside(lambda x: x + SCALE, 1) == 11
    assert inside(class_body_reads_a_global) == 11


def test_decorated_functions() -> None:
    assert inside(decorated, 1) == 4
    assert inside(uses_context) == 5
    assert inside(fibonacci, 30) == 832040
    assert inside(lambda: fibonacci.cache_info().maxsize) == 7
    assert inside(lambda: fibonacci.__wrapped__.__name__) == "fibonacci"
    fibonacci.note = "kept"  # type: ignore[attr-defined]
    assert inside(lambda: fibonacci.note) == "kept"  # type: ignore[attr-defined]


def test_what_reaches_itself_is_one_object_inside() -> None:
    def misses() -> list[int]:
        return [fibonacci(6), fibonacci.cache_info().misses]

    assert inside(misses) == [8, 7]
    assert inside(lambda f: f.func.__globals__["looping"] is f, looping) is True

    def itself() -> Any:
        return itself

    assert inside(lambda f: f() is f, itself) is True


def test_partials_and_methods() -> None:
    assert inside(functools.partial(add, 1, c=0)) == 3
    assert inside(uses_partial) == 6
    assert inside(looping) is True
    assert inside("a-b".split, "-") == ["a", "b"]
    assert inside(len, [1, 2]) == 2
    assert inside(json.dumps, {"a": 1}) == '{"a": 1}'


def test_globals_are_shared_within_a_call() -> None:
    assert inside(bumped) == 2
    assert counter == 0


def test_a_closure_variable_is_shared_by_its_functions() -> None:
    up, read = shared_cell()

    def both() -> int:
        up()
        up()
        return read()

    assert inside(both) == 2


def test_a_closure_that_holds_itself_and_one_not_bound_yet() -> None:
    def countdown(n: int) -> int:
        return countdown(n - 1) if n else unbound()

    assert inside(lambda: countdown.__code__.co_name) == "countdown"

    def unbound() -> int:
        return SCALE

    assert inside(countdown, 3) == 10


def test_generators_and_coroutines() -> None:
    assert inside(lambda: sum(generate(1))) == 45
    assert inside(lambda: asyncio.run(waits())) == 10


def test_attributes_of_functions_travel() -> None:
    def marked(x: int, y: list[int], z: Jail, *, k: int | None = None) -> str:
        "Says."
        return ""

    marked.tag = [1]  # type: ignore[attr-defined]
    marked.__qualname__, marked.__module__ = "renamed", "elsewhere"
    described = inside(
        lambda f: [f.tag, f.__name__, f.__qualname__, f.__module__, f.__doc__, f.__kwdefaults__],
        marked,
    )
    assert described == [[1], "marked", "renamed", "elsewhere", "Says.", {"k": None}]


def annotated(x: int, y: Any, z: Any, *, k: Any = None) -> None: ...


def test_annotations_pull_in_nothing() -> None:
    annotated.__annotations__.update(
        x=int, y=list[int], z=Jail, k=int | None, **{"return": collections.OrderedDict[str, int]}
    )
    text = inside(
        lambda f: {name: str(kind) for name, kind in f.__annotations__.items()}, annotated
    )
    name = f"{__name__}.Jail"
    assert text == {"x": "<class 'int'>", "y": "list[int]", "z": name, "k": "int | None"}


def test_the_modules_name_stays_and_main_is_not_touched() -> None:
    assert inside(lambda: __name__) == __name__
    assert inside(lambda f: f.__module__, add) == __name__


def test_submodules_reached_through_their_package_are_imported() -> None:
    def tag() -> str:
        return xml.etree.ElementTree.fromstring("<a/>").tag

    assert inside(tag) == "a"
    assert inside(lambda: (lambda: xml.etree.ElementTree.fromstring("<b/>").tag)()) == "b"


# --- what needs cloudpickle --------------------------------------------------------------------


class Base(abc.ABC):
    KEY = "class attribute"

    @abc.abstractmethod
    def name(self) -> str: ...

    @property
    def upper(self) -> str:
        return self.name().upper()


class Child(Base):
    def __init__(self, value: str) -> None:
        super().__init__()
        self.value = value

    def name(self) -> str:
        return self.value + str(SCALE)

    @classmethod
    def make(cls) -> Child:
        return cls("made")

    @staticmethod
    def fixed() -> int:
        return SCALE

    @functools.cached_property
    def cached(self) -> str:
        return self.name() * 2

    def again(self) -> Child:
        return Child(self.value)


class Restores:
    """Runs its own code, which reads a global, while the pickle is still being read."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return restore, (self.value,)


def restore(value: int) -> Restores:
    return Restores(value * SCALE)


kept = Restores(3)


def reads_kept() -> int:
    return kept.value + SCALE


@dataclass(frozen=True)
class Point:
    x: int
    tags: list[str] = field(default_factory=list)


class Colour(enum.Enum):
    RED = 1

    def label(self) -> str:
        return self.name.lower()


class Pair(NamedTuple):
    left: int
    right: int = SCALE


def test_classes_by_value() -> None:
    assert inside_with_cloudpickle(lambda: Child("a").upper) == "A10"
    assert inside_with_cloudpickle(Child("b").name) == "b10"
    assert inside_with_cloudpickle(lambda c: c.again().cached, Child("c")) == "c10c10"
    assert inside_with_cloudpickle(Child.make().name) == "made10"
    assert inside_with_cloudpickle(lambda: [Child.fixed(), isinstance(Child("x"), Base)]) == [
        10,
        True,
    ]


def test_dataclasses_enums_and_named_tuples() -> None:
    import dataclasses

    assert inside_with_cloudpickle(lambda: Point(1) == Point(1, [])) is True
    assert inside_with_cloudpickle(lambda p: dataclasses.replace(p, x=5).x, Point(1)) == 5
    missing = dataclasses.MISSING
    assert inside_with_cloudpickle(lambda: dataclasses.fields(Point)[0].default is missing) is True
    assert inside_with_cloudpickle(lambda c: [c is Colour.RED, c.label()], Colour.RED) == [
        True,
        "red",
    ]
    assert inside_with_cloudpickle(lambda p: p.left + p.right, Pair(1)) == 11


def test_code_that_runs_while_the_pickle_is_read_has_its_globals() -> None:
    assert inside_with_cloudpickle(reads_kept) == 40


T = TypeVar("T")
P = ParamSpec("P")
UserId = NewType("UserId", int)


class Stack(Generic[T]):
    def __init__(self) -> None:
        self.items: list[T] = []

    def push(self, item: T) -> list[T]:
        self.items.append(item)
        return self.items


class Takes(Generic[P]):
    name = "takes"


PEP_695 = """
class Boxed[T]:
    def keep(self, item: T) -> T:
        return item
type Alias = list[int]
def same[T](item: T) -> T:
    return item
"""


def test_type_variables_and_new_types() -> None:
    assert inside_with_cloudpickle(lambda: Stack[int]().push(1)) == [1]
    assert inside_with_cloudpickle(lambda: Takes.name) == "takes"
    assert inside(lambda: UserId(5)) == 5
    if sys.version_info >= (3, 12):
        made: dict[str, Any] = {"__name__": __name__}
        exec(PEP_695, made)
        boxed, alias = made["Boxed"], made["Alias"]
        assert inside_with_cloudpickle(lambda: boxed().keep(4)) == 4
        assert inside(lambda: str(alias.__value__)) == "list[int]"
        assert inside(made["same"], 3) == 3


def test_numpy_goes_by_name() -> None:
    def total(values: Any) -> float:
        return float(numpy.sin(values).sum() + numpy.linalg.norm(values))

    cargo = dump_call(total, (numpy.zeros(3),), {}, visible=NUMPY)
    assert not cargo.needs_cloudpickle
    with jail(*NUMPY.sys_path) as child:
        assert child.run(cargo.payload) == 0.0
        assert child.run(dump_call(numpy.all, ([1, 2],), {}, visible=NUMPY).payload) == b"\1"
        assert numpy.add.__name__ == child.run(
            dump_call(getattr, (numpy.add, "__name__"), {}, visible=NUMPY).payload
        )
    assert dump_call(numpy.sum, ([1],), {}, visible=NUMPY).by_value == ()


# --- what is refused ---------------------------------------------------------------------------

lock = threading.Lock()


def locked() -> None:
    lock.acquire()


def calls_locked() -> None:
    locked()


class Holds:
    def __init__(self, thing: object) -> None:
        self.thing = thing


def refusal(fn: Callable[..., Any], *args: object, cap: int = 1 << 20, **kwargs: object) -> str:
    with pytest.raises(TransferError) as caught:
        dump_call(fn, args, kwargs, visible=NOTHING, cap=cap)
    return str(caught.value)


def test_errors_name_the_argument() -> None:
    with socket.socket() as end:
        assert refusal(len, 1, end).startswith("argument 2 (socket.socket) cannot travel")
        assert refusal(len, x=end).startswith("keyword argument 'x' (socket.socket)")
        deep = [0, {"k": [Holds(end)]}]
        assert refusal(len, deep).startswith("argument 1[1]['k'][0].thing (socket.socket)")
        late = [[number] for number in range(10_000)] + [[end]]
        assert refusal(len, late).startswith("argument 1[10000][0] (socket.socket)")
    assert "generator" in refusal(len, (x for x in ""))


def test_errors_name_the_global() -> None:
    assert refusal(locked).startswith("the function's global 'lock' (_thread.lock) cannot travel")
    text = refusal(calls_locked)
    assert text.startswith("the function's global 'locked', its global 'lock' (_thread.lock)")
    held = threading.Lock()
    assert "the function's closure variable 'held' (_thread.lock)" in refusal(lambda: held)
    assert "default of 'x' (_thread.lock)" in refusal(lambda x=held: x)

    class Local:
        def method(self) -> None:
            lock.acquire()

    assert "argument 1, its class, its attribute 'method', its global 'lock'" in refusal(
        len, Local()
    )


def test_a_module_that_is_not_visible_is_refused_by_name() -> None:
    text = refusal(lambda: _transfer.dump_call)
    assert text.startswith("the function's global '_transfer' (module) cannot travel")
    assert "module 'sandbox._transfer' is not visible inside" in text
    assert "preload" in text
    assert "mount" in text
    made = types.ModuleType("json")
    made.token = "secret"  # type: ignore[attr-defined]
    assert "module 'json' is not visible" in refusal(lambda: made)


def test_compiled_code_that_is_not_visible_is_refused_by_name() -> None:
    for thing in (numpy.zeros(1), numpy.ndarray, numpy.sin, numpy.array, numpy.float64(1)):
        text = refusal(len, thing)
        assert text.startswith("argument 1 (")
        assert "Sandbox(preload=['numpy'])" in text

    class Mine(numpy.ndarray[Any, Any]):
        pass

    assert "Sandbox(preload=['numpy'])" in refusal(Mine)


def test_what_cannot_be_called_or_is_too_deep() -> None:
    with pytest.raises(TransferError, match="int is not callable"):
        dump_call(3, (), {}, visible=NOTHING)  # type: ignore[arg-type]
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert "recursion" in refusal(len, deep)


def test_an_error_of_the_applications_own_class_is_told() -> None:
    class Broken:
        def __reduce__(self) -> str:
            raise LookupError("no state today")

    assert "argument 1 (" in refusal(len, Broken())
    assert "no state today" in refusal(len, Broken())


def test_the_size_is_capped() -> None:
    cap = 100_000
    assert "argument 2 (bytes)" in refusal(max, b"", bytes(cap + 1), cap=cap)
    assert "argument 1 (bytearray)" in refusal(max, bytearray(cap + 1), cap=cap)
    assert "takes more than 100000 bytes" in refusal(max, *[bytes(9999)] * 1, "x" * cap, cap=cap)
    halves = [bytes(60_000), bytearray(60_000)]
    assert "argument 1 (list)" in refusal(max, halves, cap=cap)
    assert refusal(max, *halves, cap=cap).startswith("the call cannot travel")
    assert len(dump_call(max, (bytes(cap - 1000),), {}, visible=NOTHING, cap=cap).payload) <= cap


def test_another_pythons_payload_is_refused() -> None:
    payload = bytearray(dump_call(add, (1,), {}, visible=NOTHING).payload)
    payload[5] ^= 1
    with jail() as child, pytest.raises(RuntimeError, match="packed for another Python"):
        child.run(bytes(payload))


def test_what_is_missing_inside_is_an_ordinary_error() -> None:
    payload = dump_call(numpy.sum, ([1],), {}, visible=NUMPY).payload
    with jail() as child, pytest.raises(RuntimeError, match=r"ModuleNotFoundError: .*'numpy'"):
        child.run(payload)


# --- what is carried, and that nothing else is ------------------------------------------------

APPLICATION = """
    import functools, os
    API_KEY = "key-1234567"
    UNUSED = "unused-1234567"
    LIMIT = 3
    def parse(text, sep=","):
        return clean(text.split(sep))[:LIMIT]
    def clean(words):
        return [word.strip() for word in words]
    def signs():
        return API_KEY
    def make(key):
        def inner():
            return key
        return inner
    class Model:
        TABLE = "models-1234567"
        def name(self):
            return os.path.basename("a/b") + str(LIMIT)
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    package = tmp_path / "application"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helpers.py").write_text(textwrap.dedent(APPLICATION))
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("application.helpers")
    sys.modules.pop("application.helpers")
    sys.modules.pop("application")


def test_only_what_is_read_travels(app: Any) -> None:
    cargo = dump_call(app.parse, ("a, b",), {}, visible=NOTHING)
    for secret in (b"key-1234567", b"unused-1234567", b"models-1234567"):
        assert secret not in cargo.payload
    assert b"key-1234567" in dump_call(app.signs, (), {}, visible=NOTHING).payload
    with jail() as child:
        assert child.run(cargo.payload) == ["a", "b"]
        assert "application" not in child.modules
    assert SECRET.encode() not in dump_call(scaled, (1,), {}, visible=NOTHING).payload


def test_preview_lists_what_travels_by_value(app: Any) -> None:
    assert preview(app.parse, ("a",), visible=NOTHING) == (
        "application.helpers.LIMIT (int)",
        "application.helpers.clean (function)",
        "application.helpers.parse (function)",
        "application.helpers.parse(sep) (str)",
    )
    assert preview(app.signs, visible=NOTHING) == (
        "application.helpers.API_KEY (str)",
        "application.helpers.signs (function)",
    )
    assert preview(app.make("k"), visible=NOTHING) == (
        "application.helpers.make.<locals>.inner (function)",
        "application.helpers.make.<locals>.key (str)",
    )
    assert preview(len, (app.Model(),), visible=NOTHING) == (
        "application.helpers.LIMIT (int)",
        "application.helpers.Model (class)",
        "application.helpers.Model (instance)",
        "application.helpers.Model.TABLE (str)",
        "application.helpers.Model.name (function)",
    )
    assert preview(app.parse, visible=Visible.of(["application"])) == ()


class Client:
    __realm__ = "realm-1234567"

    def __init__(self, token: str) -> None:
        self.token = token
        self.log = functools.partial(print, token, end="")

    def __call__(self) -> int:
        return len(self.token)

    def go(self) -> int:
        return self()


class Slotted:
    __slots__ = ("other", "token")

    def __init__(self) -> None:
        self.token = "x"

    def __call__(self) -> str:
        return self.token


class Choosy(Client):
    def __getstate__(self) -> dict[str, Any]:
        return {"chosen": len(self.token)}


class Account(NamedTuple):
    user: str
    token: str

    def __call__(self) -> str:
        return self.user


@functools.cache
def remembers() -> int:
    return 1


vars(remembers)["token"] = "x"
CLIENT = Client("global")


def uses_client(first: int = 1, *, client: Client = CLIENT) -> Any:
    return CLIENT.go(), client, first


CLIENT_ENTRIES = {
    f"{__name__}.Client (class)",
    f"{__name__}.Client (instance)",
    f"{__name__}.Client.__realm__ (str)",
    f"{__name__}.Client.token (str)",
    f"{__name__}.Client.log (partial)",
    "functools.partial (2 arguments)",
    "functools.partial.args[0] (str)",
    "functools.partial.keywords['end'] (str)",
}


@pytest.mark.parametrize(
    ("function", "entries"),
    [
        (Client("t"), CLIENT_ENTRIES),
        (Client("t").go, {*CLIENT_ENTRIES, f"{__name__}.Client.go.__self__ (Client)"}),
        (uses_client, {*CLIENT_ENTRIES, f"{__name__}.CLIENT (Client)"}),
        (
            uses_client,
            {f"{__name__}.uses_client({name})" for name in ("first) (int", "client) (Client")},
        ),
        (Slotted(), {f"{__name__}.Slotted (instance)", f"{__name__}.Slotted.token (str)"}),
        (Choosy("t"), {f"{__name__}.Choosy (instance)", f"{__name__}.Choosy.chosen (int)"}),
        (Account("u", "t"), {f"{__name__}.Account.{name} (str)" for name in ("user", "token")}),
        (remembers, {f"{__name__}.remembers.token (str)"}),
        (types.MethodType(uses_client, "t"), {f"{__name__}.uses_client.__self__ (str)"}),
        (types.SimpleNamespace(token="t").__repr__, {"types.SimpleNamespace.token (str)"}),
    ],
)
def test_preview_lists_what_goes_with_other_callables(
    function: Callable[..., object], entries: set[str]
) -> None:
    listed = preview(function, visible=NOTHING)
    assert entries <= set(listed)
    assert not any("1234567" in entry for entry in listed)


@pytest.mark.parametrize(
    ("function", "entries"),
    [
        (
            functools.partial(print, "t"),
            ("functools.partial (1 argument)", "functools.partial.args[0] (str)"),
        ),
        ("{t}".format, ("str.format.__self__ (str)",)),
        (["t"].append, ("list.append.__self__ (list)",)),
        ("t".__add__, ("str.__add__.__self__ (str)",)),
        (operator.methodcaller("go", "t"), ("operator.methodcaller (instance)",)),
        (functools.partial, ()),
        (str.upper, ()),
        (dict.fromkeys, ()),
        (os.path.join, ()),
        (numpy.add, ()),
    ],
)
def test_preview_lists_nothing_that_goes_by_name(
    function: Callable[..., object], entries: tuple[str, ...]
) -> None:
    assert preview(function, visible=NUMPY) == entries


def test_preview_leaves_out_attributes_that_do_not_travel() -> None:
    assert f"{__name__}.Choosy.token (str)" not in preview(Choosy("t"), visible=NOTHING)


def test_preview_packs_what_a_call_packs(app: Any) -> None:
    """The state of an instance is asked for once, and what is listed is what is sent."""

    class Counting:
        asked = 0

        def __reduce__(self) -> Any:
            type(self).asked += 1
            return (list, ())

        def __call__(self) -> None:
            pass

    assert f"{__name__}.{Counting.__qualname__} (instance)" in preview(Counting(), visible=NOTHING)
    assert Counting.asked == 1
    packed = [
        dump_call(Client("t").go, (), {}, visible=NOTHING, packing=packing).payload
        for packing in (Packer, Lister)
    ]
    assert packed[0] == packed[1]


def test_a_visible_modules_own_globals_stay_there() -> None:
    """A closure made by the standard library has its module's globals, and brings no copies."""
    assert inside(lambda f: f.__globals__ is vars(contextlib), entered) is True
    assert f"{__name__}.entered (function)" in preview(entered, visible=NOTHING)
    assert not any("contextlib" in name for name in preview(entered, visible=NOTHING))


@pytest.mark.parametrize("start", [["-m", "runnable"], ["runnable/__main__.py"]])
def test_main_goes_by_value_however_it_was_started(tmp_path: Path, start: list[str]) -> None:
    package = tmp_path / "runnable"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(
        textwrap.dedent("""
        import sys
        from sandbox._transfer import dump_call
        from sandbox._visible import Visible
        FACTOR = 6
        def times(x):
            return [FACTOR * x, __name__]
        cargo = dump_call(times, (7,), {}, visible=Visible())
        assert cargo.by_value == ("__main__.FACTOR (int)", "__main__.times (function)")
        sys.stdout.buffer.write(cargo.payload)
        """)
    )
    search = os.pathsep.join([ROOT, library("cloudpickle")])
    done = subprocess.run(
        [sys.executable, "-B", *start],
        cwd=tmp_path,
        env={"PYTHONPATH": search},
        check=True,
        capture_output=True,
    )
    with jail() as child:
        assert child.run(done.stdout) == [42, "__main__"]


def test_threads_pack_at_once() -> None:
    ready = threading.Barrier(4)

    def pack(number: int) -> list[Cargo]:
        ready.wait()
        return [
            dump_call(lambda: [scaled(number), Point(number).x], (), {}, visible=NOTHING)
            for _ in range(50)
        ]

    with ThreadPoolExecutor(4) as pool:
        cargoes = list(pool.map(pack, range(4)))
    with jail(library("cloudpickle")) as child:
        for number, packed in enumerate(cargoes):
            for cargo in packed:
                assert child.run(cargo.payload) == [10 * number, number]


def test_the_jail_loads_little() -> None:
    """Neither pickle nor what it imports: every fork of the launcher would pay for it."""
    command = "import sys; sys.path[:0] = sys.argv[1:]; import worker.transfer; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", command, ROOT], check=True, capture_output=True
    )
    loaded = set(done.stdout.decode().split())
    assert not loaded & {"pickle", "re", "enum", "struct", "typing", "logging", "threading"}
    assert "sandbox" not in loaded


# --- properties --------------------------------------------------------------------------------

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.frozensets(st.integers())
    ),
)


def test_any_plain_value_arrives_everywhere_it_can_stand() -> None:
    with jail() as child:

        @settings(max_examples=60, deadline=None)
        @given(plain, plain, plain, plain)
        def check(argument: Any, default: Any, closed: Any, keyword: Any) -> None:
            def gather(a: Any, d: Any = default, *, k: Any) -> Any:
                return [a, d, closed, k]

            payload = dump_call(gather, (argument,), {"k": keyword}, visible=NOTHING).payload
            assert child.run(payload) == [argument, default, closed, keyword]

        check()


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def test_the_reader_of_bytecode_agrees_with_dis() -> None:
    """Over real modules, some with more names than fit one byte of an argument."""
    operations = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "DELETE_GLOBAL"}
    wide = "\n".join(f"n{number} = n{number + 1}" for number in range(70_000 // 100))
    sources = [wide] + [
        Path(str(module.__file__)).read_text() for module in (dis, functools, socket, struct, enum)
    ]
    for source, code in itertools.chain.from_iterable(
        ((source, code) for code in codes(compile(source, "<source>", "exec")))
        for source in sources
    ):
        expected = {i.argval for i in dis.get_instructions(code) if i.opname in operations}
        assert set(global_reads(code)) == expected, source[:80]


def test_cloudpickle_is_the_version_whose_internals_are_used() -> None:
    assert cloudpickle.__version__.startswith("3.")
