"""Whether this system and this Python can run a sandbox at all. Imported before anything else of
this package, also where the rest cannot be: nothing here, and nothing that is imported here, needs
Linux, a third party's package, or a Python above 3.8."""

from __future__ import annotations

import os
import sys

from . import _paths
from ._errors import Unsupported

# Those there are filters for: see sandbox/_seccomp.py.
_MACHINES = ("x86_64", "aarch64")
_NEEDED = "Use CPython 3.11 or newer."


def check_system() -> None:
    """Raises Unsupported where the rest of this package cannot be imported."""
    if sys.platform != "linux":
        remedy = "Run it on Linux, in a virtual machine if need be."
        raise Unsupported("platform", f"a sandbox needs Linux, and this is {sys.platform}", remedy)
    if sys.version_info < (3, 11):  # noqa: UP036 (a checkout on a path was never installed)
        running = ".".join(map(str, sys.version_info[:2]))
        raise Unsupported("platform", f"this is Python {running}", _NEEDED)


def check_platform() -> None:
    """Raises Unsupported where no sandbox can be made, whatever is asked for."""
    check_system()
    if sys.implementation.name != "cpython":
        raise Unsupported("platform", f"this Python is {sys.implementation.name}", _NEEDED)
    if sys.maxsize < 1 << 32:
        # On a 64-bit kernel: its calls have the numbers of another architecture than `uname -m`.
        raise Unsupported("platform", "this is a 32-bit Python", "Use a 64-bit one.")
    machine = os.uname().machine
    if machine not in _MACHINES:
        remedy = f"Use {' or '.join(_MACHINES)}."
        raise Unsupported("platform", f"there are no filters for {machine}", remedy)
    if not os.path.exists(_paths.NATIVE):
        raise Unsupported(
            "platform",
            f"{_paths.NATIVE} is not there: this is a checkout that was never installed",
            "Install it (pip install -e .); it takes a C compiler (apt-get install gcc libc6-dev).",
        )
