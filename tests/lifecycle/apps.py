"""A program that uses the library in a process of its own, so that a test can end it in any way."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.conftest import LACKS, ROOT
from tests.lifecycle.traces import Process, descendants, groups_of, unix_sockets, until

_SECONDS = 60.0

_PRELUDE = """
import json, os, signal, sys, threading, time
from sandbox import *
from sandbox._runtime import RUNTIME
signal.signal(signal.SIGINT, signal.default_int_handler)  # a CI in the background ignores it
WAIVED, FOLDER = {waived!r}, {folder!r}
SHOWN = (Mount(FOLDER, "/shown", writable=True),)
def make(limits=None, **options):
    return Sandbox(limits, allow_missing=WAIVED, **options)
def tell(value):
    print(json.dumps(value), flush=True)
def lease():
    held = RUNTIME.lease()
    return held and held.socket.getsockname().decode().replace(chr(0), "@")
def mark_and_sleep():
    if os.fork():
        open("/shown/started", "w").close()
    time.sleep(1000)
LONG = Limits(wall_time=300)
"""


class App:
    """`body` is Python source; it finds `make` (a Sandbox with this kernel's waivers), `SHOWN` (a
    writable mount) and `mark_and_sleep` (a guest that forks a child and says in there that it runs), and `tell`s
    JSON, a line each. `TMPDIR` is a folder of its own."""

    def __init__(self, body: str, tmp_path: Path) -> None:
        own = Path(tempfile.mkdtemp(dir=tmp_path))
        own.chmod(0o755)
        shown, self._temporary = own / "shown", own / "temporary"
        shown.mkdir()
        shown.chmod(0o777)
        self._temporary.mkdir()
        self._mark = shown / "started"
        source = _PRELUDE.format(waived=set(LACKS), folder=str(shown)) + body
        self.process = subprocess.Popen(
            [sys.executable, "-c", source],
            # Unbuffered: a line that was read along with another would never be waited for.
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": ROOT, "TMPDIR": str(self._temporary)},
            cwd="/",
        )
        self.pid = self.process.pid
        self._seen: set[Process] = set()
        self._groups: set[str] = set()
        self._sockets: set[str] = set()

    def heard(self) -> Any:
        """The next value that it tells."""
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], _SECONDS)[0], "it tells nothing"
        line = self.process.stdout.readline()
        assert line, self._complaint()
        return json.loads(line)

    def _complaint(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode(errors="replace")[-2000:]

    def guest_runs(self) -> None:
        """Wait until `mark_and_sleep` is in guest code; then note all that there is of it."""
        until(self._mark.exists, "the guest's mark")
        self.note()

    def note(self, lease: str | None = None) -> list[Process]:
        """Remember what exists because of it now: its processes (launcher, init and
        worker first), its groups, and the name of its lease."""
        found = list(descendants(self.pid))
        self._seen |= set(found)
        self._groups |= groups_of(self.pid)
        if lease is not None:
            assert lease in unix_sockets()
            self._sockets.add(lease)
        return found

    def go_on(self) -> None:
        """It waits with `sys.stdin.read(1)`; let it go."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def status(self) -> int:
        """Wait for its end."""
        return self.process.wait(_SECONDS)

    def finished(self) -> tuple[int, str]:
        """Wait for its end: (exit status, what it wrote to stderr)."""
        status = self.status()
        return status, self._complaint()

    def leaves_no_process(self, but: int = 0) -> None:
        """`but` is a child that shall go on."""
        assert self._seen, "nothing was noted, so nothing can be missed"
        for process in self._seen:
            if process.pid == but:
                continue
            until(lambda process=process: not process.running(), f"the end of {process}")  # type: ignore[misc]

    def leaves_nothing(self) -> None:
        """No process, group, socket or temporary file of it remains."""
        self.leaves_no_process()
        assert self._groups or "cgroup" in LACKS
        until(lambda: not groups_of(self.pid), "the end of its control groups")
        assert not self._sockets & unix_sockets()
        assert list(self._temporary.iterdir()) == []

    def end(self) -> None:
        """For fixtures: kill it if it still runs, and reap it."""
        self.process.kill()
        self.process.communicate()
