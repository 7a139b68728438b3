"""The host's decoder of a guest's return value: hostile bytes in, plain values out."""

from ._reader import decode_value
from ._rejected import ValueRejected

__all__ = ["ValueRejected", "decode_value"]
