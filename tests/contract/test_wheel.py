"""What is installed is what is in the tree: nothing dropped, nothing beside the package."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import os, sandbox
from sandbox import Limits, Sandbox
assert sandbox.__file__.startswith(os.environ["WHEEL"]), sandbox.__file__
with Sandbox(Limits(memory="64M")) as jail:
    print(jail.run(lambda: 6 * 7))
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
    ]
    subprocess.run([*build, str(ROOT)], check=True, stderr=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def shipped() -> set[str]:
    """The tree's files by the place they have in the wheel, and what is compiled of them."""
    listed = subprocess.run(
        ["git", "ls-files", "sandbox", "worker", "policies"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    python = [name for name in listed if not name.startswith("worker/native/")]
    assert python != listed
    placed = {name if name.startswith("sandbox/") else f"sandbox/{name}" for name in python}
    return placed | {"sandbox/worker/_native.abi3.so"}


@pytest.mark.native
def test_the_wheel_holds_the_tree_and_nothing_else(unpacked: Path) -> None:
    found = {
        str(path.relative_to(unpacked))
        for path in unpacked.rglob("*")
        if path.is_file() and ".dist-info" not in str(path)
    }
    assert found == shipped()
    assert {entry.name.partition("-")[0] for entry in unpacked.iterdir()} == {"sandbox"}


@pytest.mark.native
def test_an_installed_wheel_runs_a_guest(unpacked: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "WHEEL": str(unpacked)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd="/", capture_output=True, text=True
    )
    assert done.stdout == "42\n", done.stderr
