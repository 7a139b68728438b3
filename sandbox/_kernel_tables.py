"""The numbers behind the names: policies/kernel.toml, and where all shipped data lies. Runs on the
host; needs no libseccomp."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from . import _paths


@dataclass(frozen=True)
class KernelNames:
    """Call → numbers by architecture, and the values of named constants."""

    numbers: Mapping[str, Mapping[str, int]]
    constants: Mapping[str, int]


@lru_cache(maxsize=1)
def kernel_names() -> KernelNames:
    with open(data_path("kernel"), "rb") as file:
        data = tomllib.load(file)
    arches = ("x86_64", "aarch64")
    numbers = {
        call: {arch: number for arch, number in zip(arches, pair, strict=True) if number >= 0}
        for call, pair in data["syscalls"].items()
    }
    return KernelNames(numbers, data["constants"])


def data_path(name: str) -> str:
    return os.path.join(_paths.POLICIES, f"{name}.toml")
