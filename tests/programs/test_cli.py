"""`sandbox run`: from the shell, with streams passed through."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from sandbox._run import EPILOG
from tests.conftest import LACKS, ROOT
from tests.lifecycle.traces import descendants, until

DEEP = "/".join("abcdefghijklmnopqrst")
WAIVED = [word for layer in sorted(LACKS) for word in ("--allow-missing", layer)]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "sandbox", "run", *WAIVED, *words]


@contextmanager
def started(
    argv: list[str], stdin: int = subprocess.DEVNULL
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]]:
    """It, and the ends of its stdout and stderr."""
    with subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=stdin,
        env={**os.environ, "PYTHONPATH": ROOT},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        yield process, process.stdout, process.stderr


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    options.setdefault("input", b"")
    environment = {**os.environ, "PYTHONPATH": ROOT}
    return subprocess.run(
        command(*words), capture_output=True, timeout=120, env=environment, check=False, **options
    )


def test_streams_pass_through() -> None:
    done = run("sh", "-c", "tr a-c A-C; echo err >&2", input=b"abc\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"ABC\n", b"err\n")


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["sh", "-c", "exit 5"], 5, b""),
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM, b""),
        (["--wall-time", "0.2", "sleep", "100"], 124, b"wall_time_limit"),
        (["--cpu-time", "0.2", "--", "sh", "-c", "while :; do :; done"], 124, b"cpu_time_limit"),
        (["--output", "100", "yes"], 122, b"output_limit"),
        (
            ["--processes", "3", "sh", "-c", "for i in 1 2 3 4 5; do sleep 1 & done"],
            122,
            b"process_limit",
        ),
        (["no-such-program"], 127, b"no program"),
        (["/etc/passwd"], 126, b"may not be executed"),
        (["--cwd", "/nosuch", "true"], 125, b"cannot start in '/nosuch'"),
        (["--inodes", "16", "--file", f"{DEEP}=/etc/passwd", "true"], 125, b"cannot place"),
        (["--file", "a=/nosuch", "true"], 2, b"/nosuch"),
        (["--collect", "*", "--into", "/etc/passwd/x", "true"], 2, b"/etc/passwd"),
        (["--memory", "much", "true"], 2, b"memory: 'much'"),
        (["--cpu-time", "much", "true"], 2, b"--cpu-time much"),
        (["--policy", "python", "true"], 2, b"runs no programs"),
        (["--policy", "nonsense", "true"], 2, b"nonsense"),
        (["--mount", "/usr", "true"], 2, b"--mount /usr"),
        (["--env", "A", "true"], 2, b"--env A"),
        (["--collect", "*", "true"], 2, b"--into"),
        ([], 2, b"argv"),
    ],
    ids=str,
)
def test_the_exit_status_tells_what_happened(words: list[str], status: int, text: bytes) -> None:
    done = run(*words)
    assert done.returncode == status, done.stderr
    assert text in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_script_runs_under_this_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint(sys.argv, input(), sys.version_info[:2])\n")
    done = run(str(script), "x", input=b"line\n")
    assert done.stdout == f"['/work/script.py', 'x'] line {sys.version_info[:2]}\n".encode()


def test_a_script_runs_wherever_it_starts_and_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "-x.py").write_text("import os\nprint(os.getcwd())\n")
    done = run("--cwd", "/tmp", "--", "-x.py", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"/tmp\n", b"")


def test_options_reach_the_sandbox(tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "file").write_text("from the mount ")
    (tmp_path / "placed").write_text("placed ")
    tmp_path.chmod(0o755)
    words = ["--mount", f"{tmp_path}/shown:/shown", "--file", f"here={tmp_path}/placed"]
    words += ["--env", "A=from the environment ", "--cwd", "/tmp"]
    text = 'cat /work/here /shown/file; printf "$A"; pwd'
    done = run(*words, "sh", "-c", text)
    assert done.stdout == b"placed from the mount from the environment /tmp\n"


def test_files_come_back_into_a_folder_of_their_own(tmp_path: Path) -> None:
    into = tmp_path / "out"
    words = ["--collect", "**", "--into", str(into), "sh", "-c"]
    done = run(*words, "mkdir -p a/b; echo 1 > a/b/c; ln -s /etc/passwd link")
    assert done.returncode == 0
    assert b"'link' was not brought back" in done.stderr
    assert [str(path.relative_to(into)) for path in into.rglob("*") if path.is_file()] == ["a/b/c"]
    assert (into / "a/b/c").read_text() == "1\n"
    again = run(*words, "true")
    assert again.returncode == 2
    assert b"is not empty" in again.stderr


def test_the_outcome_as_json() -> None:
    done = run("--json", "sh", "-c", "echo out; echo err >&2; exit 3")
    told = json.loads(done.stdout)
    assert done.returncode == 3
    assert (told["status"], told["exit_code"], told["stdout"]) == ("nonzero_exit", 3, "out\n")
    assert told["isolation"]["worker"]["seccomp_mode"] == 2
    assert told["usage"]["wall_time"] > 0


def test_bytes_that_are_no_text_come_back_from_json() -> None:
    data = bytes(range(256)) + rb"\xff \\" + "\udc80é".encode("utf-8", "surrogatepass")
    done = run("--json", "cat", input=data)
    assert json.loads(done.stdout)["stdout"].encode("utf-8", "surrogateescape") == data


def test_json_also_tells_of_a_program_that_was_not_started() -> None:
    done = run("--json", "no-such-program")
    told = json.loads(done.stdout)
    assert done.returncode == 127
    assert (told["status"], told["exit_code"]) == ("not_started", None)
    assert (told["step"], told["errno"]) == ("program", errno.ENOENT)
    assert told["path"] == "no-such-program"
    assert "no program 'no-such-program'" in told["message"]
    assert told["isolation"]["worker"]["seccomp_mode"] == 2


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("echo text' > /dev/full", True),
        ("echo text >&2' 2> /dev/full", False),
        ("head -c 300000 /dev/zero' > /dev/full", True),
    ],
)
@pytest.mark.parametrize("json_too", [False, True], ids=["plain", "json"])
def test_output_that_cannot_be_written_here_is_no_fault_of_the_options(
    line: str, told: bool, json_too: bool
) -> None:
    words = shlex.join(command(*(["--json"] if json_too else []), "sh", "-c"))
    done = subprocess.run(
        ["sh", "-c", f"{words} '{line}"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        env={**os.environ, "PYTHONPATH": ROOT},
        check=False,
    )
    if json_too and not told:
        assert json.loads(done.stdout)["stderr"] == "text\n"
        assert done.returncode == 0
        return
    assert done.returncode == 125
    assert (b"cannot write to our stdout: No space left" in done.stderr) == told
    assert b"Traceback" not in done.stderr


def test_a_status_is_told_where_its_message_cannot_be() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("no-such-program"),
            stdin=subprocess.DEVNULL,
            stderr=full,
            timeout=120,
            env={**os.environ, "PYTHONPATH": ROOT},
            check=False,
        )
    assert done.returncode == 127


def test_help_has_the_statuses_of_the_documentation() -> None:
    with open(os.path.join(ROOT, "docs", "programs.md")) as file:
        table = file.read().split("| Exit status |")[1].split("\n\n")[0]
    documented = set(re.findall(r"\d+", "".join(re.findall(r"\n\|([^|]*)", table))))
    assert documented == set(re.findall(r"\d+", EPILOG))


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    with started(command("--output", "none", "yes")) as (process, stdout, stderr):
        assert stdout.read(2) == b"y\n"
        stdout.close()
        assert process.wait(60) == 128 + signal.SIGPIPE
        assert stderr.read() == b""


# A CI in the background may ignore SIGINT, which exec keeps.
HEEDING = """import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])"""


def test_ctrl_c_ends_it_and_cleans_up() -> None:
    heeding = [sys.executable, "-c", HEEDING]
    with started([*heeding, *command("sh", "-c", "echo started; sleep 1000")]) as (
        process,
        stdout,
        stderr,
    ):
        assert stdout.readline() == b"started\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 128 + signal.SIGINT
        assert stderr.read() == b""


@pytest.mark.parametrize("words", [[], ["--json"]], ids=["plain", "json"])
def test_a_slow_reader_of_a_pipe_that_does_not_block_gets_all(words: list[str]) -> None:
    """The shell's other commands may have made it so, or a parent that is an event loop."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    text = "yes x | head -c 120000; cat"
    with subprocess.Popen(
        command(*words, "sh", "-c", text),
        stdin=subprocess.PIPE,
        stdout=writer,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ROOT},
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        os.close(writer)
        until(lambda: guests(process.pid), "the guest")
        process.stdin.close()
        # The program ends while nothing is read: more than the pipe holds is left for its end.
        until(lambda: not guests(process.pid), "the guest's end")
        with open(reader, "rb") as stream:
            assert stream.read().count(b"x") >= 60_000
        assert (process.wait(60), process.stderr.read()) == (0, b"")


def test_input_is_live() -> None:
    with started(command("cat"), subprocess.PIPE) as (process, stdout, _):
        assert process.stdin is not None
        for line in (b"one\n", b"two\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert stdout.readline() == line
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_nobody_elses(closed: str) -> None:
    """What the host opens must not take their numbers: a guest's output would go to the launcher."""
    line = f"exec {shlex.join(command('sh', '-c', 'cat; echo out; exit 7'))} {closed}"
    done = subprocess.run(
        ["sh", "-c", line], timeout=60, env={**os.environ, "PYTHONPATH": ROOT}, check=False
    )
    assert done.returncode == 7


def test_a_file_that_cannot_be_written_here_is_told_and_costs_nothing_else(tmp_path: Path) -> None:
    script = tmp_path / "deep.py"
    script.write_text(
        "import os, sys\nopen('kept', 'w').write('kept\\n')\n"
        "for _ in range(24): os.mkdir('d' * 200); os.chdir('d' * 200)\n"
        "open('file', 'w').write('1'); sys.exit(7)\n"
    )
    done = run("--collect", "**", "--into", str(tmp_path / "out"), str(script))
    assert done.returncode == 7
    assert b"was not brought back: here: File name too long" in done.stderr
    assert (tmp_path / "out" / "kept").read_text() == "kept\n"


def test_clocks_hold_while_the_reader_takes_its_time() -> None:
    text = "head -c 1000000 /dev/zero & while :; do :; done"
    with started(command("--cpu-time", "0.3", "--output", "none", "sh", "-c", text)) as (
        process,
        stdout,
        stderr,
    ):
        # Nothing is read: the end of the guest is seen in what the host says only when we read.
        assert until_guest_ends(process.pid)
        assert len(stdout.read()) > 60_000
        assert process.wait(60) == 124
        assert b"cpu_time_limit" in stderr.read()


def until_guest_ends(pid: int) -> bool:
    """Whether the guest of a `sandbox run` was seen, and then was gone while nobody read."""
    seen = False

    def gone() -> bool:
        nonlocal seen
        seen = seen or guests(pid)
        return seen and not guests(pid)

    until(gone, "the guest's end")
    return seen


def guests(pid: int) -> bool:
    """Whether a shell runs below this process."""
    return any(name_of(p.pid) == "sh" for p in descendants(pid))


def name_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
