"""Which modules the guest can import, and which host paths have to be shown for that. Nothing named
here is imported on the host: only its location is looked up."""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from itertools import islice

_OURS = frozenset({"sandbox"})
_STDLIB = sys.stdlib_module_names

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)")
_EXTRA = re.compile(r";.*\bextra\s*==")


@dataclass(frozen=True)
class Visible:
    """What a guest can import beside the standard library.

    Attributes:
        modules: top-level module names.
        paths: files and folders of the host to show read-only at the same path in the jail.
        sys_path: folders to append to the guest's `sys.path`.
    """

    modules: frozenset[str] = frozenset()
    paths: tuple[str, ...] = ()
    sys_path: tuple[str, ...] = ()

    @classmethod
    def of(cls, preload: Sequence[str]) -> Visible:
        """What has to be visible so that the modules named in `preload` can be imported: the
        distribution of each and all that it requires (extras left out), or the plain file or folder
        where a module belongs to none.

        Requirements are followed whether or not their marker holds here, if they are installed: at
        worst a distribution too many is visible.

        Raises:
            TypeError: `preload` is a string, or holds something else than strings.
            ValueError: a name that is no module of this host, or one of our own.
        """
        if isinstance(preload, str) or not all(isinstance(name, str) for name in preload):
            raise TypeError("preload: expected a sequence of module names, such as ['numpy']")
        found = _Found()
        for name in preload:
            _add_module(found, name)
        # In the application's own order, which decides where two folders hold the same name.
        order = {os.path.abspath(folder): index for index, folder in enumerate(sys.path)}
        roots = sorted(set(found.roots), key=lambda root: (order.get(root, len(order)), root))
        return cls(frozenset(found.modules), tuple(sorted(found.paths)), tuple(roots))

    def sees(self, module: str) -> bool:
        """Whether the guest imports the same module under this name as the application does."""
        top = module.partition(".")[0]
        return top in self.modules or (top in _STDLIB and not _shadowed(top))

    def finds(self, thing: object) -> bool:
        """Whether the guest finds this function or class under its own module and name."""
        module = getattr(thing, "__module__", None)
        name = getattr(thing, "__qualname__", None)
        if not isinstance(module, str) or not isinstance(name, str) or not self.sees(module):
            return False
        found: object = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        return found is thing


def own_paths() -> tuple[str, ...]:
    """The folders that hold the libraries the launcher itself imports.

    Raises:
        ModuleNotFoundError: a dependency of this library is not installed.
    """
    roots = []
    for name in ("_cffi_backend", "msgpack", "cloudpickle"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{name} is not installed; reinstall this library", name=name)
        roots += [os.path.dirname(location) for location in _locations(spec)]
    return tuple(dict.fromkeys(roots))


class _Found:
    """What `Visible.of` gathers."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.paths: set[str] = set()
        self.roots: list[str] = []
        self.distributions: set[str] = set()


def _add_module(found: _Found, name: str) -> None:
    top = name.partition(".")[0]
    if top in _OURS:
        raise ValueError(
            f"preload: {name!r} is part of the sandbox itself and never visible inside"
        )
    spec = _find(name)
    if top in _STDLIB:
        return
    found.modules.add(top)
    if not _add_locations(found, spec):
        raise ValueError(f"preload: {name!r} lies in no plain file or folder of this host")
    for distribution in _owners(top, namespace=spec.origin is None):
        _add_distribution(found, distribution)


def _find(name: str) -> ModuleSpec:
    """The spec of the top-level module, each further part only looked up and nothing imported."""
    parts = name.split(".")
    try:
        spec = importlib.util.find_spec(parts[0]) if all(parts) else None
    except ValueError:  # a module without one
        spec = None
    if spec is not None and spec.name != parts[0]:  # `__main__` has that of the program it runs
        spec = None
    top = part = spec
    for index in range(2, len(parts) + 1):
        if part is not None:
            folders = part.submodule_search_locations
            part = PathFinder.find_spec(".".join(parts[:index]), folders) if folders else None
    if top is None or part is None:
        raise ValueError(f"preload: no module named {name!r} on this host; is it installed?")
    return top


def _locations(spec: ModuleSpec) -> list[str]:
    if spec.submodule_search_locations is not None:
        return [os.path.abspath(folder) for folder in spec.submodule_search_locations]
    if spec.has_location and spec.origin is not None:
        return [os.path.abspath(spec.origin)]
    return []


def _add_locations(found: _Found, spec: ModuleSpec) -> bool:
    """Show where a module lies: every folder of a namespace package, and for an editable
    installation the source tree. False if that is nowhere (a zip archive, a finder of its own)."""
    existing = [location for location in _locations(spec) if os.path.exists(location)]
    found.paths.update(existing)
    found.roots += [os.path.dirname(location) for location in existing]
    return bool(existing)


def _owners(top: str, *, namespace: bool) -> list[importlib.metadata.Distribution]:
    """The distributions that bring this module: one, but for a namespace package. Most are named
    like their module, which saves the search."""
    try:
        named = importlib.metadata.distribution(top)
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        if not namespace and top in _module_names(named):
            return [named]
    found = (each for each in importlib.metadata.distributions() if top in _module_names(each))
    return list(found if namespace else islice(found, 1))


def _entries(distribution: importlib.metadata.Distribution) -> set[str]:
    """What the distribution put into its folder: first parts of the paths in its RECORD, read as
    text because `Distribution.files` asks the file system about every file since 3.12."""
    record = distribution.read_text("RECORD") or ""
    entries = {row[0].split("/")[0] for row in csv.reader(record.splitlines()) if row}
    # A folder that all distributions share, and scripts that lie elsewhere.
    return entries - {"__pycache__", "..", ""}


def _module_names(distribution: importlib.metadata.Distribution) -> set[str]:
    names = set((distribution.read_text("top_level.txt") or "").split())
    for entry in _entries(distribution):
        stem, _, ending = entry.partition(".")
        if stem.isidentifier() and (not ending or ending.endswith(("py", "so"))):
            names.add(stem)
    return names


def _add_distribution(found: _Found, distribution: importlib.metadata.Distribution) -> None:
    name = _normal(distribution.metadata["Name"])
    names = _module_names(distribution)
    if name in found.distributions or names & _OURS:
        return
    found.distributions.add(name)
    root = os.path.abspath(str(distribution.locate_file("")))
    for entry in _entries(distribution):
        path = os.path.join(root, entry)
        if os.path.exists(path) and not entry.endswith(".pth"):
            found.paths.add(path)
            found.roots.append(root)
    for module in sorted(names - _STDLIB):
        # RECORD does not tell where an editable installation lies, and not every name is a module.
        spec = importlib.util.find_spec(module)
        if spec is not None and _add_locations(found, spec):
            found.modules.add(module)
    for required in _requirements(distribution):
        _add_distribution(found, required)


def _requirements(
    distribution: importlib.metadata.Distribution,
) -> Iterator[importlib.metadata.Distribution]:
    lines: Iterable[str] = distribution.requires or ()
    for line in lines:
        match = _REQUIREMENT.match(line)
        if match is None or _EXTRA.search(line):
            continue
        try:
            yield importlib.metadata.distribution(match[1])
        except importlib.metadata.PackageNotFoundError:
            continue


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def _stdlib_folders() -> tuple[str, ...]:
    # The folder of os too: a moved or zipped library no longer lies where the build says.
    scheme = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    return tuple(os.path.join(folder, "") for folder in {*scheme, os.path.dirname(os.__file__)})


def _shadowed(top: str) -> bool:
    """Whether the application runs a module of its own under a name of the standard library, which
    would be quite another module inside."""
    spec = getattr(sys.modules.get(top), "__spec__", None)
    if spec is None or not getattr(spec, "has_location", False):
        return False
    origin = str(spec.origin)
    for folder in _stdlib_folders():
        if origin.startswith(folder):
            below = origin[len(folder) :].partition(os.sep)[0]
            return below in ("site-packages", "dist-packages")
    return True
