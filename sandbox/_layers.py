"""Which layers a jail gets on this kernel, what is missing, and who allowed that.

A layer that cannot be put in force is `Unsupported` unless the caller waived it by name; two are
taken only where the kernel has them. Waiving never switches off a layer that is there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ._errors import Unsupported

WAIVABLE = frozenset({"cgroup", "landlock", "mdwe", "time_namespace"})
# Taken where the kernel has them; their absence is recorded, not refused.
_WHERE_AVAILABLE = {
    "mdwe": "PR_SET_MDWE needs Linux 6.3",
    "time_namespace": "time namespaces need Linux 5.6, built with CONFIG_TIME_NS",
}
NAMESPACES = frozenset({"user", "pid", "mount", "net", "ipc", "uts", "cgroup"})


@dataclass(frozen=True)
class Layers:
    """`names` is what the set-up is asked to apply; `missing` holds pairs of a layer and why it
    is not in force."""

    names: tuple[str, ...]
    namespaces: frozenset[str]
    missing: tuple[tuple[str, str], ...]
    unobserved: tuple[str, ...]


def check_waivers(names: Collection[str]) -> frozenset[str]:
    """The set of waived layers. Raises ValueError or TypeError."""
    if isinstance(names, str):
        raise TypeError("allow_missing: expected a collection of names, not one string")
    unknown = set(names) - WAIVABLE
    if unknown:
        raise ValueError(
            f"allow_missing: {', '.join(sorted(map(str, unknown)))} cannot be waived; "
            f"what can: {', '.join(sorted(WAIVABLE))}"
        )
    return frozenset(names)


def choose_layers(
    facts: Mapping[str, Any], waived: Collection[str], *, mdwe: bool, no_cgroup: str
) -> Layers:
    """Decide from the launcher's `facts` about the kernel. `mdwe` is the policy's wish; `no_cgroup`
    says why there are no control groups ("" if there are). Raises Unsupported."""
    names = ["uts_namespace", "cgroup_namespace"]
    missing: dict[str, str] = {}
    for name, reason in _WHERE_AVAILABLE.items():
        if name == "mdwe" and not mdwe:
            missing[name] = "the policy leaves it off"
        elif facts[name]:
            names.append(name)
        else:
            missing[name] = reason
    if facts["landlock"]:
        names.append("landlock")
    else:
        missing["landlock"] = "this kernel has no Landlock, or it is not among its active LSMs"
        if "landlock" not in waived:
            raise Unsupported(
                "landlock",
                missing["landlock"],
                "It needs Linux 5.13 and lsm=landlock,... on the kernel's command line; or accept "
                "its absence with allow_missing={'landlock'}.",
            )
    if no_cgroup:
        missing["cgroup"] = no_cgroup
    namespaces = NAMESPACES | ({"time"} if "time_namespace" in names else set())
    unobserved: tuple[str, ...] = tuple(name for name in ("landlock", "mdwe") if name in names)
    unobserved += ("securebits", "session_keyring")
    return Layers(tuple(names), namespaces, tuple(missing.items()), unobserved)
