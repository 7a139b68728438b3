"""Every C declaration of the worker program, in one place.

Run as a program it regenerates `_ffi.py` (cffi's out-of-line ABI mode: no compiler, 1.5 ms to
import instead of 90 for in-line declarations). Nothing checks these layouts at run time:
`tests/kernel/test_layouts.py` compares them with the kernel's headers.
"""

import os

DECLARATIONS = """
/* Declared with six fixed longs rather than as variadic: the kernel's own convention, the same
   registers on x86_64 and aarch64, and no cast per argument. */
long syscall(long number, long a, long b, long c, long d, long e, long f);

struct mount_attr { uint64_t attr_set, attr_clr, propagation, userns_fd; };
"""

_HERE = os.path.dirname(os.path.abspath(__file__))
_HEADER = os.path.join(os.path.dirname(_HERE), "native", "native.h")


def of_native() -> str:
    """What `native/native.h` says of the compiled part."""
    with open(_HEADER) as file:
        text = file.read()
    return text.partition("/* --- for Python, too --- */")[2].partition("/* --- for C")[0]


def generate(target: str) -> None:
    """Write the generated module to `target` (a development tool, not run in production)."""
    from cffi import FFI

    builder = FFI()
    builder.cdef(DECLARATIONS)
    builder.cdef(of_native())
    builder.set_source("worker.kernel._ffi", None)
    builder.emit_python_code(target)


if __name__ == "__main__":
    generate(os.path.join(_HERE, "_ffi.py"))
