"""The shipped data: every rule with a reason, nothing allowed that must not be, numbers right."""

from __future__ import annotations

import os
import re
import tomllib
from typing import Any

import pyseccomp
import pytest

from sandbox import _paths
from sandbox._policy import kernel_names
from sandbox._policy_file import SHIPPED, load_policy
from sandbox._rule_file import init_rules, never_rules

FILES = sorted(name for name in os.listdir(_paths.POLICIES) if name.endswith(".toml"))
RULED = [name for name in FILES if name != "kernel.toml"]


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
