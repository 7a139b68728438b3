"""Run code nobody trusts on your own Linux kernel, and get a typed value back.

from sandbox import Limits, Sandbox

with Sandbox(Limits(memory="256M", cpu_time=2)) as s:
    value = s.run(function, 3, key="x")
    outcome = s.call(function, 3)
"""

# ruff: noqa: E402
from . import _platform

# First: on another system, or an older Python, what follows cannot even be imported.
_platform.check_system()

from ._api import Sandbox
from ._errors import (
    Cancelled,
    ClosedError,
    DiskLimitExceeded,
    GuestError,
    InternalError,
    LimitExceeded,
    MemoryLimitExceeded,
    NonzeroExit,
    OutputLimitExceeded,
    PolicyError,
    PolicyViolation,
    ProcessLimitExceeded,
    ProgramError,
    ResultError,
    SandboxError,
    SetupError,
    Signaled,
    TimeLimitExceeded,
    TransferError,
    Unsupported,
)
from ._models import (
    GuestException,
    Isolation,
    Limits,
    Mount,
    Outcome,
    Status,
    Usage,
    Violation,
)
from ._policy import Policy
from ._process import Process

__version__ = "0.1.0"

__all__ = [
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
