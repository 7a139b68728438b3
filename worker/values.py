"""The worker's encoder of a guest's return value. `sandbox/_values/` is the decoder, written
separately on purpose; `encoding.py` says what is written.

Runs in the worker, after the guest's code and with the guest's rights: the objects, their classes
and metaclasses are the guest's, and it may have replaced this very function. So nothing here
protects the host; it serves honest guests, whose mistakes it names and places. Types are compared
with ``is``, never asked.

Modules like numpy or decimal are never imported here: an object of theirs can only exist if the
guest has.
"""

from __future__ import annotations

import sys
from itertools import chain

import msgpack

from .encoding import (
    CHARGE,
    CHUNKED,
    CODES,
    DICT,
    FLAT,
    HASHED,
    INT,
    LIST,
    LONG,
    LONG_BYTES,
    LONG_TEXT,
    MARKERS,
    MOST_ITEMS,
    MOST_KEY,
    MOST_LEVELS,
    SIZED,
    TEXT,
    WEIGH,
)
from .others import check_distinct, writers
from .unfit import MRO, TooLarge, Unfit, advice, step, type_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_PACK = msgpack.Packer(use_bin_type=True, strict_types=True).pack


def encode_value(value: object, cap: int) -> list[bytes | memoryview]:
    """The encoding of `value` as buffers to write one after the other. Long bytes and arrays are
    borrowed, not copied: keep `value` alive and unchanged until they are written.

    Args:
        value: see the README for the types that travel; subclasses of them do not.
        cap: most bytes, plus 8 for each container.

    Raises:
        Unfit: the value, or something in it, does not travel.
        TooLarge: it would take more than `cap`.
    """
    writer = Writer(cap, value)
    try:
        writer.put(value, 1)
    except (Unfit, TooLarge):
        raise
    except Exception as error:
        # The guest's own threads may change what is being read; its classes may raise anything.
        raise Unfit(type_name(type(value)), f"reading it raised {type_name(type(error))}") from None
    doc = writer.doc
    doc[:8] = (len(doc) - 8).to_bytes(8, "big")
    return [memoryview(doc), *writer.data]


class Writer:
    """One value on its way into bytes, its cap held at each step."""

    __slots__ = ("cap", "data", "doc", "enum_key", "hashed", "open", "others", "root", "size")

    def __init__(self, cap: int, root: object) -> None:
        self.cap = cap
        self.root: object = root  # until it is weighed
        self.doc = bytearray(8)
        self.data: list[bytes | memoryview] = []
        self.size = 8  # of the document and the data, plus the charge for arrays
        self.open: set[int] = set()  # ids of the containers that are being written
        self.hashed = False  # what is being written is (part of) a key or a member of a set
        self.enum_key = False  # an enum member was written as (part of) one
        self.others: dict[object, Callable[[Writer, Any], None]] | None = None

    def put(self, x: object, level: int) -> None:
        kind = type(x)
        if kind in FLAT:
            self.scalar(x)
        elif kind in CODES:
            self.container(x, CODES[kind], level)
        else:
            self.other(x, kind, level)

    def grow(self, count: int) -> None:
        self.size += count
        if self.size > self.cap:
            raise TooLarge(self.size)

    def room(self, count: int) -> None:
        if self.size + count > self.cap:
            raise TooLarge(self.size + count)

    def write(self, packed: bytes) -> None:
        self.grow(len(packed))
        self.doc += packed

    def head(self, count: int, code: int = 0) -> None:
        """The start of an array of `count` items, the type included if there is a `code`."""
        count += bool(code)
        head = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
        self.size += CHARGE
        self.write(head + (bytes((0xC7, 0, code)) if code else b""))

    def ext(self, code: int, payload: bytes) -> None:
        if len(payload) < 256:
            head = bytes((0xC7, len(payload), code))
        elif len(payload) < 1 << 32:
            head = b"\xc9" + len(payload).to_bytes(4, "big") + bytes((code,))
        else:
            raise TooLarge(self.size + len(payload))
        self.write(head)
        self.write(payload)

    def long(self, code: int, data: bytes | memoryview) -> None:
        self.ext(code, len(data).to_bytes(8, "big"))
        self.grow(len(data))
        self.data.append(data)

    def scalar(self, x: Any) -> None:
        kind = type(x)
        if kind is int:
            self.integer(x)
        elif kind is bytes:
            self.room(len(x))
            if len(x) < LONG:
                self.write(_PACK(x))
            else:
                self.long(LONG_BYTES, x)
        elif kind is str:
            self.room(len(x))
            if len(x) >= LONG:
                self.long(LONG_TEXT, x.encode("utf-8", "surrogatepass"))
                return
            try:
                self.write(_PACK(x))
            except UnicodeEncodeError:
                self.ext(TEXT, x.encode("utf-8", "surrogatepass"))
        else:
            self.write(_PACK(x))

    def integer(self, x: int) -> None:
        if -(1 << 63) <= x < 1 << 64:
            self.write(_PACK(x))
            return
        count = (x.bit_length() + 8) // 8
        self.room(count)
        self.key_number(count, x)
        self.ext(INT, x.to_bytes(count, "big", signed=True))

    def key_number(self, count: int, x: object) -> None:
        # Comparing long numbers of different types is quadratic; a key is compared by whoever
        # builds the table, and that is the host.
        if self.hashed and count > MOST_KEY:
            raise Unfit(type_name(type(x)), f"a number in a key is longer than {MOST_KEY} bytes")

    def container(self, x: Any, code: int, level: int) -> None:
        if id(x) in self.open:
            raise Unfit(type_name(type(x)), "cycle: it contains itself")
        if level > MOST_LEVELS:
            raise Unfit(type_name(type(x)), f"nested deeper than {MOST_LEVELS} levels")
        self.room(len(x))
        if self.size > WEIGH and self.root is not None:
            least, self.root = _least(self.root, {}, 1), None
            if least > self.cap:
                raise TooLarge(least)
        items: list[Any] = x
        if code != LIST:
            items = list(chain.from_iterable(x.items()) if code == DICT else x)
        if len(items) >= MOST_ITEMS:
            code |= CHUNKED
            if len(items) > (MOST_ITEMS - 1) * MOST_ITEMS:
                raise Unfit(type_name(type(x)), f"{len(x)} items are too many for one container")
        kinds = set(map(type, items))
        if kinds <= FLAT and self.flat(items, kinds, code):
            return
        self.open.add(id(x))
        self.nested(x, items, code, level)
        self.open.discard(id(x))

    def flat(self, items: list[Any], kinds: set[type], code: int) -> bool:
        """Write `items`, of flat types only, at C speed; False (and nothing written) if one of
        them needs a form of its own."""
        if not SIZED.isdisjoint(kinds):
            sizes = [len(i) for i in items if type(i) in SIZED]
            if max(sizes) >= LONG:
                return False
            self.room(sum(sizes))
        start, size = len(self.doc), self.size
        try:
            if not code & CHUNKED:
                self.size += CHARGE
                self.write(_PACK(items if code == LIST else [MARKERS[code], *items]))
                return True
            self.head(-(-len(items) // MOST_ITEMS), code)
            for at in range(0, len(items), MOST_ITEMS):
                self.size += CHARGE
                self.write(_PACK(items[at : at + MOST_ITEMS]))
        except (OverflowError, UnicodeEncodeError):  # an int beyond 64 bits, a lone surrogate
            del self.doc[start:]
            self.size = size
            return False
        return True

    def nested(self, x: Any, items: list[Any], code: int, level: int) -> None:
        if code & CHUNKED:
            self.head(-(-len(items) // MOST_ITEMS), code)
        else:
            self.head(len(items), code if code != LIST else 0)
        outer = self.hashed
        always, pairs = outer or code in HASHED, code & ~CHUNKED == DICT
        at = 0
        try:
            for at, item in enumerate(items):
                if code & CHUNKED and at % MOST_ITEMS == 0:
                    self.head(min(MOST_ITEMS, len(items) - at))
                self.hashed = always or (pairs and not at & 1)
                self.put(item, level + 1)
        except Unfit as error:
            error.steps.append(step(items, at, code & ~CHUNKED))
            raise
        self.hashed = outer
        if self.enum_key and (pairs or code in HASHED):
            check_distinct(x, items[::2] if pairs else items)

    def other(self, x: object, kind: type, level: int) -> None:
        if self.others is None:
            self.others = writers()
        write = self.others.get(kind)
        if write is not None:
            write(self, x)
            return
        enum = getattr(sys.modules.get("enum"), "Enum", None)
        if enum is not None and enum in MRO(kind):
            if level > MOST_LEVELS:
                raise Unfit(type_name(kind), f"nested deeper than {MOST_LEVELS} levels")
            self.enum_key = self.enum_key or self.hashed
            try:
                self.put(object.__getattribute__(x, "_value_"), level + 1)
            except Unfit as error:
                error.steps.append(("", ".value"))
                raise
            return
        raise Unfit(type_name(kind), advice(kind))


def _least(x: Any, known: dict[int, int], level: int) -> int:
    """Bytes that `x` takes at least. Each container is looked at once, so that a few lists that
    hold each other a million million times over are refused without writing them out."""
    if type(x) not in CODES or level > MOST_LEVELS:
        return 1
    if id(x) not in known:
        known[id(x)] = 0
        total = len(x) + 1 + CHARGE
        for part in (x, x.values()) if type(x) is dict else (x,):
            if not CODES.keys().isdisjoint(map(type, part)):
                total += sum([_least(i, known, level + 1) for i in part if type(i) in CODES])
        known[id(x)] = total
    return known[id(x)]
