"""Runs the kernel program in its enclosure and hands its output on while it runs."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .catalog import Kernel
from .requirements import PATH

_ENCLOSURE = Path(__file__).with_name("enclosure.sh")


@dataclass(frozen=True)
class Ending:
    """How a guest ended: with the command's status, or (`status` is None) without one, because
    it took too long or because it died."""

    status: int | None
    timed_out: bool = False


@dataclass(frozen=True)
class Machine:
    """A guest that is ready to boot.

    Attributes:
        kernel: which kernel; `folder` is where it was unpacked.
        state: holds ``guest`` (see guest.py) and ``disk`` (see image.py).
        memory: of the guest, with the unit the kernel takes: ``"2G"``.
    """

    kernel: Kernel
    folder: Path
    state: Path
    memory: str

    @property
    def log(self) -> Path:
        """The kernel's messages."""
        return self.state / "kernel.log"


def run(machine: Machine, timeout: float) -> Ending:
    """Boots, copies the command's output to our stdout as it comes, and waits for the end, at
    most `timeout` seconds from now. If the guest died, `machine.log` tells why."""
    deadline = time.monotonic() + timeout
    with _booted(machine) as (process, output, status):
        told = _relay(output, status, deadline)
        if told is None:
            return Ending(None, timed_out=True)
        process.wait()
    text = told.decode().strip()
    return Ending(int(text) if text.isdigit() else None)


@contextmanager
def _booted(machine: Machine) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """The running guest, its output and its status; on leaving, nothing of it is left."""
    (machine.state / "root").mkdir()
    output, status = os.pipe(), os.pipe()
    with machine.log.open("wb") as log:
        process = subprocess.Popen(
            [*_enclosure(machine), *_kernel(machine, output[1], status[1])],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(output[1], status[1]),
            start_new_session=True,
            env={"PATH": PATH, "TMPDIR": "/dev/shm"},
        )
    os.close(output[1])
    os.close(status[1])
    try:
        yield process, output[0], status[0]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(output[0])
        os.close(status[0])


def _enclosure(machine: Machine) -> list[str]:
    # If we are killed, so is unshare (setpriv), and with it pid 1 of the enclosure (--kill-child),
    # whose death ends everything in its pid namespace.
    return [
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"),
        *("--net", "--ipc", "--uts"),
        *("sh", str(_ENCLOSURE), str(machine.state), str(machine.folder)),
    ]


def _kernel(machine: Machine, output: int, status: int) -> list[str]:
    """The kernel program and its arguments, with the paths of the enclosure."""
    # Only for this program: the C library of another suite is none for the ones before it.
    libc = ["env", "LD_LIBRARY_PATH=/mnt/kernel/lib"] if machine.kernel.own_libc else []
    return [
        *libc,
        *("/mnt/kernel/linux", f"mem={machine.memory}", "umid=guest", "uml_dir=/mnt/uml"),
        *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "init=/mnt/guest/init"),
        "ubd0=/mnt/disk",
        *("con=null", "ssl=null", "con0=null,fd:1", f"con1=null,fd:{output}"),
        f"con2=null,fd:{status}",
        # A panic ends the program; the guest's processes need not wait for the CRNG to be seeded.
        *("panic=-1", "random.trust_cpu=on"),
    ]


def _relay(output: int, status: int, deadline: float) -> bytes | None:
    """Copies `output` to our stdout until the guest closed both pipes.

    Returns:
        What came on `status`, or None if the deadline passed first.
    """
    told = b""
    with selectors.DefaultSelector() as selector:
        for pipe in (output, status):
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fd)
                elif key.fd == output:
                    _write_all(1, chunk)
                else:
                    told += chunk
    return told


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
