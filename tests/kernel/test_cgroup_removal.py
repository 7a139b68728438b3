"""Groups come and go: closing, sweeping, threads, forks, and refusals, on either cgroup version."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from sandbox._cgroup import Groups
from sandbox._cgroup._owner import Owner, name_of
from sandbox._errors import ClosedError, SetupError
from sandbox._models import Limits
from tests.kernel.cgroup_children import MIB, SMALL, WAIT, Child, folders, open_files, opened

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture
def groups() -> Iterator[Groups]:
    with opened() as found:
        yield found


@pytest.mark.spares("killed_forks")
def test_closing_kills_what_is_left(groups: Groups) -> None:
    jail = groups.jail(SMALL)
    call = jail.call()
    bomb = "while True:\n try: os.fork()\n except OSError: pass"
    with Child(jail.init_fds(), WAIT) as init, Child(call.procs_fds(), bomb) as worker:
        worker.go()
        jail.close(30.0)
        assert init.status() == worker.status() == -signal.SIGKILL
    assert jail.try_close()


def test_try_close_never_waits(groups: Groups) -> None:
    jail = groups.jail(SMALL)
    with Child(jail.init_fds(), WAIT) as init:
        assert not jail.try_close()
        assert init.status() == -signal.SIGKILL
        jail.close(10.0)
    assert jail.try_close()


def test_what_takes_too_long_to_close_is_closed_later(groups: Groups) -> None:
    jail = groups.jail(SMALL)
    with Child(jail.init_fds(), WAIT) as init:
        jail.close(0.0)
        assert init.status() == -signal.SIGKILL
    later = groups.jail(SMALL)
    later.close()
    assert jail.try_close()


def test_jails_leave_nothing_behind(groups: Groups) -> None:
    counts = []
    for _ in range(30):
        jail = groups.jail(SMALL)
        call = jail.call()
        call.finish()
        call.finish()
        jail.close()
        counts.append((len(folders(groups)), open_files()))
    assert len(set(counts[2:])) == 1


def test_many_threads_at_once(groups: Groups) -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(10):
                jail = groups.jail(Limits(memory=(32 + number) * MIB, disk="1M"))
                call = jail.call()
                assert call.read_back()["memory"] == (33 + number) * MIB
                call.finish()
                jail.close()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_limit_that_cannot_be_written_is_named(groups: Groups) -> None:
    for top in groups.top_dirs:
        os.rmdir(top)
    with pytest.raises(SetupError) as caught:
        groups.jail(SMALL)
    assert caught.value.errno == errno.ENOENT
    assert caught.value.detail.startswith(groups.top_dirs)


def test_closed_groups_make_no_jails() -> None:
    groups = Groups.open()
    before = open_files()
    jail = groups.jail(SMALL)
    jail.call().cpu_seconds()
    groups.close()
    groups.close()
    assert open_files() == before
    assert jail.try_close()
    assert open_files() == before
    with pytest.raises(ClosedError):
        groups.jail(SMALL)


def test_two_groups_of_one_process_stay_apart(groups: Groups) -> None:
    second = Groups.open()
    second.jail(SMALL)
    assert set(second.top_dirs).isdisjoint(groups.top_dirs)
    second.close()
    assert all(map(os.path.isdir, groups.top_dirs))


def test_a_forked_child_leaves_its_parents_groups_alone(groups: Groups) -> None:
    before = open_files()
    jail = groups.jail(SMALL)
    jail.call()
    held = open_files() - before
    pid = os.fork()
    if pid == 0:
        # Counted here: what the library's own fork handlers closed is none of these groups' files.
        copied = open_files()
        try:
            groups.close()
            groups.forget()
            left = open_files() - (copied - held)
            groups.jail(SMALL)
        except ClosedError:
            os._exit(abs(left))
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(folders(groups)) >= 3 * len(groups.top_dirs)
    jail.close()


HOST = """
import os, signal, sys
from sandbox._cgroup import Groups
from sandbox._models import Limits
groups = Groups.open()
jail = groups.jail(Limits())
if os.fork() == 0:
    for fd in jail.init_fds():
        os.write(fd, b"0")
    print(os.getpid(), *groups.top_dirs, sep=chr(10), flush=True)
    signal.pause()
signal.pause()
"""


class Host:
    """Another host process, with a jail in which one process of its own sits."""

    def __init__(self, trees: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOST], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline().strip() for _ in range(1 + trees)]
        self.jailed = os.pidfd_open(int(lines[0]))
        self.tops = sorted(lines[1:])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def host(groups: Groups) -> Iterator[Host]:
    other = Host(len(groups.top_dirs))
    try:
        yield other
    finally:
        other.kill()
        groups.sweep()
        os.close(other.jailed)
        other.process.communicate()


def test_the_groups_of_a_living_host_are_not_swept(groups: Groups, host: Host) -> None:
    assert groups.sweep() == []
    assert all(map(os.path.isdir, host.tops))
    assert not has_ended(host.jailed, 0)


def test_the_groups_of_a_dead_host_are_swept_with_what_runs_in_them(
    groups: Groups, host: Host
) -> None:
    host.kill()
    assert not has_ended(host.jailed, 0)
    assert sorted(groups.sweep()) == host.tops
    assert not any(map(os.path.exists, host.tops))
    assert has_ended(host.jailed, 60_000)


def test_opening_sweeps(groups: Groups, host: Host) -> None:
    host.kill()
    Groups.open().close()
    assert not any(map(os.path.exists, host.tops))


def test_the_groups_of_a_host_we_cannot_see_are_not_swept(groups: Groups) -> None:
    here = Owner.current()
    foreign = Owner(here.boot, here.pid_namespace + 1, here.time_namespace, here.pid, 1)
    folder = os.path.join(os.path.dirname(groups.top_dirs[0]), name_of(foreign))
    os.mkdir(folder)
    try:
        assert groups.sweep() == []
        assert os.path.isdir(folder)
    finally:
        os.rmdir(folder)


def test_a_read_only_tree_is_unsupported(groups: Groups) -> None:
    remount = 'for point in "$@"; do mount -o remount,bind,ro "$point" || exit 9; done; '
    opening = "from sandbox._cgroup import Groups; Groups.open()"
    script = f'{remount} exec "{sys.executable}" -c "{opening}"'
    mapping = [] if os.geteuid() == 0 else ["--map-root-user"]
    done = subprocess.run(
        ["unshare", "--mount", *mapping, "sh", "-c", script, "sh", *mount_points()],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 1
    assert "Unsupported: cgroup cannot be put in force: cannot make a group" in done.stderr
    assert "mounted read-only" in done.stderr


def mount_points() -> list[str]:
    """Every mounted cgroup tree."""
    with open("/proc/self/mounts") as mounts:
        entries = [line.split() for line in mounts]
    return [entry[1] for entry in entries if entry[2] in ("cgroup", "cgroup2")]


def has_ended(pidfd: int, milliseconds: int) -> bool:
    """Whether a process ends within that time."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(milliseconds))
