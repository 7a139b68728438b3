"""The kernel's own record of denied system calls: seccomp user notification (Linux 5.0).

The number comes from the kernel, never from the guest. Nothing is ever answered: the host kills the
call, which ends the wait.
"""

from __future__ import annotations

import fcntl
import select
import struct

from ._models import Violation
from ._seccomp import arch_name, syscall_name

# struct seccomp_notif: id, pid, flags, then struct seccomp_data: nr, arch, ip, args[6].
_NOTIF = struct.Struct("=QIIiIQ6Q")
_SECCOMP_IOCTL_NOTIF_RECV = 0xC0502100


def receive(listener: int, events: int) -> Violation | None:
    """The pending notification, or None if its process is dead already.

    `events` is what poll said of the listener. Where it said only POLLHUP (every process under the
    filter is gone) there is nothing to receive, and before Linux 6.11 asking waits for ever.
    """
    if not events & select.POLLIN:
        return None
    buffer = bytearray(_NOTIF.size)  # the kernel wants it zeroed
    try:
        fcntl.ioctl(listener, _SECCOMP_IOCTL_NOTIF_RECV, buffer)
    except (FileNotFoundError, InterruptedError, BlockingIOError):
        return None
    _, _, _, number, arch, _, *args = _NOTIF.unpack(buffer)
    name = syscall_name(arch, number)
    return Violation(name, number, arch_name(arch, number), tuple(args))
