"""P, N08: a jail that is not what was asked for runs nothing, and one call leaves nothing to the
next, nor to the host."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

import sandbox._api
from sandbox import Limits, Mount, Outcome, Sandbox, SetupError, Unsupported
from sandbox._blueprint import DRAWINGS, Blueprint
from tests.escape.cases import number
from tests.probes import answers, bombs, identity, inherited, leftovers
from tests.probes.raw import system_call

Make = Callable[..., Sandbox]
Content = dict[str, Any]

# --- a step that fails ----------------------------------------------------------------------------


@contextmanager
def tampered(change: Callable[[Content], Content]) -> Iterator[None]:
    """The launcher is told something else than the host believes it was."""

    def get(*arguments: Any, **options: Any) -> Blueprint:
        drawn = DRAWINGS.get(*arguments, **options)
        key = f"{drawn.key} as {change.__name__} has it"
        return replace(drawn, key=key, content=change(dict(drawn.content)))

    class Tampered:
        pass

    stand_in = Tampered()
    stand_in.get = get  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox._api, "DRAWINGS", stand_in)
        yield


def much_more_than_a_socket_takes(content: Content) -> Content:
    root = dict(content["root"])
    root["files"] = [*root["files"], ("etc/much", bytes(3 << 20))]
    return {**content, "root": root}


def an_impossible_size(content: Content) -> Content:
    return {**content, "scratch": [{**content["scratch"][0], "size": "much"}, False]}


def more_bytes_than_asked_for(content: Content) -> Content:
    return with_scratch(content, size=str(8 << 20))


def fewer_bytes_than_asked_for(content: Content) -> Content:
    return with_scratch(content, size=str(2 << 20))


def more_inodes_than_asked_for(content: Content) -> Content:
    return with_scratch(content, nr_inodes="257")


def no_cap_on_bytes(content: Content) -> Content:
    return with_scratch(content, size="0")


def the_default_caps(content: Content) -> Content:
    """Which mountinfo does not tell."""
    options, executes = content["scratch"]
    return {**content, "scratch": [{"mode": options["mode"]}, executes]}


def with_scratch(content: Content, **changed: str) -> Content:
    options, executes = content["scratch"]
    return {**content, "scratch": [{**options, **changed}, executes]}


def a_missing_source(content: Content) -> Content:
    root = dict(content["root"])
    root["binds"] = [*root["binds"], ("/nothing/here", "work", ("ro",))]
    return {**content, "root": root}


def no_cpus(content: Content) -> Content:
    return {**content, "cpus": []}


def a_name_that_is_none(content: Content) -> Content:
    root = dict(content["root"])
    root["directories"] = [*root["directories"], "a\0b"]
    return {**content, "root": root}


def a_filter_that_is_none(content: Content) -> Content:
    return {**content, "first_filter": b"\xff" * 8}


def a_last_filter_that_is_none(content: Content) -> Content:
    return {**content, "last_filter": b"\xff" * 8}


def a_right_cut_off_at_a_nul(content: Content) -> Content:
    level, _ = content["landlock"]
    return {**content, "landlock": [level, [("/\0/work", "write")]]}


def a_right_to_nothing(content: Content) -> Content:
    level, _ = content["landlock"]
    return {**content, "landlock": [level, [("/nothing/here", "read")]]}


def a_shared_namespace(content: Content) -> Content:
    """The step that sets a host name would fail too: left out with it."""
    layers = [name for name in content["layers"] if name != "uts_namespace"]
    return {
        **content,
        "namespaces": [name for name in content["namespaces"] if name != "uts"],
        "layers": layers,
    }


def a_writable_mount(content: Content) -> Content:
    root = dict(content["root"])
    root["binds"] = [
        (source, target, [o for o in options if o != "ro" or target != "shown"])
        for source, target, options in root["binds"]
    ]
    return {**content, "root": root}


def a_mount_that_honours_setuid(content: Content) -> Content:
    root = dict(content["root"])
    root["binds"] = [
        (source, target, [o for o in options if o != "nosuid" or target != "usr"])
        for source, target, options in root["binds"]
    ]
    return {**content, "root": root}


def one_mount_more(content: Content) -> Content:
    root = dict(content["root"])
    root["binds"] = [*root["binds"], ("/usr", "etc", ("ro", "nosuid", "nodev"))]
    return {**content, "root": root}


FAILING = {
    an_impossible_size: "attach_scratch",
    more_bytes_than_asked_for: "confirm_isolation",
    fewer_bytes_than_asked_for: "confirm_isolation",
    more_inodes_than_asked_for: "confirm_isolation",
    no_cap_on_bytes: "confirm_isolation",
    the_default_caps: "confirm_isolation",
    a_missing_source: "prepare_root",
    a_name_that_is_none: "prepare_root",
    a_shared_namespace: "confirm_isolation",
    a_writable_mount: "confirm_isolation",
    a_mount_that_honours_setuid: "confirm_isolation",
    one_mount_more: "confirm_isolation",
}
FAILING_LAYERS: Mapping[Callable[[Content], Content], str] = {a_filter_that_is_none: "seccomp"}


def traces() -> tuple[int, int]:
    """Open descriptors and children of this process. Without those of control groups, of which a
    stock is kept; that it is bounded is for the tests of control groups to show."""
    count = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            place = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:
            continue
        count += not place.startswith(("/sys/fs/cgroup", "anon_inode:[eventfd]"))
    return count, len(children())


def children() -> list[int]:
    ours = str(os.getpid())
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                if file.read().rpartition(")")[2].split()[1] == ours:
                    found.append(int(name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.parametrize(
    ("change", "step"), FAILING.items(), ids=lambda v: getattr(v, "__name__", v)
)
def test_p02_a_failed_step_or_difference_runs_nothing(
    change: Callable[[Content], Content],
    step: str,
    make_sandbox: Make,
    small: Limits,
    folder: str,
) -> None:
    """The control comes last: the same jail without the change opens."""
    shown = [Mount(folder, "/shown")]

    def attempt() -> None:
        with tampered(change):
            sandbox = make_sandbox(small, policy="base", mounts=shown)
            try:
                with pytest.raises(SetupError) as caught:
                    sandbox.__enter__()
            finally:
                sandbox.close()
        assert caught.value.step == step, str(caught.value)
        _settle()

    attempt()  # the launcher starts
    before = traces()
    for _ in range(3):
        attempt()
    after = traces()
    assert after[0] <= before[0]
    assert after[1] <= before[1]
    with make_sandbox(small, policy="base", mounts=shown) as honest:
        assert honest.run(divmod, 17, 5) == (3, 2)


def _settle() -> None:
    """What a closed or failed jail leaves is removed by another thread."""
    from sandbox._runtime import RUNTIME

    RUNTIME.reaper.drain()


def test_p02_a_jail_on_other_cpus_runs_nothing(make_sandbox: Make, small: Limits) -> None:
    """Where there is more than one to choose from."""
    one = str(max(os.sched_getaffinity(0)))
    pinned = replace(small, cpuset=one)
    with make_sandbox(pinned) as honest:
        assert honest.run(os.sched_getaffinity, 0) == {int(one)}
    if len(os.sched_getaffinity(0)) > 1:
        with tampered(no_cpus), pytest.raises(SetupError, match="cpuset is not in force"):
            make_sandbox(pinned).__enter__()


def test_p02_a_large_request_is_no_failure(make_sandbox: Make, small: Limits) -> None:
    """A host's ld.so.cache is part of it."""
    with tampered(much_more_than_a_socket_takes), make_sandbox(small) as sandbox:
        assert sandbox.run(os.path.getsize, "/etc/much") == 3 << 20


@pytest.mark.parametrize(
    ("change", "layer"), FAILING_LAYERS.items(), ids=lambda v: getattr(v, "__name__", v)
)
def test_p03_a_layer_that_cannot_be_put_in_force_is_named(
    change: Callable[[Content], Content], layer: str, make_sandbox: Make, small: Limits
) -> None:
    with tampered(change), pytest.raises(Unsupported) as caught:
        make_sandbox(small).__enter__()
    assert caught.value.feature == layer
    assert "sandbox doctor" in caught.value.remedy


@pytest.mark.needs("landlock")
def test_p02_a_right_is_not_cut_off_at_a_nul(make_sandbox: Make, small: Limits) -> None:
    with tampered(a_right_cut_off_at_a_nul), pytest.raises(SetupError, match="holds a NUL"):
        make_sandbox(small).__enter__()


@pytest.mark.parametrize("is_program", [False, True], ids=["function", "program"])
def test_p02_a_worker_that_cannot_be_confined_runs_nothing(
    is_program: bool, make_sandbox: Make, small: Limits
) -> None:
    """Its jail is given up: the control is the same call in the next one."""

    def run(sandbox: Sandbox) -> Outcome:
        return sandbox.exec(["/bin/echo", "ran"]) if is_program else sandbox.call(print, "ran")

    with make_sandbox(small, policy="program") as sandbox, tampered(a_last_filter_that_is_none):
        jail = sandbox._jail
        assert jail is not None
        jail.kill()
        outcome = run(sandbox)
    assert (outcome.status, outcome.stdout) == ("internal_error", b"")
    assert "cannot load last filter: Invalid argument" in outcome.message
    assert "seccomp_mode" not in outcome.isolation.worker  # nothing was seen of it
    with make_sandbox(small, policy="program") as sandbox:
        assert run(sandbox).stdout == b"ran\n"


@pytest.mark.needs("landlock")
def test_p03_landlock_that_cannot_be_put_in_force_is_named(
    make_sandbox: Make, small: Limits
) -> None:
    with tampered(a_right_to_nothing), pytest.raises(Unsupported) as caught:
        make_sandbox(small).__enter__()
    assert caught.value.feature == "landlock"
    assert "open /nothing/here: No such file" in caught.value.reason


def test_a14_a_mount_that_vanishes_before_the_jail_is_made_is_an_error(
    make_sandbox: Make, small: Limits, folder: str
) -> None:
    gone = os.path.join(folder, "gone")
    os.mkdir(gone)
    sandbox = make_sandbox(small, mounts=[Mount(gone, "/shown")])
    os.rmdir(gone)
    with pytest.raises(SetupError) as caught:
        sandbox.__enter__()
    assert caught.value.step == "prepare_root"


def test_a14_a_mount_that_becomes_a_link_is_not_followed_elsewhere(
    make_sandbox: Make, small: Limits, folder: str
) -> None:
    """Between the check and the mount, somebody with rights over the folder swaps it."""
    shown, secret = os.path.join(folder, "shown"), os.path.join(folder, "secret")
    for each in (shown, secret):
        os.mkdir(each)
    with open(os.path.join(secret, "key"), "w") as file:
        file.write("x")
    sandbox = make_sandbox(small, mounts=[Mount(shown, "/shown")])
    shutil.rmtree(shown)
    os.symlink(secret, shown)
    with pytest.raises(SetupError) as caught:
        sandbox.__enter__()
    assert (caught.value.step, caught.value.errno) == ("prepare_root", errno.ESTALE)


# --- nothing is left ------------------------------------------------------------------------------


def test_n08_every_call_finds_a_pristine_process(jail: Sandbox) -> None:
    before = jail.run(leftovers.look)
    changed = jail.run(leftovers.leave_traces)
    assert sum(before[name] != changed[name] for name in before) >= len(before) - 1
    assert jail.run(leftovers.look) == before
    outcome = jail.call(divmod, 17, 5)
    assert (outcome.stdout, outcome.stderr) == (b"", b"")


def test_p06_the_hosts_signals_are_its_own(jail: Sandbox) -> None:
    numbers = (signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGSYS)
    before = [signal.getsignal(each) for each in numbers]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    for status in ("signaled", "result_invalid"):
        guest = answers.read_null if status == "signaled" else answers.close_result
        jail.call(guest)
    assert [signal.getsignal(each) for each in numbers] == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == blocked


HOSTILE: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
    (answers.read_null, ()),
    (answers.speak, (b"\xff" * 8, 0)),
    (answers.leave, (3,)),
    (answers.raise_long, (1 << 20,)),
    (bombs.flood, (1,)),
    (bombs.daemonize, (False,)),
    (bombs.fork_and_cope, (50,)),
    (bombs.touch, (512,)),
    (inherited.pass_descriptors, (3, 20, 5)),
    (system_call, (number("unshare"), 0)),
    (identity.signal_process, (0, 9)),
]


@pytest.mark.hostile
def test_p07_hostile_calls_leave_the_host_as_it_was(make_sandbox: Make, small: Limits) -> None:
    def all_of_them() -> None:
        with make_sandbox(small) as sandbox:
            for guest, arguments in HOSTILE:
                assert sandbox.call(guest, *arguments).status != "internal_error", guest
            assert sandbox.run(divmod, 17, 5) == (3, 2)
        _settle()

    all_of_them()
    before = traces()
    for _ in range(2):
        all_of_them()
    after = traces()
    assert after[0] <= before[0]
    assert after[1] <= before[1]
