"""Reading policies: what they say, and what is wrong with a bad one, with its line."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from sandbox._errors import PolicyError
from sandbox._policy import Condition, FileRule, Policy, Rule
from sandbox._policy_file import load_policy

Write = Callable[[str], str]
TOP = 'schema = 1\nname = "mine"\nextends = "base"\n'


@pytest.fixture
def write(tmp_path: pathlib.Path) -> Write:
    def write(text: str) -> str:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def args(*values: int) -> tuple[int, ...]:
    return (*values, *(0,) * (6 - len(values)))


# call, arguments, then what base, python and compute say to it
ANSWERS = [
    ("read", args(), "allow", "allow", "allow"),
    ("clone", args(0x3D0F00), "EPERM", "allow", "EPERM"),
    ("clone", args(0x1200011), "EPERM", "allow", "EPERM"),
    ("clone", args(0x10000011), "EPERM", "EPERM", "EPERM"),
    ("clone", args(0x20011 | 1 << 40), "EPERM", "EPERM", "EPERM"),
    ("clone3", args(), "ENOSYS", "ENOSYS", "ENOSYS"),
    ("execve", args(), "EPERM", "EPERM", "EPERM"),
    ("vfork", args(), "EPERM", "EPERM", "EPERM"),
    ("mkdir", args(), "EPERM", "allow", "EPERM"),
    ("open", args(0, 0, 0o6755), "allow", "allow", "allow"),
    ("open", args(0, 0o102, 0o644), "allow", "allow", "allow"),
    ("open", args(0, 0o102, 0o4755), "EPERM", "EPERM", "EPERM"),
    ("open", args(0, 0o102, 0o2755), "EPERM", "EPERM", "EPERM"),
    ("openat", args(0, 0, 0, 0xFFFFFFFF), "allow", "allow", "allow"),
    ("openat", args(0, 0, 0o200000, 0o6000), "allow", "allow", "allow"),
    ("openat", args(0, 0, 0o101, 0o1777), "allow", "allow", "allow"),
    ("openat", args(0, 0, 0o101, 0o6755), "EPERM", "EPERM", "EPERM"),
    ("openat", args(0, 0, 0o101 | 1 << 32, 0o4000 | 1 << 40), "EPERM", "EPERM", "EPERM"),
    ("openat", args(0, 0, 0o20200002, 0o600), "allow", "allow", "allow"),
    ("openat", args(0, 0, 0o20200002, 0o2700), "EPERM", "EPERM", "EPERM"),
    ("openat2", args(), "ENOSYS", "ENOSYS", "ENOSYS"),
    ("creat", args(0, 0o644), "EPERM", "allow", "EPERM"),
    ("creat", args(0, 0o4644), "EPERM", "EPERM", "EPERM"),
    ("chmod", args(0, 0o755), "EPERM", "allow", "EPERM"),
    ("chmod", args(0, 0o4755), "EPERM", "EPERM", "EPERM"),
    ("fchmodat", args(0, 0, 0o2755), "EPERM", "EPERM", "EPERM"),
    ("mknodat", args(), "EPERM", "EPERM", "EPERM"),
    ("mknodat", args(0, 0, 0o104755), "EPERM", "EPERM", "EPERM"),
    ("mknod", args(0, 0o104755), "EPERM", "EPERM", "EPERM"),
    ("preadv2", args(0, 0, 0, 0, 0, 0), "allow", "allow", "allow"),
    ("preadv2", args(0, 0, 0, 0, 0, 1), "allow", "allow", "allow"),
    ("preadv2", args(0, 0, 0, 0, 0, 8), "EPERM", "EPERM", "EPERM"),
    ("preadv2", args(0, 0, 0, 0, 0, 9 | 1 << 32), "EPERM", "EPERM", "EPERM"),
    ("preadv2", args(0, 0, 0, 0, 0, 0x80), "EPERM", "EPERM", "EPERM"),
    ("pwritev2", args(0, 0, 0, 0, 0, 0), "allow", "allow", "allow"),
    ("pwritev2", args(0, 0, 0, 0, 0, 0x17), "allow", "allow", "allow"),
    ("pwritev2", args(0, 0, 0, 0, 0, 8), "EPERM", "EPERM", "EPERM"),
    ("pwritev2", args(0, 0, 0, 0, 0, 0x20), "EPERM", "EPERM", "EPERM"),
    ("pwritev2", args(0, 0, 0, 0, 0, 0x80000000), "EPERM", "EPERM", "EPERM"),
    *(("fadvise64", args(0, 0, 0, n), *["allow"] * 3) for n in (0, 1, 2, 3, 5)),
    ("fadvise64", args(0, 0, 0, 4), "EPERM", "EPERM", "EPERM"),
    ("fadvise64", args(0, 0, 0, 4 | 1 << 32), "EPERM", "EPERM", "EPERM"),
    ("mincore", args(), "EPERM", "EPERM", "EPERM"),
    ("cachestat", args(), "EPERM", "EPERM", "EPERM"),
    ("flock", args(), "ENOLCK", "ENOLCK", "ENOLCK"),
    ("fcntl", args(1, 6), "EPERM", "allow", "EPERM"),
    ("fcntl", args(1, 1031), "EPERM", "EPERM", "EPERM"),
    ("fcntl", args(1, 1026), "EPERM", "EPERM", "EPERM"),
    ("fcntl", args(1, 1024), "EPERM", "EPERM", "EPERM"),
    ("ioctl", args(0, 0x5401), "allow", "allow", "allow"),
    ("ioctl", args(0, 0x5412), "EPERM", "EPERM", "EPERM"),
    ("ioctl", args(0, 0x541C), "EPERM", "EPERM", "EPERM"),
    ("ioctl", args(0, 0x5412 | 1 << 32), "EPERM", "EPERM", "EPERM"),
    ("socket", args(1, 1), "EACCES", "EACCES", "EACCES"),
    ("socket", args(2, 1), "EACCES", "EACCES", "EACCES"),
    ("socketpair", args(1, 0x80801), "EACCES", "allow", "EACCES"),
    ("socketpair", args(1, 2), "EACCES", "EPERM", "EACCES"),
    ("socketpair", args(2, 1), "EACCES", "EPERM", "EACCES"),
    ("connect", args(), "EACCES", "EACCES", "EACCES"),
    *(
        ("getsockopt", args(3, 1, option), *["allow"] * 3)
        for option in (2, 3, 4, 7, 8, 13, 20, 21, 30, 38, 39)
    ),
    *(
        ("getsockopt", args(3, 1, option), *["EPERM"] * 3)
        for option in (0, 17, 25, 31, 57, 59, 77, 77 | 1 << 32)
    ),
    ("getsockopt", args(3, 6, 3), "EPERM", "EPERM", "EPERM"),
    ("mmap", args(0, 0, 3, 0x22), "allow", "allow", "allow"),
    ("mmap", args(0, 0, 3, 0x40022), "EPERM", "EPERM", "EPERM"),
    ("memfd_create", args(0, 1), "EPERM", "allow", "EPERM"),
    ("memfd_create", args(0, 4), "EPERM", "EPERM", "EPERM"),
    ("madvise", args(0, 0, 4), "allow", "allow", "allow"),
    ("madvise", args(0, 0, 12), "EPERM", "EPERM", "EPERM"),
    ("prlimit64", args(0, 7), "allow", "allow", "allow"),
    ("prlimit64", args(1, 7), "EPERM", "EPERM", "EPERM"),
    ("sched_setaffinity", args(1), "EPERM", "EPERM", "EPERM"),
    ("setpriority", args(0, 0, 5), "allow", "allow", "allow"),
    ("setpriority", args(0, 1, 5), "EPERM", "EPERM", "EPERM"),
    ("setpriority", args(2, 0, 5), "EPERM", "EPERM", "EPERM"),
    ("prctl", args(15), "allow", "allow", "allow"),
    ("prctl", args(4, 1), "EPERM", "EPERM", "EPERM"),
    ("prctl", args(36), "EPERM", "EPERM", "EPERM"),
    ("personality", args(0xFFFFFFFF), "allow", "allow", "allow"),
    ("personality", args(0x40000), "EPERM", "EPERM", "EPERM"),
    ("seccomp", args(1), "EPERM", "EPERM", "EPERM"),
    ("io_uring_setup", args(), "ENOSYS", "ENOSYS", "ENOSYS"),
    ("inotify_init1", args(), "ENOSYS", "ENOSYS", "ENOSYS"),
    ("clock_settime", args(), "EPERM", "EPERM", "EPERM"),
    ("shmget", args(), "ENOSYS", "ENOSYS", "ENOSYS"),
    ("mseal", args(), "ENOSYS", "ENOSYS", "ENOSYS"),
    ("ptrace", args(), "violation", "violation", "violation"),
    ("mount", args(), "violation", "violation", "violation"),
    ("unshare", args(0x10000000), "violation", "violation", "violation"),
    ("listxattr", args(), "allow", "allow", "EOPNOTSUPP"),
]


@pytest.mark.parametrize(("call", "values", "base", "python", "compute"), ANSWERS)
def test_what_the_shipped_policies_say(
    call: str, values: tuple[int, ...], base: str, python: str, compute: str
) -> None:
    said = [load_policy(name).answer(call, values) for name in ("base", "python", "compute")]
    assert said == [base, python, compute]


def test_files_and_rights_of_the_shipped_policies() -> None:
    assert dict.fromkeys(load_policy("base").landlock) == {("/", "read"): None, **_null()}
    python = load_policy("python").landlock
    assert ("/", "read") in python
    assert ("@mounts", "write") in python
    assert {path for path, right in python if right == "write"} >= {"/tmp", "/work", "/dev/shm"}
    compute = load_policy("compute").landlock
    assert ("/", "read") not in compute
    assert ("@interpreter", "read") in compute
    assert [path for path, right in compute if right == "write"] == ["/dev/null"]
    for name in ("base", "python", "compute"):
        assert not [path for path, right in load_policy(name).landlock if right == "execute"]
        assert load_policy(name).mdwe


def _null() -> dict[tuple[str, str], None]:
    return {("/dev/null", "write"): None}


def test_a_file_extends_a_shipped_policy_call_by_call(write: Write) -> None:
    path = write(
        TOP
        + 'description = "d"\ndefault = "EACCES"\n'
        + '[[allow]]\ncalls = ["flock"]\nreason = "own files only"\n'
        + '[[refuse]]\ncalls = ["uname", "personality"]\nerrno = "EIO"\nreason = "secret"\n'
        + '[[files]]\nright = "write"\npaths = []\nreason = "none"\n'
        + '[process]\nmdwe = false\nreason = "cffi callbacks"\n'
    )
    policy = load_policy(path)
    assert (policy.name, policy.description, policy.default) == ("mine", "d", "EACCES")
    assert [policy.answer(c) for c in ("flock", "uname", "personality")] == ["allow", "EIO", "EIO"]
    assert policy.answer("read") == "allow"
    assert policy.answer("ptrace") == "violation"
    assert policy.answer("mseal") == "EACCES"
    assert not policy.mdwe
    assert policy.landlock == (("/", "read"),)
    assert load_policy(pathlib.Path(path)) == policy
    assert load_policy(policy) is policy
    assert load_policy(load_policy("base")) is load_policy("base")


def test_a_file_may_stand_alone(write: Write) -> None:
    path = write('schema = 1\nname = "bare"\n[[allow]]\ncalls = ["write"]\nreason = "to say so"\n')
    policy = load_policy(path)
    assert policy.answer("write") == "allow"
    assert policy.answer("read") == "ENOSYS"
    assert policy.landlock == ()
    assert policy.mdwe


def test_numbers_are_written_in_every_way(write: Write) -> None:
    path = write(
        TOP
        + '[[allow]]\nreason = "r"\ncalls = ["socket"]\nwhen = [\n'
        + '  { arg = 0, in = ["AF_UNIX", 0x2] },\n  { arg = 1, mask = 15, equals = 1 },\n'
        + '  { arg = 2, mask = ["S_ISUID", 0o2000], equals = ["S_ISUID"] },\n]\n'
        + '[[allow]]\nreason = "s"\ncalls = ["socket"]\nwhen = [{ arg = 0, equals = 0xa }]\n'
    )
    policy = load_policy(path)
    ok = [args(1, 0x801, 0o4000), args(2, 1, 0o4777), args(10, 7, 7), args(10 | 1 << 35, 7)]
    no = [args(1, 2, 0o4000), args(1, 1, 0o2000), args(1, 1, 0o6000), args(4, 1, 0o4000)]
    assert [policy.answer("socket", a) for a in ok] == ["allow"] * 4
    assert [policy.answer("socket", a) for a in no] == ["EPERM"] * 4


def rule(text: str) -> str:
    return f'{TOP}[[allow]]\ncalls = ["read"]\nreason = "r"\n\n{text}\n'


# what is wrong, the text, its line, what the message says
BAD_FILES = [
    (TOP + "colour = 1\n", 4, "unknown key 'colour'"),
    (rule('[[allow]]\ncalls = ["raed"]\nreason = "r"'), 9, "unknown system call 'raed'"),
    (rule('[[allow]]\ncalls = ["lseek", 5]\nreason = "r"'), 9, "names of system calls"),
    (rule('[[allow]]\ncalls = "lseek"\nreason = "r"'), 9, "calls is a list"),
    (rule('[[allow]]\nreason = "r"'), 8, "a rule needs system calls"),
    (rule('[[allow]]\ncalls = ["lseek"]'), 9, "the rule for lseek needs a reason"),
    (rule('[[allow]]\ncalls = ["lseek"]\nreason = " "'), 9, "needs a reason"),
    (rule('[[permit]]\ncalls = ["lseek"]\nreason = "r"'), 8, "unknown key 'permit'"),
    (rule('[[allow]]\ncalls = ["lseek"]\nreason = "r"\nerrno = "EIO"'), 11, "unknown key 'errno'"),
    (rule('[[refuse]]\ncalls = ["lseek"]\nreason = "r"\nerrno = "EFOO"'), 11, "'EFOO'"),
    (rule('[[refuse]]\ncalls = ["lseek"]\nreason = "r"'), 8, "unknown errno ''"),
    (
        rule('[[allow]]\ncalls = ["ioctl"]\nreason = "r"\nwhen = [{ arg = 6, equals = 1 }]'),
        11,
        "0 to 5",
    ),
    (
        rule('[[allow]]\ncalls = ["ioctl"]\nreason = "r"\nwhen = [{ arg = 1, equals = "TCFOO" }]'),
        11,
        "unknown constant 'TCFOO'",
    ),
    (
        rule('[[allow]]\ncalls = ["ioctl"]\nreason = "r"\nwhen = [{ arg = 1, least = 1 }]'),
        11,
        "unknown key 'least'",
    ),
    (
        rule(
            '[[allow]]\ncalls = ["ioctl"]\nreason = "r"\nwhen = [{ arg = 1, equals = 1, in = [] }]'
        ),
        11,
        "one of equals and in",
    ),
    (
        rule('[[allow]]\ncalls = ["ioctl"]\nreason = "r"\nwhen = [{ arg = 1, in = [] }]'),
        11,
        "one value",
    ),
    (
        rule('[[allow]]\ncalls = ["ioctl"]\nreason = "r"\nwhen = [{ arg = 1, equals = -1 }]'),
        11,
        "32 bits",
    ),
    (
        rule(
            '[[allow]]\ncalls = ["ioctl"]\nreason = "r"\nwhen = [{ arg = 1, mask = 1, equals = 2 }]'
        ),
        11,
        "outside the mask",
    ),
    (
        rule(
            '[[allow]]\ncalls = ["ioctl"]\nreason = "r"\n'
            "when = [{ arg = 1, equals = 2 }, { arg = 1, equals = 3 }]"
        ),
        11,
        "two conditions on one argument",
    ),
    (
        rule('[[refuse]]\ncalls = ["read"]\nerrno = "EIO"\nreason = "r"'),
        5,
        "conflicting rules for read",
    ),
    (rule('[[allow]]\ncalls = ["read"]\nreason = "again"'), 5, "conflicting rules for read"),
    (rule('[[allow]]\ncalls = ["ptrace"]\nreason = "r"'), 9, "no policy may allow ptrace"),
    (rule('[[allow]]\ncalls = ["clone"]\nreason = "r"'), 9, "no policy may allow clone"),
    (
        rule('[[allow]]\ncalls = ["clone"]\nreason = "r"\nwhen = [{ arg = 1, equals = 0 }]'),
        9,
        "no policy may allow clone",
    ),
    *(
        (rule(f'[[allow]]\ncalls = ["{call}"]\nreason = "r"\n{when}'), 9, f"may allow {call} so")
        for call, when in (
            ("prctl", ""),
            ("prctl", 'when = [{ arg = 0, equals = "PR_SET_SECCOMP" }]'),
            ("prctl", 'when = [{ arg = 0, in = ["PR_SET_NAME", "PR_SET_DUMPABLE"] }]'),
            ("prctl", 'when = [{ arg = 0, equals = "PR_SET_SPECULATION_CTRL" }]'),
            ("prctl", "when = [{ arg = 0, mask = 0xf, equals = 15 }]"),
            ("prctl", "when = [{ arg = 1, equals = 15 }]"),
            ("socket", ""),
            ("socket", "when = [{ arg = 1, equals = 1 }]"),
            ("socket", 'when = [{ arg = 0, in = ["AF_INET", "AF_VSOCK"] }]'),
            ("socket", "when = [{ arg = 0, mask = 0x7, equals = 2 }]"),
            ("sched_setaffinity", ""),
            ("sched_setscheduler", "when = [{ arg = 0, in = [0, 1] }]"),
            ("sched_setparam", "when = [{ arg = 1, equals = 0 }]"),
            ("sched_setattr", "when = [{ arg = 0, mask = 1, equals = 0 }]"),
            ("setpriority", 'when = [{ arg = 0, equals = "PRIO_PROCESS" }]'),
            ("setpriority", "when = [{ arg = 0, equals = 2 }, { arg = 1, equals = 0 }]"),
            ("ioprio_set", "when = [{ arg = 1, equals = 0 }]"),
        )
    ),
    (rule('[[violation]]\ncalls = ["mmap"]\nreason = "r"'), 9, "building the jail needs it"),
    (rule('[[files]]\nright = "own"\npaths = []\nreason = "r"'), 9, "unknown right 'own'"),
    (rule('[[files]]\nright = "read"\npaths = ["a/b"]\nreason = "r"'), 10, "'a/b'"),
    (rule('[[files]]\nright = "read"\npaths = ["/a/../b"]\nreason = "r"'), 10, "'/a/../b'"),
    (rule('[[files]]\nright = "read"\npaths = ["@home"]\nreason = "r"'), 10, "'@home'"),
    (rule('[[files]]\nright = "read"\nreason = "r"'), 8, "files needs paths"),
    (rule('[process]\nmdwe = 1\nreason = "r"'), 9, "mdwe is true or false"),
    (rule("[process]\nmdwe = true"), 8, "process needs a reason"),
    ('schema = 1\nname = "m"\nextends = "bash"\n', 3, "extends unknown policy 'bash'"),
    ('schema = 2\nname = "m"\n', 1, "schema = 1 is required"),
    ('schema = 1\nname = "m"\ndefault = "ENO"\n', 3, "unknown errno 'ENO'"),
    ('schema = 1\nname = ""\n', 2, "a policy needs a name"),
    ('schema = 1\nname = "m"\nallow = 3\n', 3, "written [[allow]]"),
    ('schema = 1\nname = "m"\nnever = []\n', 3, "unknown key 'never'"),
]


@pytest.mark.parametrize(("text", "line", "says"), BAD_FILES)
def test_a_bad_file_is_named_with_its_line(write: Write, text: str, line: int, says: str) -> None:
    path = write(text)
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert says in str(caught.value)


def test_what_may_be_allowed_in_part_may(write: Write) -> None:
    forms = {
        "prctl": '{ arg = 0, in = ["PR_SET_NAME", "PR_SET_PDEATHSIG"] }',
        "socket": '{ arg = 0, equals = "AF_INET" }, { arg = 1, mask = 0xf, equals = 1 }',
        "sched_setscheduler": "{ arg = 0, equals = 0 }, { arg = 1, equals = 3 }",
        "setpriority": '{ arg = 0, equals = "PRIO_PROCESS" }, { arg = 1, equals = 0 }',
        "ioprio_set": '{ arg = 0, equals = "IOPRIO_WHO_PROCESS" }, { arg = 1, equals = 0 }',
    }
    rules = [
        f'[[allow]]\ncalls = ["{call}"]\nreason = "r"\nwhen = [{when}]\n'
        for call, when in forms.items()
    ]
    policy = load_policy(write(TOP + "".join(rules)))
    assert policy.answer("socket", args(2, 1)) == "allow"
    assert policy.answer("socket", args(40, 1)) == "EPERM"
    assert policy.answer("prctl", args(1, 9)) == "allow"
    assert policy.answer("prctl", args(22, 2)) == "EPERM"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('name = "m"\n', "schema"),
        ("schema = 1\n", "a policy needs a name"),
        ("schema = \n", "is not TOML: Invalid value (at line 1"),
        ("a = " + "[" * 5000, "is not TOML"),
        ("a = " + "9" * 5000, "is not TOML"),
        ("schema = 0x" + "f" * 5000 + '\nname = "m"\n', "schema = 1 is required"),
    ],
)
def test_a_bad_file_without_a_line(write: Write, text: str, says: str) -> None:
    path = write(text)
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    assert str(caught.value).startswith(path)
    assert says in str(caught.value)


def test_unknown_names_and_unreadable_files(tmp_path: pathlib.Path) -> None:
    for name in ("pyhton", "", "init", "denied", "kernel", "../base"):
        with pytest.raises(PolicyError, match="polic"):
            load_policy(name)
    with pytest.raises(PolicyError, match="No such file"):
        load_policy(tmp_path / "missing.toml")
    with pytest.raises(PolicyError, match="null"):
        load_policy("a\0b.toml")
    with pytest.raises(PolicyError, match="not int"):
        load_policy(3)  # type: ignore[arg-type]
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyError, match="utf-8"):
        load_policy(tmp_path / "bytes.toml")


def test_policies_made_in_code_are_checked_the_same() -> None:
    allow = Rule("allow", ("read", "write"), "r")
    policy = Policy("code", (allow,), files=(FileRule("read", ("/",), "r"),))
    assert policy.answer("read") == "allow"
    for make in (
        lambda: Rule("allow", ("raed",), "r"),
        lambda: Rule("allow", "read", "r"),  # type: ignore[arg-type]
        lambda: Rule("allow", (), "r"),
        lambda: Rule("allow", ("read",), ""),
        lambda: Rule("permit", ("read",), "r"),  # type: ignore[arg-type]
        lambda: Rule("refuse", ("read",), "r"),
        lambda: Rule("violation", ("read",), "r", (Condition(0, (1,)),)),
        lambda: Condition(True, (1,)),
        lambda: Condition(0, (1, 1)),
        lambda: Condition(0, (1 << 32,)),
        lambda: FileRule("read", ("relative",), "r"),
        lambda: Policy("", ()),
        lambda: Policy("m", (), default="NOPE"),
        lambda: Policy("m", (), mdwe=1),  # type: ignore[arg-type]
        lambda: Policy("m", (allow, allow)),
        lambda: Policy("m", (Rule("allow", ("bpf",), "r"),)),
        lambda: Policy("m", (Rule("allow", ("prctl",), "r"),)),
        lambda: Policy("m", (Rule("allow", ("socket",), "r", (Condition(0, (40,)),)),)),
        lambda: Policy("m", (Rule("never", ("bpf",), "r"),)),
    ):
        with pytest.raises(PolicyError):
            make()


def test_policies_are_values() -> None:
    one = Policy("v", (Rule("allow", ("read",), "r"),))
    two = Policy("v", [Rule("allow", ["read"], "r")])  # type: ignore[arg-type]
    assert one == two
    assert hash(one) == hash(two)
