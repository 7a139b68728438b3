"""`sandbox doctor`: one line a layer. It finds out by making jails, not by guessing: a default
`Sandbox()`; and where that fails, the same with the layer it named waived, to see the rest."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ._api import Sandbox
from ._errors import SandboxError, Unsupported
from ._layers import WAIVABLE
from ._models import Outcome
from ._platform import check_platform

_NAMESPACES = ("user", "pid", "mount", "net", "ipc", "uts", "cgroup", "time")


@dataclass(frozen=True)
class Finding:
    """One layer: `state` is ok, missing (not in force, and a default sandbox works without it),
    or failed."""

    layer: str
    state: str
    detail: str
    remedy: str = ""


def examine() -> tuple[list[Finding], bool]:
    """(what was found, whether a default `Sandbox()` runs)."""
    findings = [_platform()]
    if findings[0].state == "failed":
        return findings, False
    waived: set[str] = set()
    while True:
        try:
            outcome = _try(waived)
        except Unsupported as error:
            findings.append(Finding(error.feature, "failed", error.reason, error.remedy))
            if error.feature in WAIVABLE - waived:
                waived.add(error.feature)
                continue
            return findings, False
        except (SandboxError, OSError, ValueError) as error:
            findings.append(
                Finding("jail", "failed", str(error), "See SECURITY.md and the message")
            )
            return findings, False
        findings += _layers(outcome, waived)
        return findings, not waived and outcome.ok


def _try(waived: set[str]) -> Outcome:
    with Sandbox(allow_missing=waived) as sandbox:
        return sandbox.call(_answer)


def _answer() -> int:
    return 6 * 7


def _platform() -> Finding:
    where = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
    version = platform.python_version()
    text = (
        f"{platform.system()} {platform.release()} {platform.machine()}, Python {version}, {where}"
    )
    try:
        check_platform()
    except Unsupported as error:
        return Finding("platform", "failed", f"{error.reason} ({text})", error.remedy)
    return Finding("platform", "ok", text)


def _layers(outcome: Outcome, waived: set[str]) -> list[Finding]:
    seen = outcome.isolation
    findings = []
    for name in _NAMESPACES:
        if name in seen.namespaces:
            findings.append(
                Finding(f"{name} namespace", "ok", f"fresh, inode {seen.namespaces[name]}")
            )
    if seen.root:
        findings.append(Finding("root", "ok", f"{seen.root['/']}; {len(seen.root)} mounts"))
    worker: dict[str, Any] = dict(seen.worker)
    if worker:
        findings.append(Finding("ids", "ok", f"uid_map {worker['uid_map']}, setgroups deny"))
        findings.append(Finding("capabilities", "ok", "all five sets empty"))
        filters = worker["seccomp_filters"]
        findings.append(Finding("seccomp", "ok", f"mode 2, {filters} filters, no_new_privs"))
    # What is missing has its line already, or gets it below.
    for layer, limits in _limits(seen.limits).items():
        shown = ", ".join(f"{name}={value}" for name, value in limits.items())
        findings.append(Finding(layer, "ok", shown))
    for name in seen.unobserved:
        findings.append(Finding(name, "ok", "applied by the set-up (Linux shows it to nobody)"))
    for name, reason in seen.missing.items():
        if name not in waived:
            findings.append(Finding(name, "missing", f"{reason}; taken where the kernel has it"))
    state = "ok" if outcome.ok else "failed"
    findings.append(Finding("call", state, f"{outcome.status}: {outcome.message}"))
    return findings


def _limits(seen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The limits by the layer that keeps them; without a layer that keeps none."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in seen.items():
        kind, _, limit = name.partition(".")
        layer, shown = ("rlimits", limit) if kind == "rlimit" else ("cgroup", name)
        found.setdefault(layer, {})[shown] = value
    return found


def report(*, as_json: bool) -> int:
    """Print what `examine` found. Returns 0 only if a default `Sandbox()` runs."""
    findings, works = examine()
    if as_json:
        print(json.dumps({"works": works, "layers": [asdict(finding) for finding in findings]}))
        return 0 if works else 1
    width = max(len(finding.layer) for finding in findings)
    for finding in findings:
        print(f"{finding.layer:{width}}  {finding.state:8}{finding.detail}")
        if finding.remedy:
            print(f"{'':{width}}  remedy: {finding.remedy}")
    print("a default Sandbox() works here" if works else "a default Sandbox() does not work here")
    return 0 if works else 1
