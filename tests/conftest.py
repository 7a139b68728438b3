"""What every test shares: the kernel's declaration, a factory of sandboxes, the count of waivers.

A layer may only be missing where the kernel under test is declared to lack it
(tests/kernels/kernels.toml, named by SANDBOX_KERNEL). Tests that need such a layer are skipped with
that reason and counted; anywhere else a missing layer is a failure.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Callable
from typing import Any

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# `worker` is a program, not an installed package: tests reach it from the checkout.
sys.path.insert(0, ROOT)

from sandbox import Limits, Sandbox  # noqa: E402


def _declared() -> tuple[str, frozenset[str], frozenset[str]]:
    name = os.environ.get("SANDBOX_KERNEL")
    if name is None:
        return "this kernel", frozenset(), frozenset()
    with open(os.path.join(ROOT, "tests", "kernels", "kernels.toml"), "rb") as file:
        entry = tomllib.load(file)[name]
    return name, frozenset(entry["lacks"]), frozenset(entry["faults"])


KERNEL, LACKS, FAULTS = _declared()


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "needs(layer): skipped only where the kernel declares to lack it",
        "spares(fault): skipped only where the kernel declares a fault by which this would end it",
    ):
        config.addinivalue_line("markers", line)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("needs"):
            if mark.args[0] in LACKS:
                reason = f"{KERNEL} is declared to lack {mark.args[0]}"
                item.add_marker(pytest.mark.skip(reason=reason))
        for mark in item.iter_markers("spares"):
            if mark.args[0] in FAULTS:
                reason = f"{KERNEL} is declared to panic by {mark.args[0]}"
                item.add_marker(pytest.mark.skip(reason=reason))
        for name in ("volume", "native"):
            if item.get_closest_marker(name) and "SANDBOX_KERNEL" in os.environ:
                item.add_marker(pytest.mark.skip(reason=f"{name} tests run natively only"))


@pytest.fixture(scope="session")
def lacks() -> frozenset[str]:
    """The layers this kernel is declared to lack."""
    return LACKS


@pytest.fixture(scope="session")
def make_sandbox() -> Callable[..., Sandbox]:
    """`make_sandbox(limits=None, **options)`: a `Sandbox`, not entered, with exactly the layers
    waived that this kernel is declared to lack (and what the test itself waives)."""

    def make(limits: Limits | None = None, **options: Any) -> Sandbox:
        waived = set(options.pop("allow_missing", ())) | LACKS
        return Sandbox(limits, allow_missing=waived, **options)

    return make
