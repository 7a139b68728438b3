"""What a call is about, as the supervisor needs it: a function, or a program."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ._capture import Spill
from ._collect import Patterns
from ._feed import Feed
from ._models import Limits
from ._program import Parcel, Program, Sink
from ._streams import Streams
from ._transfer import Cargo

_Consumer = Callable[[bytes], object] | None


@dataclass(frozen=True)
class Task:
    """What is asked of a worker.

    Attributes:
        kind: ``"run"`` or ``"exec"``, the request's.
        body: the request's.
        needs_cloudpickle: whether init has to import it first.
        parcel: a program's files; a function has none, and gets memory for its result instead.
        feed: a program's standard input; a function's is empty.
        streams: given to the program instead of what the host feeds and captures.
        stdout, stderr: who gets the output as it comes.
        collect: files wanted back.
    """

    kind: str
    body: Mapping[str, object]
    needs_cloudpickle: bool = False
    parcel: Parcel | None = None
    feed: Feed | None = None
    streams: Streams | None = None
    stdout: _Consumer = None
    stderr: _Consumer = None
    collect: Patterns | None = None

    @property
    def has_stdin(self) -> bool:
        """Whether a descriptor for the standard input goes along."""
        return self.feed is not None or self.streams is not None


def function_task(cargo: Cargo, limits: Limits) -> Task:
    """The call of a function."""
    body = {"payload": cargo.payload, "result": int(limits.result)}
    return Task("run", body, cargo.needs_cloudpickle)


@contextmanager
def program_task(
    program: Program, limits: Limits, streams: Streams | None = None
) -> Iterator[Task]:
    """The run of a program, for as long as the context lasts. Raises ValueError, OSError."""
    with ExitStack() as stack:
        parcel = Parcel(program.files, limits)
        stack.callback(parcel.close)
        feed = None
        if streams is None:
            feed = Feed(program.stdin)
            stack.callback(feed.close)
        body = {
            "argv": [os.fsencode(word) for word in program.argv],
            "environment": {
                os.fsencode(name): os.fsencode(value) for name, value in program.environment.items()
            },
            "cwd": os.fsencode(program.cwd),
            "files": [(os.fsencode(name), mode, size) for name, mode, size in parcel.table],
        }
        yield Task(
            "exec",
            body,
            parcel=parcel,
            feed=feed,
            streams=streams,
            stdout=_consumer(program.stdout, stack),
            stderr=_consumer(program.stderr, stack),
            collect=program.collect or None,
        )


def _consumer(sink: Sink, stack: ExitStack) -> _Consumer:
    if sink is None or callable(sink):
        return sink
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    descriptor = os.open(sink, flags, 0o666)
    stack.callback(os.close, descriptor)
    return Spill(descriptor)
