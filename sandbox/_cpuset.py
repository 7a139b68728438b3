"""Sets of CPUs in the kernel's list format: "0-3,6" (cpuset(7))."""

from __future__ import annotations

import os
import re

_LIST = re.compile(r"\d{1,5}(?:-\d{1,5})?(?:,\d{1,5}(?:-\d{1,5})?)*", re.ASCII)


def parse(text: str) -> frozenset[int]:
    """The CPUs' numbers. Raises ValueError."""
    found: set[int] = set()
    if _LIST.fullmatch(text) is None:
        raise ValueError(f"{text!r:.60} is no list of CPUs; write '0', '0-3' or '0-1,4'")
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers = range(int(first), int(last or first) + 1)
        if not numbers:
            raise ValueError(f"{part!r} ends before it begins")
        found.update(numbers)
    return frozenset(found)


def check_cpus(wanted: str | None) -> None:
    """Raises ValueError where this process may not run on all of them."""
    if wanted is None:
        return
    there = os.sched_getaffinity(0)
    missing = parse(wanted) - there
    if missing:
        raise ValueError(
            f"cpuset: {shown(missing)} is not among the CPUs of this process, {shown(there)}"
        )


def shown(cpus: frozenset[int] | set[int]) -> str:
    """As the kernel prints it: in order, neighbours as ranges."""
    parts: list[str] = []
    for number in sorted(cpus):
        if number - 1 not in cpus:
            last = number
            while last + 1 in cpus:
                last += 1
            parts.append(str(number) if last == number else f"{number}-{last}")
    return ",".join(parts)
