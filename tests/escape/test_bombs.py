"""G, H: memory and storage run out for the guest, and for nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from sandbox import Limits, Outcome, Sandbox
from tests.escape.cases import number
from tests.probes import bombs
from tests.probes.raw import system_call

Make = Callable[..., Sandbox]

MIB = 1 << 20


@pytest.fixture
def tight(make_sandbox: Make, small: Limits) -> Iterator[Sandbox]:
    """A sandbox of its own for each test, because what is written stays; 32 MiB of memory."""
    with make_sandbox(replace(small, memory="32M", disk="1M", inodes=128)) as sandbox:
        yield sandbox
        assert sandbox.run(divmod, 17, 5) == (3, 2)


def check_memory(outcome: Outcome) -> None:
    assert outcome.status == "memory_limit", f"{outcome.status}: {outcome.message}"
    assert outcome.value is None
    # On v1 the host may end the call before the kernel has counted a kill.
    assert outcome.evidence["counter"] in ("oom_kill", "memory.oom_control")
    assert outcome.evidence["value"] == 32 * MIB
    assert outcome.evidence["oom_at_limit"] >= 1


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.hostile
@pytest.mark.parametrize("bomb", [bombs.touch, bombs.touch_and_hold_on], ids=["once", "coping"])
def test_h01_memory_past_the_cap_ends_the_call(bomb: Callable[[int], int], tight: Sandbox) -> None:
    assert tight.run(bomb, 8) in (8, 8 * MIB)
    outcome = tight.call(bomb, 512)
    check_memory(outcome)
    assert outcome.usage.memory_peak is None or outcome.usage.memory_peak <= 34 * MIB


@pytest.mark.hostile
def test_g09_a_hog_takes_its_whole_call_with_it_and_no_more(tight: Sandbox) -> None:
    """Not only the child, whose parent would report success; and not init."""
    first = tight.call(bombs.hog_in_a_child, 512)
    check_memory(first)
    second = tight.call(divmod, 7, 2)
    assert second.value == (3, 1)
    assert second.isolation.namespaces == first.isolation.namespaces


def test_g10_swap_is_closed(tight: Sandbox) -> None:
    limits = tight.call(abs, 1).isolation.limits
    assert limits["call.swap"] == limits["jail.swap"] == 0


@pytest.mark.hostile
def test_h04_memory_files_are_charged_and_freed(tight: Sandbox) -> None:
    assert tight.run(bombs.fill_memfds, 4) >= 2
    check_memory(tight.call(bombs.fill_memfds, 512))
    assert tight.run(bombs.touch, 16) == 16 * MIB


@pytest.mark.hostile
def test_h07_page_tables_are_charged(tight: Sandbox) -> None:
    assert tight.run(bombs.build_page_tables, 1) == 1
    check_memory(tight.call(bombs.build_page_tables, 64))


@pytest.mark.hostile
def test_h08_mappings_are_capped(make_sandbox: Make, small: Limits) -> None:
    """By the kernel's own number (vm.max_map_count), and their memory by the call's group."""
    with make_sandbox(replace(small, memory="128M", cpu_time=20, wall_time=40)) as sandbox:
        assert sandbox.run(bombs.split_mappings, 1000) == "done"
        assert sandbox.run(bombs.split_mappings, 200_000) == "ENOMEM"


@pytest.mark.hostile
def test_h10_what_waits_in_sockets_is_charged(tight: Sandbox) -> None:
    before = tight.call(abs, 1).usage.memory_peak
    outcome = tight.call(bombs.fill_sockets)
    if outcome.status == "ok":
        assert outcome.usage.memory_peak is not None
        assert before is not None
        assert outcome.usage.memory_peak - before > outcome.value / 2
    else:
        check_memory(outcome)


@pytest.mark.parametrize("flags", [0x40000, 0x40000 | 21 << 26], ids=["any", "2M"])
def test_h06_huge_pages_which_no_group_counts_cannot_be_had(flags: int, jail: Sandbox) -> None:
    assert jail.run(bombs.huge_pages, 0) == "done"
    assert jail.run(bombs.huge_pages, flags) == "EPERM"


def test_h06_nor_as_a_file(jail: Sandbox) -> None:
    assert jail.run(bombs.huge_memfd) == "EPERM"


SHM = ("shmget", (0, 4096, 0o1600))


def test_h05_there_is_no_system_v_memory(jail: Sandbox, bare: Sandbox) -> None:
    assert bare.run(system_call, number("shmget"), *SHM[1]) == "done"
    assert jail.run(system_call, number("shmget"), *SHM[1]) == "ENOSYS"


# --- storage --------------------------------------------------------------------------------------


@pytest.mark.hostile
@pytest.mark.parametrize("directory", ["/tmp", "/work", "/dev/shm"])
def test_h03_full_writable_places_are_a_disk_limit(directory: str, tight: Sandbox) -> None:
    outcome = tight.call(bombs.fill_disk, directory)
    assert outcome.status == "disk_limit", outcome.message
    assert outcome.evidence["limit"] == "disk"
    assert outcome.evidence["value"] == MIB
    assert outcome.error is not None
    assert "[Errno 28]" in outcome.error.message


@pytest.mark.hostile
def test_h03_a_guest_that_copes_is_ok_with_the_refusal_noted(tight: Sandbox) -> None:
    outcome = tight.call(bombs.fill_disk_and_cope, "/tmp")
    assert (outcome.status, outcome.value) == ("ok", "ENOSPC")
    assert outcome.evidence["disk_full"]
    # The places share one cap, whatever their names.
    assert tight.run(bombs.fill_disk_and_cope, "/dev/shm") == "ENOSPC"
    # And the room comes back.
    assert tight.run(bombs.empty, "/tmp") > 0
    assert "disk_full" not in tight.call(abs, 1).evidence


@pytest.mark.hostile
def test_h11_files_without_bytes_are_counted(tight: Sandbox) -> None:
    outcome = tight.call(bombs.fill_inodes, "/tmp")
    assert outcome.status == "disk_limit", outcome.message
    assert outcome.evidence["limit"] == "inodes"
    assert outcome.evidence["value"] == 128


def test_h12_a_sparse_file_is_as_long_as_it_claims(tight: Sandbox) -> None:
    assert tight.run(bombs.sparse_file, MIB) == MIB
    outcome = tight.call(bombs.sparse_file, 1 << 40)
    assert outcome.status == "exception"
    assert outcome.error is not None
    assert "[Errno 27]" in outcome.error.message


def test_h12_and_its_signal_is_a_disk_limit(tight: Sandbox) -> None:
    outcome = tight.call(bombs.sparse_file_with_the_signal, 1 << 40)
    assert outcome.status == "disk_limit"
    assert outcome.evidence["limit"] == "file_size"
    assert outcome.evidence["signal"] == "SIGXFSZ"


def test_h13_a_deep_tree_of_odd_names_goes_with_its_jail(make_sandbox: Make, small: Limits) -> None:
    for _ in range(2):
        with make_sandbox(small) as sandbox:
            assert sandbox.run(bombs.deep_tree, 200) == 200


def test_n07_places_are_empty_in_every_new_sandbox(make_sandbox: Make, small: Limits) -> None:
    def leave(directory: str) -> list[str]:
        import os

        before = os.listdir(directory)
        open(f"{directory}/left", "w").close()
        return before

    for _ in range(2):
        with make_sandbox(small) as sandbox:
            for directory in ("/tmp", "/work", "/dev/shm"):
                assert sandbox.run(leave, directory) == []
                assert sandbox.run(leave, directory) == ["left"]  # calls of one sandbox share them


# --- the group itself -----------------------------------------------------------------------------


def join_and_raise() -> dict[str, str]:
    """Where a guest would find control groups, were there any."""
    import os

    places = ["/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/proc/cgroups", "/cgroup"]
    return {place: "there" for place in places if os.path.lexists(place)}


def test_g02_g03_there_are_no_control_groups_to_be_seen(jail: Sandbox) -> None:
    assert jail.run(join_and_raise) == {}
    assert join_and_raise() != {}


def limits_of(outcome: Outcome) -> dict[str, Any]:
    return {name: outcome.isolation.limits[name] for name in ("call.memory", "call.processes")}


def test_g03_the_limits_read_back_are_those_asked_for(jail: Sandbox, small: Limits) -> None:
    """The group's cap of memory is memory + disk: files in the writable places are memory too."""
    expected = int(small.memory or 0) + int(small.disk)
    assert limits_of(jail.call(abs, 1)) == {
        "call.memory": expected,
        "call.processes": small.processes,
    }
