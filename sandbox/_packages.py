"""Where the packages a guest may import lie inside.

Not at their host paths: those may lie below a place that is the jail's own (/tmp, /work), and tell
of the host. They are shown below /sys, which a jail has no other use for, and the launcher, which
imports what is preloaded, sees them at the same paths: a module's `__path__` stays true inside.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

from ._visible import Visible, own_paths

_BASE = "/sys/site"
# What init itself imports late, from a place that no guest can write to.
OWN = f"{_BASE}/own"


@dataclass(frozen=True)
class Packages:
    """`shown` holds (host path, path inside), `sys_path` the folders for the guest's `sys.path`."""

    shown: tuple[tuple[str, str], ...]
    sys_path: tuple[str, ...]


def place(visible: Visible) -> Packages:
    """Give each of the visible packages its place inside."""
    roots = {root: f"{_BASE}/{index}" for index, root in enumerate(visible.sys_path)}
    shown = []
    for path in visible.paths:
        root = max((root for root in roots if path.startswith(f"{root}/")), key=len)
        shown.append((path, f"{roots[root]}/{os.path.relpath(path, root)}"))
    return Packages(tuple(shown), tuple(roots.values()))


@cache
def own_packages() -> tuple[tuple[str, str], ...]:
    """cloudpickle, for functions that need it: shown in every jail, not on its `sys.path`."""
    folders = (os.path.join(path, "cloudpickle") for path in own_paths())
    return tuple((folder, f"{OWN}/cloudpickle") for folder in folders if os.path.isdir(folder))[:1]
