"""Traces a guest leaves on its own process, and what a later one would see of them."""

from __future__ import annotations

import atexit
import builtins
import gc
import locale
import os
import resource
import signal
import sys
import threading
from typing import Any


def leave_traces() -> dict[str, Any]:
    """On everything of the process that a reused one would keep; what it looks like after."""
    builtins.open = lambda *arguments: None  # type: ignore[assignment]
    os.getcwd = lambda: "/elsewhere"
    sys.modules["json"] = sys.modules["os"]
    sys.path.insert(0, "/tmp/evil")
    sys.setrecursionlimit(500)
    sys.stdout = None
    atexit.register(print, "still here")
    gc.disable()
    os.environ["LEFT"] = "1"
    os.umask(0o777)
    os.chdir("/tmp")
    os.dup2(0, 40)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 100)
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 48))
    os.nice(5)
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    return look()


def look() -> dict[str, Any]:
    """The state of this process."""
    mask = os.umask(0)
    os.umask(mask)
    return {
        "open": type(builtins.open).__name__,
        "getcwd": type(os.getcwd).__name__,
        "json": getattr(sys.modules.get("json"), "__name__", None),
        "path": "/tmp/evil" in sys.path,
        "recursion": sys.getrecursionlimit(),
        "stdout": sys.stdout is None,
        "gc": gc.isenabled(),
        "environment": os.environ.get("LEFT"),
        "umask": mask,
        "here": os.readlink("/proc/self/cwd"),
        "descriptor": _is_open(40),
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "handler": str(signal.getsignal(signal.SIGUSR1)),
        "timer": signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "threads": threading.active_count(),
        "locale": locale.setlocale(locale.LC_ALL),
    }


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
