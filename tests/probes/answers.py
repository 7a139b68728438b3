"""Guests that do not answer as they should: forged frames, crashes, false names, odd values."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
import time
from typing import Any

from tests.probes.raw import machine_code

# Stands in a forged frame where the call's number belongs: msgpack's uint32 0x5a5a5a5a.
PLACEHOLDER = b"\xce\x5a\x5a\x5a\x5a"
_RESULT, _STORE = 3, 4


def own_number() -> int:
    """This call's number, from the locals of whoever called us: nothing in a process is secret
    from the code in it."""
    frame: Any = sys._getframe()
    while frame is not None:
        number = frame.f_locals.get("number")
        if isinstance(number, int) and frame.f_code.co_name == "main":
            return number
        frame = frame.f_back
    raise LookupError("no frame of ours above")


def speak(frame: bytes, status: int) -> None:
    """Write to the result channel past our own code, and end."""
    data = frame.replace(PLACEHOLDER, b"\xce" + own_number().to_bytes(4, "big"))
    while data:
        data = data[os.write(_RESULT, data) :]
    os._exit(status)


def speak_and_wait(frame: bytes) -> None:
    """Stop in mid-frame."""
    os.write(_RESULT, frame)
    time.sleep(60)


def speak_and_return(frame: bytes) -> int:
    """First a forged answer, then the honest one."""
    os.write(_RESULT, frame.replace(PLACEHOLDER, b"\xce" + own_number().to_bytes(4, "big")))
    return 7


def speak_and_die(frame: bytes, number: int) -> None:
    os.write(_RESULT, frame.replace(PLACEHOLDER, b"\xce" + own_number().to_bytes(4, "big")))
    os.kill(os.getpid(), number)


def speak_from_a_child(frame: bytes) -> int:
    """The child forges, the parent answers."""
    if os.fork() == 0:
        speak(frame, 0)
    os.wait()
    return 7


def store_and_speak(content: bytes, frame: bytes) -> None:
    os.pwrite(_STORE, content, 0)
    speak(frame, 0)


def close_result() -> int:
    os.close(_RESULT)
    return 1


def replace_the_runtime() -> int:
    """Everything our own code in this process would use, found by the frames that called this."""
    frame = sys._getframe()
    while "wire" not in frame.f_globals:
        assert frame.f_back is not None
        frame = frame.f_back
    os.write = lambda descriptor, data: memoryview(data).nbytes
    frame.f_globals["wire"].msgpack.packb = lambda *arguments, **options: b"mine"
    return 1


# --- ends -----------------------------------------------------------------------------------------


def read_null() -> None:
    ctypes.string_at(0)


def jump_to_null() -> None:
    ctypes.CFUNCTYPE(None)(1)()


def overflow_the_stack() -> None:
    """By a call instruction of x86_64 that calls itself."""
    machine_code(b"\xe8\xfb\xff\xff\xff")()


def signal_oneself(number: int) -> None:
    signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
    os.kill(os.getpid(), number)
    time.sleep(60)


def leave(status: int) -> None:
    os._exit(status)


def exit_by_exception(value: object) -> None:
    raise SystemExit(value)


# --- exceptions -----------------------------------------------------------------------------------


def raise_named(name: str, message: str) -> None:
    """An exception of a class made here, under any name."""
    raise type(name, (Exception,), {})(message)


def raise_untellable() -> None:
    class Untellable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

        __repr__ = __str__

    raise Untellable


def _refuse(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no")


def raise_text_that_refuses() -> None:
    """Its text is of a class whose methods all raise."""

    refused = ("encode", "split", "__len__", "__getitem__", "__format__", "__eq__")
    text: Any = type("Text", (str,), dict.fromkeys(refused, _refuse))

    class Odd(Exception):
        def __str__(self) -> Any:
            return text("the text")

    print("before")
    raise Odd


def raise_nameless(name: object) -> None:
    """Its class answers for its name with what it was given, or with an exception."""

    meta: Any = type("Meta", (type,), {"__name__": name or property(_refuse)})
    print("before")
    raise meta("Odd", (Exception,), {})("the text")


def raise_hiding(attribute: str, value: object) -> None:
    """Its class hides an attribute that all exceptions have."""
    print("before")
    raise type("Odd", (Exception,), {attribute: value or property(_refuse)})("the text")


def raise_shallow() -> None:
    """With hardly a frame left for whoever tells of it."""
    print("before")
    for limit in range(1, 200):
        try:
            sys.setrecursionlimit(limit)
            break
        except RecursionError:
            pass
    raise type("Odd", (Exception,), {})("the text")


def raise_endless_chain() -> None:
    """Causes in a circle."""
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def raise_long(length: int) -> None:
    raise ValueError("x" * length)


def raise_deep(depth: int) -> None:
    if depth:
        raise_deep(depth - 1)
    raise ValueError("deep")


# --- values ---------------------------------------------------------------------------------------


class Reduced:
    """What a naive host would unpickle."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def reduced() -> object:
    return {"a": [1, Reduced()]}


def posing_as_int() -> object:
    """An int by inheritance, and by what its class says."""

    class Number(int):
        __qualname__ = "int"
        __module__ = "builtins"

    return [Number(3)]


def cyclic() -> object:
    value: list[object] = []
    value.append(value)
    return value


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def doubling(levels: int) -> object:
    """2**levels items by reference."""
    value: object = "x" * 100
    for _ in range(levels):
        value = [value, value]
    return value


def colliding(count: int) -> object:
    """Keys of one hash: hash(n * (2**61 - 1)) is 0."""
    return {n * (2**61 - 1): None for n in range(1, count)}


def odd_values() -> list[object]:
    return [
        "\ud800",
        "\0",
        "\x1b[31m",
        -0.0,
        math.nan,
        math.inf,
        -(10**4000),
        {math.nan: 1},
        b"\xff",
    ]
