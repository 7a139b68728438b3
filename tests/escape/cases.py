"""The form of a table of attempts, and how their answers are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from sandbox import Outcome, Sandbox
from sandbox._policy import kernel_names
from tests.escape.outside import Outside
from tests.probes.raw import system_call

MACHINE = os.uname().machine


def number(call: str) -> int:
    """The number of a system call on this machine."""
    return kernel_names().numbers[call][MACHINE]


@dataclass(frozen=True)
class Case:
    """One attempt and its answer in three places: "done", the name of an errno, or
    "violation NAME" where the policy ends the call.

    Attributes:
        name: catalogue id and what is tried.
        jail: the answer in a jail with every layer.
        bare: in one without seccomp and Landlock: what the layers below say. "done" shows that
            seccomp is what holds. None where kernels differ.
        outside: as root of a user namespace outside of any jail. None where that proves nothing.
    """

    name: str
    probe: Callable[..., str]
    arguments: tuple[Any, ...]
    jail: str
    bare: str | None = None
    outside: str | None = None


def call(
    name: str,
    syscall: str,
    *arguments: int | bytes,
    jail: str,
    bare: str | None = None,
    outside: str | None = None,
) -> Case:
    """A case that is one system call with these arguments."""
    return Case(name, system_call, (number(syscall), *arguments), jail, bare, outside)


def violation(
    name: str,
    syscall: str,
    *arguments: int | bytes,
    bare: str | None = None,
    outside: str | None = None,
) -> Case:
    """A system call that ends the call, under its own name."""
    return call(name, syscall, *arguments, jail=f"violation {syscall}", bare=bare, outside=outside)


def each(cases: Iterable[Case]) -> list[ParameterSet]:
    """For parametrize."""
    return [pytest.param(case, id=case.name) for case in cases]


def answer(outcome: Outcome) -> str:
    """What a probe met."""
    if outcome.violation is not None:
        assert outcome.status == "policy_violation", outcome.message
        return f"violation {outcome.violation.syscall}"
    assert outcome.status == "ok", f"{outcome.status}: {outcome.message}"
    value: str = outcome.value
    return value


def ask(sandbox: Sandbox, case: Case) -> str:
    """The case's answer in `sandbox`."""
    return answer(sandbox.call(case.probe, *case.arguments))


def check_refused(case: Case, jail: Sandbox, bare: Sandbox, outside: Outside) -> None:
    """The answer in every place the case names, beginning with its controls."""
    answers, expected = {}, {}
    if case.outside is not None:
        expected["outside"] = case.outside
        answers["outside"] = outside(case.probe, *case.arguments, root=True)
    if case.bare is not None:
        expected["without seccomp and Landlock"] = case.bare
        answers["without seccomp and Landlock"] = ask(bare, case)
    expected["jail"] = case.jail
    answers["jail"] = ask(jail, case)
    assert answers == expected, f"{answers} instead of {expected}"
