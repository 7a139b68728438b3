"""Programs that attack: what the host collects (K), process games and exact ends (I), bombs (H), the
terminal (M). Names are those of the cases in SECURITY's terms; racy ones run 20 times."""

from __future__ import annotations

import ast
import errno
import inspect
import os
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import Limits, Outcome, Sandbox
from tests.programs.test_exec import compiled, sh
from worker.kernel import landlock

Make = Callable[..., Sandbox]
SMALL = Limits(
    memory="64M", cpu_time=5, wall_time=20, processes=12, output="64K", disk="4M", inodes=600,
    result="1M",
)  # fmt: skip
RACES = 20
LEFT = sh("cat /proc/[0-9]*/comm 2> /dev/null")


@pytest.fixture(scope="module")
def box(make_sandbox: Make) -> Iterator[Sandbox]:
    with make_sandbox(SMALL, policy="program") as sandbox:
        yield sandbox


def collected(box: Sandbox, text: str, *patterns: str) -> Outcome:
    return box.exec(
        sh(f"chmod -R u+rwx o; rm -rf o; mkdir o; cd o; {text}"), collect=patterns or ["o/**"]
    )


# --- K: what the host collects ----------------------------------------------------------------------

# The guest's text, and the names it must not bring out. "real" is in each, and must come.
OUTPUTS = {
    "K01-link-to-a-file": ("ln -s /etc/passwd x", {"o/x"}),
    "K01-link-to-a-link": ("ln -s /etc/passwd a; ln -s a x", {"o/a", "o/x"}),
    "K01-link-to-proc": ("ln -s /proc/self/environ x; ln -s /proc/1/root y", {"o/x", "o/y"}),
    "K01-link-to-oneself": ("ln -s x x", {"o/x"}),
    "K01-link-up": ("ln -s ../../../../etc x", {"o/x"}),
    "K02-folder-is-a-link": ("ln -s / x", {"o/x"}),
    "K02-link-in-the-middle": ("mkdir d; ln -s /etc d/x", {"o/d/x"}),
    "K04-socket": (
        "python3 -S -c 'import socket as s; s.socket(s.AF_UNIX).bind(\"x\")' || :",
        set(),
    ),
    "K06-hard-links": ("echo 1 > x; ln x y", {"o/x", "o/y"}),
    "K09-unreadable": ("echo 1 > x; chmod 0 x; mkdir d; echo 1 > d/y; chmod 0 d", None),
    "K12-too-large": ("head -c 1200000 /dev/zero > x", {"o/x"}),
    "H12-sparse": ("truncate -s 60M x", {"o/x"}),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_k_only_what_is_honest_comes_out(box: Sandbox, name: str) -> None:
    text, refused = OUTPUTS[name]
    outcome = collected(box, f"echo real > real; {text}")
    assert outcome.files["o/real"] == b"real\n"
    if refused is None:  # a host that is root can read what the guest forbade itself
        assert set(outcome.files) | set(outcome.refused) >= {"o/real", "o/x"}
    else:
        assert set(outcome.files) == {"o/real"}
        assert set(outcome.refused) == refused
    secret = Path("/etc/passwd").read_bytes()
    assert all(secret not in content for content in outcome.files.values())


def test_k03_a_file_swapped_by_whoever_is_left_behind(box: Sandbox) -> None:
    """Every process of the call is dead before the first file is opened. The control: while it runs
    the swapper does swap, and its `link` is seen."""
    swap = compiled(SWAPPER)
    seen = box.exec(["./swap", "1"], files={"swap": swap})
    assert seen.stdout == b"swapped\n"
    for _ in range(RACES):
        outcome = box.exec(sh("./swap 2 & sleep 0.01"), files={"swap": swap}, collect=["file"])
        assert outcome.ok
        assert outcome.files.get("file", b"real\n") in (b"real\n", b"")


def test_k_what_hides_behind_a_named_folder_is_told(box: Sandbox) -> None:
    text = "ln -s /etc outd; mkdir real sub; echo 1 > real/f; ln -s real alias; echo 1 > plain"
    patterns = ["o/outd/passwd", "o/outd/*", "o/alias/f", "o/plain/f", "o/sub"]
    outcome = collected(box, text, *patterns)
    assert outcome.files == {}
    assert outcome.refused == {
        "o/outd": "it is a symbolic link, not a folder",
        "o/alias": "it is a symbolic link, not a folder",
        "o/plain": "it is a regular file, not a folder",
        "o/sub": "it is a folder, not a regular file",
    }


SWAPPER = """#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static void make(void) { int f = open("file", O_WRONLY | O_CREAT | O_TRUNC, 0644); if (f < 0) return;
    if (write(f, "real\\n", 5) != 5) return; close(f); }
int main(int n, char **v) {
    char at[64]; ssize_t size;
    for (long i = 0; v[1][0] == '2' || i < 1000; i++) {
        unlink("file"); make(); unlink("file");
        if (symlink("/etc/passwd", "file")) return 1;
    }
    size = readlink("file", at, sizeof at);
    puts(size == 11 && !memcmp(at, "/etc/passwd", 11) ? "swapped" : "not");
    return n - 2;
}
"""


def test_k08_names_are_bytes_and_stay_below(box: Sandbox) -> None:
    names = [
        b"new\nline",
        b"\xff\xfe",
        b"-rf",
        b"...",
        b"\x1b[31m",
        b"a" * 255,
        b" ",
        b"%s%n",
        b"~",
    ]
    program = b"#!/usr/bin/env python3\nimport os, sys\n"
    program += b"os.makedirs('o', exist_ok=True)\n"
    program += b"".join(b"open(b'o/' + %r, 'w').write('1')\n" % name for name in names)
    box.exec(sh("rm -rf o"))
    outcome = box.exec(["./p"], files={"p": program}, collect=["o/*"])
    assert outcome.ok, outcome.stderr
    assert set(outcome.files) == {os.fsdecode(b"o/" + name) for name in names}
    assert not any(part in ("", ".", "..") for name in outcome.files for part in name.split("/"))


def test_h13_a_deep_tree_is_refused_and_goes_with_the_jail(make_sandbox: Make) -> None:
    source = """#include <sys/stat.h>
#include <unistd.h>
int main(void) { int n = 0; while (n < 3000 && !mkdir("d", 0755) && !chdir("d")) n++; return n < 3000; }
"""
    # Landlock walks up to the root for each: a hundred thousand would take the guest a minute.
    limits = Limits(disk="16M", wall_time=60, cpu_time=30)
    with make_sandbox(limits, policy="program") as sandbox:
        outcome = sandbox.exec(
            ["./deep"], files={"deep": compiled(source)}, collect=["**/x", "d/**"]
        )
        assert outcome.ok
        ((path, reason),) = outcome.refused.items()
        assert path.count("/") == 63
        assert "deeper than 64" in reason
        assert outcome.files == {}


def test_k_many_files_are_capped_by_the_jails_own_inodes(box: Sandbox) -> None:
    outcome = collected(box, "i=0; while [ $i -lt 900 ]; do : > $i || exit 3; i=$((i+1)); done")
    assert outcome.status == "disk_limit"
    assert 100 < len(outcome.files) < 600
    box.exec(sh("rm -rf o"))


# --- I: processes -----------------------------------------------------------------------------------


def test_i04_zombies_are_reaped_with_the_call(box: Sandbox) -> None:
    source = """#include <unistd.h>
int main(void) { for (int i = 0; i < 8; i++) if (!fork()) _exit(0); sleep(0); return 0; }
"""
    for _ in range(RACES):
        assert box.exec(["./zombies"], files={"zombies": compiled(source)}).ok
    assert b"zombies" not in box.exec(LEFT).stdout


DAEMON = """#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
int main(int n, char **v) {
    if (fork()) { sleep(v[1][0] == 'w'); return 0; }
    setsid();
    if (fork()) _exit(0);
    for (int s = 1; s < 65; s++) signal(s, SIG_IGN);
    if (n > 2) { int null = open("/dev/null", O_RDWR); dup2(null, 0); dup2(null, 1); dup2(null, 2); }
    for (;;) { if (n == 2) { printf("beat\\n"); fflush(stdout); } usleep(1000); }
}
"""


@pytest.mark.parametrize("arguments", [["now"], ["now", "closed"]], ids=["holds-stdout", "closed"])
def test_i05_daemons_end_with_the_call(box: Sandbox, arguments: list[str]) -> None:
    for _ in range(RACES):
        outcome = box.exec(["./daemon", *arguments], files={"daemon": compiled(DAEMON)})
        assert outcome.ok
        assert set(outcome.stdout.split()) <= {b"beat"}
    assert b"daemon" not in box.exec(LEFT).stdout


def test_i05_the_control_a_daemon_does_live_while_its_parent_does(box: Sandbox) -> None:
    outcome = box.exec(["./daemon", "wait"], files={"daemon": compiled(DAEMON)})
    assert outcome.stdout.count(b"beat") > 10


KILL_ALL = """#include <signal.h>
#include <stdio.h>
#include <unistd.h>
int main(void) {
    if (!fork()) for (;;) pause();
    int all = kill(-1, SIGKILL), init = kill(1, SIGKILL);
    printf("%d %d\\n", all, init); fflush(stdout);
    return 0;
}
"""


def test_i18_kill_reaches_its_own_call_and_nobody_else(box: Sandbox) -> None:
    """init, with the same user id, is another's: Landlock from ABI 6 on says EPERM; before, a
    namespace's init takes no SIGKILL from inside."""
    outcome = box.exec(["./kill"], files={"kill": compiled(KILL_ALL)})
    assert outcome.status == "ok"
    assert box.exec(["true"]).ok
    assert box.run(int, "7") == 7


def test_i15_an_exit_at_the_instant_of_the_limit_has_one_verdict(make_sandbox: Make) -> None:
    """20 ends around the deadline: each is one of the two, never a fault of ours."""
    seen = set()
    with make_sandbox(Limits(wall_time=0.2), policy="program") as sandbox:
        for number in range(RACES):
            outcome = sandbox.exec(["sleep", f"{0.18 + number * 0.002:.3f}"])
            assert outcome.status in ("ok", "wall_time_limit"), outcome.message
            assert (outcome.exit_code == 0) == (outcome.status == "ok")
            seen.add(outcome.status)
        assert sandbox.exec(["true"]).ok
    assert "ok" in seen or "wall_time_limit" in seen


def test_i06_busy_children_of_an_idle_parent_are_counted(make_sandbox: Make) -> None:
    with make_sandbox(Limits(cpu_time=0.3, wall_time=60), policy="program") as sandbox:
        outcome = sandbox.exec(sh("(while :; do :; done) & sleep 1000"))
    assert outcome.status == "cpu_time_limit"


def test_m04_stopping_oneself_and_ones_parent_ends_at_the_wall(make_sandbox: Make) -> None:
    with make_sandbox(Limits(wall_time=0.4), policy="program") as sandbox:
        for text in ("kill -STOP $$", "sh -c 'kill -STOP $PPID; sleep 1000'", "kill -STOP 0"):
            assert sandbox.exec(sh(text)).status == "wall_time_limit"
        assert sandbox.exec(["true"]).ok


@pytest.mark.hostile
@pytest.mark.spares("killed_forks")
def test_i01_a_fork_bomb_ends_with_its_call(box: Sandbox) -> None:
    source = "#include <unistd.h>\nint main(void) { for (;;) if (fork() < 0) return 9; }\n"
    outcome = box.exec(["./bomb"], files={"bomb": compiled(source)})
    assert outcome.status in ("process_limit", "cpu_time_limit")
    assert outcome.evidence.get("processes_refused", outcome.evidence.get("refused", 0)) >= 1
    assert subprocess.run(["true"], check=True).returncode == 0
    assert box.exec(["true"]).ok


# --- H, J: floods and bombs -------------------------------------------------------------------------


@pytest.mark.hostile
def test_h_floods_on_both_streams_end_the_call_and_cost_the_host_little(box: Sandbox) -> None:
    flood = "(while :; do echo 0123456789; done) & while :; do echo 9876543210 >&2; done"
    outcome = box.exec(sh(flood))
    assert outcome.status == "output_limit"
    assert len(outcome.stdout) + len(outcome.stderr) <= 2 * (64 << 10)


def test_a_flood_into_a_pipe_that_nobody_reads_waits_there(make_sandbox: Make) -> None:
    limits = Limits(wall_time=0.5)
    with make_sandbox(limits, policy="program") as sandbox, sandbox.popen(["yes"]) as process:
        assert process.wait(30).status == "wall_time_limit"
        assert process.stdout is not None
        assert 0 < len(process.stdout.read()) <= 1 << 20


@pytest.mark.hostile
def test_h01_a_memory_bomb_of_many_processes_goes_whole(box: Sandbox) -> None:
    source = """#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(void) { for (int i = 0; i < 3; i++) fork();
    for (;;) { char *p = malloc(1 << 20); if (!p) return 9; memset(p, 1, 1 << 20); } }
"""
    outcome = box.exec(["./bomb"], files={"bomb": compiled(source)})
    assert outcome.status == "memory_limit"
    assert b"bomb" not in box.exec(LEFT).stdout


MANY_FILES = """#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
int main(void) { char name[260];
    for (int i = 0; i < 12000; i++) {
        snprintf(name, sizeof name, "%0245d", i);
        int file = open(name, O_CREAT | O_WRONLY, 0600);
        if (file < 0) return 9;
        close(file); }
    return 0; }
"""
# Charged to whoever writes it, but nobody's resident memory.
UNMAPPED = """#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void) { static char page[1 << 16]; int file = memfd_create("m", 0);
    memset(page, 1, sizeof page);
    for (;;) if (write(file, page, sizeof page) < 0) return 9; }
"""


@pytest.mark.hostile
@pytest.mark.volume
def test_h_what_the_kernel_keeps_for_files_is_not_inits_end(make_sandbox: Make) -> None:
    """Names cost no disk to speak of, but memory that no call is charged for any more: more in all
    than is there for init. At the jail's own cap the kernel would choose init, whose memory is the
    largest that is resident."""
    limits = Limits(memory="32M", disk="4M", inodes=100_000, cpu_time=20, wall_time=60)
    with make_sandbox(limits, policy="program") as sandbox:
        placed = {"many": compiled(MANY_FILES), "unmapped": compiled(UNMAPPED)}
        assert sandbox.exec(["true"], files=placed).ok
        jail, seen = sandbox._jail, []
        for number in range(6):
            outcome = sandbox.exec(sh(f"mkdir {number}; cd {number}; exec ../many"))
            seen += [outcome.status, sandbox.exec(["./unmapped"]).status]
        assert set(seen) <= {"ok", "memory_limit"}
        assert seen[:2] == ["ok", "memory_limit"]
        assert sandbox._jail is jail


# --- the layers, around what is started without a copy of init ---------------------------------------


def layers_around() -> dict[str, object]:
    """What a process can tell of the layers it is under. Travels as a function, and as text."""
    import mmap
    import os
    import time

    def error_of(action: Any) -> int:
        try:
            action()
        except OSError as error:
            return error.errno or 0
        return 0

    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    shown = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
    everything = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    return {
        **{name: status[name] for name in (*shown, "Seccomp_filters")},
        "up": time.clock_gettime(time.CLOCK_BOOTTIME) > 3600,
        "signals_init": error_of(lambda: os.kill(1, 0)),
        "renices_init": error_of(lambda: os.setpriority(os.PRIO_PROCESS, 1, 5)),
        "makes_code": error_of(lambda: mmap.mmap(-1, 4096, prot=everything)),
        "writes_usr": error_of(lambda: os.open("/usr/x", os.O_CREAT | os.O_WRONLY)),
        "writes_here": error_of(lambda: os.close(os.open("x", os.O_CREAT | os.O_WRONLY))),
        "leads": os.getsid(0) == os.getpid(),
    }


def test_a_program_is_under_the_layers_of_a_function(box: Sandbox) -> None:
    """Those of a function are tested with their controls in tests/escape. Without files a program's
    worker shares init's memory until it execs; with some it is a copy, as a function's is."""
    source = f"from typing import Any\n{inspect.getsource(layers_around)}print(layers_around())\n"
    names = "import os; print({n: os.readlink(f'/proc/self/ns/{n}') for n in os.listdir('/proc/self/ns')})"
    function = box.call(layers_around)
    assert function.ok, function.message
    for files in ({}, {"f": b"1"}):
        outcome = box.exec(["python3", "-S", "-c", source], files=files)
        assert outcome.ok, outcome.stderr
        seen = ast.literal_eval(outcome.stdout.decode())
        assert seen == function.value
        assert (seen["writes_here"], seen["leads"]) == (0, True)
        if landlock.abi() >= 6:  # seccomp lets signals pass: it is the domain that refuses this one
            assert seen["signals_init"] == errno.EPERM
        outcome = box.exec(["python3", "-S", "-c", names], files=files)
        inside = ast.literal_eval(outcome.stdout.decode())
        for name, number in outcome.isolation.namespaces.items():
            file = {"mount": "mnt"}.get(name, name)
            assert inside[file] == f"{file}:[{number}]"
    listed = box.exec(["python3", "-S", "-c", "import os; print(os.listdir('/proc/self/fd'))"])
    assert ast.literal_eval(listed.stdout.decode()) == ["0", "1", "2", "3"]  # 3 is the listing's


# --- M: terminal and devices ------------------------------------------------------------------------


def test_m01_there_is_no_terminal(box: Sandbox) -> None:
    outcome = box.exec(
        sh("exec 2> /dev/null; (: < /dev/tty) || echo none; tty; stty -a || echo no")
    )
    assert outcome.stdout.split(b"\n")[:3] == [b"none", b"not a tty", b"no"]


def test_m06_devices_cannot_be_made(box: Sandbox, tmp_path: Path) -> None:
    assert box.exec(["mknod", "null", "c", "1", "3"]).exit_code == 1
    assert box.exec(["mkfifo", "fifo"]).exit_code == 1
    os.mkfifo(tmp_path / "fifo")  # the control: outside it can
    assert stat.S_ISFIFO(os.stat(tmp_path / "fifo").st_mode)


def test_set_user_id_programs_give_nothing(box: Sandbox) -> None:
    suid = [p for p in ("/usr/bin/su", "/usr/bin/passwd", "/usr/bin/mount") if os.path.exists(p)]
    for path in suid:
        assert b"NoNewPrivs:\t1" in box.exec(sh(f"test -u {path}; cat /proc/self/status")).stdout
    outcome = box.exec(sh("cp /usr/bin/id own; chmod 4755 own; ./own -u; ls -l own"))
    assert b"rws" not in outcome.stdout
    assert outcome.stdout.startswith(b"1000\n")


def test_the_host_goes_on_while_a_program_runs(box: Sandbox) -> None:
    """One thread waits for a program; others of the application are not held up."""
    ticks = []
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.005):
            ticks.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    box.exec(["sleep", "0.3"])
    done.set()
    thread.join()
    assert len(ticks) > 10
