"""Remove the control groups a dead host left. Run by the launcher, with the host's rights, when no
jail of that host lives any more; the groups' names hold the host's pid and start time."""

from __future__ import annotations

import os


def open_parents(tops: list[str]) -> list[tuple[int, str]]:
    """(folder descriptor, name) of each group: opened early, because the launcher later covers the
    place where control groups are mounted."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    return [(os.open(os.path.dirname(top), flags), os.path.basename(top)) for top in tops]


def remove(tops: list[tuple[int, str]]) -> None:
    """rmdir each tree, leaves first: groups cannot be removed otherwise, and hold no files."""
    for parent, name in tops:
        try:
            for _, folders, _, directory in os.fwalk(name, topdown=False, dir_fd=parent):
                for folder in folders:
                    os.rmdir(folder, dir_fd=directory)
            os.rmdir(name, dir_fd=parent)
        except OSError:
            continue
