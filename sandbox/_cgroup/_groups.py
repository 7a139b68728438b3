"""The groups of this host process: found or refused, one top group, jails below it."""

from __future__ import annotations

import os
import resource
from itertools import count
from threading import Lock
from typing import NoReturn

from .._errors import ClosedError, Unsupported
from .._models import Limits
from . import _delegate, _v1, _v2
from ._detect import Hierarchy, Place, detect, home
from ._files import field, read_text, write_text
from ._owner import Owner, name_of
from ._remove import Removal, rmdir, sweep
from ._types import Caps, JailGroup

# Used v1 directories kept for the next jail: as many as are likely to be opened at once.
_SPARE_SLOTS = 4

# Descriptors that an open v1 jail keeps to make its calls faster, and the share of RLIMIT_NOFILE
# that all of them may take; jails above that close them between calls.
_JAIL_FDS = 32
_FDS_SHARE = 8

# How long the groups of a dead owner may take to end, each (seconds).
_SWEEP_TIME = 2.0


class Groups:
    """All control groups of one host process; make one for each process, and close it at its end.

    Safe to use from several threads; not across a fork: the child makes its own.

    Attributes:
        version: the cgroup version in use, 1 or 2.
        top_dirs: directories that somebody must remove, leaves first, if this process is killed.
    """

    version: int
    top_dirs: tuple[str, ...]

    def __init__(self, place: Place, owner: Owner) -> None:
        self._owner = owner
        self._place = place
        self._lock = Lock()
        self._numbers = count(1)
        self._late: list[JailGroup] = []
        self._jails: set[JailGroup] = set()
        self._spare: list[_v1.Slot] = []
        self._open_slots = 0
        self._closed = False
        self._tops = _make_tops(place, owner)
        self.version = place.version
        self.top_dirs = tuple(top.base for top in self._tops)

    @classmethod
    def open(cls) -> Groups:
        """Find this process's place, remove what dead hosts left there, make the top group.

        On v2 this moves the calling process into a leaf of its group, where it is alone in it.

        Raises:
            Unsupported: no version has all controllers here, the place is not ours to use or is
                shared with other processes, or swap cannot be limited; with the remedy.
        """
        place = detect()
        if place.version == 2:
            place = Place(2, tuple(home(tree) for tree in place.hierarchies))
        owner = Owner.current()
        sweep([tree.base for tree in place.hierarchies], owner, _SWEEP_TIME)
        if place.version == 2:
            _delegate.take(place.hierarchies[0].base)
        groups = cls(place, owner)
        try:
            groups._prepare()
        except BaseException:
            groups.close()
            raise
        return groups

    def jail(self, limits: Limits) -> JailGroup:
        """The group of a new jail, its backstop limits in force.

        Raises:
            SetupError: a group or a limit could not be put in force.
            ClosedError: after `close`, or in a process forked from the one that opened.
        """
        if self._closed or os.getpid() != self._owner.pid:
            raise ClosedError("these control groups are closed or belong to another process")
        self._retry()
        caps = Caps.of(limits)
        if self.version == 2:
            place = self._tops[0].child(self._name())
            jail: JailGroup = _v2.Jail(place, caps, self, self._swap_counted)
        else:
            jail = self._jail_v1(caps)
        with self._lock:
            self._jails.add(jail)
        return jail

    def sweep(self) -> list[str]:
        """Remove the groups of dead hosts below and beside this process's group, and kill what
        still runs in them. Owners of other pid or time namespaces are left alone. Returns the
        directories removed."""
        return sweep([tree.base for tree in self._place.hierarchies], self._owner, _SWEEP_TIME)

    def close(self) -> None:
        """Kill and remove everything of ours; does nothing again, or in a forked child."""
        with self._lock:
            if self._closed or os.getpid() != self._owner.pid:
                return
            self._closed = True
        self._close_descriptors()
        removal = Removal(self.top_dirs)
        removal.run(_SWEEP_TIME)
        removal.close()
        if self.version == 2:
            _delegate.give_back(self._place.hierarchies[0].base)

    def forget(self) -> None:
        """In a forked child: close its copies of the parent's descriptors, touch nothing else."""
        self._closed = True
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        for jail in self._jails:
            jail.let_go()
        for slot in self._spare:
            slot.close()

    def closed(self, jail: JailGroup) -> None:
        """A jail has closed."""
        with self._lock:
            self._jails.discard(jail)

    def defer(self, jail: JailGroup) -> None:
        """Try again with later jails to close one that took too long."""
        with self._lock:
            self._late.append(jail)

    def take_back(self, slot: _v1.Slot, clean: bool) -> bool:
        """A v1 jail has closed: keep its directories for a later one, if they are clean and there
        are not enough of them."""
        with self._lock:
            self._open_slots -= 1
            keep = clean and not self._closed and len(self._spare) < _SPARE_SLOTS
            if keep:
                self._spare.append(slot)
            return keep

    def thrifty(self) -> bool:
        """Whether so many v1 jails are open that descriptors count for more than microseconds."""
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return soft > 0 and self._open_slots * _JAIL_FDS * _FDS_SHARE > soft

    def _prepare(self) -> None:
        """Make the top groups able to hold jails; find out whether swap can be limited."""
        top = self._tops[0].base
        if self.version == 2:
            try:
                write_text(f"{top}/cgroup.subtree_control", _v2.SUBTREE)
            except OSError as error:
                raise _delegate.refused(error, f"hand controllers down from {top}") from error
            self._swap_counted = _v2.swap_counted(top)
        else:
            memory = next(tree.base for tree in self._tops if "memory" in tree.controllers)
            _use_hierarchy(memory)
            self._swap_counted = _v1.swap_counted(memory)
        if not self._swap_counted and field(_meminfo(), "SwapTotal") > 0:
            _refuse_swap()

    def _name(self) -> str:
        return f"jail-{next(self._numbers)}"

    def _jail_v1(self, caps: Caps) -> JailGroup:
        no_swap = caps.swap == 0
        with self._lock:
            fit = [slot for slot in self._spare if slot.no_swap == no_swap]
            if fit:
                self._spare.remove(fit[-1])
        slot = fit[-1] if fit else _v1.Slot(self._tops, self._name(), self._swap_counted, no_swap)
        try:
            jail = _v1.Jail(slot, caps, self)
        except BaseException:
            slot.removal().run(_SWEEP_TIME)
            raise
        with self._lock:
            self._open_slots += 1
        return jail

    def _retry(self) -> None:
        if self._late:
            with self._lock:
                late, self._late = self._late, []
            for jail in late:
                if not jail.try_close():
                    self.defer(jail)


def _make_tops(place: Place, owner: Owner) -> tuple[Hierarchy, ...]:
    """A directory named after its owner in each tree; a second one of the same process (which an
    exec leaves behind as its own) gets a number."""
    for again in count():
        tops = tuple(tree.child(name_of(owner, again)) for tree in place.hierarchies)
        made: list[str] = []
        try:
            for top in tops:
                os.mkdir(top.base, 0o755)
                made.append(top.base)
        except FileExistsError:
            pass
        except OSError as error:
            what = f"make a group in {os.path.dirname(top.base)}"
            raise _delegate.refused(error, what, place.version) from error
        else:
            return tops
        finally:
            if len(made) < len(tops):
                for folder in made:
                    rmdir(folder)
    raise AssertionError("unreachable")


def _use_hierarchy(memory: str) -> None:
    """Charges count for the groups above, too (v1 kernels before 5.11 leave the choice)."""
    path = f"{memory}/memory.use_hierarchy"
    if os.path.exists(path) and read_text(path).strip() == "0":
        try:
            write_text(path, "1")
        except OSError as error:
            raise _delegate.refused(error, f"set {path}", version=1) from error


def _meminfo() -> str:
    """/proc/meminfo as "key number" lines."""
    lines = read_text("/proc/meminfo").splitlines()
    return "\n".join(" ".join(line.replace(":", "").split()[:2]) for line in lines)


def _refuse_swap() -> NoReturn:
    raise Unsupported(
        "cgroup",
        "this kernel has swap in use but does not account it to groups",
        'Boot with "swapaccount=1", or switch swap off with "swapoff -a".',
    )
