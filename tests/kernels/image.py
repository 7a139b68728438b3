"""The guest's disk: a sparse ext4 image with a copy of the repository. Runs as root, because the
files in it belong to the guest's user."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .failure import BootError
from .requirements import PATH

_SIZE = "8G"
# At the top of the repository: fetched kernels, and the history, which is large.
_LEFT_OUT_AT_TOP = (".git", ".kernels")
# Anywhere: what tools rebuild. Not __pycache__: compiling a whole .venv again takes a minute.
_LEFT_OUT = (".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis")
_ENVIRONMENT = {**os.environ, "PATH": PATH}


def make(disk: Path, repo: Path, owner: int) -> None:
    """Makes the image with ``repo``, the copy, owned by uid and gid `owner`, and ``var-tmp``.

    Raises:
        BootError: the copy or mke2fs failed.
    """
    stage = disk.with_name("stage")
    stage.mkdir()
    (stage / "var-tmp").mkdir()
    (stage / "var-tmp").chmod(0o1777)
    _copy(repo, stage / "repo", owner)
    # No journal: nothing outlives a crash of this guest, and the log of a clean one is just work.
    options = ["-O", "^has_journal", "-E", "lazy_itable_init=1,root_owner=0:0"]
    _run("mke2fs", "-q", "-t", "ext4", *options, "-d", stage, disk, _SIZE)
    shutil.rmtree(stage)


def _copy(repo: Path, target: Path, owner: int) -> None:
    """tar to tar: it leaves out what it is told to and changes owners on the way."""
    target.mkdir()
    excluded = [
        *("--anchored", *(f"--exclude=./{name}" for name in _LEFT_OUT_AT_TOP)),
        *("--no-anchored", *(f"--exclude={name}" for name in _LEFT_OUT)),
    ]
    ownership = [f"--owner={owner}", f"--group={owner}", "--numeric-owner"]
    pack = ["tar", "-C", str(repo), *excluded, *ownership, "-cf", "-", "."]
    unpack = ["tar", "-C", str(target), "--numeric-owner", "-xpf", "-"]
    with subprocess.Popen(pack, env=_ENVIRONMENT, stdout=subprocess.PIPE) as packing:
        unpacked = subprocess.run(unpack, env=_ENVIRONMENT, stdin=packing.stdout)
    # 1 is "a file changed as we read it": a checkout somebody works in.
    if packing.returncode not in (0, 1) or unpacked.returncode:
        raise BootError(f"cannot copy {repo}: tar failed, see its message above")


def take_out(disk: Path, path: str, target: Path) -> None:
    """Copies a file or folder of the repository's copy out of the image into the folder `target`.

    Only after the guest ended: nobody may have the image mounted.

    Raises:
        BootError: the copy has no such path.
    """
    target.mkdir(parents=True, exist_ok=True)
    # Quoted for debugfs, which has its own syntax and always exits with 0.
    _run("debugfs", "-R", f'rdump "/repo/{path}" "{target}"', disk)
    if not (target / Path(path).name).exists():
        raise BootError(
            f"cannot copy {path} out of the guest: its repository has no such file or folder. "
            "Give a path relative to the repository"
        )


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        raise BootError(f"cannot make or read the guest's disk: {command[0]}: {done.stderr}")
