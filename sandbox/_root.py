"""What file tree a guest sees, as data for the launcher: folders, links and small files of the
image, and which host folders are shown where. Pure planning; nothing is mounted here."""

from __future__ import annotations

import glob
import os
import stat
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from . import _paths
from ._errors import Unsupported

READ_ONLY = ("ro", "nosuid", "nodev")
# A device node on a read-only mount can still be written to; nodev would disable it.
_DEVICE = ("ro", "nosuid")

_DEVICES = ("null", "zero", "full", "random", "urandom")
SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_PLACES = ("proc", "tmp", "work", "dev", "dev/shm", "etc", "usr")
_LINKS = (
    ("dev/fd", "/proc/self/fd"),
    ("dev/stdin", "/proc/self/fd/0"),
    ("dev/stdout", "/proc/self/fd/1"),
    ("dev/stderr", "/proc/self/fd/2"),
)
_FILES = {
    "etc/passwd": b"guest:x:1000:1000:guest:/work:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    "etc/group": b"guest:x:1000:\nnogroup:x:65534:\n",
    "etc/hosts": b"127.0.0.1 localhost\n",
    "etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files\n",
}
# Where what lies in /usr leads: commands with several providers, and a JVM's own settings, without
# which Debian's does not start (lib/jvm.cfg is a link). Packages put them there, readable to all.
_SETTINGS = ("/etc/alternatives", "/etc/java-*-openjdk")
_COPIED = ("etc/ld.so.cache", "etc/localtime")
_OWN_PLACES = ("/tmp", "/work", "/dev", "/proc", "/sys", "/etc")


@dataclass(eq=False)
class RootPlan:
    """The description of one root. `request` is what crosses to the launcher; `interpreter` and
    `writable` are the places inside that a policy calls @interpreter and @mounts."""

    directories: dict[str, None] = field(default_factory=dict)
    links: list[tuple[str, str]] = field(default_factory=list)
    files: list[tuple[str, bytes]] = field(default_factory=list)
    binds: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)
    interpreter: list[str] = field(default_factory=list)
    writable: list[str] = field(default_factory=list)
    identities: dict[str, tuple[int, int]] = field(default_factory=dict)
    request: dict[str, object] = field(default_factory=dict)

    def folder(self, path: str) -> None:
        parts = path.strip("/").split("/")
        for end in range(1, len(parts) + 1):
            self.directories.setdefault("/".join(parts[:end]))

    def mount_point(self, path: str, *, is_folder: bool) -> None:
        path = path.strip("/")
        if is_folder:
            self.folder(path)
            return
        if os.path.dirname(path):
            self.folder(os.path.dirname(path))
        if all(name != path for name, _ in self.files):
            self.files.append((path, b""))

    def shows(self, path: str) -> bool:
        """Whether a bind already shows `path` at its own place."""
        return any(
            inside(path, source) for source, target, _ in self.binds if source == "/" + target
        )

    def targets(self) -> dict[str, bool]:
        """Every mount the jail will have → whether it is writable, those below the shown host
        folders included."""
        found = {"/": False, "/proc": False, "/tmp": True, "/work": True, "/dev/shm": True}
        below = [found.path for found in host_mounts()]
        for source, target, options in self.binds:
            found["/" + target] = "ro" not in options
            for mount in below if not source.startswith("image:") else ():
                if mount != source and inside(mount, source):
                    found[f"/{target}{mount.removeprefix(source)}"] = "ro" not in options
        return found

    def finish(self, below: Sequence[HostMount] = ()) -> RootPlan:
        """Fix what crosses. The identity of what callers mount is part of it, and what the host
        has mounted `below` that: a folder made anew under an old name is another root."""
        self.request = {
            "directories": list(self.directories),
            "links": self.links,
            "files": self.files,
            "binds": self.binds,
            "identities": self.identities,
            "below": list(below),
        }
        return self


def plan_root(packages: Sequence[tuple[str, str]]) -> RootPlan:
    """The root for a guest that sees the interpreter, the system's folders and `packages` (host
    path and place inside, read-only).

    Raises:
        ValueError: a package that the guest could not read, before anything is created.
    """
    plan = RootPlan()
    for place in _PLACES:
        plan.folder(place)
    _show_system(plan)
    _show_interpreter(plan)
    _hide_packages(plan)
    for source, target in packages:
        check_readable(source)
        plan.mount_point(target, is_folder=os.path.isdir(source))
        plan.binds.append((source, target.strip("/"), READ_ONLY))
        plan.interpreter.append(target)
    plan.links += _LINKS
    plan.files += _FILES.items()
    _copy_files(plan)
    for device in _DEVICES:
        plan.files.append((f"dev/{device}", b""))
        plan.binds.append((f"/dev/{device}", f"dev/{device}", _DEVICE))
    return plan.finish()


def _show_system(plan: RootPlan) -> None:
    plan.binds.append(("/usr", "usr", READ_ONLY))
    for name in SYSTEM:
        path = f"/{name}"
        if os.path.islink(path):
            plan.links.append((name, os.readlink(path)))
        elif os.path.isdir(path):
            plan.folder(name)
            plan.binds.append((path, name, READ_ONLY))
    for path in sorted(found for pattern in _SETTINGS for found in glob.glob(pattern)):
        if os.path.isdir(path):
            plan.folder(path)
            plan.binds.append((path, path.strip("/"), READ_ONLY))


def interpreter() -> str:
    """The executable the launcher runs: the base interpreter, also from a virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _show_interpreter(plan: RootPlan) -> None:
    prefixes = {
        sys.base_prefix,
        sys.base_exec_prefix,
        os.path.dirname(sysconfig.get_path("stdlib")),
    }
    plan.interpreter += ["/usr", *(f"/{name}" for name in SYSTEM if os.path.isdir(f"/{name}"))]
    for path in sorted(prefixes | {os.path.realpath(p) for p in prefixes}):
        if not plan.shows(path):
            if any(inside(path, place) for place in _OWN_PLACES):
                raise Unsupported(
                    "root",
                    f"the interpreter lies in {path!r}, below a place that is the jail's own",
                    f"Use one outside {', '.join(_OWN_PLACES)}.",
                )
            check_readable(path)
            plan.interpreter.append(path)
            plan.folder(path)
            plan.binds.append((path, path.strip("/"), READ_ONLY))


def _hide_packages(plan: RootPlan) -> None:
    """Cover the folders inside the shown trees that hold other people's packages or the
    application with an empty folder of the image."""
    hidden = _hidden(plan)
    if hidden:
        plan.folder("empty")
    for path in hidden:
        plan.binds.append(("image:empty", path.strip("/"), READ_ONLY))


def _hidden(plan: RootPlan) -> list[str]:
    candidates = {"/usr/src", "/usr/local/src", _paths.PACKAGE, os.path.dirname(_paths.WORKER)}
    roots = {"/usr", "/usr/local", sys.base_prefix, sys.base_exec_prefix}
    for root in roots:
        for lib in ("lib", "lib64"):
            for kind in ("site-packages", "dist-packages"):
                candidates.update(glob.glob(f"{root}/{lib}/python3*/{kind}"))
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    if main:
        candidates.add(os.path.dirname(os.path.abspath(main)))
    candidates.add(_working_directory())
    found = {os.path.realpath(path) for path in candidates if os.path.isdir(path)}
    needed = [sysconfig.get_path("stdlib"), interpreter()]
    return sorted(
        path
        for path in found
        if plan.shows(path)
        and not any(inside(want, path) for want in needed)
        and not any(inside(path, other) for other in found if other != path)
    )


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/usr/src"


def _copy_files(plan: RootPlan) -> None:
    for name in _COPIED:
        try:
            with open(f"/{name}", "rb") as file:
                plan.files.append((name, file.read(1 << 20)))
        except OSError:
            continue


def check_readable(path: str) -> None:
    """A host that is root gives guests ids of their own, which own nothing: what they shall see
    must be readable to everybody."""
    if os.geteuid() != 0:
        return
    mode = os.stat(path).st_mode
    wanted = 0o005 if stat.S_ISDIR(mode) else 0o004
    if mode & wanted != wanted:
        raise ValueError(
            f"{path!r} is not readable to other users, so the guest's own user id could not read "
            f"it; try: chmod -R o+rX {path!r}"
        )


class HostMount(NamedTuple):
    """A mount that this process sees; `device` as stat(2) has it, `kind` is the file system's."""

    number: int
    path: str
    device: int
    kind: str


def host_mounts() -> tuple[HostMount, ...]:
    """Every mount this process sees (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo", "rb", buffering=0) as file:
        return _parsed(file.read())


@lru_cache(maxsize=4)
def _parsed(mountinfo: bytes) -> tuple[HostMount, ...]:
    """Read for each sandbox that shows a folder, and seldom another one than before."""
    return tuple(map(_host_mount, mountinfo.removesuffix(b"\n").split(b"\n")))


def _host_mount(line: bytes) -> HostMount:
    fields = line.split(b" ")
    major, minor = map(int, fields[2].split(b":"))
    kind = fields[fields.index(b"-", 6) + 1]
    path = os.fsdecode(_unescaped(fields[4]))
    return HostMount(int(fields[0]), path, os.makedev(major, minor), kind.decode())


def _unescaped(path: bytes) -> bytes:
    if b"\\" not in path:
        return path
    return path.decode("unicode_escape").encode("latin-1")


def inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
