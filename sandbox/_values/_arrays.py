"""numpy's arrays: the dtypes that travel, and what their bytes may hold. numpy, once an array
arrives, is the only import that a guest's bytes bring about."""

from __future__ import annotations

import importlib
import math
import re
from typing import Any

from ._records import Leaves, Record
from ._rejected import ValueRejected

_DTYPE = re.compile(
    r"[<>|][?bBhHiIlLqQefdgFDG]|[<>]U\d{1,9}|\|[SV]\d{1,9}"
    r"|[<>][Mm]8(\[([1-9]\d{0,8})?(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?",
    re.ASCII,
)


def make_array(items: list[Any]) -> Any:
    """An array of its dtype, its data and its shape. Raises ValueRejected, ValueError."""
    description, data, *shape = items
    np = _numpy()
    dtype, leaves = _dtype(np, description)
    if type(data) not in (bytes, memoryview) or len(shape) > 64:
        raise ValueRejected("an array is malformed")
    if not all(type(count) is int and count >= 0 for count in shape):
        raise ValueRejected("an array has a malformed shape")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueRejected("an array's shape and data differ in size")
    made = np.empty(shape, dtype)
    if data:
        raw = made.reshape(-1).view(np.uint8)
        raw[:] = np.frombuffer(data, np.uint8)
        records = raw.reshape(-1, dtype.itemsize)
        for text, offset, count in leaves:
            size = np.dtype(text).itemsize * count
            _check_elements(np, records[:, offset : offset + size], text)
    return made


def make_array_scalar(items: list[Any]) -> Any:
    """One element, of numpy's own type. Raises ValueRejected, ValueError."""
    text, data = items
    if (text, type(data)) == ("U", str):
        return _numpy().str_(data)
    if (text, type(data)) == ("S", bytes):
        return _numpy().bytes_(data)
    return make_array(items)[()]


def _numpy() -> Any:
    try:
        return importlib.import_module("numpy")
    except ImportError:
        raise ValueRejected("numpy is not installed on the host") from None


def _dtype(np: Any, description: object) -> tuple[Any, Leaves]:
    def simple(text: object) -> Any:
        if type(text) is not str or _DTYPE.fullmatch(text) is None:
            raise ValueRejected("an array has a dtype that does not travel")
        dtype = np.dtype(text)
        if dtype.itemsize == 0:
            raise ValueRejected("an array has elements of no size")
        return dtype

    if type(description) is list:
        record = Record(np, simple, description)
        return record.dtype, record.leaves
    return simple(description), [(str(description), 0, 1)]


def _check_elements(np: Any, part: Any, text: str) -> None:
    """Bit patterns that numpy would never make itself, and trusts not to meet; `part` is bytes."""
    if text[1] not in "?UgG":
        return
    raw = np.ascontiguousarray(part).reshape(-1)
    if text[1] == "?":
        bad = raw.max() > 1
    elif text[1] == "U":
        bad = raw.view(text[0] + "u4").max() > 0x10FFFF
    elif text[1] in "gG" and np.finfo(np.longdouble).nmant == 63:
        # x87: ten bytes of sixteen, the integer bit explicit. glibc's printf once overflowed a
        # buffer on numbers that contradict it (CVE-2020-29573).
        number = raw.reshape(-1, 16)[:, :: -1 if text[0] == ">" else 1]
        exponent = (number[:, 8] != 0) | (number[:, 9] & 0x7F != 0)
        bad = (exponent != (number[:, 7] >= 0x80)).any()
    else:
        return
    if bad:
        raise ValueRejected("an array holds elements that are not of its dtype")
