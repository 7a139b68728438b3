"""Groups and their limits on the cgroup version of this kernel: one meaning on both."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from sandbox._cgroup import Groups
from sandbox._models import Limits
from tests.kernel.cgroup_children import HOG, MIB, SMALL, WAIT, Child, opened

FORK = """
import errno
refused = 0
for _ in range(8):
    try:
        if os.fork() == 0:
            sys.stdin.read()
            os._exit(0)
    except OSError as error:
        assert error.errno == errno.EAGAIN
        refused += 1
print(refused, flush=True)
"""
SPIN = """
import time
start = time.process_time()
while time.process_time() - start < {seconds}:
    pass
"""


@pytest.fixture
def groups() -> Iterator[Groups]:
    with opened() as found:
        yield found


def test_a_process_joins_by_writing_to_the_descriptors(groups: Groups) -> None:
    jail = groups.jail(SMALL)
    call = jail.call()
    with Child(jail.init_fds(), WAIT) as init, Child(call.procs_fds(), WAIT) as worker:
        assert call.contains(worker.pid)
        assert not call.contains(init.pid)
        assert not call.contains(os.getpid())
        worker.go()
        worker.run()
        assert not call.contains(worker.pid)


def test_limits_are_what_the_kernel_shows(groups: Groups) -> None:
    jail = groups.jail(Limits(memory="32M", disk="1M", swap="2M", processes=4, cpus=0.5))
    expected = {"memory": 33 * MIB, "swap": 2 * MIB, "processes": 4, "cpus": 0.5}
    assert jail.call().read_back() == expected
    backstop = {"memory": 65 * MIB, "swap": 2 * MIB, "processes": 12, "cpus": None}
    assert jail.read_back() == backstop


def test_limits_need_not_be_whole_pages(groups: Groups) -> None:
    jail = groups.jail(Limits(memory=32 * MIB + 5, disk=64 << 10))
    assert jail.call().read_back()["memory"] == 32 * MIB + (64 << 10)


def test_unlimited_is_unlimited(groups: Groups) -> None:
    call = groups.jail(Limits(memory=None, processes=None, cpus=None)).call()
    shown = call.read_back()
    assert (shown["memory"], shown["processes"], shown["cpus"]) == (None, None, None)


def test_too_much_memory_ends_the_process_and_is_counted(groups: Groups) -> None:
    jail = groups.jail(SMALL)
    call = jail.call()
    with Child(jail.init_fds(), WAIT) as init, Child(call.procs_fds(), HOG) as hog:
        assert hog.run() == -signal.SIGKILL
        used = call.counters()
        assert used.oom_kills >= 1
        assert used.oom_at_own_limit >= 1
        assert used.oom_at_jail_limit == 0
        assert used.memory_peak is not None
        assert 30 * MIB <= used.memory_peak <= 33 * MIB
        call.finish()
        again = jail.call()
        with Child(again.procs_fds(), "print('alive', flush=True)") as honest:
            honest.go()
            assert honest.line() == "alive"
            assert honest.status() == 0
        assert again.counters().oom_kills == 0
        assert again.counters().oom_at_own_limit == 0
        init.go()
        assert init.run() == 0


def test_running_out_at_the_jails_limit_is_told_apart(groups: Groups) -> None:
    jail = groups.jail(Limits(memory="64M", disk="64K"))
    call = jail.call()
    full = f"data = b'x' * {40 * MIB}; print('full', flush=True); {WAIT}"
    with Child(jail.init_fds(), full) as init, Child(call.procs_fds(), HOG) as hog:
        init.go()
        assert init.line() == "full"
        assert hog.run() == -signal.SIGKILL
        used = call.counters()
        assert used.oom_kills >= 1
        assert used.oom_at_own_limit == 0
        assert used.oom_at_jail_limit >= 1


def test_refused_forks_are_counted(groups: Groups) -> None:
    jail = groups.jail(SMALL)
    call = jail.call()
    with Child(call.procs_fds(), FORK) as child:
        child.go()
        assert child.line() == "5"
        used = call.counters()
        assert used.pids_refused == 5
        assert used.pids_peak in (4, None)


def test_cpu_time_is_counted_for_each_call(groups: Groups) -> None:
    jail = groups.jail(SMALL)
    for seconds in (0.3, 0.1):
        call = jail.call()
        with Child(call.procs_fds(), SPIN.format(seconds=seconds)) as child:
            assert child.run() == 0
        used = call.counters()
        assert seconds - 0.05 <= used.cpu_usage <= seconds + 0.3
        assert used.cpu_user + used.cpu_system == pytest.approx(used.cpu_usage, abs=0.05)
        assert call.cpu_seconds() == pytest.approx(used.cpu_usage, abs=0.001)
        call.finish()
    assert jail.call().cpu_seconds() < 0.05


def test_cpus_throttles_the_call(groups: Groups) -> None:
    call = groups.jail(Limits(cpus=0.2)).call()
    with Child(call.procs_fds(), SPIN.format(seconds=0.2)) as child:
        assert child.run() == 0
    assert call.counters().throttled_time > 0.1


def test_peaks_are_of_this_call_only(groups: Groups) -> None:
    jail = groups.jail(SMALL)
    first = jail.call()
    with Child(first.procs_fds(), "data = b'x' * (20 << 20)") as child:
        assert child.run() == 0
    before = first.counters()
    first.finish()
    second = jail.call()
    with Child(second.procs_fds(), "") as child:
        assert child.run() == 0
    after = second.counters()
    assert before.memory_peak is not None
    assert after.memory_peak is not None
    assert before.memory_peak >= 20 * MIB
    assert after.memory_peak < 10 * MIB


def test_files_of_earlier_calls_use_up_the_room_for_files(groups: Groups) -> None:
    jail = groups.jail(Limits(memory="32M", disk="6M"))
    store = os.memfd_create("files")
    caps = []
    try:
        for _ in range(3):
            call = jail.call()
            caps.append(call.read_back()["memory"])
            body = f"os.write({store}, b'x' * (4 << 20))"
            with Child(call.procs_fds(), body, keep=[store]) as child:
                assert child.run() == 0
            call.finish()
        assert caps[0] == 38 * MIB
        assert caps[1] == pytest.approx(34 * MIB, abs=MIB)
        assert caps[2] == 32 * MIB
    finally:
        os.close(store)
