"""Jails for hostile probes, all under small caps, and the controls outside."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

import sandbox._api
import sandbox._policy
from sandbox import Limits, Policy, Sandbox
from sandbox._layers import Layers, choose_layers
from sandbox._policy import FileRule, Rule, kernel_names
from tests.escape.outside import Outside

# User-mode Linux runs on one CPU, and slowly.
_PACE = 4 if "SANDBOX_KERNEL" in os.environ else 1

SMALL = Limits(
    memory="64M",
    cpu_time=1.0 * _PACE,
    wall_time=3.0 * _PACE,
    processes=16,
    open_files=64,
    output="64K",
    result="1M",
    disk="4M",
    inodes=256,
    file_size="2M",
)

Make = Callable[..., Sandbox]


@pytest.fixture(scope="session")
def outside() -> Iterator[Outside]:
    """Runs a probe outside of any jail."""
    found = Outside()
    yield found
    found.close()


@pytest.fixture(scope="session")
def small() -> Limits:
    """The outer cap of every hostile test."""
    return SMALL


@pytest.fixture(scope="module")
def _jail(make_sandbox: Make) -> Iterator[Sandbox]:
    with make_sandbox(SMALL) as opened:
        yield opened


@pytest.fixture
def jail(_jail: Sandbox) -> Iterator[Sandbox]:
    """An open sandbox with every layer, shared by a module. It must serve an honest call after
    whatever a test did in it."""
    yield _jail
    assert _jail.run(divmod, 17, 5) == (3, 2)


@contextmanager
def without_landlock() -> Iterator[None]:
    """Jails made meanwhile have no Landlock domain."""

    def choose(*arguments: Any, **options: Any) -> Layers:
        chosen = choose_layers(*arguments, **options)
        names = tuple(name for name in chosen.names if name != "landlock")
        return replace(chosen, names=names)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox._api, "choose_layers", choose)
        yield


def open_policy(**fields: Any) -> Policy:
    """Every known system call allowed, also those that no policy may allow: the filters are in
    force and let everything pass but foreign architectures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox._policy, "_check_never", lambda rules: None)
        everything = Rule("allow", tuple(kernel_names().numbers), reason="to test what is below")
        places = (
            FileRule("write", ("/",), reason="as above"),
            FileRule("execute", ("/",), reason="as above"),
        )
        return Policy(**{"name": "open", "rules": (everything,), "files": places, **fields})


@pytest.fixture(scope="module")
def _bare(make_sandbox: Make) -> Iterator[Sandbox]:
    with without_landlock():
        opened = make_sandbox(SMALL, policy=open_policy(mdwe=False))
        opened.__enter__()
    yield opened
    opened.close()


@pytest.fixture
def bare(_bare: Sandbox) -> Iterator[Sandbox]:
    """An open sandbox without seccomp's, Landlock's and MDWE's refusals: namespaces, mounts,
    capabilities, ids, control groups and rlimits alone hold it."""
    yield _bare
    assert _bare.run(divmod, 17, 5) == (3, 2)


@pytest.fixture
def folder() -> Iterator[str]:
    """A folder of the host that everybody may read, whatever user the jail has, with a file `data`
    that everybody may also write. Not below pytest's own, which is private."""
    path = tempfile.mkdtemp(prefix="sandbox-escape-")
    os.chmod(path, 0o755)
    data = os.path.join(path, "data")
    with open(data, "w") as file:
        file.write("the host's")
    os.chmod(data, 0o666)
    yield path
    shutil.rmtree(path)
