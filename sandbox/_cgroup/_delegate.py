"""cgroup v2: making the caller's own group hand its controllers to the groups below it.

The kernel allows that only while no process sits in the group itself ("no internal processes",
Documentation/admin-guide/cgroup-v2). So the calling process, with all its threads, moves into a
leaf beside our groups. It moves nobody else: processes that share the group belong to somebody.
"""

from __future__ import annotations

import errno
import os

from .._errors import Unsupported
from ._detect import HOST_LEAF, NEEDED_V2
from ._files import read_text, write_text
from ._remove import rmdir

_GIVE = " ".join(f"+{name}" for name in NEEDED_V2)
_TAKE = " ".join(f"-{name}" for name in NEEDED_V2)


def remedy(version: int = 2) -> str:
    """The command that gives a program a group of its own."""
    user = "" if os.geteuid() == 0 else "--user "
    text = f'Start the program with "systemd-run {user}--scope -p Delegate=yes -- <command>"'
    if version == 1 and user:
        text = (
            "On cgroup v1 only root may make groups: run as root, or boot with "
            "systemd.unified_cgroup_hierarchy=1 and s" + text[1:]
        )
    return (
        f"{text}; in a container without systemd, give it a writable cgroup tree and start the "
        "program alone in its group."
    )


def refused(error: OSError, what: str, version: int = 2) -> Unsupported:
    """The error of an attempt to `what` ("make a group in ...") as a sentence with a remedy."""
    reasons = {
        errno.EROFS: "the cgroup tree is mounted read-only, as container engines do",
        errno.EACCES: "this user owns no group there (it is not delegated)",
        errno.EPERM: "this user owns no group there (it is not delegated)",
        errno.EBUSY: "other processes run in the same group",
        errno.EOPNOTSUPP: "the group is in threaded mode",
    }
    reason = reasons.get(error.errno or 0, os.strerror(error.errno or 0))
    return Unsupported("cgroup", f"cannot {what}: {reason}", remedy(version))


def take(base: str) -> None:
    """Let the groups below `base` have memory, cpu and pids limits.

    Raises:
        Unsupported: other processes share the group, or it is not this user's.
    """
    moved = False
    try:
        # The root of the whole tree may have processes; it is the one without cgroup.type.
        if os.path.exists(f"{base}/cgroup.type"):
            moved = _step_aside(base)
        if not set(NEEDED_V2).issubset(_handed_down(base)):
            write_text(f"{base}/cgroup.subtree_control", _GIVE)
    except OSError as error:
        if moved:
            _step_back(base)
        raise refused(error, f"hand controllers down from {base}") from error


def give_back(base: str) -> None:
    """Undo `take` if nobody else uses it, so that an empty group remains as it was found."""
    leaf = f"{base}/{HOST_LEAF}"
    try:
        if read_text(f"{leaf}/cgroup.procs").split() != [str(os.getpid())]:
            return
        write_text(f"{base}/cgroup.subtree_control", _TAKE)
    except OSError:
        return  # Another host process has its groups here still, or there is no such leaf.
    _step_back(base)


def _handed_down(base: str) -> list[str]:
    return read_text(f"{base}/cgroup.subtree_control").split()


def _step_aside(base: str) -> bool:
    """Move this process out of `base` if it is in there alone. True if it was moved."""
    here, own = read_text(f"{base}/cgroup.procs").split(), str(os.getpid())
    strangers = [pid for pid in here if pid != own]
    if strangers:
        raise Unsupported(
            "cgroup",
            f"{len(strangers)} other process(es) run in the group {base} (pids "
            f"{', '.join(strangers[:5])}), and only this program may be in it",
            remedy(),
        )
    if own not in here:
        return False
    try:
        os.mkdir(f"{base}/{HOST_LEAF}", 0o755)
    except FileExistsError:
        pass  # An earlier host process left it: it could not remove the group it was in.
    write_text(f"{base}/{HOST_LEAF}/cgroup.procs", own)
    return True


def _step_back(base: str) -> None:
    try:
        write_text(f"{base}/cgroup.procs", str(os.getpid()))
        rmdir(f"{base}/{HOST_LEAF}")
    except OSError:
        return  # Staying in the leaf harms nobody; the next start uses it again.
