"""Policy → two classic BPF programs, by libseccomp. Runs on the host; the jail only gets bytes.

`first` is installed by init, with the listener: the guest's calls and our own set-up's pass,
violations go to the listener, the rest is an error. `last` is installed by each worker just before
guest code and closes what only the set-up needed. It allows by default and never names a violation:
of two filters' answers the kernel takes the stricter, and an errno is stricter than a notification.
Of two errnos it takes the newer filter's.

libseccomp has one default for a whole filter. Ours is EPERM, right for known calls with arguments
that no rule allows; unknown numbers must be ENOSYS, or libraries built for newer kernels do not
fall back. So a few instructions in front of the program answer those. libseccomp before 2.6.1 can
weaken comparisons of 64-bit values: every comparison here is of 32 bits. What it emits is not taken
on trust: `_filter_proof` walks the very bytes before they are used.

Foreign architectures (int 0x80, and x32, which is a bit of the number) are violations.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from types import ModuleType

from ._errors import PolicyError, Unsupported
from ._filter_proof import NotProvedError, Way, decode, prove
from ._kernel_tables import kernel_names
from ._policy import MISS, Policy
from ._rule_file import init_rules
from ._rules import LOW32, Rule

# AUDIT_ARCH_* of linux/audit.h.
_TOKENS = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_OTHER_TOKENS = {0x40000003: "i386", 0x40000028: "arm"}
_X32_BIT = 0x40000000
_X32_TOKEN = 0x4000003E  # libseccomp's own

_BAD_ARCH_ACTION, _OPTIMIZE, _BINARY_TREE = 2, 8, 2  # seccomp_attr_set(3)
_MOST_INSTRUCTIONS = 4096  # BPF_MAXINSNS
_INSTALL = "Install libseccomp 2.5 or newer (apt-get install libseccomp2)"


@dataclass(frozen=True)
class Filters:
    """Arrays of struct sock_filter for init and for the worker; `digest` (SHA-256, hex) names the
    pair: equal policies have equal digests."""

    first: bytes
    last: bytes
    digest: str


def compile_filters(policy: Policy, machine: str = "") -> Filters:
    """The filters for `policy` on `machine` (uname -m; this one by default), made once.

    Raises:
        PolicyError: the policy allows a call that the set-up needs too, in a form that cannot be
            told apart from the set-up's; or libseccomp makes a filter of it that does not answer
            as the policy does.
        Unsupported: no libseccomp here, or no rules for this machine.
    """
    return _compile(policy, machine or os.uname().machine)


def syscall_name(arch: int, number: int) -> str:
    """The name of a system call the kernel reported (struct seccomp_data), "syscall N" if it has
    none."""
    number &= LOW32
    name = arch_name(arch, number)
    if name in _TOKENS:
        return _names(name).get(number, f"syscall {number}")
    try:
        seccomp = _libseccomp()
        found: bytes = seccomp.resolve_syscall(_X32_TOKEN if name == "x32" else arch, number)
    except (Unsupported, ValueError):
        return f"syscall {number}"
    return found.decode()


def arch_name(arch: int, number: int = 0) -> str:
    """The architecture of a reported call: x32 calls carry x86_64's token and a bit in `number`."""
    known = {token: name for name, token in _TOKENS.items()} | _OTHER_TOKENS
    name = known.get(arch, f"architecture {arch:#x}")
    if name == "x86_64" and number & _X32_BIT and number & LOW32 != LOW32:
        return "x32"
    return name


@lru_cache(maxsize=64)
def _compile(policy: Policy, machine: str) -> Filters:
    if machine not in _TOKENS:
        raise Unsupported("seccomp", f"no rules for {machine}", f"Use {' or '.join(_TOKENS)}")
    seccomp = _libseccomp()
    try:
        first = _front(machine, policy.default) + _first(seccomp, policy, machine)
        last = _last(seccomp, policy, machine)
    except NotProvedError as error:
        raise PolicyError(
            f"policy {policy.name}: this libseccomp makes a filter of it that is not proved to "
            f"answer as the policy does: {error}. Use fewer conditions, or a newer libseccomp"
        ) from error
    except OSError as error:
        raise Unsupported("seccomp", f"libseccomp refused a rule: {error}", _INSTALL) from error
    if len(first) > 8 * _MOST_INSTRUCTIONS:
        raise PolicyError(f"policy {policy.name}: too many rules for one filter")
    return Filters(first, last, hashlib.sha256(first + b"\0" + last).hexdigest())


def _libseccomp() -> ModuleType:
    """Imported late: finding the library takes about 50 ms."""
    try:
        import pyseccomp
    except (ImportError, OSError, RuntimeError) as error:
        raise Unsupported("seccomp", f"libseccomp cannot be loaded ({error})", _INSTALL) from error
    module: ModuleType = pyseccomp
    return module


# --- the two programs ---------------------------------------------------------------------------


def _first(seccomp: ModuleType, policy: Policy, machine: str) -> bytes:
    ours = _ways_by_call(init_rules())
    theirs = _ways_by_call(policy.rules)
    program = _Program(seccomp, machine, seccomp.ERRNO(_number(MISS)), bad_arch=seccomp.NOTIFY)
    for call in kernel_names().numbers:
        ways = theirs.get(call, set()) | ours.get(call, set())
        answer = policy.answer(call)
        if ways:
            program.add(seccomp.ALLOW, call, ways)
        elif answer == "violation":
            program.add(seccomp.NOTIFY, call)
        elif answer != MISS:
            program.add(seccomp.ERRNO(_number(answer)), call)
    return program.export()


def _last(seccomp: ModuleType, policy: Policy, machine: str) -> bytes:
    theirs = _ways_by_call(policy.rules)
    # Foreign architectures are the first filter's business.
    program = _Program(seccomp, machine, seccomp.ALLOW, bad_arch=seccomp.ALLOW)
    for call, ways in sorted(_ways_by_call(init_rules()).items()):
        if call not in theirs:
            program.add(seccomp.ERRNO(_number(policy.answer(call))), call)
        else:
            surplus = {way for way in ways if _is_surplus(policy, call, way, theirs[call])}
            if surplus:
                program.add(seccomp.ERRNO(_number(MISS)), call, surplus)
    return program.export()


def _is_surplus(policy: Policy, call: str, way: Way, theirs: set[Way]) -> bool:
    """Whether only the set-up may go this way. A filter cannot subtract one way from another, so
    it must lie within one of the guest's or apart from all of them."""
    if any(_within(way, other) for other in theirs):
        return False
    if all(_apart(way, other) for other in theirs):
        return True
    raise PolicyError(
        f"policy {policy.name}: {call} is allowed in part, but building the jail needs it with "
        "other arguments that a filter cannot tell apart. Allow it whole, or as "
        "policies/init.toml does, or refuse it"
    )


def _within(way: Way, other: Way) -> bool:
    return all(
        any(
            arg == its_arg and not its_mask & ~mask and value & its_mask == its_value
            for arg, mask, value in way
        )
        for its_arg, its_mask, its_value in other
    )


def _apart(way: Way, other: Way) -> bool:
    return any(
        arg == its_arg and mask & its_mask & (value ^ its_value)
        for arg, mask, value in way
        for its_arg, its_mask, its_value in other
    )


def _ways_by_call(rules: Iterable[Rule]) -> dict[str, set[Way]]:
    """Call → the ways in which it passes; {()} if always."""
    found: dict[str, set[Way]] = {}
    for rule in rules:
        if rule.action != "allow":
            continue
        choices = ([(c.arg, c.mask, value) for value in c.values] for c in rule.when)
        ways = set(product(*choices))
        for call in rule.calls:
            found[call] = found.get(call, set()) | ways
    return {call: {()} if () in ways else ways for call, ways in found.items()}


class _Program:
    """One filter for one architecture, made by libseccomp and proved.

    libseccomp (2.5.4 at least) joins blocks of different calls that look alike, also where they
    compare different arguments: some sets of rules come out weaker than they are. A call whose
    rules came out wrong gets a program of its own in front, where there is nothing to join.
    """

    def __init__(self, seccomp: ModuleType, machine: str, default: int, bad_arch: int) -> None:
        self._seccomp = seccomp
        self._machine = machine
        self._default = default
        self._bad_arch = bad_arch
        # Number → libseccomp's number for it, action, ways.
        self._rules: dict[int, tuple[int, int, list[Way]]] = {}
        self._native = _TOKENS[machine] == seccomp.system_arch()

    def add(self, action: int, call: str, ways: Iterable[Way] = ((),)) -> None:
        number = kernel_names().numbers[call].get(self._machine)
        if number is None:
            return
        its_number = number
        if not self._native:
            # libseccomp takes this machine's numbers, and names it does not know only natively.
            its_number = self._seccomp.resolve_syscall(self._seccomp.Arch.NATIVE, call)
            if its_number == -1:
                return
        self._rules[number] = its_number, action, sorted(ways)

    def export(self) -> bytes:
        """The program, proved to answer as the rules say.

        Raises:
            NotProvedError: libseccomp makes none that does.
        """
        program = self._emit(self._rules)
        faults = self._faults(program)
        for number in faults:
            program = _only_for(number, self._emit({number} & self._rules.keys())) + program
        for fault in self._faults(program).values() if faults else ():
            raise fault
        return program

    def _emit(self, numbers: Iterable[int]) -> bytes:
        made = self._seccomp.SyscallFilter(self._default)
        if not self._native:
            made.add_arch(_TOKENS[self._machine])
            made.remove_arch(self._seccomp.Arch.NATIVE)
        made.set_attr(_OPTIMIZE, _BINARY_TREE)
        made.set_attr(_BAD_ARCH_ACTION, self._bad_arch)
        for its_number, action, ways in map(self._rules.__getitem__, numbers):
            for way in ways:
                comparisons = [
                    self._seccomp.Arg(arg, self._seccomp.MASKED_EQ, mask, value)
                    for arg, mask, value in way
                ]
                made.add_rule(action, its_number, *comparisons)
        with open(os.memfd_create("seccomp filter"), "r+b") as file:
            made.export_bpf(file)
            file.seek(0)
            return file.read()

    def _faults(self, program: bytes) -> dict[int, NotProvedError]:
        """Why, for each number whose rules `program` is not proved to follow."""
        code, found = decode(program), {}
        for number in _names(self._machine):
            _, action, ways = self._rules.get(number, (0, self._default, []))
            try:
                prove(code, _TOKENS[self._machine], number, ways, action, self._default)
            except NotProvedError as error:
                found[number] = error
        return found


def _only_for(number: int, program: bytes) -> bytes:
    """`program`, which always returns, passed over by calls with other numbers."""
    load, jump_equal, jump = 0x20, 0x15, 0x05
    front = [(load, 0, 0, 0), (jump_equal, 1, 0, number), (jump, 0, 0, len(program) // 8)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in front) + program


# --- numbers nobody knows -----------------------------------------------------------------------


def _front(machine: str, default: str) -> bytes:
    """Instructions that answer unknown numbers of our own architecture with `default` and fall
    through to the program behind them for everything else. Also -1, which a tracer can put in
    place of a number. Their order lets a known, low number through after four."""
    load, jump_equal, jump_from, jump_above, answer = 0x20, 0x15, 0x35, 0x25, 0x06
    errno_action = 0x00050000 | _number(default)
    body: list[tuple[int, int, int, int]] = []
    for low, high in reversed(list(_unknown(machine))):
        behind = len(body)
        body[:0] = [
            (jump_from, 0, behind + 2, low),
            (jump_above, 1, 0, high),
            (answer, 0, 0, errno_action),
        ]
    head = [(load, 0, 0, 4), (jump_equal, 0, len(body) + 1, _TOKENS[machine]), (load, 0, 0, 0)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in (*head, *body))


def _unknown(machine: str) -> Iterator[tuple[int, int]]:
    """Ranges of numbers without a name, ascending."""
    known = sorted(_names(machine))
    for lower, upper in zip([-1, *known], [*known, _X32_BIT], strict=False):
        if upper - lower > 1:
            yield lower + 1, upper - 1
    yield LOW32, LOW32


@lru_cache(maxsize=len(_TOKENS))
def _names(machine: str) -> dict[int, str]:
    return {
        numbers[machine]: call
        for call, numbers in kernel_names().numbers.items()
        if machine in numbers
    }


def _number(errno_name: str) -> int:
    number: int = getattr(errno, errno_name)
    return number
