"""The documents are true: examples run, what is named exists, tables are the code's."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

import sandbox
from benchmarks.ladder import confinement_steps
from sandbox import Limits, Outcome, Sandbox, Status, Violation, _raising, _verdict, _wire
from sandbox._layers import WAIVABLE

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md", "policies/README.md"]
DOCUMENTS += sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
_FENCE = re.compile(r"^```(\w+)(?: title=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[tuple[str, str]]:
    """(title, content) of the fenced blocks of one language."""
    found = _FENCE.findall(read(document))
    return [(title, content) for kind, title, content in found if kind == language]


def prose(document: str) -> str:
    return re.sub(r"^```.*?^```$", "", read(document), flags=re.MULTILINE | re.DOTALL)


def section(document: str, heading: str) -> str:
    """What stands under a heading, up to the next one of the same depth or above."""
    depth = heading.partition(" ")[0]
    above = rf"^{heading}\n(.*?)(?=^#{{1,{len(depth)}}} |\Z)"
    found = re.search(above, read(document), re.MULTILINE | re.DOTALL)
    assert found, f"{document} has no {heading}"
    return found[1]


def table(document: str, heading: str, number: int = 0) -> list[list[str]]:
    """The rows of a section's table, without its head."""
    tables = re.findall(r"(?:^\|.*\n)+", section(document, heading), re.MULTILINE)
    rows = tables[number].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# --- examples -------------------------------------------------------------------------------------

_WITH_EXAMPLES = [document for document in DOCUMENTS if blocks(document, "python")]


def test_readme_and_guides_have_examples() -> None:
    assert {"README.md", "docs/limits-and-outcomes.md", "docs/policies.md"} <= set(_WITH_EXAMPLES)


@pytest.mark.parametrize("document", _WITH_EXAMPLES)
def test_the_examples_run_in_order(
    document: str,
    make_sandbox: Callable[..., Sandbox],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # Waives what this kernel is declared to lack; everywhere else the examples run as they stand.
    monkeypatch.setattr(sandbox, "Sandbox", make_sandbox)
    monkeypatch.chdir(tmp_path)
    for title, content in blocks(document, "toml"):
        if title:
            (tmp_path / title).write_text(content, encoding="utf-8")
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, (_, content) in enumerate(blocks(document, "python"), 1):
        exec(compile(content, f"{document}, example {number}", "exec"), names)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_policy_in_a_document_loads(document: str, tmp_path: Path) -> None:
    for number, (_, content) in enumerate(blocks(document, "toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(content, encoding="utf-8")
        Sandbox(policy=path)


# --- what is named exists -------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_and_headings(document: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(document)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        assert file.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads]
            assert anchor in slugs, target


_OURS = r"(?:\.ci|benchmarks|docs|examples|fuzz|policies|sandbox|tests|worker)/"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_files_that_a_document_names_exist(document: str) -> None:
    for name in code(prose(document)):
        if re.fullmatch(_OURS + r"[\w./-]*", name) and name not in _IN_THE_WHEEL:
            assert (ROOT / name).exists(), name
        elif re.fullmatch(r"[\w-]+\.(?:md|toml)", name) and document.startswith("policies/"):
            assert (ROOT / "policies" / name).exists(), name


_IN_THE_WHEEL = ("sandbox/worker", "sandbox/policies")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_make_targets_that_a_document_names_exist(document: str) -> None:
    makefile = read("Makefile")
    for target in re.findall(r"(?:^|`)make ([a-z]+)", read(document), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_readme_names_every_make_target() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)
    assert phony
    named = [name for row in table("README.md", "## Developing") for name in code(row[0])]
    assert named == [f"make {target}" for target in phony[1].split()]


def test_readme_tells_the_signature_of_sandbox() -> None:
    parameters = list(inspect.signature(Sandbox).parameters.values())
    told = next(name for name in code(prose("README.md")) if name.startswith("Sandbox(limits"))
    call = ast.parse(told.replace("*, ", "")).body[0]
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    defaults = {word.arg: ast.literal_eval(word.value) for word in call.value.keywords}
    assert defaults == {each.name: each.default for each in parameters[1:]}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_keyword_arguments_in_prose_are_limits_or_options(document: str) -> None:
    waived = re.findall(r"allow_missing=\{([^}]*)\}", read(document))
    for names in waived:
        assert set(re.findall(r'"(\w+)"', names)) <= WAIVABLE


def test_errors_in_the_tables_are_public() -> None:
    document = "docs/limits-and-outcomes.md"
    for number in (0, 1):
        for kind, also, *_ in table(document, "## Exceptions", number):
            found = getattr(sandbox, code(kind)[0])
            assert issubclass(found, sandbox.SandboxError)
            for base in code(also):
                if base != "Exception":
                    assert base in [each.__name__ for each in found.__mro__], (kind, base)


# --- tables that are the code's -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "function"),
    [
        ("### init: `confine_jail`", "confine_jail"),
        ("### worker: `confine_worker`", "confine_worker"),
    ],
)
def test_the_steps_are_those_of_confine_c(heading: str, function: str) -> None:
    listed = re.findall(r"^(\d+)\. `(\w+)`:", section("ARCHITECTURE.md", heading), re.MULTILINE)
    assert [name for _, name in listed] == confinement_steps(function)
    assert [int(number) for number, _ in listed] == list(range(1, len(listed) + 1))


def test_the_precedence_is_that_of_the_verdict() -> None:
    rows = table("ARCHITECTURE.md", "## Precedence")
    assert tuple(code(row[1])[0] for row in rows) == _verdict.precedence()
    assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1))


def test_the_names_for_allow_missing_are_those_that_can_be_waived() -> None:
    rows = table("ARCHITECTURE.md", "## Layers")
    names = {name for row in rows for name in code(row[3])}
    assert names == WAIVABLE
    assert all(code(row[3]) or row[3] == "cannot be waived" for row in rows)
    assert all(re.match(r"required|where the kernel has it", row[1]) for row in rows)


def test_the_limits_and_their_defaults_are_told() -> None:
    rows = table("README.md", "## Limits")
    told = {code(name)[0]: ast.literal_eval(code(default)[0]) for name, default, *_ in rows}
    assert list(told) == [field.name for field in dataclasses.fields(Limits)]
    assert Limits(**told) == Limits()
    guide = table("docs/limits-and-outcomes.md", "## Limits")
    assert [code(row[0])[0] for row in guide] == list(told)


def test_the_outcomes_and_their_exceptions_are_told() -> None:
    rows = table("README.md", "## Outcomes")
    told = {code(status)[0]: code(error) for status, _, error in rows}
    assert next(iter(told)) == "ok"
    assert set(told) == set(get_args(Status))
    kinds = {status: [kind.__name__] for status, kind in _raising._KINDS.items()}
    assert told == {**kinds, "ok": [], "exception": ["GuestError"]}


def test_the_fields_of_an_outcome_are_told() -> None:
    rows = table("docs/limits-and-outcomes.md", "## Outcomes")
    told = {name for row in rows for name in code(row[0])}
    assert told == {field.name for field in dataclasses.fields(Outcome)}


# --- evidence -------------------------------------------------------------------------------------

_RAISED = _wire.Frame("raised", ("ValueError", "no", ""))
_UNFIT = _wire.Frame("unfit", ("result[0]", "socket", ""))


def endings() -> Iterator[tuple[str, dict[str, Any]]]:
    """(status, what the host saw): each way in which a call can end."""
    yield "internal_error", {"fault": "lost"}
    yield "internal_error", {"oom_kills": 1}
    yield "policy_violation", {"violation": Violation("ptrace", 101, "x86_64", ())}
    yield "memory_limit", {"oom_kills": 1, "oom_at_limit": 1}
    yield "cpu_time_limit", {"killed": ["cpu"], "cpu_time": 9.0}
    yield "wall_time_limit", {"killed": ["wall"]}
    yield "output_limit", {"killed": ["output"], "output_bytes": 1 << 30}
    yield "cancelled", {"killed": ["cancel"]}
    yield "result_invalid", {"wire_error": "no frame"}
    yield "result_invalid", {"frame": _UNFIT}
    yield "result_invalid", {"frame": None}
    yield "process_limit", {"frame": _RAISED, "processes_refused": 3}
    yield "disk_limit", {"frame": _RAISED, "disk_full": True}
    yield "disk_limit", {"frame": _RAISED, "inodes_full": True}
    yield "disk_limit", {"wait_status": int(signal.SIGXFSZ)}
    yield "signaled", {"wait_status": int(signal.SIGSEGV)}
    yield "nonzero_exit", {"wait_status": 3 << 8}
    yield "exception", {"frame": _RAISED}
    yield "result_too_large", {"frame": _wire.Frame("too_large", 1 << 40)}
    yield "ok", {"frame": _wire.Frame("value", b"")}


def test_the_keys_of_the_evidence_are_told() -> None:
    refusals = {"processes_refused", "disk_full", "inodes_full"}
    assert refusals <= set(code(section("ARCHITECTURE.md", "## Evidence").partition("|")[0]))
    shown: dict[str, set[str]] = {}
    for status, seen in endings():
        verdict = _verdict.decide(_verdict.Facts(Limits(), **{"wait_status": 0, **seen}))
        assert verdict.status == status
        shown.setdefault(status, set()).update(set(verdict.evidence) - refusals)
    rows = table("ARCHITECTURE.md", "## Evidence")
    assert {code(row[0])[0]: set(code(row[1])) for row in rows} == shown


# --- what must not be there -----------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS)
def test_lines_are_short_outside_tables(document: str) -> None:
    for line in read(document).splitlines():
        assert len(line) <= 110 or line.startswith("|"), line


def test_the_source_archive_keeps_every_folder() -> None:
    tracked = {name for name in os.listdir(ROOT) if (ROOT / name).is_dir()}
    kept = set(re.findall(r"^graft (\S+)$", read("MANIFEST.in"), re.MULTILINE)) | {"sandbox"}
    assert {name for name in tracked if re.match(_OURS, f"{name}/")} == kept
