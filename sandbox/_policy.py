"""Policies: which system calls, files and rights a guest has, as frozen values that are checked
against one another and against what no policy may allow. Runs on the host with the caller's rights.
Needs no libseccomp: the numbers are in policies/kernel.toml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ._kernel_tables import kernel_names
from ._rule_file import init_rules, never_rules
from ._rules import ERRNOS, Condition, FileRule, Rule, RuleError, implies

# With `Policy` comes what one is made of, and the names its rules may use.
__all__ = ["MISS", "Condition", "FileRule", "Policy", "Rule", "kernel_names"]

# What a call gets whose policy allows it, but not with these arguments.
MISS = "EPERM"


@dataclass(frozen=True)
class Policy:
    """What a guest may do. Default-deny: a call that no rule names gets `default`.

    Attributes:
        name, description: for readers.
        rules: decisions about system calls.
        files: what Landlock lets the guest do with files; nothing by default.
        default: name of the errno for calls without a rule; ENOSYS lets libraries fall back.
        mdwe: no mapping is writable and executable at once, or becomes executable after it was
            writable (PR_SET_MDWE, Linux 6.3).

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
            raise RuleError("a policy needs a name", "name")
        if not isinstance(self.default, str) or self.default not in ERRNOS:
            raise RuleError(f"unknown errno {self.default!r} for default", "default")
        if not isinstance(self.mdwe, bool):
            raise RuleError(f"mdwe = {self.mdwe!r} is neither true nor false", "mdwe")
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


def _check_conflicts(rules: Sequence[Rule]) -> None:
    ours = {call for rule in init_rules() for call in rule.calls}
    for call, group in _by_call(rules).items():
        if len({rule.action for rule in group}) > 1 or (
            len(group) > 1 and any(not rule.when for rule in group)
        ):
            raise RuleError(f"conflicting rules for {call}", call)
        if group[0].action == "violation" and call in ours:
            raise RuleError(f"{call} cannot be a violation: building the jail needs it", call)


def _check_never(rules: Sequence[Rule]) -> None:
    never = _by_call(never_rules())
    for rule in rules:
        if rule.action == "never":
            raise RuleError("unknown action 'never'", "never")
        if rule.action != "allow":
            continue
        for call in rule.calls:
            for bar in never.get(call, ()):
                if not (bar.when and all(any(implies(c, b) for c in rule.when) for b in bar.when)):
                    raise RuleError(f"no policy may allow {call} so: {bar.reason}", call)


def _by_call(rules: Sequence[Rule]) -> dict[str, tuple[Rule, ...]]:
    found: dict[str, tuple[Rule, ...]] = {}
    for rule in rules:
        for call in rule.calls:
            found[call] = (*found.get(call, ()), rule)
    return found
