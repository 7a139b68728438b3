"""Run in a guest: tries what a sandbox needs from the kernel and compares it with kernels.toml.

    python tests/kernels/boot.py --user -- .venv/bin/python tests/kernels/guest_report.py

Prints one line per finding. Exit status 1 if a layer that kernels.toml declares missing works, if
another layer is missing, or if the guest is not set up as README.md promises. It asks the kernel by
itself, with ctypes: a report made with the code under test would share that code's mistakes.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_LANDLOCK_CREATE_RULESET = 444  # the same number on every architecture
_LANDLOCK_VERSION = 1
_PR_SET_MDWE = 65
_PR_MDWE_REFUSE_EXEC_GAIN = 1
_USERNS = ("unshare", "--user", "--map-root-user", "--mount")


def _landlock() -> str:
    version = _LIBC.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    if version < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return f"ABI {version}"


def _mdwe() -> str:
    """In force, not merely accepted: UML maps memory for its processes in a way of its own."""
    code = (
        "import ctypes, mmap\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"if libc.prctl({_PR_SET_MDWE}, {_PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0):\n"
        "    raise SystemExit('prctl: errno %d' % ctypes.get_errno())\n"
        "try:\n"
        "    mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
        "except PermissionError:\n"
        "    raise SystemExit(0)\n"
        "raise SystemExit('accepted, but a writable and executable mapping was made')\n"
    )
    return _program(sys.executable, "-I", "-c", code)


def _time_namespace() -> str:
    return _program("unshare", "--user", "--map-root-user", "--time", "--fork", "true")


def _overlay(folder: str, options: str) -> Callable[[], str]:
    # A folder made in place of a removed one is opaque, and that is a user xattr on the upper.
    script = (
        "cd $(mktemp -d -p $0) && mkdir -p lower/folder upper work merged && touch lower/file &&"
        " touch lower/folder/file &&"
        " mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work,$1 overlay merged &&"
        " rm -r merged/file merged/folder && [ ! -e merged/file ] && [ -e lower/file ] &&"
        " mkdir merged/folder && [ ! -e merged/folder/file ]"
    )
    return lambda: _program(*_USERNS, "sh", "-c", script, folder, options)


def _pivot_root() -> str:
    script = (
        "new=$(mktemp -d) && mount -t tmpfs tmpfs $new && cd $new &&"
        " mkdir usr proc old && ln -s usr/bin usr/lib usr/lib64 . &&"
        " mount --rbind /usr usr && mount --rbind /proc proc &&"
        " pivot_root . old && umount -l /old && [ -d /usr ] && [ ! -e /etc ] && [ ! -e /old/etc ]"
    )
    return _program(*_USERNS, "sh", "-c", script)


def _new_proc() -> str:
    """The kernel refuses a new proc in a user namespace if the old one is partly covered."""
    return _program(*_USERNS, "--pid", "--fork", "--mount-proc", "sh", "-c", "[ $$ = 1 ]")


def _delegated_controllers() -> str:
    """Moves this process into a leaf and enables controllers beside it, as the library does."""
    group = _own_group()
    if (group / "cgroup.subtree_control").read_text().split():
        raise OSError("the delegated group's subtree_control is not empty")
    leaf, limited = group / "report", group / "report-limited"
    leaf.mkdir()
    (leaf / "cgroup.procs").write_text("0")
    controllers = (group / "cgroup.controllers").read_text().split()
    for controller in ("cpu", "memory", "pids"):
        (group / "cgroup.subtree_control").write_text(f"+{controller}")
    limited.mkdir()
    for file, value in {"cpu.max": "1000 10000", "memory.max": "1048576", "pids.max": "3"}.items():
        (limited / file).write_text(value)
        if (limited / file).read_text().strip() != value:
            raise OSError(f"{file} reads back as {(limited / file).read_text().strip()}")
    limited.rmdir()
    return " ".join(controllers)


def _own_group() -> Path:
    line = Path("/proc/self/cgroup").read_text().strip()
    hierarchy, _, path = line.partition("::")
    if hierarchy != "0" or "\n" in line:
        raise OSError(f"not on cgroup v2 alone: {line}")
    return Path("/sys/fs/cgroup" + path)


def _nsdelegate() -> str:
    options = [line for line in Path("/proc/mounts").read_text().splitlines() if "cgroup2" in line]
    if len(options) != 1 or "nsdelegate" not in options[0]:
        raise OSError(f"cgroup2 mounts: {options}")
    return options[0].split()[1]


def _user_xattr(folder: str) -> Callable[[], str]:
    def attempt() -> str:
        path = Path(folder, f"xattr-{os.getpid()}")
        path.touch()
        try:
            os.setxattr(path, "user.test", b"1")
        finally:
            path.unlink()
        return "yes"

    return attempt


def _root_is_read_only() -> str:
    try:
        Path("/usr/guest-was-here").touch()
    except OSError as error:
        return error.strerror or "refused"
    raise OSError("a file was made in /usr")


def _host_cannot_be_written() -> str:
    """As root of the guest: hostfs mounted once more, writable, then files opened for appending.
    Nothing is written, so a failure of this promise does no harm. See enclosure.sh."""
    script = (
        "host=$(mktemp -d) && mount -t hostfs -o / hostfs $host || exit 2\n"
        "for file in etc/hostname proc/sys/kernel/printk proc/self/comm mnt/guest/init; do\n"
        "    [ -e $host/$file ] || exit 3\n"
        "    (: >>$host/$file) 2>/dev/null && echo $file can be written >&2 && exit 4\n"
        "done; exit 0"
    )
    return _program("unshare", "--mount", "sh", "-c", script)


def _program(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{command[0]}: status {done.returncode}: {done.stderr.strip()}")
    return "yes"


# What kernels.toml may declare to be missing; the names are the library's layers.
_LAYERS = {"landlock": _landlock, "mdwe": _mdwe, "time_namespace": _time_namespace}
# What every guest has.
_PROMISES = {
    "cgroup2 with nsdelegate": _nsdelegate,
    "delegated controllers": _delegated_controllers,
    "pivot_root in a user namespace": _pivot_root,
    "new proc in a user namespace": _new_proc,
    "overlay in a user namespace, upper on ext4": _overlay("/var/tmp", "userxattr"),
    "user xattr on ext4": _user_xattr("/var/tmp"),
    "read-only /": _root_is_read_only,
}
# And, because only root of the guest can try it:
_PROMISES_TO_ROOT = {"a host that cannot be written": _host_cannot_be_written}
# Differs between kernels and is nobody's layer.
_FACTS = {
    "user xattr on tmpfs": _user_xattr("/tmp"),
    "overlay in a user namespace, upper on tmpfs": _overlay("/tmp", "userxattr"),
}


def _try(name: str, attempt: Callable[[], str]) -> bool:
    try:
        print(f"{name}: {attempt()}", flush=True)
    except OSError as error:
        print(f"{name}: no ({error})", flush=True)
        return False
    return True


def main() -> int:
    kernel = os.environ["SANDBOX_KERNEL"]
    declared = tomllib.loads(Path(__file__).with_name("kernels.toml").read_text())[kernel]["lacks"]
    print(f"kernel: {kernel}, {os.uname().release}, uid {os.getuid()}, {_own_group()}")
    absent = [name for name, attempt in _LAYERS.items() if not _try(name, attempt)]
    promises = _PROMISES | (_PROMISES_TO_ROOT if os.getuid() == 0 else {})
    broken = [name for name, attempt in promises.items() if not _try(name, attempt)]
    for name, attempt in _FACTS.items():
        _try(name, attempt)
    if sorted(absent) != sorted(declared):
        print(f"kernels.toml declares {sorted(declared)} missing, but it is {sorted(absent)}")
    if broken:
        print(f"not as README.md promises: {', '.join(broken)}")
    return int(bool(broken) or sorted(absent) != sorted(declared))


if __name__ == "__main__":
    sys.exit(main())
