"""Where modules lie on this host, and what a guest is therefore shown."""

from __future__ import annotations

import calendar
import json
import os
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox._visible import Visible, own_paths


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for packages, first on the host's path."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def write(folder: Path, *files: str) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("raise RuntimeError('the host imported this')")


def distribute(folder: Path, name: str, files: list[str], *requires: str) -> None:
    """A distribution as an installer leaves it."""
    write(folder, *files)
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0"]
    lines += [f"Requires-Dist: {each}" for each in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    listed = [*files, f"{info.name}/METADATA", "../../bin/tool", "__pycache__/x.pyc"]
    (info / "RECORD").write_text("".join(f"{each},,\n" for each in listed))


def names(visible: Visible, folder: Path) -> set[str]:
    return {os.path.relpath(path, folder) for path in visible.paths}


def test_numpy_with_its_libraries_and_metadata() -> None:
    visible = Visible.of(["numpy"])
    assert "numpy" in visible.modules
    shown = {os.path.basename(path) for path in visible.paths}
    assert {"numpy", "numpy.libs"} <= shown
    assert any(name.startswith("numpy-") and name.endswith(".dist-info") for name in shown)
    assert all(os.path.exists(path) for path in visible.paths)
    assert "pytest" not in shown
    code = "import sys; sys.path += sys.argv[1:]; import numpy; print(numpy.arange(3).sum())"
    command = [sys.executable, "-I", "-S", "-c", code, *visible.sys_path]
    assert subprocess.run(command, check=True, capture_output=True).stdout == b"3\n"


def test_nothing_but_the_standard_library_by_default() -> None:
    assert Visible.of([]) == Visible(frozenset(), (), ()) == Visible()
    assert Visible.of(["json", "xml.etree", "_socket", "builtins"]) == Visible()
    for name in ("json", "xml.etree.ElementTree", "builtins", "_thread", "os.path"):
        assert Visible().sees(name)
    for name in (
        "__main__",
        "__mp_main__",
        "sandbox",
        "sandbox._errors",
        "numpy",
        "",
        "jsonx",
    ):
        assert not Visible().sees(name)


def test_requirements_are_followed_and_extras_are_not(site: Path) -> None:
    requires = ("Dep.two>=1", 'optional; extra == "more"', "absent", 'marked; python_version > "3"')
    distribute(site, "one", ["one/__init__.py", f"_one{EXTENSION_SUFFIXES[0]}"], *requires)
    distribute(site, "dep-two", ["deptwo.py"], "one")
    distribute(site, "optional", ["optional.py"])
    distribute(site, "marked", ["marked.py", "marked.libs/libx.so"])
    distribute(site, "stranger", ["stranger.py"])
    visible = Visible.of(["one"])
    assert visible.modules == {"one", "_one", "deptwo", "marked"}
    assert names(visible, site) == {
        "one",
        f"_one{EXTENSION_SUFFIXES[0]}",
        "one-1.0.dist-info",
        "deptwo.py",
        "dep_two-1.0.dist-info",
        "marked.py",
        "marked.libs",
        "marked-1.0.dist-info",
    }
    assert visible.sys_path == (str(site),)


def test_a_distribution_named_otherwise_is_found(site: Path) -> None:
    distribute(site, "PyThing", ["thing/__init__.py"])
    assert names(Visible.of(["thing"]), site) == {"thing", "PyThing-1.0.dist-info"}


def test_modules_of_no_distribution(site: Path) -> None:
    write(site, "plain.py", "folder/__init__.py", "folder/sub/__init__.py", "other.py")
    visible = Visible.of(["plain", "folder.sub"])
    assert visible.modules == {"plain", "folder"}
    assert names(visible, site) == {"plain.py", "folder"}
    assert visible.sys_path == (str(site),)
    assert visible.sees("folder.sub.deep")
    assert not visible.sees("other")
    assert "plain" not in sys.modules
    assert "folder" not in sys.modules


def test_a_namespace_package_is_shown_wherever_it_lies(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path / "second")
    distribute(site, "space-a", ["space/a.py"], "needed")
    distribute(site, "space-b", ["space/b.py"])
    distribute(site, "needed", ["needed.py"])
    write(tmp_path, "second/space/c.py")
    visible = Visible.of(["space.c"])
    assert visible.modules == {"space", "needed"}
    assert names(visible, tmp_path) == {
        "second/space",
        "site-packages/space",
        "site-packages/space_a-1.0.dist-info",
        "site-packages/space_b-1.0.dist-info",
        "site-packages/needed.py",
        "site-packages/needed-1.0.dist-info",
    }
    assert visible.sys_path == (str(tmp_path / "second"), str(site))


def test_an_editable_installation_is_shown_where_its_source_lies(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path / "source")
    write(tmp_path, "source/edited/__init__.py", "source/secret.txt")
    distribute(site, "edited", ["__editable__.edited.pth"], "needed")
    (site / "edited-1.0.dist-info/top_level.txt").write_text("edited\n")
    distribute(site, "needed", ["needed.py"])
    visible = Visible.of(["edited"])
    assert visible.modules == {"edited", "needed"}
    assert names(visible, tmp_path) == {
        "source/edited",
        "site-packages/edited-1.0.dist-info",
        "site-packages/needed.py",
        "site-packages/needed-1.0.dist-info",
    }
    assert visible.sys_path == (str(tmp_path / "source"), str(site))


@pytest.mark.parametrize(
    ("preload", "said"),
    [
        (["no_such_module"], "no module named 'no_such_module'"),
        (["json", "plain.missing"], "no module named 'plain.missing'"),
        (["folder.missing"], "no module named 'folder.missing'"),
        (["__main__"], "no module named '__main__'"),
        ([""], "no module named ''"),
        ([".relative"], "no module named '.relative'"),
        (["sandbox"], "'sandbox' is part of the sandbox itself"),
        (["sandbox._errors"], "never visible inside"),
    ],
)
def test_a_name_that_cannot_be_preloaded(site: Path, preload: list[str], said: str) -> None:
    write(site, "plain.py", "folder/__init__.py")
    with pytest.raises(ValueError, match=said):
        Visible.of(preload)


@pytest.mark.parametrize("preload", ["numpy", [3], [None]])
def test_what_is_no_sequence_of_names(preload: list[str]) -> None:
    with pytest.raises(TypeError, match="sequence of module names"):
        Visible.of(preload)


def test_a_distribution_that_requires_the_sandbox_does_not_bring_it(site: Path) -> None:
    distribute(site, "plugin", ["plugin.py"], "jailer")
    distribute(site, "jailer", ["sandbox/__init__.py"])
    assert Visible.of(["plugin"]).modules == {"plugin"}
    assert names(Visible.of(["plugin"]), site) == {"plugin.py", "plugin-1.0.dist-info"}


@given(st.text())
def test_no_name_breaks_it(name: str) -> None:
    try:
        visible = Visible.of([name])
    except ValueError:
        return
    assert visible.sees(name)


def test_things_are_found_under_their_own_name_only() -> None:
    def local() -> None: ...

    assert Visible().finds(json.dumps)
    assert Visible().finds(json.JSONEncoder.default)
    assert Visible().finds(dict)
    assert not Visible().finds(local)
    assert not Visible().finds(Visible)
    renamed = types.FunctionType(json.dumps.__code__, {}, "dumps")
    renamed.__module__ = "json"
    assert not Visible().finds(renamed)


def test_an_applications_own_module_of_a_standard_name_is_not_visible(
    tmp_path: Path, pick: Callable[[str], str]
) -> None:
    (tmp_path / "calendar.py").write_text("def month(): return 'own'")
    assert Visible().finds(calendar.TextCalendar)
    assert pick(str(tmp_path)) == "False True\n"


@pytest.fixture
def pick() -> Callable[[str], str]:
    """In an interpreter of its own: whether the modules calendar and json are visible."""
    code = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import calendar, json
        from sandbox._visible import Visible
        print(Visible().sees("calendar"), Visible().sees("json"))
    """

    def run(folder: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), folder],
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    return run


def test_the_launchers_own_libraries_are_found_from_these_folders() -> None:
    code = "import sys; sys.path += sys.argv[1:]; import _cffi_backend, msgpack, cloudpickle"
    subprocess.run([sys.executable, "-I", "-S", "-c", code, *own_paths()], check=True)
