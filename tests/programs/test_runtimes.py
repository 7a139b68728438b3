"""Real compilers and interpreters in the jail: what they can do, and how they fail.

One program in many languages (`runtimes/`) takes a word: `sort`, `threads N`, `garbage`, `bomb`,
`loop`, `exit N`, `throw`. Compiled ones are compiled in one jail and run in others. What is not
installed here is a failure: `examples/runtimes.sh` installs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sandbox import Limits, Outcome, Sandbox
from sandbox._root import interpreter

pytestmark = pytest.mark.native

Make = Callable[..., Sandbox]
SOURCES = Path(__file__).parent / "runtimes"
JVM = ["-XX:-UsePerfData", "-XX:+UseSerialGC", "-XX:ActiveProcessorCount=2"]


@dataclass(frozen=True)
class Runtime:
    """How a runtime is started, and what it does with what is uncaught.

    `capped` makes it keep a heap of its own below `garbage`, the memory in which it then collects.
    """

    source: str
    argv: list[str]
    compiler: list[str] = field(default_factory=list)
    env: Mapping[str, str] = field(default_factory=dict)
    throws: int = 1
    capped: list[str] = field(default_factory=list)
    capped_env: Mapping[str, str] = field(default_factory=dict)
    garbage: str = ""
    threads: bool = True
    policy: str = "program"


ALL = {
    "c": Runtime("main.c", ["./a.out"], ["gcc", "-O1", "main.c"], throws=0),
    "c++": Runtime("main.cpp", ["./a.out"], ["g++", "-O1", "-std=c++20", "main.cpp"], throws=-6),
    "rust": Runtime(
        "main.rs", ["./a.out"], ["/usr/bin/rustc", "-O", "-o", "a.out", "main.rs"], throws=101
    ),
    "go": Runtime(
        "main.go", ["./a.out"], ["go", "build", "-o", "a.out", "main.go"], throws=2,
        capped_env={"GOMEMLIMIT": "24MiB"}, garbage="24M",
    ),
    "java": Runtime(
        "Main.java", ["java", *JVM, "Main"], ["javac", "-J-XX:-UsePerfData", "Main.java"],
        capped=["-Xmx24m"], garbage="48M", policy="jit",
    ),
    "node": Runtime(
        "main.js", ["node", "main.js"], capped=["--max-old-space-size=24"], garbage="64M",
        policy="jit",
    ),
    "python": Runtime("main.py", [interpreter(), "main.py"], garbage="16M"),
    "pypy": Runtime(
        "main.py", ["pypy3", "main.py"],
        env={"PYPY_GC_NURSERY": "1M"}, capped_env={"PYPY_GC_MAX": "48M"}, garbage="64M",
        policy="jit",
    ),
    "ruby": Runtime("main.rb", ["ruby", "main.rb"], garbage="48M"),
    "perl": Runtime("main.pl", ["perl", "main.pl"], throws=255),
    "lua": Runtime("main.lua", ["lua5.4", "main.lua"], garbage="16M", threads=False),
    "bash": Runtime("main.sh", ["bash", "main.sh"]),
}  # fmt: skip

PROCESSES, THREADS = 32, 8


def names(wanted: Callable[[Runtime], object]) -> list[str]:
    return [name for name, runtime in ALL.items() if wanted(runtime)]


@pytest.fixture(scope="module")
def built(make_sandbox: Make) -> Callable[[str], Outcome]:
    """`built(name)`: the end of the compiler, in a jail, with what it made in `files`."""

    @cache
    def build(name: str) -> Outcome:
        limits = Limits(memory="384M", cpu_time=30, wall_time=120)
        files = {ALL[name].source: SOURCES / ALL[name].source}
        with make_sandbox(limits, policy=ALL[name].policy) as sandbox:
            return sandbox.exec(ALL[name].compiler, files=files, collect=["a.out", "*.class"])

    return build


@pytest.fixture(scope="module")
def run(make_sandbox: Make, built: Callable[[str], Outcome]) -> Callable[..., Outcome]:
    """`run(name, words, capped=False, **limits)`: the end of its program in a jail of its own."""

    def run(name: str, words: str, *, capped: bool = False, **limits: Any) -> Outcome:
        runtime = ALL[name]
        files: dict[str, Any] = {runtime.source: SOURCES / runtime.source}
        if runtime.compiler:
            files = dict(built(name).files)
        argv = [*runtime.argv, *words.split()]
        if capped:
            argv[1:1] = runtime.capped
        env = {**runtime.env, **(runtime.capped_env if capped else {})}
        given = {"cpu_time": 10, "wall_time": 60, "processes": PROCESSES, **limits}
        with make_sandbox(Limits(**given), policy=runtime.policy) as sandbox:
            return sandbox.exec(argv, files=files, env=env)

    return run


@pytest.mark.parametrize("name", names(lambda runtime: runtime.compiler))
def test_a_compiler_works_in_the_jail(built: Callable[[str], Outcome], name: str) -> None:
    outcome = built(name)
    assert (outcome.status, outcome.stderr) == ("ok", b"")
    assert outcome.files


@cache
def checksum() -> bytes:
    x, total, numbers = 42, 0, []
    for _ in range(1000000):
        x = x * 16807 % 2147483647
        numbers.append(x)
    for number in sorted(numbers):
        total = (total * 31 + number) % 1000000007
    return b"%d\n" % total


@pytest.mark.parametrize("name", ALL)
def test_it_sorts_a_million_numbers(run: Callable[..., Outcome], name: str) -> None:
    outcome = run(name, "sort")
    assert (outcome.status, outcome.stdout, outcome.stderr) == ("ok", checksum(), b"")


@pytest.mark.parametrize("name", names(lambda runtime: runtime.threads))
def test_it_has_threads(run: Callable[..., Outcome], name: str) -> None:
    outcome = run(name, f"threads {THREADS}")
    assert (outcome.status, outcome.stdout) == ("ok", b"204\n")
    assert THREADS < (outcome.usage.processes_peak or 0) <= PROCESSES


# bash waits for other processes to end, 15 seconds long, before it gives up.
@pytest.mark.parametrize("name", [n for n in names(lambda r: r.threads) if n != "bash"])
def test_too_many_threads_are_told(run: Callable[..., Outcome], name: str) -> None:
    outcome = run(name, "threads 40")
    assert outcome.status == "process_limit"
    assert outcome.evidence["refused"] >= 1


@pytest.mark.parametrize("name", names(lambda runtime: runtime.garbage))
def test_it_collects_garbage_before_its_memory_ends(run: Callable[..., Outcome], name: str) -> None:
    """Of 140 MB and more, where memory and disk together are at most 72."""
    outcome = run(name, "garbage", capped=True, memory=ALL[name].garbage, disk="8M")
    assert (outcome.status, outcome.stdout) == ("ok", b"collected\n")


@pytest.mark.parametrize("name", ALL)
def test_memory_is_capped(run: Callable[..., Outcome], name: str) -> None:
    assert run(name, "bomb", memory="96M", disk="16M").status == "memory_limit"


# What they do at the end of a heap of their own, before the limit is reached.
OWN_END = {"java": (1, b"OutOfMemoryError"), "node": (-6, b"heap out of memory"),
           "pypy": (1, b"MemoryError")}  # fmt: skip


@pytest.mark.parametrize("name", OWN_END)
def test_a_heap_of_its_own_ends_as_the_runtime_has_it(
    run: Callable[..., Outcome], name: str
) -> None:
    outcome = run(name, "bomb", capped=True, memory="256M")
    code, text = OWN_END[name]
    assert end_of(outcome) == code
    assert text in outcome.stdout + outcome.stderr


@pytest.mark.parametrize("name", ALL)
def test_an_endless_loop_ends_by_its_cpu_time(run: Callable[..., Outcome], name: str) -> None:
    outcome = run(name, "loop", cpu_time=0.4)
    assert (outcome.status, outcome.stdout) == ("cpu_time_limit", b"looping\n")


@pytest.mark.parametrize("name", ALL)
def test_its_exit_status_is_told(run: Callable[..., Outcome], name: str) -> None:
    outcome = run(name, "exit 7")
    assert (outcome.status, outcome.exit_code) == ("nonzero_exit", 7)


@pytest.mark.parametrize("name", names(lambda runtime: runtime.throws))
def test_what_is_not_caught_is_told(run: Callable[..., Outcome], name: str) -> None:
    outcome = run(name, "throw")
    assert end_of(outcome) == ALL[name].throws
    assert b"boom" in outcome.stderr


def end_of(outcome: Outcome) -> int | None:
    """The exit status; of a signal its number below 0."""
    assert outcome.status in ("nonzero_exit", "signaled")
    return -outcome.signal if outcome.signal else outcome.exit_code


# --- what docs/programs.md tells of them -----------------------------------------------------------

LEAK = b"#include <stdlib.h>\nint main(void) { return malloc(9) == 0; }\n"
LEAK_FOUND = "gcc -fsanitize=address leak.c && exec ./a.out"
# command, environment, limits, status, what it says.
QUIRKS: dict[str, tuple[str, dict[str, str], dict[str, Any], str, bytes]] = {
    "a JVM warns": ("java -version", {}, {}, "ok", b"flock() failed"),
    "a JVM lacks threads": (
        "java -XX:-UsePerfData -version", {}, {"processes": 8}, "process_limit", b"Failed to start thread",
    ),
    "node knows no cpus": ("node -p 'os.cpus()'", {}, {}, "ok", b"[]\n"),
    "node waits": ("node -p 1", {}, {"processes": 4, "wall_time": 1}, "wall_time_limit", b""),
    "pypy warns": ("pypy3 -c ''", {}, {}, "ok", b"/proc/cpuinfo"),
    "nproc heeds OpenMP's": ("nproc", {}, {}, "ok", b"1\n"),
    "nproc heeds what it is told": ("nproc", {"OMP_NUM_THREADS": "2"}, {}, "ok", b"2\n"),
    "a search for leaks traces": (LEAK_FOUND, {}, {}, "policy_violation", b""),
    "no search for leaks": (LEAK_FOUND, {"ASAN_OPTIONS": "detect_leaks=0"}, {}, "ok", b""),
}  # fmt: skip


@pytest.mark.parametrize("quirk", QUIRKS)
def test_what_is_told_of_them_is_so(make_sandbox: Make, quirk: str) -> None:
    command, env, limits, status, text = QUIRKS[quirk]
    given = {"cpu_time": 10, "wall_time": 60, **limits}
    with make_sandbox(Limits(**given), policy="jit") as sandbox:
        outcome = sandbox.exec(["sh", "-c", command], files={"leak.c": LEAK}, env=env)
    assert outcome.status == status
    assert text in outcome.stdout + outcome.stderr
    if status == "wall_time_limit":
        assert outcome.evidence["processes_refused"] >= 1


# --- the policies for some of them ----------------------------------------------------------------

# What each says where it may not write code and run it.
MADE_CODE = {
    "java": ("java -version", b"Failed to mark memory page as executable"),
    "node": ("node -p 1", b""),
    "pypy": ("pypy3 -c 'sum(i * i for i in range(1000000))'", b"allocate some memory for the JIT"),
}


@pytest.mark.needs("mdwe")
@pytest.mark.parametrize("name", MADE_CODE)
def test_what_compiles_while_it_runs_needs_the_policy_for_it(make_sandbox: Make, name: str) -> None:
    command, text = MADE_CODE[name]
    limits = Limits(wall_time=60)
    with make_sandbox(limits, policy="jit") as sandbox:
        assert sandbox.exec(["sh", "-c", command]).ok
    with make_sandbox(limits, policy="program") as sandbox:
        outcome = sandbox.exec(["sh", "-c", command])
    assert outcome.status in ("nonzero_exit", "signaled")
    assert text in outcome.stdout + outcome.stderr


# --- the policy for build tools -------------------------------------------------------------------

MODULE = {
    "go.mod": b"module works\n",
    "main.go": b'package main\n\nimport "works/inner"\n\nfunc main() { println(inner.Text) }\n',
    "inner/inner.go": b'package inner\n\nconst Text = "built"\n',
}
MAKEFILE = {
    "Makefile": b"a.out: main.o\n\tgcc main.o\nmain.o: main.c\n\tgcc -c main.c\n",
    "main.c": b'#include <stdio.h>\nint main(void) { return fputs("built\\n", stderr) < 0; }\n',
}
BUILDS: dict[str, tuple[list[str], dict[str, bytes]]] = {
    "go": (["go", "build", "-o", "a.out"], MODULE),
    "make": (["make", "-j2"], MAKEFILE),
}


@pytest.mark.parametrize("tool", BUILDS)
@pytest.mark.parametrize("policy", ["program", "compiler"])
def test_build_tools_need_the_policy_for_them(make_sandbox: Make, tool: str, policy: str) -> None:
    argv, files = BUILDS[tool]
    limits = Limits(memory="384M", cpu_time=30, wall_time=120)
    with make_sandbox(limits, policy=policy) as sandbox:
        outcome = sandbox.exec(argv, files=files, collect=["a.out"])
    if policy == "program":
        assert (outcome.status, dict(outcome.files)) == ("nonzero_exit", {})
        return
    assert outcome.status == "ok"
    with make_sandbox(policy="program") as sandbox:
        assert sandbox.exec(["./a.out"], files=outcome.files).stderr == b"built\n"


DEEP = b"template <int n> struct T { T<n + 1> t; }; T<0> t;\n"
LONG = b"""constexpr int f() { int s = 0; for (int i = 0; i < 1000000000; i++) s ^= i; return s; }
static_assert(f() != 1);
"""
HOSTILE = {
    "memory_limit": (["-ftemplate-depth=10000000"], DEEP, Limits(memory="64M", disk="8M")),
    "cpu_time_limit": (
        ["-fconstexpr-loop-limit=2147483647", "-fconstexpr-ops-limit=9999999999"],
        LONG,
        Limits(memory="1G", cpu_time=0.4, wall_time=60),
    ),
}


@pytest.mark.parametrize("status", HOSTILE)
def test_a_source_that_is_a_bomb_ends_its_compiler(make_sandbox: Make, status: str) -> None:
    options, source, limits = HOSTILE[status]
    with make_sandbox(limits, policy="program") as sandbox:
        outcome = sandbox.exec(["g++", *options, "x.cpp"], files={"x.cpp": source})
    assert outcome.status == status
