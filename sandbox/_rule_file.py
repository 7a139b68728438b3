"""Rules from TOML: the reader that all files of rules share, and the two shipped lists of rules
that are no policy but every policy is checked against. Runs on the host with the caller's rights;
only text the caller trusts is read."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ._errors import PolicyError
from ._kernel_tables import data_path, kernel_names
from ._rules import LOW32, Condition, Rule, RuleError, is_int

_TABLES = {
    "allow": {"calls", "reason", "when"},
    "refuse": {"calls", "reason", "errno"},
    "violation": {"calls", "reason"},
    "never": {"calls", "reason", "unless"},
    "files": {"right", "paths", "reason"},
}
_HEADER = re.compile(r"\s*\[\[?\s*([\w-]+)\s*\]\]?\s*(#.*)?")


@lru_cache(maxsize=1)
def init_rules() -> tuple[Rule, ...]:
    """What our own init and worker set-up need while the first filter is in force."""
    return Document(data_path("init")).rules("allow")


@lru_cache(maxsize=1)
def never_rules() -> tuple[Rule, ...]:
    """What no policy may allow; `when` is the only form in which a call may be allowed."""
    return Document(data_path("denied")).rules("never")


class Document:
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

    def rules(self, action: str) -> tuple[Rule, ...]:
        """The rules of one kind alone."""
        try:
            return tuple(self._rule(action, table) for table in self._tables(action))
        except RuleError as error:
            raise self._located(error) from None

    def _tables(self, section: str) -> Iterator[dict[str, Any]]:
        tables = self.data.get(section, [])
        self.section = ""
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise RuleError(f"{section} is written [[{section}]]", section)
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

    def _condition(self, table: Any) -> Condition:
        if not isinstance(table, dict):
            raise RuleError("a condition is a table, { arg = 0, equals = 1 }", "when")
        self._check_keys(table, {"arg", "mask", "equals", "in"})
        if "arg" not in table or ("equals" in table) == ("in" in table):
            raise RuleError("a condition has arg, and one of equals and in", "when")
        values = self._list(table, "in") if "in" in table else [table["equals"]]
        mask = self._number(table["mask"]) if "mask" in table else LOW32
        return Condition(table["arg"], tuple(self._number(value) for value in values), mask)

    def _number(self, value: Any) -> int:
        """A number, the name of one, or a list of these to be combined bit by bit."""
        if isinstance(value, list):
            number = 0
            for part in value:
                if isinstance(part, list):
                    raise RuleError("lists of numbers do not nest", "when")
                number |= self._number(part)
            return number
        if isinstance(value, str):
            if value not in kernel_names().constants:
                raise RuleError(f"unknown constant {value!r}; a number does as well", value)
            return kernel_names().constants[value]
        if not is_int(value):
            raise RuleError(
                "expected a number, or the name of a constant", self.section or "schema"
            )
        return int(value)

    def _list(self, table: dict[str, Any], key: str) -> list[Any]:
        value = table.get(key, [])
        if not isinstance(value, list):
            raise RuleError(f"{key} is a list", key)
        return value

    def _text(self, table: dict[str, Any], key: str) -> str:
        value = table.get(key, "")
        if not isinstance(value, str):
            raise RuleError(f"{key} is a string", key)
        return value

    def _check_keys(self, table: dict[str, Any], known: set[str]) -> None:
        for key in table:
            if key not in known:
                raise RuleError(f"unknown key {key!r}; known are {', '.join(sorted(known))}", key)

    def _located(self, error: RuleError) -> PolicyError:
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
