"""Files a guest has written: what is taken, and what is refused with which reason."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import _collect
from sandbox._collect import Collected, Patterns, collect


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def collected(work: Path, *patterns: str, most: int = 1000) -> Collected:
    scratch = os.open(work.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return collect(scratch, "work", Patterns(patterns), most)
    finally:
        os.close(scratch)


def fill(work: Path, *names: str) -> None:
    for name in names:
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


# --- patterns ---------------------------------------------------------------------------------------

TREE = ("a.txt", "b.c", "out/a.txt", "out/b.txt", "out/deep/c.txt", "out/deep/er/d.txt", ".hidden")


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["*.txt"], {"a.txt"}),
        (["?.c"], {"b.c"}),
        (["[ab].*"], {"a.txt", "b.c"}),
        (["[!a].*"], {"b.c"}),
        (["out/*.txt"], {"out/a.txt", "out/b.txt"}),
        (["*/a.txt"], {"out/a.txt"}),
        (["**/a.txt"], {"a.txt", "out/a.txt"}),
        (["out/**/*.txt"], {"out/a.txt", "out/b.txt", "out/deep/c.txt", "out/deep/er/d.txt"}),
        (["out/**/deep/*.txt"], {"out/deep/c.txt"}),
        (["**"], set(TREE)),
        (["out/**"], {name for name in TREE if name.startswith("out/")}),
        (["nothing/*"], set()),
        (["a.txt", "**/d.txt"], {"a.txt", "out/deep/er/d.txt"}),
        ([], set()),
    ],
    ids=str,
)
def test_a_pattern_takes_what_it_names(work: Path, patterns: list[str], names: set[str]) -> None:
    fill(work, *TREE)
    found = collected(work, *patterns)
    assert set(found.files) == names
    assert all(content == name.encode() for name, content in found.files.items())
    assert found.refused == {}


@pytest.mark.parametrize(
    "pattern", ["/etc/*", "../x", "a//b", ".", "", "a/../b", "x\0", "a**b", "a/"]
)
def test_a_pattern_that_leads_out_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="collect"):
        Patterns([pattern])


@pytest.mark.parametrize("patterns", ["*.txt", b"*", 5, [b"*"], [None]])
def test_patterns_are_a_sequence_of_strings(patterns: object) -> None:
    with pytest.raises(TypeError, match="collect"):
        Patterns(patterns)  # type: ignore[arg-type]


def test_no_name_makes_matching_slow(work: Path) -> None:
    (work / ("a" * 250)).write_text("x")
    assert collected(work, "*a*a*a*a*a*a*a*a*a*a*b", "**/**/**/**/*a*a*a*a*b").files == {}


# --- what is refused --------------------------------------------------------------------------------

FOLDER, LINK = "it is a folder, not a regular file", "it is a symbolic link, not a folder"


@pytest.mark.parametrize(
    ("patterns", "refused"),
    [
        (["out"], {"out": FOLDER}),
        (["out/*"], {"out/deep": FOLDER}),
        (["out", "out/*"], {"out": FOLDER, "out/deep": FOLDER}),
        (["**/deep"], {"out/deep": FOLDER}),
        (["**/*.txt"], {"x.txt": FOLDER}),
        (["to-etc/passwd", "to-etc/*"], {"to-etc": LINK}),
        (["to-out/deep/c.txt"], {"to-out": LINK}),
        (["to-?*/a.txt"], {"to-etc": LINK, "to-out": LINK}),
        (["**/to-out/a.txt"], {"to-out": LINK}),
        (["to-out/**/c.txt"], {"to-out": LINK}),
        (["to-etc/**"], {"to-etc": "it is a symbolic link, not a regular file"}),
        (["b.c/x"], {"b.c": "it is a regular file, not a folder"}),
        (["*/*/c.txt"], {"to-etc": LINK, "to-out": LINK}),
        (["**/c.txt", "**/*.c", "no/*", "out/**"], {}),
    ],
    ids=str,
)
def test_what_a_pattern_names_and_is_none_is_told(
    work: Path, patterns: list[str], refused: dict[str, str]
) -> None:
    """A folder where a file is named, something else where a folder is; not what is passed on the
    way."""
    fill(work, *TREE)
    (work / "x.txt").mkdir()
    (work / "to-etc").symlink_to("/etc")
    (work / "to-out").symlink_to("out")
    assert collected(work, *patterns).refused == refused


def test_a_folder_below_which_nothing_is_wanted_is_not_entered(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest could fill it until nothing else is brought back."""
    fill(work, "wanted", *(f"many/{number}" for number in range(20)))
    monkeypatch.setattr(_collect, "_MOST_ENTRIES", 10)
    found = collected(work, "*")
    assert (set(found.files), found.refused) == ({"wanted"}, {"many": FOLDER})


def test_links_are_not_followed(work: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    (work / "link").symlink_to(secret)
    (work / "folder").symlink_to(tmp_path)
    (work / "proc").symlink_to("/proc/self")
    os.link(secret, work / "second-name")
    found = collected(work, "**", "folder/*", "proc/*")
    assert found.files == {}
    assert set(found.refused) == {"link", "folder", "proc", "second-name"}
    assert "symbolic link" in found.refused["link"]
    assert "2 names" in found.refused["second-name"]


def test_only_regular_files_are_read(work: Path) -> None:
    os.mkfifo(work / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(work / "socket"))
        fill(work, "file")
        found = collected(work, "*")
    assert set(found.files) == {"file"}
    assert "FIFO" in found.refused["fifo"]
    assert "socket" in found.refused["socket"]


def test_a_mount_is_not_entered(tmp_path: Path) -> None:
    """/proc lies on another file system than the root does: the same way a mount below would."""
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = collect(root, "proc", Patterns(["version"]), 1000)
        assert (found.files, set(found.refused)) == ({}, {"**"})
        assert "cross-device" in found.refused["**"]
    finally:
        os.close(root)


def test_sizes_are_capped_one_by_one_and_in_all(work: Path) -> None:
    (work / "a").write_bytes(bytes(600))
    (work / "b").write_bytes(bytes(600))
    (work / "c").write_bytes(bytes(400))
    with open(work / "sparse", "wb") as file:
        file.truncate(1 << 40)
    found = collected(work, "*", most=1000)
    assert set(found.files) == {"a", "c"}
    assert "600 bytes" in found.refused["b"]
    assert f"{1 << 40} bytes" in found.refused["sparse"]


def test_a_tree_that_is_too_deep_is_refused(work: Path) -> None:
    fill(work, "top")
    here = os.open(work, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    found = collected(work, "**")
    assert set(found.files) == {"top"}
    ((path, reason),) = found.refused.items()
    assert path.count("d") == 64
    assert "deeper than 64" in reason


def test_counts_are_capped(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(work, *(str(number) for number in range(20)))
    with monkeypatch.context() as patched:
        patched.setattr(_collect, "_MOST_ENTRIES", 10)
        assert "more than 10 files" in collected(work, "*").refused["**"]
    with monkeypatch.context() as patched:
        patched.setattr(_collect, "_MOST_FILES", 5)
        found = collected(work, "*")
        assert len(found.files) == 5
        assert "more than 5 wanted" in found.refused["**"]
    with monkeypatch.context() as patched:
        patched.setattr(_collect, "_SECONDS", -1.0)
        assert "took longer" in collected(work, "*").refused["**"]
    with monkeypatch.context() as patched:
        patched.setattr(_collect, "_MOST_REFUSALS", 3)
        found = collected(work, "*", most=0)
        assert len(found.refused) == 4
        assert "more than 3" in found.refused["**"]


NAMES = [b"new\nline", b"\xff\xfe", b"-rf", b" ", b"a;b", b"\x1b[31m", "é".encode(), b"*", b"...",
         b"x" * 255]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_names_are_taken_as_they_are(work: Path, name: bytes) -> None:
    with open(os.fsencode(work) + b"/" + name, "wb") as file:
        file.write(b"1")
    assert collected(work, "*").files == {os.fsdecode(name): b"1"}


@pytest.fixture
def descriptors() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("descriptors")
def test_no_descriptor_is_left_open(work: Path) -> None:
    fill(work, *TREE)
    os.mkfifo(work / "out" / "fifo")
    (work / "out" / "deep" / "link").symlink_to("/")
    (work / "closed").mkdir(0)
    collected(work, "**", most=3)
