"""Threads, event loops, applications with threads and numpy, and applications that fork."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from sandbox import Cancelled, ClosedError, Limits, Sandbox
from tests.lifecycle.apps import App
from tests.lifecycle.traces import Traces, expect_no_more_than, until

Make = Callable[..., Sandbox]


def square(number: int) -> list[int]:
    with open("/work/last", "w") as file:
        file.write(str(number))
    return [number * number, os.getpid()]


def wait_for(path: str) -> str:
    while not os.path.exists(path):
        time.sleep(0.001)
    return "there"


def mark_and_sleep() -> None:
    open("/work/started", "w").close()
    time.sleep(1000)


# --- threads ----------------------------------------------------------------------------------------


def test_many_threads_share_one_sandbox(shared: Sandbox) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: shared.run(square, n), range(40)))
    assert [answer[0] for answer in answers] == [n * n for n in range(40)]


def test_many_threads_each_with_a_sandbox(make_sandbox: Make, before: Traces) -> None:
    together = threading.Barrier(6, timeout=60)

    def work(number: int) -> str:
        with make_sandbox() as sandbox:
            together.wait()
            assert [sandbox.run(square, n)[0] for n in range(5)] == [0, 1, 4, 9, 16]
            sandbox.run(square, number)
            together.wait()
            return sandbox.run(lambda: open("/work/last").read())

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(6))) == [str(number) for number in range(6)]
    expect_no_more_than(before)


def test_sandboxes_of_one_thread_run_side_by_side(make_sandbox: Make) -> None:
    with make_sandbox() as one, make_sandbox() as two:
        answers = [each.run(square, n)[0] for n in range(3) for each in (one, two)]
        jails = [each.call(int).isolation.namespaces for each in (one, two)]
    assert answers == [0, 0, 1, 1, 4, 4]
    assert not set(jails[0].values()) & set(jails[1].values())


def test_an_endless_call_holds_up_no_other_sandbox(make_sandbox: Make) -> None:
    with make_sandbox(Limits(wall_time=300)) as busy, make_sandbox() as free:
        thread = threading.Thread(target=busy.call, args=(mark_and_sleep,))
        thread.start()
        assert free.run(square, 3)[0] == 9
        assert thread.is_alive()
        busy.close()
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.spares("killed_forks")
def test_closing_from_another_thread_cancels_the_call(make_sandbox: Make, before: Traces) -> None:
    sandbox = make_sandbox(Limits(wall_time=300)).__enter__()
    with ThreadPoolExecutor(2) as pool:
        outcome = pool.submit(sandbox.call, mark_and_sleep)
        waiting = pool.submit(sandbox.call, square, 1)
        until(lambda: sandbox._lock.locked(), "the start of the call")
        sandbox.close()
        assert outcome.result(60).status == "cancelled"
        with pytest.raises(ClosedError):
            waiting.result(60)
    expect_no_more_than(before)


@pytest.mark.spares("killed_forks")
def test_run_raises_cancelled(make_sandbox: Make) -> None:
    sandbox = make_sandbox(Limits(wall_time=300)).__enter__()
    with ThreadPoolExecutor(1) as pool:
        value = pool.submit(sandbox.run, mark_and_sleep)
        until(lambda: sandbox._lock.locked(), "the start of the call")
        sandbox.close()
        with pytest.raises(Cancelled):
            value.result(60)


# --- an event loop ----------------------------------------------------------------------------------


def test_asyncio_goes_on_while_guests_run(make_sandbox: Make) -> None:
    async def one(number: int) -> int:
        with make_sandbox() as sandbox:
            squared = await asyncio.to_thread(sandbox.run, square, number)
        return squared[0]

    async def main() -> tuple[list[int], int]:
        ticks = 0
        calls = asyncio.gather(*(one(number) for number in range(8)))
        while not calls.done():
            await asyncio.sleep(0)
            ticks += 1
        return await calls, ticks

    answers, ticks = asyncio.run(main())
    assert answers == [number * number for number in range(8)]
    assert ticks > 8


UVICORN = """
import asyncio, uvicorn
def square(number):
    return number * number
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("only http here")  # uvicorn then goes without a lifespan
    number = int(scope["query_string"])
    def run():
        with make() as s:
            return s.run(square, number)
    # Both ways: in a worker thread of the loop, and blocking it.
    value = await asyncio.to_thread(run) if number % 2 else run()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(value).encode()})
class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        tell(self.servers[0].sockets[0].getsockname()[1])
config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", ws="none")
with make() as s:
    tell([s.run(square, 3), lease()])
Server(config).run()
"""


def test_under_uvicorn(start_app: Callable[..., App]) -> None:
    app = start_app(UVICORN)
    squared, lease = app.heard()
    assert squared == 9
    url = f"http://127.0.0.1:{app.heard()}/?"

    def ask(number: int) -> int:
        with urllib.request.urlopen(f"{url}{number}", timeout=60) as answer:
            return int(answer.read())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(12))) == [number * number for number in range(12)]
    app.note(lease)
    app.kill(signal.SIGINT)
    assert app.status() in (0, -signal.SIGINT)
    app.leaves_nothing()


# --- applications -----------------------------------------------------------------------------------


def test_an_application_with_numpy_and_running_threads(start_app: Callable[..., App]) -> None:
    app = start_app("""
import numpy
stop = threading.Event()
def churn():
    while not stop.is_set():
        numpy.dot(numpy.ones((200, 200)), numpy.ones((200, 200)))
threads = [threading.Thread(target=churn) for _ in range(3)]
for thread in threads:
    thread.start()
with make() as s, make(preload=["numpy"]) as n:
    tell([s.run(lambda: sum(range(100))), n.run(lambda: int(numpy.arange(5).sum()))])
    tell(s.run(lambda: len(os.listdir("/proc/self/task"))))
stop.set()
""")
    assert app.heard() == [4950, 10]
    assert app.heard() == 1
    assert app.status() == 0


FORKED = """
s = make().__enter__()
tell(s.run(int, "1"))
child = os.fork()
if child == 0:
    try:
        s.run(int)
    except ClosedError as error:
        tell(str(error))
    s.close()
    with make() as own:
        tell(own.run(int, "2"))
    del s
    sys.exit(7)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
tell([status, s.run(int, "3"), s.call(int).status])
s.close()
"""


def test_a_forked_child_makes_its_own_and_leaves_its_parents_alone(
    start_app: Callable[..., App],
) -> None:
    app = start_app(FORKED)
    assert app.heard() == 1
    assert "forked from" in app.heard()
    assert app.heard() == 2
    assert app.heard() == [7, 3, "ok"]
    assert app.finished() == (0, "")


def test_a_child_forked_in_the_middle_of_a_call(start_app: Callable[..., App]) -> None:
    """By another thread; the child holds copies of all that the call uses."""
    app = start_app("""
import warnings; warnings.simplefilter("ignore")
s = make(LONG, mounts=SHOWN).__enter__()
def call():
    tell(s.call(mark_and_sleep).status)
thread = threading.Thread(target=call)
thread.start()
sys.stdin.read(1)
child = os.fork()
if child == 0:
    with make() as own:
        tell(own.run(int, "4"))
    os._exit(0)
os.waitpid(child, 0)
s.close()
thread.join()
""")
    app.guest_runs()
    app.go_on()
    assert app.heard() == 4
    assert app.heard() == "cancelled"
    assert app.finished() == (0, "")
    app.leaves_nothing()


def test_a_child_that_outlives_its_parent_keeps_nothing_of_it_alive(
    start_app: Callable[..., App],
) -> None:
    app = start_app("""
s = make(LONG, mounts=SHOWN).__enter__()
child = os.fork()
if child == 0:
    tell(os.getpid())
    signal.pause()
s.run(mark_and_sleep)
""")
    child = app.heard()
    app.guest_runs()
    try:
        app.kill()
        assert app.status() != 0
        app.leaves_no_process(but=child)
    finally:
        os.kill(child, 9)
    app.leaves_nothing()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_of_multiprocessing(start_app: Callable[..., App], method: str) -> None:
    app = start_app(f"""
import multiprocessing
with make() as s:
    s.run(int)
    context = multiprocessing.get_context({method!r})
    with context.Pool(2) as pool:
        tell(pool.map(abs, [-1, -2]))
    tell(s.run(int, "5"))
""")
    assert app.heard() == [1, 2]
    assert app.heard() == 5
    assert app.finished() == (0, "")


def test_an_application_that_starts_programs(start_app: Callable[..., App]) -> None:
    """What it execs inherits none of our descriptors."""
    app = start_app("""
import subprocess
with make() as s:
    s.run(int)
    code = "import os; print(len(os.listdir('/proc/self/fd')))"
    told = subprocess.run([sys.executable, "-c", code], close_fds=False, capture_output=True)
    tell(int(told.stdout))
""")
    assert app.heard() == 4  # the three streams, and the listing's own
    assert app.status() == 0


def signals() -> tuple[int, set[int]]:
    ignored = {n for n in range(1, 32) if signal.getsignal(n) == signal.SIG_IGN}
    return len(signal.pthread_sigmask(signal.SIG_BLOCK, [])), ignored


def test_what_the_application_blocks_or_ignores_is_not_inherited(
    start_app: Callable[..., App],
) -> None:
    app = start_app(f"""
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGUSR1, signal.SIGTERM, signal.SIGCHLD}})
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
{inspect.getsource(signals)}
with make() as s:
    blocked, ignored = s.run(signals)
    tell([blocked, sorted(ignored)])
""")
    assert app.heard() == [0, sorted([signal.SIGPIPE, signal.SIGXFSZ])]
    assert app.status() == 0
