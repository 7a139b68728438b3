"""The command line, and the order of things."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from . import catalog, fetch, guest, image, machine, requirements
from .failure import BootError

_ROOT = Path(__file__).resolve().parents[2]
_TIMED_OUT = 124
_DIED = 125
_ABOUT = "Runs a command in this checkout on another Linux kernel, as root or as uid 1000."
_STATUS = """exit status: the command's; 124 after --timeout; 125 if the guest died or could not be
started. The last line on stderr tells which."""


def main(arguments: list[str] | None = None) -> int:
    """
    Args:
        arguments: of the command line, without the program; `None` takes `sys.argv`'s.

    Returns:
        The exit status, see `_STATUS`.
    """
    options = _parse(arguments)
    # A default SIGTERM would leave the state folder behind.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        if options.check:
            return _report_missing()
        requirements.check()
        kernel = catalog.load()[f"uml-{options.kernel}"]
        folder = fetch.fetch(kernel, options.cache or options.repo / ".kernels")
        if options.fetch_only:
            return 0
        return _boot(kernel, folder, options)
    except BootError as error:
        print(f"boot: {error}", file=sys.stderr)
        return _DIED


def _terminated(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    versions = [kernel.version for kernel in catalog.load().values()]
    parser = argparse.ArgumentParser(prog="boot.py", description=_ABOUT, epilog=_STATUS)
    add = parser.add_argument
    add("--kernel", choices=versions, default=versions[0], help="default: %(default)s")
    add("--user", action="store_true", help="as uid 1000 in a delegated cgroup, else as root")
    add("--timeout", type=float, default=900.0, metavar="S", help="seconds, default: %(default)s")
    add("--mem", default="2G", help="the guest's memory, default: %(default)s")
    add("--env", action="append", default=[], metavar="K=V", help="a variable for the command")
    add("--repo", type=Path, default=_ROOT, metavar="DIR", help="the checkout, default: this one")
    add("--show", action="append", default=[], type=Path, metavar="DIR", help="a host folder to "
        "show read-only, where /root, /home, /tmp or another file system hide it")  # fmt: skip
    add("--cache", type=Path, metavar="DIR", help="of kernels, default: .kernels in the checkout")
    add("--get", metavar="PATH", help="a file or folder of the guest's checkout to copy out")
    add("--out", type=Path, metavar="DIR", help="where --get copies to")
    add("--fetch-only", action="store_true", help="download the kernel and stop")
    add("--check", action="store_true", help="list the Debian packages this machine lacks and stop")
    add("command", nargs="*", metavar="CMD", help="the command, after --")
    options = parser.parse_args(arguments)
    options.repo = options.repo.resolve()
    if not (options.command or options.check or options.fetch_only):
        parser.error("no command: write it after --")
    if (options.get is None) != (options.out is None):
        parser.error("--get and --out go together")
    if not all("=" in variable for variable in options.env):
        parser.error("--env takes NAME=VALUE")
    for folder in (options.repo, *options.show):
        if not folder.is_dir():
            parser.error(f"{folder} is not a folder")
    return options


def _report_missing() -> int:
    packages = requirements.missing()
    if packages:
        print(f"missing: {' '.join(packages)}\n{requirements.apt_line(packages)}")
    return 1 if packages else 0


def _boot(kernel: catalog.Kernel, folder: Path, options: argparse.Namespace) -> int:
    task = guest.Task(
        command=tuple(options.command),
        repo=options.repo,
        as_user=options.user,
        shown=tuple(options.show),
        environment=dict(variable.split("=", 1) for variable in options.env),
    )
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sandbox-guest-") as state:
        booted = machine.Machine(kernel, folder, Path(state), options.mem)
        guest.write(booted.state / "guest", kernel.name, task)
        image.make(booted.state / "disk", task.repo, guest.UID if task.as_user else 0)
        ending = machine.run(booted, options.timeout)
        if ending.status is None and not ending.timed_out:
            sys.stderr.writelines(booted.log.read_text(errors="replace").splitlines(True)[-40:])
        elif options.get and ending.status is not None:
            image.take_out(booted.state / "disk", options.get, options.out.resolve())
    user = f"uid {guest.UID}" if task.as_user else "root"
    status, text = _told(ending)
    seconds = time.monotonic() - started
    print(f"boot: {kernel.name}, {user}: {text}, {seconds:.1f} s", file=sys.stderr)
    return status


def _told(ending: machine.Ending) -> tuple[int, str]:
    """Our exit status and the words for it."""
    if ending.status is not None:
        return ending.status, f"status {ending.status}"
    return (_TIMED_OUT, "timeout") if ending.timed_out else (_DIED, "died")
