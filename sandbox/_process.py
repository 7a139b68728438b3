"""A program that runs while its caller does something else: the handle that `popen` returns."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

from ._drive import conclude
from ._errors import ClosedError, InternalError, SandboxError
from ._models import Outcome
from ._streams import Pipes
from ._supervisor import Supervisor

if TYPE_CHECKING:
    from ._poller import Poller


class _Life:
    """Held by a handle, its streams, and the programs they were given to: when nobody is left who
    could hear from the program, it is killed."""

    def __init__(self, name: str, joined: Iterable[object]) -> None:
        self.over = threading.Event()
        self.kill: Callable[[], None] | None = None
        self._name = name
        self._owner = os.getpid()
        self._joined = [getattr(stream, "_life", None) for stream in joined]

    def __del__(self) -> None:
        if self.kill is not None and not self.over.is_set() and self._owner == os.getpid():
            text = f"nobody holds the program {self._name!r} any more: it is killed"
            warnings.warn(text, ResourceWarning, source=self, stacklevel=2)
            self.kill()


class Process:
    """A running program. Made by `Sandbox.popen`; as a context manager it is killed on leaving if
    it still runs. Clocks and caps hold whether anybody waits or not. A program whose handle and
    streams all are dropped, and that no program is joined to whose own are held, is killed.

    Attributes:
        argv: what was asked for.
        stdin: what the program reads is written here (unbuffered; None where a stream was given).
        stdout, stderr: what it writes is read here (None where a stream was given; stderr is in the
            outcome unless asked for).
        ended: when it ended, on the monotonic clock, as its jail's init saw it; None while it runs.
            Of two programs that talk to one another this tells who ended first, unless the one's
            end was the other's cause: those may be seen in either order.
    """

    def __init__(self, argv: tuple[str, ...], pipes: Pipes, joined: Iterable[object]) -> None:
        """`joined`: streams that were given to it."""
        self.argv = argv
        self._life = _Life(argv[0], joined)
        for stream in (pipes.stdin, pipes.stdout, pipes.stderr):
            if stream is not None:
                stream._life = self._life  # type: ignore[attr-defined]
        self._pipes = pipes
        self.stdin, self.stdout, self.stderr = pipes.stdin, pipes.stdout, pipes.stderr
        self.ended: float | None = None
        self._owner = os.getpid()
        self._over = self._life.over
        self._result: Outcome | SandboxError | None = None

    def poll(self) -> Outcome | None:
        """The outcome if it has ended, else None. Raises as `wait`."""
        return self.wait(0) if self._over.is_set() else None

    def wait(self, timeout: float | None = None) -> Outcome:
        """Wait for its end, at most `timeout` seconds.

        Raises:
            TimeoutError: it still runs.
            ProgramError: it could not be started.
            InternalError, SetupError: as `Sandbox.exec`.
        """
        if self._owner != os.getpid():
            raise ClosedError(f"{self!r} belongs to the process that this one was forked from")
        if not self._over.wait(timeout):
            raise TimeoutError(f"{self.argv[0]!r} still runs after {timeout} seconds")
        if isinstance(self._result, Outcome):
            return self._result
        assert self._result is not None
        raise self._result

    def kill(self) -> None:
        """End it, with all it started; its outcome is `cancelled`. Does not wait. No harm if it has
        ended."""
        kill = self._life.kill
        if kill is not None and not self._over.is_set() and self._owner == os.getpid():
            kill()

    def close(self) -> None:
        """Close our ends of its streams."""
        self._pipes.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        if self._owner == os.getpid():
            self._over.wait()
        self.close()

    def __repr__(self) -> str:
        state = "running" if not self._over.is_set() else "ended"
        return f"<Process {self.argv[0]!r} {state}>"

    def _forsake(self) -> None:
        """It never was anybody's to wait for."""
        self._over.set()

    def _start(
        self, call: Supervisor, poller: Poller, at_end: ExitStack, on_kill: Callable[[], None]
    ) -> None:
        """Have `poller` drive the call, and close `at_end` behind it."""

        def kill() -> None:
            on_kill()
            poller.cancel(call)

        self._life.kill = kill
        over = self._over
        me = weakref.ref(self)  # or a handle that nobody holds would never be collected

        def done() -> None:
            outcome: Outcome | SandboxError
            try:
                with at_end:
                    outcome = conclude(call)
            except SandboxError as error:
                outcome = error
            except BaseException as error:  # ours; whoever waits must not wait for ever
                outcome = InternalError(f"the program's outcome could not be made: {error!r}")
            process = me()
            if process is not None:
                process._result, process.ended = outcome, call.ended
            over.set()

        poller.drive(call, done)
