"""The packer of `preview`: it also lists what goes along with other things than functions and
classes. Calls are packed without it, because each of these takes a step of Python here."""

from __future__ import annotations

import copyreg
import functools
import types
from collections.abc import Container, Iterator
from typing import Any

from ._packer import REDUCERS, Packer

_CACHED = type(functools.lru_cache(len))
_OF_WRAPPERS = {*functools.WRAPPER_ASSIGNMENTS, "__wrapped__", "cache_parameters"}
_BY_NAME = REDUCERS.keys() - {types.BuiltinFunctionType}
# What Python puts into classes; `Packer` lists the names that are not framed by underscores.
_OF_CLASSES = {
    "__abstractmethods__", "__annotations__", "__annotations_cache__", "__dataclass_fields__",
    "__dataclass_params__", "__doc__", "__firstlineno__", "__hash__", "__match_args__",
    "__module__", "__orig_bases__", "__parameters__", "__qualname__", "__slotnames__",
    "__slots__", "__static_attributes__", "__type_params__",
}  # fmt: skip
# Parts of classes, whose values are attributes of the class and listed as such.
_PARTS_OF = ("_collections", "dataclasses", "typing")


class Lister(Packer):
    """As `Packer`, and `by_value` holds instances as well, with the names of their attributes."""

    def reducer_override(self, thing: Any) -> Any:
        reduced = super().reducer_override(thing)
        kind = type(thing)
        if reduced is NotImplemented:
            if not issubclass(kind, type) and kind not in _BY_NAME:
                reduced = _reduce(thing, kind)
                if isinstance(reduced, tuple):
                    self._list_instance(thing, reduced)
        elif issubclass(kind, type):
            self._list_class(thing)
        elif kind is types.MethodType:
            self._list(f"{_place(thing)}.__self__", thing.__self__)
        elif kind is _CACHED:
            self._list_attributes(_place(thing), vars(thing), _OF_WRAPPERS)
        return reduced

    def _list_class(self, cls: type) -> None:
        place = _place(cls)
        if f"{place} (class)" in self.by_value:
            framed = {
                name: value
                for name, value in vars(cls).items()
                if name.startswith("__") and not hasattr(type(value), "__get__")
            }
            self._list_attributes(place, framed, _OF_CLASSES)

    def _list_instance(self, thing: Any, reduced: tuple[Any, ...]) -> None:
        """From what the pickler gets to see, which `__getstate__` and the like may have changed."""
        kind = type(thing)
        if reduced[0] is getattr:  # a method of an object of a builtin type
            self._list(f"{thing.__qualname__}.__self__", reduced[1][0])
        elif isinstance(thing, functools.partial):
            self._list_partial(_place(kind), thing)
        elif kind.__module__ not in _PARTS_OF and kind is not types.GenericAlias:
            self.by_value.add(f"{_place(kind)} (instance)")
            for attributes in _states(thing, reduced):
                self._list_attributes(_place(kind), attributes)

    def _list_partial(self, place: str, partial: functools.partial[Any]) -> None:
        count = len(partial.args) + len(partial.keywords)
        self.by_value.add(f"{place} ({count} argument{'' if count == 1 else 's'})")
        for number, value in enumerate(partial.args):
            self._list(f"{place}.args[{number}]", value)
        for name, value in partial.keywords.items():
            self._list(f"{place}.keywords[{name!r}]", value)
        self._list_attributes(place, vars(partial))

    def _list_attributes(
        self, place: str, attributes: dict[Any, Any], without: Container[str] = ()
    ) -> None:
        for name, value in attributes.items():
            if name not in without:
                self._list(f"{place}.{name}", value)


def _place(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _reduce(thing: Any, kind: type) -> Any:
    """As the pickler itself does it next."""
    reduce = copyreg.dispatch_table.get(kind)
    return thing.__reduce_ex__(5) if reduce is None else reduce(thing)


def _states(thing: Any, reduced: tuple[Any, ...]) -> Iterator[dict[Any, Any]]:
    """The attributes that travel: of the instance's dict, of its slots, of a named tuple."""
    state = reduced[2] if len(reduced) > 2 else None
    # A class with slots has a pair of the two.
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict):
            yield part
    fields = getattr(type(thing), "_fields", None)
    if isinstance(thing, tuple) and isinstance(fields, tuple):
        yield dict(zip(fields, thing, strict=False))
