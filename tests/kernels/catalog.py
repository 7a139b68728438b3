"""The kernels this tool knows, read from kernels.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

_FILE = Path(__file__).with_name("kernels.toml")


@dataclass(frozen=True)
class Kernel:
    """One entry of kernels.toml; the meaning of each field is written there."""

    name: str
    suite: str
    packages: tuple[str, ...]
    lacks: frozenset[str]
    faults: frozenset[str]
    notes: tuple[str, ...]

    @property
    def version(self) -> str:
        """The release's first two numbers, as in ``"6.1"``."""
        return self.name.rpartition("-")[2]

    @property
    def own_libc(self) -> bool:
        """Whether the kernel runs on a C library fetched with it, not on this machine's."""
        return "libc6" in self.packages


def load() -> dict[str, Kernel]:
    """Every kernel by name (``"uml-6.1"``).

    Raises:
        TypeError: kernels.toml has a key too many or too few.
    """
    entries = tomllib.loads(_FILE.read_text())
    return {name: _kernel(name, **entry) for name, entry in entries.items()}


def _kernel(
    name: str,
    *,
    suite: str,
    packages: list[str],
    lacks: list[str],
    faults: list[str],
    notes: list[str],
) -> Kernel:
    known = frozenset(lacks), frozenset(faults)
    return Kernel(name, suite, tuple(packages), *known, tuple(notes))
