"""Every way a host or its launcher can end in the middle of a call; afterwards nothing remains."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.lifecycle.apps import App
from tests.lifecycle.traces import groups_of, until

IN_CALL = """
with make(LONG, mounts=SHOWN) as s:
    tell(lease())
    s.run(mark_and_sleep)
"""


def in_call(start_app: Callable[..., App], body: str = IN_CALL) -> App:
    app = start_app(body)
    lease = app.heard()
    app.guest_runs()
    app.note(lease)
    return app


# --- the application ends by itself ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("pass", 0),
        ("raise SystemExit(3)", 3),
        ("raise ValueError('the host itself fails')", 1),
        ("os._exit(4)", 4),
    ],
)
def test_ending_inside_with_leaves_nothing(
    start_app: Callable[..., App], end: str, status: int
) -> None:
    app = start_app(
        f"with make() as s:\n    s.run(int)\n    tell(lease())\n    sys.stdin.read(1)\n    {end}"
    )
    app.note(app.heard())
    app.go_on()
    assert app.status() == status
    app.leaves_nothing()


def test_a_sandbox_that_is_never_closed_ends_with_the_interpreter(
    start_app: Callable[..., App],
) -> None:
    app = start_app(
        "s = make().__enter__()\ns.run(int)\ntell(lease())\nsys.stdin.read(1)\n"
        "import gc; gc.disable()\ns.me = s"
    )
    app.note(app.heard())
    app.go_on()
    assert app.status() == 0
    app.leaves_nothing()


def test_an_unclosed_sandbox_is_warned_about_when_it_is_collected(
    start_app: Callable[..., App],
) -> None:
    app = start_app(
        "import warnings; warnings.simplefilter('always')\n"
        "s = make().__enter__()\ntell(lease())\nsys.stdin.read(1)\ndel s"
    )
    app.note(app.heard())
    app.go_on()
    status, complaint = app.finished()
    assert status == 0
    assert "ResourceWarning: unclosed <Sandbox policy='python' open>" in complaint
    app.leaves_nothing()


def test_exit_from_another_thread_in_the_middle_of_a_call(start_app: Callable[..., App]) -> None:
    app = in_call(
        start_app,
        "def bye():\n    sys.stdin.read(1)\n    os._exit(5)\n"
        "threading.Thread(target=bye, daemon=True).start()" + IN_CALL,
    )
    app.go_on()
    assert app.status() == 5
    app.leaves_nothing()


def test_the_interpreter_ends_while_a_daemon_thread_is_in_a_call(
    start_app: Callable[..., App],
) -> None:
    app = in_call(
        start_app,
        "s = make(LONG, mounts=SHOWN).__enter__()\ntell(lease())\n"
        "threading.Thread(target=s.call, args=(mark_and_sleep,), daemon=True).start()\n"
        "sys.stdin.read(1)",
    )
    app.go_on()
    assert app.status() == 0
    app.leaves_nothing()


# --- signals ---------------------------------------------------------------------------------------


def test_keyboard_interrupt_in_the_middle_of_a_call(start_app: Callable[..., App]) -> None:
    app = in_call(start_app)
    app.kill(signal.SIGINT)
    status, complaint = app.finished()
    assert status == -signal.SIGINT
    assert complaint.rstrip().endswith("KeyboardInterrupt")
    app.leaves_nothing()


def test_after_a_keyboard_interrupt_the_sandbox_serves_the_next_call(
    start_app: Callable[..., App],
) -> None:
    app = in_call(
        start_app,
        "with make(LONG, mounts=SHOWN) as s:\n    tell(lease())\n"
        "    try:\n        s.run(mark_and_sleep)\n"
        "    except KeyboardInterrupt:\n        tell(s.run(lambda: 6 * 7))",
    )
    app.kill(signal.SIGINT)
    assert app.heard() == 42
    assert app.status() == 0
    app.leaves_nothing()


def test_a_handlers_exception_ends_the_call_first(start_app: Callable[..., App]) -> None:
    app = in_call(
        start_app,
        "def stop(*_):\n    raise TimeoutError('mine')\nsignal.signal(signal.SIGUSR1, stop)\n"
        "with make(LONG, mounts=SHOWN) as s:\n    tell(lease())\n"
        "    try:\n        s.run(mark_and_sleep)\n"
        "    except TimeoutError as error:\n        tell(str(error))\n"
        "        tell(s.call(int).status)",
    )
    app.kill(signal.SIGUSR1)
    assert app.heard() == "mine"
    assert app.heard() == "ok"
    assert app.status() == 0
    app.leaves_nothing()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGABRT])
def test_a_signal_that_ends_the_application_in_the_middle_of_a_call(
    start_app: Callable[..., App], number: signal.Signals
) -> None:
    app = in_call(start_app)
    app.kill(number)
    assert app.status() == -number
    app.leaves_nothing()


def test_ctrl_c_in_a_terminal_does_not_reach_launcher_or_jail(
    start_app: Callable[..., App],
) -> None:
    app = in_call(start_app)
    sessions = {os.getsid(process.pid) for process in app.note()}
    assert os.getsid(app.pid) not in sessions


# --- the launcher ----------------------------------------------------------------------------------


SURVIVES = """
with make(LONG, mounts=SHOWN) as s:
    tell(lease())
    outcome = s.call(mark_and_sleep)
    tell([outcome.status, outcome.message, outcome.usage.wall_time > 0])
    tell([s.run(int, "7"), s.call(int).status])
    sys.stdin.read(1)
"""


def test_a_killed_launcher_is_an_internal_error_and_the_next_call_gets_a_new_one(
    start_app: Callable[..., App],
) -> None:
    app = in_call(start_app, SURVIVES)
    first = app.note()
    os.kill(first[0].pid, signal.SIGKILL)
    status, message, lasted = app.heard()
    assert (status, lasted) == ("internal_error", True)
    assert "launcher" in message or "init ended" in message
    assert app.heard() == [7, "ok"]
    assert not set(first) & set(app.note())
    app.go_on()
    assert app.status() == 0
    app.leaves_nothing()


def test_a_killed_init_is_an_internal_error_and_the_next_call_gets_a_new_jail(
    start_app: Callable[..., App],
) -> None:
    app = in_call(start_app, SURVIVES)
    launcher, init, worker, *_ = app.note()
    os.kill(init.pid, signal.SIGKILL)
    assert app.heard()[0] == "internal_error"
    assert app.heard() == [7, "ok"]
    after = app.note()
    assert launcher in after
    assert init not in after
    assert worker not in after
    app.go_on()
    assert app.status() == 0
    app.leaves_nothing()


def test_a_launcher_killed_between_calls_is_not_noticed(start_app: Callable[..., App]) -> None:
    app = start_app(
        "with make() as s:\n    s.run(int)\n    tell(lease())\n    sys.stdin.read(1)\n"
        "    tell(s.run(int, '8'))"
    )
    launcher, *_ = app.note(app.heard())
    os.kill(launcher.pid, signal.SIGKILL)
    until(lambda: not launcher.running(), "the launcher's end")
    app.go_on()
    assert app.heard() == 8
    assert app.status() == 0
    app.leaves_nothing()


def test_behind_a_killed_launcher_every_new_sandbox_gets_another(
    start_app: Callable[..., App],
) -> None:
    """Its sockets close before anybody can see that it has ended."""
    app = start_app(
        "from sandbox._runtime import RUNTIME\n"
        "for number in range(20):\n"
        "    with make() as s:\n"
        "        s.run(int)\n"
        "        os.kill(s._jail.launcher.pid, signal.SIGKILL)\n"
        "    with make() as s: assert s.run(int, str(number)) == number\n"
        "tell('done')"
    )
    assert app.heard() == "done"
    assert app.status() == 0


def test_a_killed_worker_is_the_guests_own_end(start_app: Callable[..., App]) -> None:
    app = in_call(
        start_app,
        "with make(LONG, mounts=SHOWN) as s:\n    tell(lease())\n"
        "    outcome = s.call(mark_and_sleep)\n    tell([outcome.status, outcome.signal])",
    )
    os.kill(app.note()[2].pid, signal.SIGSEGV)
    assert app.heard() == ["signaled", signal.SIGSEGV]
    assert app.status() == 0
    app.leaves_nothing()


# --- both at once ----------------------------------------------------------------------------------


def test_application_and_launcher_killed_at_once(start_app: Callable[..., App]) -> None:
    app = in_call(start_app)
    launcher = app.note()[0]
    # Stopped first, so that it cannot clean up between the two signals.
    os.kill(launcher.pid, signal.SIGSTOP)
    app.kill()
    app.status()
    os.kill(launcher.pid, signal.SIGKILL)
    app.leaves_no_process()
    start_app("with make() as s: tell(s.run(int))").heard()
    assert groups_of(app.pid) == set()
    app.leaves_nothing()
