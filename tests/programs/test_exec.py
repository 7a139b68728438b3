"""`exec`: programs in, exact ends out, and files both ways."""

from __future__ import annotations

import array
import fcntl
import gzip
import hashlib
import io
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sandbox import ClosedError, Limits, Mount, ProgramError, Sandbox
from sandbox._feed import Feed
from sandbox._parcel import Parcel
from tests.lifecycle.traces import until

Make = Callable[..., Sandbox]
SMALL = Limits(
    memory="64M", cpu_time=5, wall_time=20, processes=16, output="64K", disk="4M", inodes=512,
    result="1M",
)  # fmt: skip


@pytest.fixture(scope="module")
def box(make_sandbox: Make) -> Iterator[Sandbox]:
    with make_sandbox(SMALL, policy="program") as sandbox:
        yield sandbox


def sh(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


# --- ends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 2, 126, 127, 128, 255])
def test_every_exit_status_is_told(box: Sandbox, code: int) -> None:
    outcome = box.exec(sh(f"exit {code}"))
    assert outcome.status == ("nonzero_exit" if code else "ok")
    assert (outcome.exit_code, outcome.signal) == (code, None)
    assert outcome.ok == (code == 0)


@pytest.mark.parametrize(
    "name", ["HUP", "INT", "ILL", "ABRT", "FPE", "KILL", "SEGV", "PIPE", "TERM"]
)
def test_every_signal_is_told(box: Sandbox, name: str) -> None:
    outcome = box.exec(sh(f"kill -{name} $$"))
    number = signal.Signals[f"SIG{name}"]
    assert (outcome.status, outcome.signal, outcome.exit_code) == ("signaled", number, None)


def test_a_stopped_program_ends_at_the_wall(make_sandbox: Make) -> None:
    limits = Limits(wall_time=0.5)
    with make_sandbox(limits, policy="program") as sandbox:
        assert sandbox.exec(sh("kill -STOP $$")).status == "wall_time_limit"
        assert sandbox.exec(["true"]).ok


def test_a_program_that_stops_its_child_and_waits_ends_at_the_wall(make_sandbox: Make) -> None:
    with make_sandbox(Limits(wall_time=0.5), policy="program") as sandbox:
        assert sandbox.exec(sh("sleep 100 & kill -STOP $!; wait")).status == "wall_time_limit"


def test_cpu_time_of_children_counts(make_sandbox: Make) -> None:
    with make_sandbox(Limits(cpu_time=0.3, wall_time=60), policy="program") as sandbox:
        spin = "(while :; do :; done) & (while :; do :; done) & sleep 100"
        outcome = sandbox.exec(sh(spin))
    assert outcome.status == "cpu_time_limit"
    assert outcome.evidence["used"] > 0.3


def test_output_is_capped_and_kept(box: Sandbox) -> None:
    outcome = box.exec(sh("while :; do echo 0123456789; done"))
    assert outcome.status == "output_limit"
    assert outcome.stdout.startswith(b"0123456789\n")
    assert outcome.truncated["stdout"] > 0


def test_orphans_and_daemons_end_with_the_call(box: Sandbox) -> None:
    daemon = "setsid sh -c 'sleep 1000 & sleep 1000' > /dev/null 2>&1 & echo started"
    outcome = box.exec(sh(daemon))
    assert (outcome.status, outcome.stdout) == ("ok", b"started\n")
    assert b"sleep" not in box.exec(sh("cat /proc/[0-9]*/comm 2> /dev/null")).stdout


def test_output_of_what_is_left_behind_is_neither_lost_nor_invented(box: Sandbox) -> None:
    for _ in range(20):
        outcome = box.exec(sh("(echo child; exec sleep 1000) & echo parent; sleep 0.05"))
        assert sorted(outcome.stdout.split()) == [b"child", b"parent"]


def test_a_violation_names_the_call(box: Sandbox) -> None:
    source = (
        "#include <sys/ptrace.h>\nint main(void) { return (int)ptrace(PTRACE_TRACEME, 0, 0, 0); }"
    )
    outcome = box.exec(["./trace"], files={"trace": compiled(source)})
    assert outcome.status == "policy_violation"
    assert outcome.violation is not None
    assert outcome.violation.syscall == "ptrace"


_BUILT: dict[tuple[str, ...], bytes] = {}


def compiled(source: str, *options: str) -> bytes:
    """A program from C, built outside."""
    if (source, *options) not in _BUILT:
        command = ["gcc", "-x", "c", "-O1", "-o", "/dev/stdout", "-", *options]
        folder = Path(os.environ.get("TMPDIR", "/tmp"))
        target = folder / f"program-{os.getpid()}"
        command[command.index("/dev/stdout")] = str(target)
        subprocess.run(command, input=source.encode(), check=True)
        _BUILT[(source, *options)] = target.read_bytes()
        target.unlink()
    return _BUILT[(source, *options)]


HELLO = (
    '#include <stdio.h>\nint main(int n, char **v) { printf("%d %s\\n", n, v[n - 1]); return 7; }'
)


@pytest.mark.parametrize("options", [[], ["-static"]], ids=["dynamic", "static"])
def test_a_compiled_program_runs(box: Sandbox, options: list[str]) -> None:
    outcome = box.exec(["./a.out", "x", "last"], files={"a.out": compiled(HELLO, *options)})
    assert (outcome.exit_code, outcome.stdout) == (7, b"3 last\n")


CRASHES = [
    ("int main(void) { volatile int *p = 0; return *p; }", signal.SIGSEGV),
    ("#include <stdlib.h>\nint main(void) { abort(); }", signal.SIGABRT),
    (
        "int main(int n, char **v) { volatile int one = n, zero = n - 1; return one / zero; }",
        signal.SIGFPE,
    ),
]


@pytest.mark.parametrize(("source", "number"), CRASHES, ids=["segv", "abrt", "fpe"])
def test_a_crash_is_told_by_its_signal(box: Sandbox, source: str, number: int) -> None:
    outcome = box.exec(["./crash"], files={"crash": compiled(source)})
    assert (outcome.status, outcome.signal) == ("signaled", number)


GREEDY = """#include <stdlib.h>
#include <string.h>
int main(void) { for (;;) { char *p = malloc(1 << 20); if (!p) return 9; memset(p, 1, 1 << 20); } }
"""


def test_memory_is_capped(box: Sandbox) -> None:
    outcome = box.exec(["./greedy"], files={"greedy": compiled(GREEDY)})
    assert outcome.status == "memory_limit"
    assert box.exec(["true"]).ok


def test_forks_are_capped(box: Sandbox) -> None:
    outcome = box.exec(
        sh("for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18; do sleep 9 & done")
    )
    assert outcome.status == "process_limit"
    assert outcome.evidence["refused"] >= 1


def test_a_file_too_long_is_told(make_sandbox: Make) -> None:
    limits = Limits(file_size="64K", disk="1M")
    with make_sandbox(limits, policy="program") as sandbox:
        outcome = sandbox.exec(sh("exec head -c 100000 /dev/zero > long"))
    assert outcome.status == "disk_limit"
    assert outcome.evidence["signal"] == "SIGXFSZ"


def test_full_writable_places_are_told(make_sandbox: Make) -> None:
    with make_sandbox(Limits(disk="128K"), policy="program") as sandbox:
        outcome = sandbox.exec(sh("head -c 1000000 /dev/zero > full || exit 1"))
    assert outcome.status == "disk_limit"
    assert b"No space left" in outcome.stderr


# --- surroundings -----------------------------------------------------------------------------------


def test_signals_are_at_their_defaults(box: Sandbox) -> None:
    ignored = box.exec(sh("grep SigIgn /proc/self/status")).stdout.split()[1]
    libcs_own = 3 << 31  # 32 and 33: what a host ignores of those no program can ask libc to change
    assert int(ignored, 16) & ~libcs_own == 0


def test_the_environment_is_the_sandboxs_with_the_calls_on_top(make_sandbox: Make) -> None:
    with make_sandbox(SMALL, policy="program", env={"A": "1", "B": "2"}) as sandbox:
        outcome = sandbox.exec(["/usr/bin/env"], env={"B": "3", "C": "é"})
        lines = set(outcome.stdout.decode().splitlines())
        assert {"A=1", "B=3", "C=é", "HOME=/work"} <= lines
        assert b"C=" not in sandbox.exec(["/usr/bin/env"]).stdout


def test_it_starts_in_work_or_where_it_is_told(box: Sandbox) -> None:
    assert box.exec(["pwd"]).stdout == b"/work\n"
    assert box.exec(["pwd"], cwd="/tmp").stdout == b"/tmp\n"
    assert box.exec(["pwd"], cwd="sub", files={"sub/x": b""}).stdout == b"/work/sub\n"


def test_no_descriptor_but_the_three(box: Sandbox) -> None:
    assert box.exec(["ls", "/proc/self/fd"]).stdout.split() == [b"0", b"1", b"2", b"3"]  # ls's own


def test_a_program_can_run_others_but_gains_nothing(box: Sandbox) -> None:
    outcome = box.exec(sh("cat /proc/self/status; id -u"))
    fields = dict(
        line.split(":\t", 1) for line in outcome.stdout.decode().splitlines() if ":\t" in line
    )
    assert outcome.stdout.endswith(b"1000\n")
    assert fields["NoNewPrivs"] == "1"
    assert {fields[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
    assert fields["Seccomp_filters"] == str(outcome.isolation.worker["seccomp_filters"])


def test_functions_and_programs_share_the_writable_places(box: Sandbox) -> None:
    def write() -> None:
        with open("/work/shared", "w") as file:
            file.write("from python")

    box.run(write)
    assert box.exec(["cat", "shared"]).stdout == b"from python"


def test_a_mounted_program_runs(make_sandbox: Make, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\necho mounted\n")
    (tmp_path / "tool").chmod(0o755)
    tmp_path.chmod(0o755)
    with make_sandbox(SMALL, policy="program", mounts=[Mount(tmp_path, "/opt/tools")]) as sandbox:
        assert sandbox.exec(["/opt/tools/tool"]).stdout == b"mounted\n"


# --- input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 3_000_000])
def test_input_arrives_whole(box: Sandbox, size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    (tmp_path / "input").write_bytes(data)
    count = f"{size}\n".encode()
    for stdin in (
        data,
        bytearray(data),
        tmp_path / "input",
        str(tmp_path / "input"),
        io.BytesIO(data),
    ):
        assert box.exec(["wc", "-c"], stdin=stdin).stdout == count
    with open(tmp_path / "input", "rb") as file:
        file.read(min(size, 10))  # its own position counts
        assert box.exec(["wc", "-c"], stdin=file).stdout == f"{max(size - 10, 0)}\n".encode()


def test_input_is_empty_if_not_given(box: Sandbox) -> None:
    assert box.exec(["wc", "-c"]).stdout == b"0\n"


def test_input_comes_from_a_pipe_as_it_is_written(box: Sandbox) -> None:
    reader, writer = os.pipe()
    pieces: list[bytes] = []

    def answer(piece: bytes) -> None:
        pieces.append(piece)
        if len(pieces) == 1:
            os.write(writer, b"second\n")
        else:
            os.close(writer)

    os.write(writer, b"first\n")
    with open(reader, "rb", buffering=0) as stream:
        outcome = box.exec(["cat"], stdin=stream, stdout=answer)
    assert (outcome.status, b"".join(pieces)) == ("ok", b"first\nsecond\n")


@pytest.mark.parametrize("default", [False, True], ids=["ignored", "default"])
def test_a_program_that_does_not_read_does_no_harm(box: Sandbox, default: bool) -> None:
    """Also where the application has SIGPIPE at its default: a pipe cannot be asked not to send it."""
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL if default else signal.SIG_IGN)
    try:
        assert (
            box.exec(sh("exec 0<&-; sleep 0.1; echo done"), stdin=bytes(1 << 20)).stdout
            == b"done\n"
        )
        assert box.exec(["true"], stdin=bytes(1 << 20)).ok
    finally:
        signal.signal(signal.SIGPIPE, before)


def test_a_source_that_never_ends_stops_with_the_program(box: Sandbox) -> None:
    reader, writer = os.pipe()
    try:
        with open(reader, "rb", buffering=0) as stream:
            assert box.exec(sh("sleep 0.1"), stdin=stream).ok
    finally:
        os.close(writer)


@pytest.mark.parametrize("kind", ["pipe", "fifo", "terminal", "socket"])
def test_input_that_another_reader_took_is_waited_for(kind: str, tmp_path: Path) -> None:
    """Between the poll and the read; a socket cannot be opened again, and this one does not block."""
    reader, writer = shared(kind, tmp_path)
    with open(reader, "rb", buffering=0) as stream, closing(Feed(stream)) as feed:
        program = feed.hand_over()
        blocking = os.get_blocking(reader)
        os.write(writer, b"taken\n")
        assert os.read(reader, 100) == b"taken\n"
        with no_longer_than(30, lambda: os.write(writer, b"too late\n")):
            feed.step(reader, select.POLLIN)
        os.write(writer, b"ours\n")
        feed.step(reader, select.POLLIN)
        assert os.read(program, 100) == b"ours\n"
        assert os.get_blocking(reader) == blocking
        os.close(writer)
        os.close(program)


def shared(kind: str, folder: Path) -> tuple[int, int]:
    """Two ends; the first one to be read by several."""
    if kind == "pipe":
        return os.pipe()
    if kind == "fifo":
        os.mkfifo(folder / "fifo")
        reader = os.open(folder / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(reader, True)
        return reader, os.open(folder / "fifo", os.O_WRONLY)
    if kind == "terminal":
        master, slave = pty.openpty()
        tty.setraw(slave)
        return slave, master
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours.detach(), theirs.detach()


@contextmanager
def no_longer_than(seconds: float, release: Callable[[], object]) -> Iterator[None]:
    """A hang guard: what still blocks then is released, and fails."""
    late = threading.Event()

    def end() -> None:
        late.set()
        release()

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    assert not late.is_set()


def test_the_end_of_a_fifo_is_seen(box: Sandbox, tmp_path: Path) -> None:
    """A FIFO that is opened when its last writer has gone does not tell poll so."""
    reader, writer = shared("fifo", tmp_path)
    os.write(writer, b"all\n")
    os.close(writer)
    with open(reader, "rb", buffering=0) as stream:
        assert box.exec(["cat"], stdin=stream).stdout == b"all\n"
        assert box.exec(["cat"], stdin=stream).stdout == b""


def test_a_fifo_in_place_of_the_input_blocks_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    release = partial(os.open, tmp_path / "fifo", os.O_RDWR)
    with no_longer_than(30, release), pytest.raises(ValueError, match="fifo' is not a regular"):
        Feed(tmp_path / "fifo")


def test_standard_streams_can_be_opened_by_name(box: Sandbox) -> None:
    text = "cat /dev/stdin > /dev/stdout; echo err > /dev/stderr; cat /proc/self/fd/0 >> /dev/fd/1"
    outcome = box.exec(sh(text), stdin=b"in\n")
    assert (outcome.status, outcome.stdout, outcome.stderr) == ("ok", b"in\n", b"err\n")


def test_a_stream_opened_by_name_goes_one_way(box: Sandbox) -> None:
    """Where the guest has an id of its own, so not where the host is an ordinary user."""
    text = "for n in 1 2; do : < /proc/self/fd/$n; echo $?; done; : > /proc/self/fd/0; echo $?"
    outcome = box.exec(["bash", "-c", text], stdin=b"in\n")
    if outcome.isolation.worker["uid"] != os.getuid():
        assert outcome.stdout.split() == [b"1"] * 3
        assert outcome.stderr.count(b"Permission denied") == 3


def test_a_stream_of_text_is_refused(box: Sandbox) -> None:
    with pytest.raises(TypeError, match="stdin: the stream gave str"):
        box.exec(["cat"], stdin=io.StringIO("text"))  # type: ignore[arg-type]
    assert box.exec(["true"]).ok


# --- output as it comes -----------------------------------------------------------------------------


def test_output_goes_to_a_callable_as_it_comes(box: Sandbox) -> None:
    seen: list[tuple[str, bytes]] = []
    outcome = box.exec(
        sh("echo one; sleep 0.2; echo two >&2; sleep 0.2; echo three"),
        stdout=lambda data: seen.append(("out", data)),
        stderr=lambda data: seen.append(("err", data)),
    )
    assert seen == [("out", b"one\n"), ("err", b"two\n"), ("out", b"three\n")]
    assert outcome.stdout == b"one\nthree\n"


def test_output_goes_to_a_file(box: Sandbox, tmp_path: Path) -> None:
    target = tmp_path / "output"
    target.write_text("what was there before")
    outcome = box.exec(sh("head -c 50000 /dev/zero"), stdout=target)
    assert target.read_bytes() == bytes(50000)
    assert outcome.ok


def test_an_empty_output_empties_the_file(box: Sandbox, tmp_path: Path) -> None:
    target = tmp_path / "output"
    target.write_text("what was there before")
    assert box.exec(["true"], stdout=target).ok
    assert target.read_bytes() == b""


def test_one_file_for_both_has_all_of_both(box: Sandbox, tmp_path: Path) -> None:
    target = tmp_path / "output"
    target.write_text("what was there before")
    text = "for i in 1 2 3; do echo out; echo err >&2; done"
    assert box.exec(sh(text), stdout=target, stderr=str(target)).ok
    assert sorted(target.read_text().split()) == ["err"] * 3 + ["out"] * 3


def test_a_file_stays_as_it_is_if_the_program_is_not_started(box: Sandbox, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("what was there before")
    with pytest.raises(ProgramError):
        box.exec(["no-such-program"], stdout=precious, stderr=precious)
    with pytest.raises(ValueError, match="NUL"):
        box.exec(["true", "a\0"], stdout=precious)
    for bad in (tmp_path, tmp_path / "no" / "such"):
        with pytest.raises(OSError, match=str(bad)):
            box.exec(["true"], stdout=precious, stderr=bad)
        with pytest.raises(OSError, match=str(bad)):
            box.exec(["true"], stdout=tmp_path / "new", stderr=bad)
    assert precious.read_text() == "what was there before"
    assert os.listdir(tmp_path) == ["precious"]


def test_sinks_get_no_byte_beyond_the_cap(make_sandbox: Make, tmp_path: Path) -> None:
    target = tmp_path / "output"
    pieces: list[bytes] = []
    with make_sandbox(Limits(output=1000), policy="program") as sandbox:
        outcome = sandbox.exec(["head", "-c", "10000000", "/dev/zero"], stdout=target)
        assert outcome.status == "output_limit"
        assert target.read_bytes() == bytes(1000)
        outcome = sandbox.exec(
            sh("head -c 600 /dev/zero; head -c 600 /dev/zero >&2"),
            stdout=target,
            stderr=pieces.append,
        )
        assert outcome.status == "output_limit"
        assert target.stat().st_size + sum(map(len, pieces)) == 1000
        assert sandbox.exec(["head", "-c", "1000", "/dev/zero"], stdout=target).ok
        assert target.read_bytes() == bytes(1000)


def test_what_a_sink_gets_is_not_also_held_in_memory(make_sandbox: Make, tmp_path: Path) -> None:
    target = tmp_path / "output"
    with make_sandbox(Limits(output="600M"), policy="program") as sandbox:
        outcome = sandbox.exec(["head", "-c", "4000000", "/dev/zero"], stdout=target)
        assert (len(outcome.stdout), outcome.truncated["stdout"]) == (1 << 20, 4000000 - (1 << 20))
        assert target.stat().st_size == 4000000
        outcome = sandbox.exec(["head", "-c", "4000000", "/dev/zero"])
        assert len(outcome.stdout) == 4000000


def test_files_that_cannot_be_written_cost_the_sandbox_nothing(make_sandbox: Make) -> None:
    with make_sandbox(Limits(output="1M"), policy="program") as sandbox:
        sandbox.exec(sh("echo kept > kept"))
        text = "head -c 200000 /dev/zero >&2 & head -c 200000 /dev/zero; wait"
        for stderr in (None, "/dev/full"):
            with pytest.raises(OSError, match="No space left"):
                sandbox.exec(sh(text), stdout="/dev/full", stderr=stderr)
            assert sandbox.exec(["cat", "kept"]).stdout == b"kept\n"


def test_two_consumers_that_raise_cost_the_sandbox_nothing(box: Sandbox) -> None:
    def refuse(_: bytes) -> None:
        raise KeyError("mine")

    box.exec(sh("echo kept > kept"))
    text = "(while :; do echo x; done) & while :; do echo x >&2; done"
    with pytest.raises(KeyError, match="mine"):
        box.exec(sh(text), stdout=refuse, stderr=refuse)
    assert box.exec(["cat", "kept"]).stdout == b"kept\n"


def test_a_reader_that_goes_away_costs_the_sandbox_nothing(box: Sandbox, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    box.exec(sh("echo kept > kept"))
    ours, theirs = os.pipe()
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    def go_away(_: bytes) -> None:
        """Before the program writes what nobody reads then."""
        os.close(reader)
        os.write(theirs, b"\n")

    with open(ours, "rb", buffering=0) as stdin, pytest.raises(BrokenPipeError):
        text = "echo gone >&2; read gone; head -c 200000 /dev/zero; exec sleep 1000"
        box.exec(sh(text), stdin=stdin, stdout=fifo, stderr=go_away)
    os.close(theirs)
    assert box.exec(["cat", "kept"]).stdout == b"kept\n"


def test_what_a_consumer_raises_ends_the_program(box: Sandbox) -> None:
    def refuse(_: bytes) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        box.exec(sh("echo x; sleep 1000"), stdout=refuse)
    assert box.exec(["true"]).ok


# --- files ------------------------------------------------------------------------------------------


def test_files_are_placed_and_brought_back(box: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "on-host").write_bytes(b"path")
    outcome = box.exec(
        sh("mkdir -p out && cat in/bytes in/path in/stream > out/all && chmod 0 in/bytes"),
        files={
            "in/bytes": b"bytes ",
            "in/path": tmp_path / "on-host",
            "in/stream": io.BytesIO(b" stream"),
        },
        collect=["out/*", "in/stream"],
    )
    assert outcome.files == {"out/all": b"bytes path stream", "in/stream": b" stream"}
    assert outcome.refused == {}


def test_files_are_brought_back_whatever_the_end(box: Sandbox) -> None:
    for end in ("exit 3", "kill -SEGV $$", "while :; do echo 0123456789; done"):
        outcome = box.exec(sh(f"echo kept > kept; {end}"), collect=["kept"])
        assert outcome.status != "ok"
        assert outcome.files == {"kept": b"kept\n"}


def test_a_placed_file_replaces_what_an_earlier_call_left(box: Sandbox) -> None:
    box.exec(sh("rm -rf name; ln -s /work/elsewhere name; ln -s /tmp folder"))
    outcome = box.exec(["cat", "name"], files={"name": b"new"}, collect=["name", "elsewhere"])
    assert outcome.stdout == b"new"
    assert outcome.files == {"name": b"new"}
    with pytest.raises(ProgramError, match="folder/x"):
        box.exec(["true"], files={"folder/x": b"through a link"})


def test_what_a_guest_made_of_its_outputs_is_refused_with_reasons(box: Sandbox) -> None:
    text = (
        "rm -rf o; mkdir o; cd o; echo good > good; ln -s /etc/passwd link; ln good second; "
        "echo x > third; ln -s /proc/self/root root; truncate -s 1000000000000 sparse; mkdir -p d/e"
    )
    outcome = box.exec(sh(text), collect=["o/**"])
    assert outcome.files == {"o/third": b"x\n", "o/sparse": b""}  # no file may have a terabyte
    assert set(outcome.refused) == {"o/good", "o/second", "o/link", "o/root"}


@pytest.mark.spares("killed_forks")
def test_a_writer_that_is_left_behind_does_not_write_while_files_are_read(box: Sandbox) -> None:
    """Swapped while collected: every process of the call is dead by then. 20 times."""
    swap = (
        "rm -rf s; mkdir s; echo real > s/file; "
        "(while :; do mv s/file s/other; ln -s /etc/passwd s/file; rm s/file; mv s/other s/file; done)"
        " > /dev/null 2>&1 & sleep 0.02"
    )
    for _ in range(20):
        outcome = box.exec(sh(swap), collect=["s/*"])
        assert outcome.ok
        assert set(outcome.files.values()) <= {b"real\n"}


def test_a_program_is_executable_by_its_beginning_or_its_mode(box: Sandbox, tmp_path: Path) -> None:
    script = b"#!/bin/sh\necho ran\n"
    assert box.exec(["./script"], files={"script": script}).stdout == b"ran\n"
    assert box.exec(["./script"], files={"script": io.BytesIO(script)}).stdout == b"ran\n"
    path = tmp_path / "script"
    path.write_bytes(script)
    with pytest.raises(ProgramError, match="x bit"):
        box.exec(["./script"], files={"script": path})
    path.chmod(0o755)
    assert box.exec(["./script"], files={"script": path}).stdout == b"ran\n"


def test_a_folder_is_copied_in(box: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("deep ")
    (tmp_path / "run").write_text(
        "#!/bin/sh\ncat a/b/file; echo changed > a/b/file; cat a/b/file\n"
    )
    (tmp_path / "run").chmod(0o755)
    outcome = box.exec(["./run"], files={"copy": tmp_path}, cwd="copy")
    assert outcome.stdout == b"deep changed\n"
    assert (tmp_path / "a" / "b" / "file").read_text() == "deep "
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="link' is not a regular file or folder"):
        box.exec(["true"], files={"copy": tmp_path})


def test_a_folder_may_be_given_by_a_link_and_keeps_its_empty_folders(
    box: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "real" / "full").mkdir(parents=True)
    (tmp_path / "real" / "full" / "file").write_text("in it")
    (tmp_path / "real" / "a" / "empty").mkdir(parents=True)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "link").symlink_to("real")
    files = {"linked": tmp_path / "link", "bare": tmp_path / "nothing"}
    outcome = box.exec(sh("find linked bare | sort; cat linked/full/file"), files=files)
    tree = ["bare", "linked", "linked/a", "linked/a/empty", "linked/full", "linked/full/file"]
    assert outcome.stdout.decode().split("\n") == [*tree, "in it"]
    assert box.exec(["ls", "bare"], files=files).ok  # and where they are already


def test_no_name_is_the_librarys_own(box: Sandbox) -> None:
    files = {".being-placed": b"a", "b": b"c"}
    outcome = box.exec(["true"], files=files, collect=[".being-placed", "b"])
    assert outcome.files == files
    box.exec(sh("rm .being-placed; mkdir -p .being-placed/x"))
    assert box.exec(["cat", "b"], files={"b": b"again"}).stdout == b"again"
    assert box.exec(sh("rm -r .being-placed; ls -A | grep '^[.]'")).stdout == b""


def test_a_stream_that_has_nothing_yet_is_not_cut_short(box: Sandbox) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    os.write(writer, b"the first part")
    with (
        open(reader, "rb", buffering=0) as stream,
        open(writer, "wb"),
        pytest.raises(ValueError, match=r"files\['part'\]: the stream is not blocking"),
    ):
        box.exec(["cat", "part"], files={"part": stream})


def test_views_of_bytes_are_taken_as_the_bytes_they_show(box: Sandbox) -> None:
    steps = memoryview(b"a-b-c-")[::2]
    numbers = memoryview(array.array("H", [0x6161, 0x6262]))
    outcome = box.exec(sh("cat - f; cat g"), stdin=steps, files={"f": steps, "g": numbers})
    assert outcome.stdout == b"abcabcaabb"


# --- what cannot be started -------------------------------------------------------------------------

# exit(0) by 32-bit calls, which the kernel may well run: header, one segment, mov, xor, int 0x80.
I386 = (
    b"\x7fELF\1\1\1".ljust(16, b"\0")
    + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0x10054, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    + struct.pack("<IIIIIIII", 1, 0, 0x10000, 0x10000, 93, 93, 5, 0x1000)
    + b"\xb8\1\0\0\0\x31\xdb\xcd\x80"
)

STARTS: list[tuple[list[str], dict[str, Any], str]] = [
    (["no-such-program"], {}, "no program 'no-such-program' in the guest's PATH"),
    (["/no/such"], {}, "no program '/no/such';"),
    (["/etc/passwd"], {}, "may not be executed"),
    (["/work"], {}, "may not be executed"),
    (["./x"], {"files": {"x": b"#!/no/such/interpreter\n"}}, "the interpreter or loader"),
    (["./x"], {"files": {"x": b"\x7fELF of another world"}}, "no program for this machine"),
    (["./x"], {"files": {"x": b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x00" + bytes(44)}},
     "no program for this machine"),
    (["./x"], {"files": {"x": I386}}, "no program for this machine"),
    (["x"], {"files": {"bin/x": b"#!/no/such/interpreter\n"}, "env": {"PATH": "/bin:/work/bin"}},
     "'/work/bin/x' is there, but the interpreter"),
    (["p/q"], {"files": {"p/q/r": b"1"}}, "may not be executed"),
    (["true"], {"cwd": "/no/such"}, "cannot start in '/no/such'"),
    (["true"], {"files": {str(n): b"" for n in range(600)}}, "No space left"),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "options", "text"), STARTS, ids=lambda v: str(v)[:30])
def test_what_cannot_be_started_says_why_and_leaves_nothing(
    make_sandbox: Make, argv: list[str], options: dict[str, Any], text: str
) -> None:
    with make_sandbox(SMALL, policy="program") as sandbox:
        with pytest.raises(ProgramError) as caught:
            sandbox.exec(argv, **options)
        assert text in str(caught.value)
        assert caught.value.outcome is not None
        assert sandbox.exec(["ls", "-A"]).stdout == b""


NOT_THERE = b"#!/no/such/interpreter\n"
FAILURES: list[tuple[list[str], dict[str, Any], str]] = [
    (["./nope"], {}, "no program './nope'"),
    (["./data"], {}, "'./data' may not be executed"),
    (["true"], {"cwd": "p/nope"}, "cannot start in '/work/p/nope'"),
    (["true"], {"files": {"zz/old/x": b"1"}}, "place the file 'zz/old/x': Not a directory"),
    (
        ["true"],
        {"files": {"p/zz": b"2", "folder": b"1"}},
        "place the file 'folder': Is a directory",
    ),
    (["true"], {"files": {"link/b": b"2"}}, "place the file 'link/b': Not a directory"),
    (["./script"], {"files": {"script": NOT_THERE}}, "'./script' is there, but the interpreter"),
    # Only exec itself finds these.
    (["./script"], {"files": {"script": b"#!/etc/passwd\n"}}, "'./script' may not be executed"),
    (["./script"], {"files": {"script": b"#!\n"}}, "'./script' is no program for this machine"),
]


@pytest.mark.parametrize(("argv", "options", "text"), FAILURES, ids=lambda v: str(v)[:40])
def test_what_was_replaced_comes_back_when_the_start_fails(
    make_sandbox: Make, argv: list[str], options: dict[str, Any], text: str
) -> None:
    look = sh("find . -printf '%p %m %y %l\n' | sort; cat data link")
    before = "echo precious > data; chmod 640 data; mkdir zz; echo 1 > zz/old; ln -s zz/old link; mkdir folder"
    files = {"data": b"new", "p/q/r": b"new", "zz/s/t": b"new", **options.get("files", {})}
    if "link/b" not in files:
        files["link"] = b"new"
    with make_sandbox(SMALL, policy="program") as sandbox:
        sandbox.exec(sh(before))
        old = sandbox.exec(look).stdout
        with pytest.raises(ProgramError) as caught:
            sandbox.exec(argv, **{**options, "files": files})
        assert text in str(caught.value)
        assert sandbox.exec(look).stdout == old


def test_more_files_than_descriptors_come_back(make_sandbox: Make) -> None:
    """All of them where it shows before the exec; where it does not, as many as could be kept."""
    names = [f"f{number}" for number in range(100)]
    files = dict.fromkeys(names, b"new")
    limits = Limits(open_files=32, disk="4M", inodes=512)
    with make_sandbox(limits, policy="program") as sandbox:
        assert sandbox.exec(["true"], files={name: name.encode() for name in names}).ok
        with pytest.raises(ProgramError, match="no program"):
            sandbox.exec(["./nope"], files=files)
        assert sandbox.exec(["true"], collect=["*"]).files == {n: n.encode() for n in names}
        with pytest.raises(ProgramError, match="may not be executed"):
            sandbox.exec(["./script"], files={**files, "script": b"#!/etc/passwd\n"})
        left = sandbox.exec(["true"], collect=["**"]).files
        assert len(left) >= 20
        assert all(content == name.encode() for name, content in left.items())
        assert sandbox.exec(["cat", "f99"], files=files).stdout == b"new"


def test_what_comes_back_needs_no_room_for_two(make_sandbox: Make) -> None:
    """Where only exec finds the fault, too."""
    with make_sandbox(Limits(disk="4M"), policy="program") as sandbox:
        big = os.urandom(3 << 20)
        sandbox.exec(sh("ln data other; chmod 600 data"), files={"big": big, "data": b"precious"})
        files = {"big": b"new", "data": b"new", "script": b"#!/etc/passwd\n"}
        with pytest.raises(ProgramError, match="may not be executed"):
            sandbox.exec(["./script"], files=files)
        assert (
            sandbox.exec(sh("cat data other; ls -A")).stdout
            == b"precious" * 2 + b"big\ndata\nother\n"
        )
        sums = sandbox.exec(["sha256sum", "big"]).stdout
    assert sums.split()[0].decode() == hashlib.sha256(big).hexdigest()


def test_what_can_only_be_read_needs_no_room_for_all_of_it_twice(make_sandbox: Make) -> None:
    """One file at a time gives its room to the next."""
    names = ["a", "b", "c", "d"]
    with make_sandbox(Limits(disk="10M"), policy="program") as sandbox:
        sandbox.exec(sh("chmod 444 a b c d"), files=dict.fromkeys(names, bytes(2 << 20)))
        files = {**dict.fromkeys(names, b"1"), "script": b"#!/etc/passwd\n"}
        with pytest.raises(ProgramError, match="may not be executed"):
            sandbox.exec(["./script"], files=files)
        sizes = sandbox.exec(sh("stat -c '%n %s %a' *")).stdout.decode()
    assert sizes == "".join(f"{name} {2 << 20} 444\n" for name in names)


def test_what_a_guest_forbade_itself_and_sparse_files_come_back(make_sandbox: Make) -> None:
    look = sh("stat -c '%n %s %a %h' *; sha256sum sparse")
    before = """for name in none write; do echo precious > $name; done
        ln none other; chmod 0 none; chmod 222 write; truncate -s 40M sparse
        echo head | dd of=sparse conv=notrunc; echo middle | dd of=sparse seek=30000 conv=notrunc"""
    files = {**dict.fromkeys(["none", "write", "sparse"], b"1"), "script": b"#!/etc/passwd\n"}
    with make_sandbox(SMALL, policy="program") as sandbox:
        sandbox.exec(sh(before))
        old = sandbox.exec(look).stdout.replace(b" 2\n", b" 1\n")  # links: written anew, it is one
        with pytest.raises(ProgramError, match="may not be executed"):
            sandbox.exec(["./script"], files=files)
        assert sandbox.exec(look).stdout.replace(b" 2\n", b" 1\n") == old
        assert old.count(b"\n") == 5
        # And what stands under another name has its mode still if the program starts.
        assert sandbox.exec(sh("stat -c %a other none"), files={"none": b"1"}).stdout == b"0\n644\n"


def test_flags_of_standard_input_are_one_calls_own(box: Sandbox) -> None:
    """Those of an open file are all its holders': each call's /dev/null is opened for it."""
    text = "import fcntl as f; g = f.fcntl(0, f.F_GETFL); f.fcntl(0, f.F_SETFL, g | 2048); print(g & 2048)"
    for _ in range(2):
        assert box.exec(["python3", "-S", "-c", text]).stdout == b"0\n"
    assert box.run(fcntl.fcntl, 0, fcntl.F_GETFL) & os.O_NONBLOCK == 0


def test_deep_folders_for_many_files(box: Sandbox) -> None:
    deep = "/".join("d" * 100)
    files = {f"{deep}/{number}": b"1" for number in range(200)}
    outcome = box.exec(sh("find d -type f | wc -l; rm -r d"), files=files)
    assert outcome.stdout.split() == [b"200"]


def test_a_long_search_takes_no_memory(box: Sandbox) -> None:
    """A folder and a name that are too long together are passed over, as by execvp(3)."""
    path = ":".join(["/" + "f" * 200] * 200 + ["/bin"])
    for name in ("a" * 100_000, "a" * 4000):
        with pytest.raises(ProgramError, match="File name too long"):
            box.exec([name], env={"PATH": path})
    assert box.exec(["echo", "ran"], env={"PATH": path}).stdout == b"ran\n"


def test_a_loader_that_is_missing_is_told(box: Sandbox) -> None:
    program = compiled(HELLO, "-Wl,--dynamic-linker=/no/such/ld.so")
    with pytest.raises(ProgramError, match=r"'\./a\.out' is there, but the interpreter or loader"):
        box.exec(["./a.out"], files={"a.out": program})


def test_the_search_goes_on_behind_what_cannot_be_executed(box: Sandbox) -> None:
    files = {"one/x": b"no x bit", "two/x": NOT_THERE, "three/x": b"#!/bin/sh\necho ran\n"}
    path = "/no/such:/etc/passwd:/work/one:/work/two"
    assert box.exec(["x"], files=files, env={"PATH": f"{path}:/work/three"}).stdout == b"ran\n"
    with pytest.raises(ProgramError, match="'/work/one/x' may not be executed"):
        box.exec(["x"], files=files, env={"PATH": path})


def test_a_program_cannot_claim_that_it_was_not_started(box: Sandbox) -> None:
    """Its channel closed with the exec: the same exit status is its own."""
    outcome = box.exec(sh("echo x >&3; exit 127"))
    assert (outcome.status, outcome.exit_code) == ("nonzero_exit", 127)


BAD: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    ([], {}, ValueError, "argv"),
    ("ls", {}, TypeError, "argv"),
    ([b"ls"], {}, TypeError, r"argv\[0\]"),
    ([""], {}, ValueError, r"argv\[0\]"),
    (["ls", 5], {}, TypeError, r"argv\[1\]"),
    (["ls", "a\0b"], {}, ValueError, "NUL"),
    (["ls", "x" * 200_000], {}, ValueError, "argv"),
    (["\ud800"], {}, ValueError, r"^argv\[0\]"),
    (["ls"], {"cwd": "\ud800"}, ValueError, "^cwd"),
    (["ls"], {"cwd": 5}, TypeError, "cwd"),
    (["ls"], {"cwd": "a\0"}, ValueError, "cwd"),
    (["ls"], {"env": {"A=": "1"}}, ValueError, "^env: 'A=' is not a name"),
    (["ls"], {"env": {"": "1"}}, ValueError, "^env: '' is not a name"),
    (["ls"], {"env": {"A\0": "1"}}, ValueError, "^env: .* is not a name"),
    (["ls"], {"env": {"A": "\0"}}, ValueError, "^env: the value of 'A' holds a NUL"),
    (["ls"], {"env": {"A": "\ud800"}}, ValueError, "^env: 'A' or its value"),
    (["ls"], {"env": {"A": 1}}, TypeError, "^env: 'A'"),
    (["ls"], {"env": [("A", "1")]}, TypeError, "^env: expected a mapping of names, not list"),
    (["ls"], {"env": ["A"]}, TypeError, "^env: expected a mapping of names, not list"),
    (["ls"], {"env": "A=1"}, TypeError, "^env: expected a mapping of names, not str"),
    (["ls"], {"stdin": 5}, TypeError, "stdin"),
    (["ls"], {"stdin": "/no/such/file"}, ValueError, "/no/such/file"),
    (["ls"], {"stdin": "/dev/null"}, ValueError, "not a regular file"),
    (["ls"], {"stdin": "\ud800"}, ValueError, "^stdin"),
    (["ls"], {"stdin": "a\0"}, ValueError, "^stdin"),
    (["ls"], {"stdout": 5}, TypeError, "stdout"),
    (["ls"], {"stdout": "a\0"}, ValueError, "^stdout"),
    (["ls"], {"files": ["a"]}, TypeError, "files"),
    (["ls"], {"files": {"/a": b""}}, ValueError, "files"),
    (["ls"], {"files": {"../a": b""}}, ValueError, "files"),
    (["ls"], {"files": {"a/../b": b""}}, ValueError, "files"),
    (["ls"], {"files": {"a//b": b""}}, ValueError, "files"),
    (["ls"], {"files": {"": b""}}, ValueError, "files"),
    (["ls"], {"files": {"a\0": b""}}, ValueError, "files"),
    (["ls"], {"files": {"\ud800": b""}}, ValueError, "^files"),
    (["ls"], {"files": {"a": "\ud800"}}, ValueError, r"^files\['a'\]"),
    (["ls"], {"files": {"x/" * 2001 + "x": b""}}, ValueError, "longer than 4000"),
    (["ls"], {"files": {5: b""}}, TypeError, "files"),
    (["ls"], {"files": {"x" * 256: b""}}, ValueError, "255"),
    (["ls"], {"files": {"a": b"", "a/b": b""}}, ValueError, "folder"),
    (["ls"], {"files": {"a": "/no/such"}}, ValueError, "/no/such"),
    (["ls"], {"files": {"a": 5}}, TypeError, "files"),
    (["ls"], {"files": {"a": bytes(5 << 20)}}, ValueError, "Limits.disk"),
    (["ls"], {"files": {str(n): b"" for n in range(5000)}}, ValueError, "4096"),
    (["ls"], {"collect": "*.txt"}, TypeError, "collect"),
    (["ls"], {"collect": ["../*"]}, ValueError, "collect"),
]


@pytest.mark.parametrize(("argv", "options", "kind", "text"), BAD, ids=lambda v: str(v)[:30])
def test_bad_arguments_are_refused_by_name(
    box: Sandbox, argv: Any, options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(kind, match=text):
        box.exec(argv, **options)
    # Other sandboxes' may still be given back by the reaper's thread.
    until(lambda: len(os.listdir("/proc/self/fd")) <= before, "as many descriptors as before")


@pytest.mark.parametrize("policy", ["base", "python", "compute"])
def test_a_policy_without_programs_says_which_has_them(make_sandbox: Make, policy: str) -> None:
    with (
        make_sandbox(policy=policy) as sandbox,
        pytest.raises(ValueError, match='policy="program"'),
    ):
        sandbox.exec(["true"])


def test_exec_needs_an_open_sandbox(make_sandbox: Make) -> None:
    sandbox = make_sandbox(policy="program")
    with pytest.raises(ClosedError):
        sandbox.exec(["true"])


# --- nothing left -----------------------------------------------------------------------------------


def test_no_descriptor_is_left_of_many_programs(box: Sandbox, tmp_path: Path) -> None:
    def run() -> None:
        box.exec(["cat"], stdin=b"x", files={"f": b"x"}, collect=["*"], stdout=tmp_path / "out")
        with pytest.raises(ProgramError):
            box.exec(["nope"], stdin=tmp_path / "out")

    run()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        run()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_closing_in_another_thread_ends_a_program(make_sandbox: Make) -> None:
    started = threading.Event()
    with make_sandbox(Limits(wall_time=60), policy="program") as sandbox:

        def close() -> None:
            started.wait(30)
            sandbox.close()

        closer = threading.Thread(target=close)
        closer.start()
        outcome = sandbox.exec(sh("echo x; sleep 1000"), stdout=lambda _: started.set())
        closer.join()
    assert outcome.status == "cancelled"


# --- consumers, and what an earlier call left ---------------------------------------------------------


def test_a_consumer_that_asks_its_own_sandbox_is_told(box: Sandbox) -> None:
    def ask(_: bytes) -> None:
        box.exec(["true"])

    with pytest.raises(ClosedError, match="consumer"):
        box.exec(sh("echo x; sleep 1000"), stdout=ask)
    assert box.exec(["true"]).ok


def test_a_consumer_may_close_its_own_sandbox(make_sandbox: Make) -> None:
    with make_sandbox(SMALL, policy="program") as sandbox:
        outcome = sandbox.exec(sh("echo x; sleep 1000"), stdout=lambda _: sandbox.close())
        assert outcome.status == "cancelled"
        assert sandbox._jail is None


def test_a_stream_that_fails_costs_the_sandbox_nothing(box: Sandbox) -> None:
    class Failing(io.RawIOBase):
        def read(self, _: int = -1) -> bytes:
            raise KeyError("mine")

    box.exec(sh("echo kept > kept"))
    with pytest.raises(KeyError, match="mine"):
        box.exec(["cat"], stdin=Failing())  # type: ignore[arg-type]
    assert box.exec(["cat", "kept"]).stdout == b"kept\n"


def test_full_places_are_not_why_a_program_is_missing(make_sandbox: Make) -> None:
    with make_sandbox(Limits(disk="128K"), policy="program") as sandbox:
        sandbox.exec(sh("head -c 1000000 /dev/zero > full"))
        with pytest.raises(ProgramError, match="no program"):
            sandbox.exec(["no-such-program"])


def test_a_guest_that_forbids_its_own_folder_is_told(box: Sandbox) -> None:
    """A host that is root may look all the same; an ordinary user's may not."""
    outcome = box.exec(sh("echo 1 > x; chmod 000 /work"), collect=["x"])
    assert outcome.ok
    assert outcome.files == {"x": b"1\n"} or set(outcome.refused) == {"**"}
    assert box.exec(sh("chmod 755 /work"), cwd="/tmp").ok


def test_a_folder_that_changes_while_it_is_read_shows_nothing_else(
    box: Sandbox, tmp_path: Path
) -> None:
    """A link put in place of a file is refused by the open itself, not by a look before it."""
    (tmp_path / "secret").write_text("of the host")
    folder = tmp_path / "folder"
    folder.mkdir()
    done = threading.Event()

    def flip() -> None:
        number = 0
        while not done.is_set():
            number += 1
            (tmp_path / "file").write_text("real")
            os.replace(tmp_path / "file", folder / "f")
            os.symlink(tmp_path / "secret", tmp_path / f"link{number}")
            os.replace(tmp_path / f"link{number}", folder / "f")

    thread = threading.Thread(target=flip)
    thread.start()
    seen = set()
    try:
        for _ in range(2000):
            try:
                parcel = Parcel({"d": folder}, Limits())
            except (ValueError, FileNotFoundError):
                continue
            seen.add(os.pread(parcel.descriptor, 100, 0))
            parcel.close()
    finally:
        done.set()
        thread.join()
    assert seen <= {b"real", b""}


def test_what_a_buffered_stream_has_taken_comes_first(box: Sandbox) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"head\nbody\n")
    with open(reader, "rb") as stream:
        assert stream.readline() == b"head\n"
        os.write(writer, b"rest\n")
        os.close(writer)
        assert box.exec(["cat"], stdin=stream).stdout == b"body\nrest\n"


def test_a_stream_over_a_stream_is_refused_where_it_cannot_be_waited_for(box: Sandbox) -> None:
    """Its descriptor gives other bytes than it does."""
    reader, writer = os.pipe()
    with (
        open(reader, "rb") as raw,
        open(writer, "wb"),
        gzip.GzipFile(fileobj=raw) as stream,
        pytest.raises(TypeError, match="GzipFile"),
    ):
        box.exec(["cat"], stdin=stream)  # type: ignore[arg-type]


def test_a_file_that_does_not_fit_leaves_what_was_there(make_sandbox: Make) -> None:
    with make_sandbox(Limits(disk="256K"), policy="program") as sandbox:
        sandbox.exec(sh("echo old > in; head -c 100000 /dev/zero > ballast"))
        with pytest.raises(ProgramError, match="cannot place the file 'in'"):
            sandbox.exec(["true"], files={"in": bytes(200_000)})
        assert sandbox.exec(sh("cat in; ls -A")).stdout == b"old\nballast\nin\n"


@pytest.mark.parametrize("number", [4097, 10_000])
def test_too_many_words_or_variables_are_refused(box: Sandbox, number: int) -> None:
    with pytest.raises(ValueError, match="words"):
        box.exec(["echo", *["x"] * number])
    with pytest.raises(ValueError, match="variables"):
        box.exec(["true"], env={f"V{n}": "" for n in range(number)})
    assert box.exec(["echo", *["x"] * 4000]).stdout == b"x " * 3999 + b"x\n"
