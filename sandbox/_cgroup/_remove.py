"""Removing groups: kill what is in them, wait for its end, rmdir from the leaves up; also those
that a killed host left behind.

Run by the host. A group can be removed only when no process is in it; a killed process leaves its
group some time after the signal, and (since 6.19) even some time after its pidfd says it ended.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable

from ._kill import Killing
from ._owner import Owner, owner_of


class Removal:
    """Groups on their way out: the same subtree in every hierarchy."""

    def __init__(self, tops: Iterable[str]) -> None:
        self._tops = [top for top in tops if os.path.isdir(top)]
        self._killing = Killing()

    def step(self) -> bool:
        """Kill what is there, remove what is empty, without waiting. True when all is gone."""
        self._tops = [top for top in self._tops if not self._remove(top)]
        if not self._tops:
            self._killing.close()
        return not self._tops

    def run(self, timeout: float) -> bool:
        """`step` until all is gone, at most `timeout` seconds; whether it is."""
        deadline = time.monotonic() + timeout
        while not self.step():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._killing.wait(left)
        return True

    def close(self) -> None:
        """Give up what `run` could not finish."""
        self._killing.close()

    def _remove(self, top: str) -> bool:
        for folder, _, _ in os.walk(top, topdown=False):
            if not rmdir(folder):
                self._killing.kill(folder)
        return not os.path.isdir(top)


def rmdir(folder: str) -> bool:
    """Remove one group; False if a process or another group is still in it."""
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True


def sweep(bases: Iterable[str], here: Owner, timeout: float) -> list[str]:
    """Remove the groups of dead owners, with all that still runs in them; what may not be touched
    (another user's) or does not end in time stays. Returns the directories removed."""
    removed = []
    for top in abandoned(bases, here):
        removal = Removal([top])
        try:
            if removal.run(timeout):
                removed.append(top)
        except OSError:
            continue
        finally:
            removal.close()
    return removed


def abandoned(bases: Iterable[str], here: Owner) -> list[str]:
    """Groups below `bases`, and below the groups beside each base, whose owner is dead.

    Beside, because service managers and shells give each program a group of its own: what a
    killed program left lies next to ours, not in it.
    """
    places: dict[str, None] = {}
    for base in bases:
        places[base] = None
        above = os.path.dirname(base)
        if os.path.exists(f"{above}/cgroup.procs"):
            places.update(dict.fromkeys(_folders(above)))
    found = []
    for place in places:
        for folder in _folders(place):
            owner = owner_of(os.path.basename(folder))
            if owner is not None and owner.gone(here):
                found.append(folder)
    return found


def _folders(place: str) -> list[str]:
    try:
        with os.scandir(place) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
