"""Finding out what could not travel. Runs on the host, only after a failure, and packs parts of the
call again until it has the smallest that fails."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ._code_reads import default_values, global_names, is_native
from ._packer import Refused

_Failure = Callable[[object], Exception | None]
_Named = list[tuple[str, Any]]
_MOST_STEPS = 20


def blame(
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
    if not isinstance(error, Refused):
        error = Refused(
            f"{error or type(error).__name__}; make it inside the function or leave it out"
        )
    return (f"{where} ({type_name(value)})" if where else "the call"), str(error)


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
            if is_native(value)
            else [(f"attribute {name!r}", part) for name, part in vars(value).items()]
        )
    names = ("__self__", "__func__", "func", "args", "keywords", "fget", "fset", "fdel")
    named = [(f".{name}", getattr(value, name)) for name in names if name in dir(type(value))]
    attributes = getattr(value, "__dict__", {})
    named += [(f".{name}", part) for name, part in attributes.items()]
    return named if is_native(type(value)) else [*named, ("class", type(value))]


def _inner_of_function(function: types.FunctionType) -> _Named:
    space = function.__globals__
    named = [
        (f"global {name!r}", space[name])
        for name in global_names(function.__code__)
        if name in space
    ]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            named.append((f"closure variable {name!r}", cell.cell_contents))
        except ValueError:
            continue
    named += [(f"default of {name!r}", part) for name, part in default_values(function)]
    return named + [(f"attribute {name!r}", part) for name, part in vars(function).items()]


def _short(key: object) -> str:
    if isinstance(key, (str, int)) and len(repr(key)) <= 60:
        return repr(key)
    return f"<{type_name(key)}>"


def type_name(value: object) -> str:
    kind = type(value)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"
