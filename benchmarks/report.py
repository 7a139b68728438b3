"""The tables `run.py` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.stats import Series, ratio


@dataclass(frozen=True)
class Target:
    """`entry` is to take at most `most` times as long as `baseline`."""

    entry: str
    baseline: str
    most: float


TARGETS = (
    Target("fresh_cold", "B3 bubblewrap", 1 / 5),
    Target("fresh_cold", "B1 launcher fork", 5.0),
    Target("open_call", "B1 launcher fork", 2.0),
    Target("payload_100", "pipe_100", 2.0),
    Target("fresh_exec", "bubblewrap hello", 0.7),
    Target("open_exec", "spawn hello", 2.5),
    Target("stdin_100", "program_pipe_100", 2.0),
    Target("stdout_100", "program_pipe_100", 2.0),
)
# Without a target: what the issue asks to be set side by side.
BESIDE = (
    Target("fresh_cold", "B2 python", 0.0),
    Target("fresh_cold", "B1 six namespaces", 0.0),
    Target("open_call", "B4 executor", 0.0),
    Target("teardown (close)", "B1 launcher fork", 0.0),
    Target("teardown (all gone)", "B1 launcher fork", 0.0),
    Target("payload_1", "pipe_1", 0.0),
    Target("fresh_exec", "spawn hello", 0.0),
    Target("fresh_placed", "bubblewrap hello", 0.0),
)


def times(found: Mapping[str, Series]) -> str:
    """Milliseconds, a line an entry."""
    lines = [f"{'milliseconds':<22}{'p10':>9}{'p50':>9}{'p90':>9}{'p99':>9}{'samples':>9}"]
    for name, series in found.items():
        summary = series.summary()
        cells = "".join(f"{summary[key] * 1e3:9.3f}" for key in ("p10", "p50", "p90", "p99"))
        lines.append(f"{name:<22}{cells}{summary['samples']:9}")
    return "\n".join(lines)


def ratios(found: Mapping[str, Series]) -> list[dict[str, Any]]:
    """Each pair of which both were measured: the ratio, and whether its target is reached."""
    rows = []
    for target in (*TARGETS, *BESIDE):
        if target.entry in found and target.baseline in found:
            value = ratio(found[target.entry], found[target.baseline])
            row: dict[str, Any] = {
                "entry": target.entry,
                "baseline": target.baseline,
                "ratio": value,
                "target": target.most or None,
                "reached": value <= target.most if target.most else None,
            }
            rows.append(row)
    return rows


def ratio_table(rows: list[dict[str, Any]]) -> str:
    """A line a pair."""
    lines = [f"{'ratio (same round)':<44}{'ratio':>9}{'target':>9}"]
    for row in rows:
        pair = f"{row['entry']} / {row['baseline']}"
        target = f"{row['target']:9.2f}" if row["target"] else f"{'-':>9}"
        verdict = {None: "", True: "reached", False: "NOT reached"}[row["reached"]]
        lines.append(f"{pair:<44}{row['ratio']:9.2f}{target}  {verdict}".rstrip())
    return "\n".join(lines)


def churn_text(found: dict[str, Any], leaked: list[str]) -> str:
    """The rate and the leak check."""
    lines = [
        f"churn: {found['per_second']:.0f} sandboxes a second on {found['cpus']} CPUs "
        f"({found['processes']} processes of {found['threads']} threads, {found['seconds']:g} s, "
        f"{found['sandboxes']} made)"
    ]
    before, after = found["running"]["before"], found["running"]["after"]
    pairs = ", ".join(f"{name} {before[name]} -> {after[name]}" for name in before)
    lines.append(f"  counts before -> after: {pairs}")
    lines.append("  LEFT BEHIND: " + "; ".join(leaked) if leaked else "  nothing left behind")
    return "\n".join(lines)
