"""Where this process may make groups: which cgroup version, and which directories.

A kernel can have v1 hierarchies, a v2 tree, or both ("hybrid"); each controller is attached to
one of them only. All we need have to be in one: the v2 tree wins if it has them, then v1.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .._errors import Unsupported
from ._files import read_text

NEEDED_V1 = ("memory", "cpu", "cpuacct", "pids")
NEEDED_V2 = ("memory", "cpu", "pids")

# The leaf into which a host process of ours moves itself on v2 (see _delegate).
HOST_LEAF = "sandbox-host"


@dataclass(frozen=True)
class Hierarchy:
    """A group in one cgroup tree.

    Attributes:
        controllers: the needed controllers it carries; empty for the v2 tree.
        line: its second field in /proc/PID/cgroup, as is ("cpu,cpuacct"; "" for v2).
        member: the group as the caller's /proc/PID/cgroup names it.
        base: the same group's directory.
    """

    controllers: tuple[str, ...]
    line: str
    member: str
    base: str

    def child(self, name: str) -> Hierarchy:
        """The place of a group below."""
        member, base = posixpath.join(self.member, name), posixpath.join(self.base, name)
        return Hierarchy(self.controllers, self.line, member, base)

    def parent(self) -> Hierarchy:
        """The place of the group above."""
        up = posixpath.dirname
        return Hierarchy(self.controllers, self.line, up(self.member), up(self.base))


def holds(places: Iterable[Hierarchy], pid: int) -> bool:
    """Whether a process is in exactly this group in each tree, by /proc/PID/cgroup."""
    try:
        entries = read_text(f"/proc/{pid}/cgroup").splitlines()
    except OSError:
        return False
    return {f"{place.line}:{place.member}" for place in places}.issubset(
        entry.split(":", 1)[1] for entry in entries
    )


@dataclass(frozen=True)
class Place:
    """The cgroup version to use (1 or 2) and its trees: one on v2, one to four on v1."""

    version: int
    hierarchies: tuple[Hierarchy, ...]


def detect() -> Place:
    """Where the calling process may make groups.

    Raises:
        Unsupported: naming the controllers that are missing, or the tree that is not mounted.
    """
    try:
        mounts, membership = read_text("/proc/self/mountinfo"), read_text("/proc/self/cgroup")
    except OSError as error:
        raise Unsupported(
            "cgroup",
            f"{error.filename or '/proc/self'} cannot be read: {error.strerror}",
            "Mount /proc in this container or chroot.",
        ) from error
    return choose(mounts, membership, _controllers)


def _controllers(base: str) -> Iterable[str]:
    """The controllers that a v2 group may hand to its children."""
    try:
        return read_text(f"{base}/cgroup.controllers").split()
    except OSError:
        return ()


def choose(mounts: str, membership: str, controllers: Callable[[str], Iterable[str]]) -> Place:
    """`detect` on the texts of /proc/self/mountinfo and /proc/self/cgroup (cgroups(7))."""
    found = list(_hierarchies(mounts, membership))
    unified = next((h for h in found if not h.line), None)
    offered = set(controllers(unified.base)) if unified else set()
    if unified and offered.issuperset(NEEDED_V2):
        return Place(2, (unified,))
    legacy = tuple(h for h in found if h.controllers)
    have = {name for h in legacy for name in h.controllers}
    if have.issuperset(NEEDED_V1):
        return Place(1, legacy)
    if have:
        missing = [name for name in NEEDED_V1 if name not in have]
        raise _missing_v1(missing)
    if unified:
        raise _missing_v2([name for name in NEEDED_V2 if name not in offered], unified.base)
    raise Unsupported(
        "cgroup",
        "no cgroup file system is mounted where this process has its group",
        "Mount it (mount -t cgroup2 none /sys/fs/cgroup), or give the container one.",
    )


def _missing_v1(missing: list[str]) -> Unsupported:
    return Unsupported(
        "cgroup",
        f"the cgroup v1 controllers {', '.join(missing)} are not mounted or not in the kernel",
        "Mount them (mount -t cgroup -o NAME none /sys/fs/cgroup/NAME), boot with "
        "cgroup_enable=memory if it is memory, or boot with systemd.unified_cgroup_hierarchy=1.",
    )


def _missing_v2(missing: list[str], base: str) -> Unsupported:
    return Unsupported(
        "cgroup",
        f"the group {base} is not given the controllers {', '.join(missing)}",
        'Run "systemctl edit user@.service" as root, add "[Service]" and '
        '"Delegate=cpu memory pids", log in again, and start the program with '
        '"systemd-run --user --scope -p Delegate=yes -- <command>".',
    )


def _hierarchies(mounts: str, membership: str) -> Iterable[Hierarchy]:
    """The caller's group in each tree, once each, where it lies below a mounted part."""
    trees = list(_mounted(mounts))
    for entry in membership.splitlines():
        _, line, member = entry.split(":", 2)
        names = frozenset(filter(None, line.split(",")))
        needed = tuple(name for name in NEEDED_V1 if name in names)
        if names and not needed:
            continue
        for options, root, point in trees:
            base = _below(point, root, member) if options & names == names else None
            if base and bool(names) == bool(options):
                yield Hierarchy(needed, line, member, base)
                break


def _mounted(mounts: str) -> Iterable[tuple[frozenset[str], str, str]]:
    """(super block options, root, mount point) of each cgroup mount; no options for v2."""
    for entry in mounts.splitlines():
        fields = entry.split(" ")
        kind, _, options = fields[fields.index("-") + 1 :][:3]
        root, point = _plain(fields[3]), _plain(fields[4])
        if kind == "cgroup2":
            yield frozenset(), root, point
        elif kind == "cgroup":
            yield frozenset(options.split(",")), root, point


def _plain(text: str) -> str:
    """Undo the octal escapes of mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _below(point: str, root: str, member: str) -> str | None:
    """The directory of group `member` in a mount that shows the tree from `root` on. Names with
    ".." lie outside the cgroup namespace of the reader: no path leads there."""
    if ".." in (*member.split("/"), *root.split("/")) or member.endswith(" (deleted)"):
        return None
    relative = posixpath.relpath(member, root)
    if relative.startswith("../") or relative == "..":
        return None
    return point if relative == "." else posixpath.join(point, relative)


def home(hierarchy: Hierarchy) -> Hierarchy:
    """The same tree, from the group that held us before a host process of ours moved into its
    leaf: this process, or the parent that forked it, did that already."""
    inside = posixpath.basename(hierarchy.member) == HOST_LEAF
    return hierarchy.parent() if inside else hierarchy
