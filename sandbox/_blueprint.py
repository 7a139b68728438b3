"""Everything about a jail that two sandboxes made alike have in common, worked out once: the file
tree, the filters, the Landlock rules. The launcher keeps each under its key and is sent it once.
Every jail of a launcher is a copy of its memory: nothing that is one sandbox's own is in here."""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import msgpack

from . import _cpuset
from ._layers import Layers
from ._models import Limits, Mount
from ._mounted import mounted_root
from ._policy import Policy
from ._root import RootPlan, plan_root
from ._rules import Rule
from ._seccomp import compile_filters


@dataclass(frozen=True)
class Blueprint:
    """`content` is what the launcher gets, `key` its digest, `targets` every mount there will be
    → whether it is writable, `scratch` how many bytes and inodes the writable places have,
    `cpuset` the CPUs it runs on (None: any)."""

    key: str
    content: Mapping[str, Any]
    targets: Mapping[str, bool]
    scratch: tuple[int, int]
    layers: Layers
    cpuset: str | None = None


def root_for(packages: tuple[tuple[str, str], ...], mounts: tuple[Mount, ...]) -> RootPlan:
    """The planned root. Callers' mounts are looked at anew each time; the rest of a process's
    surroundings (its interpreter, packages, working directory) once. Raises TypeError, ValueError.
    """
    plain = _plain_root(packages, _surroundings())
    return mounted_root(plain, mounts) if mounts else plain


@lru_cache(maxsize=32)
def _plain_root(packages: tuple[tuple[str, str], ...], surroundings: object) -> RootPlan:
    return plan_root(packages)


def _surroundings() -> object:
    try:
        here = os.getcwd()
    except FileNotFoundError:
        here = ""
    return here, getattr(sys.modules.get("__main__"), "__file__", None)


class Drawings:
    """The blueprints of one process, by what went into them."""

    def __init__(self) -> None:
        self._drawn: dict[object, tuple[Policy, RootPlan, Blueprint]] = {}

    def get(
        self,
        policy: Policy,
        root: RootPlan,
        limits: Limits,
        layers: Layers,
        landlock: int,
    ) -> Blueprint:
        """The blueprint for a jail. Raises PolicyError, Unsupported."""
        rlimits = _rlimits(limits, layers)
        scratch = (int(limits.disk), limits.inodes)
        # By identity: hashing a policy's rules takes longer than all else here. Both are kept with
        # the blueprint, so that no other object can have their identity meanwhile.
        made_of = (id(policy), id(root), scratch, rlimits, layers, landlock, limits.cpuset)
        found = self._drawn.get(made_of)
        if found is None:
            if len(self._drawn) >= 64:
                self._drawn.clear()
            settings = {
                "scratch": [_scratch(*scratch), _executes_scratch(policy)],
                "rlimits": dict(rlimits),
                "cpus": sorted(_cpuset.parse(limits.cpuset)) if limits.cpuset else [],
            }
            pinned = _pinned(policy) if limits.cpuset else policy
            drawn = _draw(pinned, root, scratch, layers, landlock, settings)
            drawn = replace(drawn, cpuset=limits.cpuset)
            found = self._drawn[made_of] = (policy, root, drawn)
        return found[2]


def _draw(
    policy: Policy,
    root: RootPlan,
    scratch: tuple[int, int],
    layers: Layers,
    landlock: int,
    settings: Mapping[str, Any],
) -> Blueprint:
    filters = compile_filters(policy)
    content = {
        **settings,
        "root": root.request,
        "namespaces": sorted(layers.namespaces),
        "layers": layers.names,
        "first_filter": filters.first,
        "last_filter": filters.last,
        "landlock": [landlock, _landlock_rules(policy, root)],
    }
    key = hashlib.sha256(msgpack.packb(content)).hexdigest()
    return Blueprint(key, content, root.targets(), scratch, layers)


def _pinned(policy: Policy) -> Policy:
    """The same policy for guests that may not choose their CPUs."""
    name = "sched_setaffinity"
    refusal = Rule("refuse", (name,), "the caller has chosen the CPUs", errno="EPERM")
    rules = []
    for rule in policy.rules:
        calls = tuple(call for call in rule.calls if call != name)
        rules += [replace(rule, calls=calls)] if calls else []
    return replace(policy, rules=(*rules, refusal))


def _scratch(size: int, inodes: int) -> dict[str, str]:
    return {"size": str(size), "nr_inodes": str(inodes), "mode": "0755"}


def _rlimits(limits: Limits, layers: Layers) -> tuple[tuple[str, int], ...]:
    found = {
        "open_files": limits.open_files,
        "stack": int(limits.stack),
        # 1, not 0: with a piped core_pattern 0 still runs the host's handler as root.
        "core": 1,
        "queues": 0,
        # Whatever the application's own are: a real-time task would stand above the cap on CPUs.
        "realtime": 0,
        "nice": 0,
        "pending": 1024,
        "locked": 64 << 10,
    }
    if limits.file_size is not None:
        found["file_size"] = int(limits.file_size)
    if "cgroup" in dict(layers.missing) and limits.cpu_time is not None:
        # Soft at the limit, hard a second later: see worker/plan.py.
        found["cpu"] = math.ceil(limits.cpu_time) + 1
    return tuple(found.items())


def _landlock_rules(policy: Policy, root: RootPlan) -> Sequence[tuple[str, str]]:
    names = {"@mounts": root.writable, "@interpreter": root.interpreter}
    rules: list[tuple[str, str]] = []
    for path, right in policy.landlock:
        rules += [(place, right) for place in names.get(path, (path,))]
    return rules


def _executes_scratch(policy: Policy) -> bool:
    return any(right == "execute" and path in ("/tmp", "/work") for path, right in policy.landlock)


DRAWINGS = Drawings()
