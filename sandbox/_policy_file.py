"""Policies from TOML files, shipped (policies/*.toml) or the caller's own, in the schema that
policies/README.md describes. Runs on the host with the caller's rights; only text the caller trusts
is read."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache
from typing import Any

from ._errors import PolicyError
from ._kernel_tables import data_path
from ._policy import Policy
from ._rule_file import Document
from ._rules import FileRule, RuleError, require_reason

SHIPPED = ("base", "compiler", "compute", "jit", "program", "python")

_TOP = {"schema", "name", "extends", "description", "default", "files", "process"}


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
    return _PolicyDocument(path).policy()


@lru_cache(maxsize=len(SHIPPED))
def _shipped(name: str) -> Policy:
    if name not in SHIPPED:
        raise RuleError(f"unknown policy {name!r}; shipped are {', '.join(SHIPPED)}", name)
    return _PolicyDocument(data_path(name)).policy()


class _PolicyDocument(Document):
    """A file that holds a whole policy."""

    def policy(self) -> Policy:
        """The policy in this file, on top of the shipped one it extends."""
        try:
            self._check_keys(self.data, _TOP | {"allow", "refuse", "violation"})
            return self._merged()
        except RuleError as error:
            raise self._located(error) from None

    def _merged(self) -> Policy:
        """A rule for a call replaces all that the extended policy says of this call; the same for
        the paths of one right."""
        if self._number(self.data.get("schema", 0)) != 1:
            raise RuleError("schema = 1 is required", "schema")
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
            raise RuleError(f"extends unknown policy {name!r}; shipped are {known}", "extends")
        return _shipped(name)

    def _mdwe(self, inherited: bool) -> bool:
        table = self.data.get("process")
        if table is None:
            return inherited
        if not isinstance(table, dict):
            raise RuleError("process is a table", "process")
        self._check_keys(table, {"mdwe", "reason"})
        require_reason(table.get("reason"), "process", "process")
        mdwe = table.get("mdwe", inherited)
        if not isinstance(mdwe, bool):
            raise RuleError("mdwe is true or false", "mdwe")
        return mdwe

    def _file_rule(self, table: dict[str, Any]) -> FileRule:
        right: Any = self._text(table, "right")
        if "paths" not in table:
            raise RuleError("files needs paths; [] for none", "files")
        return FileRule(right, tuple(self._list(table, "paths")), table.get("reason", ""))
