"""The values that cross the public API: frozen, checked when made, without behaviour."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal

from . import _cpuset

Status = Literal[
    "ok",
    "exception",
    "nonzero_exit",
    "signaled",
    "cpu_time_limit",
    "wall_time_limit",
    "memory_limit",
    "output_limit",
    "disk_limit",
    "process_limit",
    "policy_violation",
    "result_invalid",
    "result_too_large",
    "cancelled",
    "internal_error",
]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:iB)?", re.ASCII)

# Above these a limit is a mistake, not a wish: 2**50 bytes, 100 days.
_MOST_BYTES = 1 << 50
_MOST_SECONDS = 100 * 86400
# glibc gives every thread that much of the address space, and a thread that it cannot give it to
# does not start.
_MOST_STACK = 1 << 34


def _size(name: str, value: object, least: int, most: int) -> int:
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError(
                f"{name}: {value!r:.60} is not a size; write bytes or '64K', '256M', '1G'"
            )
        size = float(match[1]) * _UNITS[match[2]]
        if size > most:  # infinite, too, as more than 308 digits are
            raise ValueError(f"{name}: {value!r:.60} is outside {least} to {most} bytes")
        value = int(size)
    return _count(name, value, least, most, "bytes")


def _count(name: str, value: object, least: int, most: int, unit: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected a number of {unit}, not {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{name}: {_shown(value)} is outside {least} to {most} {unit}")
    return value


def _number(name: str, value: object, least: float, most: float, unit: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number of {unit}, not {type(value).__name__}")
    # Compared as it is: NaN is in no range, and an int may be too long for a float.
    if not least <= value <= most:
        raise ValueError(f"{name}: {_shown(value)} is outside {least} to {most} {unit}")
    return float(value)


def _cpus(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a list of CPUs like '0-3', not {type(value).__name__}")
    try:
        return _cpuset.shown(_cpuset.parse(value))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _shown(value: float) -> str:
    """An int of more than 4300 digits has no text: str() of it is a ValueError."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an int of {value.bit_length()} bits"
    return str(value)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one call may use. Seconds are seconds, sizes are bytes or strings like ``"256M"``
    (binary units). ``None`` means unlimited and has to be written.

    Attributes:
        wall_time: seconds from the guest's start to its end.
        cpu_time: seconds of CPU, user and system, summed over every process of the call (cgroup).
        memory: bytes of memory of all processes together, kernel memory included (cgroup). Files
            in the writable places are memory too; the group's cap is `memory` + `disk`.
        swap: bytes of swap on top of `memory`. 0 closes swap.
        processes: processes and threads alive at once (cgroup pids controller).
        open_files: file descriptors of one process (RLIMIT_NOFILE).
        file_size: bytes of one file (RLIMIT_FSIZE).
        output: bytes of stdout and stderr together; more ends the call.
        result: bytes of the encoded return value.
        disk: bytes in the writable places of the jail, all calls together.
        inodes: files and folders in the writable places.
        stack: bytes of the main thread's stack (RLIMIT_STACK); 16 GiB at most.
        cpus: how many CPUs' worth of time per second (CFS bandwidth).
        cpuset: the CPUs it may run on, as the kernel lists them: ``"0-3,6"``; ``None``: those of
            the application (sched_setaffinity(2); the guest cannot change it then).

    Raises:
        TypeError, ValueError: at construction, naming the field.
    """

    wall_time: float | None = 10.0
    cpu_time: float | None = 5.0
    memory: int | str | None = 256 << 20
    swap: int | str = 0
    processes: int | None = 32
    open_files: int = 256
    file_size: int | str | None = 64 << 20
    output: int | str | None = 1 << 20
    result: int | str = 64 << 20
    disk: int | str = 64 << 20
    inodes: int = 4096
    stack: int | str = 8 << 20
    cpus: float | None = None
    cpuset: str | None = None

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        for name in ("wall_time", "cpu_time"):
            if getattr(self, name) is not None:
                seconds = getattr(self, name)
                put(name, _number(name, seconds, 0.001, _MOST_SECONDS, "seconds"))
        least = {
            "memory": 16 << 20,
            "disk": 64 << 10,
            "stack": 256 << 10,
            "result": 64,
            "output": 1,
        }
        for name in ("memory", "swap", "file_size", "output", "result", "disk", "stack"):
            value = getattr(self, name)
            if value is None and name not in ("memory", "file_size", "output"):
                raise TypeError(f"{name}: cannot be unlimited")
            if value is not None:
                most = _MOST_STACK if name == "stack" else _MOST_BYTES
                put(name, _size(name, value, least.get(name, 0), most))
        if self.processes is not None:
            _count("processes", self.processes, 1, 1 << 20, "processes")
        _count("open_files", self.open_files, 16, 1 << 20, "open files")
        _count("inodes", self.inodes, 16, 1 << 30, "inodes")
        if self.cpus is not None:
            put("cpus", _number("cpus", self.cpus, 0.01, 4096, "CPUs"))
        if self.cpuset is not None:
            put("cpuset", _cpus("cpuset", self.cpuset))


@dataclass(frozen=True)
class Mount:
    """A folder or file of the host shown to the guest.

    Attributes:
        source: an existing folder or regular file of the host; nothing of /proc, /sys or /dev.
        target: an absolute path inside the jail; not one that the jail needs for itself. In an
            earlier mount, an entry that is there.
        writable: False mounts it read-only; either way nosuid and nodev.

    Raises:
        TypeError, ValueError: by `Sandbox`, naming the argument.
    """

    source: str | os.PathLike[str]
    target: str | os.PathLike[str]
    writable: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class GuestException:
    """A guest's exception as text: made in the worker, capped, and only ever text."""

    type_name: str
    message: str
    traceback: str


@dataclass(frozen=True)
class Violation:
    """A system call that the policy answers by ending the call, as the kernel reported it."""

    syscall: str
    number: int
    arch: str
    args: tuple[int, ...]


@dataclass(frozen=True)
class Usage:
    """What one call used. Seconds and bytes; ``None`` where this host cannot measure it.

    Attributes:
        wall_time: from the guest's first byte to the end of its last process.
        cpu_time, user_time, system_time: over every process of the call.
        memory_peak: highest charge of the call's cgroup.
        processes_peak: highest number of tasks at once (kernels that count it).
        output_bytes: bytes written to stdout and stderr, kept or not.
        oom_kills: processes the kernel's OOM killer ended in the call's cgroup.
        throttled_time: time the call waited for its CPU quota.
        setup_time: from the request to the guest's first byte.
        context_switches: how often its processes were switched away from, wanted or not
            (getrusage(2)), as init counted those it reaped.
    """

    wall_time: float = 0.0
    cpu_time: float | None = None
    user_time: float | None = None
    system_time: float | None = None
    memory_peak: int | None = None
    processes_peak: int | None = None
    output_bytes: int = 0
    oom_kills: int | None = None
    throttled_time: float | None = None
    setup_time: float = 0.0
    context_switches: int | None = None


def _empty() -> Mapping[str, Any]:
    return MappingProxyType({})


def _picklable(value: object) -> dict[str, Any]:
    """The state for pickle and copy, which refuse the read-only mappings that `_empty` makes."""
    return {
        name: dict(part) if isinstance(part, MappingProxyType) else part
        for name, part in vars(value).items()
    }


@dataclass(frozen=True)
class Isolation:
    """What was seen from outside to be in force; never what a process said of itself.

    Attributes:
        namespaces: kind → inode of the jail's namespace; each differs from the host's.
        shared_namespaces: kinds the jail shares with the host, each waived by name.
        worker: fields of the worker's /proc/PID/status and relatives, read before it received a
            byte of the guest's code: seccomp mode and filter count, the five capability sets,
            no_new_privs, id maps, session, terminal.
        root: the jail's mounts as its mountinfo shows them: target → file system and options; for
            `/proc` and the writable places also those of the file system itself (subset, size).
        limits: the values read back from the cgroup files and /proc/PID/limits.
        missing: layers that are not in force, waived or absent from this kernel, with the reason.
        unobserved: layers the trusted set-up applied, with an error had it failed, but which
            Linux shows to nobody (Landlock, MDWE, securebits, keyring).
    """

    namespaces: Mapping[str, int] = field(default_factory=_empty)
    shared_namespaces: tuple[str, ...] = ()
    worker: Mapping[str, Any] = field(default_factory=_empty)
    root: Mapping[str, str] = field(default_factory=_empty)
    limits: Mapping[str, Any] = field(default_factory=_empty)
    missing: Mapping[str, str] = field(default_factory=_empty)
    unobserved: tuple[str, ...] = ()

    __getstate__ = _picklable


@dataclass(frozen=True)
class Outcome:
    """What happened in one call: exactly one `status`, with the evidence that decided it. It can be
    pickled and copied if its `value` can.

    Attributes:
        status: one of the closed set `Status`.
        value: the function's return value if status is ``"ok"``, else None.
        error: the guest's exception if status is ``"exception"``; also set with a limit's status
            when the guest noticed and raised.
        exit_code, signal: how the guest's process ended, where it ended itself.
        stdout, stderr: bytes; head and tail where more was written than is kept.
        truncated: stream → bytes left out between head and tail.
        files: of a program: path below /work → content, as `collect` asked.
        refused: of a program: path → why a file that `collect` asked for was not taken.
        violation: the system call if status is ``"policy_violation"``.
        evidence: counters and values that decided the status, and refusals the guest coped with.
        usage: what this call used.
        isolation: what was observed to be in force.
        message: one sentence for a reader: what happened and what decided it.
    """

    status: Status
    value: Any = None
    error: GuestException | None = None
    exit_code: int | None = None
    signal: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    truncated: Mapping[str, int] = field(default_factory=_empty)
    files: Mapping[str, bytes] = field(default_factory=_empty)
    refused: Mapping[str, str] = field(default_factory=_empty)
    violation: Violation | None = None
    evidence: Mapping[str, Any] = field(default_factory=_empty)
    usage: Usage = field(default_factory=Usage)
    isolation: Isolation = field(default_factory=Isolation)
    message: str = ""

    __getstate__ = _picklable

    @property
    def ok(self) -> bool:
        """Whether the function returned, or the program ended with status 0."""
        return self.status == "ok"


def as_dict(value: Any) -> dict[str, Any]:
    """The fields of one of these values as a plain dict (for JSON)."""
    return {f.name: getattr(value, f.name) for f in fields(value)}
