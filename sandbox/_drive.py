"""Who drives a supervisor: a caller that waits. (The other one is `_poller`.)"""

from __future__ import annotations

import select

from ._errors import ProgramError
from ._jail import Jail
from ._models import Limits, Outcome
from ._outcome import outcome_of
from ._supervisor import Supervisor, milliseconds_until
from ._task import Task


def supervise(jail: Jail, number: int, limits: Limits, task: Task) -> Outcome:
    """One call from beginning to end, blocking this thread. If the wait is interrupted
    (KeyboardInterrupt, a signal handler's or a consumer's exception) the call is ended first."""
    call = Supervisor(jail, number, limits, task)
    try:
        call.begin()
        _drive(call)
    except BaseException:
        end(jail, call)
        raise
    return conclude(call)


def begin(jail: Jail, number: int, limits: Limits, task: Task) -> Supervisor:
    """A call that has begun, for somebody else to drive and conclude."""
    call = Supervisor(jail, number, limits, task)
    try:
        call.begin()
    except BaseException:
        end(jail, call)
        raise
    return call


def conclude(call: Supervisor) -> Outcome:
    """The outcome of a call that is done, whose resources are given back.

    Raises:
        ProgramError: the program was not started.
    """
    try:
        outcome = outcome_of(call.finished())
    finally:
        call.release()
    if outcome.status == "nonzero_exit" and call.unstarted is not None:
        error = ProgramError(*call.unstarted)
        error.outcome = outcome
        raise error
    return outcome


def _drive(call: Supervisor) -> None:
    while not call.done:
        poll = select.poll()
        for descriptor, events in call.interests().items():
            poll.register(descriptor, events)
        call.advance(poll.poll(milliseconds_until(call.deadline())))


def end(jail: Jail, call: Supervisor) -> None:
    """Of a call whose driver was interrupted; interrupted again, the jail is killed."""
    try:
        call.cancel()
        _drive(call)
    finally:
        if not call.done:
            jail.kill()
            call.abandon()
        call.release()
