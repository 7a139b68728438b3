"""Rules: one decision each, about system calls or files, with its reason. Frozen values, checked at
construction. Runs on the host."""

from __future__ import annotations

import errno as _errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ._errors import PolicyError
from ._kernel_tables import kernel_names

LOW32 = 0xFFFF_FFFF
ERRNOS = {n: getattr(_errno, n) for n in dir(_errno) if n.startswith("E")}

_RIGHTS = ("read", "write", "execute")
_PLACES = ("@interpreter", "@mounts")


class RuleError(PolicyError):
    """A `PolicyError` that knows which word is at fault, so that a reader finds its line."""

    def __init__(self, text: str, word: str = "") -> None:
        super().__init__(text)
        self.word = word


@dataclass(frozen=True)
class Condition:
    """Holds if argument `arg` (0 to 5) AND `mask` is one of `values`. Only the low 32 bits of the
    argument are compared, as the kernel does for int arguments: use it for those alone."""

    arg: int
    values: tuple[int, ...]
    mask: int = LOW32

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        if not is_int(self.arg) or not 0 <= self.arg <= 5:
            raise RuleError("an argument is a number from 0 to 5", "arg")
        for number in (self.mask, *self.values):
            if not is_int(number) or not 0 <= number <= LOW32:
                raise RuleError("masks and values are numbers of 32 bits, not negative", "arg")
        if not self.values or len(set(self.values)) != len(self.values):
            raise RuleError("a condition needs one value or several different ones", "arg")
        if not self.mask or any(value & ~self.mask for value in self.values):
            raise RuleError("a value outside the mask can never match", "mask")

    def holds(self, args: Sequence[int]) -> bool:
        return args[self.arg] & self.mask in self.values


@dataclass(frozen=True)
class Rule:
    """One decision with its reason.

    Attributes:
        action: "allow"; "refuse" with `errno`; or "violation", which ends the call.
        calls: names of system calls.
        reason: why; required.
        when: conditions that must all hold ("allow" only); other arguments get EPERM. Several
            rules for one call are alternatives.
        errno: name of the error of a refusal.
    """

    action: Literal["allow", "refuse", "violation", "never"]
    calls: tuple[str, ...]
    reason: str
    when: tuple[Condition, ...] = ()
    errno: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.calls, str):
            raise RuleError(f"calls = {self.calls!r} is not a list of names", self.calls)
        object.__setattr__(self, "calls", tuple(self.calls))
        object.__setattr__(self, "when", tuple(self.when))
        if self.action not in ("allow", "refuse", "violation", "never"):
            raise RuleError(f"unknown action {self.action!r}", self.action)
        if not self.calls:
            raise RuleError("a rule needs system calls", "calls")
        for call in self.calls:
            if not isinstance(call, str):
                raise RuleError("calls are names of system calls, in quotes", "calls")
            if call not in kernel_names().numbers:
                raise RuleError(f"unknown system call {call!r}", call)
        require_reason(self.reason, f"the rule for {self.calls[0]}", self.calls[0])
        if self.when and self.action not in ("allow", "never"):
            raise RuleError(f"{self.action} has no conditions; allow what may pass", "when")
        if len({condition.arg for condition in self.when}) != len(self.when):
            raise RuleError("two conditions on one argument; write a second rule", "when")
        if (self.action == "refuse") != bool(self.errno) or self.errno not in ("", *ERRNOS):
            raise RuleError(f"{self.action} with unknown errno {self.errno!r}", self.errno)


@dataclass(frozen=True)
class FileRule:
    """Paths below which the guest may "read", "write" (and read) or "execute" (Landlock, Linux
    5.13). "@interpreter" stands for the interpreter's own folders, "@mounts" for the mounts that
    the caller made writable."""

    right: Literal["read", "write", "execute"]
    paths: tuple[str, ...]
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", tuple(self.paths))
        if self.right not in _RIGHTS:
            raise RuleError(
                f"unknown right {self.right!r}; one of {', '.join(_RIGHTS)}", self.right
            )
        for path in self.paths:
            if not isinstance(path, str):
                raise RuleError("paths are strings", "paths")
            if "\0" in path or not _is_place(path):
                raise RuleError(f"{path!r} is no absolute, plain path nor a known place", path)
        require_reason(self.reason, f"the right to {self.right}", self.right)


def implies(narrow: Condition, wide: Condition) -> bool:
    """Whether `wide` holds wherever `narrow` does."""
    return (
        narrow.arg == wide.arg
        and not wide.mask & ~narrow.mask
        and all(value & wide.mask in wide.values for value in narrow.values)
    )


def require_reason(reason: object, what: str, word: str) -> None:
    if not isinstance(reason, str) or not reason.strip():
        raise RuleError(f"{what} needs a reason", word)


def is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_place(path: str) -> bool:
    return path in _PLACES or (path.startswith("/") and os.path.normpath(path) == path)
