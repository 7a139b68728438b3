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

struct clone_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls,
             set_tid, set_tid_size, cgroup;
};
struct mount_attr { uint64_t attr_set, attr_clr, propagation, userns_fd; };
struct cap_header { uint32_t version; int pid; };
struct cap_data { uint32_t effective, permitted, inheritable; };
struct sock_fprog { unsigned short len; void *filter; };
struct landlock_ruleset_attr { uint64_t handled_access_fs, handled_access_net, scoped; };
"""

# Packed in the kernel's header as well: 12 bytes, no tail padding.
PACKED = "struct landlock_path_beneath_attr { uint64_t allowed_access; int32_t parent_fd; };"


def generate(target: str) -> None:
    """Write the generated module to `target` (a development tool, not run in production)."""
    from cffi import FFI

    builder = FFI()
    builder.cdef(DECLARATIONS)
    builder.cdef(PACKED, packed=True)
    builder.set_source("worker.kernel._ffi", None)
    builder.emit_python_code(target)


if __name__ == "__main__":
    generate(os.path.join(os.path.dirname(os.path.abspath(__file__)), "_ffi.py"))
