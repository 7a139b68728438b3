"""numpy's structured dtypes, from a description that a guest wrote: [bytes of a record, [name,
offset, dtype, *shape], ...], where a dtype is a text or again such a description."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from ._rejected import ValueRejected

_MOST_FIELDS: Final = 1000  # of a dtype, those of its fields' dtypes included
_MOST_LEVELS: Final = 8
_MOST_BYTES: Final = (1 << 31) - 1  # of a record, as numpy has it

# (text, offset in the record, how many one behind the other): where plain elements lie.
Leaves = list[tuple[str, int, int]]


class Record:
    """`dtype`, and the `leaves` whose bytes are still to be looked at.

    Args:
        np: numpy.
        simple: a dtype's text → the dtype. Raises ValueRejected.

    Raises:
        ValueRejected, ValueError, TypeError: it describes no dtype that travels.
    """

    def __init__(self, np: Any, simple: Callable[[object], Any], description: list[Any]) -> None:
        self.leaves: Leaves = []
        self._np = np
        self._simple = simple
        self._fields = 0
        self.dtype = self._record(description, 0, 1)

    def _record(self, description: list[Any], base: int, level: int) -> Any:
        size, *fields = description
        if level > _MOST_LEVELS or type(size) is not int or not 0 < size <= _MOST_BYTES:
            raise ValueRejected("an array has a malformed record")
        names, formats, offsets, end = [], [], [], 0
        for field in fields:
            self._fields += 1
            if type(field) is not list or len(field) < 3 or self._fields > _MOST_FIELDS:
                raise ValueRejected("an array has a malformed record")
            name, offset, inner, *shape = field
            if type(name) is not str or type(offset) is not int or offset < end:
                raise ValueRejected("an array has a malformed field")
            made = self._field(inner, base + offset, shape, level)
            names.append(name)
            formats.append(made)
            offsets.append(offset)
            end = offset + made.itemsize
        if not names or end > size:
            raise ValueRejected("an array's fields do not fit its records")
        parts = {"names": names, "formats": formats, "offsets": offsets, "itemsize": size}
        return self._np.dtype(parts)

    def _field(self, inner: object, base: int, shape: list[Any], level: int) -> Any:
        if not all(type(count) is int and count > 0 for count in shape) or len(shape) > 32:
            raise ValueRejected("an array has a malformed field")
        count = math.prod(shape)
        if type(inner) is not list:
            dtype = self._simple(inner)
            self.leaves.append((str(inner), base, count))
        elif count == 1:
            dtype = self._record(inner, base, level + 1)
        else:
            # Its elements lie apart, one for each record in the record.
            dtype = self._repeated(inner, base, count, level + 1)
        if dtype.itemsize * count > _MOST_BYTES:
            raise ValueRejected("an array has a malformed field")
        return self._np.dtype((dtype, tuple(shape))) if shape else dtype

    def _repeated(self, inner: list[Any], base: int, count: int, level: int) -> Any:
        before = len(self.leaves)
        dtype = self._record(inner, base, level)
        once = self.leaves[before:]
        if len(once) * count > _MOST_FIELDS:
            raise ValueRejected("an array has too many fields in fields")
        for number in range(1, count):
            step = number * dtype.itemsize
            self.leaves += [(text, offset + step, many) for text, offset, many in once]
        return dtype
