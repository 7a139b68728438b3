"""`sandbox doctor` finds out by making a sandbox, and says what is missing and what mends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from sandbox import Sandbox, Unsupported, _paths
from sandbox._runtime import RUNTIME
from tests.conftest import ROOT


def doctor(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sandbox", "doctor", *options],
        env={**os.environ, "PYTHONPATH": ROOT, **environment},
        cwd="/", capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_doctor_says_what_a_default_sandbox_would_do(lacks: frozenset[str]) -> None:
    done = doctor("--json")
    told = json.loads(done.stdout)
    runs = not lacks & {"landlock", "cgroup"}
    assert (done.returncode, told["works"]) == (0, True) if runs else (1, False)
    states = {finding["layer"]: finding["state"] for finding in told["layers"]}
    assert {layer for layer, state in states.items() if state == "failed"} == lacks & {"landlock"}
    assert len(states) == len(told["layers"])
    assert {"platform", "user namespace", "root", "seccomp", "capabilities", "call"} <= set(states)
    assert states["rlimits"] == "ok"
    assert "cgroup" in lacks or states["cgroup"] == "ok"
    assert all(f["remedy"] for f in told["layers"] if f["state"] == "failed")


def test_doctor_prints_a_line_for_each_layer(lacks: frozenset[str]) -> None:
    done = doctor()
    lines = done.stdout.splitlines()
    assert lines[0].startswith("platform")
    assert any(line.startswith("seccomp") and " ok " in line for line in lines)
    assert lines[-1].startswith(
        "a default Sandbox() works" if done.returncode == 0 else "a default"
    )
    assert done.stderr == ""


def test_doctor_names_what_is_missing_and_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, which does not say further down that it is there."""
    from sandbox.__main__ import main

    def refuse(_: object) -> Any:
        raise Unsupported("cgroup", "no group is ours", "systemd-run --user --scope ...")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(RUNTIME), "groups", refuse)
        assert main(["doctor"]) == 1
        text = capsys.readouterr().out
        assert main(["doctor", "--json"]) == 1
        told = json.loads(capsys.readouterr().out)["layers"]
    assert "no group is ours" in text
    assert "remedy: systemd-run --user --scope ..." in text
    states = [(finding["layer"], finding["state"]) for finding in told]
    assert [state for layer, state in states if layer == "cgroup"] == ["failed"]
    assert len({layer for layer, _ in states}) == len(states)
    assert ("rlimits", "ok") in states
    assert "seccomp" in text
    assert text.splitlines()[-1] == "a default Sandbox() does not work here"


def test_doctor_stops_at_a_platform_that_nothing_runs_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sandbox.__main__ import main

    real = os.uname()
    monkeypatch.setattr(os, "uname", lambda: type(real)((*real[:4], "s390x")))
    assert main(["doctor"]) == 1
    first, remedy, last = capsys.readouterr().out.splitlines()
    assert first.startswith("platform  failed  there are no filters for s390x")
    assert "remedy: Use x86_64 or aarch64." in remedy
    assert last == "a default Sandbox() does not work here"


def test_a_checkout_that_was_never_installed_is_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_paths, "NATIVE", _paths.NATIVE + ".not")
    with pytest.raises(Unsupported, match="never installed") as caught:
        Sandbox()
    assert "pip install" in caught.value.remedy
    assert "gcc" in caught.value.remedy
