"""Each limit that ends a call gives its own status, with the counter and value that decided it, and
what the guest had written by then; a guest that copes is `ok`, with the refusals in the evidence."""

from __future__ import annotations

import errno
import functools
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox import (
    DiskLimitExceeded,
    Limits,
    MemoryLimitExceeded,
    Outcome,
    OutputLimitExceeded,
    PolicyViolation,
    ProcessLimitExceeded,
    ResultError,
    Sandbox,
    Signaled,
    TimeLimitExceeded,
)

Make = Callable[..., Sandbox]
LIMITS = Limits(
    memory="48M", cpu_time=2.0, wall_time=5.0, processes=6, output=2000, disk="1M", inodes=64,
    file_size="512K", open_files=40, result="64K", stack="2M",
)  # fmt: skip


@pytest.fixture(scope="module")
def tight(make_sandbox: Make) -> Iterator[Sandbox]:
    with make_sandbox(LIMITS) as sandbox:
        yield sandbox


def says(guest: Callable[..., Any]) -> Callable[..., Any]:
    """The guest, after it wrote to both streams, half a line too, and flushed neither."""

    def speak(*args: Any) -> Any:
        print("to stdout")
        sys.stdout.write("half a line")
        sys.stderr.write("to stderr")
        return guest(*args)

    return speak


# --- what ends a call -------------------------------------------------------------------------------


def spin() -> None:
    while True:
        pass


def spin_in_children() -> None:
    for _ in range(2):
        os.fork()
    spin()


def hoard() -> None:
    kept = []
    while True:
        kept.append(b"x" * (4 << 20))


def flood() -> None:
    while True:
        os.write(1, b"x" * 500)


def too_many_threads() -> None:
    done = threading.Event()
    while True:
        threading.Thread(target=done.wait, daemon=True).start()


def fill_disk() -> None:
    for number in range(5):
        with open(f"/work/full-{number}", "wb") as file:
            file.write(bytes(400 << 10))


def fill_inodes() -> None:
    for number in range(100):
        open(f"/tmp/many-{number}", "w").close()


def outgrow_file() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    with open("/tmp/long", "wb") as file:
        file.write(bytes(600 << 10))


def overflow_stack() -> None:
    import ctypes

    ctypes.string_at(0)


def trace() -> None:
    import ctypes

    ctypes.CDLL(None).ptrace(16, 1, 0, 0)


def fork_and_end() -> None:
    if os.fork():
        os._exit(0)


ENDS: list[tuple[Any, ...]] = [
    (spin, "cpu_time_limit", TimeLimitExceeded, {"limit": "cpu_time", "value": 2.0}),
    (spin_in_children, "cpu_time_limit", TimeLimitExceeded, {"counter": "cpu usage"}),
    (lambda: time.sleep(100), "wall_time_limit", TimeLimitExceeded, {"limit": "wall_time", "value": 5.0}),
    (
        hoard,
        "memory_limit",
        MemoryLimitExceeded,
        {"limit": "memory", "value": 48 << 20, "in_force": 49 << 20},
    ),
    (flood, "output_limit", OutputLimitExceeded, {"limit": "output", "value": 2000}),
    (too_many_threads, "process_limit", ProcessLimitExceeded, {"limit": "processes", "value": 6}),
    (outgrow_file, "disk_limit", DiskLimitExceeded, {"limit": "file_size", "signal": "SIGXFSZ"}),
    (overflow_stack, "signaled", Signaled, {"name": "SIGSEGV"}),
    (trace, "policy_violation", PolicyViolation, {"syscall": "ptrace"}),
    (lambda: b"x" * (65 << 10), "result_too_large", ResultError, {"limit": "result", "value": 64 << 10}),
    (fork_and_end, "result_invalid", ResultError, {"exit_code": 0}),
]  # fmt: skip


@pytest.mark.parametrize(("guest", "status", "kind", "evidence"), ENDS, ids=lambda v: str(v)[:16])
def test_each_end_has_its_status_evidence_and_exception(
    tight: Sandbox, guest: Any, status: str, kind: type[Exception], evidence: dict[str, Any]
) -> None:
    with pytest.raises(kind) as caught:
        tight.run(says(guest))
    outcome: Outcome = getattr(caught.value, "outcome")  # noqa: B009
    assert outcome.status == status
    assert outcome.value is None
    assert evidence.items() <= outcome.evidence.items()
    assert outcome.stdout.startswith(b"to stdout\nhalf a line")
    assert outcome.stderr.startswith(b"to stderr")
    assert outcome.message == str(caught.value)
    assert tight.run(divmod, 7, 2) == (3, 1)


@pytest.mark.parametrize(
    ("guest", "limit"), [(fill_disk, "disk"), (fill_inodes, "inodes")], ids=["bytes", "inodes"]
)
def test_full_places_end_a_guest_that_does_not_cope(
    make_sandbox: Make, guest: Callable[[], None], limit: str
) -> None:
    with make_sandbox(LIMITS) as sandbox:
        outcome = sandbox.call(says(guest))
        assert (outcome.status, outcome.evidence["limit"]) == ("disk_limit", limit)
        assert outcome.error is not None
        assert "No space left" in outcome.error.message
        assert outcome.stdout == b"to stdout\nhalf a line"


def test_times_are_kept_to(tight: Sandbox) -> None:
    spun, slept = tight.call(spin), tight.call(lambda: time.sleep(100))
    assert spun.usage.cpu_time is not None
    assert 2 <= spun.usage.cpu_time < 3
    assert slept.usage.cpu_time is not None
    assert slept.usage.cpu_time < 1
    assert 5 <= slept.usage.wall_time < 7


# --- what a guest may cope with ---------------------------------------------------------------------


def cope_with_threads() -> str:
    done = threading.Event()
    started = []
    try:
        for _ in range(20):
            started.append(threading.Thread(target=done.wait))
            started[-1].start()
    except RuntimeError as error:
        return str(error)
    finally:
        done.set()
        for thread in started[:-1]:
            thread.join()
    return "no refusal"


def cope_with_disk() -> int:
    try:
        fill_disk()
    except OSError as error:
        return error.errno or 0
    return 0


def test_refusals_coped_with_are_noted(make_sandbox: Make) -> None:
    with make_sandbox(LIMITS) as sandbox:
        threads, disk = sandbox.call(cope_with_threads), sandbox.call(cope_with_disk)
    assert (threads.status, threads.evidence["processes_refused"] >= 1) == ("ok", True)
    assert "thread" in threads.value
    assert (disk.status, disk.value, disk.evidence["disk_full"]) == ("ok", errno.ENOSPC, True)


def move(cpus: set[int]) -> list[Any]:
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        return [error.errno, os.sched_getaffinity(0)]
    return [0, os.sched_getaffinity(0)]


def test_a_guest_runs_on_its_cpus_and_on_no_others(make_sandbox: Make) -> None:
    """The control: without a cpuset it may choose."""
    there = os.sched_getaffinity(0)
    one = max(there)
    with make_sandbox(Limits(cpuset=str(one))) as sandbox:
        outcome = sandbox.call(move, there)
    assert outcome.value == [errno.EPERM, {one}]
    assert outcome.isolation.limits["cpuset"] == str(one)
    with make_sandbox() as sandbox:
        assert sandbox.run(move, {one}) == [0, {one}]
        assert sandbox.run(move, there) == [0, there]


def fail_otherwise() -> None:
    raise KeyError("unrelated")


@pytest.mark.parametrize(
    ("guest", "status"),
    [(fail_otherwise, "exception"), (functools.partial(os._exit, 7), "nonzero_exit")],
)
def test_what_an_earlier_call_left_full_is_not_why_a_later_one_fails(
    guest: Callable[..., Any], status: str, make_sandbox: Make
) -> None:
    """The control: with room at its beginning, the same end is the limit's."""
    with make_sandbox(LIMITS) as sandbox:
        assert sandbox.call(fill_and_fail).status == "disk_limit"
        later = sandbox.call(guest)
    assert (later.status, later.evidence["disk_full"]) == (status, True)


def fill_and_fail() -> None:
    cope_with_disk()
    fail_otherwise()


def open_many() -> list[int]:
    kept = []
    try:
        for _ in range(100):
            kept.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        return [error.errno or 0, max(kept)]
    return [0, max(kept)]


def test_files_processes_and_stack_are_limited_per_process(tight: Sandbox) -> None:
    assert tight.run(open_many) == [errno.EMFILE, 39]
    wanted = {
        resource.RLIMIT_NOFILE: 40, resource.RLIMIT_FSIZE: 512 << 10, resource.RLIMIT_STACK: 2 << 20,
        resource.RLIMIT_MSGQUEUE: 0,
    }  # fmt: skip
    assert tight.run(lambda: {n: resource.getrlimit(n) for n in wanted}) == {
        number: (value, value) for number, value in wanted.items()
    }


def test_memory_freed_by_a_call_is_there_for_the_next(tight: Sandbox) -> None:
    for _ in range(4):
        assert tight.run(lambda: len(b"x" * (32 << 20))) == 32 << 20


def start_three() -> None:
    done = threading.Event()
    threads = [threading.Thread(target=done.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    done.set()


def test_the_next_call_has_all_its_processes_again(tight: Sandbox) -> None:
    tight.call(too_many_threads)
    outcome = tight.call(start_three)
    assert outcome.status == "ok"
    assert "processes_refused" not in outcome.evidence


# --- output -----------------------------------------------------------------------------------------


def test_head_and_tail_are_kept_and_the_rest_is_counted(tight: Sandbox) -> None:
    outcome = tight.call(lambda: os.write(1, b"a" * 900 + b"-" * 5000 + b"z" * 900))
    assert outcome.status == "output_limit"
    assert (outcome.stdout[:900], outcome.stdout[-900:]) == (b"a" * 900, b"z" * 900)
    assert len(outcome.stdout) + outcome.truncated["stdout"] == 6800 == outcome.usage.output_bytes


def test_output_up_to_the_limit_is_all_there(tight: Sandbox) -> None:
    outcome = tight.call(lambda: [os.write(1, b"o" * 1000), os.write(2, b"e" * 1000)])
    assert outcome.status == "ok"
    assert (outcome.stdout, outcome.stderr) == (b"o" * 1000, b"e" * 1000)
    assert set(outcome.truncated.values()) == {0}


# --- unlimited --------------------------------------------------------------------------------------


def test_unlimited_is_possible(make_sandbox: Make) -> None:
    limits = Limits(
        wall_time=None, cpu_time=None, memory=None, processes=None, file_size=None, output=None
    )
    with make_sandbox(limits) as sandbox:
        outcome = sandbox.call(lambda: os.write(1, b"x" * (2 << 20)) + os.write(2, b"y"))
    assert outcome.status == "ok"
    assert len(outcome.stdout) == 1 << 20
    assert outcome.truncated["stdout"] == 1 << 20
    assert outcome.isolation.limits["call.memory"] is None


# --- usage ------------------------------------------------------------------------------------------


def test_usage_is_per_call(make_sandbox: Make) -> None:
    def work(seconds: float, size: int) -> int:
        kept = b"x" * size
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass
        print("x" * 99)
        return len(kept)

    with make_sandbox() as sandbox:
        large, small = sandbox.call(work, 0.2, 64 << 20), sandbox.call(work, 0.0, 1)
    assert large.usage.cpu_time is not None
    assert small.usage.cpu_time is not None
    assert large.usage.cpu_time >= 0.2 > small.usage.cpu_time
    if large.usage.memory_peak is not None and small.usage.memory_peak is not None:
        assert large.usage.memory_peak >= 64 << 20 > small.usage.memory_peak
    assert large.usage.wall_time >= 0.2
    assert large.usage.output_bytes == small.usage.output_bytes == 100
    assert large.usage.oom_kills == 0


def test_cpus_slows_down(make_sandbox: Make) -> None:
    def work() -> None:
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass

    with make_sandbox(Limits(cpus=0.25)) as sandbox:
        usage = sandbox.call(work).usage
    assert usage.wall_time >= 0.45
    assert usage.throttled_time is None or usage.throttled_time > 0.1
