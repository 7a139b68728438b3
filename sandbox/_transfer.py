"""How a call travels in: one pickle of the function and its arguments, read only inside the jail.

What the guest can import goes by name. Functions and classes it cannot import go by value, each
with only those globals and closure variables that its code reads; modules never do, for with a
module would go whatever else the application keeps in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import MAGIC_NUMBER

from ._blame import blame, type_name
from ._errors import TransferError
from ._inside import (
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
from ._lister import Lister
from ._packer import Packer, Sink
from ._visible import Visible

# Beside what callers use, the constructors: the pickler looks each up here, by the name it has in
# the pickle.
__all__ = [
    "Cargo",
    "builtin_type",
    "dump_call",
    "fill_cached",
    "fill_cell",
    "fill_function",
    "import_module",
    "load_code",
    "make_cached",
    "make_cell",
    "make_function",
    "make_globals",
    "module_globals",
    "preview",
]

_HEADER = b"call\x01" + MAGIC_NUMBER
_CAP = 64 << 20


@dataclass(frozen=True)
class Cargo:
    """A packed call.

    Attributes:
        payload: for `load_call` inside the jail; never to be unpickled on the host.
        needs_cloudpickle: whether reading it imports cloudpickle.
        by_value: names of functions, classes and what they bring; `preview` lists more.
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
    packing: type[Packer] = Packer,
) -> Cargo:
    """Pack `fn(*args, **kwargs)` for a guest that sees `visible`; `cap` bounds the bytes it takes,
    `packing` is what takes it apart.

    Annotations go along where they are made of builtins; other classes in them become their names
    and the rest is left out, so that they pull in nothing. Names a function looks up by other means
    than its code (`globals()["x"]`, `eval`) do not travel.

    Raises:
        TransferError: something cannot travel, with its name, the reason and what to do.
    """
    if not callable(fn):
        raise TransferError(f"the function: {type_name(fn)} is not callable")
    try:
        return _pack((fn, tuple(args), dict(kwargs)), visible, cap, packing)
    except MemoryError:
        raise
    except Exception as error:
        where, reason = blame(fn, args, kwargs, error, lambda value: _failure(value, visible, cap))
        raise TransferError(f"{where} cannot travel into the jail: {reason}") from error


def preview(
    fn: Callable[..., object],
    args: Sequence[object] = (),
    kwargs: Mapping[str, object] | None = None,
    *,
    visible: Visible,
    cap: int = _CAP,
) -> tuple[str, ...]:
    """What would go by value if this were called: functions and classes with the globals, closure
    variables, defaults and attributes that go with them, instances with their attributes, partials
    with their arguments, what a method is bound to; each as `module.name (type)`, sorted. It packs
    the call as `dump_call` does, and raises like it.
    """
    return dump_call(fn, args, kwargs or {}, visible=visible, cap=cap, packing=Lister).by_value


def _pack(value: object, visible: Visible, cap: int, packing: type[Packer] = Packer) -> Cargo:
    sink = Sink(cap)
    sink.write(_HEADER)
    packer = packing(sink, visible)
    packer.dump(value)
    return Cargo(sink.getvalue(), packer.needs_cloudpickle, tuple(sorted(packer.by_value)))


def _failure(value: object, visible: Visible, cap: int) -> Exception | None:
    try:
        _pack(value, visible, cap)
    except Exception as error:
        return error
    return None
