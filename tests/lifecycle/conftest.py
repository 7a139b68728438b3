"""Fixtures of the end-to-end tests: an open sandbox to share, and programs that use the library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox import Limits, Sandbox
from sandbox._runtime import RUNTIME

pytest.register_assert_rewrite("tests.lifecycle.apps", "tests.lifecycle.traces")

from tests.lifecycle.apps import App  # noqa: E402
from tests.lifecycle.traces import Traces, settled  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def _groups_taken(lacks: frozenset[str]) -> None:
    """On cgroup v2 the first program of a group moves aside, and those it starts follow: this one
    has to be the first, or its children find a stranger in their group."""
    if "cgroup" not in lacks:
        RUNTIME.groups()


@pytest.fixture(scope="module")
def shared(make_sandbox: Callable[..., Sandbox]) -> Iterator[Sandbox]:
    """One open sandbox with small limits for all tests of a module."""
    limits = Limits(memory="96M", cpu_time=2, wall_time=20, processes=16, disk="4M")
    with make_sandbox(limits) as sandbox:
        yield sandbox


@pytest.fixture
def start_app(tmp_path: Path) -> Iterator[Callable[..., App]]:
    """Start a program in a process of its own; all of them are ended with the test."""
    apps: list[App] = []

    def start(body: str) -> App:
        apps.append(App(body, tmp_path))
        return apps[-1]

    yield start
    for app in apps:
        app.end()


@pytest.fixture
def before(make_sandbox: Callable[..., Sandbox]) -> Traces:
    """What this process held before the test, its launcher and its reaper at work."""
    with make_sandbox() as sandbox:
        sandbox.run(int)
    return settled()
