"""Where the worker program and the shipped policies lie: inside the package (wheel) or beside it
(checkout). The host only needs their location; it never imports either."""

import os

_PACKAGE = os.path.dirname(os.path.abspath(__file__))


def _locate(name: str) -> str:
    inside = os.path.join(_PACKAGE, name)
    return inside if os.path.isdir(inside) else os.path.join(os.path.dirname(_PACKAGE), name)


PACKAGE = _PACKAGE
WORKER = _locate("worker")
POLICIES = _locate("policies")
# Compiled when the package is installed or built: see setup.py.
NATIVE = os.path.join(WORKER, "_native.abi3.so")
LAUNCHER = os.path.join(WORKER, "__main__.py")
