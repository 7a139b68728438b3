"""I: processes and time run out for the guest, whatever it does about it."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from sandbox import Limits, Mount, Outcome, Sandbox
from tests.escape.cases import Case, call, check_refused, each
from tests.escape.outside import Outside
from tests.probes import bombs, identity

Make = Callable[..., Sandbox]


@pytest.fixture
def brief(make_sandbox: Make, small: Limits) -> Iterator[Sandbox]:
    """CPU time for a third of a second, 8 processes."""
    limits = replace(small, cpu_time=small.cpu_time / 3 if small.cpu_time else None, processes=8)
    with make_sandbox(limits) as sandbox:
        yield sandbox
        assert sandbox.run(divmod, 17, 5) == (3, 2)


@pytest.fixture
def short(make_sandbox: Make, small: Limits) -> Iterator[Sandbox]:
    """A third of a second on the clock."""
    with make_sandbox(replace(small, wall_time=0.3, processes=8)) as sandbox:
        yield sandbox
        assert sandbox.run(divmod, 17, 5) == (3, 2)


# --- processes ------------------------------------------------------------------------------------


@pytest.mark.hostile
@pytest.mark.spares("killed_forks")
def test_i01_a_fork_bomb_is_a_process_limit(brief: Sandbox) -> None:
    outcome = brief.call(bombs.fork_without_end)
    assert outcome.status == "process_limit", outcome.message
    assert outcome.evidence["value"] == 8
    assert outcome.evidence["refused"] >= 1
    assert outcome.error is not None
    assert outcome.error.type_name == "BlockingIOError"
    # The host can still fork, with no less than before.
    assert subprocess.run(["true"], check=True).returncode == 0


@pytest.mark.hostile
def test_i01_a_guest_that_copes_is_ok_with_the_refusals_noted(brief: Sandbox) -> None:
    outcome = brief.call(bombs.fork_and_cope, 50)
    assert (outcome.status, outcome.value) == ("ok", 7)
    assert outcome.evidence["processes_refused"] >= 1


@pytest.mark.hostile
def test_i04_zombies_count(brief: Sandbox) -> None:
    assert brief.call(bombs.farm_zombies, 7).status == "ok"
    assert brief.call(bombs.farm_zombies, 50).status == "process_limit"


def test_i04_orphans_are_reaped_and_their_places_return(make_sandbox: Make, small: Limits) -> None:
    patient = replace(small, processes=8, cpu_time=20, wall_time=40)
    with make_sandbox(patient) as sandbox:
        outcome = sandbox.call(bombs.make_orphans, 30)
    assert (outcome.status, outcome.value) == ("ok", 30), outcome.message


@pytest.mark.parametrize("detach", [True, False], ids=["detached", "holding-on"])
def test_i05_j10_a_daemon_ends_with_its_call(detach: bool, jail: Sandbox) -> None:
    """And the call does not wait for it, whatever descriptors it keeps."""
    outcome = jail.call(bombs.daemonize, detach)
    assert outcome.status == "ok", outcome.message
    assert outcome.usage.wall_time < 2
    assert jail.run(identity.signal_process, outcome.value, 0) == "ESRCH"


def test_i14_short_lives_are_one_verdict(brief: Sandbox) -> None:
    outcome = brief.call(bombs.come_and_go, 30)
    assert (outcome.status, outcome.value) == ("ok", 30)


def test_n04_a_full_jail_does_not_starve_its_neighbour(make_sandbox: Make, small: Limits) -> None:
    """Each counts its own, although kernels count processes per user as well."""
    full = make_sandbox(replace(small, wall_time=1.0, processes=8))
    outcomes: list[Outcome] = []
    with full, make_sandbox(small) as neighbour:
        thread = threading.Thread(
            target=lambda: outcomes.append(full.call(bombs.leave_children_spinning, 7))
        )
        thread.start()
        answers = []
        while thread.is_alive():
            answers.append(neighbour.run(bombs.fork_and_cope, 6))
        thread.join()
    assert set(answers) == {6}
    assert outcomes[0].status in ("wall_time_limit", "cpu_time_limit")


# --- time -----------------------------------------------------------------------------------------

SPINS: list[tuple[Callable[..., Any], tuple[int, ...]]] = [
    (bombs.spin_in_one_call, ()),
    (bombs.match_without_end, ()),
    (bombs.spin_unkillable, ()),
    (bombs.leave_children_spinning, (5,)),
    (bombs.raise_cpu_limit, ()),
]


@pytest.mark.hostile
@pytest.mark.parametrize(("spin", "arguments"), SPINS, ids=[spin.__name__ for spin, _ in SPINS])
def test_i09_cpu_time_runs_out_whatever_the_guest_runs(
    spin: Callable[..., Any], arguments: tuple[int, ...], brief: Sandbox
) -> None:
    outcome = brief.call(spin, *arguments)
    assert outcome.status == "cpu_time_limit", outcome.message
    limit = outcome.evidence["value"]
    assert limit < outcome.evidence["used"] < limit + 0.3


def test_i06_sleep_runs_out_on_the_clock(short: Sandbox) -> None:
    outcome = short.call(bombs.sleep, 1e6)
    assert outcome.status == "wall_time_limit"
    assert outcome.evidence["value"] == 0.3
    assert 0.3 <= outcome.usage.wall_time < 1.5


def test_m04_a_guest_that_stops_itself_stops_nobody_else(short: Sandbox) -> None:
    outcome = short.call(identity.stop_oneself)
    assert outcome.status == "wall_time_limit"


@pytest.mark.hostile
def test_i15_an_end_at_the_deadline_is_one_verdict_or_the_other(
    make_sandbox: Make, small: Limits
) -> None:
    with make_sandbox(replace(small, wall_time=0.05)) as sandbox:
        outcomes = [sandbox.call(bombs.sleep, 0.044 + n * 0.001) for n in range(12)]
    assert {outcome.status for outcome in outcomes} <= {"ok", "wall_time_limit"}
    for outcome in outcomes:
        assert (outcome.value == "awake") == outcome.ok


@pytest.mark.hostile
def test_n09_the_time_of_one_call_is_not_the_nexts(brief: Sandbox) -> None:
    limit = brief.call(bombs.spin_in_one_call).evidence["value"]
    for _ in range(3):
        assert brief.run(bombs.burn, limit * 0.6) >= limit * 0.6


def test_i17_closing_ends_a_guest_that_is_running(
    make_sandbox: Make, small: Limits, folder: str
) -> None:
    os.chmod(folder, 0o777)
    shown = [Mount(folder, "/shown", writable=True)]
    sandbox = make_sandbox(replace(small, wall_time=30, cpu_time=None), mounts=shown)
    outcomes: list[Outcome] = []
    begun = time.monotonic()
    with sandbox:
        thread = threading.Thread(
            target=lambda: outcomes.append(sandbox.call(bombs.mark_and_sleep, "/shown/begun", 20))
        )
        thread.start()
        while not os.path.exists(f"{folder}/begun"):
            assert time.monotonic() - begun < 10
    thread.join()
    assert [outcome.status for outcome in outcomes] == ["cancelled"]
    assert time.monotonic() - begun < 10


RANKS = [
    Case("I11-nice", identity.set_priority, (0, -5), "EACCES", "EACCES"),
    Case("I11-fifo", identity.set_scheduler, (0, os.SCHED_FIFO, 1), "EPERM", "EPERM"),
    Case("I11-round-robin", identity.set_scheduler, (0, os.SCHED_RR, 99), "EPERM", "EPERM"),
    call("I11-io-realtime", "ioprio_set", 1, 0, 1 << 13, jail="EPERM", bare="EPERM"),
    Case("I11-lower", identity.set_priority, (0, 10), "done", "done"),
]


@pytest.mark.parametrize("case", each(RANKS))
def test_i11_a_guest_takes_no_precedence(
    case: Case, jail: Sandbox, bare: Sandbox, outside: Outside
) -> None:
    check_refused(case, jail, bare, outside)


# --- output ---------------------------------------------------------------------------------------


@pytest.mark.hostile
@pytest.mark.parametrize("stream", [1, 2], ids=["stdout", "stderr"])
def test_j01_a_flood_is_an_output_limit(stream: int, jail: Sandbox, small: Limits) -> None:
    outcome = jail.call(bombs.flood, stream)
    assert outcome.status == "output_limit"
    cap = int(small.output or 0)
    assert outcome.evidence["value"] == cap
    assert outcome.evidence["used"] > cap
    kept = outcome.stdout + outcome.stderr
    assert cap / 2 <= len(kept) <= cap
    assert len(kept) + sum(outcome.truncated.values()) == outcome.usage.output_bytes
    assert kept.startswith(b"spam spam")


def test_j02_two_full_streams_do_not_block_each_other(make_sandbox: Make, small: Limits) -> None:
    with make_sandbox(replace(small, output="1M")) as sandbox:
        outcome = sandbox.call(bombs.write_both, 256 << 10)
    assert (outcome.status, outcome.value) == ("ok", 256 << 10)
    assert len(outcome.stdout) == len(outcome.stderr) == 256 << 10
