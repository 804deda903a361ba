"""What a child of fork can and can't do: ``fork_client.py NAME`` runs one scenario and prints what the test compares.

Each scenario runs in a process of its own, because pytest's process has threads that a fork would leave behind.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

import nif_lab
from nif_lab.errors import NifError, NifLabError, NifValueError, OwnershipError

#: A child that waits for a lock is ended by SIGALRM, and the scenario fails.
PATIENCE = 20


def in_child(work: Callable[[], Any]) -> Any:
    """Return what ``work`` returns in a child by fork; it must be JSON."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(PATIENCE)
        try:
            os.write(writer, json.dumps(work()).encode())
        except BaseException as error:
            os.write(writer, json.dumps(f"{type(error).__name__}: {error}").encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        answer = told.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with status {status}"
    return json.loads(answer)


def refusal(work: Callable[[], Any]) -> list[str]:
    """Return the class and the words of the error that ``work`` raises."""
    try:
        work()
    except NifLabError as error:
        return [type(error).__name__, str(error)]
    return ["nothing", ""]


def pool() -> Any:
    """Results of a fork Pool, with a Lab that was used before."""
    lab = nif_lab.Lab(["rust", "zig", "nim"])
    for backend in (lab.rust, lab.zig, lab.nim):
        kept = [backend.transpose(np.zeros((50, 60))) for _ in range(3)]
        del kept
    global task  # noqa: PLW0603  (a Pool finds its function by name)

    def task(number: int) -> bool:
        x = np.full((50, 60), float(number))
        for _ in range(50):
            for backend in (lab.rust, lab.zig, lab.nim):
                y = backend.transpose(x)
                if not (y.shape == (60, 50) and (y == number).all()):
                    return False
        return True

    task.__qualname__ = "task"
    with multiprocessing.get_context("fork").Pool(2) as workers:
        return workers.map(task, range(8), chunksize=1)


def arrays() -> Any:
    """Nothing that a child does to inherited arrays, or to new ones, reaches its parent."""
    lab = nif_lab.Lab(["rust"])
    live = lab.memory.zeros(1000)
    live[:] = 1
    freed = lab.memory.empty(500)
    del freed  # kept for the next array of that size
    result = lab.rust.transpose(np.ones((20, 30)))

    def child() -> list[bool]:
        nonlocal live
        address = live.ctypes.data
        seen = bool((live == 1).all())
        live[:] = 2  # a copy of the parent's pages
        del live
        gc.collect()
        mine = lab.memory.empty(1000)
        mine[:] = 3
        other = lab.memory.zeros(500)
        other += 4
        result[:] = 5
        own = lab.rust.transpose(np.full((20, 30), 6.0))
        return [seen, mine.ctypes.data != address, bool((own == 6).all()), bool((other == 4).all())]

    told = in_child(child)
    again = lab.memory.zeros(500)
    return [told, bool((live == 1).all()), bool((result == 1).all()), bool((again == 0).all())]


def buffers() -> Any:
    """An inherited buffer is read; writing and releasing it are refused. The child's own work."""
    lab = nif_lab.Lab(["rust"])
    buffer = lab.memory.allocate(8, "f8", languages=["rust", "python"])
    buffer[:] = 1

    def child() -> list[Any]:
        def store() -> None:
            buffer[0] = 2

        own = lab.memory.allocate(8, "f8", languages=["zig"])
        own[:] = 7
        return [
            lab.rust.sum(buffer),
            refusal(store),
            refusal(lambda: buffer.release("rust")),
            refusal(lambda: lab.rust.axpy(1.0, np.ones(8), buffer)),
            lab.rust.sum(own),
            [pool.active for pool in lab.memory.metrics().pools][:1],
            "forked" in repr(buffer),
        ]

    told = in_child(child)
    return [told, buffer.owners, float(np.asarray(buffer).sum())]


def bound() -> Any:
    """A runtime that its parent started says so, whichever thread its calls run on."""
    lab = nif_lab.Lab(["rust", "julia"], lane="direct")
    lab.julia.add(1, 2)
    told = in_child(
        lambda: [
            *(refusal(lambda: lab.julia.add(1, 2)) for _ in range(2)),
            ["Lab", nif_lab.Lab(["julia"], lane="direct").julia.reason],
        ]
    )
    return [told, lab.julia.add(3, 4)]


def busy() -> Any:
    """Forks beside threads that allocate, collect and copy without the GIL: no child waits for their locks."""
    lab = nif_lab.Lab(["rust"])
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            buffers = [lab.memory.allocate(1000, "f8", languages=["rust"]) for _ in range(5)]
            del buffers
            lab.memory.collect()
            lab.memory.trim()
            lab.memory.metrics()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()

    def child() -> float:
        x = lab.memory.zeros(1000)
        x += 1
        lab.memory.collect()
        lab.memory.metrics()
        return float(lab.rust.dot(x, x))

    try:
        return [in_child(child) for _ in range(20)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def grandchild() -> Any:
    """A child of a child has memory of its own again."""
    lab = nif_lab.Lab(["rust"])

    def child() -> list[Any]:
        mine = lab.memory.zeros(100)
        mine[:] = 1

        def inner() -> list[Any]:
            seen = float(mine.sum())
            mine[:] = 9
            return [seen, float(lab.rust.transpose(np.ones((3, 4))).sum())]

        return [in_child(inner), float(mine.sum())]

    return in_child(child)


if __name__ == "__main__":
    assert {NifError, NifValueError, OwnershipError}  # what the refusals are
    print(json.dumps(globals()[sys.argv[1]]()))
