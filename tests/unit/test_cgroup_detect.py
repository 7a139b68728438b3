"""Which cgroup version and directories are chosen, who owns a group, and how limits become caps."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox._cgroup._detect import Hierarchy, Place, choose, home
from sandbox._cgroup._files import Folder, field, number
from sandbox._cgroup._owner import Owner, name_of, owner_of
from sandbox._cgroup._types import Caps, Charged
from sandbox._errors import SetupError, Unsupported
from sandbox._models import Limits

ALL = ["cpuset", "cpu", "io", "memory", "pids"]


def mounts(*entries: tuple[str, str, str]) -> str:
    """mountinfo of (root, mount point, v1 options or "" for v2)."""
    lines = ["22 1 254:0 / / rw,relatime - ext4 /dev/vda rw"]
    for number_, (root, point, options) in enumerate(entries, start=30):
        tail = f"cgroup cgroup rw,{options}" if options else "cgroup2 cgroup2 rw,nsdelegate"
        lines.append(f"{number_} 22 0:{number_} {root} {point} rw,nosuid shared:9 - {tail}")
    return "\n".join(lines) + "\n"


def found(mountinfo: str, membership: str, controllers: Iterable[str] = ()) -> Place:
    return choose(mountinfo, membership, lambda base: controllers)


SEPARATE = [("/", f"/sys/fs/cgroup/{name}", name) for name in ("cpu", "cpuacct", "memory", "pids")]
UNIFIED = ("/", "/sys/fs/cgroup", "")


def test_the_unified_tree_is_taken_where_it_has_the_controllers() -> None:
    place = found(mounts(UNIFIED), "0::/user.slice/app.scope\n", ALL)
    assert place.version == 2
    assert [tree.base for tree in place.hierarchies] == ["/sys/fs/cgroup/user.slice/app.scope"]


def test_hybrid_with_the_controllers_on_v1_is_v1() -> None:
    mountinfo = mounts(*SEPARATE, ("/", "/sys/fs/cgroup/unified", ""))
    membership = "9:name=systemd:/\n4:memory:/job\n3:pids:/\n2:cpuacct:/\n1:cpu:/a/b\n0::/\n"
    place = found(mountinfo, membership, [])
    bases = {name: tree.base for tree in place.hierarchies for name in tree.controllers}
    assert place.version == 1
    assert bases == {
        "memory": "/sys/fs/cgroup/memory/job",
        "pids": "/sys/fs/cgroup/pids",
        "cpuacct": "/sys/fs/cgroup/cpuacct",
        "cpu": "/sys/fs/cgroup/cpu/a/b",
    }


def test_hybrid_with_the_controllers_on_v2_is_v2() -> None:
    mountinfo = mounts(("/", "/sys/fs/cgroup/cpuset", "cpuset"), ("/", "/unified", ""))
    assert found(mountinfo, "2:cpuset:/\n0::/job\n", ALL).hierarchies[0].base == "/unified/job"


def test_controllers_mounted_together_share_one_hierarchy() -> None:
    mountinfo = mounts(
        ("/", "/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct"),
        ("/", "/sys/fs/cgroup/memory", "memory"),
        ("/", "/sys/fs/cgroup/pids", "pids"),
    )
    place = found(mountinfo, "3:cpu,cpuacct:/x\n2:memory:/\n1:pids:/\n")
    assert [tree.controllers for tree in place.hierarchies] == [
        ("cpu", "cpuacct"),
        ("memory",),
        ("pids",),
    ]
    assert place.hierarchies[0].line == "cpu,cpuacct"


def test_a_container_sees_its_part_of_a_v1_tree() -> None:
    mountinfo = mounts(*(("/docker/c1", point, name) for _, point, name in SEPARATE))
    membership = "".join(f"1:{name}:/docker/c1/job\n" for _, _, name in SEPARATE)
    bases = {tree.base for tree in found(mountinfo, membership).hierarchies}
    assert bases == {f"{point}/job" for _, point, _ in SEPARATE}


def test_a_group_outside_the_mounted_part_does_not_count() -> None:
    with pytest.raises(Unsupported, match="no cgroup file system"):
        found(mounts(("/docker/c1", "/sys/fs/cgroup", "")), "0::/docker/c2\n", ALL)
    with pytest.raises(Unsupported, match="no cgroup file system"):
        found(mounts(UNIFIED), "0::/../other\n", ALL)


def test_a_removed_group_does_not_count() -> None:
    with pytest.raises(Unsupported, match="no cgroup file system"):
        found(mounts(UNIFIED), "0::/job (deleted)\n", ALL)


def test_octal_escapes_of_mountinfo_are_undone() -> None:
    place = found(mounts(("/", r"/mnt/my\040groups", "")), "0::/a\n", ALL)
    assert place.hierarchies[0].base == "/mnt/my groups/a"


@pytest.mark.parametrize("missing", ["memory", "cpu", "pids"])
def test_a_missing_controller_of_v2_is_named(missing: str) -> None:
    with pytest.raises(Unsupported) as caught:
        found(mounts(UNIFIED), "0::/a\n", [name for name in ALL if name != missing])
    assert caught.value.feature == "cgroup"
    assert f"not given the controllers {missing}" in caught.value.reason
    assert "Delegate=" in caught.value.remedy


@pytest.mark.parametrize("missing", ["memory", "cpu", "cpuacct", "pids"])
def test_a_missing_controller_of_v1_is_named(missing: str) -> None:
    rest = [entry for entry in SEPARATE if entry[2] != missing]
    membership = "".join(f"1:{name}:/\n" for _, _, name in rest)
    with pytest.raises(Unsupported, match=f"controllers {missing} are not mounted"):
        found(mounts(*rest), membership)


def test_controllers_spread_over_both_versions_are_refused() -> None:
    mountinfo = mounts(("/", "/sys/fs/cgroup/memory", "memory"), ("/", "/unified", ""))
    with pytest.raises(Unsupported, match="cpu, cpuacct, pids"):
        found(mountinfo, "1:memory:/\n0::/\n", ["cpu", "pids"])


def test_no_cgroups_at_all() -> None:
    with pytest.raises(Unsupported, match="no cgroup file system"):
        found(mounts(), "")


def test_home_is_above_the_leaf_of_a_host_process() -> None:
    tree = Hierarchy((), "", "/a/sandbox-host", "/sys/fs/cgroup/a/sandbox-host")
    assert home(tree) == Hierarchy((), "", "/a", "/sys/fs/cgroup/a")
    assert home(home(tree)) == home(tree)


numbers = st.integers(min_value=0, max_value=1 << 63)
owners = st.builds(
    Owner,
    boot=st.text("0123456789abcdef", min_size=8, max_size=8),
    pid_namespace=numbers,
    time_namespace=numbers,
    pid=numbers,
    start=numbers,
)


@given(owners, st.integers(min_value=0, max_value=99))
def test_an_owner_is_read_back_from_the_name(owner: Owner, again: int) -> None:
    assert owner_of(name_of(owner, again)) == owner


@given(st.text(max_size=60))
def test_other_names_have_no_owner(name: str) -> None:
    assert owner_of(name) is None
    assert owner_of(f"sandbox-{name}") is None


def test_a_living_owner_is_not_gone() -> None:
    here = Owner.current()
    assert not here.gone(here)
    assert Owner.current() == here


def child_owner(child: subprocess.Popen[bytes]) -> Owner:
    with open(f"/proc/{child.pid}/stat") as stat:
        start = int(stat.read().rpartition(")")[2].split()[19])
    return replace(Owner.current(), pid=child.pid, start=start)


def test_an_owner_is_gone_from_its_death_on_reaped_or_not() -> None:
    child = subprocess.Popen([sys.executable, "-ISc", "input()"], stdin=subprocess.PIPE)
    owner, here = child_owner(child), Owner.current()
    assert not owner.gone(here)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert owner.gone(here)
    child.communicate()
    assert owner.gone(here)


def test_a_reused_pid_is_not_its_earlier_owner() -> None:
    here = Owner.current()
    assert replace(here, start=here.start - 1).gone(here)


def test_an_owner_that_cannot_be_seen_from_here_is_never_gone() -> None:
    here = Owner.current()
    dead = replace(here, start=here.start - 1)
    assert not replace(dead, boot="0" * 8).gone(here)
    assert not replace(dead, pid_namespace=1).gone(here)
    assert not replace(dead, time_namespace=1).gone(here)


def test_caps_leave_room_for_files_and_for_init() -> None:
    caps = Caps.of(Limits(memory="64M", disk="8M", processes=4, cpus=0.5, swap="1M"))
    assert caps == Caps(72 << 20, 8 << 20, 1 << 20, 4, 50_000)
    assert caps.jail_memory == 104 << 20
    assert caps.jail_processes == 12


def test_caps_of_unlimited() -> None:
    caps = Caps.of(Limits(memory=None, processes=None, cpus=None))
    memory = caps.call_memory(Charged(5, 5))
    assert (caps.jail_memory, memory, caps.jail_processes, caps.quota) == (None,) * 4


@given(st.integers(min_value=0, max_value=1 << 40))
def test_a_call_meets_its_own_cap_before_the_jails(total: int) -> None:
    """Whatever is charged to the jail already, but for a call's least."""
    caps = Caps.of(Limits(memory="64M", disk="8M"))
    cap = caps.call_memory(Charged(0, total))
    assert cap is not None
    assert caps.jail_memory is not None
    assert cap <= 72 << 20
    assert cap == 1 << 20 or total + cap + (16 << 20) <= caps.jail_memory
    assert cap == 72 << 20 or total > 16 << 20


@given(st.integers(min_value=-(1 << 40), max_value=1 << 40))
def test_earlier_files_take_room_for_files_only(kept: int) -> None:
    caps = Caps.of(Limits(memory="64M", disk="8M"))
    cap = caps.call_memory(Charged(kept, min(max(kept, 0), 8 << 20) + (2 << 20)))
    assert cap is not None
    assert 64 << 20 <= cap <= 72 << 20
    assert cap == max(64 << 20, min(72 << 20, (72 << 20) - kept))


@pytest.mark.parametrize("text", ["max", "-1\n", "9223372036854771712\n", b"max\n"])
def test_numbers_that_mean_no_limit(text: str | bytes) -> None:
    assert number(text) is None


def test_fields_of_a_counter_file() -> None:
    text = "oom 1\noom_kill 2\n"
    assert [field(text, key) for key in ("oom", "oom_kill", "oom_group_kill")] == [1, 2, 0]


def test_a_limit_the_kernel_did_not_take_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pids.max").write_text("9999\n")
    with pytest.raises(SetupError, match=r"pids\.max: wrote 4, the kernel shows 4999"):
        Folder(str(tmp_path)).limit("pids.max", 4)
    (tmp_path / "cpu.max").write_text("50000 200000\n")
    with pytest.raises(SetupError, match="wrote 5 1, the kernel shows"):
        Folder(str(tmp_path)).limit("cpu.max", 5, period=1)


def test_a_missing_control_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"memory\.max, value max") as caught:
        Folder(str(tmp_path)).limit("memory.max", None)
    assert caught.value.errno == errno.ENOENT
