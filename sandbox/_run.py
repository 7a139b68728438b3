"""`sandbox run`: a program or a Python script in a jail, from the shell, with its streams passed
through as they come."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Protocol

from ._api import Sandbox
from ._capture import Spill
from ._errors import InternalError, ProgramError, SandboxError, SetupError, Unsupported
from ._models import Limits, Mount, Outcome, as_dict
from ._policy_file import SHIPPED
from ._root import interpreter
from ._streams import reopened

# What our own exit status says where the program has none of its own; timeout(1), env(1) and the
# shell use these numbers alike.
_TIME, _LIMIT, _VIOLATION, _OURS, _NOT_EXECUTABLE, _NOT_FOUND = 124, 122, 123, 125, 126, 127
_BAD_OPTIONS = 2
_STATUSES = {
    "cpu_time_limit": _TIME,
    "wall_time_limit": _TIME,
    "memory_limit": _LIMIT,
    "output_limit": _LIMIT,
    "disk_limit": _LIMIT,
    "process_limit": _LIMIT,
    "policy_violation": _VIOLATION,
}
EPILOG = """exit status: the program's own; 128 + N if signal N ended it; 2 bad options; 122 a limit
on memory, output, disk or processes; 123 a policy violation; 124 a limit on time; 125 our fault or
the host's, or there is no such --cwd, a file cannot be placed, or what is to be said here cannot be
written; 126 the program cannot be executed; 127 it is not there. --json tells them apart from the
program's own."""


class _Subparsers(Protocol):
    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser: ...


class _Unwritable(Exception):
    """Our own stdout or stderr takes nothing any more."""


class _Standard(Spill):
    """Our own stdout or stderr, of which others may hold copies, and may have made it one that does
    not block."""

    def __init__(self, number: int, descriptor: int) -> None:
        super().__init__(descriptor)
        self._name = {1: "stdout", 2: "stderr"}[number]

    def step(self) -> None:
        """Raises BrokenPipeError, _Unwritable."""
        try:
            super().step()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _Unwritable(f"cannot write to our {self._name}: {error.strerror}") from error


@contextmanager
def _standard(number: int) -> Iterator[_Standard]:
    own = reopened(number, os.O_WRONLY)
    try:
        yield _Standard(number, own if own >= 0 else number)
    finally:
        if own >= 0:
            os.close(own)


def _write(number: int, text: str) -> None:
    """All of it. Not by `print`: what Python's own buffers could not get rid of, they try again at
    its exit, which then has a status of its own."""
    with _standard(number) as stream:
        stream(text.encode("utf-8", "backslashreplace"))
        stream.finish()


def _complain(text: object) -> None:
    """Why there is an exit status of ours; where it cannot be told, that still says it."""
    with suppress(BrokenPipeError, _Unwritable):
        _write(2, f"sandbox: {text}\n")


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
        return _run_or_say_why_not(options)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Who read our output has enough: as the program would end, without a word.
        return 128 + signal.SIGPIPE
    except _Unwritable as error:
        _complain(error)
        return _OURS
    except (SandboxError, ValueError, TypeError, OSError) as error:
        _complain(error)
        # An error with a name is about a file that an option named.
        return _OURS if isinstance(error, OSError) and error.filename is None else _BAD_OPTIONS


def _run_or_say_why_not(options: argparse.Namespace) -> int:
    try:
        return _run(options)
    except (ProgramError, Unsupported, SetupError, InternalError) as error:
        _complain(error)
        if options.json:
            _write_json(_not_started(error))
        if not isinstance(error, ProgramError) or error.step in ("files", "cwd"):
            return _OURS
        return _NOT_FOUND if error.errno == errno.ENOENT else _NOT_EXECUTABLE


def _not_started(error: SandboxError) -> dict[str, Any]:
    """For a reader of JSON: what there is of an outcome, and what the error knows beyond it."""
    told = {} if error.outcome is None else as_dict(error.outcome)
    reasons = {name: getattr(error, name, None) for name in ("step", "errno", "path")}
    return {**told, "status": "not_started", "exit_code": None, "message": str(error), **reasons}


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
    with sandbox, _standard(1) as stdout, _standard(2) as stderr:
        outcome = sandbox.exec(
            argv,
            stdin=open(0, "rb", buffering=0, closefd=False),  # noqa: SIM115
            files=files,
            env=dict(_pair("--env", text) for text in options.env),
            cwd=options.cwd,
            collect=options.collect,
            stdout=None if options.json else stdout,
            stderr=None if options.json else stderr,
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
        # Absolute: it may start elsewhere, and a name with "-" would be an option.
        argv = [interpreter(), f"/work/{name}", *argv[1:]]
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
    return int(text) if text.isdecimal() and name != "cpuset" else text


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
        _write_json(as_dict(outcome))
        return
    if outcome.status not in ("ok", "nonzero_exit", "signaled"):
        _write(2, f"sandbox: {outcome.status}: {outcome.message}\n")
    for name, reason in outcome.refused.items():
        _write(2, f"sandbox: {name!r} was not brought back: {reason}\n")


def _write_json(value: Mapping[str, Any]) -> None:
    _write(1, json.dumps(value, default=_plain, indent=2) + "\n")


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")  # so that no byte is lost
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
