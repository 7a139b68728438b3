"""`popen`: programs that are talked to while they run, alone and with one another."""

from __future__ import annotations

import gc
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import enumerate as enumerate_threads
from typing import IO, Any

import pytest

from sandbox import (
    ClosedError,
    InternalError,
    Limits,
    Process,
    ProgramError,
    Sandbox,
    _channel,
    _poller,
    _process,
)
from sandbox._runtime import RUNTIME
from tests.lifecycle.traces import until

Make = Callable[..., Sandbox]
SMALL = Limits(memory="64M", cpu_time=5, wall_time=30, processes=8, disk="4M", output="64K")


@pytest.fixture
def box(make_sandbox: Make) -> Iterator[Sandbox]:
    with make_sandbox(SMALL, policy="program") as sandbox:
        yield sandbox


@pytest.fixture
def other(make_sandbox: Make) -> Iterator[Sandbox]:
    with make_sandbox(SMALL, policy="program") as sandbox:
        yield sandbox


def sh(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


def end(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def test_a_program_is_talked_to(box: Sandbox) -> None:
    with box.popen(["cat"]) as process:
        for number in range(5):
            line = b"%d\n" % number
            end(process.stdin).write(line)
            assert end(process.stdout).readline() == line
        assert process.poll() is None
        assert process.ended is None
        end(process.stdin).close()
        outcome = process.wait(30)
    assert (outcome.status, outcome.exit_code) == ("ok", 0)
    assert process.ended is not None
    assert process.poll() is outcome


def test_stderr_is_in_the_outcome_unless_asked_for(box: Sandbox) -> None:
    with box.popen(sh("echo out; echo err >&2")) as process:
        assert process.stderr is None
        assert end(process.stdout).read() == b"out\n"
        assert process.wait(30).stderr == b"err\n"
    with box.popen(sh("echo err >&2"), stderr=True) as process:
        assert end(process.stderr).read() == b"err\n"
        assert process.wait(30).stderr == b""


def test_two_programs_in_two_jails_are_joined(box: Sandbox, other: Sandbox) -> None:
    with box.popen(sh("for i in 1 2 3; do echo $i; done")) as first:
        with other.popen(sh("while read x; do echo got $x; done"), stdin=first.stdout) as second:
            assert end(second.stdout).read() == b"got 1\ngot 2\ngot 3\n"
            assert second.wait(30).ok
        assert first.wait(30).ok
        assert None not in (first.ended, second.ended)


def test_two_programs_talk_both_ways(box: Sandbox, other: Sandbox) -> None:
    """As a solver and its interactor do, without a byte passing the host."""
    guess = (
        "low=1; high=100; while :; do g=$(((low+high)/2)); echo $g; read a; case $a in "
        "higher) low=$((g+1));; lower) high=$((g-1));; *) exit 0;; esac; done"
    )
    judge = (
        "n=0; while read g; do n=$((n+1)); if [ $g -lt 73 ]; then echo higher; "
        "elif [ $g -gt 73 ]; then echo lower; else echo yes; echo $n >&2; exit 0; fi; done"
    )
    with box.popen(sh(guess)) as solver:
        with other.popen(sh(judge), stdin=solver.stdout, stdout=solver.stdin) as interactor:
            verdict = interactor.wait(30)
        assert solver.wait(30).ok
    assert verdict.ok
    assert 1 <= int(verdict.stderr) <= 7


def test_no_way_leads_back_through_joined_pipes(box: Sandbox, other: Sandbox) -> None:
    """Where guests have ids of their own: an ordinary user's all have its own."""
    reads, writes = ": < /proc/self/fd/1", ": > /proc/self/fd/0"
    with box.popen(["bash", "-c", f"cat > /dev/null; {reads} || echo refused >&2; echo x"]) as one:
        with other.popen(
            ["bash", "-c", f"{writes} || echo refused >&2; cat > /dev/stdout"], stdin=one.stdout
        ) as two:
            end(one.stdin).close()
            assert end(two.stdout).read() == b"x\n"
            reader = two.wait(30)
        writer = one.wait(30)
    assert reader.ok
    assert writer.ok
    if writer.isolation.worker["uid"] != os.getuid():
        # The one may not read what it writes; the other may write, but then nobody else reads it.
        assert b"refused" in writer.stderr


def test_the_end_of_one_is_the_end_of_the_others_input(box: Sandbox, other: Sandbox) -> None:
    with box.popen(sh("echo last; kill -KILL $$")) as first:
        with other.popen(["cat"], stdin=first.stdout) as second:
            assert end(second.stdout).read() == b"last\n"
            assert second.wait(30).ok
        assert first.wait(30).signal == 9


def test_limits_hold_while_nobody_waits(make_sandbox: Make) -> None:
    limits = Limits(wall_time=0.3, cpu_time=5)
    with make_sandbox(limits, policy="program") as sandbox, sandbox.popen(["cat"]) as process:
        until(lambda: process.ended is not None, "the program's end")
        assert process.wait(0).status == "wall_time_limit"


def test_cpu_time_is_looked_at_while_nobody_waits(make_sandbox: Make) -> None:
    with (
        make_sandbox(Limits(cpu_time=0.2), policy="program") as sandbox,
        sandbox.popen(sh("while :; do :; done")) as process,
    ):
        until(lambda: process.ended is not None, "the program's end")
        assert process.wait(0).status == "cpu_time_limit"


def test_kill_ends_it_with_all_it_started(box: Sandbox) -> None:
    with box.popen(sh("sleep 1000 & echo started; sleep 1000")) as process:
        assert end(process.stdout).readline() == b"started\n"
        process.kill()
        assert process.wait(30).status == "cancelled"
        process.kill()
    assert b"sleep" not in box.exec(sh("cat /proc/[0-9]*/comm 2> /dev/null")).stdout


def test_leaving_the_context_ends_it(box: Sandbox) -> None:
    with box.popen(["sleep", "1000"]) as process:
        pass
    assert process.wait(0).status == "cancelled"
    assert box.exec(["true"]).ok


def test_a_handle_that_is_dropped_ends_it(box: Sandbox) -> None:
    held = [box.popen(["sleep", "1000"])]
    held[0].close()
    with pytest.warns(ResourceWarning, match="nobody holds the program 'sleep'"):
        held.clear()
    assert box.exec(["true"]).ok  # its turn comes when the program has ended


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_stream_holds_it_as_its_handle_does(box: Sandbox) -> None:
    assert end(box.popen(sh("sleep .1; seq 1000")).stdout).read().endswith(b"\n1000\n")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_joined_program_holds_it_as_its_handle_does(box: Sandbox, other: Sandbox) -> None:
    with other.popen(["wc", "-l"], stdin=box.popen(sh("sleep .1; seq 1000")).stdout) as second:
        assert end(second.stdout).read() == b"1000\n"
        assert second.wait(30).ok


def test_waiting_has_a_timeout(box: Sandbox) -> None:
    with box.popen(["sleep", "1000"]) as process:
        with pytest.raises(TimeoutError, match="'sleep' still runs"):
            process.wait(0.05)
        assert process.poll() is None


def test_a_program_that_cannot_be_started_is_told_when_waited_for(box: Sandbox) -> None:
    with box.popen(["no-such-program"]) as process:
        assert end(process.stdout).read() == b""
        for _ in range(2):
            with pytest.raises(ProgramError, match="no-such-program"):
                process.wait(30)
    assert box.exec(["true"]).ok


def test_the_sandbox_is_its_own_until_it_ends(box: Sandbox) -> None:
    with box.popen(["cat"]) as process:
        for attempt in (
            lambda: box.run(int),
            lambda: box.exec(["true"]),
            lambda: box.popen(["true"]),
        ):
            with pytest.raises(ClosedError, match="until it ends"):
                attempt()
        end(process.stdin).close()
        process.wait(30)
        assert box.run(int, "7") == 7


def test_closing_the_sandbox_ends_it(make_sandbox: Make) -> None:
    sandbox = make_sandbox(SMALL, policy="program").__enter__()
    process = sandbox.popen(["sleep", "1000"])
    sandbox.close()
    assert process.wait(30).status == "cancelled"
    process.close()


def test_files_go_in_and_out(box: Sandbox) -> None:
    with box.popen(
        sh("read x; cat in > out; echo $x >> out"), files={"in": b"1 "}, collect=["out"]
    ) as p:
        end(p.stdin).write(b"2\n")
        assert p.wait(30).files == {"out": b"1 2\n"}


def test_many_at_once(make_sandbox: Make) -> None:
    sandboxes = [make_sandbox(SMALL, policy="program").__enter__() for _ in range(4)]
    try:
        processes = [sandbox.popen(["cat"]) for sandbox in sandboxes]
        for number, process in enumerate(processes):
            end(process.stdin).write(b"%d\n" % number)
        assert [end(p.stdout).readline() for p in processes] == [b"0\n", b"1\n", b"2\n", b"3\n"]
        assert sum(t.name == "sandbox-poller" for t in threading.enumerate()) == 1
        for process in processes:
            process.kill()
            assert process.wait(30).status == "cancelled"
            process.close()
    finally:
        for sandbox in sandboxes:
            sandbox.close()


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_only_the_right_end_of_a_pipe_can_be_given(box: Sandbox, name: str) -> None:
    reader, writer = (
        os.fdopen(end, mode, 0) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True)
    )
    with open("/dev/null", "r+b", buffering=0) as null, reader, writer:
        wrong = writer if name == "stdin" else reader
        bad: list[tuple[Any, type[Exception]]] = [
            (wrong, ValueError), (null, ValueError), (5, TypeError), ("x", TypeError),
        ]  # fmt: skip
        for stream, kind in bad:
            options: Any = {name: stream}
            with pytest.raises(kind, match=name):
                box.popen(["true"], **options)
        assert not wrong.closed
    assert box.exec(["true"]).ok


def test_nothing_is_left_of_many(box: Sandbox) -> None:
    def run() -> None:
        with box.popen(["cat"]) as process:
            end(process.stdin).write(b"x")
        with pytest.raises(TypeError):
            box.popen(["cat"], stdin=5)  # type: ignore[arg-type]

    run()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        run()
    assert len(os.listdir("/proc/self/fd")) <= before
    assert not RUNTIME.poller._running


def test_a_kill_at_once_costs_the_sandbox_nothing(box: Sandbox) -> None:
    """Before the worker was even met: what earlier calls wrote is still there."""
    assert box.exec(sh("echo kept > kept")).ok
    for _ in range(20):
        with box.popen(["sleep", "1000"]):
            pass
    assert box.exec(["cat", "kept"]).stdout == b"kept\n"


def test_a_handle_has_a_name(box: Sandbox) -> None:
    with box.popen(["cat"]) as process:
        assert isinstance(process, Process)
        assert repr(process) == "<Process 'cat' running>"
    assert repr(process) == "<Process 'cat' ended>"


def test_who_ended_first_is_told_by_the_clock(box: Sandbox, other: Sandbox) -> None:
    before = time.monotonic()
    with box.popen(["cat"]) as first, other.popen(["cat"]) as second:
        end(second.stdin).close()
        second.wait(30)
        end(first.stdin).close()
        first.wait(30)
    assert before < (second.ended or 0) < (first.ended or 0) < time.monotonic()


@pytest.mark.parametrize("moment", [math.nan, math.inf, -math.inf, 0.0, 1e300])
def test_a_moment_that_cannot_be_is_not_believed(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch, moment: float
) -> None:
    """init shares the guest's user id: its word counts within what the host saw."""
    decode = _channel._decode

    def lying(data: bytes, flags: int) -> list[Any]:
        message = decode(data, flags)
        if message[0] == "ended":
            message[3] = moment
        return message

    before = time.monotonic()
    with monkeypatch.context() as patched:
        patched.setattr(_channel, "_decode", lying)
        with box.popen(["true"]) as process:
            assert process.wait(30).ok
    assert before < (process.ended or 0) < time.monotonic()


def test_who_ended_first_is_told_however_busy_the_host_is(box: Sandbox, other: Sandbox) -> None:
    """The one ends a moment after the end of the other, which the host asks about first."""
    for _ in range(3):
        with other.popen(sh("cat; sleep .1")) as last, box.popen(["true"], stdout=last.stdin) as f:
            while last.poll() is None or f.poll() is None:
                sum(range(10_000_000))  # without letting another thread run
            assert (f.ended or 0) < (last.ended or 0)


def test_files_that_are_brought_back_hold_up_no_other_programs_clock(make_sandbox: Make) -> None:
    """The second program's limit comes while the files of the first are still looked through."""
    many = replace(SMALL, inodes=40_000, disk="64M", cpu_time=60)
    short = replace(SMALL, wall_time=0.1)
    patterns = [f"**/*a*b*c*{number}" for number in range(100)]
    with (
        make_sandbox(many, policy="program") as box,
        make_sandbox(short, policy="program") as other,
    ):
        assert box.exec(sh("seq 30000 | xargs touch")).ok
        with box.popen(["true"], collect=patterns) as slow:
            until(
                lambda: any(t.name == "sandbox-collector" for t in enumerate_threads()), "its end"
            )
            with other.popen(["sleep", "1000"]) as quick:
                assert quick.wait(30).status == "wall_time_limit"
                assert slow.poll() is None
            assert slow.wait(60).ok


def test_an_outcome_that_cannot_be_made_is_told_to_who_waits(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise PermissionError("mine")

    with monkeypatch.context() as patched:
        patched.setattr(_process, "conclude", fail)
        with box.popen(["true"]) as process, pytest.raises(InternalError, match="mine"):
            process.wait(30)
    assert box.exec(["true"]).ok


def test_limits_of_months_can_be_waited_for(make_sandbox: Make) -> None:
    """poll takes no more than 24 days."""
    limits = Limits(wall_time=90 * 86400.0, cpu_time=None)
    with make_sandbox(limits, policy="program") as sandbox:
        assert sandbox.exec(["true"]).ok
        with sandbox.popen(["true"]) as process:
            assert process.wait(30).ok


@pytest.mark.parametrize("where", ["eventfd", "Thread"])
def test_a_poller_that_cannot_start_leaves_the_sandbox_usable(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "too many")

    box.exec(sh("echo kept > kept"))
    with monkeypatch.context() as patched:
        patched.setattr(RUNTIME, "poller", _poller.Poller())
        patched.setattr(os if where == "eventfd" else threading, where, refuse)
        with pytest.raises(OSError, match="too many"):
            box.popen(["sleep", "1000"])
    assert box.exec(["cat", "kept"]).stdout == b"kept\n"
    with box.popen(["true"]) as process:
        assert process.wait(30).ok


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # never closed, but collected
def test_a_sandbox_that_only_its_program_holds_stays(make_sandbox: Make) -> None:
    def start() -> Process:
        return make_sandbox(SMALL, policy="program").__enter__().popen(["cat"])

    with start() as process:
        gc.collect()
        end(process.stdin).write(b"x")
        end(process.stdin).close()
        assert process.wait(30).status == "ok"
        assert end(process.stdout).read() == b"x"
    until(lambda: not RUNTIME.poller._running, "the poller's part")
    gc.collect()
    RUNTIME.reaper.drain()
