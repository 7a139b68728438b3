"""Policies: which system calls, files and rights a guest has. Data (policies/*.toml, whose README
is the schema) read into frozen, checked values. Runs on the host with the caller's rights; only
text the caller trusts is read. Needs no libseccomp: the numbers are in policies/kernel.toml."""

from __future__ import annotations

import errno as _errno
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

from . import _paths
from ._errors import PolicyError

SHIPPED = ("base", "compute", "python")
LOW32 = 0xFFFF_FFFF
# What a call gets whose policy allows it, but not with these arguments.
MISS = "EPERM"

_RIGHTS = ("read", "write", "execute")
_PLACES = ("@interpreter", "@mounts")
_ERRNOS = {n: getattr(_errno, n) for n in dir(_errno) if n.startswith("E")}


class _RuleError(PolicyError):
    """A `PolicyError` that knows which word is at fault, so that a reader finds its line."""

    def __init__(self, text: str, word: str = "") -> None:
        super().__init__(text)
        self.word = word


@dataclass(frozen=True)
class Condition:
    """Holds if argument `arg` (0 to 5) AND `mask` is one of `values`. Only the low 32 bits of the
    argument are compared, as the kernel does for int arguments: use it for those alone."""

    arg: int
    values: tuple[int, ...]
    mask: int = LOW32

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        if not _is_int(self.arg) or not 0 <= self.arg <= 5:
            raise _RuleError("an argument is a number from 0 to 5", "arg")
        for number in (self.mask, *self.values):
            if not _is_int(number) or not 0 <= number <= LOW32:
                raise _RuleError("masks and values are numbers of 32 bits, not negative", "arg")
        if not self.values or len(set(self.values)) != len(self.values):
            raise _RuleError("a condition needs one value or several different ones", "arg")
        if not self.mask or any(value & ~self.mask for value in self.values):
            raise _RuleError("a value outside the mask can never match", "mask")

    def holds(self, args: Sequence[int]) -> bool:
        return args[self.arg] & self.mask in self.values


@dataclass(frozen=True)
class Rule:
    """One decision with its reason.

    Attributes:
        action: "allow"; "refuse" with `errno`; or "violation", which ends the call.
        calls: names of system calls.
        reason: why; required.
        when: conditions that must all hold ("allow" only); other arguments get EPERM. Several
            rules for one call are alternatives.
        errno: name of the error of a refusal.
    """

    action: Literal["allow", "refuse", "violation", "never"]
    calls: tuple[str, ...]
    reason: str
    when: tuple[Condition, ...] = ()
    errno: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.calls, str):
            raise _RuleError(f"calls = {self.calls!r} is not a list of names", self.calls)
        object.__setattr__(self, "calls", tuple(self.calls))
        object.__setattr__(self, "when", tuple(self.when))
        if self.action not in ("allow", "refuse", "violation", "never"):
            raise _RuleError(f"unknown action {self.action!r}", self.action)
        if not self.calls:
            raise _RuleError("a rule needs system calls", "calls")
        for call in self.calls:
            if not isinstance(call, str):
                raise _RuleError("calls are names of system calls, in quotes", "calls")
            if call not in kernel_names().numbers:
                raise _RuleError(f"unknown system call {call!r}", call)
        _require_reason(self.reason, f"the rule for {self.calls[0]}", self.calls[0])
        if self.when and self.action not in ("allow", "never"):
            raise _RuleError(f"{self.action} has no conditions; allow what may pass", "when")
        if len({condition.arg for condition in self.when}) != len(self.when):
            raise _RuleError("two conditions on one argument; write a second rule", "when")
        if (self.action == "refuse") != bool(self.errno) or self.errno not in ("", *_ERRNOS):
            raise _RuleError(f"{self.action} with unknown errno {self.errno!r}", self.errno)


@dataclass(frozen=True)
class FileRule:
    """Paths below which the guest may "read", "write" (and read) or "execute" (Landlock, Linux
    5.13). "@interpreter" stands for the interpreter's own folders, "@mounts" for the mounts that
    the caller made writable."""

    right: Literal["read", "write", "execute"]
    paths: tuple[str, ...]
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", tuple(self.paths))
        if self.right not in _RIGHTS:
            raise _RuleError(
                f"unknown right {self.right!r}; one of {', '.join(_RIGHTS)}", self.right
            )
        for path in self.paths:
            if not isinstance(path, str):
                raise _RuleError("paths are strings", "paths")
            if "\0" in path or not _is_place(path):
                raise _RuleError(f"{path!r} is no absolute, plain path nor a known place", path)
        _require_reason(self.reason, f"the right to {self.right}", self.right)


@dataclass(frozen=True)
class Policy:
    """What a guest may do. Default-deny: a call that no rule names gets `default`.

    Attributes:
        name, description: for readers.
        rules: decisions about system calls.
        files: what Landlock lets the guest do with files; nothing by default.
        default: name of the errno for calls without a rule; ENOSYS lets libraries fall back.
        mdwe: memory is never both writable and executable (PR_SET_MDWE, Linux 6.3).

    Raises:
        PolicyError: at construction; conflicting rules, or one that no policy may have.
    """

    name: str
    rules: tuple[Rule, ...]
    description: str = ""
    files: tuple[FileRule, ...] = ()
    default: str = "ENOSYS"
    mdwe: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        object.__setattr__(self, "files", tuple(self.files))
        if not isinstance(self.name, str) or not self.name.strip():
            raise _RuleError("a policy needs a name", "name")
        if not isinstance(self.default, str) or self.default not in _ERRNOS:
            raise _RuleError(f"unknown errno {self.default!r} for default", "default")
        if not isinstance(self.mdwe, bool):
            raise _RuleError(f"mdwe = {self.mdwe!r} is neither true nor false", "mdwe")
        _check_conflicts(self.rules)
        _check_never(self.rules)

    @cached_property
    def by_call(self) -> Mapping[str, tuple[Rule, ...]]:
        """Name of a system call → its rules."""
        return _by_call(self.rules)

    def answer(self, call: str, args: Sequence[int] = (0,) * 6) -> str:
        """What this policy says to a system call: "allow", "violation" or the name of an errno."""
        rules = self.by_call.get(call)
        if rules is None:
            return self.default
        if rules[0].action == "allow":
            passes = any(all(c.holds(args) for c in rule.when) for rule in rules)
            return "allow" if passes else MISS
        return rules[0].errno or "violation"

    @property
    def landlock(self) -> tuple[tuple[str, str], ...]:
        """(path, right) in the order of the policy. "@interpreter" and "@mounts" stand as they
        are: only who builds the root knows their paths."""
        return tuple((path, rule.right) for rule in self.files for path in rule.paths)


def load_policy(source: str | os.PathLike[str] | Policy) -> Policy:
    """A shipped policy by name, a TOML file by path (what holds a "/" or ends in ".toml", or any
    PathLike), or a `Policy` as it is.

    Raises:
        PolicyError: naming the file and, where it is known, the line.
    """
    if isinstance(source, Policy):
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise PolicyError(f"a policy is a name, a path or a Policy, not {type(source).__name__}")
    path = os.fspath(source)
    if not isinstance(path, str):
        raise PolicyError(f"the path of a policy is text, not {type(path).__name__}")
    if isinstance(source, str) and not ("/" in path or path.endswith(".toml")):
        return _shipped(path)
    return _Document(path).policy()


@lru_cache(maxsize=len(SHIPPED))
def _shipped(name: str) -> Policy:
    if name not in SHIPPED:
        raise _RuleError(f"unknown policy {name!r}; shipped are {', '.join(SHIPPED)}", name)
    return _Document(_data(name)).policy()


@lru_cache(maxsize=1)
def init_rules() -> tuple[Rule, ...]:
    """What our own init and worker set-up need while the first filter is in force."""
    return _Document(_data("init")).rules("allow")


@lru_cache(maxsize=1)
def never_rules() -> tuple[Rule, ...]:
    """What no policy may allow; `when` is the only form in which a call may be allowed."""
    return _Document(_data("denied")).rules("never")


@dataclass(frozen=True)
class KernelNames:
    """Call → numbers by architecture, and the values of named constants."""

    numbers: Mapping[str, Mapping[str, int]]
    constants: Mapping[str, int]


@lru_cache(maxsize=1)
def kernel_names() -> KernelNames:
    with open(_data("kernel"), "rb") as file:
        data = tomllib.load(file)
    arches = ("x86_64", "aarch64")
    numbers = {
        call: {arch: number for arch, number in zip(arches, pair, strict=True) if number >= 0}
        for call, pair in data["syscalls"].items()
    }
    return KernelNames(numbers, data["constants"])


def implies(narrow: Condition, wide: Condition) -> bool:
    """Whether `wide` holds wherever `narrow` does."""
    return (
        narrow.arg == wide.arg
        and not wide.mask & ~narrow.mask
        and all(value & wide.mask in wide.values for value in narrow.values)
    )


def _check_conflicts(rules: Sequence[Rule]) -> None:
    ours = {call for rule in init_rules() for call in rule.calls}
    for call, group in _by_call(rules).items():
        if len({rule.action for rule in group}) > 1 or (
            len(group) > 1 and any(not rule.when for rule in group)
        ):
            raise _RuleError(f"conflicting rules for {call}", call)
        if group[0].action == "violation" and call in ours:
            raise _RuleError(f"{call} cannot be a violation: building the jail needs it", call)


def _check_never(rules: Sequence[Rule]) -> None:
    never = _by_call(never_rules())
    for rule in rules:
        if rule.action == "never":
            raise _RuleError("unknown action 'never'", "never")
        if rule.action != "allow":
            continue
        for call in rule.calls:
            for bar in never.get(call, ()):
                if not (bar.when and all(any(implies(c, b) for c in rule.when) for b in bar.when)):
                    raise _RuleError(f"no policy may allow {call} so: {bar.reason}", call)


def _by_call(rules: Sequence[Rule]) -> dict[str, tuple[Rule, ...]]:
    found: dict[str, tuple[Rule, ...]] = {}
    for rule in rules:
        for call in rule.calls:
            found[call] = (*found.get(call, ()), rule)
    return found


def _require_reason(reason: object, what: str, word: str) -> None:
    if not isinstance(reason, str) or not reason.strip():
        raise _RuleError(f"{what} needs a reason", word)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_place(path: str) -> bool:
    return path in _PLACES or (path.startswith("/") and os.path.normpath(path) == path)


def _data(name: str) -> str:
    return os.path.join(_paths.POLICIES, f"{name}.toml")


# --- reading ------------------------------------------------------------------------------------

_TOP = {"schema", "name", "extends", "description", "default", "files", "process"}
_TABLES = {
    "allow": {"calls", "reason", "when"},
    "refuse": {"calls", "reason", "errno"},
    "violation": {"calls", "reason"},
    "never": {"calls", "reason", "unless"},
    "files": {"right", "paths", "reason"},
}
_HEADER = re.compile(r"\s*\[\[?\s*([\w-]+)\s*\]\]?\s*(#.*)?")


class _Document:
    """One TOML file, and where in it we are, so that an error can name a line."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.section, self.index = "", 0
        try:
            with open(path, encoding="utf-8") as file:
                self.text = file.read()
        except OSError as error:
            raise PolicyError(f"cannot read the policy {path}: {error.strerror}") from None
        except ValueError as error:
            raise PolicyError(f"cannot read the policy {path!r}: {error}") from None
        try:
            self.data = tomllib.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise PolicyError(f"{path} is not TOML: {error}") from None

    def policy(self) -> Policy:
        """The policy in this file, on top of the shipped one it extends."""
        try:
            self._check_keys(self.data, _TOP | {"allow", "refuse", "violation"})
            return self._merged()
        except _RuleError as error:
            raise self._located(error) from None

    def rules(self, action: str) -> tuple[Rule, ...]:
        """The rules of one kind alone."""
        try:
            return tuple(self._rule(action, table) for table in self._tables(action))
        except _RuleError as error:
            raise self._located(error) from None

    def _merged(self) -> Policy:
        """A rule for a call replaces all that the extended policy says of this call; the same for
        the paths of one right."""
        if self._number(self.data.get("schema", 0)) != 1:
            raise _RuleError("schema = 1 is required", "schema")
        rules = tuple(
            self._rule(action, table)
            for action in ("allow", "refuse", "violation")
            for table in self._tables(action)
        )
        files = tuple(self._file_rule(table) for table in self._tables("files"))
        self.section = ""
        fields = {key: self._text(self.data, key) for key in ("name", "description")}
        default, mdwe = "ENOSYS", True
        if "extends" in self.data:
            parent = self._parent()
            own = {call for rule in rules for call in rule.calls}
            rest = [(rule, [c for c in rule.calls if c not in own]) for rule in parent.rules]
            rules = (*(replace(rule, calls=tuple(c)) for rule, c in rest if c), *rules)
            rights = {rule.right for rule in files}
            files = (*(rule for rule in parent.files if rule.right not in rights), *files)
            default, mdwe = parent.default, parent.mdwe
        if "default" in self.data:
            default = self._text(self.data, "default")
        return Policy(**fields, rules=rules, files=files, default=default, mdwe=self._mdwe(mdwe))

    def _parent(self) -> Policy:
        name = self._text(self.data, "extends")
        if name not in SHIPPED:
            known = ", ".join(SHIPPED)
            raise _RuleError(f"extends unknown policy {name!r}; shipped are {known}", "extends")
        return _shipped(name)

    def _mdwe(self, inherited: bool) -> bool:
        table = self.data.get("process")
        if table is None:
            return inherited
        if not isinstance(table, dict):
            raise _RuleError("process is a table", "process")
        self._check_keys(table, {"mdwe", "reason"})
        _require_reason(table.get("reason"), "process", "process")
        mdwe = table.get("mdwe", inherited)
        if not isinstance(mdwe, bool):
            raise _RuleError("mdwe is true or false", "mdwe")
        return mdwe

    def _tables(self, section: str) -> Iterator[dict[str, Any]]:
        tables = self.data.get(section, [])
        self.section = ""
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise _RuleError(f"{section} is written [[{section}]]", section)
        for index, table in enumerate(tables):
            self.section, self.index = section, index
            self._check_keys(table, _TABLES[section])
            yield table

    def _rule(self, action: Any, table: dict[str, Any]) -> Rule:
        conditions = self._list(table, "unless" if action == "never" else "when")
        return Rule(
            action=action,
            calls=tuple(self._list(table, "calls")),
            reason=table.get("reason", ""),
            when=tuple(self._condition(condition) for condition in conditions),
            errno=self._text(table, "errno"),
        )

    def _file_rule(self, table: dict[str, Any]) -> FileRule:
        right: Any = self._text(table, "right")
        if "paths" not in table:
            raise _RuleError("files needs paths; [] for none", "files")
        return FileRule(right, tuple(self._list(table, "paths")), table.get("reason", ""))

    def _condition(self, table: Any) -> Condition:
        if not isinstance(table, dict):
            raise _RuleError("a condition is a table, { arg = 0, equals = 1 }", "when")
        self._check_keys(table, {"arg", "mask", "equals", "in"})
        if "arg" not in table or ("equals" in table) == ("in" in table):
            raise _RuleError("a condition has arg, and one of equals and in", "when")
        values = self._list(table, "in") if "in" in table else [table["equals"]]
        mask = self._number(table["mask"]) if "mask" in table else LOW32
        return Condition(table["arg"], tuple(self._number(value) for value in values), mask)

    def _number(self, value: Any) -> int:
        """A number, the name of one, or a list of these to be combined bit by bit."""
        if isinstance(value, list):
            number = 0
            for part in value:
                if isinstance(part, list):
                    raise _RuleError("lists of numbers do not nest", "when")
                number |= self._number(part)
            return number
        if isinstance(value, str):
            if value not in kernel_names().constants:
                raise _RuleError(f"unknown constant {value!r}; a number does as well", value)
            return kernel_names().constants[value]
        if not _is_int(value):
            raise _RuleError(
                "expected a number, or the name of a constant", self.section or "schema"
            )
        return int(value)

    def _list(self, table: dict[str, Any], key: str) -> list[Any]:
        value = table.get(key, [])
        if not isinstance(value, list):
            raise _RuleError(f"{key} is a list", key)
        return value

    def _text(self, table: dict[str, Any], key: str) -> str:
        value = table.get(key, "")
        if not isinstance(value, str):
            raise _RuleError(f"{key} is a string", key)
        return value

    def _check_keys(self, table: dict[str, Any], known: set[str]) -> None:
        for key in table:
            if key not in known:
                raise _RuleError(f"unknown key {key!r}; known are {', '.join(sorted(known))}", key)

    def _located(self, error: _RuleError) -> PolicyError:
        line = self._line(error.word)
        where = f"{self.path}, line {line}" if line else self.path
        return PolicyError(f"{where}: {error}")

    def _line(self, word: str) -> int | None:
        """tomllib keeps no positions: the first line of the section at fault with the word on it,
        or the section's header."""
        lines = self.text.splitlines()
        headers = [(n, m[1]) for n, text in enumerate(lines) if (m := _HEADER.fullmatch(text))]
        ours = [n for n, name in headers if name == self.section]
        start = ours[self.index] if self.index < len(ours) else None
        stop = min((n for n, _ in headers if start is not None and n > start), default=len(lines))
        found = re.compile(rf"(?<![\w@]){re.escape(word)}(?!\w)")
        for n in range(start or 0, stop):
            if word and found.search(lines[n]) and not lines[n].lstrip().startswith("#"):
                return n + 1
        return None if start is None else start + 1
