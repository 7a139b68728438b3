"""What only cgroup v2 does: a process that must step aside before controllers can be handed down,
groups that are never used twice, and an OOM killer that ends a call whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sandbox._cgroup import Groups
from sandbox._cgroup._detect import detect, home
from sandbox._cgroup._remove import Removal
from tests.kernel.cgroup_children import HOG, SMALL, WAIT, Child, folders, open_files, opened

if detect().version != 2:
    pytest.skip("this kernel's controllers are on cgroup v1", allow_module_level=True)

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture
def groups() -> Iterator[Groups]:
    with opened() as found:
        yield found


@pytest.fixture
def apart(groups: Groups) -> Iterator[str]:
    """A group of its own for a program, beside the top group, as a service manager gives one."""
    folder = os.path.join(os.path.dirname(groups.top_dirs[0]), "apart")
    os.mkdir(folder)
    try:
        yield folder
    finally:
        removal = Removal([folder])
        assert removal.run(10.0)
        removal.close()


def own_group() -> str:
    with open("/proc/self/cgroup") as membership:
        return membership.read().strip().rpartition(":")[2]


def processes(folder: str) -> list[int]:
    with open(f"{folder}/cgroup.procs") as procs:
        return [int(line) for line in procs]


def test_running_out_of_memory_ends_the_call_whole_and_nothing_else(groups: Groups) -> None:
    jail = groups.jail(SMALL)
    call = jail.call()
    assert call.oom_fd is None
    with (
        Child(jail.init_fds(), WAIT) as init,
        Child(call.procs_fds(), WAIT) as other,
        Child(call.procs_fds(), HOG) as hog,
    ):
        assert hog.run() == -signal.SIGKILL
        assert other.status() == -signal.SIGKILL
        assert call.counters().oom_kills >= 2
        init.go()
        assert init.run() == 0


def test_each_call_has_a_fresh_group_which_goes_with_it(groups: Groups) -> None:
    jail = groups.jail(SMALL)
    seen = set()
    for _ in range(3):
        call = jail.call()
        new = [path for path in folders(groups) if "/call-" in path]
        assert len(new) == 1
        seen.add(new[0])
        call.finish()
    assert len(seen) == 3
    assert [path for path in folders(groups) if "/call-" in path] == []


def test_a_call_with_a_process_left_goes_with_a_later_call(groups: Groups) -> None:
    jail = groups.jail(SMALL)
    call = jail.call()
    with Child(call.procs_fds(), WAIT):
        call.finish()
        assert len([path for path in folders(groups) if "/call-" in path]) == 1
    jail.call().finish()
    assert [path for path in folders(groups) if "/call-" in path] == []


def test_a_jail_holds_few_descriptors_between_calls(groups: Groups) -> None:
    jail = groups.jail(SMALL)
    before = open_files()
    for _ in range(3):
        call = jail.call()
        with Child([*jail.init_fds(), *call.procs_fds()], "") as child:
            assert child.run() == 0
        call.counters()
        call.finish()
        assert open_files() <= before + 4


def test_this_process_steps_aside_while_groups_are_open(groups: Groups) -> None:
    base = os.path.dirname(groups.top_dirs[0])
    assert os.getpid() in processes(f"{base}/sandbox-host")
    assert processes(base) == []
    with open(f"{base}/cgroup.subtree_control") as control:
        assert {"memory", "cpu", "pids"}.issubset(control.read().split())


def test_the_base_is_left_as_it_was_found() -> None:
    base, before = home(detect().hierarchies[0]).base, own_group()
    groups = Groups.open()
    assert own_group() != before
    groups.close()
    assert own_group() == before
    assert not [name for name in os.listdir(base) if name.startswith("sandbox-")]
    with open(f"{base}/cgroup.subtree_control") as control:
        assert "pids" not in control.read().split()


def test_another_user_of_the_base_keeps_its_groups(groups: Groups) -> None:
    second = Groups.open()
    second.close()
    assert groups.jail(SMALL).call().read_back()["processes"] == 4


OPEN = """
import os, sys
with open(sys.argv[1] + "/cgroup.procs", "w") as procs:
    procs.write("0")
print("in", flush=True)
sys.stdin.readline()
from sandbox._cgroup import Groups
from sandbox._errors import Unsupported
try:
    groups = Groups.open()
except Unsupported as error:
    print(error.reason, "|", error.remedy, flush=True)
else:
    print("opened", groups.top_dirs[0], flush=True)
    sys.stdin.readline()
    groups.close()
    print("closed", flush=True)
sys.stdin.readline()
"""


class Program:
    """A host process in a group of its own."""

    def __init__(self, folder: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OPEN, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self.line() == "in"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *details: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_a_program_alone_in_its_group_may_use_it(apart: str) -> None:
    with Program(apart) as program:
        program.go()
        assert program.line().startswith(f"opened {apart}/sandbox-")
        assert processes(apart) == []
        program.go()
        assert program.line() == "closed"
        assert processes(apart) == [program.process.pid]


def test_strangers_in_the_group_are_not_moved(apart: str) -> None:
    with Program(apart) as program, Program(apart) as stranger:
        program.go()
        answer = program.line()
        assert f"1 other process(es) run in the group {apart}" in answer
        assert str(stranger.process.pid) in answer
        user = "" if os.geteuid() == 0 else "--user "
        assert f"systemd-run {user}--scope -p Delegate=yes -- <command>" in answer
        assert sorted(processes(apart)) == sorted([program.process.pid, stranger.process.pid])
        assert not [name for name in os.listdir(apart) if "sandbox" in name]


def test_a_program_forked_from_a_host_has_groups_of_its_own(groups: Groups) -> None:
    base = os.path.dirname(groups.top_dirs[0])
    with Program(f"{base}/sandbox-host") as program:
        program.go()
        assert program.line().startswith(f"opened {base}/sandbox-")
        program.go()
        assert program.line() == "closed"
    assert os.getpid() in processes(f"{base}/sandbox-host")


def test_a_missing_controller_is_named(apart: str) -> None:
    with open(f"{os.path.dirname(apart)}/cgroup.subtree_control") as control:
        assert "pids" in control.read().split()
    inner = f"{apart}/inner"
    os.mkdir(inner)
    try:
        with Program(inner) as program:
            program.go()
            assert "is not given the controllers memory, cpu, pids" in program.line()
    finally:
        os.rmdir(inner)
