"""worker/native: birth of init (namespaces.c), and what prctl and keyctl set (process.c)."""

from __future__ import annotations

import errno
import mmap
import os
import select
import signal

import pytest

from tests.escape.cases import number
from tests.kernel import mechanisms
from tests.kernel.child import in_child, own_user_namespace, status_field, value_in_child
from tests.probes.raw import value_of
from worker.kernel import call, namespaces, native


def test_clone_makes_pid_1_of_fresh_namespaces() -> None:
    def parent() -> list[object]:
        own_user_namespace()
        here = os.readlink("/proc/self/ns/pid")
        ours, theirs = os.pipe()
        pid, pidfd = mechanisms.clone(namespaces.NEWUSER | namespaces.NEWPID)
        if pid == 0:
            os.write(theirs, f"{os.getpid()} {pidfd}".encode())
            os._exit(0)
        told = os.read(ours, 100)
        assert select.select([pidfd], [], [], 30)[0]
        fresh = os.readlink(f"/proc/{pid}/ns/pid") != here
        _, status = os.waitpid(pid, 0)
        return [told, fresh, status, os.get_inheritable(pidfd)]

    told, fresh, status, inheritable = value_in_child(parent)
    assert told == b"1 -1"
    assert (fresh, status, inheritable) == (True, 0, False)


def test_a_child_of_the_clone_ends_as_it_should() -> None:
    """glibc's cached thread id is stale in the clone; an ordinary fork sets it right: abort() of
    the grandchild arrives as SIGABRT."""

    def parent() -> int:
        own_user_namespace()
        pid, _ = mechanisms.clone(namespaces.NEWUSER | namespaces.NEWPID)
        if pid == 0:
            worker = os.fork()
            if worker == 0:
                os.abort()
            _, status = os.waitpid(worker, 0)
            os._exit(os.WTERMSIG(status))
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert value_in_child(parent) == signal.SIGABRT


def test_die_with_parent() -> None:
    def parent() -> int:
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            mechanisms.die_with_parent()
            os.write(theirs, b"r")
            signal.pause()
        os.read(ours, 1)
        return child

    pid = value_in_child(parent)
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], 30)[0], "the orphan lives on"
    finally:
        os.close(pidfd)


def test_dumpable_decides_who_owns_the_files_of_proc() -> None:
    def owners() -> tuple[int, int]:
        if os.geteuid() == 0:
            os.setresgid(1000, 1000, 1000)
            os.setresuid(1000, 1000, 1000)
        mechanisms.set_dumpable(True)
        shown = os.stat("/proc/self/status").st_uid
        mechanisms.set_dumpable(False)
        return shown, os.stat("/proc/self/status").st_uid

    shown, hidden = value_in_child(owners)
    assert shown != 0 == hidden


def test_no_new_privileges() -> None:
    def look() -> tuple[str, str]:
        before = status_field("NoNewPrivs")
        mechanisms.no_new_privileges()
        return before, status_field("NoNewPrivs")

    assert value_in_child(look)[1] == "1"


@pytest.mark.needs("mdwe")
def test_deny_writable_code() -> None:
    def attempt() -> tuple[bool, int]:
        everything = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        mmap.mmap(-1, 4096, prot=everything).close()
        mechanisms.deny_writable_code()
        try:
            mmap.mmap(-1, 4096, prot=everything)
        except OSError as error:
            return bool(native.lib.mdwe_known()), error.errno or 0
        return bool(native.lib.mdwe_known()), 0

    assert value_in_child(attempt) == (True, errno.EACCES)


def test_the_kernel_says_whether_it_has_mdwe(lacks: frozenset[str]) -> None:
    assert bool(native.lib.mdwe_known()) == ("mdwe" not in lacks)


def test_a_new_session_keyring_holds_none_of_the_old_keys() -> None:
    def serials() -> tuple[int, int]:
        get_keyring_id, session = 0, -3
        before = value_of(number("keyctl"), get_keyring_id, session, 0)
        mechanisms.join_new_keyring()
        return before, value_of(number("keyctl"), get_keyring_id, session, 0)

    before, after = value_in_child(serials)
    assert before != after


def test_close_range_closes_exactly_the_range() -> None:
    def left() -> list[bool]:
        first = os.open("/dev/null", os.O_RDONLY)
        for target in range(200, 205):
            os.dup2(first, target)
        mechanisms.close_range(201, 203)
        mechanisms.close_range(300, 299)  # an empty range is none
        return [os.path.exists(f"/proc/self/fd/{number}") for number in range(200, 205)]

    assert value_in_child(left) == [True, False, False, False, True]


def test_a_system_call_that_fails_is_an_oserror_with_its_name() -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        call.syscall("umount2", call.address(b"/nothing/here\0"), 0)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "umount2")


def test_a_child_that_is_killed_is_told_apart() -> None:
    assert in_child(os.kill, os.getpid(), 0)[0] is True
    assert in_child(os.abort) == (None, signal.SIGABRT)
