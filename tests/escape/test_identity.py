"""D: a guest is one user without rights, in its own namespaces, and stays that."""

from __future__ import annotations

import os
import time

import pytest

from sandbox import Sandbox
from tests.escape.cases import Case, call, check_refused, each, number, violation
from tests.escape.outside import Outside
from tests.probes import identity

NAMESPACES = {
    "user": 0x10000000,
    "mount": 0x00020000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
}
PR_SET_SECUREBITS, PR_CAP_AMBIENT, PR_SET_NO_NEW_PRIVS, PR_SET_DUMPABLE = 28, 47, 38, 4
PR_SET_KEEPCAPS, PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, PR_SET_SPECULATION = 8, 36, 1, 53
PR_SCHED_CORE, PR_SET_MM, PR_SET_THP_DISABLE = 62, 35, 41
AMBIENT_RAISE = 2
TIMEVAL = bytes(16)
TIMEX = (0).to_bytes(8, "little") + bytes(208)
CAPABILITY_HEADER = (0x20080522).to_bytes(8, "little")


def unshare(kind: str) -> Case:
    """Only a user namespace can be had without rights: there seccomp alone holds."""
    bare = "done" if kind == "user" else "EPERM"
    return violation(f"D01-unshare-{kind}", "unshare", NAMESPACES[kind], bare=bare, outside="done")


def clone(kind: str) -> Case:
    bare = "done" if kind == "user" else "EPERM"
    arguments = (number("clone"), NAMESPACES[kind])
    return Case(f"D01-clone-{kind}", identity.clone_with, arguments, "EPERM", bare, "done")


ATTEMPTS = [
    *map(unshare, NAMESPACES),
    *map(clone, NAMESPACES),
    Case(
        "D03-setns",
        identity.join_by_pidfd,
        (number("setns"), NAMESPACES["uts"]),
        "violation setns",
        "EPERM",
        "done",
    ),
    call("D04-setgroups", "setgroups", 0, 0, jail="EPERM", bare="EPERM"),
    call("D08-raise-ambient", "prctl", PR_CAP_AMBIENT, AMBIENT_RAISE, 21, 0, 0, jail="EPERM"),
    call(
        "D08-capset",
        "capset",
        CAPABILITY_HEADER,
        b"\xff" * 24,
        jail="EPERM",
        bare="EPERM",
    ),
    call("D09-securebits", "prctl", PR_SET_SECUREBITS, 0, 0, 0, 0, jail="EPERM", bare="EPERM"),
    call("D09-keepcaps", "prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0, jail="EPERM", bare="EPERM"),
    call(
        "D10-new-privileges",
        "prctl",
        PR_SET_NO_NEW_PRIVS,
        *(0, 0, 0, 0),
        jail="EINVAL",
        bare="EINVAL",
    ),
    call("D10-dumpable", "prctl", PR_SET_DUMPABLE, 1, 0, 0, 0, jail="EPERM", bare="done"),
    call("I17-subreaper", "prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0, jail="EPERM", bare="done"),
    call("I17-pdeathsig", "prctl", PR_SET_PDEATHSIG, 0, 0, 0, 0, jail="EPERM", bare="done"),
    call("O01-speculation", "prctl", PR_SET_SPECULATION, 0, 2, 0, 0, jail="EPERM"),
    call("O02-core-scheduling", "prctl", PR_SCHED_CORE, 1, 0, 0, 0, jail="EPERM"),
    call("D10-map-fields", "prctl", PR_SET_MM, 1, 0, 0, 0, jail="EPERM", bare="EPERM"),
    call("D12-modify_ldt", "modify_ldt", 0, 0, 0, jail="ENOSYS"),
    violation("D12-iopl", "iopl", 3),
    violation("D12-ioperm", "ioperm", 0, 8, 1),
    call("D12-personality", "personality", 0x0040000, jail="EPERM", bare="done", outside="done"),
    call("D13-clock_settime", "clock_settime", 0, TIMEVAL, jail="EPERM", bare="EPERM"),
    call("D13-settimeofday", "settimeofday", TIMEVAL, 0, jail="EPERM", bare="EPERM"),
    call("D13-adjtimex", "adjtimex", TIMEX, jail="EPERM", bare="done", outside="done"),
    call("D13-clock_adjtime", "clock_adjtime", 0, TIMEX, jail="EPERM", bare="done"),
    call("D-sethostname", "sethostname", b"x", 1, jail="EPERM", bare="EPERM", outside="done"),
    call("D-setdomainname", "setdomainname", b"x", 1, jail="EPERM", bare="EPERM", outside="done"),
]


@pytest.mark.parametrize("case", each(ATTEMPTS))
def test_d_rights_cannot_be_had(case: Case, jail: Sandbox, bare: Sandbox, outside: Outside) -> None:
    check_refused(case, jail, bare, outside)


def test_d01_children_without_namespaces_can_be_had(jail: Sandbox) -> None:
    assert jail.run(identity.clone_with, number("clone"), 0) == "done"


def test_d_every_namespace_is_the_jails_own(jail: Sandbox) -> None:
    seen = jail.call(abs, 1).isolation
    assert set(seen.namespaces) >= set(NAMESPACES)
    for kind in NAMESPACES:
        ours = os.stat(f"/proc/self/ns/{'mnt' if kind == 'mount' else kind}").st_ino
        assert seen.namespaces[kind] != ours
    assert seen.shared_namespaces == ()


def test_d_the_guest_is_an_ordinary_user_in_every_sense(jail: Sandbox) -> None:
    user, group, pid = jail.run(identity.identity)
    assert user == group == (1000, 1000, 1000)
    assert 1 < pid < 1000


def test_d_the_guest_cannot_become_root(jail: Sandbox, bare: Sandbox, outside: Outside) -> None:
    assert outside(identity.to_be_root, root=True) == (0, 0)
    assert jail.run(identity.change_to_root) == ["EPERM"] * 6
    # Below seccomp: 0 is not mapped.
    assert bare.run(identity.change_to_root) == [*["EINVAL"] * 5, "EPERM"]


def test_d08_every_set_of_capabilities_is_empty(jail: Sandbox, outside: Outside) -> None:
    assert outside(identity.capabilities, root=True)["CapEff"] != 0
    names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert jail.run(identity.capabilities) == dict.fromkeys(names, 0)
    assert outside(identity.bounding_set, number("prctl")) != []
    assert jail.run(identity.bounding_set, number("prctl")) == []


def test_d09_securebits_are_set_and_locked(jail: Sandbox, outside: Outside) -> None:
    """NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE with their locks; KEEP_CAPS locked off."""
    assert outside(identity.securebits, number("prctl")) == 0
    assert jail.run(identity.securebits, number("prctl")) == 0b11101111


def test_d10_no_new_privileges_and_not_dumpable(jail: Sandbox, outside: Outside) -> None:
    prctl = number("prctl")
    assert outside(identity.no_new_privileges, prctl) == 0
    assert jail.run(identity.no_new_privileges, prctl) == 1
    assert outside(identity.dumpable, prctl) == 1
    assert jail.run(identity.dumpable, prctl) != 1


def test_d_the_host_name_is_the_jails(jail: Sandbox, outside: Outside) -> None:
    assert jail.run(identity.host_name) == "sandbox"
    assert outside(identity.host_name) == os.uname().nodename != "sandbox"


@pytest.mark.needs("time_namespace")
def test_d13_the_guests_clocks_start_near_zero(jail: Sandbox, outside: Outside) -> None:
    ours = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert outside(identity.uptime) >= ours
    assert jail.run(identity.uptime) < ours


@pytest.mark.needs("time_namespace")
def test_d13_the_hosts_uptime_is_no_secret(jail: Sandbox) -> None:
    """As SECURITY.md says: what the clocks were set back by can be read."""
    ours = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert abs(jail.run(identity.uptime_by_offsets) - ours) < 60


def test_d15_nested_namespaces_do_not_eat_the_hosts_quota(jail: Sandbox) -> None:
    """They are refused before any is made, so that the next sandbox can still be."""
    for _ in range(3):
        outcome = jail.call(identity.clone_with, number("clone"), NAMESPACES["user"])
        assert outcome.value == "EPERM"
