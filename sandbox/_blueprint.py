"""Everything about a jail that two sandboxes made alike have in common, worked out once: the file
tree, the filters, the Landlock rules. The launcher keeps each under its key and is sent it once."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgpack

from ._layers import Layers
from ._models import Limits, Mount
from ._policy import Policy
from ._root import RootPlan, plan_root
from ._seccomp import compile_filters


@dataclass(frozen=True)
class Blueprint:
    """`content` is what the launcher gets, `key` its digest, `targets` every mount there will be
    → whether it is writable."""

    key: str
    content: Mapping[str, Any]
    targets: Mapping[str, bool]
    layers: Layers


def root_for(visible: tuple[str, ...], mounts: tuple[Mount, ...]) -> RootPlan:
    """The planned root. Callers' mounts are looked at anew each time; the rest of a process's
    surroundings (its interpreter, packages, working directory) once. Raises ValueError."""
    if mounts:
        return plan_root(visible, mounts)
    return _plain_root(visible, _surroundings())


@lru_cache(maxsize=32)
def _plain_root(visible: tuple[str, ...], surroundings: object) -> RootPlan:
    return plan_root(visible, ())


def _surroundings() -> object:
    try:
        here = os.getcwd()
    except FileNotFoundError:
        here = ""
    return here, getattr(sys.modules.get("__main__"), "__file__", None)


class Drawings:
    """The blueprints of one process, by what went into them."""

    def __init__(self) -> None:
        self._drawn: dict[object, Blueprint] = {}

    def get(
        self, policy: Policy, root: RootPlan, limits: Limits, layers: Layers, landlock: int
    ) -> Blueprint:
        """The blueprint for a jail. Raises PolicyError, Unsupported."""
        made_of = (policy, id(root), limits.disk, limits.inodes, layers, landlock)
        found = self._drawn.get(made_of)
        if found is None or found.content["root"] is not root.request:
            if len(self._drawn) >= 64:
                self._drawn.clear()
            found = self._drawn[made_of] = _draw(policy, root, limits, layers, landlock)
        return found


def _draw(
    policy: Policy, root: RootPlan, limits: Limits, layers: Layers, landlock: int
) -> Blueprint:
    filters = compile_filters(policy)
    scratch = {"size": str(limits.disk), "nr_inodes": str(limits.inodes), "mode": "0755"}
    content = {
        "root": root.request,
        "namespaces": sorted(layers.namespaces),
        "layers": layers.names,
        "first_filter": filters.first,
        "last_filter": filters.last,
        "landlock": [landlock, _landlock_rules(policy, root)],
        "scratch": [scratch, _executes_scratch(policy)],
    }
    key = hashlib.sha256(msgpack.packb(content)).hexdigest()
    return Blueprint(key, content, root.targets(), layers)


def _landlock_rules(policy: Policy, root: RootPlan) -> Sequence[tuple[str, str]]:
    names = {"@mounts": root.writable, "@interpreter": root.interpreter}
    rules: list[tuple[str, str]] = []
    for path, right in policy.landlock:
        rules += [(place, right) for place in names.get(path, (path,))]
    return rules


def _executes_scratch(policy: Policy) -> bool:
    return any(right == "execute" and path in ("/tmp", "/work") for path, right in policy.landlock)  # noqa: S108


DRAWINGS = Drawings()
