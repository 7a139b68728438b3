"""How a call travels in: one pickle of the function and its arguments, read only inside the jail.

What the guest can import goes by name. Functions and classes it cannot import go by value, each
with only those globals and closure variables that its code reads; modules never do, for with a
module would go whatever else the application keeps in it.

Plain functions are taken apart for the constructors in worker/transfer.py, which need nothing but
the standard library. For all else, classes above all, cloudpickle's reducers are used. They are
internals of it (`_dynamic_class_reduce`, `_dispatch_table`, `_BUILTIN_TYPE_NAMES` and others),
which is why the project pins it below 4.
"""

from __future__ import annotations

import builtins
import copyreg
import dataclasses
import functools
import io
import marshal
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import MAGIC_NUMBER
from opcode import opmap
from typing import Any

from cloudpickle import cloudpickle

from ._errors import TransferError
from ._visible import Visible

_HEADER = b"call\x01" + MAGIC_NUMBER
_CAP = 64 << 20


@dataclasses.dataclass(frozen=True)
class Cargo:
    """A packed call.

    Attributes:
        payload: for `load_call` inside the jail; never to be unpickled on the host.
        needs_cloudpickle: whether reading it imports cloudpickle.
        by_value: names of what goes by value; see `preview`.
    """

    payload: bytes
    needs_cloudpickle: bool
    by_value: tuple[str, ...]


def dump_call(
    fn: Callable[..., object],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    *,
    visible: Visible,
    cap: int = _CAP,
) -> Cargo:
    """Pack `fn(*args, **kwargs)` for a guest that sees `visible`; `cap` bounds the bytes it takes.

    Annotations go along where they are made of builtins; other classes in them become their names
    and the rest is left out, so that they pull in nothing. Names a function looks up by other means
    than its code (`globals()["x"]`, `eval`) do not travel.

    Raises:
        TransferError: something cannot travel, with its name, the reason and what to do.
    """
    if not callable(fn):
        raise TransferError(f"the function: {_kind(fn)} is not callable")
    try:
        return _pack((fn, tuple(args), dict(kwargs)), visible, cap)
    except MemoryError:
        raise
    except Exception as error:
        where, reason = _blame(fn, args, kwargs, error, lambda value: _failure(value, visible, cap))
        raise TransferError(f"{where} cannot travel into the jail: {reason}") from error


def preview(
    fn: Callable[..., object],
    args: Sequence[object] = (),
    kwargs: Mapping[str, object] | None = None,
    *,
    visible: Visible,
    cap: int = _CAP,
) -> tuple[str, ...]:
    """What would go by value if this were called: functions and classes, and the globals, closure
    variables, defaults and attributes that go with them, each as `module.name (type)`, sorted. It
    packs the call as `dump_call` does, and raises like it.
    """
    return dump_call(fn, args, kwargs or {}, visible=visible, cap=cap).by_value


def _pack(value: object, visible: Visible, cap: int) -> Cargo:
    sink = _Sink(cap)
    sink.write(_HEADER)
    packer = _Packer(sink, visible)
    packer.dump(value)
    return Cargo(sink.getvalue(), packer.needs_cloudpickle, tuple(sorted(packer.by_value)))


def _failure(value: object, visible: Visible, cap: int) -> Exception | None:
    try:
        _pack(value, visible, cap)
    except Exception as error:
        return error
    return None


class _Refused(Exception):
    """Something that is not to travel, with the reason."""


class _Sink(io.BytesIO):
    """Takes what the pickler writes, which it does every 64 KiB, up to `cap` bytes."""

    def __init__(self, cap: int) -> None:
        super().__init__()
        self._cap = cap

    def write(self, data: Any, /) -> int:
        if self.tell() + memoryview(data).nbytes > self._cap:
            raise _Refused(f"packed, it takes more than {self._cap} bytes")
        return super().write(data)


class _Inside:
    """A constructor of worker/transfer.py. The pickle names it as an attribute of this module; the
    jail's unpickler maps that name to its own function, and this module is not in there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: object) -> object:
        raise TypeError(f"{self.name} exists only inside the jail")


load_code = _Inside("load_code")
make_globals = _Inside("make_globals")
import_module = _Inside("import_module")
module_globals = _Inside("module_globals")
make_cell = _Inside("make_cell")
fill_cell = _Inside("fill_cell")
make_function = _Inside("make_function")
fill_function = _Inside("fill_function")
make_cached = _Inside("make_cached")
fill_cached = _Inside("fill_cached")
builtin_type = _Inside("builtin_type")


class _Space:
    """Stands for the globals of one module: one dict inside for all functions that share it."""

    def __init__(self, reduced: tuple[object, ...], by_name: bool) -> None:
        self.reduced = reduced
        self.by_name = by_name


class _Packer(cloudpickle.Pickler):  # type: ignore[misc]
    """One for each call, so threads share nothing.

    A function may be reached again from its own closure before it is made, a cached function from
    its globals. The pickler then writes it twice, and one of them is kept (CPython issue 12687).
    """

    # The process's own table, which the C pickler reads fast; cloudpickle's stands in _REDUCERS.
    dispatch_table = copyreg.dispatch_table

    def __init__(self, sink: _Sink, visible: Visible) -> None:
        super().__init__(sink, protocol=5)
        self.needs_cloudpickle = False
        self.by_value: set[str] = set()
        self._visible = visible
        self._known: set[type] = set()
        # By identity: the pickler's memo keeps each function, and so its globals, until it is done.
        self._spaces: dict[int, _Space] = {}

    def reducer_override(self, thing: Any) -> Any:
        kind = type(thing)
        reducer = _REDUCERS.get(kind)
        if reducer is not None:
            return reducer(self, thing)
        if issubclass(kind, type):
            return self._reduce_class(thing)
        if kind not in self._known:
            return self._reduce_instance(thing, kind)
        return NotImplemented

    def _by_name(self, thing: Any) -> bool:
        if str(getattr(thing, "__module__", "")).partition(".")[0] == "cloudpickle":
            self.needs_cloudpickle = True
            return True
        return self._visible.finds(thing)

    def _reduce_instance(self, thing: Any, kind: type) -> Any:
        if isinstance(thing, types.ModuleType):
            return self._reduce_module(thing)
        if not _native(kind) or self._visible.sees(kind.__module__):
            self._known.add(kind)
            return NotImplemented
        # A compiler of extensions (Cython) keeps the type of functions in a module of its own.
        return self._need_visible(getattr(thing, "__module__", None) or kind.__module__, kind)

    def _need_visible(self, module: object, thing: Any) -> Any:
        if isinstance(module, str) and self._visible.sees(module):
            return NotImplemented
        raise _Refused(
            f"{module}.{thing.__qualname__} is compiled code of a module that is not visible "
            f"inside; {_preload(str(module))}"
        )

    def _reduce_module(self, module: types.ModuleType) -> Any:
        name = module.__name__
        if sys.modules.get(name) is module and self._visible.sees(name):
            return import_module, (name,)
        raise _Refused(
            f"module {name!r} is not visible inside and modules never travel whole; "
            f"{_preload(name)}, mount its folder and import it inside the function, or import only "
            f"what the function uses (`from {name} import ...`)"
        )

    def _reduce_class(self, cls: Any) -> Any:
        if self._by_name(cls):
            return NotImplemented
        name = cloudpickle._BUILTIN_TYPE_NAMES.get(cls)
        if name is not None:
            return builtin_type, (name,)
        if _native(cls):
            # Of a visible module: pickle's own message says that it is not found there.
            return self._need_visible(cls.__module__, cls)
        place = f"{cls.__module__}.{cls.__qualname__}"
        self.by_value.add(f"{place} (class)")
        for key, value in vars(cls).items():
            if not key.startswith("__") and not hasattr(type(value), "__get__"):
                self._list(f"{place}.{key}", value)
        return cloudpickle._dynamic_class_reduce(cls)

    def _reduce_builtin(self, function: Any) -> Any:
        owner = function.__self__
        if function.__module__ is not None and (
            owner is None or isinstance(owner, types.ModuleType)
        ):
            return self._need_visible(function.__module__, function)
        return NotImplemented

    def _reduce_function(self, function: types.FunctionType) -> Any:
        if self._by_name(function):
            return NotImplemented
        return (
            make_function,
            self._parts(function),
            self._state(function),
            None,
            None,
            fill_function,
        )

    def _parts(self, function: types.FunctionType) -> tuple[object, ...]:
        space = function.__globals__
        if id(space) not in self._spaces:
            self._spaces[id(space)] = self._make_space(space)
        return function.__code__, self._spaces[id(space)], function.__name__, function.__closure__

    def _make_space(self, space: dict[str, Any]) -> _Space:
        name = space.get("__name__")
        module = sys.modules.get(name) if isinstance(name, str) else None
        if module is not None and vars(module) is space and self._visible.sees(module.__name__):
            return _Space((module_globals, (name,)), True)
        return _Space((make_globals, (name, space.get("__package__"))), False)

    def _state(self, function: types.FunctionType) -> tuple[object, ...]:
        """What `fill_function` sets. Every function brings all that it reads, though another may
        have brought it: a class's methods can run before the rest of the pickle is read."""
        code = function.__code__
        names: dict[str, Any] = {}
        if not self._spaces[id(function.__globals__)].by_name:
            space = function.__globals__
            names = {name: space[name] for name in _global_names(code) if name in space}
        contents = {}
        for index, cell in enumerate(function.__closure__ or ()):
            try:
                contents[index] = cell.cell_contents
            except ValueError:
                continue
        self._list_function(function, names, contents)
        modules = tuple(_submodules(code, (*names.values(), *contents.values())))
        return names, _slots(function), vars(function), modules

    def _list_function(
        self, function: types.FunctionType, names: dict[str, Any], contents: dict[int, Any]
    ) -> None:
        place = f"{function.__module__}.{function.__qualname__}"
        self.by_value.add(f"{place} (function)")
        for name, value in names.items():
            self._list(f"{function.__globals__.get('__name__')}.{name}", value)
        outside = place.rpartition(".")[0]
        for index, value in contents.items():
            name = function.__code__.co_freevars[index]
            if name != "__class__":
                self._list(f"{outside}.{name}", value)
        for name, value in _defaults(function):
            self._list(f"{place}({name})", value)
        for name, value in vars(function).items():
            self._list(f"{place}.{name}", value)

    def _list(self, name: str, value: object) -> None:
        # Those list themselves where they are packed, and go by name otherwise.
        if not isinstance(value, (types.FunctionType, types.BuiltinFunctionType, type)) and (
            not isinstance(value, types.ModuleType)
        ):
            self.by_value.add(f"{name} ({type(value).__qualname__})")

    def _reduce_cached(self, wrapper: Any) -> Any:
        if self._by_name(wrapper):
            return NotImplemented
        function = wrapper.__wrapped__
        settings = wrapper.cache_parameters()
        own = ("__wrapped__", "cache_parameters")
        attributes = {name: value for name, value in vars(wrapper).items() if name not in own}
        made = (function, settings["maxsize"], settings["typed"])
        return make_cached, made, (function, attributes), None, None, fill_cached

    def _reduce_cell(self, cell: types.CellType) -> Any:
        try:
            # In a tuple: None would mean that there is nothing to fill in.
            return make_cell, (), (cell.cell_contents,), None, None, fill_cell
        except ValueError:  # of a variable that is not bound yet
            return make_cell, ()

    def _reduce_code(self, code: types.CodeType) -> Any:
        try:
            return load_code, (marshal.dumps(code),)
        except ValueError:  # constants that no compiler makes, put there by a decorator
            return cloudpickle._code_reduce(code)

    def _reduce_type_variable(self, variable: Any) -> Any:
        if self._finds_named(variable):
            return NotImplemented
        if isinstance(variable, typing.TypeVar):
            return cloudpickle._make_typevar, cloudpickle._decompose_typevar(variable)
        return type(variable), (variable.__name__,)

    def _reduce_new_type(self, kind: Any) -> Any:
        if self._finds_named(kind):
            return NotImplemented
        return typing.NewType, (kind.__name__, kind.__supertype__)

    def _reduce_alias(self, alias: Any) -> Any:
        if self._finds_named(alias):
            return NotImplemented
        return type(alias), (alias.__name__, alias.__value__)

    def _finds_named(self, thing: Any) -> bool:
        module = thing.__module__
        if not isinstance(module, str) or not self._visible.sees(module):
            return False
        return getattr(sys.modules.get(module), thing.__name__, None) is thing


def _without_packer(reduce: Callable[[Any], Any]) -> Callable[[_Packer, Any], Any]:
    return lambda _, thing: reduce(thing)


_REDUCERS: dict[type, Callable[[_Packer, Any], Any]] = {
    **{
        kind: _without_packer(reduce)
        for kind, reduce in cloudpickle.Pickler._dispatch_table.items()
    },
    types.FunctionType: _Packer._reduce_function,
    types.BuiltinFunctionType: _Packer._reduce_builtin,
    types.ModuleType: _Packer._reduce_module,
    types.CellType: _Packer._reduce_cell,
    types.CodeType: _Packer._reduce_code,
    type(functools.lru_cache(len)): _Packer._reduce_cached,
    # 3.11 keeps a lock in it, which every new one makes for itself.
    functools.cached_property: lambda _, thing: (
        functools.cached_property,
        (thing.func,),
        {"attrname": thing.attrname},
    ),
    typing.TypeVar: _Packer._reduce_type_variable,
    typing.ParamSpec: _Packer._reduce_type_variable,
    typing.TypeVarTuple: _Packer._reduce_type_variable,
    typing.NewType: _Packer._reduce_new_type,
    # Compared by identity, and so by name.
    type(dataclasses.MISSING): lambda _, thing: "MISSING",
    type(dataclasses.KW_ONLY): lambda _, thing: "KW_ONLY",
    _Inside: lambda _, thing: thing.name,
    _Space: lambda _, thing: thing.reduced,
}
if sys.version_info >= (3, 12):
    _REDUCERS[typing.TypeAliasType] = _Packer._reduce_alias


# How code reads a global: LOAD_GLOBAL, whose argument has a flag in its lowest bit since 3.11; in
# the body of a class LOAD_NAME, or since 3.12 LOAD_FROM_DICT_OR_GLOBALS.
_READS = tuple(
    (opmap[name], shift)
    for name, shift in (
        ("LOAD_GLOBAL", 1),
        ("LOAD_NAME", 0),
        ("LOAD_FROM_DICT_OR_GLOBALS", 0),
        ("DELETE_GLOBAL", 0),
    )
    if name in opmap
)
_EXTENDED_ARG = opmap["EXTENDED_ARG"]

# `make_globals` sets these.
_GIVEN = ("__name__", "__package__", "__builtins__")


def _global_names(code: types.CodeType) -> dict[str, None]:
    """Names of globals that the code and the functions and classes defined in it read, in order.
    Written here because cloudpickle's helper knows LOAD_GLOBAL only, and needs 50 times as long."""
    names = {name: None for name in _reads(code) if name not in _GIVEN}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names


def _reads(code: types.CodeType) -> Iterator[str]:
    # Two bytes an instruction; inline caches read as zeros, which are no instruction.
    operations, arguments = code.co_code[::2], code.co_code[1::2]
    for operation, shift in _READS:
        at = operations.find(operation)
        while at >= 0:
            number, before, bits = arguments[at], at - 1, 8
            while before >= 0 and operations[before] == _EXTENDED_ARG:
                number |= arguments[before] << bits
                before, bits = before - 1, bits + 8
            yield code.co_names[number >> shift]
            at = operations.find(operation, at + 1)


def _submodules(code: types.CodeType, values: Sequence[object]) -> Iterator[types.ModuleType]:
    """Submodules that the code reaches as attributes of packages among `values`: inside they have
    to be imported on purpose (`import xml.etree.ElementTree` binds only `xml`)."""
    packages = [
        value
        for value in values
        if isinstance(value, types.ModuleType) and "__path__" in vars(value)
    ]
    attributes = _attribute_names(code) if packages else frozenset()
    while packages:
        package = packages.pop()
        for name in attributes:
            module = sys.modules.get(f"{package.__name__}.{name}")
            if module is not None:
                yield module
                packages.append(module)


def _attribute_names(code: types.CodeType) -> frozenset[str]:
    nested = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return frozenset(code.co_names).union(*map(_attribute_names, nested))


def _slots(function: types.FunctionType) -> dict[str, Any]:
    """What a new function of the same code and globals does not have by itself."""
    code = function.__code__
    first = code.co_consts[0] if code.co_consts else None
    slots: dict[str, Any] = {
        "__defaults__": function.__defaults__,
        "__kwdefaults__": function.__kwdefaults__,
        "__annotations__": _annotations(function),
    }
    slots = {name: value for name, value in slots.items() if value}
    if function.__qualname__ != code.co_qualname:
        slots["__qualname__"] = function.__qualname__
    if function.__module__ != function.__globals__.get("__name__"):
        slots["__module__"] = function.__module__
    if function.__doc__ != (first if isinstance(first, str) else None):
        slots["__doc__"] = function.__doc__
    return slots


def _annotations(function: types.FunctionType) -> dict[str, Any]:
    try:
        annotations = function.__annotations__
    except Exception:  # 3.14 evaluates them here, with the application's own code
        return {}
    kept = {}
    for name, value in annotations.items():
        if _builtin_only(value):
            kept[name] = value
        elif isinstance(value, type):
            kept[name] = f"{value.__module__}.{value.__qualname__}"
    return kept


def _builtin_only(annotation: object) -> bool:
    if isinstance(annotation, (types.GenericAlias, types.UnionType)):
        origin = getattr(annotation, "__origin__", int)
        return _builtin_only(origin) and all(map(_builtin_only, annotation.__args__))
    if isinstance(annotation, type):
        return annotation is type(None) or vars(builtins).get(annotation.__name__) is annotation
    return annotation is None or annotation is Ellipsis or type(annotation) is str


def _defaults(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    code, values = function.__code__, function.__defaults__ or ()
    yield from zip(
        code.co_varnames[code.co_argcount - len(values) : code.co_argcount], values, strict=False
    )
    yield from (function.__kwdefaults__ or {}).items()


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE, which C extensions can set as well
_SLOTS_IN_C = (
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
)


def _native(cls: type) -> bool:
    """Whether the class was made by compiled code, so that its dict does not suffice."""
    if not cls.__flags__ & _HEAP_TYPE:
        return True
    for value in vars(cls).values():
        if isinstance(value, _SLOTS_IN_C) and value.__objclass__ is cls:
            return True
        if isinstance(value, types.BuiltinFunctionType) and value.__self__ is cls:
            return True
    return False


def _kind(value: object) -> str:
    kind = type(value)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _preload(module: str) -> str:
    return f"preload it (`Sandbox(preload=[{module.partition('.')[0]!r}])`)"


# Finding out what could not travel. This runs only after a failure, and packs parts again.

_Failure = Callable[[object], Exception | None]
_Named = list[tuple[str, Any]]
_MOST_STEPS = 20


def _blame(
    fn: object,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    error: Exception,
    failure: _Failure,
) -> tuple[str, str]:
    """Where it failed, such as "the function's global 'lock' (_thread.lock)", and the reason."""
    where, value = "", None
    parts: _Named = [("the function", fn)]
    parts += [(f"argument {number}", arg) for number, arg in enumerate(args, 1)]
    parts += [(f"keyword argument {name!r}", arg) for name, arg in kwargs.items()]
    seen = {}
    for _ in range(_MOST_STEPS):
        found = _first_failing([part for part in parts if id(part[1]) not in seen], failure)
        if found is None:
            break
        step, value, error = found
        if step[0] in ".[" or not where:
            where += step
        else:
            where += f"'s {step}" if where == "the function" else f", its {step}"
        seen[id(value)] = value
        parts = _inner(value)
    if not isinstance(error, _Refused):
        error = _Refused(
            f"{error or type(error).__name__}; make it inside the function or leave it out"
        )
    return (f"{where} ({_kind(value)})" if where else "the call"), str(error)


def _first_failing(parts: _Named, failure: _Failure) -> tuple[str, Any, Exception] | None:
    """The first part that fails, by halves: there may be a million."""
    while len(parts) > 1:
        half = parts[: len(parts) // 2]
        failed = failure([value for _, value in half]) is not None
        parts = half if failed else parts[len(half) :]
    problem = failure(parts[0][1]) if parts else None
    return None if problem is None else (*parts[0], problem)


def _inner(value: Any) -> _Named:
    if isinstance(value, types.FunctionType):
        return _inner_of_function(value)
    if isinstance(value, dict):
        named = [(f"[{_short(key)}]", part) for key, part in value.items()]
        return named + [(f"key {_short(key)}", key) for key in value]
    if isinstance(value, (list, tuple)):
        return [(f"[{index}]", part) for index, part in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [("member", part) for part in value]
    if isinstance(value, (types.ModuleType, types.BuiltinFunctionType)):
        owner = getattr(value, "__self__", None)
        return [] if isinstance(owner, types.ModuleType | None) else [(".__self__", owner)]
    if isinstance(value, type):
        return (
            []
            if _native(value)
            else [(f"attribute {name!r}", part) for name, part in vars(value).items()]
        )
    names = ("__self__", "__func__", "func", "args", "keywords", "fget", "fset", "fdel")
    named = [(f".{name}", getattr(value, name)) for name in names if name in dir(type(value))]
    attributes = getattr(value, "__dict__", {})
    named += [(f".{name}", part) for name, part in attributes.items()]
    return named if _native(type(value)) else [*named, ("class", type(value))]


def _inner_of_function(function: types.FunctionType) -> _Named:
    space = function.__globals__
    named = [
        (f"global {name!r}", space[name])
        for name in _global_names(function.__code__)
        if name in space
    ]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            named.append((f"closure variable {name!r}", cell.cell_contents))
        except ValueError:
            continue
    named += [(f"default of {name!r}", part) for name, part in _defaults(function)]
    return named + [(f"attribute {name!r}", part) for name, part in vars(function).items()]


def _short(key: object) -> str:
    return repr(key) if isinstance(key, (str, int)) and len(repr(key)) <= 60 else f"<{_kind(key)}>"
