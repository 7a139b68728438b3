"""The environment of guests: a fixed list, and what the caller adds."""

from __future__ import annotations

from collections.abc import Mapping

GUEST_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/work",
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    # One BLAS thread: others count against Limits.processes, and OpenBLAS aborts without them.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}

# Well below what one message to a jail's init may hold.
_MOST_ENVIRONMENT = 64 << 10
_MOST_VARIABLES = 2048


def checked_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Raises TypeError, ValueError."""
    if not isinstance(env, Mapping):
        raise TypeError(f"env: expected a mapping of names, not {type(env).__name__}")
    if len(env) > _MOST_VARIABLES:
        raise ValueError(f"env: {len(env)} variables are more than {_MOST_VARIABLES}")
    size = 0
    for name, value in env.items():
        _check_variable(name, value)
        try:
            size += len(f"{name}={value}".encode())
        except UnicodeEncodeError:
            raise ValueError(
                f"env: {name!r} or its value is not text that UTF-8 can hold"
            ) from None
    if size > _MOST_ENVIRONMENT:
        raise ValueError(f"env: {size} bytes of names and values are more than {_MOST_ENVIRONMENT}")
    return dict(env)


def _check_variable(name: object, value: object) -> None:
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(f"env: {name!r}: names and values are strings")
    if not name or "=" in name or "\0" in name:
        raise ValueError(f"env: {name!r} is not a name: it is empty, or holds '=' or a NUL")
    if "\0" in value:
        raise ValueError(f"env: the value of {name!r} holds a NUL")
