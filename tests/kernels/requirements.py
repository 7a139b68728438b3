"""What this machine must have before a kernel can be fetched and booted."""

from __future__ import annotations

import os
import platform
import shutil

from .failure import BootError

# The tool's own search path: an ordinary PATH often lacks the sbin folders.
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# The guest's init is interpreted by it: static, so that it needs nothing but itself to start.
BUSYBOX = "/bin/busybox"

# What is used, and the Debian package that has it. Host and guest share these programs, because
# the guest's / is this machine's.
_NEEDED = {
    "apt-get": "apt",
    BUSYBOX: "busybox-static",
    "debugfs": "e2fsprogs",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "mke2fs": "e2fsprogs",
    "modprobe": "kmod",
    "mount": "mount",
    "setpriv": "util-linux",
    "tar": "tar",
    "unshare": "util-linux",
    KEYRING: "debian-archive-keyring",
}


def missing() -> list[str]:
    """The Debian packages this machine lacks, sorted."""
    return sorted({package for item, package in _NEEDED.items() if not _present(item)})


def _present(item: str) -> bool:
    if item.startswith("/"):
        return os.path.exists(item)
    return shutil.which(item, path=PATH) is not None


def apt_line(packages: list[str]) -> str:
    return "apt-get install -y --no-install-recommends " + " ".join(packages)


def check() -> None:
    """
    Raises:
        BootError: not an x86-64 machine, not root, or a package is missing.
    """
    if platform.machine() != "x86_64":
        raise BootError(
            f"cannot boot a kernel on {platform.machine()}: Debian builds user-mode-linux "
            "for amd64 and i386 only. Use an x86-64 machine"
        )
    if packages := missing():
        raise BootError(f"packages are missing on this machine. Run: {apt_line(packages)}")
    if os.geteuid() != 0:
        raise BootError(
            "cannot build the guest's read-only root as an ordinary user: mounts and files of "
            "other owners are needed. Run this as root (inside the guest, --user is not root)"
        )
