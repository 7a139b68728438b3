"""The compiled part of this program, `worker/native/`: a jail's init, and what runs between a fork
and guest code. `lib` has the functions and constants of `native/native.h`."""

from __future__ import annotations

import os

from ._ffi import ffi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_WORKER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _open() -> Any:
    """Raises ImportError: what was compiled is of another version than this file."""
    lib = ffi.dlopen(os.path.join(_WORKER, "_native.abi3.so"))
    declared = [ffi.sizeof(f"struct {name}") for name in ("plan", "jail", "call")]
    if list(lib.native_sizes) != declared:
        raise ImportError("worker/_native.abi3.so is of another version; install sandbox again")
    return lib


lib = _open()
_pidfd = ffi.new("int *")


def text(value: str) -> bytes:
    """For a `const char *`. Raises ValueError for a NUL, at which C would cut it off."""
    data = os.fsencode(value)
    if b"\0" in data:
        raise ValueError(f"{value!r} holds a NUL")
    return data


def jail(plan: Any, control: int, tree: int, mapped: int, groups: list[int]) -> Any:
    """`struct jail` for a new init."""
    made = ffi.new("struct jail *")
    made.plan = plan
    made.control, made.tree, made.mapped = control, tree, mapped
    made.groups = [*groups, *(-1,) * (lib.MOST_GROUPS - len(groups))]
    made.scratch = made.ruleset = made.listener = -1
    return made


def call() -> Any:
    """`struct call`, for init to fill."""
    return ffi.new("struct call *")


def start_init(namespaces: int, jail: Any, call: Any) -> tuple[int, int]:
    """pid and pidfd of a new jail's init; (0, -1) in init, when its first call is there that needs
    Python. Raises OSError."""
    pid = int(lib.start_init(namespaces, jail, call, _pidfd))
    if pid < 0:
        raise OSError(ffi.errno, os.strerror(ffi.errno), "clone3")
    return (pid, _pidfd[0]) if pid else (0, -1)


def go(jail: Any) -> bytes:
    """The host's message on which init began to serve."""
    return bytes(ffi.buffer(jail.go, jail.go_size))
