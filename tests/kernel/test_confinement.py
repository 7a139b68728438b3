"""worker/native and worker/kernel: capabilities, landlock, seccomp, namespaces, rlimits; one mechanism a
test, each with the same thing done before it as the control."""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox import _notify
from tests.escape.cases import number
from tests.kernel import mechanisms
from tests.kernel.child import in_child, own_user_namespace, status_field, value_in_child
from tests.probes.raw import value_of
from worker import plan
from worker.kernel import landlock, namespaces

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def error_of(function: Callable[..., Any], *args: Any) -> int:
    try:
        function(*args)
    except OSError as error:
        return error.errno or 0
    return 0


# --- capabilities -----------------------------------------------------------------------------------


def test_all_five_capability_sets_are_emptied() -> None:
    def attempt() -> tuple[dict[str, int], dict[str, int], int, int]:
        own_user_namespace(namespaces.NEWUTS)
        before = {name: int(status_field(name), 16) for name in SETS}
        allowed = error_of(socket.sethostname, "before")
        mechanisms.drop_capabilities()
        after = {name: int(status_field(name), 16) for name in SETS}
        return before, after, allowed, error_of(socket.sethostname, "after")

    before, after, allowed, refused = value_in_child(attempt)
    assert before["CapEff"] != 0 != before["CapBnd"]
    assert set(after.values()) == {0}
    assert (allowed, refused) == (0, errno.EPERM)


def test_securebits_are_locked() -> None:
    def attempt() -> tuple[int, int]:
        own_user_namespace()
        mechanisms.drop_capabilities()
        prctl, pr_get_securebits, pr_set_securebits = number("prctl"), 27, 28
        return value_of(prctl, pr_get_securebits), value_of(prctl, pr_set_securebits, 0)

    bits, refused = value_in_child(attempt)
    assert bits == 0b11_10_11_11
    assert refused == -errno.EPERM


# --- landlock ---------------------------------------------------------------------------------------


def test_the_abi_is_what_the_kernel_declares(lacks: frozenset[str]) -> None:
    assert (landlock.abi() == 0) == ("landlock" in lacks)


@pytest.mark.needs("landlock")
def test_landlock_allows_exactly_the_rules(tmp_path: Path) -> None:
    readable, writable, hidden = (tmp_path / name for name in ("readable", "writable", "hidden"))
    for folder in (readable, writable, hidden):
        folder.mkdir()
        (folder / "file").write_text("text")

    def attempt() -> list[int]:
        rules = [(str(readable), "read"), (str(writable), "read"), (str(writable), "write")]
        descriptor = mechanisms.ruleset(landlock.abi(), rules)
        mechanisms.no_new_privileges()
        mechanisms.restrict(descriptor)
        return [
            error_of((readable / "file").read_text),
            error_of((readable / "file").write_text, "x"),
            error_of((writable / "file").write_text, "x"),
            error_of((writable / "new").touch),
            error_of((hidden / "file").read_text),
            error_of(os.listdir, hidden),
            error_of(os.rename, writable / "file", hidden / "file2"),
        ]

    denied = errno.EACCES
    *plain, rename = value_in_child(attempt)
    assert plain == [0, denied, 0, 0, denied, denied]
    assert rename in (denied, errno.EXDEV)
    assert (hidden / "file").read_text() == "text"


@pytest.mark.needs("landlock")
def test_landlock_of_an_older_abi_can_be_made() -> None:
    """What a newer kernel must be able to do: handle only what an older one knew."""

    def attempt() -> list[int]:
        return [
            mechanisms.ruleset(level, [("/usr", "read")]) for level in range(1, landlock.abi() + 1)
        ]

    assert len(value_in_child(attempt)) == landlock.abi()


@pytest.mark.needs("landlock")
def test_landlock_stops_signals_to_a_process_outside() -> None:
    """From ABI 6 (Linux 6.12) on."""

    def attempt() -> tuple[int, int]:
        parent = os.getppid()
        allowed = error_of(os.kill, parent, 0)
        descriptor = mechanisms.ruleset(landlock.abi(), [])
        mechanisms.no_new_privileges()
        mechanisms.restrict(descriptor)
        return allowed, error_of(os.kill, parent, 0)

    assert value_in_child(attempt) == (0, errno.EPERM if landlock.abi() >= 6 else 0)


# --- seccomp ----------------------------------------------------------------------------------------

INSTRUCTION = struct.Struct("=HBBI")
LOAD_NUMBER, IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO, NOTIFY = 0x7FFF0000, 0x00050000, 0x7FC00000


def program(number: int, answer: int) -> bytes:
    """A filter: `answer` for one system call, all others allowed."""
    return b"".join(
        INSTRUCTION.pack(*parts)
        for parts in ((LOAD_NUMBER, 0, 0, 0), (IF_EQUAL, 0, 1, number), (RETURN, 0, 0, answer),
                      (RETURN, 0, 0, ALLOW))
    )  # fmt: skip


def getpriority_number() -> int:
    import pyseccomp

    number: int = pyseccomp.resolve_syscall(pyseccomp.system_arch(), "getpriority")
    return number


def test_a_filter_is_in_force_and_counted() -> None:
    number = getpriority_number()

    def attempt() -> tuple[int, int, int, str]:
        filters = int(status_field("Seccomp_filters"))
        allowed = error_of(os.getpriority, os.PRIO_PROCESS, 0)
        mechanisms.no_new_privileges()
        mechanisms.load(program(number, ERRNO | errno.EXDEV))
        refused = error_of(os.getpriority, os.PRIO_PROCESS, 0)
        return (
            allowed,
            refused,
            int(status_field("Seccomp_filters")) - filters,
            status_field("Seccomp"),
        )

    assert value_in_child(attempt) == (0, errno.EXDEV, 1, "2")


def test_a_filter_needs_no_new_privileges() -> None:
    def attempt() -> int:
        if os.geteuid() == 0:
            os.setresuid(1000, 1000, 1000)
        return error_of(mechanisms.load, program(0, ALLOW))

    assert value_in_child(attempt) == (0 if status_field("NoNewPrivs") == "1" else errno.EACCES)


def test_a_program_that_is_none_is_refused() -> None:
    def attempt() -> int:
        mechanisms.no_new_privileges()
        return error_of(mechanisms.load, b"\xff" * 8)

    assert value_in_child(attempt) == errno.EINVAL


def notifying_child(number: int) -> tuple[int, int]:
    """A child under a filter that notifies of the call `number`, and which makes getpriority(2);
    its pid, and the listener."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        mechanisms.no_new_privileges()
        listener = mechanisms.load(program(number, NOTIFY), listener=True)
        socket.send_fds(theirs, [b"l"], [listener])
        os.close(listener)
        os.getpriority(os.PRIO_PROCESS, 0)
        signal.pause()
    _, (listener, *_), _, _ = socket.recv_fds(ours, 1, 1)
    return child, listener


def said_of(listener: int) -> int:
    """What poll says of it."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    ((_, events),) = poll.poll(30_000)
    return events


def test_the_listener_receives_the_number_from_the_kernel() -> None:
    number = getpriority_number()

    def attempt() -> tuple[int, str]:
        child, listener = notifying_child(number)
        violation = _notify.receive(listener, said_of(listener))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert violation is not None
        return violation.number, violation.syscall

    assert value_in_child(attempt) == (number, "getpriority")


def test_a_listener_that_nobody_is_under_any_more_is_not_waited_for() -> None:
    """Before Linux 6.11 the kernel would wait for ever: `in_child` would give up."""

    def attempt() -> tuple[int, bool]:
        child, listener = notifying_child(1 << 20)  # a call that it never makes
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        events = said_of(listener)
        return events, _notify.receive(listener, events) is None

    assert value_in_child(attempt) == (select.POLLHUP, True)


def test_a_second_listener_is_refused() -> None:
    def attempt() -> int:
        mechanisms.no_new_privileges()
        mechanisms.load(program(1 << 20, NOTIFY), listener=True)
        try:
            mechanisms.load(program(1 << 20, NOTIFY), listener=True)
        except OSError as error:
            return error.errno or 0
        return 0

    assert value_in_child(attempt) == errno.EBUSY


# --- namespaces -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        (namespaces.NEWNS, "mnt"), (namespaces.NEWCGROUP, "cgroup"), (namespaces.NEWUTS, "uts"),
        (namespaces.NEWIPC, "ipc"), (namespaces.NEWNET, "net"), (namespaces.NEWPID, "pid_for_children"),
    ],
)  # fmt: skip
def test_unshare_makes_the_namespace_it_names(flag: int, name: str) -> None:
    def attempt() -> tuple[str, str]:
        before = os.readlink(f"/proc/self/ns/{name}")
        own_user_namespace()
        namespaces.unshare(flag)
        if name == "pid_for_children":  # made with the first child
            os.waitpid(os.fork() or os._exit(0), 0)
        return before, os.readlink(f"/proc/self/ns/{name}")

    before, after = value_in_child(attempt)
    assert before != after


def test_id_maps_map_one_id_and_deny_setgroups() -> None:
    uid, gid = os.geteuid(), os.getegid()

    def attempt() -> list[Any]:
        namespaces.unshare(namespaces.NEWUSER)
        namespaces.write_id_maps("self", (1000, 1001), (uid, gid))
        os.setresgid(1001, 1001, 1001)
        os.setresuid(1000, 1000, 1000)
        return [
            os.getresuid(), os.getresgid(), error_of(os.setgroups, [1001]), error_of(os.setuid, 0),
        ]  # fmt: skip

    assert value_in_child(attempt) == [(1000,) * 3, (1001,) * 3, errno.EPERM, errno.EINVAL]


def test_ids_of_others_cannot_be_mapped_without_rights() -> None:
    def attempt() -> int:
        own_user_namespace()
        namespaces.unshare(namespaces.NEWUSER)
        return error_of(namespaces.write_id_maps, "self", (1000, 1000), (4242, 4242))

    assert value_in_child(attempt) == errno.EPERM


@pytest.mark.needs("time_namespace")
def test_uptime_is_hidden_from_children() -> None:
    def attempt() -> tuple[float, float]:
        own_user_namespace()
        mechanisms.start_clocks_at_zero()
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(theirs, str(time.clock_gettime(time.CLOCK_BOOTTIME)).encode())
            os._exit(0)
        os.waitpid(child, 0)
        return time.clock_gettime(time.CLOCK_BOOTTIME), float(os.read(ours, 100))

    outside, inside = value_in_child(attempt)
    assert outside > 5
    assert inside < 5


def test_the_host_name_is_the_namespaces_own() -> None:
    def attempt() -> str:
        own_user_namespace(namespaces.NEWUTS)
        socket.sethostname("elsewhere")
        return os.uname().nodename

    here = os.uname().nodename
    assert value_in_child(attempt) == "elsewhere"
    assert os.uname().nodename == here


# --- rlimits ----------------------------------------------------------------------------------------


def test_limits_are_set_hard_and_soft() -> None:
    def attempt() -> list[Any]:
        mechanisms.limit({"open_files": 30, "core": 1, "file_size": 100, "stack": 1 << 20})
        raised = error_of(resource.setrlimit, resource.RLIMIT_NOFILE, (30, 30))
        return [
            resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE),
            resource.getrlimit(resource.RLIMIT_FSIZE), resource.getrlimit(resource.RLIMIT_STACK),
            raised,
        ]  # fmt: skip

    assert value_in_child(attempt) == [(30, 30), (1, 1), (100, 100), (1 << 20, 1 << 20), 0]


def test_limits_have_the_kernels_numbers() -> None:
    names = {
        "cpu": "CPU", "file_size": "FSIZE", "stack": "STACK", "core": "CORE", "open_files": "NOFILE",
        "locked": "MEMLOCK", "pending": "SIGPENDING", "queues": "MSGQUEUE", "nice": "NICE",
        "realtime": "RTPRIO",
    }  # fmt: skip
    numbers = {name: getattr(resource, f"RLIMIT_{word}") for name, word in names.items()}
    assert numbers == plan._LIMITS


def test_a_stricter_hard_limit_stays() -> None:
    def attempt() -> tuple[int, int]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
        mechanisms.limit({"open_files": 40})
        return resource.getrlimit(resource.RLIMIT_NOFILE)

    assert value_in_child(attempt) == (20, 20)


def test_a_file_limit_ends_a_process_that_does_not_ignore_it(tmp_path: Path) -> None:
    def attempt() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        mechanisms.limit({"file_size": 10})
        (tmp_path / "file").write_bytes(bytes(20))

    assert in_child(attempt) == (None, signal.SIGXFSZ)
    assert (tmp_path / "file").stat().st_size <= 10
