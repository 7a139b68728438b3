"""The declarations of worker/kernel/_ffi.py against the kernel's ABI: sizes and offsets are part of
it, and the kernel's headers agree where a compiler and headers are at hand."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from worker.kernel._ffi import ffi
from worker.kernel.call import NUMBERS

# struct → size, and field → offset, of the 64-bit ABI.
LAYOUTS: dict[str, tuple[int, dict[str, int]]] = {
    "mount_attr": (32, {"attr_set": 0, "attr_clr": 8, "propagation": 16, "userns_fd": 24}),
}  # fmt: skip

# The kernel's own name and header, where it differs.
HEADERS = {
    "mount_attr": ("struct mount_attr", "linux/mount.h"),
}


ROOT = Path(__file__).resolve().parents[2]
COMPILER = shutil.which("cc") or shutil.which("gcc") or "no C compiler"


def compiled(lines: list[str], folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A C compiler's opinion of a program of these lines."""
    source = folder / "layouts.c"
    source.write_text("\n".join([*lines, "int main(void) { return 0; }", ""]))
    return subprocess.run(
        [COMPILER, "-std=gnu11", "-fsyntax-only", *options, str(source)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_struct_is_laid_out_as_the_kernel_expects(name: str) -> None:
    size, offsets = LAYOUTS[name]
    kind = f"struct {name}"
    assert ffi.sizeof(kind) == size
    assert {field: ffi.offsetof(kind, field) for field in offsets} == offsets
    declared = ffi.typeof(kind).fields
    assert [field for field, _ in declared] == list(offsets)


def test_the_one_struct_of_the_host_is_laid_out_as_the_kernel_expects() -> None:
    """struct open_how of linux/openat2.h."""
    from sandbox._ffi import ffi as host

    assert host.sizeof("struct open_how") == 24
    fields = ("flags", "mode", "resolve")
    assert [host.offsetof("struct open_how", name) for name in fields] == [0, 8, 16]


OURS = ("option", "limit", "beneath", "filter", "plan", "jail", "call")


def test_every_declared_struct_is_checked() -> None:
    structs = {name for name in ffi.list_types()[1] if not name.startswith("_")}
    assert structs == {*LAYOUTS, *OURS}
    assert set(LAYOUTS) == set(HEADERS)


def test_what_python_was_told_of_the_compiled_part_is_so(tmp_path: Path) -> None:
    """Of all structures of native.h, by the compiler that compiled it."""
    lines = ["#include <stddef.h>", '#include "native.h"']
    for name in OURS:
        kind = f"struct {name}"
        lines.append(f'_Static_assert(sizeof({kind}) == {ffi.sizeof(kind)}, "");')
        for field, _ in ffi.typeof(kind).fields:
            offset = ffi.offsetof(kind, field)
            lines.append(f'_Static_assert(offsetof({kind}, {field}) == {offset}, "");')
    done = compiled(lines, tmp_path, f"-I{ROOT / 'worker' / 'native'}")
    assert done.returncode == 0, done.stderr
    lines.append(f'_Static_assert(sizeof(struct call) == {ffi.sizeof("struct call") + 8}, "");')
    assert compiled(lines, tmp_path, f"-I{ROOT / 'worker' / 'native'}").returncode != 0


def test_what_was_compiled_for_other_structures_is_refused(tmp_path: Path) -> None:
    """After an update of the sources alone, for example."""
    source = tmp_path / "sizes.c"
    source.write_text("const unsigned native_sizes[3] = {1, 2, 3};\n")
    worker = tmp_path / "worker"
    shutil.copytree(ROOT / "worker", worker, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    target = str(worker / "_native.abi3.so")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", target, str(source)], check=True)
    done = subprocess.run(
        [sys.executable, "-c", "import worker.kernel.native"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "install sandbox again" in done.stderr


def test_a_long_is_a_register() -> None:
    assert ffi.sizeof("long") == struct.calcsize("P") == 8


def test_the_kernels_headers_agree(tmp_path: Path) -> None:
    known = [n for n, (_, h) in HEADERS.items() if Path("/usr/include", h).exists()]
    assert known
    lines = ["#include <stddef.h>", "#include <linux/types.h>"]
    lines += [f"#include <{header}>" for header in {HEADERS[name][1] for name in known}]
    for name in known:
        for field, offset in LAYOUTS[name][1].items():
            lines.append(f'_Static_assert(offsetof({HEADERS[name][0]}, {field}) == {offset}, "");')
        lines.append(f'_Static_assert(sizeof({HEADERS[name][0]}) == {LAYOUTS[name][0]}, "");')
    done = compiled(lines, tmp_path)
    assert done.returncode == 0, done.stderr


def test_system_call_numbers_are_those_of_this_machine() -> None:
    """libseccomp's table, made from the kernel's own by other people."""
    import pyseccomp

    for name, number in NUMBERS.items():
        theirs = pyseccomp.resolve_syscall(pyseccomp.system_arch(), name)
        assert theirs in (number, -1), name  # -1: newer than this libseccomp
