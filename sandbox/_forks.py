"""What holds descriptors of a jail or a call, and has to let its copies go in a forked child: an
open result store or scratch mount keeps its memory for as long as anybody holds it."""

from __future__ import annotations

from typing import Protocol


class Holder(Protocol):
    """Holds descriptors that a forked child gets copies of."""

    def forget(self) -> None:
        """Close them, end nothing."""


_HOLDERS: set[Holder] = set()


def hold(holder: Holder) -> None:
    """From now on `holder` is told of a fork, in the child."""
    _HOLDERS.add(holder)


def release(holder: Holder) -> None:
    """It holds nothing any more."""
    _HOLDERS.discard(holder)


def forget_all() -> None:
    """In a forked child, where no other thread runs."""
    while _HOLDERS:
        try:
            _HOLDERS.pop().forget()
        except OSError:
            pass  # another thread was about to close it when the fork came
