"""A: a guest stays in its root and changes nothing of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox import Limits, Mount, Sandbox
from tests.escape.cases import (
    MACHINE,
    Case,
    answer,
    call,
    check_refused,
    each,
    number,
    violation,
)
from tests.escape.conftest import open_policy
from tests.escape.outside import Outside
from tests.probes import files

Make = Callable[..., Sandbox]

AT_FDCWD = -100
CLONE_TREE, RECURSIVE = 1, 0x8000
MS_REMOUNT_BIND, MS_BIND = 32 | 4096, 4096 | 16384  # recursive
SET_READ_ONLY = (1).to_bytes(8, "little") + bytes(24)  # struct mount_attr
ABSOLUTE_ESCAPES = (files.walk_up, files.read_text, files.follow_a_link)


@pytest.mark.parametrize("walk", ABSOLUTE_ESCAPES)
def test_a01_a_walk_to_a_host_file_ends_inside(
    walk: Callable[[str], str], jail: Sandbox, outside: Outside, folder: str
) -> None:
    assert outside(walk, f"{folder}/data") == "the host's"
    outcome = jail.call(walk, f"{folder}/data")
    assert outcome.error is not None
    assert outcome.error.type_name == "FileNotFoundError"


@pytest.mark.parametrize("walk", [*ABSOLUTE_ESCAPES, files.walk_up_from_an_open_folder])
def test_a01_the_same_walks_find_what_is_inside(walk: Callable[[str], str], jail: Sandbox) -> None:
    assert jail.run(walk, "/etc/passwd").startswith("guest:x:1000:")


def test_a01_no_open_descriptor_leads_out(jail: Sandbox) -> None:
    assert jail.run(files.walk_up_from_descriptors, "/etc/passwd") == []


def test_a04_only_what_was_asked_for_is_mounted(jail: Sandbox, outside: Outside) -> None:
    asked = jail.call(files.listing, "/").isolation.root
    assert set(jail.run(files.mounts)) == set(asked)
    assert set(outside(files.mounts)) - set(asked)


def test_a04_the_hosts_path_of_what_is_shown_is_no_secret(
    make_sandbox: Make, small: Limits, folder: str
) -> None:
    """As SECURITY.md says: the list of the jail's own mounts has it."""
    with make_sandbox(small, mounts=[Mount(folder, "/shown")]) as sandbox:
        sources = sandbox.run(files.sources_of_mounts)
    assert os.path.basename(folder) in map(os.path.basename, sources)


def test_a04_the_root_holds_only_what_was_put_there(jail: Sandbox, outside: Outside) -> None:
    system = {"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr"}
    ours = {"proc", "tmp", "work", "dev", "etc", "empty"}
    # The interpreter and our libraries lie at their own places.
    shown = {target.split("/")[1] for target in jail.call(abs, 1).isolation.root} - {""}
    assert set(jail.run(files.listing, "/")) <= system | ours | shown
    assert "sys" in outside(files.listing, "/")


# A02 and A08: the family that rebuilds the tree. Their arguments are such that a process with the
# rights of root over its own namespaces succeeds.
REBUILDING = [
    call("A02-chroot", "chroot", b"/tmp", jail="EPERM", bare="EPERM", outside="done"),
    violation("A05-remount", "mount", b"none", b"/", 0, MS_REMOUNT_BIND, 0, bare="EPERM"),
    violation(
        "A07-bind-over-etc", "mount", b"/tmp", b"/etc", 0, MS_BIND, 0, bare="EPERM", outside="done"
    ),
    violation("A08-umount", "umount2", b"/tmp", 2, bare="EPERM"),
    violation("A08-pivot_root", "pivot_root", b"/tmp", b"/tmp", bare="EPERM"),
    violation("A08-fsopen", "fsopen", b"tmpfs", 0, bare="EPERM", outside="done"),
    violation("A08-fspick", "fspick", AT_FDCWD, b"/", 0, bare="EPERM"),
    violation("A08-fsconfig", "fsconfig", 0, 6, 0, 0, 0, bare="EINVAL"),
    violation("A08-fsmount", "fsmount", 0, 0, 0, bare="EPERM"),
    violation(
        "A08-open_tree",
        "open_tree",
        AT_FDCWD,
        b"/tmp",
        CLONE_TREE | RECURSIVE,
        bare="EPERM",
        outside="done",
    ),
    violation("A08-move_mount", "move_mount", 0, b"", AT_FDCWD, b"/tmp", 4, bare="EPERM"),
    violation(
        "A08-mount_setattr", "mount_setattr", AT_FDCWD, b"/", 0, SET_READ_ONLY, 32, bare="EPERM"
    ),
]


@pytest.mark.parametrize("case", each(REBUILDING))
def test_a_the_tree_cannot_be_rebuilt(
    case: Case, jail: Sandbox, bare: Sandbox, outside: Outside
) -> None:
    check_refused(case, jail, bare, outside)


def test_a05_read_only_mounts_stay_so_in_a_nested_namespace(bare: Sandbox) -> None:
    """Held by the kernel's lock on the flags of mounts that came from a more privileged owner."""
    answers = bare.run(files.remount_writable, number("mount"), number("unshare"))
    assert answers == ["done", os.strerror(1), "EROFS"]


def test_a09_a_file_cannot_be_opened_by_its_handle(
    jail: Sandbox, bare: Sandbox, folder: str
) -> None:
    numbers = number("name_to_handle_at"), number("open_by_handle_at")
    assert answer(bare.call(files.open_by_handle, *numbers, "/tmp")) == "EPERM"
    told = jail.call(files.open_by_handle, *numbers, "/tmp")
    assert answer(told) == "violation open_by_handle_at"


def test_a10_a_file_cannot_be_made_setuid(jail: Sandbox, bare: Sandbox, outside: Outside) -> None:
    check_refused(
        Case("", files.make_setuid, ("/tmp",), "EPERM", "done", "done"), jail, bare, outside
    )


MKNOD_AND_OPENAT2 = [
    Case("A10-mknod", files.make_node_with, ("/tmp", 0o4755), "EPERM", "done", "done"),
    # Its mode lies in memory, so it is refused whole, by the errno that libraries fall back at.
    Case(
        "A10-openat2",
        files.create_by_openat2,
        (number("openat2"), "/tmp", 0o4755),
        "ENOSYS",
        "done",
        "done",
    ),
]


def born(name: str, mode: int, jail: str) -> list[Case]:
    """The three calls that make a file with a mode at once."""
    makers: list[tuple[str, Callable[..., str], tuple[int, ...]]] = [
        ("openat", files.create_with, ()),
        ("tmpfile", files.create_unnamed_with, ()),
    ]
    if MACHINE == "x86_64":
        makers.append(("creat", files.create_by_creat, (number("creat"),)))
    return [
        Case(f"A10-{how}-{name}", make, (*first, "/tmp", mode), jail, "done", "done")
        for how, make, first in makers
    ]


BORN = [
    *born("setuid", 0o4755, "EPERM"),
    *born("setgid", 0o2755, "EPERM"),
    *born("both", 0o6777, "EPERM"),
    *born("sticky", 0o1777, "done"),
    *born("plain", 0o644, "done"),
]


@pytest.mark.parametrize("case", each([*BORN, *MKNOD_AND_OPENAT2]))
def test_a10_no_file_is_born_setuid_either(
    case: Case, jail: Sandbox, bare: Sandbox, outside: Outside
) -> None:
    check_refused(case, jail, bare, outside)


def test_a10_nor_in_a_writable_mount(make_sandbox: Make, small: Limits, folder: str) -> None:
    """Where the host, whose mount may honour the bits, would find it."""
    os.chmod(folder, 0o777)
    shown = [Mount(folder, "/data", writable=True)]
    with make_sandbox(small, mounts=shown, policy=open_policy()) as loose:
        assert loose.run(files.create_with, "/data", 0o4755) == "done"
    with make_sandbox(small, mounts=shown) as tight:
        assert tight.run(files.create_with, "/data", 0o4755) == "EPERM"
        assert tight.run(files.create_with, "/data", 0o755) == "done"


def test_a10_a_mode_without_a_new_file_means_nothing(jail: Sandbox) -> None:
    assert jail.run(files.open_with_mode, "/etc/passwd", 0o6755) == "done"


def test_a10_the_kernel_makes_no_folder_setuid(bare: Sandbox, outside: Outside) -> None:
    """So that mkdir() needs no rule."""
    assert outside(files.mode_of_new_folder, "/tmp", 0o6755) == 0o755
    assert bare.run(files.mode_of_new_folder, "/tmp", 0o6755) == 0o755


def test_a10_no_mount_honours_setuid(jail: Sandbox, outside: Outside) -> None:
    assert jail.run(files.mounts_without_nosuid) == []
    assert "/" in outside(files.mounts_without_nosuid)


@pytest.mark.parametrize("name", ["trusted.overlay.opaque", "user.overlay.redirect"])
def test_a11_attributes_of_overlays_cannot_be_set(name: str, jail: Sandbox) -> None:
    assert jail.run(files.set_attribute, name) == "EOPNOTSUPP"


def test_a11_trusted_attributes_are_held_by_capabilities_too(bare: Sandbox) -> None:
    assert bare.run(files.set_attribute, "trusted.overlay.opaque") == "EPERM"


def test_a12_whiteouts_cannot_be_made(jail: Sandbox, bare: Sandbox, outside: Outside) -> None:
    case = Case("", files.make_whiteout, ("/tmp",), "EPERM", "done", "done")
    check_refused(case, jail, bare, outside)


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK], ids=["character", "block"])
def test_m06_device_nodes_cannot_be_made(kind: int, jail: Sandbox, bare: Sandbox) -> None:
    device = os.makedev(1, 3)
    assert bare.run(files.make_node, "/tmp", kind, device) == "EPERM"
    assert jail.run(files.make_node, "/tmp", kind, device) == "EPERM"


WRITES = [files.open_for_writing, files.reopen_for_writing, files.write_text]


@pytest.mark.parametrize("write", WRITES)
def test_a17_a_shared_file_cannot_be_written(
    write: Callable[[str], str], make_sandbox: Make, small: Limits, folder: str
) -> None:
    """Everybody may write the file: what holds is the mount. Control: the same, mounted writable."""
    with make_sandbox(small, mounts=[Mount(folder, "/data", writable=True)]) as loose:
        assert loose.run(write, "/data/data") == "done"
    Path(folder, "data").write_text("the host's")
    with make_sandbox(small, mounts=[Mount(folder, "/data")]) as tight:
        assert tight.run(files.read_text, "/data/data") == "the host's"
        assert tight.run(write, "/data/data") == "EROFS"
    assert Path(folder, "data").read_text() == "the host's"


def test_a17_a_file_open_for_reading_cannot_be_mapped_for_writing(
    make_sandbox: Make, small: Limits, folder: str, outside: Outside
) -> None:
    assert outside(files.map_for_writing, f"{folder}/data") == "EACCES"
    with make_sandbox(small, mounts=[Mount(folder, "/data", writable=True)]) as sandbox:
        assert sandbox.run(files.map_for_writing, "/data/data") == "EACCES"


@pytest.mark.parametrize("path", ["/etc/shadow", "/usr/bin/new", "/new", "/dev/new"])
def test_a20_files_that_were_not_there_cannot_be_made(
    path: str, jail: Sandbox, bare: Sandbox
) -> None:
    for sandbox in (jail, bare):
        assert sandbox.run(files.create, path) == "EROFS"


@pytest.mark.parametrize("directory", ["/tmp", "/work", "/dev/shm"])
def test_a20_files_can_be_made_in_the_writable_places(directory: str, jail: Sandbox) -> None:
    assert jail.run(files.write_text, f"{directory}/canary") == "done"
    assert jail.run(files.read_text, f"{directory}/canary") == "mine now"


@pytest.mark.needs("landlock")
def test_a_landlock_alone_refuses_a_write(
    make_sandbox: Make, small: Limits, folder: str, tmp_path: Path
) -> None:
    """On a mount that is writable, a file that everybody may write, a system call that is allowed."""
    policy = tmp_path / "narrow.toml"
    policy.write_text(
        'schema = 1\nname = "narrow"\nextends = "python"\n'
        '[[files]]\nright = "write"\npaths = ["/tmp"]\nreason = "without the mounts"\n'
    )
    mounts = [Mount(folder, "/data", writable=True)]
    with make_sandbox(small, mounts=mounts) as loose:
        assert loose.run(files.open_for_writing, "/data/data") == "done"
    with make_sandbox(small, mounts=mounts, policy=policy) as tight:
        assert tight.run(files.open_for_writing, "/data/data") == "EACCES"
        assert tight.run(files.read_text, "/data/data") == "the host's"
        assert tight.run(files.write_text, "/tmp/canary") == "done"


@pytest.mark.needs("landlock")
def test_a_compute_sees_no_files_but_the_interpreters(make_sandbox: Make, small: Limits) -> None:
    with make_sandbox(small, policy="compute") as sandbox:
        outcome = sandbox.call(files.read_text, "/etc/passwd")
        assert outcome.error is not None
        assert outcome.error.type_name == "PermissionError"
        assert sandbox.run(files.open_with, os.__file__, os.O_RDONLY) == "done"
