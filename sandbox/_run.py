"""`sandbox run`: a program or a Python script in a jail, from the shell, with its streams passed
through as they come."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from ._api import Sandbox
from ._capture import Spill
from ._errors import InternalError, ProgramError, SandboxError, SetupError, Unsupported
from ._models import Limits, Mount, Outcome, as_dict
from ._policy_file import SHIPPED
from ._root import interpreter

# What our own exit status says where the program has none of its own; timeout(1), env(1) and the
# shell use these numbers alike.
_TIME, _LIMIT, _VIOLATION, _OURS, _NOT_EXECUTABLE, _NOT_FOUND = 124, 122, 123, 125, 126, 127
_STATUSES = {
    "cpu_time_limit": _TIME,
    "wall_time_limit": _TIME,
    "memory_limit": _LIMIT,
    "output_limit": _LIMIT,
    "disk_limit": _LIMIT,
    "process_limit": _LIMIT,
    "policy_violation": _VIOLATION,
}
EPILOG = """exit status: the program's own; 128 + N if signal N ended it; 122 a limit on memory,
output, disk or processes; 123 a policy violation; 124 a limit on time; 125 our fault or the host's;
126 the program cannot be executed; 127 it is not there; 2 bad options. --json tells them apart from
the program's own."""


class _Subparsers(Protocol):
    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser: ...


def add_parser(commands: _Subparsers) -> None:
    """The options of `sandbox run`."""
    parser = commands.add_parser(
        "run",
        help="run a program or a Python script in a jail",
        usage="sandbox run [options] [--] program [argument ...]",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add(
        "--policy", default="program", help=f"a path, or {', '.join(SHIPPED)}; default: %(default)s"
    )
    for field in dataclasses.fields(Limits):
        add(f"--{field.name.replace('_', '-')}", metavar="N", help=_limit_help(field.default))
    add("--file", action="append", default=[], metavar="NAME=PATH", help="place a file below /work")
    add("--mount", action="append", default=[], metavar="SOURCE:TARGET[:rw]", help="show a folder")
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable")
    add("--cwd", metavar="DIR", help="where it starts, inside; default: /work")
    add("--collect", action="append", default=[], metavar="PATTERN", help="bring files back")
    add("--into", metavar="DIR", help="where they go: a folder that is new or empty")
    add(
        "--allow-missing", action="append", default=[], metavar="LAYER", help="accept that it lacks"
    )
    add("--json", action="store_true", help="print the outcome as JSON on stdout, output included")
    add("argv", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def _limit_help(default: object) -> str:
    return f"see Limits; default: {'none' if default is None else default}"


def run(options: argparse.Namespace) -> int:
    """Run it; our exit status."""
    _open_standard_streams()
    try:
        return _run(options)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Who read our output has enough: as the program would end, without a word.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except ProgramError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return _NOT_FOUND if error.errno == 2 else _NOT_EXECUTABLE
    except (Unsupported, SetupError, InternalError) as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return _OURS
    except (SandboxError, ValueError, TypeError, OSError) as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 2


def _open_standard_streams() -> None:
    """Whoever started us may have closed some: what we open must not take their numbers."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free


def _run(options: argparse.Namespace) -> int:
    argv, files = _program(options)
    if options.collect and options.into is None:
        raise ValueError("--collect needs --into DIR")
    if options.into is not None:
        _make_empty(options.into)
    sandbox = Sandbox(
        _limits(options),
        policy=options.policy,
        mounts=[_mount(text) for text in options.mount],
        allow_missing=options.allow_missing,
    )
    with sandbox:
        outcome = sandbox.exec(
            argv,
            stdin=open(0, "rb", buffering=0, closefd=False),  # noqa: SIM115
            files=files,
            env=dict(_pair("--env", text) for text in options.env),
            cwd=options.cwd,
            collect=options.collect,
            stdout=None if options.json else Spill(1),
            stderr=None if options.json else Spill(2),
        )
    if options.into is not None:
        outcome = replace(
            outcome, refused={**outcome.refused, **_write_files(options.into, outcome.files)}
        )
    _report(options, outcome)
    return _status(outcome)


def _program(options: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    """The command, and the files it needs: a Python script of the host is placed and given to the
    interpreter that runs this."""
    argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    files = dict(_pair("--file", text) for text in options.file)
    if argv and argv[0].endswith(".py") and os.path.isfile(argv[0]):
        name = os.path.basename(argv[0])
        files.setdefault(name, argv[0])
        argv = [interpreter(), name, *argv[1:]]
    return argv, files


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"{option} {text}: expected NAME=VALUE")
    return name, value


def _mount(text: str) -> Mount:
    source, *rest = text.split(":")
    if len(rest) not in (1, 2) or (len(rest) == 2 and rest[1] != "rw"):
        raise ValueError(f"--mount {text}: expected SOURCE:TARGET or SOURCE:TARGET:rw")
    return Mount(source, rest[0], writable=len(rest) == 2)


def _limits(options: argparse.Namespace) -> Limits:
    given: dict[str, Any] = {}
    for field in dataclasses.fields(Limits):
        text = getattr(options, field.name)
        if text is not None:
            given[field.name] = _value(field.name, text)
    return Limits(**given)


def _value(name: str, text: str) -> object:
    if text.lower() == "none":
        return None
    if name in ("wall_time", "cpu_time", "cpus"):
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"--{name.replace('_', '-')} {text}: expected a number") from None
    return int(text) if text.isdecimal() else text


def _make_empty(folder: str) -> None:
    os.makedirs(folder, exist_ok=True)
    if os.listdir(folder):
        raise ValueError(
            f"--into {folder}: it is not empty; what a guest made goes to its own place"
        )


def _write_files(folder: str, files: Mapping[str, bytes]) -> dict[str, str]:
    """What could not be written, with the reason. Names come from the guest, but as relative paths
    of folders and files that it had, and into a folder that was empty: nothing of the host's is
    there to be followed or replaced."""
    failed = {}
    for name, content in files.items():
        path = os.path.join(folder, name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(os.open(path, flags, 0o644), "wb") as file:
                file.write(content)
        except OSError as error:
            failed[name] = f"here: {error.strerror}"
    return failed


def _report(options: argparse.Namespace, outcome: Outcome) -> None:
    if options.json:
        print(json.dumps(as_dict(outcome), default=_plain, indent=2))
        return
    if outcome.status not in ("ok", "nonzero_exit", "signaled"):
        print(f"sandbox: {outcome.status}: {outcome.message}", file=sys.stderr)
    for name, reason in outcome.refused.items():
        print(f"sandbox: {name!r} was not brought back: {reason}", file=sys.stderr)


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return as_dict(value)
    return str(value)


def _status(outcome: Outcome) -> int:
    if outcome.exit_code is not None and outcome.status in ("ok", "nonzero_exit"):
        return outcome.exit_code
    if outcome.status == "signaled" and outcome.signal is not None:
        return 128 + outcome.signal
    return _STATUSES.get(outcome.status, _OURS)
