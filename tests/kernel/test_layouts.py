"""The declarations of worker/kernel/_ffi.py against the kernel's ABI: sizes and offsets are part of
it, and the kernel's headers agree where a compiler and headers are at hand."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from worker.kernel._ffi import ffi
from worker.kernel.call import NUMBERS

# struct → size, and field → offset, of the 64-bit ABI.
LAYOUTS: dict[str, tuple[int, dict[str, int]]] = {
    "clone_args": (
        88,
        {
            "flags": 0, "pidfd": 8, "child_tid": 16, "parent_tid": 24, "exit_signal": 32,
            "stack": 40, "stack_size": 48, "tls": 56, "set_tid": 64, "set_tid_size": 72,
            "cgroup": 80,
        },
    ),
    "mount_attr": (32, {"attr_set": 0, "attr_clr": 8, "propagation": 16, "userns_fd": 24}),
    "cap_header": (8, {"version": 0, "pid": 4}),
    "cap_data": (12, {"effective": 0, "permitted": 4, "inheritable": 8}),
    "sock_fprog": (16, {"len": 0, "filter": 8}),
    "landlock_ruleset_attr": (
        24, {"handled_access_fs": 0, "handled_access_net": 8, "scoped": 16},
    ),
    "landlock_path_beneath_attr": (12, {"allowed_access": 0, "parent_fd": 8}),
}  # fmt: skip

# The kernel's own name and header, where it differs.
HEADERS = {
    "clone_args": ("struct clone_args", "linux/sched.h"),
    "mount_attr": ("struct mount_attr", "linux/mount.h"),
    "cap_header": ("struct __user_cap_header_struct", "linux/capability.h"),
    "cap_data": ("struct __user_cap_data_struct", "linux/capability.h"),
    "sock_fprog": ("struct sock_fprog", "linux/filter.h"),
    "landlock_ruleset_attr": ("struct landlock_ruleset_attr", "linux/landlock.h"),
    "landlock_path_beneath_attr": ("struct landlock_path_beneath_attr", "linux/landlock.h"),
}


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


def test_every_declared_struct_is_checked() -> None:
    structs = {name for name in ffi.list_types()[1] if not name.startswith("_")}
    assert structs == set(LAYOUTS) == set(HEADERS)


def test_a_long_is_a_register() -> None:
    assert ffi.sizeof("long") == struct.calcsize("P") == 8


# Fields that older headers do not know; their offsets are checked above.
NEWER = {"handled_access_net", "scoped", "cgroup", "set_tid", "set_tid_size"}


def test_the_kernels_headers_agree(tmp_path: Path) -> None:
    """Without a compiler or headers nothing is left to compare: the table above is the ABI."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    known = [n for n, (_, h) in HEADERS.items() if Path("/usr/include", h).exists()]
    if compiler is None or not known:
        assert all(ffi.sizeof(f"struct {name}") == LAYOUTS[name][0] for name in LAYOUTS)
        return
    lines = ["#include <stddef.h>", "#include <linux/types.h>"]
    lines += [f"#include <{header}>" for header in {HEADERS[name][1] for name in known}]
    for name in known:
        for field in set(LAYOUTS[name][1]) - NEWER:
            offset = LAYOUTS[name][1][field]
            lines.append(f'_Static_assert(offsetof({HEADERS[name][0]}, {field}) == {offset}, "");')
        if not NEWER & set(LAYOUTS[name][1]):
            lines.append(f'_Static_assert(sizeof({HEADERS[name][0]}) == {LAYOUTS[name][0]}, "");')
    source = tmp_path / "layouts.c"
    source.write_text("\n".join([*lines, "int main(void) { return 0; }", ""]))
    done = subprocess.run(
        [compiler, "-fsyntax-only", str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_system_call_numbers_are_those_of_this_machine() -> None:
    """libseccomp's table, made from the kernel's own by other people."""
    import pyseccomp

    for name, number in NUMBERS.items():
        theirs = pyseccomp.resolve_syscall(pyseccomp.system_arch(), name)
        assert theirs in (number, -1), name  # -1: newer than this libseccomp
