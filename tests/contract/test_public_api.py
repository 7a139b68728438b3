"""The public names are what users build on: a change here is noticed."""

from __future__ import annotations

import inspect
import pickle

import pytest

import sandbox
from sandbox import GuestError, SandboxError, SetupError, Unsupported
from sandbox._errors import guest_error

NAMES = [
    "Cancelled",
    "ClosedError",
    "DiskLimitExceeded",
    "GuestError",
    "GuestException",
    "InternalError",
    "Isolation",
    "LimitExceeded",
    "Limits",
    "MemoryLimitExceeded",
    "Mount",
    "NonzeroExit",
    "Outcome",
    "OutputLimitExceeded",
    "Policy",
    "PolicyError",
    "PolicyViolation",
    "Process",
    "ProcessLimitExceeded",
    "ProgramError",
    "ResultError",
    "Sandbox",
    "SandboxError",
    "SetupError",
    "Signaled",
    "Status",
    "TimeLimitExceeded",
    "TransferError",
    "Unsupported",
    "Usage",
    "Violation",
]


def test_the_public_names_are_these() -> None:
    assert sorted(sandbox.__all__) == sorted(NAMES)
    assert all(hasattr(sandbox, name) for name in NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "Status"])
def test_every_public_name_says_what_it_is(name: str) -> None:
    assert inspect.getdoc(getattr(sandbox, name))


@pytest.mark.parametrize(
    "member", [name for name in vars(sandbox.Sandbox) if not name.startswith("_")]
)
def test_every_method_says_what_it_does(member: str) -> None:
    assert inspect.getdoc(getattr(sandbox.Sandbox, member))


@pytest.mark.parametrize(
    "error",
    [
        SetupError("mount_proc", 1, "proc"),
        Unsupported("landlock", "too old", "newer kernel"),
        guest_error("ZeroDivisionError", "division by zero", "Traceback"),
        guest_error("Unknown", "text"),
    ],
    ids=repr,
)
def test_errors_survive_a_process_pool(error: SandboxError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy).__mro__[1:] == type(error).__mro__[1:]
    assert str(copy) == str(error)


def test_every_error_is_a_sandbox_error() -> None:
    kinds = [value for value in vars(sandbox).values() if inspect.isclass(value)]
    errors = [kind for kind in kinds if issubclass(kind, Exception)]
    assert len(errors) > 15
    assert all(issubclass(kind, SandboxError) for kind in errors)
    assert issubclass(GuestError, SandboxError)
