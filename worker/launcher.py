"""The launcher: one thread, exec'ed clean by the host, forks a jail's init per request.

Runs with the host's rights (as root: all of them; as an ordinary user: its own plus a user
namespace's). Never runs guest code and never reads a byte from a jail.
"""

from __future__ import annotations

import _signal as signal
import _socket as socket
import gc
import os
import select
import sys
from _frozen_importlib_external import PathFinder

from . import channel, init, jail_groups, root
from .kernel import landlock, mounts, namespaces, native
from .plan import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

_NAMESPACES = {
    "user": namespaces.NEWUSER,
    "pid": namespaces.NEWPID,
    "mount": namespaces.NEWNS,
    "net": namespaces.NEWNET,
    "ipc": namespaces.NEWIPC,
    "uts": namespaces.NEWUTS,
}
# Modules that are ours alone; a module that nobody names any more would be cleared.
_OURS: list[ModuleType] = []

# The ids a guest sees itself under: never 0, so that nothing inside believes it is root.
INSIDE = (1000, 1000)


def main(descriptor: int) -> None:
    """Serve jails until the host is gone, then remove what it left."""
    _take_default_signals()
    control = socket.socket(fileno=descriptor)
    _, (host, memory) = channel.receive(control)
    config = channel.take(memory)
    try:
        groups = jail_groups.open_parents(config["groups"])
        _enter_own_mounts()
        templates = root.Templates()
        templates.show(config["packages"])
        _hide_ourselves("worker")
        _preload(config["preload"], config["sys_path"])
        _drop_handlers()
        _hide_ourselves("msgpack", "_cffi_backend", "cython_runtime")
    except (OSError, ImportError, RuntimeError) as error:
        number = error.errno if isinstance(error, OSError) else 0
        channel.send(control, ["failed", "start_launcher", number or 0, _describe(error)])
        return
    init.late_imports = config["late"]
    # Where this program lies is no matter of the guests'.
    sys.argv[:] = [""]
    sys.orig_argv[:] = [sys.executable]
    vars(sys.modules["__main__"]).pop("__file__", None)
    launcher = _Launcher(control, host, groups, templates)
    gc.collect()
    gc.freeze()
    channel.send(control, ["hello", _kernel_facts()])
    launcher.serve()


def _take_default_signals() -> None:
    # A Python init with its SIGINT handler would raise KeyboardInterrupt at a guest's wish; and
    # Ctrl-C in a terminal is the host's business, which ends us through its pidfd.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # exec keeps what the application ignores and blocks: guests shall start as programs do.
    for number in range(1, signal.NSIG):
        ignored = signal.getsignal(number) == signal.SIG_IGN
        if ignored and number not in (signal.SIGPIPE, signal.SIGXFSZ):  # Python's own choice
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.setsid()


def _drop_handlers() -> None:
    """Those of preloaded modules. To a pid 1 without handlers no signal comes through, but SIGKILL
    and SIGSTOP from outside the jail."""
    for number in range(1, signal.NSIG):
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)


def _enter_own_mounts() -> None:
    """A mount namespace of our own, where templates of roots are kept attached. An ordinary user
    needs a user namespace for that, in which it maps just itself."""
    flags = namespaces.NEWNS
    if os.geteuid() != 0:
        uid, gid = os.geteuid(), os.getegid()
        namespaces.unshare(flags | namespaces.NEWUSER)
        namespaces.write_id_maps("self", (uid, gid), (uid, gid))
    else:
        os.setgroups([])
        namespaces.unshare(flags)
    mounts.set_propagation("/", mounts.SLAVE)


def _hide_ourselves(*names: str) -> None:
    """Take modules of ours out of the table of imports: guests have their own under such names, or
    none. They live on in whoever has imported them. Those that guests can find are left there."""
    for name in names:
        if name != "worker" and PathFinder.find_spec(name) is not None:
            continue
        for module in [key for key in sys.modules if key.partition(".")[0] == name]:
            _OURS.append(sys.modules.pop(module))


def _preload(modules: list[str], folders: list[str]) -> None:
    sys.path.extend(folder for folder in folders if folder not in sys.path)
    for name in modules:
        __import__(name)
    tasks = len(os.listdir("/proc/self/task"))
    if tasks != 1:
        raise RuntimeError(
            f"preloading {', '.join(modules)} left {tasks} threads; a fork of a threaded process "
            "can deadlock"
        )


def _kernel_facts() -> dict[str, int]:
    return {
        "landlock": landlock.abi(),
        "mdwe": native.lib.mdwe_known(),
        "time_namespace": os.path.exists("/proc/self/ns/time"),
    }


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:1000]


def _tell(jail: socket.socket, message: object) -> None:
    """The host may have given this jail up (Ctrl-C) and closed its end: no matter to the others."""
    try:
        channel.send(jail, message)
    except OSError:
        pass


class _Launcher:
    def __init__(
        self,
        control: socket.socket,
        host: int,
        groups: list[tuple[int, str]],
        templates: root.Templates,
    ) -> None:
        self._control = control
        self._host = host
        self._groups = groups
        self._jails: dict[int, int] = {}
        self._has_network = False
        self._templates = templates
        self._blueprints: dict[str, dict[str, Any]] = {}
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._poll.register(host, select.POLLIN)

    def serve(self) -> None:
        """One event at a time: a request, the end of a jail, the end of the host."""
        while True:
            self._make_network()
            for descriptor, _ in self._poll.poll():
                if descriptor in self._jails:
                    self._reap(descriptor)
                elif descriptor == self._host or not self._request():
                    self._clean_up()
                    return

    def _make_network(self) -> None:
        """An empty network namespace for the next jail, which inherits it, while nobody waits:
        making one takes longer than all else in the clone. It belongs to the launcher's user
        namespace, so that in the jail nobody has rights over it. If it cannot be made here, the
        clone tries and says why."""
        if not self._has_network:
            try:
                namespaces.unshare(namespaces.NEWNET)
                self._has_network = True
            except OSError:
                pass

    def _request(self) -> bool:
        try:
            message, descriptors = channel.receive(self._control)
        except (EOFError, ConnectionError):
            return False
        except channel.TooLong:
            return True  # the jail's socket is closed with it: that jail's request has failed
        if not descriptors:
            return True
        self._start(message[1], descriptors)
        return True

    def _start(self, request: dict[str, Any], descriptors: list[int]) -> None:
        jail = socket.socket(fileno=descriptors[0])
        memory = descriptors.pop() if request["new"] else -1
        tree = -1
        step = "prepare_root"
        try:
            blueprint = self._blueprint(request, memory)
            tree = self._templates.copy(request["key"], blueprint["root"])
            step = "clone_namespaces"
            pid, pidfd, mapped = self._clone(blueprint, jail, tree, descriptors[1:])
            step = "write_id_maps"
            self._map(request["outside"], jail, (pid, pidfd), mapped)
        except OSError as error:
            _tell(jail, ["failed", step, error.errno or 0, str(error.filename or "")])
        except Exception as error:  # ours, or a request that makes no sense: the others live on
            _tell(jail, ["failed", step, 0, _describe(error)])
        finally:
            jail.close()
            for descriptor in (tree, *descriptors[1:]):
                if descriptor >= 0:
                    os.close(descriptor)

    def _blueprint(self, request: dict[str, Any], memory: int) -> dict[str, Any]:
        """Sent once, then named by its key; the host says which to forget."""
        for old in request["forget"]:
            self._blueprints.pop(old, None)
            self._templates.drop(old)
        key: str = request["key"]
        if memory >= 0:
            blueprint = channel.take(memory)
            self._blueprints[key] = {**blueprint, "plan": Plan(blueprint)}
        return self._blueprints[key]

    def _clone(
        self, blueprint: dict[str, Any], jail: socket.socket, tree: int, procs: list[int]
    ) -> tuple[int, int, int]:
        flags = 0
        for name in blueprint["namespaces"]:
            flags |= _NAMESPACES.get(name, 0)
        if self._has_network:
            flags &= ~namespaces.NEWNET
        theirs, ours = os.pipe2(os.O_CLOEXEC)
        try:
            # Made before the clone: the child does nothing but `init.main`, which never returns.
            plan, call = blueprint["plan"].pointer, native.call()
            described = native.jail(plan, jail.fileno(), tree, theirs, procs)
            pid, pidfd = native.start_init(flags, described, call)
        except BaseException:
            os.close(theirs)
            os.close(ours)
            raise
        if pid == 0:
            init.main(described, call)
        os.close(theirs)
        self._has_network = False  # it is that jail's now; the next `_make_network` leaves it
        self._jails[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        return pid, pidfd, ours

    def _map(
        self, outside: list[int], jail: socket.socket, born: tuple[int, int], mapped: int
    ) -> None:
        pid, pidfd = born
        try:
            channel.send(jail, ["born", pid], (pidfd,))
            namespaces.write_id_maps(pid, INSIDE, (outside[0], outside[1]))
            os.write(mapped, b"m")
        finally:
            os.close(mapped)

    def _reap(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        os.waitpid(self._jails.pop(pidfd), 0)
        os.close(pidfd)

    def _clean_up(self) -> None:
        """The host is gone: end every jail, wait for it, remove the groups the host had made."""
        for pidfd in self._jails:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for pidfd in list(self._jails):
            self._reap(pidfd)
        jail_groups.remove(self._groups)
