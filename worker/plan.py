"""What a blueprint says, as the structures that `native/confine.c` works on. Made once by the
launcher; every init of a jail made alike has a copy of its memory."""

from __future__ import annotations

from .kernel import landlock, mounts
from .kernel._ffi import ffi
from .kernel.native import lib, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# From the kernel's asm-generic/resource.h. Not from the module that has them: every fork would have
# one more shared library.
_LIMITS = {
    "cpu": 0,
    "file_size": 1,
    "stack": 3,
    "core": 4,
    "open_files": 7,
    "locked": 8,
    "pending": 11,
    "queues": 12,
    "nice": 13,
    "realtime": 14,
}
_LAYERS = {
    "cgroup_namespace": lib.CGROUP_NAMESPACE,
    "time_namespace": lib.TIME_NAMESPACE,
    "uts_namespace": lib.UTS_NAMESPACE,
    "mdwe": lib.MDWE,
}


class Plan:
    """`struct plan` as `pointer`, and all it points to."""

    def __init__(self, blueprint: dict[str, Any]) -> None:
        self._kept: list[object] = []
        layers = blueprint["layers"]
        options, executable = blueprint["scratch"]
        level, rules = blueprint["landlock"] if "landlock" in layers else (0, [])
        cpus = _mask(blueprint["cpus"])
        self.pointer = ffi.new("struct plan *")
        plan = self.pointer
        plan.layers = sum(_LAYERS.get(name, 0) for name in layers)
        plan.scratch = self._array("option", [self._option(*each) for each in options.items()])
        plan.scratch_count = len(options)
        plan.scratch_flags = mounts.NOSUID | mounts.NODEV | (0 if executable else mounts.NOEXEC)
        plan.limits = self._array("limit", [_limit(*each) for each in blueprint["rlimits"].items()])
        plan.limit_count = len(blueprint["rlimits"])
        plan.cpus, plan.cpus_size = self._bytes(cpus), len(cpus)
        plan.landlock_abi = level
        plan.rules = self._array("beneath", [self._rule(*each) for each in rules])
        plan.rule_count = len(rules)
        plan.first_filter = self._filter(blueprint["first_filter"])
        plan.last_filter = self._filter(blueprint["last_filter"])

    def _keep(self, made: Any) -> Any:
        self._kept.append(made)
        return made

    def _array(self, kind: str, items: list[dict[str, Any]]) -> Any:
        return self._keep(ffi.new(f"struct {kind}[]", items))

    def _bytes(self, data: bytes) -> Any:
        return self._keep(ffi.new("char[]", data))

    def _option(self, key: str, value: str) -> dict[str, Any]:
        return {"key": self._bytes(text(key)), "value": self._bytes(text(value))}

    def _rule(self, path: str, meaning: str) -> dict[str, Any]:
        return {"path": self._bytes(text(path)), "rights": landlock.MEANING[meaning]}

    def _filter(self, program: bytes) -> dict[str, Any]:
        return {"instructions": self._bytes(program), "count": len(program) // 8}


def _limit(name: str, value: int) -> dict[str, int]:
    # At the soft limit of CPU time there is a SIGXCPU, at the hard one only a SIGKILL.
    soft = value - 1 if name == "cpu" and value > 1 else value
    return {"resource": _LIMITS[name], "soft": soft, "hard": value}


def _mask(cpus: list[int]) -> bytes:
    """As sched_setaffinity(2) takes it."""
    if not cpus:
        return b""
    bits = sum(1 << cpu for cpu in cpus)
    return bits.to_bytes(-(-(max(cpus) + 1) // 64) * 8, "little")
