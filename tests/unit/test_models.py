"""The values of the public API: checked when made, frozen, and what was given is what is kept."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, get_args

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import Isolation, Limits, Mount, Outcome, Status, Usage
from sandbox._models import as_dict

SIZES = ("memory", "swap", "file_size", "output", "result", "disk", "stack")
OPTIONAL = {"wall_time", "cpu_time", "memory", "processes", "file_size", "output", "cpus", "cpuset"}
LEAST = {"memory": 16 << 20, "disk": 64 << 10, "stack": 256 << 10, "result": 64, "output": 1}
MOST = {"stack": 1 << 34}
MOST_BYTES = 1 << 50


def with_limit(name: str, value: Any) -> Limits:
    return Limits(**{name: value})


def test_the_defaults_are_finite_where_a_guest_could_do_harm() -> None:
    limits = Limits()
    assert limits.swap == 0
    assert limits.cpus is None
    for field in dataclasses.fields(limits):
        if field.name not in ("cpus", "cpuset"):
            assert getattr(limits, field.name) is not None


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("65536", 65536), ("64K", 64 << 10), ("64KiB", 64 << 10), ("1.5M", 3 << 19), ("1G", 1 << 30),
        (" 2 G ", 2 << 30), ("1T", 1 << 40), ("0.5G", 1 << 29),
    ],
)  # fmt: skip
def test_sizes_have_binary_suffixes(text: str, size: int) -> None:
    assert Limits(disk=text).disk == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "M",
        "1 0M",
        "1m",
        "1MB",
        "0x10",
        "1e9",
        "1e3M",
        "+5M",
        "-5M",
        "²M",
        "\u0661\u0662M",
        "1M\n2",
        "inf",
        "nan",
    ],
)
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="disk"):
        Limits(disk=text)


@given(st.sampled_from(SIZES), st.integers())
def test_a_size_is_kept_or_refused(name: str, value: int) -> None:
    least = LEAST.get(name, 0)
    if least <= value <= MOST.get(name, MOST_BYTES):
        assert getattr(with_limit(name, value), name) == value
    else:
        with pytest.raises(ValueError, match=name):
            with_limit(name, value)


@pytest.mark.parametrize("value", [10**400, -(10**400), 10**5000], ids=["401", "-401", "5001"])
@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Limits) if f.name != "cpuset"])
def test_an_int_too_long_for_a_float_or_for_text_is_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: an int of \d+ bits is outside"):
        with_limit(name, value)


@pytest.mark.parametrize("text", ["9" * 400 + "M", "9" * 400, "1" + "0" * 30 + ".5T"])
@pytest.mark.parametrize("name", SIZES)
def test_a_size_of_many_digits_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: '\d+.* is outside") as caught:
        with_limit(name, text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", SIZES)
def test_the_largest_size_is_kept_and_one_more_is_not(name: str) -> None:
    most = MOST.get(name, MOST_BYTES)
    assert getattr(with_limit(name, str(most)), name) == most
    for more in (most + 1, str(most + 1)):
        with pytest.raises(ValueError, match=name):
            with_limit(name, more)


@pytest.mark.parametrize("name", ["memory", "processes", "open_files", "cpu_time", "cpus"])
def test_numpys_whole_numbers_are_refused_by_name(name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name}: .* not int64"):
        with_limit(name, numpy.int64(1 << 28))


def test_numpys_double_is_a_float() -> None:
    assert type(Limits(cpu_time=numpy.float64(2)).cpu_time) is float
    with pytest.raises(TypeError, match=r"cpu_time: .* not float32"):
        with_limit("cpu_time", numpy.float32(2))


@given(st.sampled_from(["wall_time", "cpu_time"]), st.floats())
def test_a_time_is_kept_or_refused(name: str, value: float) -> None:
    if math.isfinite(value) and 0.001 <= value <= 100 * 86400:
        assert getattr(with_limit(name, value), name) == value
    else:
        with pytest.raises(ValueError, match=name):
            with_limit(name, value)


@given(st.floats())
def test_cpus_are_kept_or_refused(value: float) -> None:
    if math.isfinite(value) and 0.01 <= value <= 4096:
        assert Limits(cpus=value).cpus == value
    else:
        with pytest.raises(ValueError, match="cpus"):
            Limits(cpus=value)


@given(st.sampled_from([f.name for f in dataclasses.fields(Limits)]), st.booleans())
def test_a_truth_value_is_no_number(name: str, value: bool) -> None:
    with pytest.raises(TypeError, match=name):
        with_limit(name, value)


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Limits)])
def test_unlimited_is_written_as_none_where_it_is_allowed(name: str) -> None:
    if name in OPTIONAL:
        assert getattr(with_limit(name, None), name) is None
    else:
        with pytest.raises(TypeError, match=name):
            with_limit(name, None)


@pytest.mark.parametrize("value", [object(), [], b"5", 1j])
@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Limits)])
def test_other_types_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=name):
        with_limit(name, value)


def test_limits_are_by_name_frozen_and_comparable() -> None:
    with pytest.raises(TypeError):
        Limits(1.0)  # type: ignore[call-arg]
    limits = Limits(memory="64M")
    with pytest.raises(dataclasses.FrozenInstanceError):
        limits.memory = 5  # type: ignore[misc]
    assert limits == Limits(memory=64 << 20)
    assert hash(limits) == hash(Limits(memory=64 << 20))
    assert dataclasses.replace(limits, processes=3).memory == 64 << 20


def test_limits_stay_checked_through_replace() -> None:
    with pytest.raises(ValueError, match="processes"):
        dataclasses.replace(Limits(), processes=0)


def test_mounts_are_read_only_unless_said() -> None:
    assert not Mount("/a", "/b").writable
    assert Mount("/a", "/b", writable=True).writable
    with pytest.raises(TypeError):
        Mount("/a", "/b", True)  # type: ignore[call-arg]


def test_an_outcome_is_ok_for_one_status_only() -> None:
    assert [status for status in get_args(Status) if Outcome(status).ok] == ["ok"]


def test_an_outcomes_mappings_are_empty_not_shared() -> None:
    first = Outcome("ok")
    with pytest.raises(TypeError):
        first.evidence["x"] = 1  # type: ignore[index]
    assert (first.stdout, first.usage, first.isolation) == (b"", Usage(), Isolation())


def test_as_dict_is_one_level_deep() -> None:
    assert as_dict(Usage(wall_time=1.5))["wall_time"] == 1.5
    assert set(as_dict(Limits())) == {f.name for f in dataclasses.fields(Limits)}


@pytest.mark.parametrize(
    ("text", "kept"),
    [("0", "0"), ("3,1", "1,3"), ("0-1,2", "0-2"), ("5,0-3,2-4", "0-5"), ("7-7,9", "7,9")],
)
def test_a_cpuset_is_kept_as_the_kernel_prints_it(text: str, kept: str) -> None:
    assert Limits(cpuset=text).cpuset == kept


@pytest.mark.parametrize(
    "text", ["", " 0", "0-", "-1", "2-1", "0,,1", "a", "\u0663", "123456", "0 1"]
)
def test_what_is_no_cpuset_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cpuset: "):
        Limits(cpuset=text)
    with pytest.raises(TypeError, match="cpuset: "):
        Limits(cpuset={0})  # type: ignore[arg-type]
