"""What the record says was seen from outside, and that nothing runs where it differs from what was
asked for."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sandbox import Isolation, Limits, Mount, Sandbox, SetupError, Unsupported, _observe
from sandbox._models import as_dict
from sandbox._runtime import RUNTIME
from tests.lifecycle.traces import Traces, expect_no_more_than

Make = Callable[..., Sandbox]
KINDS = {"user": "user", "pid": "pid", "mount": "mnt", "net": "net", "ipc": "ipc", "uts": "uts",
         "cgroup": "cgroup"}  # fmt: skip
LIMITS = Limits(memory="80M", processes=9, cpus=0.5, open_files=77, file_size=5000, disk="3M")


@pytest.fixture(scope="module")
def record(make_sandbox: Make) -> Isolation:
    with make_sandbox(LIMITS) as sandbox:
        return sandbox.call(int).isolation


def own(kind: str) -> int:
    return os.stat(f"/proc/self/ns/{kind}").st_ino


# --- the record -------------------------------------------------------------------------------------


def test_every_namespace_is_the_jails_own(record: Isolation, lacks: frozenset[str]) -> None:
    time = set() if "time_namespace" in lacks else {"time"}
    assert set(record.namespaces) == set(KINDS) | time
    for kind, file in KINDS.items():
        assert record.namespaces[kind] != own(file)
    assert set(record.shared_namespaces) <= {"time"}


def test_two_sandboxes_share_no_namespace(make_sandbox: Make, record: Isolation) -> None:
    with make_sandbox() as one, make_sandbox() as two:
        first, second = (each.call(int).isolation.namespaces for each in (one, two))
        assert one.call(int).isolation.namespaces == first
    assert not set(first.values()) & set(second.values())


def test_the_workers_own_status(record: Isolation) -> None:
    seen = record.worker
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(seen[name], 16) == 0
    assert (seen["no_new_privs"], seen["seccomp_mode"]) == (True, 2)
    assert seen["seccomp_filters"] >= _observe.own_filters() + 2
    assert (seen["dumpable"], seen["terminal"], seen["setgroups"]) == (False, 0, "deny")
    inside, outside, count = seen["uid_map"].split()
    assert (inside, count) == ("1000", "1")
    assert int(outside) == seen["uid"] != 0
    if os.geteuid() == 0:
        assert seen["uid"] > 1 << 30
        assert seen["supplementary_groups"] == ""


def test_what_the_guest_sees_of_itself_agrees(make_sandbox: Make) -> None:
    def look() -> dict[str, str]:
        with open("/proc/self/status") as file:
            return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)

    with make_sandbox() as sandbox:
        outcome = sandbox.call(look)
    assert outcome.value["Seccomp_filters"] == str(outcome.isolation.worker["seccomp_filters"])
    assert outcome.value["CapEff"] == outcome.isolation.worker["CapEff"]


def test_the_root_is_read_only_but_for_the_writable_places(record: Isolation) -> None:
    assert record.root["/"].startswith("overlay ro,nosuid,nodev")
    writable = {t for t, shown in record.root.items() if "ro" not in shown.split()[1].split(",")}
    assert writable == {"/tmp", "/work", "/dev/shm"}
    for target, shown in record.root.items():
        options = shown.split()[1].split(",")
        assert "nosuid" in options
        assert "nodev" in options or target.startswith("/dev/")


def test_what_the_jail_has_of_its_own_is_told_with_its_caps(record: Isolation) -> None:
    proc = record.root["/proc"].split()[2].split(",")
    assert {"subset=pid", "hidepid=invisible"} <= set(proc)
    for place in ("/tmp", "/work", "/dev/shm"):
        own = record.root[place].split()[2].split(",")
        assert {f"size={3 << 10}k", "nr_inodes=4096"} <= set(own)


def test_limits_are_read_back_from_the_kernel(record: Isolation) -> None:
    seen = record.limits
    assert seen["call.memory"] == (80 + 3) << 20
    assert seen["call.processes"] == 9
    assert seen["call.cpus"] == 0.5
    assert seen["call.swap"] == seen["jail.swap"] == 0
    assert seen["jail.memory"] > seen["call.memory"]
    assert seen["jail.processes"] > 9
    assert (seen["rlimit.open_files"], seen["rlimit.file_size"]) == (77, 5000)


def test_what_linux_shows_to_nobody_is_told_apart(record: Isolation, lacks: frozenset[str]) -> None:
    assert set(record.unobserved) == {"landlock", "mdwe", "securebits", "session_keyring"} - lacks
    assert set(record.missing) == lacks
    assert all(record.missing.values())


def test_the_record_can_be_written_as_json(record: Isolation) -> None:
    plain = json.loads(json.dumps(as_dict(record), default=dict))
    assert plain["worker"]["seccomp_mode"] == 2
    assert plain["namespaces"] == record.namespaces


# --- nothing runs where it differs ------------------------------------------------------------------


@contextmanager
def altered(name: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """The host's eyes: what `_observe` reads from the kernel reaches it changed."""
    real = getattr(_observe, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_observe, name, lambda *args: change(real(*args)))
        yield


STATUS: list[tuple[dict[str, str], str]] = [
    ({"CapBnd": "0000000000000001"}, "CapBnd is 0000000000000001"),
    ({"CapAmb": "0000000000000400"}, "CapAmb"),
    ({"NoNewPrivs": "0"}, "no_new_privs"),
    ({"Seccomp": "0"}, "its mode is 0"),
    ({"Seccomp_filters": "0"}, "0 filters"),
    ({"Threads": "2"}, "2 threads"),
]


@pytest.mark.parametrize(("values", "text"), STATUS, ids=str)
def test_a_jail_whose_init_is_not_confined_is_refused(
    make_sandbox: Make, before: Traces, values: dict[str, str], text: str
) -> None:
    with altered("_status", lambda seen: {**seen, **values}):
        sandbox = make_sandbox()
        with pytest.raises(SetupError, match=text) as caught:
            sandbox.__enter__()
    assert caught.value.step == "confirm_isolation"
    sandbox.close()
    expect_no_more_than(before)


def test_a_namespace_shared_with_the_host_is_refused(make_sandbox: Make) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_observe, "_namespace", lambda pid, name: 1 if name == "net" else hash(pid))
        with pytest.raises(SetupError, match="net namespace is not in force"):
            make_sandbox().__enter__()


def test_filters_the_host_is_under_itself_do_not_count(make_sandbox: Make) -> None:
    sandbox = make_sandbox()
    one_more = altered("own_filters", lambda count: count + 1)
    with one_more, pytest.raises(SetupError, match="filters, not"):
        sandbox.__enter__()


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("99 1 0:1 / /host rw,nosuid,nodev - ext4 /dev/sda rw", "/host is mounted without"),
        ("99 1 0:1 / / ro,nosuid,nodev - overlay overlay rw", "/ is mounted without"),
    ],
)
def test_a_mount_nobody_asked_for_is_refused(make_sandbox: Make, line: str, text: str) -> None:
    """The second is what an old root that was not detached looks like."""
    sandbox = make_sandbox()
    one_more = altered("_read", lambda seen: f"{seen}{line}\n" if " overlay " in seen else seen)
    with one_more, pytest.raises(SetupError, match=text):
        sandbox.__enter__()


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (",subset=pid", "", "/proc is not in force: it is proc with rw,hidepid=invisible[)]"),
        (",hidepid=invisible", "", "/proc is not in force"),
        ("hidepid=invisible", "hidepid=noaccess", "/proc is not in force"),
        (" - proc ", " - fuse ", "/proc is not in force: it is fuse"),
        (",nr_inodes=4096", ",nr_inodes=40960", "writable places is not in force: .*=40960"),
        (",nr_inodes=4096", "", "writable places is not in force"),
        (f",size={64 << 10}k", f",size={64 << 10}m", "writable places is not in force"),
        (" - tmpfs ", " - ramfs ", "writable places is not in force: they are ramfs"),
    ],
    ids=lambda v: v.strip(" ,-") or "-",
)
def test_a_file_system_with_other_options_than_asked_for_is_refused(
    make_sandbox: Make, old: str, new: str, text: str
) -> None:
    with altered("_read", lambda seen: seen.replace(old, new)):
        sandbox = make_sandbox()
        with pytest.raises(SetupError, match=text):
            sandbox.__enter__()


def test_writable_places_on_different_file_systems_are_refused(make_sandbox: Make) -> None:
    def change(seen: str) -> str:
        return re.sub(r"[\d:]+ (/\S* /tmp )", r"0:1 \1", seen)

    sandbox = make_sandbox()
    with altered("_read", change), pytest.raises(SetupError, match="not one file system"):
        sandbox.__enter__()


def test_hidepid_may_be_told_as_a_number(make_sandbox: Make) -> None:
    with (
        altered("_read", lambda seen: seen.replace("hidepid=invisible", "hidepid=2")),
        make_sandbox() as sandbox,
    ):
        assert "hidepid=2" in sandbox.call(int).isolation.root["/proc"]


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_caps_that_are_the_kernels_default_are_not_told(make_sandbox: Make, more: int) -> None:
    """tmpfs's default is half of the pages, which the kernel leaves out of its options; one page
    more is told again."""
    half = os.sysconf("SC_PHYS_PAGES") // 2 + more
    limits = Limits(disk=half * os.sysconf("SC_PAGE_SIZE"), inodes=half)
    with make_sandbox(limits) as sandbox:
        own = sandbox.call(int).isolation.root["/work"].split()[2]
    assert ("size=" in own) == ("nr_inodes=" in own) == bool(more)


def mark() -> None:
    open("/shown/mark", "w").close()


@pytest.fixture
def marking(make_sandbox: Make, tmp_path: Path) -> Iterator[tuple[Sandbox, Path]]:
    """An open sandbox, and the file that `mark` makes on the host if it runs."""
    tmp_path.chmod(0o777)
    with make_sandbox(mounts=[Mount(tmp_path, "/shown", writable=True)]) as sandbox:
        sandbox.run(mark)
        path = tmp_path / "mark"
        path.unlink()
        yield sandbox, path


@pytest.mark.parametrize(("values", "text"), [*STATUS, ({"PPid": "1"}, "parent is 1")], ids=str)
def test_a_worker_that_is_not_confined_gets_no_byte_of_the_guests(
    marking: tuple[Sandbox, Path], values: dict[str, str], text: str
) -> None:
    sandbox, path = marking
    with altered("_status", lambda seen: {**seen, **values}):
        outcome = sandbox.call(mark)
    assert outcome.status == "internal_error"
    assert text in outcome.message
    assert outcome.usage.wall_time == 0
    assert not path.exists()
    sandbox.run(mark)
    assert path.exists()


def test_a_worker_outside_its_group_gets_no_byte_of_the_guests(
    marking: tuple[Sandbox, Path],
) -> None:
    sandbox, path = marking
    jail = sandbox._jail
    assert jail is not None
    assert jail.group is not None
    kind = type(jail.group.call())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "contains", lambda *_: False)
        outcome = sandbox.call(mark)
    assert outcome.status == "internal_error"
    assert "control group" in outcome.message
    assert not path.exists()


# --- layers that may be missing ---------------------------------------------------------------------


@pytest.mark.needs("landlock")
def test_a_layer_this_kernel_lacks_is_refused_unless_waived(make_sandbox: Make) -> None:
    with make_sandbox() as sandbox:
        launcher = RUNTIME.launcher(sandbox._profile)
        facts = launcher.facts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "facts", {**facts, "landlock": 0})
        with pytest.raises(Unsupported, match=r"allow_missing=\{'landlock'\}") as caught:
            make_sandbox().__enter__()
        with make_sandbox(allow_missing={"landlock"}) as waived:
            isolation = waived.call(int).isolation
    assert caught.value.feature == "landlock"
    assert "landlock" in isolation.missing
    assert "landlock" not in isolation.unobserved


def test_waiving_does_not_switch_off(make_sandbox: Make, lacks: frozenset[str]) -> None:
    everything = {"landlock", "mdwe", "time_namespace", "cgroup"}
    with make_sandbox(allow_missing=everything) as sandbox:
        isolation = sandbox.call(int).isolation
    assert set(isolation.missing) == lacks
    assert isolation.limits["call.processes"] == 32


def test_without_control_groups_if_waived(make_sandbox: Make, before: Traces) -> None:
    def refuse(_: object) -> Any:
        raise Unsupported("cgroup", "no group is ours", "systemd-run --user --scope ...")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(RUNTIME), "groups", refuse)
        with pytest.raises(Unsupported, match="systemd-run"):
            make_sandbox().__enter__()
        with make_sandbox(Limits(cpu_time=1), allow_missing={"cgroup"}) as sandbox:
            outcome = sandbox.call(abs, -3)
            spun = sandbox.call(lambda: [None for _ in iter(int, 1)])
    assert (outcome.status, outcome.value) == ("ok", 3)
    assert outcome.isolation.missing["cgroup"] == "no group is ours"
    assert not [name for name in outcome.isolation.limits if name.startswith("call.")]
    assert outcome.usage.cpu_time is None
    assert outcome.usage.memory_peak is None
    assert spun.status in ("signaled", "cpu_time_limit")
    expect_no_more_than(before)
