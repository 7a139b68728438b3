"""The mechanisms of worker/native, one by one, as functions that raise OSError. In production only
`native/confine.c` calls most of them."""

from __future__ import annotations

import os
from typing import Any

from worker.kernel._ffi import ffi
from worker.kernel.native import lib
from worker.plan import Plan

_NEW_LISTENER = 1 << 3
_NOTHING = {"layers": [], "scratch": [{}, False], "cpus": [], "rlimits": {}, "landlock": [0, []]}
_FILTERS = {"first_filter": b"", "last_filter": b""}


def checked(result: int) -> int:
    """What the function answered. Raises OSError."""
    if result < 0:
        number = ffi.errno
        raise OSError(number, os.strerror(number))
    return result


def plan(**settings: Any) -> Plan:
    """A blueprint's structures that ask for nothing but `settings`."""
    return Plan({**_NOTHING, **_FILTERS, **settings})


def clone(flags: int) -> tuple[int, int]:
    """A child in fresh namespaces: pid and pidfd, or (0, -1) in it."""
    pidfd = ffi.new("int *", -1)
    pid = checked(lib.clone_into(flags, pidfd))
    return pid, pidfd[0] if pid else -1


def drop_capabilities() -> None:
    """Empty all five sets."""
    checked(lib.cap_drop_all())


def ruleset(level: int, rules: list[tuple[str, str]]) -> int:
    """A Landlock ruleset of that ABI; its descriptor."""
    made = plan(layers=["landlock"], landlock=[level, rules])
    return checked(lib.landlock_ruleset(level, made.pointer.rules, len(rules)))


def restrict(descriptor: int) -> None:
    """Enter a Landlock domain."""
    checked(lib.landlock_enter(descriptor))


def load(program: bytes, *, listener: bool = False) -> int:
    """Install a seccomp filter."""
    made = plan(last_filter=program)
    flags = _NEW_LISTENER if listener else 0
    return checked(lib.load_filter(ffi.addressof(made.pointer, "last_filter"), flags))


def limit(wished: dict[str, int]) -> None:
    """Set resource limits."""
    made = plan(rlimits=wished)
    for number in range(len(wished)):
        checked(lib.set_limit(made.pointer.limits + number))


def start_clocks_at_zero() -> None:
    """A time namespace for children."""
    checked(lib.timens_start_at_zero())


def no_new_privileges() -> None:
    """PR_SET_NO_NEW_PRIVS."""
    checked(lib.nnp_set())


def deny_writable_code() -> None:
    """PR_SET_MDWE."""
    checked(lib.mdwe_enable())


def die_with_parent() -> None:
    """PR_SET_PDEATHSIG."""
    checked(lib.pdeathsig_kill())


def set_dumpable(value: bool) -> None:
    """PR_SET_DUMPABLE."""
    checked(lib.dumpable_set(value))


def join_new_keyring() -> None:
    """An empty session keyring."""
    checked(lib.keyring_join_new())


def close_range(first: int, last: int) -> None:
    """Close descriptors."""
    checked(lib.close_from(first, last))


def pivot_into(root: int) -> None:
    """Make a mount the root, and detach all else."""
    checked(lib.pivot_into(root))
