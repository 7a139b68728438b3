"""What every part of the decoder raises."""

from __future__ import annotations


class ValueRejected(ValueError):
    """The bytes are not an encoded value, or one that this host takes; the message says why and
    never quotes them."""
