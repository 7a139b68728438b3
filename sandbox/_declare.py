"""The C declarations of the host, which has one system call that Python lacks.

Run as a program it regenerates `_ffi.py` (cffi's out-of-line ABI mode, no compiler). Nothing checks
the layout at run time: `tests/kernel/test_layouts.py` compares it with the kernel's header.
"""

import os

DECLARATIONS = """
long syscall(long number, long a, long b, long c, long d, long e, long f);
struct open_how { uint64_t flags, mode, resolve; };
"""


def generate(target: str) -> None:
    """Write the generated module to `target` (a development tool, not run in production)."""
    from cffi import FFI

    builder = FFI()
    builder.cdef(DECLARATIONS)
    builder.set_source("sandbox._ffi", None)
    builder.emit_python_code(target)


if __name__ == "__main__":
    generate(os.path.join(os.path.dirname(os.path.abspath(__file__)), "_ffi.py"))
