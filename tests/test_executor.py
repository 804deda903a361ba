"""`nif_lab.Executor`: workers that may die, for any Python callable."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, CancelledError, as_completed, wait
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tasks
from labs import new_lab

from nif_lab import Executor
from nif_lab.errors import CallTimeout, WorkerCrashed, WorkerUnavailable
from nif_lab.recovery import RecoveryPolicy
from nif_lab.travel import NotPortable

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds after which a test fails instead of waiting on.
LONG = 60.0


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with Executor(2, imports=["numpy"]) as executor:
        yield executor


def counted(executor: Executor, name: str) -> tuple[int, int, int]:
    it = executor.telemetry.snapshot().function("python", name)
    return it.calls, it.errors, it.recovered


def test_any_callable_runs_and_its_exception_comes_back(pool: Executor) -> None:
    offset = 10
    assert pool.submit(lambda x: x + offset, 5).result(LONG) == 15
    assert list(pool.map(tasks.double, range(5), timeout=LONG)) == [0, 2, 4, 6, 8]
    large = np.arange(300_000.0)
    assert np.array_equal(pool.submit(tasks.double, large).result(LONG), 2 * large)
    with pytest.raises(ZeroDivisionError) as caught:
        pool.submit(lambda: 1 / 0).result(LONG)
    assert "in <lambda>" in str(caught.value.__cause__)
    with pytest.raises(TypeError, match="can't be sent back"):
        pool.submit(threading.Lock).result(LONG)
    with pytest.raises(NotPortable):
        pool.submit(tasks.double, new_lab([]).memory.map_file(size=8)).result(LONG)


def test_a_crash_costs_its_task_alone(pool: Executor) -> None:
    gate = threading.Event()
    innocent = [pool.submit(tasks.double, n) for n in range(20)]
    crashed = [pool.submit(tasks.segfault) for _ in range(3)]
    innocent += [pool.submit(tasks.double, n) for n in range(20, 40)]
    gate.set()
    assert [it.result(LONG) for it in innocent] == [2 * n for n in range(40)]
    for it in crashed:
        with pytest.raises(WorkerCrashed, match=r"python.segfault\(\): .*terminated by SIGSEGV") as caught:
            it.result(LONG)
        assert (caught.value.signal, caught.value.exit_code) == (signal.SIGSEGV, None)
        assert "in segfault" in caught.value.detail  # where Python was
    for code in (0, 7):
        with pytest.raises(WorkerCrashed, match=f"exit code {code}") as caught:
            pool.submit(os._exit, code).result(LONG)
        assert caught.value.exit_code == code
    assert counted(pool, "segfault") == (3, 3, 0)


def test_a_task_is_repeated_as_its_policy_says(pool: Executor, tmp_path: Path) -> None:
    with pytest.raises(WorkerCrashed):
        pool.submit(tasks.crash_once, str(tmp_path / "first")).result(LONG)
    before = counted(pool, "crash_once")
    assert pool.with_options(retries=1).submit(tasks.crash_once, str(tmp_path / "second")).result(LONG) == "done"
    after = counted(pool, "crash_once")
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 0, 1]


def test_a_deadline_ends_a_task_and_not_the_others(pool: Executor) -> None:
    slow = pool.with_options(timeout=0.3).submit(time.sleep, 1000)
    with pytest.raises(CallTimeout, match=r"no answer within 0\.3 s"):
        slow.result(LONG)
    stopped = pool.with_options(timeout=0.3).submit(os.kill, 0, signal.SIGSTOP)  # its whole group: itself, and siblings
    with pytest.raises((CallTimeout, WorkerCrashed)):
        stopped.result(LONG)


def test_nothing_of_this_process_gets_into_a_worker(pool: Executor) -> None:
    sys.modules["leaked"] = type(sys)("leaked")
    os.environ["NIF_LAB_LEAKED"] = "yes"
    try:
        with Executor(1) as fresh:
            assert fresh.submit(lambda: sorted(__import__("sys").modules)).result(LONG).count("leaked") == 0
            assert not fresh.submit(lambda: "numpy" in __import__("sys").modules).result(LONG)
            assert fresh.submit(lambda: len(__import__("threading").enumerate())).result(LONG) == 1
    finally:
        del sys.modules["leaked"], os.environ["NIF_LAB_LEAKED"]
    assert pool.submit(lambda: "numpy" in __import__("sys").modules).result(LONG)
    with Executor(1, imports=["no_such_module"]) as broken, pytest.raises(WorkerUnavailable, match="no_such_module"):
        broken.submit(tasks.where).result(LONG)


def test_an_initializer_runs_in_each_worker_once() -> None:
    with Executor(1, initializer=os.putenv, initargs=("NIF_LAB_HERE", "yes")) as executor:
        pids = {executor.submit(tasks.where).result(LONG) for _ in range(3)}
        assert len(pids) == 1
        with pytest.raises(WorkerCrashed):
            executor.submit(tasks.segfault).result(LONG)
        assert executor.submit(tasks.where).result(LONG) not in pids
    with (
        Executor(1, initializer=tasks.call, initargs=(tasks.segfault,)) as executor,
        pytest.raises((WorkerUnavailable, WorkerCrashed)),
    ):
        executor.submit(tasks.where).result(LONG)


class Odd(Exception):
    """Can be pickled, and not come back: its pickle calls it with one argument."""

    def __init__(self, what: str, number: int) -> None:
        super().__init__(f"{what} {number}")


def raise_odd() -> None:
    raise Odd("fault", 7)


def nested(x: int) -> int:
    """Use an executor in a worker of another."""
    with Executor(1) as inner:
        return int(inner.submit(tasks.double, x).result(LONG))


def generate() -> Iterator[int]:
    yield 1


def test_what_cannot_come_back_or_be_sent_is_said(pool: Executor) -> None:
    with pytest.raises(RuntimeError, match="Odd: fault 7") as caught:
        pool.submit(raise_odd).result(LONG)
    assert "raise Odd" in str(caught.value.__cause__)
    with pytest.raises(TypeError, match=r"the answer can't be sent back.*generator"):
        pool.submit(generate).result(LONG)
    with pytest.raises(NotPortable, match="make one there"):
        pool.submit(lambda: pool).result(LONG)
    assert pool.submit(nested, 4).result(LONG) == 8


def test_many_small_tasks_by_as_completed_and_wait(pool: Executor) -> None:
    made = [pool.submit(pow, number, 2) for number in range(1000)]
    assert sum(it.result() for it in as_completed(made, LONG)) == sum(number**2 for number in range(1000))
    done, waiting = wait([pool.submit(time.sleep, 0), pool.submit(time.sleep, 30)], LONG, FIRST_COMPLETED)
    assert (len(done), len(waiting)) == (1, 1)
    with pytest.raises(TimeoutError):
        waiting.copy().pop().result(0.05)
    for pid in pool.pids:
        os.kill(pid, signal.SIGKILL)


def test_an_initializer_that_fails_is_named_and_every_task_says_so() -> None:
    with Executor(1, initializer=lambda: {}["licence"]) as executor:
        for _ in range(2):
            with pytest.raises(WorkerUnavailable, match=r"(?s)KeyError: 'licence'.*initializer"):
                executor.submit(pow, 2, 3).result(LONG)


def test_a_second_shutdown_cancels_what_the_first_left_waiting_and_returns() -> None:
    executor = Executor(2)
    running = [executor.submit(time.sleep, 0.3) for _ in range(2)]
    waiting = [executor.submit(time.sleep, 30) for _ in range(6)]
    executor.shutdown(wait=False)
    thread = threading.Thread(target=executor.shutdown, kwargs={"cancel_futures": True}, daemon=True)
    while not all(it.running() for it in running):
        time.sleep(0.01)
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive()
    assert all(it.done() and not it.cancelled() for it in running)
    assert all(it.cancelled() for it in waiting)


def test_threads_in_place_of_processes() -> None:
    failing = [1]

    def once() -> int:
        if failing:
            failing.pop()
            raise ValueError
        return os.getpid()

    with Executor(2, isolated=False, policy=RecoveryPolicy(retries=1)) as executor:
        assert executor.submit(once).result(LONG) == os.getpid()
        assert counted(executor, "once") == (1, 0, 1)


def test_shutdown_waits_cancels_or_kills(tmp_path: Path) -> None:
    executor = Executor(1)
    done = [executor.submit(tasks.double, n) for n in range(5)]
    executor.shutdown()
    assert [it.result(0) for it in done] == [0, 2, 4, 6, 8]
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(tasks.where)
    executor = Executor(1)
    running = executor.submit(tasks.noted_sleep, str(tmp_path / "begun"))
    waiting = executor.submit(tasks.where)
    deadline = time.monotonic() + LONG
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    (pid,) = executor.pids
    executor.shutdown(kill=True)
    with pytest.raises(WorkerCrashed, match="SIGKILL"):
        running.result(0)
    with pytest.raises(CancelledError):
        waiting.result(0)
    assert not Path(f"/proc/{pid}").exists()


def test_a_killed_server_is_replaced(pool: Executor) -> None:
    pid = pool.submit(os.getppid).result(LONG)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + LONG
    again = pid
    while again == pid and time.monotonic() < deadline:
        with contextlib.suppress(WorkerCrashed):  # the server's workers are ending
            again = pool.submit(os.getppid).result(LONG)
    assert again != pid


SCRIPT = """
import os, sys, threading, time, signal
import nif_lab, tasks
with nif_lab.Executor(1) as pool:
    print(pool.submit(os.getpid).result(), flush=True)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    pool.submit(time.sleep, 1000).result()
"""


@pytest.mark.slow
def test_ctrl_c_ends_the_wait_and_a_dead_host_its_workers() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, env=environment, check=False)
    assert "KeyboardInterrupt" in done.stderr
    pids = [int(done.stdout)]
    with subprocess.Popen([*command[:2], SCRIPT.replace("SIGINT", "SIGKILL")], stdout=subprocess.PIPE, text=True,
                          env=environment) as killed:  # fmt: skip
        pids.append(int(killed.communicate(timeout=LONG)[0]))
    deadline = time.monotonic() + LONG
    while (left := [it for it in pids if Path(f"/proc/{it}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left


def test_a_buffer_is_mapped_and_a_nif_finds_its_lab(pool: Executor) -> None:
    lab = new_lab(["zig"])
    buffer = lab.memory.from_array(np.arange(5.0))
    assert pool.submit(tasks.write, buffer, 7.0).result(LONG) == "LentBuffer"
    assert buffer[0] == 7.0
    with pytest.raises(WorkerCrashed, match=r"zig.fault\(\).*SIGSEGV"):  # of the worker's worker: the worker lives
        pool.submit(tasks.call, lab.isolated.zig.fault, "null_store", tasks.fuse("zig"), np.arange(4.0)).result(LONG)
