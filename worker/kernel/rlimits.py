"""Resource limits of the worker (setrlimit(2)): inherited by all it starts, never raised again."""

from __future__ import annotations

import resource

_NAMES = {
    "open_files": resource.RLIMIT_NOFILE,
    "file_size": resource.RLIMIT_FSIZE,
    "stack": resource.RLIMIT_STACK,
    "core": resource.RLIMIT_CORE,
    "cpu": resource.RLIMIT_CPU,
    "locked": resource.RLIMIT_MEMLOCK,
    "queues": resource.RLIMIT_MSGQUEUE,
    "realtime": resource.RLIMIT_RTPRIO,
    "nice": resource.RLIMIT_NICE,
    "pending": resource.RLIMIT_SIGPENDING,
}


def apply(limits: dict[str, int]) -> None:
    """Set soft and hard limit of each name alike (CPU time: soft a second lower). A hard limit
    below the wished one stays (raising it needs CAP_SYS_RESOURCE): the stricter of the two holds.
    """
    for name, wished in limits.items():
        number = _NAMES[name]
        hard = resource.getrlimit(number)[1]
        value = wished if hard == resource.RLIM_INFINITY else min(wished, hard)
        # At the soft limit of CPU time there is a SIGXCPU, at the hard one only a SIGKILL.
        soft = value - 1 if name == "cpu" and value > 1 else value
        resource.setrlimit(number, (soft, value))
