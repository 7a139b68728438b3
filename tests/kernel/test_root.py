"""sandbox/_mounted.py: the root with a caller's mounts, as the host's files and mounts change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import Mount
from sandbox._blueprint import root_for
from sandbox._root import RootPlan
from tests.kernel.child import value_in_child
from tests.kernel.test_mounts import tmpfs, with_mounts
from worker.kernel import mounts


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for made in (tmp_path, tmp_path / "inner"):
        made.mkdir(exist_ok=True)
        made.chmod(0o755)
    return str(tmp_path)


def plan(folder: str) -> RootPlan:
    return root_for((), (Mount(folder, "/shown"),))


def test_the_same_mounts_again_are_the_same_root(folder: str) -> None:
    assert plan(folder) is plan(folder)
    assert plan(folder) is not root_for((), (Mount(folder, "/shown", writable=True),))


def test_a_folder_made_anew_under_the_old_name_is_another_root(folder: str) -> None:
    inner = os.path.join(folder, "inner")
    before = plan(inner)
    os.rename(inner, f"{inner}-before")
    os.mkdir(inner)
    os.chmod(inner, 0o755)
    assert plan(inner).request != before.request


def test_what_the_host_mounts_below_is_part_of_the_root(folder: str) -> None:
    def look() -> tuple[bool, list[bool]]:
        before, seen = plan(folder), []
        seen.append("/shown/inner" in before.targets())
        os.close(tmpfs(os.path.join(folder, "inner")))
        after = plan(folder)
        seen.append("/shown/inner" in after.targets())
        return before.request == after.request, seen

    assert value_in_child(with_mounts(look)) == (False, [False, True])


@pytest.mark.parametrize("place", ["/proc", "/sys"])
def test_what_tells_of_the_machine_is_not_shown_from_elsewhere_either(
    folder: str, place: str
) -> None:
    """Mounted below the folder, in a chroot for example, or the very folder."""

    def refused() -> list[bool]:
        inner, seen = os.path.join(folder, "inner"), []
        tree = mounts.clone_tree(mounts.AT_FDCWD, place)
        mounts.attach(tree, mounts.AT_FDCWD, inner)
        for source in (folder, inner):
            try:
                plan(source)
            except ValueError as error:
                seen.append("whole machine" in str(error))
        return seen

    plan(folder)
    assert value_in_child(with_mounts(refused)) == [True, True]


def test_a_mount_over_what_the_host_has_mounted_in_another_one(folder: str) -> None:
    def refused() -> str:
        os.close(tmpfs(os.path.join(folder, "inner")))
        try:
            root_for((), (Mount(folder, "/shown"), Mount("/usr/share", "/shown/inner")))
        except ValueError as error:
            return str(error)
        return ""

    root_for((), (Mount(folder, "/shown"), Mount("/usr/share", "/shown/inner")))
    assert "would cover what the host has mounted" in value_in_child(with_mounts(refused))


_APPLICATION = """
import os, subprocess, sys
from sandbox import Mount, Sandbox
folder = sys.argv[1]
inner = os.path.join(folder, "inner")
def look():
    with Sandbox(mounts=[Mount(folder, "/shown")]) as sandbox:
        return sandbox.run(os.listdir, "/shown/inner")
found = [look()]
subprocess.run(["mount", "-t", "tmpfs", "none", inner], check=True)
open(os.path.join(inner, "late"), "w").close()
found.append(look())
subprocess.run(["umount", inner], check=True)
found.append(look())
print(found)
"""


@pytest.mark.native
def test_the_next_sandbox_shows_what_the_host_has_mounted_meanwhile(folder: str) -> None:
    """Where mounts are shared, as systemd has them; in a mount namespace of its own."""
    own = ["unshare", "--mount", "--propagation", "shared", "--"]
    command = [*own, sys.executable, "-c", _APPLICATION, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[[], ['late'], []]", done.stderr
