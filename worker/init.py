"""pid 1 of a jail, as far as it is Python: the calls of functions.

All else, and all of the confinement, is `native/init.c`: while that runs nothing of Python's is
touched, so that no page of it has to be copied.
"""

from __future__ import annotations

import os
import sys

import msgpack

from . import runner
from .kernel import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The folder inside, on the read-only root, that holds cloudpickle; set by the launcher.
late_imports = ""


def main(jail: Any, call: Any) -> None:
    """Serve calls of functions, the first of which is `call`, and with `native/init.c` programs,
    until the host closes the socket. Never returns."""
    try:
        _set_environment(native.go(jail))
        _serve(jail, call)
    finally:
        os._exit(0)


def _serve(jail: Any, call: Any) -> None:
    while True:
        if call.flags & native.lib.WITH_CLOUDPICKLE:
            _import_cloudpickle()
        worker = os.fork()
        if worker == 0:
            _work(call)
        if native.lib.end_call(jail, call, worker) < 0 or native.lib.next_call(jail, call) < 0:
            return


def _set_environment(go: bytes) -> None:
    """Exactly what was asked for. It comes from the host with "go" and by no other way: what the
    launcher knows, every jail can read. Programs have their own, with the request."""
    _, environment = msgpack.unpackb(go)
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _work(call: Any) -> None:
    """The life of a worker. Never returns."""
    try:
        if native.lib.confine_worker(call) == 0:
            runner.main(call.number)
    finally:
        os._exit(1)


def _import_cloudpickle() -> None:
    """From the read-only root, before the fork, once per jail: 35 ms most calls do not need."""
    if "cloudpickle" not in sys.modules:
        sys.path.append(late_imports)
        try:
            import cloudpickle  # noqa: F401
        finally:
            sys.path.remove(late_imports)
