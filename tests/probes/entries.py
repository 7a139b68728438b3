"""Ways into the kernel other than the plain one, and tricks with arguments and threads."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import threading
import time
from collections.abc import Callable

from tests.probes.raw import attempt, machine_code, name_of, system_call, value_of

_I386_GETPID, _X86_64_GETPID, _X32_BIT = 20, 39, 0x40000000


def by_interrupt() -> int:
    """i386's getpid by `mov eax, 20; int 0x80; ret`, the 32-bit entry, from 64-bit code."""
    enter = b"\xb8" + _I386_GETPID.to_bytes(4, "little") + b"\xcd\x80\xc3"
    return machine_code(enter)()


def by_instruction() -> int:
    """getpid by `mov eax, 39; syscall; ret`: the plain entry, as code of one's own."""
    enter = b"\xb8" + _X86_64_GETPID.to_bytes(4, "little") + b"\x0f\x05\xc3"
    return machine_code(enter)()


def by_x32() -> str:
    return system_call(_X32_BIT | _X86_64_GETPID)


def own_pid() -> int:
    return os.getpid()


def forged_signal_frame(rt_sigreturn: int) -> None:
    """rt_sigreturn with a stack that no signal put there."""
    value_of(rt_sigreturn)


def from_a_thread(number: int) -> str:
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(system_call(number)))
    thread.start()
    thread.join()
    return answers[0]


def from_a_child(number: int) -> str:
    """The child's only act; its parent then returns as if nothing had been."""
    child = os.fork()
    if child == 0:
        system_call(number)
        os._exit(0)
    os.waitpid(child, 0)
    return "done"


def with_signals_blocked(number: int) -> str:
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
    for each in (signal.SIGSYS, signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    return system_call(number)


def from_many(number: int, count: int) -> str:
    """Several processes at once, and one that goes on meanwhile."""
    for _ in range(count):
        if os.fork() == 0:
            while True:
                system_call(number)
    time.sleep(30)
    return "done"


def own_filter(seccomp: int, action: int) -> str:
    """A seccomp filter of one instruction: `return action`."""
    return _with_filter(action, lambda program: system_call(seccomp, 1, 0, program))


def own_filter_by_prctl(prctl: int, action: int) -> str:
    """The same by the older way: PR_SET_SECCOMP, SECCOMP_MODE_FILTER."""
    return _with_filter(action, lambda program: system_call(prctl, 22, 2, program, 0, 0))


def _with_filter(action: int, load: Callable[[int], str]) -> str:
    instruction = (ctypes.c_uint64 * 1)(0x06 | action << 32)
    program = (ctypes.c_uint64 * 2)(1, ctypes.addressof(instruction))
    return load(ctypes.addressof(program))


def make_code_writable() -> str:
    """Memory that was writable becomes executable."""
    libc = ctypes.CDLL(None, use_errno=True)
    area = mmap.mmap(-1, 4096)
    place = ctypes.addressof(ctypes.c_char.from_buffer(area))
    rights = mmap.PROT_READ | mmap.PROT_EXEC
    if libc.mprotect(ctypes.c_void_p(place), ctypes.c_size_t(4096), rights) != 0:
        return name_of(ctypes.get_errno())
    return "done"


def map_writable_code() -> str:
    """Memory that is both at once."""
    rights = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    return attempt(lambda: mmap.mmap(-1, 4096, prot=rights).close())


def map_twice() -> str:
    """The same memory mapped once to be written and once to be executed."""

    def map_both() -> None:
        area = os.memfd_create("both")
        os.ftruncate(area, 4096)
        rights = mmap.PROT_READ | mmap.PROT_EXEC
        with mmap.mmap(area, 4096) as writable, mmap.mmap(area, 4096, prot=rights) as executable:
            writable[:4] = b"code"
            if executable[:4] != b"code":
                raise LookupError("not the same memory")

    return attempt(map_both)


def interrupted(number: int, argument: int) -> tuple[str, bool]:
    """A system call while a child sends signals whose handler does not restart it: the answer, and
    whether one's user namespace has become another."""
    before, parent = os.stat("/proc/self/ns/user").st_ino, os.getpid()
    signal.signal(signal.SIGUSR1, lambda *_: None)
    start, starter = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.read(start, 1)
            for _ in range(500):
                os.kill(parent, signal.SIGUSR1)
        finally:
            os._exit(0)
    os.write(starter, b"x")
    answer = system_call(number, argument)
    os.waitpid(child, 0)
    return answer, os.stat("/proc/self/ns/user").st_ino != before


def callback() -> int:
    """What honest code does with ctypes."""
    double = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda x: 2 * x)
    return int(double(21))
