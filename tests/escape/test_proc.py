"""B: /proc and /sys tell nothing of the host, and none of their knobs turns."""

from __future__ import annotations

import os
import re

from sandbox import Sandbox
from tests.escape.outside import Outside
from tests.probes import files

# B01 to B08, G02 and G03: the kernel's own, which a guest has no business with.
KERNELS_OWN = [
    "/proc/sysrq-trigger",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/panic",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/kcore",
    "/proc/kallsyms",
    "/proc/kmsg",
    "/proc/slabinfo",
    "/proc/keys",
    "/proc/key-users",
    "/proc/timer_list",
    "/proc/cgroups",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/mounts",
    "/proc/net",
    "/sys/kernel/uevent_helper",
    "/sys/class/powercap",
    "/sys/class/hwmon",
    "/sys/fs/cgroup",
    "/sys",
]
OF_EVERY_KERNEL = {
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/panic",
    "/proc/kmsg",
    "/proc/meminfo",
    "/proc/net",
    "/sys",
}
# B15: knobs of one's own that act on others, or loosen what was set.
KNOBS = {
    "oom_score_adj": "0",
    "coredump_filter": "0x33",
    "clear_refs": "1",
    "setgroups": "deny",
    "uid_map": "0 0 4294967295",
    "gid_map": "0 0 4294967295",
    "timens_offsets": "monotonic 1 0",
}


def test_b01_b08_nothing_of_the_kernels_own_is_there(jail: Sandbox, outside: Outside) -> None:
    assert set(outside(files.visible_of, KERNELS_OWN)) >= OF_EVERY_KERNEL
    # /proc/mounts and /proc/net are links to one's own, and lead to what is one's own.
    inside = jail.run(files.visible_of, KERNELS_OWN)
    assert set(inside) <= {"/proc/mounts", "/proc/net", "/sys"}
    # Not the kernel's: the folder of the image where packages are shown.
    assert jail.run(files.listing, "/sys") == ["site"]


def test_b10_proc_lists_no_process_but_ones_own(jail: Sandbox, outside: Outside) -> None:
    entries = jail.run(files.listing, "/proc")
    assert len([name for name in entries if name.isdigit()]) == 1
    assert set(filter(str.isalpha, entries)) <= {"self", "mounts", "net"}
    assert len(list(filter(str.isdigit, outside(files.listing, "/proc")))) > 1


def test_b10_init_cannot_be_looked_at(jail: Sandbox, bare: Sandbox, outside: Outside) -> None:
    told = outside(files.read_of_process, os.getpid())
    assert told["environ"] == told["fd"] == told["root"] == "done"
    hidden = dict.fromkeys(told, "ENOENT")
    assert jail.run(files.read_of_process, 1) == hidden
    assert bare.run(files.read_of_process, 1) == hidden


def test_b12_the_interpreter_cannot_be_opened_for_writing(jail: Sandbox, bare: Sandbox) -> None:
    """Which of its reasons the kernel names depends on whose the file is: modes, a file that is
    being executed, or the read-only mount."""
    reasons = {"EACCES", "ETXTBSY", "EROFS"}
    for sandbox in (jail, bare):
        assert sandbox.run(files.open_for_writing, "/proc/self/exe") in reasons


def test_b15_knobs_of_its_own_do_not_turn(
    jail: Sandbox, bare: Sandbox, outside: Outside, lacks: frozenset[str]
) -> None:
    assert outside(files.turn_knobs, {"oom_score_adj": "0"}) == {"oom_score_adj": "done"}
    for sandbox in (jail, bare):
        answers = sandbox.run(files.turn_knobs, KNOBS)
        if "time_namespace" in lacks:
            assert answers.pop("timens_offsets") == "ENOENT"
        assert set(answers.values()) <= {"EACCES", "EROFS"}, answers


def test_b_the_guests_own_status_can_be_read(jail: Sandbox) -> None:
    assert "NoNewPrivs:\t1" in jail.run(files.read_text, "/proc/self/status")


def test_g02_the_guest_sees_no_path_of_its_control_group(jail: Sandbox, outside: Outside) -> None:
    groups = jail.run(files.read_text, "/proc/self/cgroup").splitlines()
    places = {line.partition(":")[2].partition(":")[2] for line in groups}
    # Its own leaf, beside init's, which is the root of the namespace: no name of the host's.
    assert all(re.fullmatch(r"/|/\.\./call-\d+", place) for place in places), places
    told = outside(files.read_text, "/proc/self/cgroup").splitlines()
    assert {line.partition(":")[2].partition(":")[2] for line in told} - places
