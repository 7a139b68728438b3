"""The tool that boots other kernels: the parts that need no kernel. What a guest really is like is
for tests/kernels/guest_report.py, run in one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox._layers import WAIVABLE
from tests.kernels import catalog, cli, guest, image, machine
from tests.kernels.failure import BootError


def _task(repo: Path, **changes: object) -> guest.Task:
    values: dict[str, object] = {
        "command": ("true",),
        "repo": repo,
        "as_user": False,
        "shown": (),
        "environment": {},
        **changes,
    }
    return guest.Task(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", catalog.load().values(), ids=lambda kernel: kernel.name)
def test_declared_layers_can_be_waived(kernel: catalog.Kernel) -> None:
    assert kernel.lacks <= WAIVABLE


def test_the_command_survives_the_shell(tmp_path: Path) -> None:
    words = ("it's", 'a "word"', "$HOME `id`", "new\nline", "")
    script = f"import sys, os; print([*sys.argv[1:], os.environ['NAME']] == {[*words, 'a b']})"
    command = (sys.executable, "-c", script, *words)
    guest.write(
        tmp_path / "guest", "uml-6.1", _task(tmp_path, command=command, environment={"NAME": "a b"})
    )
    done = subprocess.run(["sh", tmp_path / "guest/command"], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_the_command_learns_which_kernel_it_is_on(tmp_path: Path) -> None:
    guest.write(tmp_path / "guest", "uml-6.1", _task(tmp_path, command=("env",)))
    listing = subprocess.run(["sh", tmp_path / "guest/command"], capture_output=True, text=True)
    assert "SANDBOX_KERNEL=uml-6.1" in listing.stdout.splitlines()


def test_the_guest_has_one_user_1000(tmp_path: Path) -> None:
    guest.write(tmp_path / "guest", "uml-6.1", _task(tmp_path))
    users = [line.split(":") for line in (tmp_path / "guest/passwd").read_text().splitlines()]
    assert [user[0] for user in users if user[2] == "1000"] == ["tester"]
    assert "root" in {user[0] for user in users}


def test_the_interpreter_of_the_checkouts_environment_is_shown(tmp_path: Path) -> None:
    repo, python = tmp_path / "repo", tmp_path / "python/bin/python3"
    python.parent.mkdir(parents=True)
    python.touch()
    (repo / ".venv/bin").mkdir(parents=True)
    (repo / ".venv/bin/python").symlink_to(python)
    shown = guest.shown_folders(_task(repo))
    assert tmp_path / "python" in shown
    assert not any(folder.is_relative_to(repo) for folder in shown)


def test_the_disk_holds_the_checkout_without_its_history_and_caches(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    for name in ("kept/file", "kept/.git", ".git/HEAD", ".kernels/linux", "kept/.mypy_cache/x"):
        (repo / name).parent.mkdir(parents=True, exist_ok=True)
        (repo / name).write_text(name)
    image.make(tmp_path / "disk", repo, os.getuid())
    image.take_out(tmp_path / "disk", "kept", tmp_path / "out")
    assert (tmp_path / "out/kept/file").read_text() == "kept/file"
    assert sorted(path.name for path in (tmp_path / "out/kept").iterdir()) == [".git", "file"]
    for left_out in (".git", ".kernels"):
        with pytest.raises(BootError, match="no such file"):
            image.take_out(tmp_path / "disk", left_out, tmp_path / "out")


def test_output_is_relayed_until_the_guest_closes_both_pipes(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    output, status = os.pipe(), os.pipe()
    os.write(output[1], b"all of it")
    os.write(status[1], b"7\n")
    os.close(output[1])
    os.close(status[1])
    assert machine._relay(output[0], status[0], time.monotonic() + 60) == b"7\n"
    assert capfdbinary.readouterr().out == b"all of it"
    os.close(output[0])
    os.close(status[0])


def test_a_guest_that_stays_silent_runs_into_the_deadline() -> None:
    output, status = os.pipe(), os.pipe()
    os.write(status[1], b"0\n")  # a status alone is no end
    assert machine._relay(output[0], status[0], time.monotonic() + 0.05) is None
    for descriptor in (*output, *status):
        os.close(descriptor)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "no command"),
        (["--kernel", "5.4", "--", "true"], "invalid choice"),
        (["--get", "results", "--", "true"], "go together"),
        (["--env", "NAME", "--", "true"], "NAME=VALUE"),
        (["--show", "/nonexistent", "--", "true"], "not a folder"),
    ],
)
def test_a_wrong_command_line_is_refused(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        cli._parse(arguments)
    assert refusal.value.code == 2
    assert complaint in capsys.readouterr().err
