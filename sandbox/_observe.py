"""What can be seen from outside of a jail: /proc and the cgroup files, read by the host itself.

Two moments: at init's barrier (namespaces, mounts, id maps; before init becomes non-dumpable, after
which an ordinary user may not read them), and at each worker's barrier, its pid pinned by a pidfd,
before it receives a byte of the guest's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ._errors import SetupError

NAMESPACES = {
    "user": "user",
    "pid": "pid",
    "mount": "mnt",
    "net": "net",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
    "time": "time_for_children",
}
_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_SECCOMP_FILTER = 2
_MUCH = 1 << 16


@dataclass(frozen=True)
class JailSeen:
    """What was seen of init at its barrier."""

    namespaces: Mapping[str, int]
    shared: tuple[str, ...]
    id_maps: Mapping[str, str]
    mounts: Mapping[str, str]
    filters: int
    rlimits: Mapping[str, int | None]
    cpus: str


def observe_jail(
    pid: int,
    wanted: Collection[str],
    outside: tuple[int, int],
    targets: Mapping[str, bool],
    scratch: tuple[int, int],
    rlimits: Mapping[str, int],
    cpus: str | None,
) -> JailSeen:
    """Look at init while it waits, and compare with what was asked for: the `wanted` namespaces,
    the host's `outside` uid and gid, exactly the mounts in `targets` (→ whether writable), writable
    places of `scratch` bytes and inodes, resource limits no higher than `rlimits`, and just `cpus`
    (None: any).

    Raises:
        SetupError: naming the first layer that is not in force.
    """
    namespaces, shared = _namespaces(pid)
    for name in wanted:
        if name in shared:
            raise _differs(f"{name} namespace", "the jail shares the host's")
    maps = _id_maps(pid, outside)
    mounts = _mounts(pid, targets, scratch)
    status = _status(pid)
    _check_status(status, own_filters() + 1, cpus)
    filters, allowed = int(status["Seccomp_filters"]), status["Cpus_allowed_list"]
    return JailSeen(namespaces, shared, maps, mounts, filters, _rlimits(pid, rlimits), allowed)


def _namespaces(pid: int) -> tuple[dict[str, int], tuple[str, ...]]:
    found, shared = {}, []
    for name, file in NAMESPACES.items():
        host = _namespace("self", file)
        if host is None:
            continue
        jail = _namespace(pid, file)
        if jail is None or jail == host:
            shared.append(name)
        else:
            found[name] = jail
    return found, tuple(shared)


def _namespace(pid: int | str, name: str) -> int | None:
    try:
        return int(os.readlink(f"/proc/{pid}/ns/{name}").partition("[")[2].rstrip("]"))
    except FileNotFoundError:
        return None


def _id_maps(pid: int, outside: tuple[int, int]) -> dict[str, str]:
    seen = {}
    for file, number in (("uid_map", outside[0]), ("gid_map", outside[1])):
        text = " ".join(_read(f"/proc/{pid}/{file}").split())
        if text != f"1000 {number} 1":
            raise _differs(file, f"it reads {text!r}")
        seen[file] = text
    seen["setgroups"] = _read(f"/proc/{pid}/setgroups").strip()
    if seen["setgroups"] != "deny":
        raise _differs("setgroups", f"it reads {seen['setgroups']!r}")
    return seen


class _Mount(NamedTuple):
    """A line of mountinfo; `own` are the options of the file system, which all its mounts share."""

    device: str
    kind: str
    options: str
    own: str


_PLACES = ("/tmp", "/work", "/dev/shm")


def _mounts(pid: int, targets: Mapping[str, bool], scratch: tuple[int, int]) -> dict[str, str]:
    """Target → file system and options, and for those made for the jail their own. The root must be
    our read-only overlay; there must be no mount that was not asked for (the old root, if it were
    still attached, would be one)."""
    seen: dict[str, _Mount] = {}
    # Not splitlines() and split(): of what they split at, names keep all but newline, tab, space.
    for line in _read(f"/proc/{pid}/mountinfo").removesuffix("\n").split("\n"):
        target, mount = _mount(line)
        if target in seen or target not in targets:
            raise _differs("root", f"{target} is mounted without having been asked for")
        _check_options(target, mount.options, writable=targets[target])
        seen[target] = mount
    root = _text("/", seen["/"]) if "/" in seen else "not there"
    if not root.startswith("overlay ro,"):
        raise _differs("read-only root", f"the root mount is {root}")
    missing = set(targets) - set(seen)
    if missing:
        raise _differs("root", f"{', '.join(sorted(missing))} is not mounted")
    _check_proc(seen["/proc"])
    _check_scratch([seen[place] for place in _PLACES], *scratch)
    return {target: _text(target, mount) for target, mount in seen.items()}


def _mount(line: str) -> tuple[str, _Mount]:
    fields = line.split(" ")
    end = fields.index("-", 6)
    own = " ".join(fields[end + 3 :])
    return _unescaped(fields[4]), _Mount(fields[2], fields[end + 1], fields[5], own)


def _text(target: str, mount: _Mount) -> str:
    text = f"{mount.kind} {mount.options}"
    return f"{text} {mount.own}" if target in (*_PLACES, "/proc") else text


def _check_options(target: str, text: str, *, writable: bool) -> None:
    options = text.split(",")
    # A device node works only without nodev; what shows them holds nothing else.
    has_devices = target.startswith("/dev/") and not writable
    if (
        "nosuid" not in options
        or ("rw" if writable else "ro") not in options
        or not ("nodev" in options or has_devices)
    ):
        raise _differs(f"mount {target}", f"its options are {text}")


def _check_proc(mount: _Mount) -> None:
    """Linux 5.8, which brought subset, also writes hidepid as a word; before it was a number."""
    own = mount.own.split(",")
    hides = "hidepid=invisible" in own or "hidepid=2" in own
    if mount.kind != "proc" or "subset=pid" not in own or not hides:
        raise _differs("/proc", f"it is {mount.kind} with {mount.own}")


def _check_scratch(places: Sequence[_Mount], size: int, inodes: int) -> None:
    """One tmpfs, with the caps asked for: whole pages, told in units of 1024 bytes. A cap that is
    tmpfs's default, half of the machine's pages, is not told, whoever chose it."""
    if len({mount.device for mount in places}) != 1:
        raise _differs("writable places", "they are not one file system")
    page = os.sysconf("SC_PAGE_SIZE")
    pages = -(-size // page)
    default = os.sysconf("SC_PHYS_PAGES") // 2
    wanted = {"size": f"{pages * page >> 10}k", "nr_inodes": str(inodes)}
    untold = {"size": pages == default, "nr_inodes": inodes == default}
    for mount in places:
        told = dict(option.partition("=")[::2] for option in mount.own.split(","))
        for name, text in wanted.items():
            found = told.get(name, text if untold[name] else None)
            if mount.kind != "tmpfs" or found != text:
                what = f"they are {mount.kind} with {mount.own}, not {name}={text}"
                raise _differs("writable places", what)


_RLIMITS = {
    "open_files": "Max open files",
    "file_size": "Max file size",
    "stack": "Max stack size",
    "core": "Max core file size",
    "queues": "Max msgqueue size",
    "locked": "Max locked memory",
    "cpu": "Max cpu time",
    "realtime": "Max realtime priority",
    "nice": "Max nice priority",
    "pending": "Max pending signals",
}


def _rlimits(pid: int, wanted: Mapping[str, int]) -> dict[str, int | None]:
    """init's hard limits, which every worker inherits; None is unlimited."""
    lines = _read(f"/proc/{pid}/limits").splitlines()[1:]
    shown = {line[:26].strip(): line[47:68].strip() for line in lines}
    seen: dict[str, int | None] = {}
    for name, most in wanted.items():
        text = shown.get(_RLIMITS[name], "")
        seen[name] = int(text) if text.isdigit() else None
        if seen[name] is None or seen[name] > most:  # type: ignore[operator]
            raise _differs(f"resource limit {name}", f"it is {text!r}, not {most}")
    return seen


def _unescaped(path: str) -> str:
    if "\\" not in path:
        return path
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path


def observe_worker(pid: int, init: int, *, filters: int, cpus: str | None) -> dict[str, Any]:
    """The worker's own status before it receives a guest's byte. Raises SetupError."""
    status = _status(pid)
    if int(status["PPid"]) != init:
        raise _differs("worker", f"its parent is {status['PPid']}, not the jail's init")
    _check_status(status, filters, cpus)
    stat = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    session, terminal = int(stat[3]), int(stat[4])
    if terminal != 0:
        raise _differs("session", f"it has the terminal {terminal}")
    if session != pid:
        raise _differs("session", f"it is in the one of process {session}")
    if os.stat(f"/proc/{pid}/status").st_uid == int(status["Uid"].split()[1]):
        raise _differs("dumpable", "its /proc files belong to its own user")
    return {
        **{name: status[name] for name in _CAPABILITIES},
        "no_new_privs": True,
        "seccomp_mode": _SECCOMP_FILTER,
        "seccomp_filters": int(status["Seccomp_filters"]),
        "speculation_store_bypass": status.get("Speculation_Store_Bypass", "unknown"),
        "supplementary_groups": status["Groups"].strip(),
        "uid": int(status["Uid"].split()[0]),
        "session": session,
        "terminal": terminal,
        "dumpable": False,
    }


def _check_status(status: Mapping[str, str], filters: int, cpus: str | None) -> None:
    for name in _CAPABILITIES:
        if int(status[name], 16) != 0:
            raise _differs("capabilities", f"{name} is {status[name]}")
    if status["NoNewPrivs"] != "1":
        raise _differs("no_new_privs", f"it is {status['NoNewPrivs']}")
    if int(status["Seccomp"]) != _SECCOMP_FILTER:
        raise _differs("seccomp", f"its mode is {status['Seccomp']}")
    if int(status["Seccomp_filters"]) < filters:
        raise _differs("seccomp", f"{status['Seccomp_filters']} filters, not {filters}")
    if cpus is not None and status["Cpus_allowed_list"] != cpus:
        raise _differs("cpuset", f"it may run on {status['Cpus_allowed_list']}, not on {cpus}")
    if status["Threads"] != "1":
        raise _differs("single thread", f"{status['Threads']} threads")


def own_filters() -> int:
    """How many seccomp filters this process itself is under (containers): a jail inherits them."""
    return int(_status("self").get("Seccomp_filters", "0"))


# A pattern, because a worker is looked at in every call, and most of the sixty lines say nothing.
_FIELDS = re.compile(
    r"^(PPid|Uid|Groups|Threads|Cap\w+|NoNewPrivs|Seccomp|Seccomp_filters|Cpus_allowed_list"
    r"|Speculation_Store_Bypass):[ \t]*(.*?)[ \t]*$",
    re.MULTILINE,
)


def _status(pid: int | str) -> dict[str, str]:
    return dict(_FIELDS.findall(_read(f"/proc/{pid}/status")))


def _read(path: str) -> str:
    # Not open(): a worker is looked at in every call, and what that does besides costs more.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(file, _MUCH)
        while more := os.read(file, _MUCH):
            data += more
    finally:
        os.close(file)
    return data.decode(errors="replace")


def _differs(what: str, found: str) -> SetupError:
    return SetupError("confirm_isolation", 0, f"{what} is not in force: {found}")
