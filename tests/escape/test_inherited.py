"""C: a guest finds nothing on itself that was the application's."""

from __future__ import annotations

import fcntl
import os
import secrets
import subprocess
import sys
from collections.abc import Callable

import pytest

from sandbox import Limits, Mount, Sandbox
from tests.escape.cases import number
from tests.escape.conftest import open_policy, without_landlock
from tests.escape.outside import ROOT, Outside
from tests.probes import inherited
from tests.probes.raw import value_of

Make = Callable[..., Sandbox]

F_SETOWN, F_SETSIG = 8, 10
STORE, RESULT = 4, 3
EXPECTED = {0: "device", 1: "pipe", 2: "pipe", RESULT: "socket", STORE: "file"}


def test_c02_c05_only_the_documented_descriptors_are_open(
    make_sandbox: Make, small: Limits, folder: str
) -> None:
    """Although the application has others that programs it starts inherit (the control), and the
    launcher, of a profile of its own, was started while they were open."""
    leak = os.open(folder, os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        names = subprocess.run(
            [
                *(sys.executable, "-c"),
                "from tests.probes.inherited import *; print(names_of_descriptors())",
            ],
            close_fds=False,
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout
        assert folder.encode() in names
        with make_sandbox(small, preload=["colorsys"]) as sandbox:
            assert sandbox.run(inherited.descriptors) == EXPECTED
    finally:
        os.close(leak)


def test_c02_init_holds_nothing_of_the_launchers(make_sandbox: Make, small: Limits) -> None:
    """Nor of another jail, whose init was born of the same launcher. An
    ordinary user may not look: init is not dumpable."""
    with make_sandbox(small) as first, make_sandbox(small, policy="program") as second:
        assert first._jail is not None
        assert second._jail is not None
        assert first._jail.launcher is second._jail.launcher
        folder = f"/proc/{second._jail.pid}/fd"
        for call in (lambda: second.run(int), lambda: second.exec(["true"])):
            call()
            if os.geteuid() != 0:
                with pytest.raises(PermissionError):
                    os.listdir(folder)
                continue
            held = sorted(os.readlink(f"{folder}/{number}") for number in os.listdir(folder))
            held = [name for name in held if name != "anon_inode:[landlock-ruleset]"]
            assert held[:5] == ["/dev/null"] * 5
            assert [name.partition(":")[0] for name in held[5:]] == ["socket"]


def test_c02_init_leads_a_session_of_its_own(jail: Sandbox) -> None:
    assert jail._jail is not None
    assert os.getsid(jail._jail.pid) == jail._jail.pid


def test_c02_each_jail_has_an_empty_keyring_of_its_own(make_sandbox: Make) -> None:
    """Looked at with the filters open, which refuse keyctl to guests."""
    keyctl, get_id, read, session = number("keyctl"), 0, 11, -3
    serials = {value_of(keyctl, get_id, session, 0)}
    for _ in range(2):
        with without_landlock(), make_sandbox(policy=open_policy(mdwe=False)) as open_jail:
            serials.add(open_jail.run(value_of, keyctl, get_id, session, 0))
            assert open_jail.run(value_of, keyctl, read, session, 0, 0) == 0
    assert len(serials) == 3
    assert all(serial > 0 for serial in serials)


def test_c04_flags_the_guest_changes_are_not_the_hosts(jail: Sandbox) -> None:
    before = [fcntl.fcntl(stream, fcntl.F_GETFL) for stream in range(3)]
    assert jail.run(inherited.change_flags)
    assert [fcntl.fcntl(stream, fcntl.F_GETFL) for stream in range(3)] == before
    # Nor the next call's, but for the null device, which calls share.
    assert not any(flags & os.O_NONBLOCK for flags in jail.run(inherited.change_flags)[1:])


@pytest.mark.parametrize("request_", [F_SETOWN, F_SETSIG], ids=["F_SETOWN", "F_SETSIG"])
def test_c04_descriptors_do_not_send_signals(request_: int, jail: Sandbox, bare: Sandbox) -> None:
    argument = 1 if request_ == F_SETOWN else 10
    assert bare.run(inherited.own_by_signal, request_, argument) == "done"
    assert jail.run(inherited.own_by_signal, request_, argument) == "EPERM"


def test_c05_the_result_channel_does_not_name_the_host(jail: Sandbox, bare: Sandbox) -> None:
    assert jail.call(inherited.peer_of, RESULT).error is not None  # the filter refuses the question
    pid, uid = bare.run(inherited.peer_of, RESULT)
    assert pid == 0
    assert uid in (65534, 1000)  # not mapped inside; or the guest's own, of an ordinary user


def test_c06_c08_no_memory_of_the_application_is_in_the_guest(
    make_sandbox: Make, small: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a secret on the application's heap nor one in its environment, in no writable page
    of a guest whose launcher was started while both were there."""
    first, second = secrets.token_hex(8).encode(), secrets.token_hex(8).encode()
    monkeypatch.setenv("SECRET_OF_THE_APPLICATION", (first + second).decode())
    heap = first + second
    with make_sandbox(small, preload=["wave"]) as sandbox:
        assert sandbox.run(inherited.occurrences, first, second, True) >= 1
        assert sandbox.run(inherited.occurrences, first, second, False) == 0
    assert inherited.occurrences(first, second, False) >= len([heap])


def test_c06_what_is_one_sandboxs_own_is_in_no_other(make_sandbox: Make, small: Limits) -> None:
    """The two share a launcher, whose memory every jail of it is a copy of."""
    parts = [secrets.token_hex(8) for _ in range(4)]
    variable, argument = parts[0] + parts[1], parts[2] + parts[3]
    with make_sandbox(small, env={"OWN": variable}) as one:
        assert one.run(len, argument) == 32
        with make_sandbox(small) as other:
            for first, second in (parts[:2], parts[2:]):
                pair = first.encode(), second.encode()
                assert other.run(inherited.occurrences, *pair, True) >= 1
                assert other.run(inherited.occurrences, *pair, False) == 0
        pair = parts[0].encode(), parts[1].encode()
        assert one.run(inherited.occurrences, *pair, False) >= 1


def test_c07_random_state_is_fresh_in_every_call(
    jail: Sandbox, make_sandbox: Make, small: Limits
) -> None:
    with make_sandbox(small) as other:
        states = [s.run(inherited.random_state) for s in (jail, jail, other, other)]
    for kind in zip(*states, strict=True):
        assert len(set(kind)) == len(states)


def test_c07_the_hosts_hash_secret_is_not_the_guests(jail: Sandbox) -> None:
    assert jail.run(inherited.hash_of_text) != hash("canary")


def test_c08_the_environment_is_the_documented_list(
    make_sandbox: Make, small: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_APPLICATION", "x")
    with make_sandbox(small, env={"MINE": "1"}) as sandbox:
        names = set(sandbox.run(inherited.environment))
    one_thread = {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"}
    assert names == {"PATH", "HOME", "TMPDIR", "LANG", "MINE"} | one_thread


@pytest.mark.parametrize("size", [0, (1 << 20) + 4096], ids=["shrunk", "grown"])
def test_c09_the_memory_for_results_keeps_its_size(size: int, jail: Sandbox) -> None:
    assert jail.run(inherited.own_memory_resized, 1 << 20) == "done"
    assert jail.run(inherited.resize, STORE, size) == "EPERM"


def test_c09_nor_when_it_is_opened_again(jail: Sandbox) -> None:
    assert jail.run(inherited.reopened_and_resized, STORE, 1 << 19) == "EPERM"
    assert jail.run(inherited.reopened_and_resized, RESULT, 1 << 19) == "ENXIO"


def test_c10_descriptors_sent_to_the_host_do_not_stay(jail: Sandbox) -> None:
    before = len(os.listdir("/proc/self/fd"))
    outcome = jail.call(inherited.pass_descriptors, RESULT, 30, 50)
    assert outcome.status == "result_invalid"  # its bytes are no frame
    assert len(os.listdir("/proc/self/fd")) == before


def test_c11_descriptors_are_capped(jail: Sandbox, small: Limits, outside: Outside) -> None:
    top = small.open_files
    assert jail.run(inherited.duplicate, top - 1) == "done"
    assert jail.run(inherited.duplicate, top) == "EBADF"
    assert jail.run(inherited.open_many) == top
    assert outside(inherited.duplicate, top) == "done"


def test_c11_the_cap_cannot_be_raised(jail: Sandbox, bare: Sandbox) -> None:
    assert jail.run(inherited.raise_hard_limit) == "refused"
    assert bare.run(inherited.raise_hard_limit) == "refused"


def test_nothing_of_this_library_is_there_to_be_imported(make_sandbox: Make, small: Limits) -> None:
    """The control: what a profile names is there, `msgpack` too, though it is one of our own."""
    with make_sandbox(small) as sandbox:
        assert sandbox.run(inherited.modules_of_ours) == []
    with make_sandbox(small, preload=["msgpack"]) as sandbox:
        assert "msgpack" in sandbox.run(inherited.modules_of_ours)


def test_a_guests_own_module_may_have_the_name_of_ours(
    make_sandbox: Make, small: Limits, folder: str
) -> None:
    with open(os.path.join(folder, "worker.py"), "w") as file:
        file.write("def task():\n    return 'mine'\n")
    with make_sandbox(small, mounts=[Mount(folder, "/data")]) as sandbox:
        assert sandbox.run(inherited.task_of_my_worker) == "mine"
