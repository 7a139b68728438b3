"""An interpreter of classic BPF with seccomp's rules, so that tests judge the very bytes that ship,
without a kernel and for architectures other than this machine's."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Sequence

import pyseccomp

from sandbox._policy import Policy, kernel_names
from sandbox._seccomp import Filters, compile_filters

LOW32 = 0xFFFF_FFFF
X86_64, AARCH64, I386, X32_BIT = 0xC000003E, 0xC00000B7, 0x40000003, 0x40000000
MACHINES = {"x86_64": X86_64, "aarch64": AARCH64}

KILL_PROCESS, KILL_THREAD, TRAP, ERRNO = 0x80000000, 0, 0x30000, 0x50000
NOTIFY, TRACE, LOG, ALLOW = 0x7FC00000, 0x7FF00000, 0x7FFC0000, 0x7FFF0000
_ACTION, _DATA = 0xFFFF0000, 0x0000FFFF
# From the strictest to the mildest (seccomp(2)).
_PRECEDENCE = (KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, NOTIFY, TRACE, LOG, ALLOW)

_SECCOMP_DATA = struct.Struct("=iIQ6Q")  # nr, arch, instruction_pointer, args
_ALU: dict[int, Callable[[int, int], int]] = {
    0x00: lambda a, k: a + k,
    0x10: lambda a, k: a - k,
    0x20: lambda a, k: a * k,
    0x40: lambda a, k: a | k,
    0x50: lambda a, k: a & k,
    0x60: lambda a, k: a << k if k < 32 else 0,
    0x70: lambda a, k: a >> k if k < 32 else 0,
    0xA0: lambda a, k: a ^ k,
}
_JUMP: dict[int, Callable[[int, int], bool]] = {
    0x10: lambda a, k: a == k,
    0x20: lambda a, k: a > k,
    0x30: lambda a, k: a >= k,
    0x40: lambda a, k: a & k != 0,
}


class BadProgramError(Exception):
    """What the kernel would refuse to install or what would run off the end."""


def decode(program: bytes) -> list[tuple[int, int, int, int]]:
    """struct sock_filter array → (code, jt, jf, k), checked as the kernel checks it."""
    if not program or len(program) % 8 or len(program) > 8 * 4096:
        raise BadProgramError(f"{len(program)} bytes")
    code = list(struct.iter_unpack("=HBBI", program))
    for at, (op, jt, jf, k) in enumerate(code):
        if op & 7 == 5:
            furthest = at + 1 + (k if op == 0x05 else max(jt, jf))
            if furthest >= len(code):
                raise BadProgramError(f"jump out of the program at {at}")
    if code[-1][0] & 7 != 6:
        raise BadProgramError("does not end in a return")
    return code


def run(
    code: Sequence[tuple[int, int, int, int]], arch: int, number: int, args: Sequence[int]
) -> int:
    """The 32-bit answer of one filter to one system call."""
    signed = number - (1 << 32) if number & 0x80000000 else number
    data = _SECCOMP_DATA.pack(signed, arch, 0x7FFF_DEAD_BEEF, *args)
    a = x = at = 0
    memory = [0] * 16
    while True:
        op, jt, jf, k = code[at]
        at += 1
        kind = op & 7
        operand = x if op & 8 else k
        if op == 0x20:  # LD W ABS, the only load of data that seccomp allows
            if k % 4 or k + 4 > len(data):
                raise BadProgramError(f"load at {k}")
            (a,) = struct.unpack_from("=I", data, k)
        elif kind in (0, 1):
            value = {0x00: k, 0x60: memory[k % 16], 0x80: len(data)}[op & 0xE0]
            a, x = (value, x) if kind == 0 else (a, value)
        elif kind in (2, 3):
            memory[k] = a if kind == 2 else x
        elif kind == 4:
            a = (-a if op & 0xF0 == 0x80 else _ALU[op & 0xF0](a, operand)) & LOW32
        elif op == 0x05:
            at += k
        elif kind == 5:
            at += jt if _JUMP[op & 0xF0](a, operand) else jf
        elif kind == 6:
            return a if op & 0x18 == 0x10 else k
        else:
            a, x = (a, a) if op & 0xF8 == 0 else (x, x)


def combine(answers: Sequence[int]) -> int:
    """What the kernel does with the answers of stacked filters, oldest first: the strictest action
    counts, and of equal ones the newest filter's data."""
    best = answers[-1]
    for answer in reversed(answers[:-1]):
        if _PRECEDENCE.index(answer & _ACTION) < _PRECEDENCE.index(best & _ACTION):
            best = answer
    return best


def errno_of(answer: int) -> int:
    """The errno of an answer, 0 if it is none."""
    return answer & _DATA if answer & _ACTION == ERRNO else 0


class Judge:
    """Both programs of one policy on one machine, beside a direct reading of the policy."""

    def __init__(self, policy: Policy, machine: str) -> None:
        self.policy, self.machine, self.token = policy, machine, MACHINES[machine]
        self.filters: Filters = compile_filters(policy, machine)
        self.first = decode(self.filters.first)
        self.last = decode(self.filters.last)
        self.names = {
            numbers[machine]: call
            for call, numbers in kernel_names().numbers.items()
            if machine in numbers
        }

    def guest(self, number: int, args: Sequence[int], arch: int | None = None) -> int:
        arch = self.token if arch is None else arch
        answers = [run(code, arch, number, args) for code in (self.first, self.last)]
        return combine(answers)

    def expected(self, number: int, args: Sequence[int]) -> int:
        call = self.names.get(number)
        answer = self.policy.default if call is None else self.policy.answer(call, args)
        if call is not None and self.machine != os.uname().machine and _too_new(call):
            # Compiled for another machine, libseccomp needs the name; without it: closed.
            answer = "EPERM"
        if answer == "allow":
            return ALLOW
        return NOTIFY if answer == "violation" else ERRNO | int(getattr(errno, answer))


def _too_new(call: str) -> bool:
    return bool(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, call) == -1)
