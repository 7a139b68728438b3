"""Samples taken in rounds, and what is said of them: percentiles, and ratios within one round.

A machine's speed drifts by half within minutes, so that only figures of one round can be compared:
every ratio is the median over rounds of (median of the one) / (median of the other).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Series:
    """Seconds, one list a round."""

    rounds: list[list[float]] = field(default_factory=list)

    @property
    def samples(self) -> list[float]:
        """All of them, in order of size."""
        return sorted(sample for each in self.rounds for sample in each)

    def percentile(self, percent: float) -> float:
        """The sample below which `percent` of all lie (nearest rank)."""
        samples = self.samples
        return samples[min(len(samples) - 1, int(len(samples) * percent / 100))]

    def summary(self) -> dict[str, float]:
        """Seconds at four percentiles, and how many samples there are."""
        found = {f"p{percent}": self.percentile(percent) for percent in (10, 50, 90, 99)}
        return {**found, "samples": len(self.samples)}


def ratio(over: Series, under: Series) -> float:
    """How many times as long `over` takes, round by round."""
    pairs = zip(over.rounds, under.rounds, strict=True)
    return statistics.median(statistics.median(a) / statistics.median(b) for a, b in pairs)


@dataclass(frozen=True)
class Entry:
    """One thing to measure: `sample` returns seconds; `burst` samples are taken in a row."""

    name: str
    sample: Callable[[], float]
    burst: int = 1


def interleave(entries: list[Entry], rounds: int) -> dict[str, Series]:
    """Every entry in every round, the first one being another each time: the first pays for what
    the last left behind."""
    found = {entry.name: Series() for entry in entries}
    for entry in entries:
        entry.sample()
    for number in range(rounds):
        start = number % len(entries)
        for entry in entries[start:] + entries[:start]:
            found[entry.name].rounds.append([entry.sample() for _ in range(entry.burst)])
    return found
