"""L, M, N: no network, no sockets by name, no devices, no queues, locks or watches that outlive."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox import Limits, Mount, Sandbox
from tests.escape.cases import Case, call, check_refused, each, number, violation
from tests.escape.conftest import open_policy, without_landlock
from tests.escape.outside import Outside
from tests.probes import files, network

Make = Callable[..., Sandbox]

TIOCSTI, TIOCLINUX, TIOCSCTTY, TCGETS = 0x5412, 0x541C, 0x540E, 0x5401
STREAM, DATAGRAM, RAW, SEQPACKET = 1, 2, 3, 5
RESULT, SOL_SOCKET, IPPROTO_IP = 3, 1, 0
# What Python asks for, and what tells of the peer.
HARMLESS_OPTIONS = {
    "SO_REUSEADDR": 2,
    "SO_TYPE": 3,
    "SO_ERROR": 4,
    "SO_SNDBUF": 7,
    "SO_RCVBUF": 8,
    "SO_LINGER": 13,
    "SO_RCVTIMEO": 20,
    "SO_SNDTIMEO": 21,
    "SO_ACCEPTCONN": 30,
    "SO_PROTOCOL": 38,
    "SO_DOMAIN": 39,
}
TELLING_OPTIONS = {"SO_PEERCRED": 17, "SO_COOKIE": 57, "SO_PEERGROUPS": 59}
SO_PEERSEC, SO_PEERPIDFD = 31, 77
NORMAL, WILLNEED, DONTNEED, NOREUSE = 0, 3, 4, 5
HIPRI, DSYNC, SYNC, NOWAIT, APPEND, NOAPPEND = 1, 2, 4, 8, 16, 32
FAMILIES = {
    "L01-inet": (2, STREAM, 0),
    "L01-inet6": (10, STREAM, 0),
    "L01-udp": (2, DATAGRAM, 0),
    "L04-unix": (1, STREAM, 0),
    "L05-unix-datagram": (1, DATAGRAM, 0),
    "L06-vsock": (40, STREAM, 0),
    "L07-route": (16, RAW, 0),
    "L07-netfilter": (16, RAW, 12),
    "L07-sock_diag": (16, RAW, 4),
    "L07-crypto": (38, SEQPACKET, 0),
    "L08-packet": (17, RAW, 0x300),
    "L08-raw": (2, RAW, 1),
    "L20-ping": (2, DATAGRAM, 1),
    "bluetooth": (31, RAW, 1),
    "can": (29, RAW, 1),
    "xdp": (44, RAW, 0),
}


@pytest.fixture
def server() -> Iterator[int]:
    """The port of a listening socket of the host."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def named(folder: str) -> Iterator[str]:
    """A folder with a listening socket, a datagram socket and a named pipe with a reader, all of
    which everybody may use."""
    mask = os.umask(0)
    pipe = os.path.join(folder, "pipe")
    os.mkfifo(pipe)
    with (
        socket.socket(socket.AF_UNIX) as stream,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram,
        open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb"),
    ):
        stream.bind(os.path.join(folder, "stream"))
        stream.listen()
        datagram.bind(os.path.join(folder, "datagram"))
        os.umask(mask)
        yield folder


# --- network --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", FAMILIES.values(), ids=FAMILIES)
def test_l_no_socket_can_be_made(arguments: tuple[int, int, int], jail: Sandbox) -> None:
    assert jail.run(network.make_socket, *arguments) == "EACCES"


@pytest.mark.parametrize("kind", [STREAM, SEQPACKET])
def test_l_pairs_for_ones_own_processes_can(kind: int, jail: Sandbox) -> None:
    assert jail.run(network.make_pair, 1, kind) == "done"
    assert jail.run(network.pass_a_descriptor) == 1


@pytest.mark.parametrize("kind", [DATAGRAM, RAW])
def test_l05_but_not_pairs_that_may_send_anywhere(kind: int, jail: Sandbox, bare: Sandbox) -> None:
    assert bare.run(network.make_pair, 1, kind) == "done"
    assert jail.run(network.make_pair, 1, kind) == "EPERM"


def test_l01_a_port_of_the_host_is_out_of_reach(
    server: int, jail: Sandbox, bare: Sandbox, outside: Outside
) -> None:
    """Without seccomp by the network namespace, whose loopback is down."""
    case = Case("", network.connect_tcp, ("127.0.0.1", server), "EACCES", "ENETUNREACH")
    assert outside(case.probe, *case.arguments) == "done"
    check_refused(case, jail, bare, outside)


def test_l01_l03_nothing_can_be_sent_out(server: int, jail: Sandbox, bare: Sandbox) -> None:
    for address in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "255.255.255.255"):
        assert bare.run(network.send_udp, address, server) in ("ENETUNREACH", "EACCES")
        assert jail.run(network.send_udp, address, server) == "EACCES"


def test_l01_names_are_not_looked_up(jail: Sandbox, bare: Sandbox) -> None:
    for sandbox in (jail, bare):
        assert sandbox.run(network.look_up, "example.com") == "gaierror"


def test_l_there_is_no_interface_but_a_loopback(bare: Sandbox, outside: Outside) -> None:
    assert "lo" in outside(network.interfaces)
    assert set(bare.run(network.interfaces)) <= {
        "lo",
        "tunl0",
        "sit0",
        "gre0",
        "gretap0",
        "erspan0",
    }


def test_l04_an_abstract_socket_of_the_host_is_out_of_reach(
    jail: Sandbox, bare: Sandbox, outside: Outside
) -> None:
    address = f"\0sandbox-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        case = Case("", network.connect_unix, (address,), "EACCES", "ECONNREFUSED")
        assert outside(case.probe, *case.arguments) == "done"
        check_refused(case, jail, bare, outside)


@pytest.mark.parametrize(
    ("probe", "name", "expected"),
    [
        (network.connect_unix, "stream", "EACCES"),
        (network.send_to_path, "datagram", "EPERM"),
    ],
)
def test_l05_sockets_below_a_mount_are_out_of_reach(
    probe: Callable[[str], str],
    name: str,
    expected: str,
    named: str,
    make_sandbox: Make,
    small: Limits,
) -> None:
    """Neither the mount being read-only nor the network namespace holds them: seccomp does."""
    path, mounts = f"/shown/{name}", [Mount(named, "/shown")]
    with without_landlock(), make_sandbox(small, mounts=mounts, policy=open_policy()) as loose:
        assert loose.run(probe, path) == "done"
    with make_sandbox(small, mounts=mounts) as tight:
        assert tight.run(probe, path) == expected
        # A stream socket has its peer, and takes no other address.
        assert tight.run(network.send_to_path_from_a_stream, path) in ("EISCONN", "EOPNOTSUPP")


@pytest.mark.needs("landlock")
def test_l05_named_pipes_below_a_mount_cannot_be_written(
    named: str, make_sandbox: Make, small: Limits
) -> None:
    """For a pipe a read-only mount is none; Landlock holds it."""
    mounts = [Mount(named, "/shown")]
    with without_landlock(), make_sandbox(small, mounts=mounts) as loose:
        assert loose.run(network.write_to_pipe, "/shown/pipe") == "done"
    with make_sandbox(small, mounts=mounts) as tight:
        assert tight.run(network.write_to_pipe, "/shown/pipe") == "EACCES"


@pytest.mark.parametrize("name", ["stream", "pipe"])
def test_l05_a_socket_or_pipe_itself_cannot_be_mounted(name: str, named: str) -> None:
    with pytest.raises(ValueError, match="neither a folder nor a regular file"):
        Sandbox(mounts=[Mount(f"{named}/{name}", "/shown")])


@pytest.mark.parametrize("descriptor", [-1, RESULT], ids=["own-pair", "result-channel"])
@pytest.mark.parametrize("option", HARMLESS_OPTIONS.values(), ids=HARMLESS_OPTIONS)
def test_l11_python_asks_its_sockets_what_it_needs(
    option: int, descriptor: int, jail: Sandbox
) -> None:
    assert jail.run(network.option_of, descriptor, SOL_SOCKET, option) == "done"


@pytest.mark.parametrize("option", TELLING_OPTIONS.values(), ids=TELLING_OPTIONS)
def test_l11_but_not_who_is_at_the_other_end(option: int, jail: Sandbox, bare: Sandbox) -> None:
    for descriptor in (RESULT, -1):
        assert bare.run(network.option_of, descriptor, SOL_SOCKET, option) == "done"
        assert jail.run(network.option_of, descriptor, SOL_SOCKET, option) == "EPERM"


def test_l11_nor_for_a_handle_on_the_hosts_process(jail: Sandbox, bare: Sandbox) -> None:
    """SO_PEERPIDFD came with Linux 6.5; SO_PEERSEC is there with some security modules only."""
    release = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    there = "done" if release >= (6, 5) else "ENOPROTOOPT"
    assert bare.run(network.option_of, RESULT, SOL_SOCKET, SO_PEERPIDFD) == there
    assert bare.run(network.option_of, RESULT, SOL_SOCKET, SO_PEERSEC) in ("done", "ENOPROTOOPT")
    assert jail.run(network.option_of, RESULT, SOL_SOCKET, SO_PEERPIDFD) == "EPERM"
    assert jail.run(network.option_of, RESULT, SOL_SOCKET, SO_PEERSEC) == "EPERM"


def test_l11_nor_at_the_levels_of_protocols(jail: Sandbox, bare: Sandbox) -> None:
    assert bare.run(network.option_of, -1, IPPROTO_IP, 1) == "EOPNOTSUPP"
    assert jail.run(network.option_of, -1, IPPROTO_IP, 1) == "EPERM"


# --- the kernel's other surfaces --------------------------------------------------------------------

SURFACES = [
    Case("L11-attach-filter", network.attach_filter, (), "EPERM", "done", "done"),
    Case("L11-buffer", network.set_buffer, (), "done", "done", "done"),
    call("L14-add_key", "add_key", b"user", b"x", b"y", 1, -3, jail="ENOSYS"),
    call("L14-request_key", "request_key", b"user", b"x", 0, 0, jail="ENOSYS"),
    call("L14-keyctl-id", "keyctl", 0, -3, 0, 0, 0, jail="ENOSYS"),
    call("L14-keyctl-join", "keyctl", 1, 0, 0, 0, 0, jail="ENOSYS"),
    call("L15-quotactl", "quotactl", 0, 0, 0, 0, jail="EPERM"),
    violation("L15-acct", "acct", 0, bare="EPERM"),
    violation("L15-swapon", "swapon", b"/tmp/x", 0, bare="EPERM"),
    violation("L15-swapoff", "swapoff", b"/tmp/x", bare="EPERM"),
    violation("L15-kexec_load", "kexec_load", 0, 0, 0, 0),
    violation("L15-init_module", "init_module", 0, 0, b""),
    violation("L15-delete_module", "delete_module", b"x", 0),
    violation("L15-reboot", "reboot", 0, 0, 0, 0, bare="EPERM"),
    call("L15-syslog", "syslog", 10, 0, 0, jail="EPERM"),
    call("L15-vhangup", "vhangup", jail="EPERM", bare="EPERM"),
    call("L15-uselib", "uselib", b"/x", jail="ENOSYS"),
    call("L15-lookup_dcookie", "lookup_dcookie", 0, 0, 0, jail="ENOSYS"),
    call("L16-inotify", "inotify_init1", 0, jail="ENOSYS", bare="done", outside="done"),
    call("L16-fanotify", "fanotify_init", 0, 0, jail="EPERM"),
    call("M01-tiocsti", "ioctl", 0, TIOCSTI, b"x", jail="EPERM", bare="ENOTTY"),
    call("M02-tioclinux", "ioctl", 0, TIOCLINUX, b"\x03", jail="EPERM", bare="ENOTTY"),
    call("M01-tiocsctty", "ioctl", 0, TIOCSCTTY, 0, jail="EPERM", bare="ENOTTY"),
    call("M01-tcgets", "ioctl", 0, TCGETS, bytes(64), jail="ENOTTY", bare="ENOTTY"),
    call("N02-mq_open", "mq_open", b"x", 0o102, 0o600, 0, jail="ENOSYS"),
    call("N03-msgget", "msgget", 0, 0o1600, jail="ENOSYS", bare="done"),
    call("N03-semget", "semget", 0, 1, 0o1600, jail="ENOSYS", bare="done"),
    call("N-io_setup", "io_setup", 1, bytes(8), jail="ENOSYS"),
    call("N-splice", "vmsplice", 1, 0, 0, 0, jail="ENOSYS"),
    call("O03-mincore", "mincore", 0, 0, 0, jail="EPERM"),
    call("O03-cachestat", "cachestat", 0, 0, 0, 0, jail="EPERM"),
    Case("N-pipe-size", files.control_file, ("/dev/null", 1031, 1 << 20), "EPERM", "EBADF"),
    Case("N05-lease", files.control_file, ("/etc/passwd", 1024, 0), "EPERM"),
    Case("N05-notify", files.control_file, ("/etc", 1026, 1), "EPERM"),
]


@pytest.mark.parametrize("case", each(SURFACES))
def test_lmn_surfaces_that_nobody_needs_are_closed(
    case: Case, jail: Sandbox, bare: Sandbox, outside: Outside
) -> None:
    check_refused(case, jail, bare, outside)


# --- shared files -----------------------------------------------------------------------------------


@pytest.fixture
def loose(make_sandbox: Make, small: Limits, folder: str) -> Iterator[Sandbox]:
    """Without seccomp and Landlock, with the folder shown read-only."""
    shown = [Mount(folder, "/shown")]
    with without_landlock(), make_sandbox(small, mounts=shown, policy=open_policy()) as sandbox:
        yield sandbox


@pytest.fixture
def tight(make_sandbox: Make, small: Limits, folder: str) -> Iterator[Sandbox]:
    """With every layer."""
    with make_sandbox(small, mounts=[Mount(folder, "/shown")]) as sandbox:
        yield sandbox


def test_n05_a_shown_file_cannot_be_locked(loose: Sandbox, tight: Sandbox, folder: str) -> None:
    """A lock on a read-only mount is one on the host's file."""
    with open(f"{folder}/data") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert loose.run(files.lock, "/shown/data") == "EAGAIN"
        fcntl.flock(file, fcntl.LOCK_UN)
    assert loose.run(files.lock, "/shown/data") == "done"
    assert tight.run(files.lock, "/shown/data") == "ENOLCK"
    # Nor exclusively by record, for which the file would have to be open for writing.
    assert tight.run(files.record_lock, "/shown/data") == "EBADF"


def test_l16_a_shown_file_cannot_be_watched(loose: Sandbox, tight: Sandbox) -> None:
    numbers = number("inotify_init1"), number("inotify_add_watch")
    assert loose.run(network.watch, *numbers, "/shown/data") == "done"
    assert tight.run(network.watch, *numbers, "/shown/data") == "ENOSYS"


def test_o03_the_page_cache_is_not_told_by_reads_that_do_not_wait(
    loose: Sandbox, tight: Sandbox
) -> None:
    """Where the file system has such reads, they succeed or say EAGAIN."""
    path = "/shown/data"
    assert loose.run(files.read_with, path, NOWAIT) in ("done", "EAGAIN", "EOPNOTSUPP")
    for flags in (NOWAIT, NOWAIT | HIPRI):
        assert tight.run(files.read_with, path, flags) == "EPERM"
    for sandbox in (loose, tight):
        assert sandbox.run(files.read_with, path, 0) == "done"


def test_o03_nor_by_writes(loose: Sandbox, tight: Sandbox) -> None:
    """Pipes have such writes since Linux 6.4."""
    assert loose.run(files.write_to_pipe_with, NOWAIT) in ("done", "EOPNOTSUPP")
    for flags in (NOWAIT, NOAPPEND, NOWAIT | SYNC):
        assert tight.run(files.write_to_pipe_with, flags) == "EPERM"
    for flags in (0, APPEND, DSYNC | SYNC):
        for sandbox in (loose, tight):
            assert sandbox.run(files.write_with, "/tmp/written", flags) == "done"


def test_o03_nothing_is_pushed_out_of_the_page_cache(loose: Sandbox, tight: Sandbox) -> None:
    assert loose.run(files.advise, "/shown/data", DONTNEED) == "done"
    assert tight.run(files.advise, "/shown/data", DONTNEED) == "EPERM"
    for advice in (NORMAL, WILLNEED, NOREUSE):
        assert tight.run(files.advise, "/shown/data", advice) == "done"


def test_o03_a_shown_file_can_be_written_back_but_by_base(
    tight: Sandbox, make_sandbox: Make, small: Limits, folder: str
) -> None:
    """What `python` gives for sqlite takes the host's files too, as its reason and SECURITY.md
    say."""
    assert tight.run(files.sync, "/shown/data") == "done"
    with make_sandbox(small, mounts=[Mount(folder, "/shown")], policy="base") as sandbox:
        assert sandbox.run(files.sync, "/shown/data") == "EPERM"


# --- devices ----------------------------------------------------------------------------------------


def test_m07_there_are_no_devices_but_the_harmless(jail: Sandbox, outside: Outside) -> None:
    links = {"fd", "stdin", "stdout", "stderr"}
    harmless = {"null", "zero", "full", "random", "urandom", "shm"}
    assert set(jail.run(files.listing, "/dev")) == links | harmless
    assert set(outside(files.listing, "/dev")) - links - harmless


def devices() -> dict[str, Any]:
    import mmap

    found: dict[str, Any] = {}
    with open("/dev/urandom", "rb") as file:
        found["urandom"] = len(file.read(1 << 16))
    with open("/dev/zero", "rb") as file:
        found["zero"] = file.read(4)
        found["mapped"] = mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ)[:4]
    with open("/dev/null", "wb") as file:
        found["null"] = file.write(b"x")
    with open("/dev/stdin", "rb") as file:
        found["stdin"] = file.read()
    return found


def test_m08_the_harmless_work(jail: Sandbox) -> None:
    zeros = bytes(4)
    expected = {"urandom": 1 << 16, "zero": zeros, "mapped": zeros, "null": 1, "stdin": b""}
    assert jail.run(devices) == expected


@pytest.mark.needs("landlock")
def test_m08_random_numbers_cannot_be_fed(jail: Sandbox) -> None:
    assert jail.run(files.open_for_writing, "/dev/null") == "done"
    for name in ("random", "urandom", "zero", "full"):
        assert jail.run(files.open_for_writing, f"/dev/{name}") == "EACCES"


def test_m01_there_is_no_terminal(jail: Sandbox) -> None:
    assert jail.run(files.visible_of, ["/dev/tty", "/dev/console", "/dev/ptmx", "/dev/pts"]) == []
    assert jail.call(abs, 1).isolation.worker["terminal"] == 0


def test_m_devices_below_a_mount_are_none(make_sandbox: Make, small: Limits, folder: str) -> None:
    """A mount of the caller's is nodev, whatever lies below it; the host's /dev is none."""
    try:
        os.mknod(f"{folder}/zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:  # an ordinary user has only those that are there
        with pytest.raises(ValueError, match="device nodes"):
            make_sandbox(small, mounts=[Mount("/dev", "/shown")])
        return
    with make_sandbox(small, mounts=[Mount(folder, "/shown")]) as sandbox:
        assert sandbox.run(files.open_with, "/dev/zero", os.O_RDONLY) == "done"
        assert sandbox.run(files.open_with, "/shown/zero", os.O_RDONLY) == "EACCES"
