"""The order of confinement: the one file an auditor must read.

`confine_jail` runs in init, pid 1 of the new namespaces, with every capability over them and none
elsewhere, from its first instruction until it waits for the host to look. `confine_worker` runs in
each worker between its fork and the first byte of guest code. Each step is one function below, and
each of them is one mechanism of `kernel/`. A step that fails ends the process: the host is told the
step's name and errno, and no guest code runs.
"""

from __future__ import annotations

import _signal
import fcntl
import os

from .kernel import (
    capabilities,
    landlock,
    mounts,
    namespaces,
    process,
    rlimits,
    seccomp,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Where a worker finds its result channel and the memory for a large result, or the files of a
# program; 0 to 2 as usual.
RESULT, STORE = 3, 4
_FIRST_FREE = 5
_INSIDE = (1000, 1000)


class StepFailed(Exception):
    """A step of confinement failed: its name, errno and what it was working on."""

    def __init__(self, step: str, error: OSError) -> None:
        self.report = [step, error.errno or 0, str(error.filename or "")]


class Jail:
    """What init works on: the host's request and the descriptors that came with it."""

    def __init__(
        self, request: dict[str, Any], control: int, tree: int, procs: list[int], mapped: int
    ) -> None:
        self.request = request
        self.control = control
        self.tree = tree
        self.procs = procs
        self.mapped = mapped
        self.environment: dict[str, str] = {}
        self.scratch = -1
        self.ruleset = -1
        self.listener = -1

    def wants(self, layer: str) -> bool:
        return layer in self.request["layers"]


class Call:
    """What a worker works on; the descriptors came with the call."""

    def __init__(self, jail: Jail, number: int, has_stdin: bool, descriptors: list[int]) -> None:
        self.jail = jail
        self.number = number
        self.result, self.store, self.stdout, self.stderr, *rest = descriptors
        self.stdin = rest.pop(0) if has_stdin else -1
        self.procs = rest


def confine_jail(jail: Jail) -> None:
    """init: from a copy of the launcher to a process that can do nothing outside, in order."""
    for step in (
        close_inherited_descriptors,
        join_init_group,
        wait_for_id_map,
        take_jail_identity,
        die_with_launcher,
        hide_group_path,
        start_clocks_at_zero,
        attach_scratch,
        attach_root,
        mount_proc,
        show_writable_places,
        pivot_into_root,
        take_null_streams,
        set_hostname,
        start_session,
        join_new_keyring,
        apply_rlimits,
        stay_on_cpus,
        enter_work_folder,
        prepare_landlock,
        deny_writable_code,
        drop_capabilities,
        forbid_new_privileges,
        load_first_filter,
    ):
        _take(step, jail)


def seal_jail(jail: Jail) -> None:
    """init: when the host has looked at it, in order."""
    for step in (
        become_undumpable,
        set_environment,
    ):
        _take(step, jail)


def confine_worker(call: Call) -> None:
    """worker: from a copy of init to guest code's place, in order."""
    for step in (
        join_call_group,
        start_session,
        take_streams,
        enter_landlock,
        close_everything_else,
        load_last_filter,
    ):
        _take(step, call)


def _take(step, subject) -> None:  # type: ignore[no-untyped-def]
    try:
        step(subject)
    except OSError as error:
        raise StepFailed(step.__name__, error) from None


# --- init ---------------------------------------------------------------------------------------


def close_inherited_descriptors(jail: Jail) -> None:
    """The launcher's socket, its templates and other jails' pidfds end here."""
    low = 3
    for kept in sorted([jail.control, jail.tree, jail.mapped, *jail.procs]):
        process.close_range(low, kept - 1)
        low = kept + 1
    process.close_range(low)


def join_init_group(jail: Jail) -> None:
    """Into the init leaf of the jail's group, before anything is charged. The descriptors are the
    host's: the kernel checks the opener's rights, not ours."""
    _join(jail.procs)


def wait_for_id_map(jail: Jail) -> None:
    """Only a process with rights over the parent namespace can map ids other than its own."""
    if os.read(jail.mapped, 1) != b"m":
        raise OSError(0, "", "the launcher ended")
    os.close(jail.mapped)


def take_jail_identity(jail: Jail) -> None:
    """Before any mount: a tmpfs made while unmapped gives EOVERFLOW on mkdir."""
    os.setresgid(_INSIDE[1], _INSIDE[1], _INSIDE[1])
    os.setresuid(_INSIDE[0], _INSIDE[0], _INSIDE[0])
    # setresuid cleared it. Needed for the time namespace's offsets, and for an unprivileged host
    # to see our namespaces; taken away again before the first worker is forked.
    process.set_dumpable(True)


def die_with_launcher(jail: Jail) -> None:
    """After setresuid, which clears it."""
    process.die_with_parent()


def hide_group_path(jail: Jail) -> None:
    """After joining: a cgroup namespace is rooted where its maker is at that moment."""
    if jail.wants("cgroup_namespace"):
        namespaces.unshare(namespaces.NEWCGROUP)


def start_clocks_at_zero(jail: Jail) -> None:
    """Workers, not init itself, enter it (time_for_children)."""
    if jail.wants("time_namespace"):
        namespaces.start_clocks_at_zero()


def attach_scratch(jail: Jail) -> None:
    """One tmpfs, capped in bytes and inodes, for all writable places. A bind needs an attached
    source (before Linux 6.15): it is put over the old root's /sys, and leaves with the old root."""
    options, executable = jail.request["scratch"]
    flags = mounts.NOSUID | mounts.NODEV | (0 if executable else mounts.NOEXEC)
    jail.scratch = mounts.new_filesystem("tmpfs", options, flags)
    mounts.attach(jail.scratch, mounts.AT_FDCWD, "/sys")


def attach_root(jail: Jail) -> None:
    """On top of "/", where nothing looks paths up: it is reached through its descriptor."""
    mounts.attach(jail.tree, mounts.AT_FDCWD, "/")


def mount_proc(jail: Jail) -> None:
    """Own processes only, read-only: a writable one lets a guest move its OOM score. While the old
    /proc is in sight: the kernel allows a new one only beside a fully visible one."""
    options = {"subset": "pid", "hidepid": "invisible"}
    flags = mounts.RDONLY | mounts.NOSUID | mounts.NODEV | mounts.NOEXEC
    proc = mounts.new_filesystem("proc", options, flags)
    mounts.attach(proc, jail.tree, "proc")
    os.close(proc)


def show_writable_places(jail: Jail) -> None:
    for name, mode, target in (
        ("tmp", 0o1777, "tmp"),
        ("work", 0o755, "work"),
        ("shm", 0o1777, "dev/shm"),
    ):
        os.mkdir(name, dir_fd=jail.scratch)
        os.chmod(name, mode, dir_fd=jail.scratch)
        place = mounts.clone_tree(jail.scratch, name, recursive=False)
        mounts.attach(place, jail.tree, target)
        os.close(place)


def pivot_into_root(jail: Jail) -> None:
    """The old root is detached with all below it; nothing of the host remains reachable by path."""
    mounts.pivot_into(jail.tree)
    os.close(jail.tree)


def take_null_streams(jail: Jail) -> None:
    """0 to 2 were the launcher's; from now on they are the jail's own /dev/null. So are, in init,
    the two a worker will use for its result: what init receives later never has those numbers."""
    jail.control, jail.scratch = _moved_up(jail.control), _moved_up(jail.scratch)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number in range(_FIRST_FREE):
        if number != null:
            os.dup2(null, number, inheritable=number <= 2)
    if null >= _FIRST_FREE:
        os.close(null)


def _moved_up(descriptor: int) -> int:
    if descriptor >= _FIRST_FREE:
        return descriptor
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)


def set_hostname(jail: Jail) -> None:
    if jail.wants("uts_namespace"):
        namespaces.set_hostname(b"sandbox")


def start_session(_: Jail | Call) -> None:
    """A session of one's own has no controlling terminal."""
    os.setsid()


def join_new_keyring(_: Jail) -> None:
    """Empty: none of the host's keys is possessed here."""
    process.join_new_keyring()


def apply_rlimits(jail: Jail) -> None:
    """init's own as well: every worker inherits them, and none can raise them again."""
    rlimits.apply(jail.request["rlimits"])


def stay_on_cpus(jail: Jail) -> None:
    """Every worker inherits it; where it is asked for, the filter keeps guests from changing it."""
    if jail.request["cpus"]:
        os.sched_setaffinity(0, jail.request["cpus"])


def enter_work_folder(_: Jail) -> None:
    """Where calls start."""
    os.chdir("/work")


def prepare_landlock(jail: Jail) -> None:
    """Built once per jail; each worker only enters it."""
    if jail.wants("landlock"):
        level, rules = jail.request["landlock"]
        jail.ruleset = landlock.ruleset(level, rules)


def deny_writable_code(jail: Jail) -> None:
    """init's own as well, which makes no code: every worker inherits it, and none can lift it."""
    if jail.wants("mdwe"):
        process.deny_writable_code()


def drop_capabilities(jail: Jail) -> None:
    """Here the rights over the jail's own namespaces end."""
    capabilities.drop_all()


def forbid_new_privileges(jail: Jail) -> None:
    process.no_new_privileges()


def load_first_filter(jail: Jail) -> None:
    """The policy, plus what this file still needs below. The listener goes to the host."""
    program: bytes = jail.request["first_filter"]
    jail.listener = seccomp.load(program, listener=True)


def become_undumpable(_: Jail) -> None:
    """After the host's look: an ordinary user may not read the namespaces of such a process."""
    process.set_dumpable(False)


def set_environment(jail: Jail) -> None:
    """Exactly what was asked for. It comes from the host with "go" and by no other way: what the
    launcher knows, every jail can read."""
    for name in set(os.environ) - set(jail.environment):
        del os.environ[name]
    for name, value in jail.environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


# --- worker -------------------------------------------------------------------------------------


def join_call_group(call: Call) -> None:
    """From here on memory and CPU time are the call's."""
    _join(call.procs)


def take_streams(call: Call) -> None:
    """Descriptors 1 to 4, and 0 of a program, which is /dev/null otherwise; what they are copied
    from has higher numbers."""
    if call.stdin >= 0:
        os.dup2(call.stdin, 0)
    os.dup2(call.stdout, 1)
    os.dup2(call.stderr, 2)
    os.dup2(call.result, RESULT, inheritable=False)
    os.dup2(call.store, STORE, inheritable=False)


def enter_landlock(call: Call) -> None:
    """A domain of the worker's own: init is outside it, so that signals to init are refused."""
    if call.jail.ruleset >= 0:
        landlock.restrict(call.jail.ruleset)


def close_everything_else(call: Call) -> None:
    """The control socket, the groups and the ruleset among them."""
    process.close_range(_FIRST_FREE)


def load_last_filter(call: Call) -> None:
    """What only the steps above needed is closed; guest code is next."""
    seccomp.load(call.jail.request["last_filter"])


def _join(procs: list[int]) -> None:
    for descriptor in procs:
        os.write(descriptor, b"0")
        os.close(descriptor)


def take_guest_signals() -> None:
    """Python's usual SIGINT handler, which the launcher gave up, for guest code."""
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
