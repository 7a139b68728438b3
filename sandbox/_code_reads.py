"""What code reads and what functions are made of: names of globals, submodules, slots and defaults;
and which classes compiled code made. Runs on the host, over the application's own functions."""

from __future__ import annotations

import builtins
import sys
import types
from collections.abc import Iterator, Sequence
from opcode import opmap
from typing import Any

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


def global_names(code: types.CodeType) -> dict[str, None]:
    """Names of globals that the code and the functions and classes defined in it read, in order.
    Written here because cloudpickle's helper knows LOAD_GLOBAL only, and needs 50 times as long."""
    names = {name: None for name in global_reads(code) if name not in _GIVEN}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= global_names(constant)
    return names


def global_reads(code: types.CodeType) -> Iterator[str]:
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


def submodules(code: types.CodeType, values: Sequence[object]) -> Iterator[types.ModuleType]:
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


def function_slots(function: types.FunctionType) -> dict[str, Any]:
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


def default_values(function: types.FunctionType) -> Iterator[tuple[str, object]]:
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


def is_native(cls: type) -> bool:
    """Whether the class was made by compiled code, so that its dict does not suffice."""
    if not cls.__flags__ & _HEAP_TYPE:
        return True
    for value in vars(cls).values():
        if isinstance(value, _SLOTS_IN_C) and value.__objclass__ is cls:
            return True
        if isinstance(value, types.BuiltinFunctionType) and value.__self__ is cls:
            return True
    return False
