"""The two sides never import each other, and each mechanism stays in its room."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOST = sorted((ROOT / "sandbox").rglob("*.py"))
WORKER = sorted((ROOT / "worker").rglob("*.py"))
KERNEL = sorted((ROOT / "worker" / "kernel").glob("*.py"))
GENERATED = ROOT / "worker" / "kernel" / "_ffi.py"


def imports(path: Path) -> Iterator[str]:
    """Top-level names of absolute imports anywhere in the file; "." and the name for relative."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                yield from ("." * node.level + (module or alias.name) for alias in node.names)
            else:
                yield module.partition(".")[0]


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_files_are_found() -> None:
    assert len(HOST) > 20
    assert len(WORKER) > 15
    assert "msgpack" in set(imports(ROOT / "sandbox" / "_channel.py"))


@pytest.mark.parametrize("path", HOST, ids=identify)
def test_the_host_imports_neither_the_worker_nor_a_way_around_it(path: Path) -> None:
    allowed = {"cffi"} if path.name == "_declare.py" else set()
    assert (set(imports(path)) - allowed).isdisjoint({"worker", "ctypes", "cffi", "shelve"})


@pytest.mark.parametrize("path", HOST, ids=identify)
def test_the_host_only_ever_pickles(path: Path) -> None:
    """`dumps` of these modules at the most: their readers run what they read."""
    used = {
        (node.value.id, node.attr)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    readers = {"load", "loads", "Unpickler"}
    modules = {"pickle", "cloudpickle", "marshal", "_pickle"}
    assert used.isdisjoint((module, reader) for module in modules for reader in readers)
    assert not {name for name in imports(path) if name.lstrip(".") in readers}


@pytest.mark.parametrize("path", WORKER, ids=identify)
def test_the_worker_imports_nothing_of_the_host(path: Path) -> None:
    allowed = {"cffi"} if path.name == "declare.py" else set()
    forbidden = {"sandbox", "pyseccomp", "tomllib", "ctypes", "subprocess", "logging", "threading"}
    assert (set(imports(path)) - allowed).isdisjoint(forbidden | {"cffi"})


@pytest.mark.parametrize("path", [path for path in KERNEL if path != GENERATED], ids=identify)
def test_a_kernel_mechanism_knows_only_how_to_call_the_kernel(path: Path) -> None:
    relative = {name for name in imports(path) if name.startswith(".")}
    assert relative <= {".call", "._ffi", ".native"}


def test_few_files_call_what_is_compiled() -> None:
    callers = {identify(path) for path in (*WORKER, *HOST) if "dlopen" in path.read_text()}
    assert callers == {
        "worker/kernel/call.py",
        "worker/kernel/native.py",
        "sandbox/_openat2.py",
    }


def test_the_generated_declarations_are_up_to_date(tmp_path: Path) -> None:
    from sandbox import _declare
    from worker.kernel import declare

    target = tmp_path / "_ffi.py"
    for generate, there in (
        (declare.generate, GENERATED),
        (_declare.generate, ROOT / "sandbox" / "_ffi.py"),
    ):
        generate(str(target))
        assert target.read_text() == there.read_text()
