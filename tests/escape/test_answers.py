"""J: what a guest answers means only what the host saw to be so."""

from __future__ import annotations

import math
import pickle
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from sandbox import GuestError, Limits, ResultError, Sandbox
from tests.probes import answers
from tests.probes.answers import PLACEHOLDER

Make = Callable[..., Sandbox]

NUMBER = int.from_bytes(PLACEHOLDER[1:], "big")
CAP = 1 << 20  # Limits.result of these jails


def framed(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content


def frame(kind: object, body: object, *, version: object = 1, number: object = NUMBER) -> bytes:
    return framed(msgpack.packb([version, kind, number, body]))


def encoded(document: bytes) -> bytes:
    """The encoding of a value: a length, then the document."""
    return len(document).to_bytes(8, "big") + document


FORGED = frame("value", encoded(b"\x2a"))  # 42

NO_FRAME = {
    "J04-length-of-2-GiB": b"\x80\0\0\0",
    "J04-length-of-4-GiB": b"\xff\xff\xff\xff",
    "J04-length-0": b"\0\0\0\0",
    "J04-length-just-above": ((1 << 20) + 1).to_bytes(4, "big"),
    "J05-array-of-4-G": framed(b"\xdd\xff\xff\xff\xff"),
    "J05-map-of-4-G": framed(b"\xdf\xff\xff\xff\xff"),
    "J05-text-of-4-G": framed(b"\x94\x01\xdb\xff\xff\xff\xff"),
    "J05-bytes-of-4-G": framed(b"\x94\x01\xc6\xff\xff\xff\xff"),
    "J06-arrays-in-arrays": framed(b"\x91" * 500_000),
    "J06-maps-in-maps": framed(b"\x81\x01" * 200_000),
    "J07-extension": frame("value", msgpack.ExtType(5, b"x")),
    "J07-time-out-of-range": framed(
        b"\x94\x01\xa5value" + PLACEHOLDER + b"\xc7\x0c\xff" + b"\xff" * 12
    ),
    "J08-a-pickle-for-a-frame": framed(pickle.dumps(answers.Reduced())),
    "J12-two-answers": FORGED + FORGED,
    "J12-a-byte-too-many": FORGED + b"x",
    "J-no-frame-at-all": b"\x00\x00\x00\x05not a frame at all",
    "J-text-for-a-frame": b"HTTP/1.1 200 OK\r\n\r\n",
    "J-another-version": frame("value", encoded(b"\x2a"), version=2),
    "J-version-true": frame("value", encoded(b"\x2a"), version=True),
    "J-another-call": frame("value", encoded(b"\x2a"), number=NUMBER + 1),
    "J-a-negative-call": frame("value", encoded(b"\x2a"), number=-1),
    "J-an-unknown-kind": frame("ended", 0),
    "J-the-hosts-own-kind": frame("run", {"payload": b"", "result": 0}),
    "J-a-kind-that-is-no-text": frame(["value"], b""),
    "J-a-body-of-another-type": frame("value", 42),
    "J-raised-with-two-texts": frame("raised", ["ValueError", "x"]),
    "J-raised-with-bytes": frame("raised", [b"ValueError", b"x", b"y"]),
    "J-raised-too-long": frame("raised", ["ValueError", "x" * 70_000, ""]),
    "J-stored-nothing": frame("stored", 0),
    "J-stored-less-than-nothing": frame("stored", -1),
    "J-stored-more-than-may-be": frame("stored", CAP + 1),
    "J-stored-2-to-the-62": frame("stored", 1 << 62),
    "J-stored-true": frame("stored", True),
    "J-stored-garbage": frame("stored", 100),
    "J-stored-all-zeros": frame("stored", CAP),
}
NO_VALUE = {
    "empty": b"",
    "shorter-than-its-length": bytes(8),
    "longer-than-itself": b"\xff" * 8 + b"\x2a",
    "J05-array-of-4-G": encoded(b"\xdd\xff\xff\xff\xff"),
    "J05-array-of-8193": encoded(b"\xdc\x20\x01" + b"\xc0" * 8193),
    "J06-too-deep": encoded(b"\x91" * 2000 + b"\xc0"),
    "J07-unknown-extension": encoded(b"\xd4\x63\x00"),
    "J07-time": encoded(b"\xd6\xff\xff\xff\xff\xff"),
    "J08-a-pickle": encoded(pickle.dumps(answers.Reduced())),
    "J15-a-map": encoded(b"\x81\x01\x02"),
    "J15-text-that-is-no-utf-8": encoded(b"\xa2\xff\xfe"),
    "two-documents": encoded(b"\x2a\x2a"),
}


@pytest.mark.parametrize("data", NO_FRAME.values(), ids=NO_FRAME)
def test_j_bytes_that_are_no_answer_are_an_invalid_result(data: bytes, jail: Sandbox) -> None:
    outcome = jail.call(answers.speak, data, 0)
    assert outcome.status == "result_invalid", outcome.message
    assert outcome.value is None
    assert outcome.evidence["wire"]


@pytest.mark.parametrize("data", NO_VALUE.values(), ids=NO_VALUE)
@pytest.mark.parametrize("stored", [False, True], ids=["in-the-frame", "stored"])
def test_j_bytes_that_are_no_value_are_an_invalid_result(
    data: bytes, stored: bool, jail: Sandbox
) -> None:
    if stored:
        outcome = jail.call(answers.store_and_speak, data, frame("stored", len(data)))
    else:
        outcome = jail.call(answers.speak, frame("value", data), 0)
    assert outcome.status == "result_invalid", outcome.message
    assert outcome.evidence["wire"]


def test_j18_the_worst_a_forger_gets_is_a_value_of_its_own(jail: Sandbox) -> None:
    """The control of all the above: a well-formed frame, written past our code, counts."""
    outcome = jail.call(answers.speak, FORGED, 0)
    assert (outcome.status, outcome.value) == ("ok", 42)
    outcome = jail.call(answers.store_and_speak, encoded(b"\x2a"), frame("stored", 9))
    assert (outcome.status, outcome.value) == ("ok", 42)


def test_j18_an_answer_does_not_outweigh_the_end(jail: Sandbox) -> None:
    outcome = jail.call(answers.speak, FORGED, 3)
    assert (outcome.status, outcome.exit_code, outcome.value) == ("nonzero_exit", 3, None)
    outcome = jail.call(answers.speak_and_die, FORGED, signal.SIGKILL)
    assert (outcome.status, outcome.signal, outcome.value) == ("signaled", 9, None)


def test_j12_of_two_answers_none_counts(jail: Sandbox) -> None:
    assert jail.call(answers.speak_and_return, FORGED).status == "result_invalid"
    assert jail.call(answers.speak_from_a_child, FORGED).status == "result_invalid"


@pytest.mark.parametrize("size", [0, 1, 3, 4, len(FORGED) - 1])
def test_j09_part_of_an_answer_is_none(size: int, jail: Sandbox) -> None:
    outcome = jail.call(answers.speak, FORGED[:size], 0)
    assert outcome.status == "result_invalid"
    assert outcome.evidence["exit_code"] == 0


def test_j09_a_guest_that_stops_in_mid_answer_runs_out_of_time(
    make_sandbox: Make, small: Limits
) -> None:
    with make_sandbox(replace(small, wall_time=0.3)) as sandbox:
        assert sandbox.call(answers.speak_and_wait, FORGED[:9]).status == "wall_time_limit"


def test_j09_a_whole_answer_without_an_end_runs_out_of_time_too(
    make_sandbox: Make, small: Limits
) -> None:
    with make_sandbox(replace(small, wall_time=0.3)) as sandbox:
        outcome = sandbox.call(answers.speak_and_wait, FORGED)
        assert outcome.status in ("wall_time_limit", "result_invalid")


def test_j_a_guest_without_its_channel_is_not_ok(jail: Sandbox) -> None:
    outcome = jail.call(answers.close_result)
    assert outcome.status == "nonzero_exit"
    assert outcome.value is None


def test_j18_a_replaced_runtime_harms_its_own_call_alone(jail: Sandbox) -> None:
    assert jail.call(answers.replace_the_runtime).status != "internal_error"
    assert jail.run(divmod, 17, 5) == (3, 2)


# --- ends -----------------------------------------------------------------------------------------

CRASHES: list[tuple[Callable[..., Any], tuple[Any, ...], int]] = [
    (answers.read_null, (), signal.SIGSEGV),
    (answers.jump_to_null, (), signal.SIGSEGV),
    (answers.overflow_the_stack, (), signal.SIGSEGV),
    (answers.signal_oneself, (signal.SIGABRT,), signal.SIGABRT),
    (answers.signal_oneself, (signal.SIGKILL,), signal.SIGKILL),
    (answers.signal_oneself, (signal.SIGSYS,), signal.SIGSYS),
    (answers.signal_oneself, (signal.SIGTERM,), signal.SIGTERM),
    (answers.signal_oneself, (64,), 64),
]


@pytest.mark.parametrize(
    ("crash", "arguments", "number"),
    CRASHES,
    ids=[f"{crash.__name__}-{int(number)}" for crash, _, number in CRASHES],
)
def test_j19_a_crash_is_its_signal(
    crash: Callable[..., Any], arguments: tuple[Any, ...], number: int, jail: Sandbox
) -> None:
    outcome = jail.call(crash, *arguments)
    assert (outcome.status, outcome.signal) == ("signaled", number), outcome.message
    assert outcome.evidence["signal"] == number
    assert outcome.value is None


@pytest.mark.parametrize("status", [1, 3, 137, 255])
def test_j19_an_exit_is_its_status(status: int, jail: Sandbox) -> None:
    outcome = jail.call(answers.leave, status)
    assert (outcome.status, outcome.exit_code) == ("nonzero_exit", status)


def test_j19_an_exit_with_status_0_is_no_answer(jail: Sandbox) -> None:
    outcome = jail.call(answers.leave, 0)
    assert outcome.status == "result_invalid"
    assert outcome.evidence == {"exit_code": 0}


# --- exceptions -----------------------------------------------------------------------------------

STEERING = ["KeyboardInterrupt", "SystemExit", "GeneratorExit", "StopIteration", "BaseException"]


@pytest.mark.parametrize("name", [*STEERING, "StopAsyncIteration", "os.system", "__import__", ""])
def test_j_a_name_of_an_exception_does_not_steer_the_host(name: str, jail: Sandbox) -> None:
    with pytest.raises(GuestError) as caught:
        jail.run(answers.raise_named, name, "x")
    assert type(caught.value) is GuestError
    assert caught.value.type_name == name


def test_j_a_builtin_name_is_that_builtin_as_well(jail: Sandbox) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        jail.run(answers.raise_named, "ZeroDivisionError", "x")
    assert isinstance(caught.value, GuestError)


@pytest.mark.parametrize("value", [0, 3, "text", None])
def test_j_a_guest_that_exits_by_exception_does_not_end_the_host(
    value: object, jail: Sandbox
) -> None:
    with pytest.raises(GuestError) as caught:
        jail.run(answers.exit_by_exception, value)
    assert caught.value.type_name == "SystemExit"
    assert type(caught.value) is GuestError


def test_j_an_exception_that_cannot_be_told_is_one_all_the_same(jail: Sandbox) -> None:
    outcome = jail.call(answers.raise_untellable)
    assert outcome.status == "exception"
    assert outcome.error is not None
    assert outcome.error.type_name == "Untellable"


@pytest.mark.parametrize(
    ("raises", "arguments"),
    [
        (answers.raise_text_that_refuses, ()),
        (answers.raise_nameless, (None,)),
        (answers.raise_nameless, (5,)),
        *[
            (answers.raise_hiding, (attribute, value))
            for attribute in ("__cause__", "__context__", "__traceback__", "__notes__", "args")
            for value in (None, 5)
        ],
        (answers.raise_hiding, ("__suppress_context__", None)),
    ],
)
def test_j_a_class_that_misbehaves_does_not_hide_its_exception(
    raises: Callable[..., None], arguments: tuple[Any, ...], jail: Sandbox
) -> None:
    outcome = jail.call(raises, *arguments)
    assert outcome.status == "exception", outcome.message
    assert outcome.error is not None
    assert (outcome.error.type_name, outcome.error.message) == ("Odd", "the text")
    assert f"in {raises.__name__}" in outcome.error.traceback
    assert outcome.stdout == b"before\n"


def test_j_an_exception_is_told_however_few_frames_are_left(jail: Sandbox) -> None:
    outcome = jail.call(answers.raise_shallow)
    assert outcome.status == "exception", outcome.message
    assert outcome.stdout == b"before\n"


@pytest.mark.parametrize(
    ("raises", "arguments"),
    [
        (answers.raise_endless_chain, ()),
        (answers.raise_long, (10 << 20,)),
        (answers.raise_deep, (900,)),
    ],
    ids=["endless", "long", "deep"],
)
def test_j_what_is_told_of_an_exception_is_capped(
    raises: Callable[..., None], arguments: tuple[int, ...], jail: Sandbox
) -> None:
    outcome = jail.call(raises, *arguments)
    assert outcome.status == "exception", outcome.message
    assert outcome.error is not None
    assert outcome.error.type_name == "ValueError"
    assert len(outcome.error.message) <= 64 << 10
    assert len(outcome.error.traceback) <= 256 << 10


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31mred", "\u202eesrever", "a\rb\0"])
def test_j20_messages_hold_no_control_characters_of_the_guests(text: str, jail: Sandbox) -> None:
    outcome = jail.call(answers.raise_named, "Bad" + text.replace("\0", ""), text)
    assert outcome.status == "exception"
    assert outcome.error is not None
    assert outcome.error.message == text  # as data, whole
    assert outcome.message.isprintable()  # as a line for a reader


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guest", "where"),
    [
        (answers.reduced, "result['a'][1]: tests.probes.answers.Reduced"),
        (answers.posing_as_int, "result[0]: "),
        (answers.cyclic, "result[0]"),
    ],
    ids=["reduced", "posing-as-int", "cyclic"],
)
def test_j08_only_plain_values_travel(
    guest: Callable[[], object], where: str, jail: Sandbox
) -> None:
    with pytest.raises(ResultError) as caught:
        jail.run(guest)
    assert where in str(caught.value)
    assert caught.value.outcome is not None
    assert caught.value.outcome.status == "result_invalid"


def test_j06_depth_has_an_end(jail: Sandbox) -> None:
    assert jail.run(answers.nested, 90) == answers.nested(90)
    assert jail.call(answers.nested, 5000).status == "result_invalid"


def test_j_shared_values_count_as_often_as_they_stand_there(jail: Sandbox) -> None:
    outcome = jail.call(answers.doubling, 30)
    assert outcome.status == "result_too_large", outcome.message
    assert outcome.evidence["value"] == CAP


def test_j16_keys_that_collide_do_not_stop_the_host(jail: Sandbox) -> None:
    begun = time.monotonic()
    outcome = jail.call(answers.colliding, 3000)
    assert outcome.status == "result_invalid"
    assert time.monotonic() - begun < 2
    assert jail.run(answers.colliding, 5) == answers.colliding(5)


def test_j15_odd_values_arrive_as_they_are(jail: Sandbox) -> None:
    value, expected = jail.run(answers.odd_values), answers.odd_values()
    assert repr(value) == repr(expected)
    assert math.copysign(1, value[3]) == -1  # type: ignore[arg-type]
