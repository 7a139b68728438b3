"""Downloads a kernel from Debian and unpacks it into the cache. Runs as root; installs nothing.

apt does the downloading, because it checks the archive's signatures. It gets a configuration and
a state of its own below the cache, so the machine's package lists and sources stay as they are.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .catalog import Kernel
from .failure import BootError
from .requirements import KEYRING, PATH

# Where the enclosure shows the fetched folder, see enclosure.sh.
SHOWN_AT = "/mnt/kernel"

_SYSTEM_INTERPRETER = b"/lib64/ld-linux-x86-64.so.2"
_OWN_INTERPRETER = f"{SHOWN_AT}/ld.so".encode()
_LIBRARIES = "usr/lib/x86_64-linux-gnu"


def fetch(kernel: Kernel, cache: Path) -> Path:
    """The folder of an unpacked kernel, downloaded if the cache does not have it yet.

    It holds ``linux`` (the kernel, a program), ``modules`` (for ``modprobe -d``) and, if the
    kernel has a C library of its own, ``lib`` and ``ld.so``. Two callers at once are fine: one
    waits for the other.

    Raises:
        BootError: apt has no Debian source, or a download failed.
    """
    cache = cache.resolve()  # apt runs in a folder of its own and merely warns of a lost file
    cache.mkdir(parents=True, exist_ok=True)
    ready = cache / kernel.name
    with _locked(cache / f"{kernel.name}.lock"):
        if not ready.exists():
            with tempfile.TemporaryDirectory(prefix=f"{kernel.name}.", dir=cache) as work:
                _download(kernel, Path(work))
                # A rename, so that an interrupted download never looks like a finished one.
                _arrange(kernel, Path(work)).rename(ready)
    return ready


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(kernel: Kernel, work: Path) -> None:
    env = {**os.environ, "APT_CONFIG": str(_apt_configuration(kernel, work)), "PATH": PATH}
    for command in (["update"], ["download", *kernel.packages]):
        done = subprocess.run(["apt-get", "-q", *command], env=env, cwd=work, stdout=sys.stderr)
        if done.returncode:
            raise BootError(
                f"cannot download {kernel.name} from Debian {kernel.suite}: apt-get "
                f"{command[0]} failed, see its message above. Check the network and the mirror "
                "in /etc/apt"
            )
    for package in work.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, work / "unpacked"], check=True)


def _apt_configuration(kernel: Kernel, work: Path) -> Path:
    apt = work / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True)
    (apt / "sources.list").write_text(
        f"deb [signed-by={KEYRING} arch=amd64] {_mirror()} {kernel.suite} main\n"
    )
    configuration = apt / "apt.conf"
    # APT::Sandbox::User: apt's own unprivileged user cannot enter a cache below /root.
    configuration.write_text(
        f'Dir::Etc::sourcelist "{apt}/sources.list"; Dir::Etc::sourceparts "-";\n'
        f'Dir::State::lists "{apt}/lists"; Dir::Cache "{apt}/cache";\n'
        'Acquire::Languages "none"; APT::Sandbox::User "root";\n'
    )
    return configuration


def _mirror() -> str:
    """The archive this machine installs Debian from: whoever set it up chose a near one."""
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(LABEL)\t$(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": PATH},
    ).stdout
    for line in listing.splitlines():
        label, _, address = line.partition("\t")
        if label == "Debian":
            return address
    raise BootError(
        "cannot find a Debian archive in this machine's apt configuration: no package list with "
        "the label Debian. Run apt-get update on a Debian system first"
    )


def _arrange(kernel: Kernel, work: Path) -> Path:
    unpacked, folder = work / "unpacked", work / "kernel"
    (folder / "modules/lib").mkdir(parents=True)
    (unpacked / "usr/bin/linux.uml").rename(folder / "linux")
    modules = (unpacked / "usr/lib/uml/modules").rename(folder / "modules/lib/modules")
    for release in modules.iterdir():
        _check_release(kernel, release.name)
        subprocess.run(
            ["depmod", "-b", folder / "modules", release.name],
            check=True,
            env={**os.environ, "PATH": PATH},
        )
    if kernel.own_libc:
        shutil.move(unpacked / _LIBRARIES, folder / "lib")
        (folder / "ld.so").symlink_to("lib/ld-linux-x86-64.so.2")
        _set_interpreter(folder / "linux")
    return folder


def _check_release(kernel: Kernel, release: str) -> None:
    if not release.startswith(f"{kernel.version}."):
        raise BootError(
            f"Debian {kernel.suite} has Linux {release}, not {kernel.version}: the suite has moved "
            f"on. Name another suite for {kernel.name} in kernels.toml"
        )


def _set_interpreter(program: Path) -> None:
    """Makes the program start with the fetched C library's loader.

    Naming the loader on the command line would not do: the kernel executes /proc/self/exe to
    switch address randomisation off, and that would then be the loader.
    """
    content = program.read_bytes()
    if content.count(_SYSTEM_INTERPRETER + b"\0") != 1:
        raise BootError(
            f"cannot set the loader of {program}: it names its interpreter in an unknown way. "
            "See _set_interpreter in fetch.py"
        )
    padded = _OWN_INTERPRETER.ljust(len(_SYSTEM_INTERPRETER), b"\0")
    program.write_bytes(content.replace(_SYSTEM_INTERPRETER, padded))
