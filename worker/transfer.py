"""Unpack the call the host packed. Runs in the confined worker: what arrives is the application's
own code, and building it runs that code, so none of this happens before the last filter is loaded.

The constructors rebuild plain functions without cloudpickle, whose import costs as much as some
fifty calls. Every object is made empty, and filled once it is known under its number: that is how
functions that name themselves or one another come back as one graph.
"""

from __future__ import annotations

# `_pickle` and not `pickle`: that one brings re, enum and struct, which a fork pays for each time.
import _pickle
import builtins
import functools
import marshal
import sys
from _frozen_importlib_external import MAGIC_NUMBER
from _io import BytesIO

TYPE_CHECKING = False  # importing typing would cost every fork
if TYPE_CHECKING:
    from types import CellType, CodeType
    from typing import Any

# Under this name the host refers to the constructors below; nothing is imported by it.
HOST_MODULE = "sandbox._transfer"

# Code travels as marshal writes it, which only the same bytecode version reads.
HEADER = b"call\x01" + MAGIC_NUMBER

_CELL: Any = type((lambda x: lambda: x)(0).__closure__[0])  # type: ignore[index]
_FUNCTION: Any = type(lambda: 0)


def load_call(payload: bytes) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The function, its positional and its keyword arguments, from `dump_call` of the host.

    Raises:
        ValueError: the payload was written for another Python.
        Exception: whatever the application's own classes raise while they are rebuilt, among them
            ModuleNotFoundError for a module that is not visible in here.
    """
    if not payload.startswith(HEADER):
        raise ValueError(
            f"this call was packed for another Python than {sys.version.split()[0]}; host and "
            "launcher have to run the same interpreter"
        )
    stream = BytesIO(payload)
    stream.seek(len(HEADER))
    function, arguments, keywords = _Unpickler(stream).load()
    return function, arguments, keywords


class _Unpickler(_pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> object:
        if module == HOST_MODULE:
            return CONSTRUCTORS[name]
        return super().find_class(module, name)


def load_code(data: bytes) -> Any:
    return marshal.loads(data)  # noqa: S302 (in the jail, where the code is about to run anyway)


def make_globals(name: str, package: str | None) -> dict[str, Any]:
    """A dict that stands for the globals of one module; all functions of that module share it."""
    return {"__name__": name, "__package__": package, "__builtins__": builtins}


def import_module(name: str) -> Any:
    __import__(name)
    return sys.modules[name]


def module_globals(name: str) -> dict[str, Any]:
    space: dict[str, Any] = vars(import_module(name))
    return space


def make_cell() -> Any:
    return _CELL()


def fill_cell(cell: CellType, state: tuple[Any]) -> None:
    (cell.cell_contents,) = state


def make_function(
    code: CodeType, space: dict[str, Any], name: str, closure: tuple[CellType, ...] | None
) -> Any:
    return _FUNCTION(code, space, name, None, closure)


def fill_function(function: Any, state: tuple[Any, ...]) -> None:
    names, slots, attributes, _modules = state
    function.__globals__.update(names)
    for name, value in slots.items():
        setattr(function, name, value)
    if attributes:
        vars(function).update(attributes)


def make_cached(function: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def fill_cached(wrapper: Any, state: tuple[Any, dict[str, Any]]) -> None:
    function, attributes = state
    functools.update_wrapper(wrapper, function)
    vars(wrapper).update(attributes)


def builtin_type(name: str) -> Any:
    return getattr(import_module("types"), name)


CONSTRUCTORS = {
    constructor.__name__: constructor
    for constructor in (
        load_code,
        make_globals,
        import_module,
        module_globals,
        make_cell,
        fill_cell,
        make_function,
        fill_function,
        make_cached,
        fill_cached,
        builtin_type,
    )
}
