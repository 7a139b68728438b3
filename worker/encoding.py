"""The encoding of a value, for whoever writes it here or reads it on the host.

8 bytes (big-endian length of the document), the document, then the long byte strings it refers
to, in order. The document is msgpack without maps (msgpack interns the keys of maps, and an
interned string is never freed on CPython 3.12): None, bool, float, str, bytes, 64-bit ints and
lists as themselves; other containers as an array that starts with an empty extension, its type;
other scalars as an extension. An array holds at most 8192 items, because a reader allocates by
the length an array claims: a longer container has the bit 0x40 in its type and holds lists of its
items. Each array counts 8 bytes more than it takes, so that a value on the host cannot be out of
proportion to its cap. An array of numpy's is its dtype (a text, or [bytes of a record, [name,
offset, dtype, *shape], ...]), its data and its shape.
"""

from __future__ import annotations

import msgpack

LIST, TUPLE, SET, FROZENSET, DICT, ARRAY, ARRAY_SCALAR = range(1, 8)
CHUNKED = 0x40
INT, TEXT, COMPLEX, DECIMAL, FRACTION, UUID, DATETIME, DATE, TIME, TIMEDELTA = range(16, 26)
LONG_BYTES, LONG_TEXT, LONG_DATA = range(26, 29)

MOST_LEVELS = 100
MOST_ITEMS = 8192
MOST_FRACTION = 1024  # bytes of a numerator or denominator
MOST_DECIMAL = 1 << 20  # characters
MOST_KEY = 1024  # bytes of a number that is hashed, alone or in a tuple
WEIGH = 4 << 20  # bytes from which the whole value is weighed once before more is written
LONG = 16 << 10  # bytes from which data is referred to, not copied
CHARGE = 8

FLAT = frozenset((type(None), bool, int, float, str, bytes))
SIZED = frozenset((str, bytes))
CODES: dict[type, int] = {list: LIST, tuple: TUPLE, set: SET, frozenset: FROZENSET, dict: DICT}
MARKERS = {c: msgpack.ExtType(c, b"") for b in range(1, 8) for c in (b, b | CHUNKED)}
HASHED = (SET, FROZENSET, SET | CHUNKED, FROZENSET | CHUNKED)
