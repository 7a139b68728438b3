"""However a sandbox is left, this process holds what it held before."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from sandbox import Limits, Sandbox, SetupError, TransferError, Unsupported, _blueprint
from sandbox._cgroup import Groups
from sandbox._runtime import RUNTIME
from tests.lifecycle.traces import Traces, descendants, expect_no_more_than, settled, traces

Make = Callable[..., Sandbox]
SMALL = Limits(memory="64M", wall_time=20, cpu_time=1, processes=8, disk="1M", output=1000)

# Descriptors of the few groups that v1 keeps for later jails.
FEW = 32


def nothing() -> None:
    return None


def leave_processes_behind() -> int:
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            time.sleep(1000)
    return 3


def write_much() -> None:
    while True:
        os.write(1, b"x" * 4096)


def fill_disk() -> None:
    with open("/work/file", "wb") as file:
        file.write(bytes(2 << 20))


def fail() -> None:
    raise ValueError("on purpose")


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def big() -> bytes:
    return bytes(5 << 20)


def unfit() -> object:
    return object()


def trace() -> None:
    import ctypes

    ctypes.CDLL(None).ptrace(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("guest", "status"),
    [
        (nothing, "ok"),
        (big, "ok"),
        (leave_processes_behind, "ok"),
        (fail, "exception"),
        (fill_disk, "disk_limit"),
        (write_much, "output_limit"),
        (crash, "signaled"),
        (unfit, "result_invalid"),
        (trace, "policy_violation"),
    ],
)
def test_nothing_remains_however_the_call_ended(
    make_sandbox: Make, before: Traces, guest: Callable[[], Any], status: str
) -> None:
    with make_sandbox(SMALL) as sandbox:
        assert sandbox.call(guest).status == status
    expect_no_more_than(before)


def test_nothing_remains_after_an_exception_of_the_application(
    make_sandbox: Make, before: Traces
) -> None:
    with pytest.raises(KeyError), make_sandbox() as sandbox:
        sandbox.run(nothing)
        raise KeyError("the application's own")
    expect_no_more_than(before)


def test_nothing_remains_of_a_sandbox_without_a_call(make_sandbox: Make, before: Traces) -> None:
    with make_sandbox():
        pass
    expect_no_more_than(before)


def test_nothing_remains_when_a_call_is_refused(make_sandbox: Make, before: Traces) -> None:
    with make_sandbox() as sandbox, pytest.raises(TransferError, match="argument 1"):
        sandbox.run(print, threading.Lock())
    expect_no_more_than(before)


def test_sandboxes_may_be_closed_in_any_order_and_twice(make_sandbox: Make, before: Traces) -> None:
    several = [make_sandbox().__enter__() for _ in range(4)]
    for sandbox in (several[2], several[0], several[3], several[1], several[0]):
        sandbox.close()
    expect_no_more_than(before)


def test_closing_does_not_wait_for_the_jail_to_end(make_sandbox: Make) -> None:
    """Tear-down is off the caller's path: the reaper's, not that of `close`."""
    sandbox = make_sandbox().__enter__()
    jail = sandbox._jail
    assert jail is not None
    sandbox.close()
    assert sandbox._jail is None
    settled()
    assert jail.pidfd == -1


def test_no_process_of_a_call_outlives_it(make_sandbox: Make) -> None:
    with make_sandbox(SMALL) as sandbox:
        assert sandbox.run(leave_processes_behind) == 3
        assert sandbox._jail is not None
        assert descendants(sandbox._jail.pid) == {}
        assert sandbox.run(len, os.listdir("/proc")) > 0


def test_many_calls_in_one_sandbox_leave_nothing_open(make_sandbox: Make) -> None:
    with make_sandbox(SMALL) as sandbox:
        for guest in (nothing, fail, unfit, crash):
            sandbox.call(guest)
        before = traces()
        for guest in (nothing, fail, unfit, crash) * 10:
            sandbox.call(guest)
        assert traces() == before


def test_nothing_remains_of_a_jail_that_could_not_be_made(
    make_sandbox: Make, before: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(_blueprint, "_scratch", lambda *_: {"size": "4096", "nr_inodes": "2"})
        for _ in range(3):
            with pytest.raises(SetupError, match="cannot show writable places"):
                make_sandbox(Limits(inodes=77)).__enter__()
    expect_no_more_than(before)
    with make_sandbox() as sandbox:
        assert sandbox.call(nothing).ok


def test_nothing_remains_when_there_are_no_control_groups(
    make_sandbox: Make, before: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object) -> Groups:
        raise Unsupported("cgroup", "not here", "mend it")

    with monkeypatch.context() as patched:
        patched.setattr("sandbox._runtime.Runtime.groups", refuse)
        with pytest.raises(Unsupported, match="mend it"):
            make_sandbox().__enter__()
    expect_no_more_than(before)


def test_a_collected_sandbox_is_closed_with_a_warning(make_sandbox: Make, before: Traces) -> None:
    sandbox = make_sandbox().__enter__()
    with pytest.warns(ResourceWarning, match="unclosed <Sandbox"):
        del sandbox
    expect_no_more_than(before)


def test_user_ids_are_given_back(make_sandbox: Make, before: Traces) -> None:
    lease = RUNTIME.lease()
    used = lease and lease._next
    for _ in range(10):
        with make_sandbox():
            pass
        settled()
    assert (lease and lease._next) == used


@pytest.mark.volume
def test_two_thousand_sandboxes_leave_the_counts_where_they_were(
    make_sandbox: Make, before: Traces
) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(2000):
        with make_sandbox() as sandbox:
            assert sandbox.run(nothing) is None
    expect_no_more_than(before)
    assert len(os.listdir("/proc/self/fd")) <= descriptors + FEW


@pytest.mark.volume
def test_two_thousand_calls_leave_the_counts_where_they_were(make_sandbox: Make) -> None:
    with make_sandbox() as sandbox:
        sandbox.run(nothing)
        before = settled()
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(2000):
            sandbox.call(nothing)
        expect_no_more_than(before)
        assert len(os.listdir("/proc/self/fd")) <= descriptors + FEW
