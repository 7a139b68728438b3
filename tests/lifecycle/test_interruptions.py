"""Ctrl-C can come between any two steps of the host's: also right behind the moment in which a
message was taken from its socket. Nothing that came with it is lost, and nobody waits for it again.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sandbox import Limits, Sandbox, _channel, _observe, _supervisor
from tests.lifecycle.traces import settled, traces, until

Make = Callable[..., Sandbox]


@contextmanager
def interruption(owner: object, name: str, when: Callable[[Any], bool]) -> Iterator[list[object]]:
    """Once, when `owner.name` has returned something of which `when` holds; what it returned is in
    the list from then on."""
    function = getattr(owner, name)
    seen: list[object] = []

    def interrupted(*args: Any, **options: Any) -> Any:
        found = function(*args, **options)
        if not seen and when(found):
            seen.append(found)
            raise KeyboardInterrupt
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        yield seen


def says(kind: str) -> Callable[[Any], bool]:
    return lambda message: bool(message[0] == kind)


def always(_: object) -> bool:
    return True


def mark() -> None:
    open("/work/mark", "w").close()


def wait_for_mark() -> None:
    while not os.path.exists("/work/mark"):
        pass


MOMENTS = [
    pytest.param(_channel, "_decode", says("ended"), id="end-received"),
    pytest.param(_channel, "receive_into", always, id="worker-greeted"),
    pytest.param(_observe, "observe_worker", always, id="worker-seen"),
    pytest.param(_supervisor, "isolation_of", always, id="request-sent"),
]


@pytest.mark.parametrize(("owner", "name", "when"), MOMENTS)
def test_an_interrupted_call_ends_at_once_and_its_jail_lives_on(
    owner: object, name: str, when: Callable[[Any], bool], make_sandbox: Make
) -> None:
    with make_sandbox() as sandbox:
        sandbox.run(mark)
        jail = sandbox._jail
        before = settled().descriptors
        began = time.monotonic()
        with interruption(owner, name, when) as seen, pytest.raises(KeyboardInterrupt):
            sandbox.run(int)
        assert seen
        assert time.monotonic() - began < _supervisor._GRACE_SECONDS
        gc.collect()
        until(lambda: traces().descriptors <= before, "the call's descriptors")
        assert sandbox.run(os.path.exists, "/work/mark")
        assert sandbox._jail is jail


@pytest.mark.parametrize("kind", ["born", "barrier"])
def test_an_interrupted_set_up_keeps_no_descriptor(kind: str, make_sandbox: Make) -> None:
    with make_sandbox() as sandbox:
        sandbox.run(int)
    before = settled().descriptors
    for _ in range(3):
        sandbox = make_sandbox()
        with interruption(_channel, "_decode", says(kind)) as seen:
            with pytest.raises(KeyboardInterrupt):
                sandbox.__enter__()
            assert seen
        sandbox.close()
        gc.collect()
    until(lambda: settled().descriptors <= before, "the jails' descriptors")


def test_the_end_of_an_interrupted_call_is_not_the_next_ones(make_sandbox: Make) -> None:
    """It was seen to, and still lay in the inbox."""
    with make_sandbox(Limits(wall_time=30)) as sandbox:
        with (
            interruption(_supervisor.Supervisor, "_finish", always) as seen,
            pytest.raises(KeyboardInterrupt),
        ):
            sandbox.run(mark)
        assert seen
        assert sandbox._jail is not None
        assert len(sandbox._jail.inbox) == 1
        assert sandbox.run(os.path.exists, "/work/mark")
        assert len(sandbox._jail.inbox) == 0
