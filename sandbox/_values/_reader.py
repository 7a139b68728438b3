"""The document of an encoded value, read as the hostile bytes that it is.

The encoding is described in `worker/encoding.py`, which writes it for honest guests; a hostile one
writes what it likes. So: nothing is imported, called or looked up because the bytes say so (numpy,
once an array arrives, is the only import); arrays are the only containers, since msgpack allocates
them by the length they claim but at most 8192 items at a time, and nests at most 1024 of them;
tables are built only after their keys were seen not to collide; and one last walk over the result
lets nothing pass that is not of a known type.

Host memory stays below 45 times the cap in the worst case (millions of tiny objects), and
below 3 times for long strings and arrays.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import chain
from typing import Any, Final
from uuid import UUID

import msgpack

from ._arrays import make_array, make_array_scalar
from ._rejected import ValueRejected
from ._scalars import MAKERS
from ._tables import MOST_KEY, check_long_keys, count_jumps

MOST_LEVELS: Final = 100
MOST_ITEMS: Final = 8192
CHARGE: Final = 8
_CHUNKED: Final = 0x40

_LIST, _TUPLE, _SET, _FROZENSET, _DICT, _ARRAY, _ARRAY_SCALAR = range(1, 8)
_LONG_BYTES, _LONG_TEXT, _LONG_DATA = range(26, 29)

_CONTAINERS = frozenset((list, tuple, set, frozenset, dict))
_SCALARS = frozenset((type(None), bool, int, float, str, bytes, complex, Decimal, Fraction))
_SCALARS |= {UUID, datetime, date, time, timedelta}


def decode_value(data: bytes | memoryview, cap: int) -> object:
    """The value that a worker encoded. It shares no memory with `data`.

    Args:
        data: the whole encoding; a memoryview may be of memory that is unmapped afterwards.
        cap: the same number the worker had: most bytes, plus 8 for each container.

    Raises:
        ValueRejected: always, whatever is wrong with `data`.
    """
    if len(data) > cap:
        raise ValueRejected(f"an encoding of {len(data)} bytes is longer than {cap}")
    with memoryview(data).cast("B") as view:
        size = int.from_bytes(view[:8], "big")
        if len(view) < 9 or size > len(view) - 8:
            raise ValueRejected("the encoding is shorter than it claims")
        reader = _Reader(view, 8 + size, cap - len(view))
        try:
            return reader.read()
        except ValueRejected:
            raise
        except (
            *(ValueError, TypeError, ArithmeticError, RecursionError, MemoryError),
            *(struct.error, msgpack.UnpackException),
            Warning,  # numpy's, where the application made warnings errors
        ) as error:
            raise ValueRejected(f"the encoding is malformed ({type(error).__name__})") from None
        finally:
            reader.release()


class _Marker:
    """The first item of an array that is not a list: the container's type."""

    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        self.code = code


_MARKERS = {c: _Marker(c) for b in range(1, 8) for c in (b, b | _CHUNKED)}


class _Reader:
    def __init__(self, view: memoryview, data_start: int, left: int) -> None:
        self.view = view
        self.document = view[8:data_start]
        self.at = data_start  # of the long data that nothing has referred to yet
        self.left = left  # what arrays may still be charged
        self.jumps = 0
        self.long_numbers = False
        self.borrowed = [self.document]
        self.types: set[type] = set(_SCALARS | _CONTAINERS)

    def read(self) -> object:
        value = msgpack.unpackb(
            self.document,
            raw=False,
            use_list=True,
            list_hook=self.container,
            ext_hook=self.extension,
            max_array_len=MOST_ITEMS,
            max_map_len=0,
            max_str_len=len(self.document),
            max_bin_len=len(self.document),
            max_ext_len=len(self.document),
        )
        if self.at != len(self.view):
            raise ValueRejected("bytes are left over")
        self.check(value)
        return value

    def release(self) -> None:
        # Nothing may keep the caller's mapping alive, not even a traceback.
        for view in self.borrowed:
            view.release()

    def check(self, value: object) -> None:
        """Every type is one of ours (msgpack makes its Timestamp before our hook is asked), no
        marker is left, and containers are nested no deeper than the limit."""
        level: list[Any] = [[value]]
        for _ in range(MOST_LEVELS + 1):
            kinds = set(map(type, _items(level)))
            if not kinds <= self.types:
                raise ValueRejected("the encoding holds something that is not a value")
            if kinds.isdisjoint(_CONTAINERS):
                return
            level = [item for item in _items(level) if type(item) in _CONTAINERS]
        raise ValueRejected(f"the value is nested deeper than {MOST_LEVELS} levels")

    def container(self, items: list[Any]) -> Any:
        self.left -= CHARGE
        if self.left < 0:
            raise ValueRejected("the value has more containers than its limit allows")
        if not items or type(items[0]) is not _Marker:
            return items
        code = items.pop(0).code
        if code & _CHUNKED:
            if not all(type(chunk) is list for chunk in items):
                raise ValueRejected("a part of a long container is not a list")
            items = list(chain.from_iterable(items))
            code &= ~_CHUNKED
            if code == _LIST:
                return items
        if code == _TUPLE:
            return tuple(items)
        if code == _DICT:
            return self.dict(items)
        if code in (_SET, _FROZENSET):
            return self.set(items) if code == _SET else frozenset(self.set(items))
        if code in (_ARRAY, _ARRAY_SCALAR):
            return self.array(items, scalar=code == _ARRAY_SCALAR)
        raise ValueRejected("a container of an unknown type")

    def extension(self, code: int, payload: bytes) -> Any:
        build = MAKERS.get(code)
        if build is not None:
            if len(payload) > MOST_KEY:
                self.long_numbers = True
            return build(payload)
        if code in _MARKERS and not payload:
            return _MARKERS[code]
        if code in (_LONG_BYTES, _LONG_TEXT, _LONG_DATA) and len(payload) == 8:
            return self.long(code, int.from_bytes(payload, "big"))
        raise ValueRejected(f"extension {code} is unknown or malformed")

    def long(self, code: int, size: int) -> Any:
        if size > len(self.view) - self.at:
            raise ValueRejected("the encoding refers to data it does not have")
        part = self.view[self.at : self.at + size]
        self.borrowed.append(part)
        self.at += size
        if code == _LONG_BYTES:
            return bytes(part)
        return str(part, "utf-8", "surrogatepass") if code == _LONG_TEXT else part

    def set(self, items: list[Any]) -> set[Any]:
        self.check_keys(items, of_set=True)
        made = set(items)
        if len(made) != len(items):
            raise ValueRejected("a set holds a member twice")
        return made

    def dict(self, items: list[Any]) -> dict[Any, Any]:
        keys = items[::2]
        if len(items) & 1:
            raise ValueRejected("a dict has a key without a value")
        self.check_keys(keys, of_set=False)
        made = dict(zip(keys, items[1::2], strict=True))
        if len(made) != len(keys):
            raise ValueRejected("a dict holds a key twice")
        return made

    def check_keys(self, keys: list[Any], of_set: bool) -> None:
        if self.long_numbers:
            check_long_keys(keys)
        self.jumps = count_jumps(keys, of_set, self.jumps)

    def array(self, items: list[Any], *, scalar: bool) -> Any:
        made = make_array_scalar(items) if scalar else make_array(items)
        self.types.add(type(made))
        return made


def _items(containers: list[Any]) -> Iterator[Any]:
    values = (container.values() for container in containers if type(container) is dict)
    return chain(chain.from_iterable(containers), chain.from_iterable(values))
