"""Run a function in a forked child, where it may give up rights and change namespaces for good."""

from __future__ import annotations

import faulthandler
import os
import pickle
import select
import signal
import warnings
from collections.abc import Callable
from typing import Any

from worker.kernel import namespaces

_SECONDS = 60.0


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """What `function` returned in a child of its own: (True, value), or (False, (type name, errno,
    text)) if it raised, or (None, signal) if a signal ended it. The child is ours: it may pickle.
    """
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        # Other threads of the test process are the reaper's and BLAS's: the child needs neither.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _answer(theirs, function, args)
    os.close(theirs)
    try:
        data = _read(ours, pid)
    finally:
        os.close(ours)
        _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return None, os.WTERMSIG(status)
    return pickle.loads(data)


def _answer(channel: int, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    faulthandler.disable()  # a signal that ends the child is an answer, not a fault of the tests
    try:
        answer: tuple[bool, Any] = (True, function(*args))
    except BaseException as error:
        answer = (False, (type(error).__name__, getattr(error, "errno", None), str(error)))
    try:
        os.write(channel, pickle.dumps(answer))
    finally:
        os._exit(0)


def _read(channel: int, pid: int) -> bytes:
    data = b""
    while True:
        if not select.select([channel], [], [], _SECONDS)[0]:
            os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"the child said nothing within {_SECONDS:.0f} s")
        part = os.read(channel, 1 << 16)
        if not part:
            return data
        data += part


def value_in_child(function: Callable[..., Any], *args: Any) -> Any:
    """The value; AssertionError if the child did not get to return one."""
    came, value = in_child(function, *args)
    assert came is True, value
    return value


def own_user_namespace(flags: int = 0) -> None:
    """Every capability over fresh namespaces, for root and for an ordinary user alike."""
    uid, gid = os.geteuid(), os.getegid()
    namespaces.unshare(namespaces.NEWUSER | flags)
    namespaces.write_id_maps("self", (uid, gid), (uid, gid))


def status_field(name: str) -> str:
    """One field of the caller's /proc/self/status."""
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return fields[name].strip()
