"""From an outcome to the exception that `run` raises for it."""

from __future__ import annotations

from ._errors import (
    Cancelled,
    DiskLimitExceeded,
    InternalError,
    MemoryLimitExceeded,
    NonzeroExit,
    OutputLimitExceeded,
    PolicyViolation,
    ProcessLimitExceeded,
    ResultError,
    SandboxError,
    Signaled,
    TimeLimitExceeded,
    guest_error,
)
from ._models import Outcome, Status

_KINDS: dict[Status, type[SandboxError]] = {
    "nonzero_exit": NonzeroExit,
    "signaled": Signaled,
    "cpu_time_limit": TimeLimitExceeded,
    "wall_time_limit": TimeLimitExceeded,
    "memory_limit": MemoryLimitExceeded,
    "output_limit": OutputLimitExceeded,
    "disk_limit": DiskLimitExceeded,
    "process_limit": ProcessLimitExceeded,
    "policy_violation": PolicyViolation,
    "result_invalid": ResultError,
    "result_too_large": ResultError,
    "cancelled": Cancelled,
    "internal_error": InternalError,
}


def exception_for(outcome: Outcome) -> SandboxError:
    """The exception that says what `outcome` says; it carries the outcome."""
    if outcome.status == "exception" and outcome.error is not None:
        told = outcome.error
        error: SandboxError = guest_error(told.type_name, told.message, told.traceback)
    else:
        error = _KINDS[outcome.status](outcome.message)
    error.outcome = outcome
    return error
