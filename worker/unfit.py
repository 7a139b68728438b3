"""What keeps a value from travelling, in words: its type, where it sits, and what to do."""

from __future__ import annotations

from .encoding import CODES, DICT, FLAT, FROZENSET, SET, SIZED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What a class says of itself can be a property of its metaclass; these ask the interpreter.
_QUALNAME = type.__dict__["__qualname__"].__get__
_MODULE = type.__dict__["__module__"].__get__
MRO = type.__dict__["__mro__"].__get__


class Unfit(Exception):
    """The value cannot leave the jail: `where` it holds what it may not (``result['a'][3]``), the
    `type_name` of that, and the `reason`."""

    def __init__(self, type_name: str, reason: str) -> None:
        super().__init__(type_name, reason)
        self.type_name = type_name
        self.reason = reason
        self.steps: list[tuple[str, str]] = []

    @property
    def where(self) -> str:
        text = "result"
        for before, after in reversed(self.steps):
            text = before + text + after
        return text if len(text) <= 2000 else text[:900] + " ... " + text[-900:]


class TooLarge(Exception):
    """The value takes `at_least` this many bytes, more than the cap."""

    def __init__(self, at_least: int) -> None:
        self.at_least = min(at_least, 1 << 62)  # what a frame can say
        super().__init__(self.at_least)


def type_name(kind: type) -> str:
    """``socket.socket``, or ``int`` for a builtin; plain text whatever the class says."""
    module, name = "", "?"
    try:
        name, module = _QUALNAME(kind), _MODULE(kind)
    except AttributeError:
        pass
    if type(module) is str and module not in ("", "builtins"):
        name = f"{module[:400]}.{name[:400]}"
    return name[:900].encode("utf-8", "backslashreplace").decode()


def step(items: list[Any], at: int, code: int) -> tuple[str, str]:
    """What comes before and after the path so far, for item `at` of a container."""
    if code in (SET, FROZENSET):
        return "list(", f")[{at}]"
    if code != DICT:
        return "", f"[{at}]"
    if not at & 1:
        return "list(", f")[{at >> 1}]"
    key = items[at - 1]
    if type(key) in SIZED and len(key) > 60:
        return "", f"[{key[:60]!r}...]"
    if type(key) in FLAT and (type(key) is not int or key.bit_length() < 200):
        return "", f"[{key!r}]"
    return "list(", f".values())[{at >> 1}]"


def advice(kind: type) -> str:
    """Why values of a type do not travel, and what would."""
    if kind is bytearray or kind is memoryview:
        return "not a type that travels: return bytes(...) instead"
    for base in MRO(kind)[1:]:
        if base in CODES or (base in FLAT and base is not bool):
            name = base.__name__
            return f"a subclass of {name} does not travel: return {name}(...) instead"
    return "not a type that travels"
