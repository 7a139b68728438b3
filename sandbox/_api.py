"""`Sandbox`: the one object users hold."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from types import TracebackType
from typing import IO, Any, ParamSpec, TypeVar

from . import _program, _transfer
from ._blueprint import DRAWINGS, root_for
from ._cpuset import check_cpus
from ._drive import begin, end, supervise
from ._environment import GUEST_ENVIRONMENT, checked_environment
from ._errors import ClosedError
from ._jail import Jail
from ._launcher import LauncherLost, Profile
from ._layers import check_waivers, choose_layers
from ._models import Limits, Mount, Outcome
from ._packages import own_packages, place
from ._platform import check_platform
from ._policy import Policy
from ._policy_file import load_policy
from ._process import Process
from ._raising import exception_for
from ._runtime import RUNTIME
from ._streams import make_streams
from ._task import Task, function_task, program_task
from ._visible import Visible

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Sandbox:
    """Runs functions nobody trusts in a jail of their own and hands back their values.

    One sandbox is one jail: fresh user, pid, mount, net, ipc, uts, cgroup and time namespaces, a
    read-only root, a seccomp filter, no capabilities, Landlock, and control groups. Each call is a
    fresh process forked from a pristine init; calls share the writable places and the limits,
    nothing else. Calls from several threads take turns.

    Args:
        limits: what each call may use (`Limits()` if not given).
        policy: the name of a shipped policy (``"base"``, ``"python"``, ``"compute"``), the path of
            a TOML file, or a `Policy`.
        mounts: folders and files of the host to show.
        env: environment variables for the guest beside PATH, HOME, TMPDIR, LANG and those that keep
            BLAS to one thread.
        preload: names of modules imported before the jail is made, with their distributions shown
            to the guest; they are imported with the host's rights, so name only what you trust.
        allow_missing: layers (see ARCHITECTURE.md) that may be missing on this host; the outcome
            then says so.

    Raises:
        TypeError, ValueError, PolicyError: bad arguments, before anything is created.
        Unsupported: no system, machine or Python for this; on entering, a layer cannot be put in
            force.
        SetupError: on entering, when the jail cannot be made as asked.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        policy: str | os.PathLike[str] | Policy = "python",
        mounts: Iterable[Mount] = (),
        env: Mapping[str, str] | None = None,
        preload: Sequence[str] = (),
        allow_missing: Collection[str] = (),
    ) -> None:
        self._jail: Jail | None = None
        self._state = "new"
        check_platform()
        if limits is not None and not isinstance(limits, Limits):
            raise TypeError(f"limits: expected Limits, not {type(limits).__name__}")
        self._limits = limits or Limits()
        check_cpus(self._limits.cpuset)
        self._policy = load_policy(policy)
        self._waived = check_waivers(allow_missing)
        self._environment = GUEST_ENVIRONMENT | checked_environment({} if env is None else env)
        if isinstance(preload, str):
            raise TypeError("preload: expected a sequence of module names, not one string")
        self._visible = Visible.of(preload)
        packages = place(self._visible)
        self._profile = Profile(tuple(preload), packages)
        self._mounts = tuple(_checked_mounts(mounts))
        self._root = root_for((*packages.shown, *own_packages()), self._mounts)
        # Held by `with` alone: only so can no interruption leave it held.
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._talking: str | None = None
        self._silent = threading.Event()  # no program of `popen` runs
        self._silent.set()
        self._owner = os.getpid()
        self._calls = 0

    # --- life -----------------------------------------------------------------------------------

    def __enter__(self) -> Sandbox:
        if self._state != "new":
            raise ClosedError(
                "this sandbox is open already; `with` does not nest"
                if self._state == "open"
                else "this sandbox is closed; make a new one"
            )
        self._jail = self._make_jail()
        self._state = "open"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the jail and everything in it. What it leaves is removed off the caller's path,
        within milliseconds. A call under way in another thread ends as cancelled. Closing twice is
        allowed."""
        self._state = "closed"
        jail = self._jail
        if jail is None or self._owner != os.getpid():
            return
        jail.cancel()
        if self._is_my_turn():
            return  # a consumer of this very call: `_supervise` buries it
        with self._lock:
            self._wait_for_silence()
            self._bury_if_closed()

    def __del__(self) -> None:
        if getattr(self, "_jail", None) is not None and self._owner == os.getpid():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        return f"<Sandbox policy={self._policy.name!r} {self._state}>"

    # --- calls ----------------------------------------------------------------------------------

    def run(self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call `function` in the jail and return its value.

        Raises:
            GuestError: the function raised; also an instance of the builtin of the same name.
            LimitExceeded, PolicyViolation, ResultError, Signaled, NonzeroExit: what ended it.
            TransferError: the function or an argument cannot travel in.
            ClosedError: the sandbox is not open.
            InternalError, SetupError, Unsupported: our fault, or the host's; never the guest's.
        """
        outcome = self.call(function, *args, **kwargs)
        if outcome.status != "ok":
            raise exception_for(outcome)
        value: _T = outcome.value
        return value

    def call(self, function: Callable[_P, Any], /, *args: _P.args, **kwargs: _P.kwargs) -> Outcome:
        """Call `function` in the jail and say what happened: always an `Outcome` for what the guest
        did. Raises only what `run` raises for bad input and for our own faults outside a call."""
        self._check_open()
        cargo = _transfer.dump_call(function, args, kwargs, visible=self._visible)
        return self._supervise(function_task(cargo, self._limits))

    def exec(
        self,
        argv: Sequence[_program.StrPath],
        *,
        stdin: _program.Content | None = None,
        files: Mapping[str, _program.Content] | None = None,
        collect: Sequence[str] = (),
        cwd: _program.StrPath | None = None,
        env: Mapping[str, str] | None = None,
        stdout: _program.Sink = None,
        stderr: _program.Sink = None,
    ) -> Outcome:
        """Run a program in the jail: always an `Outcome` for what it did, `ok` if it ended with
        status 0. Needs a policy that runs programs (``"program"``, ``"jit"`` or ``"compiler"``).

        Args:
            argv: the program and its arguments. A name without "/" is looked up in PATH, inside;
                another one is a path inside, relative to `cwd`.
            stdin: bytes, the path of a regular file on the host, or a binary stream, which is read
                as the program reads; /dev/null if not given.
            files: name below /work → content, likewise, or the path of a folder, which is copied;
                placed before the start. Executable if the host's file is, or the bytes begin as an
                ELF file or with "#!".
            collect: patterns of paths below /work (``"out/*.txt"``, ``"**/*.o"``): those regular
                files come back in `Outcome.files` when every process of the call is dead,
                `Limits.result` bytes at most; what was not taken is in `Outcome.refused`.
            cwd: where it starts, below /work unless absolute.
            env: variables on top of the sandbox's own.
            stdout, stderr: a callable that gets each piece as it comes, on this thread (what it
                raises ends the program and is raised here), or the path of a file to write. The
                outcome has head and tail either way, and `Limits.output` counts both.

        Raises:
            ProgramError: it could not be started: missing, not executable, for another machine.
            TypeError, ValueError: bad arguments, before anything is created.
            OSError: a file of the host's named here cannot be opened, read or written.
            ClosedError, InternalError, SetupError, Unsupported: as `run`.
        """
        program = self._program(argv, files, collect, cwd, env)
        program = replace(
            program,
            stdin=_program.checked_stdin(stdin),
            stdout=_program.checked_sink("stdout", stdout),
            stderr=_program.checked_sink("stderr", stderr),
        )
        self._check_open()
        with program_task(program, self._limits) as task:
            return self._supervise(task)

    def popen(
        self,
        argv: Sequence[_program.StrPath],
        *,
        stdin: IO[bytes] | None = None,
        stdout: IO[bytes] | None = None,
        stderr: IO[bytes] | bool | None = None,
        files: Mapping[str, _program.Content] | None = None,
        collect: Sequence[str] = (),
        cwd: _program.StrPath | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a program and return at once: a `Process` to talk to. Until it has ended the
        sandbox serves no other call. Limits hold as with `exec`, but for `Limits.output`: what is
        read from a pipe is the caller's to bound.

        Args:
            stdin, stdout: not given, pipes whose other ends are the handle's. Or an end of a pipe,
                another handle's stream for example: two programs, in two sandboxes, are joined by
                ``popen(..., stdin=other.stdout)`` without a byte passing the host. A stream that is
                given is closed here; give it before anything was read from it, since what a
                buffer has taken stays behind.
            stderr: not given, it is in the outcome; True, a pipe; or an end of one.
            argv, files, collect, cwd, env: as `exec`.

        Raises:
            TypeError, ValueError, OSError, ClosedError, InternalError, SetupError, Unsupported: as
                `exec`.
                That a program cannot be started is said by `Process.wait`.
        """
        program = self._program(argv, files, collect, cwd, env)
        self._check_consumer()
        with self._lock, ExitStack() as if_it_fails:
            self._await_turn()
            at_end = ExitStack()  # closed by the poller
            if_it_fails.callback(at_end.close)
            at_end.callback(self._fall_silent)  # which keeps this object alive as long
            self._talking = program.argv[0]
            self._silent.clear()
            streams, pipes = make_streams(stdin, stdout, stderr)
            if_it_fails.callback(pipes.close)
            with closing(streams):
                task = at_end.enter_context(program_task(program, self._limits, streams))
                jail, number = self._usable_jail(), self._next_number()
                call = begin(jail, number, self._limits, task)
            process = Process(program.argv, pipes, (stdin, stdout, stderr))
            try:
                process._start(call, RUNTIME.poller, at_end, self._stop_talking)
            except BaseException:
                if RUNTIME.poller.has(call):
                    if_it_fails.pop_all()  # all of it is the poller's
                    process.kill()
                else:
                    end(jail, call)
                    process._forsake()
                raise
            if_it_fails.pop_all()
        return process

    def _program(
        self,
        argv: Sequence[_program.StrPath],
        files: Mapping[str, _program.Content] | None,
        collect: Sequence[str],
        cwd: _program.StrPath | None,
        env: Mapping[str, str] | None,
    ) -> _program.Program:
        if self._policy.answer("execve") != "allow":
            raise ValueError(
                f"the policy {self._policy.name!r} runs no programs; use "
                'Sandbox(policy="program"), or one of your own that extends it'
            )
        environment = self._environment | checked_environment({} if env is None else env)
        return _program.checked(argv, environment, {} if files is None else files, collect, cwd)

    def _stop_talking(self) -> None:
        """A program of `popen` was killed: its end may be waited for."""
        self._talking = None

    def _fall_silent(self) -> None:
        """A program of `popen` has ended."""
        self._talking = None
        self._silent.set()

    def _supervise(self, task: Task) -> Outcome:
        self._check_consumer()
        with self._lock:
            self._holder = threading.get_ident()
            try:
                self._await_turn()
                return supervise(self._usable_jail(), self._next_number(), self._limits, task)
            finally:
                self._holder = None
                self._bury_if_closed()

    def _is_my_turn(self) -> bool:
        """Whether this very thread is in a call: its consumer asks. (An interruption may leave the
        name of a holder behind, but not the lock.)"""
        return self._holder == threading.get_ident() and self._lock.locked()

    def _check_consumer(self) -> None:
        self._check_open()
        if self._is_my_turn():
            raise ClosedError("this sandbox is asked by a consumer of its own call's output")

    def _await_turn(self) -> None:
        """Behind the calls of other threads; not behind a program of `popen`, which only this very
        thread may be able to end, unless it was killed."""
        self._check_open()
        if self._talking is not None:
            raise ClosedError(
                f"{self._talking!r}, which popen started, has this sandbox until it ends; wait "
                "for it, or open another one"
            )
        self._wait_for_silence()
        self._check_open()

    def _wait_for_silence(self) -> None:
        # Asked first: an interruption can leave the lock inside an Event held.
        if not self._silent.is_set():
            self._silent.wait()

    def _bury_if_closed(self) -> None:
        """At the end of a turn, of a sandbox that was closed meanwhile."""
        if self._state == "closed":
            jail, self._jail = self._jail, None
            if jail is not None:
                _bury(jail)

    def preview(self, function: Callable[..., Any], /) -> tuple[str, ...]:
        """What would travel into the jail by value with `function`: names of functions, classes and
        globals of modules that are not visible inside, attributes of instances, and what partials
        and methods are bound to; never values. Runs nothing but what pickling runs.

        Raises:
            TransferError: something cannot travel, as in a call.
        """
        return _transfer.preview(function, visible=self._visible)

    # --- inside ---------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._owner != os.getpid():
            raise ClosedError("this sandbox belongs to the process that this one was forked from")
        if self._state != "open":
            text = "closed" if self._state == "closed" else "not open yet; use it in a `with` block"
            raise ClosedError(f"this sandbox is {text}")

    def _usable_jail(self) -> Jail:
        """The jail; after a fault of ours (launcher or init lost) a new one, with empty places."""
        if self._jail is None or not self._jail.usable:
            if self._jail is not None:
                _bury(self._jail)
                self._jail = None
            self._jail = self._make_jail()
        return self._jail

    def _next_number(self) -> int:
        self._calls += 1
        return self._calls

    def _make_jail(self) -> Jail:
        try:
            return self._try_to_make_jail()
        except LauncherLost:  # somebody has killed it: once more, with a new one
            return self._try_to_make_jail()

    def _try_to_make_jail(self) -> Jail:
        groups, no_cgroup = RUNTIME.groups_or_none(waived="cgroup" in self._waived)
        launcher = RUNTIME.launcher(self._profile)
        layers = choose_layers(
            launcher.facts, self._waived, mdwe=self._policy.mdwe, no_cgroup=no_cgroup
        )
        blueprint = DRAWINGS.get(
            self._policy,
            self._root,
            self._limits,
            layers,
            launcher.facts["landlock"],
        )
        lease = RUNTIME.lease()
        group = groups.jail(self._limits) if groups else None
        try:
            jail = Jail(launcher, blueprint, group, lease, self._environment)
        except BaseException:
            if group is not None:
                group.close()
            raise
        try:
            jail.start()
        except BaseException:
            _bury(jail)
            raise
        return jail


def _bury(jail: Jail) -> None:
    jail.kill()
    RUNTIME.reaper.bury(jail)


def _checked_mounts(mounts: Iterable[Mount]) -> Iterable[Mount]:
    for mount in mounts:
        if not isinstance(mount, Mount):
            raise TypeError(f"mounts: expected Mount, not {type(mount).__name__}")
        yield mount
