"""The shipped data: every rule with a reason, nothing allowed that must not be, numbers right."""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import signal
import socket
import stat
import termios
import tomllib
from pathlib import Path
from typing import Any

import pyseccomp
import pytest

from sandbox import _paths
from sandbox._policy import kernel_names
from sandbox._policy_file import SHIPPED, load_policy
from sandbox._rule_file import init_rules, never_rules
from sandbox._rules import LOW32

FILES = sorted(name for name in os.listdir(_paths.POLICIES) if name.endswith(".toml"))
RULED = [name for name in FILES if name != "kernel.toml"]
ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", "SECURITY.md", "ARCHITECTURE.md", "docs/policies.md"]


def read(name: str) -> dict[str, Any]:
    with open(os.path.join(_paths.POLICIES, name), "rb") as file:
        return tomllib.load(file)


def test_the_files_are_the_known_ones() -> None:
    known = {*(f"{name}.toml" for name in SHIPPED), "init.toml", "denied.toml", "kernel.toml"}
    assert set(FILES) == known


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_policy_is_named_as_its_file_and_described(name: str) -> None:
    policy = load_policy(name)
    assert policy.name == name
    assert policy.description
    assert policy.default == "ENOSYS"


@pytest.mark.parametrize("name", RULED)
def test_every_rule_has_a_reason_of_its_own(name: str) -> None:
    data = read(name)
    tables = [t for value in data.values() if isinstance(value, list) for t in value]
    tables += [value for value in data.values() if isinstance(value, dict)]
    assert tables
    assert all(len(table["reason"]) >= 8 for table in tables)


@pytest.mark.parametrize("name", RULED)
def test_no_call_is_listed_twice_in_one_rule(name: str) -> None:
    for action in ("allow", "refuse", "violation", "never"):
        for table in read(name).get(action, []):
            assert len(set(table["calls"])) == len(table["calls"])


@pytest.mark.parametrize("name", SHIPPED)
def test_every_violation_is_a_call_no_policy_may_allow(name: str) -> None:
    never = {call for rule in never_rules() for call in rule.calls}
    violations = {c for r in load_policy(name).rules if r.action == "violation" for c in r.calls}
    assert violations
    assert violations <= never


def test_the_set_up_needs_no_violation_and_says_when() -> None:
    rules = init_rules()
    assert all(rule.action == "allow" for rule in rules)
    unconditional = {call for rule in rules if not rule.when for call in rule.calls}
    assert not unconditional & {"seccomp", "keyctl", "prctl", "clone", "clone3", "prlimit64"}


def test_compute_allows_nothing_that_base_does_not_and_base_nothing_that_python_does_not() -> None:
    allowed = {
        name: {c for r in load_policy(name).rules if r.action == "allow" for c in r.calls}
        for name in SHIPPED
    }
    assert allowed["compute"] < allowed["base"] < allowed["python"]


def test_numbers_agree_with_libseccomp() -> None:
    tokens = {"x86_64": pyseccomp.Arch.X86_64, "aarch64": pyseccomp.Arch.AARCH64}
    compared = 0
    for call, numbers in kernel_names().numbers.items():
        for machine, token in tokens.items():
            theirs = pyseccomp.resolve_syscall(token, call)
            if theirs != -1:  # -1: newer than this libseccomp
                assert max(theirs, -1) == numbers.get(machine, -1), (call, machine)
                compared += 1
    assert compared > 700


def test_no_number_stands_twice() -> None:
    for machine in ("x86_64", "aarch64"):
        used = [n[machine] for n in kernel_names().numbers.values() if machine in n]
        assert len(set(used)) == len(used) > 300


def test_numbers_are_complete_for_what_libseccomp_knows() -> None:
    named = {n["x86_64"] for n in kernel_names().numbers.values() if "x86_64" in n}
    for number in range(512):
        try:
            call = pyseccomp.resolve_syscall(pyseccomp.Arch.X86_64, number)
        except ValueError:
            continue
        assert number in named, call


def test_the_readme_explains_every_key_and_file() -> None:
    with open(os.path.join(_paths.POLICIES, "README.md"), encoding="utf-8") as file:
        text = file.read()
    keys = set()
    for name in RULED:
        data = read(name)
        keys |= set(data)
        for value in data.values():
            for table in value if isinstance(value, list) else [value]:
                if isinstance(table, dict):
                    keys |= set(table)
                    for key in ("when", "unless"):
                        keys |= {k for condition in table.get(key, ()) for k in condition}
    explained = set(re.findall(r"`\[{0,2}([@\w.]+)\]{0,2}`", text))
    assert keys | set(FILES) <= explained


def test_values_agree_with_pythons() -> None:
    """Python takes its constants from the C library's headers."""
    compared = {}
    for name, value in kernel_names().constants.items():
        for module in (os, socket, fcntl, mmap, signal, stat, termios):
            if hasattr(module, name):
                assert int(getattr(module, name)) == value, name
                compared[name] = value
    assert len(compared) > 70
    assert {"O_CREAT", "RWF_NOWAIT", "POSIX_FADV_DONTNEED", "AF_VSOCK", "SO_DOMAIN"} <= set(
        compared
    )
    assert kernel_names().constants["__O_TMPFILE"] == os.O_TMPFILE & ~os.O_DIRECTORY


def test_the_set_up_asks_its_sockets_only_what_python_needs() -> None:
    """socket.socket(fileno=...) asks for SO_TYPE and SO_PROTOCOL."""
    rules = [rule for rule in init_rules() if "getsockopt" in rule.calls]
    assert [(c.arg, c.mask, set(c.values)) for rule in rules for c in rule.when] == [
        (1, LOW32, {socket.SOL_SOCKET}),
        (2, LOW32, {socket.SO_TYPE, socket.SO_PROTOCOL}),
    ]


def test_no_option_of_prctl_that_loosens_may_be_allowed() -> None:
    (bar,) = [rule for rule in never_rules() if "prctl" in rule.calls]
    safe = {value for condition in bar.when for value in condition.values}
    for name in ("SECCOMP", "DUMPABLE", "SPECULATION_CTRL", "MM", "KEEPCAPS", "SECUREBITS", "MDWE"):
        assert kernel_names().constants[f"PR_SET_{name}"] not in safe
    for name in ("PR_SCHED_CORE", "PR_SET_MEMORY_MERGE", "PR_SET_PTRACER", "PR_CAP_AMBIENT"):
        assert kernel_names().constants[name] not in safe


# Said once, and not so.
UNTRUE = [
    "hides uptime",
    "never both writable and executable",
    "which is memory",
    "what the host's mounts",
]
# What a guest learns, keeps or costs all the same; the escape tests show each of the first five.
ADMITTED = [
    "/proc/self/timens_offsets",
    "mapped twice",
    "`fsync` of a file",
    "/proc/self/mountinfo",
    "SA_RESTART",
    "share a launcher",
]


@pytest.mark.parametrize(
    "path",
    [*(f"policies/{name}" for name in [*RULED, "README.md"]), *DOCUMENTS, "sandbox/_policy.py"],
)
def test_nothing_is_claimed_that_is_not_so(path: str) -> None:
    text = " ".join((ROOT / path).read_text(encoding="utf-8").lower().split())
    assert [claim for claim in UNTRUE if claim in text] == []


@pytest.mark.parametrize("fact", ADMITTED)
def test_security_says_what_stays_open(fact: str) -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition("## What does not")[2]
    assert fact in " ".join(text.split())
