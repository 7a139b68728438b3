"""What a guest, or an application's own habits, could do to the process the library runs in."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import time
from collections.abc import Callable

import pytest

from sandbox import InternalError, Limits, Sandbox, _channel, _drive, _jail, _supervisor, _transfer
from sandbox._task import Task, function_task
from sandbox._visible import Visible
from tests.kernel.child import value_in_child
from tests.lifecycle.apps import App
from tests.lifecycle.traces import settled, traces, until

Make = Callable[..., Sandbox]
RESULT = 3


def sleep_after(action: str) -> None:
    if action == "close":
        os.close(RESULT)
    elif action == "shutdown":
        ctypes.CDLL(None).shutdown(RESULT, 1)
    time.sleep(1)
    os._exit(3)


@pytest.mark.parametrize("action", ["close", "shutdown", "nothing"])
def test_a_guest_that_ends_its_channel_does_not_make_the_host_spin(
    make_sandbox: Make, action: str
) -> None:
    with make_sandbox(policy="base") as sandbox:
        sandbox.run(int)
        began, spent = time.monotonic(), time.thread_time()
        outcome = sandbox.call(sleep_after, action)
        took, spent = time.monotonic() - began, time.thread_time() - spent
    assert outcome.status == "nonzero_exit"
    assert spent < took / 5


def test_an_interrupted_set_up_takes_no_other_jail_with_it(
    make_sandbox: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host closes its end of the new jail's socket before the launcher has spoken."""

    def interrupted(self: _jail.Jail) -> None:
        self.control.close()
        raise KeyboardInterrupt

    with make_sandbox() as other:
        other.run(mark)
        assert other._jail is not None
        launcher = other._jail.launcher
        with monkeypatch.context() as patched:
            patched.setattr(_jail.Jail, "_meet", interrupted)
            for _ in range(3):
                with pytest.raises(KeyboardInterrupt):
                    make_sandbox().__enter__()
        with make_sandbox() as next_one:
            assert next_one.run(len, "abc") == 3
            assert next_one._jail is not None
            assert next_one._jail.launcher is launcher
        assert other.run(os.path.exists, "/work/mark")


def mark() -> None:
    open("/work/mark", "w").close()


def test_an_application_with_more_descriptors_than_select_takes(
    start_app: Callable[..., App],
) -> None:
    app = start_app(
        "import resource\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n"
        "many = [os.open('/dev/null', os.O_RDONLY) for _ in range(1100)]\n"
        "for _ in range(3):\n"
        "    with make() as s: tell(s.run(len, 'abc'))\n"
        "RUNTIME.reaper.drain()\n"
        "tell([thread.name for thread in threading.enumerate()])\n"
        "tell(lease())\n"
        "sys.stdin.read(1)"
    )
    assert [app.heard() for _ in range(3)] == [3, 3, 3]
    assert "sandbox-reaper" in app.heard()
    app.note(app.heard())
    app.go_on()
    assert app.status() == 0
    app.leaves_nothing()


def test_an_application_that_dies_of_sigpipe_does_not_die_of_a_guest(
    start_app: Callable[..., App],
) -> None:
    """The worker is killed while the host still sends it the arguments."""
    app = start_app(
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "with make(Limits(memory='16M', disk='1M')) as s:\n"
        "    tell(s.call(len, bytes(50 << 20)).status)"
    )
    assert app.heard() in ("memory_limit", "process_limit", "exception")
    assert app.status() == 0


def open_files() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue  # the listing's own
    return found


OURS = ("seccomp notify", "memfd:result", "pidfd")


def jails_files() -> list[str]:
    return [target for target in open_files() if any(name in target for name in OURS)]


def test_a_forked_child_keeps_no_descriptor_of_its_parents_jails(make_sandbox: Make) -> None:
    """A worker of a pre-forking server would keep the memory of every result and file."""
    with make_sandbox() as sandbox:
        sandbox.run(int)
        assert sandbox._jail is not None
        # As in another thread, at the moment of the fork.
        cargo = _transfer.dump_call(len, ("a",), {}, visible=Visible.of(()))
        task = function_task(cargo, Limits())
        call = _supervisor.Supervisor(sandbox._jail, 99, Limits(), task)
        here = jails_files()
        there = value_in_child(jails_files)
        call.abandon()
        call.release()
    assert {name for name in OURS if any(name in target for target in here)} == set(OURS)
    assert there == []


def test_an_interrupted_outcome_keeps_nothing(
    make_sandbox: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding a large value can take long enough for a Ctrl-C."""

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with make_sandbox() as sandbox:
        sandbox.run(int)
        before = settled().descriptors
        with monkeypatch.context() as patched:
            patched.setattr(_drive, "outcome_of", interrupted)
            for _ in range(3):
                with pytest.raises(KeyboardInterrupt):
                    sandbox.run(int)
        gc.collect()
        until(lambda: traces().descriptors <= before, "the call's descriptors")
        assert sandbox.run(int, "7") == 7


def large() -> bytes:
    return bytes(200_000)


def test_a_result_may_be_longer_than_a_file(make_sandbox: Make) -> None:
    with make_sandbox(Limits(file_size="64K")) as sandbox:
        assert sandbox.run(large) == bytes(200_000)


def test_limits_of_the_applications_own_are_not_the_guests(make_sandbox: Make) -> None:
    with make_sandbox() as sandbox:
        limits = sandbox.call(int).isolation.limits
    assert (limits["rlimit.realtime"], limits["rlimit.nice"]) == (0, 0)
    assert limits["rlimit.pending"] <= 1024


def test_a_jail_that_ended_between_calls_is_told_of(make_sandbox: Make) -> None:
    with make_sandbox() as sandbox:
        sandbox.run(int)
        jail = sandbox._jail
        assert jail is not None
        os.kill(jail.pid, signal.SIGKILL)
        until(lambda: _channel.readable(jail.pidfd), "init's end")
        with pytest.raises(InternalError, match="init is gone"):
            jail.call(7, [], Task({}), [], ample=True)
        outcome = sandbox.call(int)
        assert (outcome.status, "init is gone" in outcome.message) == ("internal_error", True)
        assert sandbox.call(int).ok
