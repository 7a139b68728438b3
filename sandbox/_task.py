"""What a call is about, as the supervisor needs it: a function, or a program."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ._capture import Spill
from ._collect import Patterns
from ._feed import Feed
from ._models import Limits
from ._parcel import Parcel
from ._program import Program, StrPath
from ._start import Start, started
from ._streams import Streams
from ._transfer import Cargo
from ._wire import encode_request

_Consumer = Callable[[bytes], object] | None


@dataclass(frozen=True)
class Task:
    """What is asked of a worker.

    Attributes:
        body: of the request to call a function, or the program to start.
        needs_cloudpickle: whether init has to import it first.
        parcel: a program's files; a function has none, and gets memory for its result instead.
        feed: a program's standard input; a function's is empty, and so is that of a program by
            default: /dev/null.
        streams: given to the program instead of what the host feeds and captures.
        stdout, stderr: who gets the output as it comes.
        collect: files wanted back.
    """

    body: Mapping[str, object] | Start
    needs_cloudpickle: bool = False
    parcel: Parcel | None = None
    feed: Feed | None = None
    streams: Streams | None = None
    stdout: _Consumer = None
    stderr: _Consumer = None
    collect: Patterns | None = None

    @property
    def start(self) -> Start | None:
        """The program, if it is one."""
        return self.body if isinstance(self.body, Start) else None

    @property
    def has_store(self) -> bool:
        """Whether memory goes along: for a function's result, or with a program's files."""
        return self.start is None or self.parcel is not None

    def request(self, number: int) -> Sequence[bytes | memoryview]:
        """What the worker is sent when it has been looked at."""
        if isinstance(self.body, Start):
            return [self.body.request()]
        return encode_request("run", number, self.body)

    @property
    def has_stdin(self) -> bool:
        """Whether a descriptor for the standard input goes along."""
        return self.feed is not None or self.streams is not None


def function_task(cargo: Cargo, limits: Limits) -> Task:
    """The call of a function."""
    body = {"payload": cargo.payload, "result": int(limits.result)}
    return Task(body, cargo.needs_cloudpickle)


@contextmanager
def program_task(
    program: Program, limits: Limits, streams: Streams | None = None
) -> Iterator[Task]:
    """The run of a program, for as long as the context lasts. Left by an exception (the program
    could not be started) before any output came, the files for it are as they were.

    Raises:
        ValueError, OSError: a file or stream of the caller's cannot be had.
    """
    with ExitStack() as stack:
        parcel = feed = None
        if program.files:
            parcel = Parcel(program.files, limits)
            stack.callback(parcel.close)
        if streams is None and program.stdin is not None:
            feed = Feed(program.stdin)
            stack.callback(feed.close)
        table = parcel.table if parcel else ()
        start = started(program.argv, program.environment, program.cwd, table)
        stdout, stderr = _consumers(program, stack)
        yield Task(
            start,
            parcel=parcel,
            feed=feed,
            streams=streams,
            stdout=stdout,
            stderr=stderr,
            collect=program.collect or None,
        )
        for consumer in (stdout, stderr):
            if isinstance(consumer, Spill):
                consumer.begin()  # it ran, and may have written nothing


def _consumers(program: Program, stack: ExitStack) -> list[_Consumer]:
    """Of stdout and stderr. Both files are open before either is changed; one that was made for
    this is gone again if the other cannot be had."""
    consumers: list[_Consumer] = []
    with ExitStack() as undo:
        for sink in (program.stdout, program.stderr):
            if sink is None or callable(sink):
                consumers.append(sink)
                continue
            descriptor, is_new = _opened(sink)
            stack.callback(os.close, descriptor)
            os.set_blocking(descriptor, False)  # of a FIFO: others may be faster to fill it
            if is_new:
                undo.callback(os.unlink, sink)
            consumers.append(Spill(descriptor, replaces=True))
        undo.pop_all()
    return _one_of_twins(*consumers)


def _opened(path: StrPath) -> tuple[int, bool]:
    """(its descriptor for writing, whether the file was not there before)."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_EXCL, 0o666), True
    except FileExistsError:
        return os.open(path, flags, 0o666), False


def _one_of_twins(stdout: _Consumer, stderr: _Consumer) -> list[_Consumer]:
    """Of two for one and the same file only the first: each would write over the other's."""
    spills = [consumer for consumer in (stdout, stderr) if isinstance(consumer, Spill)]
    if len(spills) == 2 and os.path.sameopenfile(*(spill.descriptor for spill in spills)):
        return [stdout, stdout]
    return [stdout, stderr]
