"""What was in force during one call: the record of what was observed from outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._models import Isolation

if TYPE_CHECKING:
    from ._cgroup import CallGroup
    from ._jail import Jail


def isolation_of(jail: Jail, group: CallGroup | None, worker: Mapping[str, Any]) -> Isolation:
    """What was seen of the jail and of the `worker`, and the limits as the kernel shows them now.

    Raises:
        SetupError, OSError: a control file cannot be read.
    """
    seen, layers = jail.seen, jail.blueprint.layers
    limits = {f"jail.{name}": value for name, value in jail.limits.items()}
    if group is not None:
        limits |= {f"call.{name}": value for name, value in group.read_back().items()}
    limits |= {f"rlimit.{name}": value for name, value in seen.rlimits.items()}
    if jail.blueprint.cpuset is not None:
        limits["cpuset"] = seen.cpus
    return Isolation(
        namespaces=seen.namespaces,
        shared_namespaces=seen.shared,
        worker={**worker, **seen.id_maps},
        root=seen.mounts,
        limits=limits,
        missing=dict(layers.missing),
        unobserved=layers.unobserved,
    )
