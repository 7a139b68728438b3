"""B1: what a fork of the launcher costs. Run as a program, with the launcher's interpreter, flags
and imports, because a fork costs what the forked process has mapped and touched: a Python that has
imported less, or more, is another baseline.

    python -I -S -B launcher_fork.py WORKER_FOLDER IMPORT_FOLDERS...

Reads one line from stdin, "fork" or "namespaces", answers with the seconds it took: from before the
fork until the child, which ends at once, was waited for. Nothing of the pipe is in that time.
"""

import gc
import importlib
import os
import sys
import time


def _import_as_the_launcher_does(program: str, folders: list[str]) -> None:
    borrowed = [os.path.dirname(program), *folders]
    sys.path[:0] = borrowed
    importlib.import_module("worker.launcher")
    del sys.path[: len(borrowed)]
    gc.collect()


def _fork() -> float:
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return time.perf_counter() - began


def _clone_into_namespaces() -> float:
    """clone3 into the six namespaces a jail is born with: the kernel's share of a jail."""
    from worker.kernel import namespaces
    from worker.kernel._ffi import ffi
    from worker.kernel.native import lib

    flags = namespaces.NEWUSER | namespaces.NEWPID | namespaces.NEWNS
    flags |= namespaces.NEWNET | namespaces.NEWIPC | namespaces.NEWUTS
    made = ffi.new("int *")
    began = time.perf_counter()
    pid = lib.clone_into(flags, made)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    took = time.perf_counter() - began
    os.close(made[0])
    return took


def main() -> None:
    _import_as_the_launcher_does(sys.argv[1], sys.argv[2:])
    actions = {"fork": _fork, "namespaces": _clone_into_namespaces}
    while line := sys.stdin.readline():
        print(actions[line.strip()](), flush=True)


if __name__ == "__main__":
    main()
