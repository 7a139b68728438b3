"""The launcher as the host sees it: one clean program per host process and import profile."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import msgpack

from . import _channel, _paths, _root
from ._blueprint import Blueprint
from ._errors import InternalError, SetupError, Unsupported
from ._packages import OWN, Packages
from ._visible import own_paths

# All the environment there is, from the launcher's exec on: nothing of the application's.
# One BLAS thread, because a process with threads cannot be forked safely.
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
# Nothing of the application's surroundings. -u: what a guest prints leaves it at once, and is there
# whatever ends it.
_FLAGS = ("-I", "-S", "-B", "-u")
_START_SECONDS = 60.0
# Blueprints (and the roots built from them) that a launcher keeps.
_MOST_KNOWN = 32


@dataclass(frozen=True)
class Profile:
    """What a launcher has imported: jails with the same profile share one."""

    preload: tuple[str, ...]
    packages: Packages


class LauncherLost(InternalError):
    """The launcher ended before a jail stood: another one can make it."""


class Launcher:
    """A running launcher. `pidfd` becomes readable when it ends; `facts` is what it said of the
    kernel at its start (trusted: no guest runs in it)."""

    def __init__(self, profile: Profile, groups: Sequence[str]) -> None:
        self.owner = os.getpid()
        self._lost = False
        self._knows: dict[str, None] = {}
        self._lock = threading.Lock()
        ours, theirs = _channel.pair()
        try:
            self._process = _spawn(theirs)
        finally:
            theirs.close()
        self.socket = ours
        self.pidfd = os.pidfd_open(self._process.pid)
        try:
            self._configure(profile, groups)
            self.facts = self._wait_for_hello()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The launcher's process id."""
        return self._process.pid

    def _configure(self, profile: Profile, groups: Sequence[str]) -> None:
        host = os.pidfd_open(os.getpid())
        content = {
            "preload": list(profile.preload),
            "packages": profile.packages.shown,
            "sys_path": profile.packages.sys_path,
            "late": OWN,
            "groups": list(groups),
        }
        config = _in_memory(content)
        try:
            _channel.send(self.socket, ["config"], [host, config])
        except _channel.ChannelLost:
            raise InternalError(f"the launcher did not start: {self._last_words()}") from None
        finally:
            os.close(host)
            os.close(config)

    def _wait_for_hello(self) -> dict[str, int]:
        if not _channel.readable(self.socket.fileno(), _START_SECONDS):
            raise InternalError(f"the launcher said nothing within {_START_SECONDS:.0f} seconds")
        try:
            message, _ = _channel.receive(self.socket)
        except _channel.ChannelLost:
            raise InternalError(f"the launcher did not start: {self._last_words()}") from None
        if message[0] != "hello":
            raise _refusal(message)
        facts: dict[str, int] = message[1]
        return facts

    def _last_words(self) -> str:
        assert self._process.stderr is not None
        self._process.kill()
        text = self._process.stderr.read(4000).decode(errors="replace").strip()
        return text.splitlines()[-1] if text else "no message"

    @property
    def alive(self) -> bool:
        """Whether the launcher runs and is this process's own (not a fork's parent's)."""
        if self._lost or self.owner != os.getpid():
            return False
        return not _channel.readable(self.pidfd)

    def request(
        self, blueprint: Blueprint, outside: tuple[int, int], descriptors: Sequence[int]
    ) -> None:
        """Ask for a jail. A blueprint crosses once; the launcher keeps the latest `_MOST_KNOWN`."""
        with self._lock:
            enclosed = self._unknown(blueprint)
            forget = (
                [next(iter(self._knows))] if enclosed and len(self._knows) >= _MOST_KNOWN else []
            )
            message = {
                "key": blueprint.key,
                "new": bool(enclosed),
                "forget": forget,
                "outside": outside,
            }
            try:
                _channel.send(self.socket, ["jail", message], [*descriptors, *enclosed])
            except _channel.ChannelLost as lost:
                self._lost = lost.gone  # its sockets close before its pidfd says that it has ended
                kind = LauncherLost if lost.gone else InternalError
                raise kind(f"the launcher takes no request: {lost}") from None
            finally:
                _channel.close_all(enclosed)
            for old in forget:
                del self._knows[old]
            self._knows[blueprint.key] = None

    def _unknown(self, blueprint: Blueprint) -> list[int]:
        """A descriptor of its content if the launcher has to be told."""
        return [] if blueprint.key in self._knows else [_in_memory(blueprint.content)]

    def close(self) -> None:
        """End the launcher: it ends its jails first. Waits for it, unless it is a parent's."""
        self.socket.close()
        if self.owner == os.getpid():
            if self._process.stderr is not None:
                self._process.stderr.close()
            try:
                self._process.wait(_START_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        os.close(self.pidfd)

    def forget(self) -> None:
        """In a forked child: drop our copies; the launcher is the parent's."""
        self.socket.close()
        os.close(self.pidfd)
        if self._process.stderr is not None:
            self._process.stderr.close()
        self._process.returncode = 0  # Popen warns about, and waits for, children not its own


def _in_memory(content: object) -> int:
    """A descriptor of `content` as msgpack: a message can be no longer than a socket's buffer, and
    a system's ld.so.cache alone may be."""
    memory = os.memfd_create("message", os.MFD_CLOEXEC)
    with open(memory, "wb", closefd=False) as file:
        file.write(msgpack.packb(content))
    return memory


def _spawn(theirs: socket.socket) -> subprocess.Popen[bytes]:
    command = [_root.interpreter(), *_FLAGS, _paths.LAUNCHER, str(theirs.fileno())]
    return subprocess.Popen(
        [*command, *own_paths()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(theirs.fileno(),),
        env=_ENVIRONMENT,
        cwd="/",
    )


def _refusal(message: list[object]) -> Exception:
    step, number, detail = str(message[1]), message[2], str(message[3])
    code = number if isinstance(number, int) else 0
    if (code in (1, 13, 28, 22) and "unshare" in detail) or "uid_map" in detail:
        return Unsupported("user_namespace", f"{detail} ({os.strerror(code)})", userns_remedy())
    return SetupError(step, code, detail)


def userns_remedy() -> str:
    """The command that most likely opens user namespaces on this host."""
    if _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return "Ubuntu's AppArmor rule: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    if _sysctl("kernel/unprivileged_userns_clone") == "0":
        return "sudo sysctl kernel.unprivileged_userns_clone=1"
    if _sysctl("user/max_user_namespaces") == "0":
        return "sudo sysctl user.max_user_namespaces=15000"
    return (
        "In a container, its seccomp profile forbids it: docker run "
        "--security-opt seccomp=unconfined --security-opt systempaths=unconfined ..."
    )


def _sysctl(name: str) -> str | None:
    try:
        with open(f"/proc/sys/{name}") as file:
            return file.read().strip()
    except OSError:
        return None


class Launchers:
    """The launchers of this process, one per profile, made when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Profile, Launcher] = {}

    def get(self, profile: Profile, groups: Sequence[str]) -> Launcher:
        """The living launcher of `profile`; a dead one is replaced."""
        with self._lock:
            launcher = self._running.get(profile)
            if launcher is not None and launcher.alive:
                return launcher
            if launcher is not None:
                launcher.close()
                del self._running[profile]
            launcher = self._running[profile] = Launcher(profile, groups)
            return launcher

    def close(self) -> None:
        """End all launchers, and with them every jail."""
        with self._lock:
            while self._running:
                self._running.popitem()[1].close()

    def after_fork(self) -> None:
        """In a forked child: nothing here is ours."""
        self._lock = threading.Lock()
        for launcher in self._running.values():
            launcher.forget()
        self._running.clear()
