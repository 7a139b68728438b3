"""What the guest is told: its init script, its settings and the command, as files.

They are written into a folder that the guest sees read-only as /mnt/guest.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from .failure import BootError

UID = 1000
_NAME = "tester"
_HERE = Path(__file__).parent
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Task:
    """What is to be run in the guest.

    Attributes:
        command: the program and its arguments.
        repo: the checkout, a resolved path; the command's working directory.
        as_user: run as uid 1000 in a delegated cgroup, else as root.
        shown: more folders of the host to show, read-only.
        environment: variables for the command, on top of the ones every command gets.
    """

    command: tuple[str, ...]
    repo: Path
    as_user: bool
    shown: tuple[Path, ...]
    environment: dict[str, str]


def write(folder: Path, kernel: str, task: Task) -> None:
    """Fills the guest's folder. `kernel` is the name the guest gets as SANDBOX_KERNEL.

    Raises:
        BootError: a folder to show has a name that the list of them cannot hold.
    """
    folder.mkdir(mode=0o755)
    _script(folder / "init", _HERE / "guest_init.sh")
    _script(folder / "modprobe", _HERE / "guest_modprobe.sh")
    _text(folder / "settings", f"REPO={shlex.quote(str(task.repo))}\nAS_USER={int(task.as_user)}\n")
    _text(folder / "shown", _numbered(shown_folders(task)))
    _text(folder / "command", _command(kernel, task))
    home = f"/home/{_NAME}"
    _text(folder / "passwd", _database("/etc/passwd", f"{_NAME}:x:{UID}:{UID}::{home}:/bin/sh"))
    _text(folder / "group", _database("/etc/group", f"{_NAME}:x:{UID}:"))


def shown_folders(task: Task) -> list[Path]:
    """The folders of the host that the guest must see besides /usr and its like: those of the
    running interpreter and of the checkout's .venv, wherever they lie, and the task's own."""
    found = [Path(sys.base_prefix), *task.shown]
    environment = task.repo / ".venv"
    if environment.exists():
        python = Path(os.path.realpath(environment / "bin/python"))
        found += [environment.resolve(), python.parent.parent]
    resolved = dict.fromkeys(Path(os.path.realpath(folder)) for folder in found)
    return [
        folder
        for folder in resolved
        if folder.is_dir()
        and not folder.is_relative_to("/usr")
        and not folder.is_relative_to(task.repo)
    ]


def _numbered(folders: list[Path]) -> str:
    for folder in folders:
        if "\n" in str(folder) or str(folder) != str(folder).strip():
            raise BootError(f"cannot show {str(folder)!r}: rename it without odd white space")
    return "".join(f"{number} {folder}\n" for number, folder in enumerate(folders))


def _command(kernel: str, task: Task) -> str:
    user = _NAME if task.as_user else "root"
    environment = {
        "PATH": _PATH,
        "LANG": "C.UTF-8",
        "HOME": f"/home/{_NAME}" if task.as_user else "/root",
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/sh",
        "SANDBOX_KERNEL": kernel,
        **({"XDG_RUNTIME_DIR": f"/run/user/{UID}"} if task.as_user else {}),
        **task.environment,
    }
    become = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    variables = [f"{name}={value}" for name, value in environment.items()]
    # A session of its own, without a controlling terminal, as a service has it.
    words = ["setsid", *(become if task.as_user else []), "env", "-i", *variables, *task.command]
    return f"exec {shlex.join(words)}\n"


def _database(path: str, entry: str) -> str:
    """A passwd or group file with our entry instead of any of the same name or number."""
    kept = []
    for line in Path(path).read_text().splitlines():
        fields = line.split(":")
        if fields[0] != _NAME and fields[2:3] != [str(UID)]:
            kept.append(line)
    return "\n".join([*kept, entry]) + "\n"


def _script(target: Path, source: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(0o755)


def _text(target: Path, content: str) -> None:
    target.write_text(content)
    target.chmod(0o644)
