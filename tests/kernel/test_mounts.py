"""worker/kernel/mounts.py: mounts by descriptor, in a mount namespace of a child's own."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import mechanisms
from tests.kernel.child import in_child, own_user_namespace, value_in_child
from worker.kernel import mounts, namespaces


def with_mounts(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, in fresh user and mount namespaces whose mounts are private."""

    def inside(*args: Any) -> Any:
        own_user_namespace(namespaces.NEWNS)
        mounts.set_propagation("/", mounts.PRIVATE)
        return function(*args)

    return inside


def options_of(target: str) -> list[str]:
    """The options of the topmost mount at `target`; empty if there is none."""
    found: list[str] = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields = line.split()
            if fields[4] == target:
                found = [*fields[5].split(","), fields[fields.index("-") + 1]]
    return found


def error_of(function: Callable[..., Any], *args: Any) -> int:
    try:
        function(*args)
    except OSError as error:
        return error.errno or 0
    return 0


def tmpfs(target: str, attributes: int = 0, **options: str) -> int:
    mount = mounts.new_filesystem("tmpfs", options, attributes)
    mounts.attach(mount, mounts.AT_FDCWD, target)
    return mount


def test_a_new_filesystem_is_detached_until_it_is_attached(tmp_path: Path) -> None:
    def make() -> tuple[list[str], list[str]]:
        mount = mounts.new_filesystem("tmpfs", {"mode": "0700"}, mounts.NOSUID | mounts.NODEV)
        before = options_of(str(tmp_path))
        mounts.attach(mount, mounts.AT_FDCWD, str(tmp_path))
        return before, options_of(str(tmp_path))

    before, after = value_in_child(with_mounts(make))
    assert before == []
    assert {"rw", "nosuid", "nodev", "tmpfs"} <= set(after)
    assert options_of(str(tmp_path)) == []


def test_size_and_inodes_of_a_tmpfs_are_capped(tmp_path: Path) -> None:
    def fill() -> tuple[int, int]:
        tmpfs(str(tmp_path), size="65536", nr_inodes="3")
        (tmp_path / "one").touch()
        (tmp_path / "two").touch()
        inodes = error_of((tmp_path / "three").touch)
        return inodes, error_of((tmp_path / "one").write_bytes, bytes(100_000))

    assert value_in_child(with_mounts(fill)) == (errno.ENOSPC, errno.ENOSPC)


@pytest.mark.parametrize(
    ("attribute", "error"), [(mounts.RDONLY, errno.EROFS), (mounts.NOEXEC, errno.EACCES), (0, 0)]
)
def test_attributes_are_in_force(tmp_path: Path, attribute: int, error: int) -> None:
    def attempt() -> int:
        mount = tmpfs(str(tmp_path))
        script = tmp_path / "script"
        script.write_text("#!/bin/true\n")
        script.chmod(0o755)
        mounts.set_attributes(mount, attribute)
        if attribute == mounts.NOEXEC:
            return error_of(os.execv, script, [str(script)])
        return error_of((tmp_path / "file").touch)

    assert value_in_child(with_mounts(attempt)) == error


def test_attributes_reach_the_mounts_below(tmp_path: Path) -> None:
    def attempt() -> list[str]:
        outer = tmpfs(str(tmp_path))
        inner = tmp_path / "inner"
        inner.mkdir()
        tmpfs(str(inner))
        mounts.set_attributes(outer, mounts.RDONLY | mounts.NODEV)
        return options_of(str(inner))

    assert {"ro", "nodev"} <= set(value_in_child(with_mounts(attempt)))


def test_a_cloned_tree_has_attributes_of_its_own(tmp_path: Path) -> None:
    """The same files, at two places, one of them read-only."""

    def attempt() -> tuple[str, int, int]:
        source, target = tmp_path / "source", tmp_path / "target"
        source.mkdir()
        target.mkdir()
        tree = mounts.clone_tree(mounts.AT_FDCWD, str(source))
        mounts.set_attributes(tree, mounts.RDONLY, propagation=mounts.PRIVATE)
        mounts.attach(tree, mounts.AT_FDCWD, str(target))
        (source / "file").write_text("seen")
        seen = (target / "file").read_text()
        return seen, error_of((target / "new").touch), error_of((source / "new").touch)

    assert value_in_child(with_mounts(attempt)) == ("seen", errno.EROFS, 0)


@pytest.mark.parametrize("recursive", [True, False])
def test_a_tree_is_cloned_with_or_without_what_is_mounted_below(
    tmp_path: Path, recursive: bool
) -> None:
    def attempt() -> list[str]:
        outer, inner, target = tmp_path / "outer", tmp_path / "outer/inner", tmp_path / "target"
        inner.mkdir(parents=True)
        target.mkdir()
        tmpfs(str(outer))
        inner.mkdir()
        tmpfs(str(inner))
        (inner / "below").touch()
        tree = mounts.clone_tree(mounts.AT_FDCWD, str(outer), recursive=recursive)
        mounts.attach(tree, mounts.AT_FDCWD, str(target))
        return os.listdir(target / "inner")

    assert value_in_child(with_mounts(attempt)) == (["below"] if recursive else [])


def test_a_clone_through_a_descriptor_needs_no_path(tmp_path: Path) -> None:
    def attempt() -> list[str]:
        mount = tmpfs(str(tmp_path))
        (tmp_path / "file").touch()
        (tmp_path / "place").mkdir()
        tree = mounts.clone_tree(mount, "")
        mounts.attach(tree, mount, "place")
        return sorted(os.listdir(tmp_path / "place"))

    assert value_in_child(with_mounts(attempt)) == ["file", "place"]


def test_an_overlay_without_an_upper_is_read_only(tmp_path: Path) -> None:
    def attempt() -> tuple[list[str], int]:
        stage = tmpfs(str(tmp_path))
        for name in ("one", "two", "root"):
            (tmp_path / name).mkdir()
        (tmp_path / "two/file").touch()
        base = f"/proc/self/fd/{stage}"
        lower = {"lowerdir": f"{base}/one:{base}/two"}
        overlay = mounts.new_filesystem("overlay", lower, mounts.NOSUID)
        mounts.attach(overlay, stage, "root")
        return os.listdir(tmp_path / "root"), error_of((tmp_path / "root/new").touch)

    assert value_in_child(with_mounts(attempt)) == (["file"], errno.EROFS)


def test_pivot_into_leaves_nothing_of_the_old_root(tmp_path: Path) -> None:
    def attempt() -> tuple[list[str], int, str]:
        root = tmpfs(str(tmp_path), mounts.NOSUID)
        (tmp_path / "only").mkdir()
        (tmp_path / "proc").mkdir()
        proc = mounts.clone_tree(mounts.AT_FDCWD, "/proc")
        mounts.attach(proc, root, "proc")
        mechanisms.pivot_into(root)
        with open("/proc/self/mountinfo") as file:
            targets = {line.split()[4].split("/")[1] for line in file}
        return sorted(os.listdir("/")), error_of(os.stat, "/usr"), ",".join(sorted(targets))

    found, usr, targets = value_in_child(with_mounts(attempt))
    assert found == ["only", "proc"]
    assert usr == errno.ENOENT
    assert targets == ",proc"


def test_detach_uncovers_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place/under").touch()

    def attempt() -> tuple[list[str], list[str]]:
        tmpfs(str(tmp_path / "place"))
        covered = os.listdir(tmp_path / "place")
        folder = os.open(tmp_path, os.O_RDONLY)
        mounts.detach(folder, "place")
        return covered, os.listdir(tmp_path / "place")

    assert value_in_child(with_mounts(attempt)) == ([], ["under"])


def test_an_error_names_the_call_and_the_path() -> None:
    def attempt() -> None:
        mounts.clone_tree(mounts.AT_FDCWD, "/nothing/here")

    came, (kind, number, text) = in_child(with_mounts(attempt))
    assert (came, kind, number) == (False, "FileNotFoundError", errno.ENOENT)
    assert "open_tree /nothing/here" in text


def test_an_unknown_option_is_an_error_and_leaks_nothing() -> None:
    def attempt() -> tuple[int, int]:
        before = len(os.listdir("/proc/self/fd"))
        number = error_of(mounts.new_filesystem, "tmpfs", {"colour": "red"}, 0)
        return number, len(os.listdir("/proc/self/fd")) - before

    assert value_in_child(with_mounts(attempt)) == (errno.EINVAL, 0)
