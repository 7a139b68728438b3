"""What only cgroup v1 does: one group in several hierarchies, directories that are used again, and
an OOM killer that ends one process and leaves the rest to the host."""

from __future__ import annotations

import os
import resource
import select
import signal
from collections.abc import Iterator

import pytest

from sandbox._cgroup import Groups
from sandbox._cgroup._detect import detect
from sandbox._errors import SetupError, Unsupported
from sandbox._models import Limits
from tests.kernel.cgroup_children import HOG, MIB, SMALL, WAIT, Child, folders, open_files, opened

if detect().version != 1:
    pytest.skip("this kernel's controllers are on cgroup v2", allow_module_level=True)


@pytest.fixture
def groups() -> Iterator[Groups]:
    with opened() as found:
        yield found


def identities(groups: Groups) -> dict[str, int]:
    """Directory → inode: a directory made anew has another."""
    return {path: os.stat(path).st_ino for path in folders(groups)}


def readable(fd: int, milliseconds: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(milliseconds))


def test_this_process_stays_where_it_is(groups: Groups) -> None:
    with open("/proc/self/cgroup") as membership:
        before = membership.read()
    groups.jail(SMALL).call()
    with open("/proc/self/cgroup") as membership:
        assert membership.read() == before
    assert "sandbox-" not in before


def test_running_out_of_memory_is_told_and_the_rest_lives_until_it_is_killed(
    groups: Groups,
) -> None:
    jail = groups.jail(SMALL)
    call = jail.call()
    assert call.oom_fd is not None
    with Child(call.procs_fds(), WAIT) as other, Child(call.procs_fds(), HOG) as hog:
        assert not readable(call.oom_fd, 0)
        assert hog.run() == -signal.SIGKILL
        assert readable(call.oom_fd, 60_000)
        assert call.contains(other.pid)
        jail.close(30.0)
        assert other.status() == -signal.SIGKILL


def test_the_next_call_starts_without_the_last_ones_notification(groups: Groups) -> None:
    jail = groups.jail(SMALL)
    call = jail.call()
    with Child(call.procs_fds(), HOG) as hog:
        assert hog.run() == -signal.SIGKILL
    call.finish()
    again = jail.call()
    assert again.oom_fd is not None
    assert not readable(again.oom_fd, 0)


def test_a_quiet_call_leaves_its_directories_to_the_next(groups: Groups) -> None:
    jail = groups.jail(SMALL)
    call = jail.call()
    with Child(call.procs_fds(), "") as child:
        assert child.run() == 0
    before = identities(groups)
    call.finish()
    jail.call()
    assert identities(groups) == before


def test_what_cannot_be_reset_is_made_anew(groups: Groups) -> None:
    jail = groups.jail(Limits(memory="32M", disk="8M", processes=4))
    store = os.memfd_create("files")
    try:
        call = jail.call()
        body = f"os.write({store}, b'x' * (4 << 20))\nif os.fork() == 0: os._exit(0)\nos.wait()"
        with Child(call.procs_fds(), body, keep=[store]) as child:
            assert child.run() == 0
        before = identities(groups)
        call.finish()
        changed = {path for path, inode in identities(groups).items() if before[path] != inode}
        assert {path.split("/")[-1] for path in changed} == {"call-1"}
        assert len(changed) == 2
        assert call.counters().pids_peak in (0, None)
    finally:
        os.close(store)


def test_a_call_with_a_process_left_is_not_used_again(groups: Groups) -> None:
    jail = groups.jail(SMALL)
    first = jail.call()
    with Child(first.procs_fds(), WAIT) as child:
        first.finish()
        second = jail.call()
        with Child(second.procs_fds(), WAIT) as other:
            assert second.contains(other.pid)
            assert not second.contains(child.pid)


def test_two_calls_at_once_have_a_group_each(groups: Groups) -> None:
    jail = groups.jail(SMALL)
    first, second = jail.call(), jail.call()
    with Child(first.procs_fds(), WAIT) as child:
        assert first.contains(child.pid)
        assert not second.contains(child.pid)


def test_a_closed_jails_directories_serve_the_next_with_its_own_limits(groups: Groups) -> None:
    jail = groups.jail(SMALL)
    call = jail.call()
    with Child(jail.init_fds(), "") as init, Child(call.procs_fds(), "") as worker:
        assert worker.run() == 0
        assert init.run() == 0
    call.finish()
    jail.close()
    before = identities(groups)
    wider = groups.jail(Limits(memory="64M", disk="2M", processes=None, cpus=1.5))
    again = wider.call()
    assert identities(groups) == before
    expected = {"memory": 66 * MIB, "swap": 0, "processes": None, "cpus": 1.5}
    assert again.read_back() == expected
    assert wider.read_back()["memory"] == 98 * MIB
    assert wider.read_back()["processes"] is None
    again.finish()
    wider.close()
    narrow = groups.jail(SMALL)
    expected = {"memory": 33 * MIB, "swap": 0, "processes": 4, "cpus": None}
    assert narrow.call().read_back() == expected


def test_directories_serve_again_after_a_kill(groups: Groups) -> None:
    jail = groups.jail(SMALL)
    with Child(jail.init_fds(), WAIT), Child(jail.call().procs_fds(), WAIT):
        while not jail.try_close():
            pass
    jail = groups.jail(SMALL)
    call = jail.call()
    assert jail.read_back()["processes"] == 12
    assert call.read_back()["processes"] == 4
    with Child(jail.init_fds(), "os._exit(os.fork() and 7)") as init:
        assert init.run() == 7


def test_a_finished_jail_has_no_hold_on_the_directories_of_the_next(groups: Groups) -> None:
    first = groups.jail(SMALL)
    first.close()
    second = groups.jail(SMALL)
    with Child(second.init_fds(), WAIT) as init:
        first.close()
        assert first.try_close()
        init.go()
        assert init.run() == 0


def test_swap_open_and_closed_do_not_share_directories(groups: Groups) -> None:
    closed = groups.jail(SMALL)
    closed.close()
    before = identities(groups)
    groups.jail(Limits(memory="32M", disk="1M", swap="1M", processes=4))
    assert len(identities(groups)) > len(before)


def test_descriptors_are_closed_between_calls_when_they_are_few(groups: Groups) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    jail = groups.jail(SMALL)
    before = open_files()
    few = len(os.listdir("/proc/self/fd")) + 48
    assert few < 256, "so many that one jail more does not make them few"
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        call = jail.call()
        call.counters()
        during = open_files()
        call.finish()
        assert open_files() <= before + 1 < during
        with Child(jail.call().procs_fds(), "") as child:
            assert child.run() == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_quota_above_that_of_a_group_further_up_is_explained(groups: Groups) -> None:
    (cpu,) = (top for top in groups.top_dirs if os.path.exists(f"{top}/cpu.cfs_quota_us"))
    with open(f"{cpu}/cpu.cfs_quota_us", "w") as quota:
        quota.write("50000")
    assert groups.jail(Limits(cpus=0.5)).call().read_back()["cpus"] == 0.5
    with pytest.raises(SetupError, match="a group further up allows less CPU time"):
        groups.jail(Limits(cpus=1)).call()


def test_a_user_who_may_not_make_groups_is_told_what_to_do() -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setresuid(65534, 65534, 65534)
        try:
            Groups.open()
        except Unsupported as error:
            os.write(write, f"{error}".encode())
        os._exit(0)
    os.close(write)
    with open(read) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    assert "this user owns no group there" in text
    assert "On cgroup v1 only root may make groups: run as root, or boot with" in text
