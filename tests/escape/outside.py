"""The positive controls: probes run outside of any jail, each in a forked child of one plain,
single-threaded Python, with the tester's own rights or as the root of a user namespace of its own."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); from tests.escape import outside; outside.serve()"
)

# CLONE_NEWUSER, NEWNS, NEWUTS, NEWIPC, NEWNET
_NAMESPACES = 0x10000000 | 0x00020000 | 0x04000000 | 0x08000000 | 0x40000000


class Outside:
    """Runs probes of tests/probes outside."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, ROOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __call__(self, probe: Callable[..., Any], *arguments: object, root: bool = False) -> Any:
        """What `probe` returns; raises what it raises. With `root` it has every capability over
        fresh user, mount, uts, ipc and net namespaces."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = (probe.__module__, probe.__qualname__, arguments, root)
        pickle.dump(request, self._process.stdin)
        self._process.stdin.flush()
        raised, value = pickle.load(self._process.stdout)
        if raised:
            raise value
        return value

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def serve() -> None:
    """The other side of `Outside`: until stdin ends."""
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(write_end, _answer(*request))
            finally:
                os._exit(0)
        os.close(write_end)
        with open(read_end, "rb") as answer:
            sys.stdout.buffer.write(answer.read())
        sys.stdout.buffer.flush()
        os.waitpid(child, 0)


def _answer(module: str, name: str, arguments: tuple[object, ...], root: bool) -> bytes:
    try:
        if root:
            _become_root()
        return pickle.dumps((False, getattr(importlib.import_module(module), name)(*arguments)))
    except Exception as error:
        return pickle.dumps((True, error))


def _become_root() -> None:
    import ctypes

    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NAMESPACES) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {uid} 1"),
        ("gid_map", f"0 {gid} 1"),
    ):
        with open(f"/proc/self/{file}", "w") as knob:
            knob.write(text)
