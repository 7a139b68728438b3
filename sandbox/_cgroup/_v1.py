"""Jails on cgroup v1: the same group in each hierarchy, kept and used again when it is clean."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from .._errors import SetupError
from ._detect import Hierarchy
from ._files import Folder
from ._kill import Killing
from ._remove import Removal
from ._types import NOISE, Caps, Charged, Counters, Home
from ._v1_nodes import Leaf, Node

# How often `try_close` comes back for a process that its parent has not reaped, before the group is
# removed instead of kept.
_REAPING = 50


class Stock(Home, Protocol):
    """Where used sets of directories go."""

    def take_back(self, slot: Slot, clean: bool) -> bool:
        """A jail needs these no more. True if they are kept for another one; those that are not
        clean never are."""

    def thrifty(self) -> bool:
        """Whether so many jails are open that descriptors count for more than microseconds."""


def swap_counted(base: str) -> bool:
    """Whether this kernel caps memory and swap together (swapaccount=1)."""
    return Folder(base).has("memory.memsw.limit_in_bytes")


class Slot:
    """The directories of one jail, of many jails in turn: `jail-n` with the leaves `init` and
    `call-m`. Its kept descriptors make joining and reading cheap."""

    def __init__(self, tops: Sequence[Hierarchy], name: str, counted: bool, no_swap: bool) -> None:
        self._counted = counted
        self.no_swap = no_swap
        self.places = [top.child(name) for top in tops]
        self.nodes: list[Node] = []
        self.leaves: list[Leaf] = []
        self._idle: list[Leaf] = []
        self._made = 0
        try:
            self.jail = self._node(Node(self.places, counted))
            if no_swap:
                self.jail.memory.close_swap()
            self.init = self._node(Node([place.child("init") for place in self.places], counted))
        except BaseException:
            self.removal().run(1.0)
            raise

    def _node(self, node: Node) -> Node:
        self.nodes.append(node)
        return node

    def start(self, caps: Caps) -> None:
        """The backstops of a new jail."""
        self.jail.memory.limit(caps.jail_memory, caps.swap)
        self.jail.pids.limit(caps.jail_processes)
        self.init.pids.limit(None)

    def leaf(self) -> Leaf:
        """A leaf that no call is using."""
        if len(self._idle) == len(self.leaves):
            self.jail.memory.restart()
        if self._idle:
            return self._idle.pop()
        self._made += 1
        leaf = Leaf([place.child(f"call-{self._made}") for place in self.places], self._counted)
        self.leaves.append(leaf)
        return leaf

    def put_back(self, leaf: Leaf) -> None:
        """After a call. A leaf that cannot be used again stays until the jail closes."""
        if leaf.renew():
            self._idle.append(leaf)

    def charged(self) -> Charged:
        """To the jail, before a call. The files are those that earlier calls left: charged to it,
        and to no group that is in use. Exact (memory.stat) only where it can matter: the file is
        slow to read."""
        used = [self.init, *(leaf for leaf in self.leaves if leaf not in self._idle)]
        total = self.jail.memory.usage()
        if total - sum(node.memory.usage() for node in used) <= NOISE:
            return Charged(0, total)
        below = self.jail.memory.shmem(below=True)
        return Charged(below - sum(node.memory.shmem(below=False) for node in used), total)

    def empty(self) -> bool:
        """No process in any of them (or they are gone: then removing will tell)."""
        try:
            return all(node.empty() for node in (*self.nodes, *self.leaves))
        except SetupError:
            return True

    def reaped_late(self) -> bool:
        """Whether a dead process is still counted: its parent, the launcher, has yet to reap it."""
        try:
            return self.jail.pids.current() > 0
        except (SetupError, OSError):
            return False

    def kill(self, killing: Killing) -> None:
        for node in (*self.nodes, *self.leaves):
            for folder in node.folders:
                killing.kill(folder.path)
            node.pids.forget()

    def clean(self) -> bool:
        """Whether another jail may use it: nothing runs in it, next to nothing is charged to it."""
        busy = [leaf for leaf in self.leaves if leaf not in self._idle]
        try:
            if not all(leaf.renew() for leaf in busy):
                return False
            self._idle = list(self.leaves)
            return self.jail.memory.usage() <= 2 * NOISE and not self.jail.pids.current()
        except SetupError:
            return False

    def let_go(self) -> None:
        """Close the descriptors that only make the next call faster."""
        for node in (*self.nodes, *self._idle):
            node.let_go()

    def close(self) -> None:
        """Close all descriptors, those of running calls too."""
        for node in (*self.nodes, *self.leaves):
            node.close()

    def removal(self) -> Removal:
        self.close()
        return Removal(place.base for place in self.places)


class Jail:
    """`JailGroup` on v1."""

    def __init__(self, slot: Slot, caps: Caps, stock: Stock) -> None:
        self._slot = slot
        self._caps = caps
        self._stock = stock
        self._killing = Killing()
        self._removal: Removal | None = None
        self._closed = False
        self._waited = 0
        slot.start(caps)

    def init_fds(self) -> list[int]:
        return self._slot.init.procs()

    def call(self) -> Call:
        leaf = self._slot.leaf()
        leaf.start(self._caps, self._slot.charged())
        return Call(self._slot, leaf, self._stock)

    def read_back(self) -> dict[str, Any]:
        memory, swap = self._slot.jail.memory.shown()
        processes = self._slot.jail.pids.shown()
        return {"memory": memory, "swap": swap, "processes": processes, "cpus": None}

    def try_close(self) -> bool:
        if self._closed:
            return True
        if self._removal is None:
            if not self._slot.empty():
                self._slot.kill(self._killing)
                return False
            if self._slot.reaped_late() and self._waited < _REAPING:
                self._waited += 1
                return False
            self._killing.close()
            if self._stock.take_back(self._slot, self._slot.clean()):
                return self._end()
            self._removal = self._slot.removal()
        return self._end() if self._removal.step() else False

    def _end(self) -> bool:
        self._closed = True
        self._stock.closed(self)
        return True

    def let_go(self) -> None:
        self._killing.close()
        if not self._closed:
            self._slot.close()

    def close(self, timeout: float = 2.0) -> None:
        deadline = time.monotonic() + timeout
        while not self.try_close():
            left = deadline - time.monotonic()
            if left <= 0:
                self._stock.defer(self)
                return
            self._killing.wait(left)


class Call:
    """`CallGroup` on v1."""

    def __init__(self, slot: Slot, leaf: Leaf, stock: Stock) -> None:
        self._slot = slot
        self._stock = stock
        self._leaf = leaf
        self._finished = False

    @property
    def oom_fd(self) -> int | None:
        return self._leaf.memory.watch_oom()

    def procs_fds(self) -> list[int]:
        return self._leaf.procs()

    def contains(self, pid: int) -> bool:
        return self._leaf.contains(pid)

    def is_ample(self) -> bool:
        return self._leaf.is_ample

    def read_back(self) -> dict[str, Any]:
        return self._leaf.read_back()

    def cpu_seconds(self) -> float:
        return self._leaf.seconds()

    def counters(self) -> Counters:
        # Also without a kill: the notice of an OOM comes before it, and the host may be faster.
        memory = self._slot.jail.memory
        return self._leaf.counters(oom_at_jail_limit=int(memory.full(memory.peak())))

    def finish(self) -> None:
        if not self._finished:
            self._finished = True
            self._slot.put_back(self._leaf)
            if self._stock.thrifty():
                self._slot.let_go()
