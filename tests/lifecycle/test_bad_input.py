"""What cannot be meant is refused by name, before anything is created."""

from __future__ import annotations

import ast
import json
import math
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox import (
    ClosedError,
    Limits,
    Mount,
    Policy,
    PolicyError,
    Sandbox,
    SandboxError,
    TransferError,
)
from tests.conftest import ROOT
from tests.lifecycle.apps import App
from tests.lifecycle.traces import settled, traces

Make = Callable[..., Sandbox]


LIMITS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"wall_time": -1}, ValueError, "wall_time"),
    ({"wall_time": 0}, ValueError, "wall_time"),
    ({"cpu_time": math.nan}, ValueError, "cpu_time"),
    ({"cpu_time": math.inf}, ValueError, "cpu_time"),
    ({"cpu_time": 1e300}, ValueError, "cpu_time"),
    ({"cpu_time": 10**400}, ValueError, "^cpu_time"),
    ({"cpu_time": True}, TypeError, "cpu_time"),
    ({"cpu_time": "2"}, TypeError, "cpu_time"),
    ({"memory": 0}, ValueError, "memory"),
    ({"memory": -5}, ValueError, "memory"),
    ({"memory": 1 << 60}, ValueError, "memory"),
    ({"memory": "9" * 400 + "M"}, ValueError, "^memory"),
    ({"memory": 1e9}, TypeError, "memory"),
    ({"memory": "256Q"}, ValueError, "256Q"),
    ({"memory": "-1M"}, ValueError, "-1M"),
    ({"memory": "nan"}, ValueError, "nan"),
    ({"memory": ""}, ValueError, "memory"),
    ({"swap": None}, TypeError, "swap"),
    ({"disk": None}, TypeError, "disk"),
    ({"result": 0}, ValueError, "result"),
    ({"processes": 0}, ValueError, "processes"),
    ({"processes": 2.5}, TypeError, "processes"),
    ({"open_files": 3}, ValueError, "open_files"),
    ({"inodes": -1}, ValueError, "inodes"),
    ({"stack": 1}, ValueError, "stack"),
    ({"stack": 1 << 50}, ValueError, "stack"),
    ({"output": -1}, ValueError, "output"),
    ({"cpus": 0}, ValueError, "cpus"),
    ({"cpus": math.nan}, ValueError, "cpus"),
    ({"speed": 1}, TypeError, "speed"),
]


@pytest.mark.parametrize(("values", "kind", "text"), LIMITS, ids=lambda v: str(v)[:60])
def test_absurd_limits(values: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        Limits(**values)


OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"limits": {"memory": "1G"}}, TypeError, "expected Limits, not dict"),
    ({"policy": "pyhton"}, PolicyError, "pyhton"),
    ({"policy": "/nowhere/policy.toml"}, PolicyError, "/nowhere/policy.toml"),
    ({"policy": 7}, PolicyError, "not int"),
    ({"mounts": ["/usr"]}, TypeError, "expected Mount, not str"),
    ({"mounts": [Mount("/nowhere", "/data")]}, ValueError, "/nowhere.*No such file"),
    ({"mounts": [Mount("/usr/share", "data")]}, ValueError, "'data'"),
    ({"mounts": [Mount("/usr/share", "/")]}, ValueError, "'/'"),
    ({"mounts": [Mount("/usr/share", "/data/../usr")]}, ValueError, "normalised"),
    ({"mounts": [Mount("/usr/share", "/usr/lib")]}, ValueError, "the jail needs"),
    ({"mounts": [Mount("/usr/share", "/proc")]}, ValueError, "the jail needs"),
    ({"mounts": [Mount("/usr/share", "/work/x")]}, ValueError, "the jail needs"),
    ({"mounts": [Mount("/", "/host")]}, ValueError, "whole root"),
    ({"mounts": [Mount("/sys", "/s")]}, ValueError, "/sys.*whole machine"),
    ({"mounts": [Mount("/proc", "/p")]}, ValueError, "source '/proc'.*whole machine"),
    ({"mounts": [Mount("/proc/self", "/p")]}, ValueError, "source '/proc/.*whole machine"),
    ({"mounts": [Mount("/proc/cpuinfo", "/p")]}, ValueError, "source '/proc/cpuinfo' is on proc"),
    ({"mounts": [Mount("/dev", "/d")]}, ValueError, "source '/dev'.*device nodes"),
    ({"mounts": [Mount("", "/data")]}, ValueError, "source is empty"),
    ({"mounts": [Mount("/usr/share", "")]}, ValueError, "target is empty"),
    ({"mounts": [Mount("/usr/sh\0are", "/data")]}, ValueError, "source .* NUL"),
    ({"mounts": [Mount("/usr/share", "/da\0ta")]}, ValueError, "target .* NUL"),
    ({"mounts": [Mount("/usr/\udcff", "/data")]}, ValueError, "source .* UTF-8"),
    ({"mounts": [Mount("/usr/share", "/\udcff")]}, ValueError, "target .* UTF-8"),
    ({"mounts": [Mount(b"/usr", "/data")]}, TypeError, "source.*not bytes"),  # type: ignore[arg-type]
    ({"mounts": [Mount("/usr", 5)]}, TypeError, "target: expected a path, not int"),  # type: ignore[arg-type]
    ({"mounts": [Mount("/usr/share", "/data", writable="no")]}, TypeError, "writable.*not str"),  # type: ignore[arg-type]
    ({"mounts": [Mount("/usr/share", "/data", writable=1)]}, TypeError, "writable.*not int"),  # type: ignore[arg-type]
    ({"mounts": [Mount("/usr/share", "//usr/lib")]}, ValueError, "normalised"),
    ({"mounts": [Mount("/usr/share", "/" + "x" * 256)]}, ValueError, "target .* too long"),
    ({"mounts": [Mount("/usr/share", "/" + "\u00e9" * 128)]}, ValueError, "target .* too long"),
    ({"mounts": [Mount("/usr/share", "/x" * 2048)]}, ValueError, "target .* too long"),
    ({"mounts": [Mount("/usr/share", "/empty")]}, ValueError, "the jail needs"),
    ({"mounts": [Mount("/dev/null", "/device")]}, ValueError, "neither a folder nor a regular"),
    ({"mounts": [Mount("/usr/share", "/d"), Mount("/usr/lib", "/d")]}, ValueError, "/d"),
    ({"env": {"A=B": "c"}}, ValueError, "A=B"),
    ({"env": {"A": "b\0"}}, ValueError, "A"),
    ({"env": {"A": 1}}, TypeError, "A"),
    ({"env": {"A": "\ud800"}}, ValueError, "UTF-8"),
    ({"env": {"A": "x" * 65536}}, ValueError, "65536"),
    ({"preload": "numpy"}, TypeError, "preload"),
    ({"preload": ["no_such_module"]}, ValueError, "no_such_module"),
    ({"allow_missing": {"seccomp"}}, ValueError, "seccomp"),
    ({"allow_missing": "landlock"}, TypeError, "allow_missing"),
]


@pytest.mark.parametrize(("options", "kind", "text"), OPTIONS, ids=lambda v: str(v)[:60])
def test_bad_arguments(options: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        Sandbox(**options)


def test_nothing_is_created_for_bad_arguments() -> None:
    before = settled()
    for options, kind, _ in OPTIONS:
        with pytest.raises(kind):
            Sandbox(**options)
    assert traces() == before


@pytest.mark.parametrize("kind", ["socket", "fifo"])
def test_a_mount_that_reaches_past_the_jail(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "fifo":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    with pytest.raises(ValueError, match="sockets, FIFOs"):
        Sandbox(mounts=[Mount(path, "/data")])


PLACES = [
    os.path.dirname(json.__file__),
    f"{os.path.dirname(os.__file__)}/zz",
    f"{sys.base_prefix}/bin",
]


@pytest.mark.parametrize("target", PLACES, ids=["there", "new", "bin"])
def test_a_mount_among_what_the_interpreter_needs(target: str) -> None:
    with pytest.raises(ValueError, match="lies over a place the jail needs"):
        Sandbox(mounts=[Mount("/usr/share", target)])


@pytest.fixture
def tree(tmp_path: Path) -> str:
    """A folder with a folder, a file, a link to the folder and a FIFO in it."""
    for made in (tmp_path, tmp_path / "folder"):
        made.mkdir(exist_ok=True)
        made.chmod(0o755)
    (tmp_path / "file").write_text("the host's")
    (tmp_path / "file").chmod(0o644)
    (tmp_path / "link").symlink_to("folder")
    os.mkfifo(tmp_path / "fifo")
    return str(tmp_path)


# Two mounts, (what of the tree, target): the second one is refused.
PAIRS = [
    ("", "/data", "folder", "/data/new", "'/data/new' lies in the mount at '/data'.*not a folder"),
    ("", "/data", "file", "/data/new", "not a regular file"),
    ("", "/data", "folder", "/data/new/deep", "not a folder"),
    ("", "/data", "folder", "/data/file", "not a folder"),
    ("", "/data", "file", "/data/folder", "not a regular file"),
    ("", "/data", "file", "/data/fifo", "not a regular file"),
    ("", "/data", "folder", "/data/link", "not a folder"),
    ("", "/data", "folder", "/data/link/folder", "not a folder"),
    ("file", "/data", "folder", "/data/inner", "not a folder"),
    ("folder", "/data/inner", "file", "/data", "'/data' would cover the mount at '/data/inner'"),
    ("folder", "/data/inner", "", "/data", "name the outer one first"),
    ("", "/data", "folder", "/data", "would cover"),
]


@pytest.mark.parametrize(("one", "first", "two", "second", "text"), PAIRS)
def test_a_mount_in_another_one_that_has_no_place_for_it(
    tree: str, one: str, first: str, two: str, second: str, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        Sandbox(mounts=[Mount(f"{tree}/{one}", first), Mount(f"{tree}/{two}", second)])


def look(*paths: str) -> list[Any]:
    return [sorted(os.listdir(p)) if os.path.isdir(p) else Path(p).read_text() for p in paths]


def test_mounts_in_each_other_where_there_is_a_place(make_sandbox: Make, tree: str) -> None:
    """Folder over folder, in that one again, and file over file."""
    mounts = [
        Mount(tree, "/data"),
        Mount(tree, "/data/folder", writable=True),
        Mount("/usr/share", "/data/folder/folder"),
        Mount(os.__file__, "/data/file"),
    ]
    with make_sandbox(mounts=mounts) as sandbox:
        seen = sandbox.run(look, "/data/folder", "/data/folder/folder", "/data/file")
    assert seen == look(tree, "/usr/share", os.__file__)


LONGEST = "/" + "/".join(["x" * 255] * 15) + "/" + "y" * 254
NAMES = ["/da\u00a0ta/a\x0cb\x85c\x1cd", "/a b\tc\nd\\040e", "/#\u00f6", LONGEST]


@pytest.mark.parametrize("target", NAMES, ids=["other spaces", "escapes", "letters", "longest"])
def test_a_target_may_have_any_other_name(make_sandbox: Make, tree: str, target: str) -> None:
    assert len(LONGEST) == 4095
    with make_sandbox(mounts=[Mount(tree, target, writable=True)]) as sandbox:
        assert "folder" in sandbox.run(os.listdir, target)


HEAD = "schema = 1\nname = 'x'\ndescription = 'for a test'\n"
POLICIES = [
    (HEAD + "colour = 'red'\n", 4, "colour"),
    (HEAD + "[[allow]]\ncalls = ['raed']\nreason = 'a typing error'\n", 5, "raed"),
    (HEAD + "default = 'explode'\n", 4, "explode"),
    (HEAD + "[[permit]]\ncalls = ['read']\nreason = 'unknown action'\n", 4, "permit"),
    (HEAD + "name = \n", 4, "line 4"),
]


@pytest.mark.parametrize(
    ("text", "line", "word"), POLICIES, ids=["key", "call", "default", "action", "toml"]
)
def test_a_bad_policy_file_is_named_with_its_line(
    tmp_path: Path, text: str, line: int, word: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(PolicyError, match=word) as caught:
        Sandbox(policy=path)
    assert str(path) in str(caught.value)
    assert f"line {line}" in str(caught.value)


def test_a_policy_object_needs_rules() -> None:
    with pytest.raises(TypeError):
        Policy("mine")  # type: ignore[call-arg]


FRAME: Any = sys._getframe()
NOTHING: list[int] = []
INT: Any = int


def iter_of_nothing() -> Any:
    yield from ()


def test_what_cannot_travel_is_named(make_sandbox: Make) -> None:
    with make_sandbox() as sandbox:
        with pytest.raises(TransferError, match="argument 1"):
            sandbox.call(INT, FRAME)
        with pytest.raises(TransferError, match="argument 2"):
            sandbox.call(INT, 1, (each for each in NOTHING))
        with pytest.raises(TransferError, match="'base'"):
            sandbox.call(INT, base=FRAME)
        with pytest.raises(TransferError, match="FRAME"):
            sandbox.call(lambda: FRAME)
        with pytest.raises(TransferError, match="int is not callable"):
            sandbox.call(5)  # type: ignore[arg-type]


# --- a life in the wrong order ----------------------------------------------------------------------


def test_use_before_with_after_close_and_twice(make_sandbox: Make) -> None:
    sandbox = make_sandbox()
    with pytest.raises(ClosedError, match="not open yet"):
        sandbox.run(int)
    with sandbox:
        with pytest.raises(ClosedError, match="does not nest"), sandbox:
            pass
        assert sandbox.run(int) == 0
    for use in (lambda: sandbox.run(int), lambda: sandbox.call(int), sandbox.__enter__):
        with pytest.raises(ClosedError, match="closed"):
            use()
    assert isinstance(ClosedError(), RuntimeError)
    assert isinstance(ClosedError(), SandboxError)


def test_a_sandbox_that_was_never_entered_can_be_closed(make_sandbox: Make) -> None:
    sandbox = make_sandbox()
    sandbox.close()
    with pytest.raises(ClosedError, match="closed"):
        sandbox.__enter__()


# --- not this Python, not this system ---------------------------------------------------------------

WITHOUT_THE_REST = """
import sys
for name in ("cffi", "cloudpickle", "fcntl", "msgpack", "resource", "tomllib"):
    sys.modules[name] = None
"""
IMPORTING = [
    ("sys.platform = 'darwin'", "needs Linux.*darwin.*virtual machine"),
    ("sys.platform = 'win32'; del sys.modules['os'].uname", "needs Linux.*win32"),
    ("sys.version_info = (3, 10, 0, 'final', 0)", "Python 3.10.*3.11 or newer"),
]


@pytest.mark.parametrize(("change", "text"), IMPORTING, ids=["darwin", "win32", "3.10"])
def test_importing_it_on_an_unsupported_system_says_so(change: str, text: str) -> None:
    """What such a system lacks is not there, so that the check has to come before all else."""
    done = subprocess.run(
        [sys.executable, "-c", f"{WITHOUT_THE_REST}{change}\nimport sandbox"],
        env={**os.environ, "PYTHONPATH": ROOT},
        cwd="/", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert re.match(f"sandbox._errors.Unsupported: platform .*{text}", last), done.stderr


@pytest.mark.parametrize("name", ["__init__", "_platform", "_errors"])
def test_what_says_so_can_be_read_by_an_older_python(name: str) -> None:
    """Annotations too: they are not evaluated."""
    path = Path(ROOT, "sandbox", f"{name}.py")
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert name == "__init__" or "__future__" in modules


CONSTRUCTING = [
    ("import sys; sys.platform = 'darwin'", "Linux"),
    ("import sys; sys.version_info = (3, 10, 0, 'final', 0)", "3.11"),
    ("import sys; sys.maxsize = (1 << 31) - 1", "32-bit"),
    ("import sys; sys.implementation.name = 'pypy'", "pypy"),
    ("import os; u = os.uname(); os.uname = lambda: type(u)((*u[:4], 's390x'))", "s390x"),
    ("import os; u = os.uname(); os.uname = lambda: type(u)((*u[:4], 'i686'))", "i686"),
]


@pytest.mark.parametrize(
    ("change", "text"), CONSTRUCTING, ids=["system", "version", "32-bit", "pypy", "s390x", "i686"]
)
def test_an_unsupported_platform_is_named_before_anything_is_made(
    start_app: Callable[..., App], change: str, text: str
) -> None:
    """Nothing is ever entered here."""
    app = start_app(
        f"{change}\ntry:\n    make()\n"
        "except Unsupported as error:\n"
        "    tell([error.feature, error.remedy, str(error), RUNTIME._groups is None])"
    )
    feature, remedy, message, pristine = app.heard()
    assert feature == "platform"
    assert text in message
    assert remedy
    assert pristine
