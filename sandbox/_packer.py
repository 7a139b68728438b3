"""The pickler of calls: what goes by name, what goes by value, and what is refused. Runs on the
host, over the application's own objects.

Plain functions are taken apart for the constructors in worker/transfer.py, which need nothing but
the standard library. For all else, classes above all, cloudpickle's reducers are used. They are
internals of it (`_dynamic_class_reduce`, `_dispatch_table`, `_BUILTIN_TYPE_NAMES` and others),
which is why the project pins it below 4.
"""

from __future__ import annotations

import copyreg
import dataclasses
import functools
import io
import marshal
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

from cloudpickle import cloudpickle

from ._code_reads import default_values, function_slots, global_names, is_native, submodules
from ._inside import (
    Inside,
    builtin_type,
    fill_cached,
    fill_cell,
    fill_function,
    import_module,
    load_code,
    make_cached,
    make_cell,
    make_function,
    make_globals,
    module_globals,
)
from ._visible import Visible


class Refused(Exception):
    """Something that is not to travel, with the reason."""


class Sink(io.BytesIO):
    """Takes what the pickler writes, which it does every 64 KiB, up to `cap` bytes."""

    def __init__(self, cap: int) -> None:
        super().__init__()
        self._cap = cap

    def write(self, data: Any, /) -> int:
        if self.tell() + memoryview(data).nbytes > self._cap:
            raise Refused(f"packed, it takes more than {self._cap} bytes")
        return super().write(data)


class _Space:
    """Stands for the globals of one module: one dict inside for all functions that share it."""

    def __init__(self, reduced: tuple[object, ...], by_name: bool) -> None:
        self.reduced = reduced
        self.by_name = by_name


class Packer(cloudpickle.Pickler):  # type: ignore[misc]
    """One for each call, so threads share nothing.

    A function may be reached again from its own closure before it is made, a cached function from
    its globals. The pickler then writes it twice, and one of them is kept (CPython issue 12687).
    """

    # The process's own table, which the C pickler reads fast; cloudpickle's stands in REDUCERS.
    dispatch_table = copyreg.dispatch_table

    def __init__(self, sink: Sink, visible: Visible) -> None:
        super().__init__(sink, protocol=5)
        self.needs_cloudpickle = False
        self.by_value: set[str] = set()
        self._visible = visible
        self._known: set[type] = set()
        # By identity: the pickler's memo keeps each function, and so its globals, until it is done.
        self._spaces: dict[int, _Space] = {}

    def reducer_override(self, thing: Any) -> Any:
        kind = type(thing)
        reducer = REDUCERS.get(kind)
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
        if not is_native(kind) or self._visible.sees(kind.__module__):
            self._known.add(kind)
            return NotImplemented
        # A compiler of extensions (Cython) keeps the type of functions in a module of its own.
        return self._need_visible(getattr(thing, "__module__", None) or kind.__module__, kind)

    def _need_visible(self, module: object, thing: Any) -> Any:
        if isinstance(module, str) and self._visible.sees(module):
            return NotImplemented
        raise Refused(
            f"{module}.{thing.__qualname__} is compiled code of a module that is not visible "
            f"inside; {_preload(str(module))}"
        )

    def _reduce_module(self, module: types.ModuleType) -> Any:
        name = module.__name__
        if sys.modules.get(name) is module and self._visible.sees(name):
            return import_module, (name,)
        raise Refused(
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
        if is_native(cls):
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
            names = {name: space[name] for name in global_names(code) if name in space}
        contents = {}
        for index, cell in enumerate(function.__closure__ or ()):
            try:
                contents[index] = cell.cell_contents
            except ValueError:
                continue
        self._list_function(function, names, contents)
        modules = tuple(submodules(code, (*names.values(), *contents.values())))
        return names, function_slots(function), vars(function), modules

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
        for name, value in default_values(function):
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


def _without_packer(reduce: Callable[[Any], Any]) -> Callable[[Packer, Any], Any]:
    return lambda _, thing: reduce(thing)


REDUCERS: dict[type, Callable[[Packer, Any], Any]] = {
    **{
        kind: _without_packer(reduce)
        for kind, reduce in cloudpickle.Pickler._dispatch_table.items()
    },
    types.FunctionType: Packer._reduce_function,
    types.BuiltinFunctionType: Packer._reduce_builtin,
    types.ModuleType: Packer._reduce_module,
    types.CellType: Packer._reduce_cell,
    types.CodeType: Packer._reduce_code,
    type(functools.lru_cache(len)): Packer._reduce_cached,
    # 3.11 keeps a lock in it, which every new one makes for itself.
    functools.cached_property: lambda _, thing: (
        functools.cached_property,
        (thing.func,),
        {"attrname": thing.attrname},
    ),
    typing.TypeVar: Packer._reduce_type_variable,
    typing.ParamSpec: Packer._reduce_type_variable,
    typing.TypeVarTuple: Packer._reduce_type_variable,
    typing.NewType: Packer._reduce_new_type,
    # Compared by identity, and so by name.
    type(dataclasses.MISSING): lambda _, thing: "MISSING",
    type(dataclasses.KW_ONLY): lambda _, thing: "KW_ONLY",
    Inside: lambda _, thing: thing.name,
    _Space: lambda _, thing: thing.reduced,
}
if sys.version_info >= (3, 12):
    REDUCERS[typing.TypeAliasType] = Packer._reduce_alias


def _preload(module: str) -> str:
    return f"preload it (`Sandbox(preload=[{module.partition('.')[0]!r}])`)"
