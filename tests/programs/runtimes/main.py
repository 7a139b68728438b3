"""For CPython and PyPy."""

import sys
import threading


def sort() -> None:
    x, total, numbers = 42, 0, []
    for _ in range(1000000):
        x = x * 16807 % 2147483647
        numbers.append(x)
    numbers.sort()
    for number in numbers:
        total = (total * 31 + number) % 1000000007
    print(total)


def threads(count: int) -> None:
    all_here = threading.Barrier(count)
    squares: list[int] = []

    def square(number: int) -> None:
        all_here.wait()
        squares.append(number * number)

    started = []
    for number in range(1, count + 1):
        thread = threading.Thread(target=square, args=(number,), daemon=True)
        thread.start()
        started.append(thread)
    for thread in started:
        thread.join()
    print(sum(squares))


def garbage() -> None:
    """Rings, which reference counts do not free."""
    kept: list[object] = [None] * 4
    for turn in range(200):
        chain: list[object] = []
        first = chain
        for _ in range(10000):
            chain = [chain, None]
        first.append(chain)
        kept[turn % 4] = chain
    print("collected")


def bomb() -> None:
    everything = []
    while True:
        everything.append(bytearray(b"x") * (1 << 20))


what, count = sys.argv[1], int([*sys.argv, "0"][2])
if what == "sort":
    sort()
elif what == "threads":
    threads(count)
elif what == "garbage":
    garbage()
elif what == "bomb":
    bomb()
elif what == "exit":
    sys.exit(count)
elif what == "throw":
    raise RuntimeError("boom")
else:
    print("looping", flush=True)
    while True:
        pass
