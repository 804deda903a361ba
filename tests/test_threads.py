"""Threads that call at the same time: under a GIL they take turns, in a free-threaded Python they don't."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import random
import resource
import subprocess
import sys
import sysconfig
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from labs import IS_FREE_THREADED, new_lab, new_seed

from nif_lab.backends import julia
from nif_lab.errors import BackendError, BufferReleased, NifError, NifPanic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nif_lab.lab import Lab

free_threaded = pytest.mark.skipif(
    not IS_FREE_THREADED,
    reason="this Python has a GIL; CONTRIBUTING.md says how the suite runs on a free-threaded one",
)


@pytest.fixture(scope="module")
def small() -> Lab:
    return new_lab(["rust", "zig"])


def at_once(work: Sequence[Callable[[], None]]) -> None:
    """Run each on a thread of its own, begun at the same moment; the first exception is the test's."""
    failed: list[BaseException] = []
    start = threading.Barrier(len(work))

    def run(one: Callable[[], None]) -> None:
        start.wait()
        try:
            one()
        except BaseException as error:  # handed over to the test
            failed.append(error)

    threads = [threading.Thread(target=run, args=(it,)) for it in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(it.is_alive() for it in threads), "a thread doesn't end"
    if failed:
        raise failed[0]


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    drawn = new_seed()
    request.node.add_report_section("setup", "seed", f"NIF_LAB_SEED={drawn}")
    return drawn


def test_no_two_arrays_share_a_block(small: Lab, seed: int) -> None:
    """Blocks go from thread to thread by the shelves of arrays that were freed elsewhere."""
    passed: list[np.ndarray] = []

    def work(number: int) -> None:
        draw = random.Random(seed + number)
        mine: list[np.ndarray] = []
        for step in range(600):
            array = small.memory.empty(draw.choice((1, 7, 64, 640, 4096)))
            array[:] = number * 1000 + step
            mine.append(array)
            if draw.random() < 0.3:
                passed.append(mine.pop(draw.randrange(len(mine))))
            if draw.random() < 0.3 and len(passed) > 4:
                with contextlib.suppress(IndexError):
                    passed.pop(0)  # freed by another thread than its maker
            if draw.random() < 0.5 and mine:
                one = mine.pop(draw.randrange(len(mine)))
                assert small.rust.sum(one) == one[0] * len(one) == one[-1] * len(one)
            if step % 100 == 50:
                small.memory.trim()
        for it in mine:
            assert (it == it[0]).all()

    at_once([lambda number=number: work(number) for number in range(6)])
    passed.clear()
    assert small.memory.metrics().active == 0


def copies_open() -> int:
    found = 0
    for it in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found += "nif_lab library" in os.readlink(f"/proc/self/fd/{it}")
    return found


def test_a_library_is_opened_afresh_under_calls_of_other_threads(small: Lab) -> None:
    """A Zig panic taints its library: the next call of any thread opens it afresh, and none is left in the old one."""
    x = np.arange(100.0)
    wanted = float(x @ x)
    done = threading.Event()

    def panic(times: int = 12) -> None:
        fuse = np.array([0, int.from_bytes(b"zig".ljust(8, b"\0"), "little"), 0])
        for _ in range(times):
            fuse[0] = 1
            with pytest.raises(NifPanic):
                small.direct.zig.fault("panic", fuse, x)
        done.set()

    def call() -> None:
        while not done.is_set():
            assert small.direct.zig.dot(x, x) == wanted
            with pytest.raises(NifError):
                small.direct.zig.dot(x, x[:3])

    def text() -> None:
        while not done.is_set():
            assert small.direct.zig.layout().startswith("nif_")  # a string that lies in the library

    before = copies_open()
    at_once([panic, panic, call, call, text])
    panic(1)
    small.direct.zig.dot(x, x)  # with this reload all copies go that were in use when they were left
    assert copies_open() <= before + 1


def owned_by_turns(small: Lab) -> None:
    buffer = small.memory.allocate(16, languages=["python", "rust"])
    kept: list[int] = []

    def retain() -> None:
        for _ in range(20):
            try:
                buffer.retain("zig")
            except BufferReleased:
                return
            kept.append(1)

    at_once([retain, lambda: buffer.release("python"), lambda: buffer.release("rust"), retain])
    assert buffer.reference_count == len(kept)
    assert buffer.released == (not kept)
    if kept:
        assert buffer.array.shape == (16,)
        for _ in kept:
            buffer.release("zig")
    with pytest.raises(BufferReleased):
        _ = buffer.array


def test_a_buffer_is_freed_once(small: Lab) -> None:
    """Owners come and go at the same time; whoever was told that it owns the buffer does."""
    for _ in range(15):
        owned_by_turns(small)


def test_buffers_are_listed_while_others_come_and_go(small: Lab) -> None:
    def allocate() -> None:
        for _ in range(3):
            assert len([small.memory.allocate(8) for _ in range(600)]) == 600

    def look() -> None:
        for _ in range(50):
            small.memory.buffers()

    at_once([allocate, look, allocate, look])


def test_all_at_once_and_every_call_is_counted(small: Lab, seed: int) -> None:
    """Both lanes, failures, arrays, snapshots, metrics, trimming and the collector beside each other."""
    x = np.arange(50.0)
    total = float(x.sum())
    before = small.snapshot()
    calls = 300

    def call(number: int) -> None:
        draw = random.Random(seed + number)
        for _ in range(calls):
            assert small.rust.sum(x) == total
            with pytest.raises(NifError):
                small.rust.dot(x, x[:2])
            shared = small.memory.zeros(draw.choice((8, 100)))
            small.zig.axpy(1.0, shared, shared.copy())

    def isolated() -> None:
        for _ in range(60):
            assert small.isolated.zig.sum(x) == total

    def look() -> None:
        for _ in range(30):
            small.snapshot()
            small.history(100)
            small.memory.trim()

    at_once([*(lambda number=number: call(number) for number in range(4)), isolated, look])
    now = small.snapshot()
    for language, name, made in (("rust", "sum", 4 * calls), ("rust", "dot", 4 * calls), ("zig", "axpy", 4 * calls)):
        assert now.function(language, name).calls - before.function(language, name).calls == made
    assert now.function("rust", "dot").errors - before.function("rust", "dot").errors == 4 * calls


def test_the_first_use_of_a_lane_is_one_use() -> None:
    """Threads that ask for a lane at once get the same backend, whole."""
    lab = new_lab(["rust"])
    found: list[object] = []

    def ask() -> None:
        backend = lab.isolated.rust
        assert backend.add(1, 2) == 3
        found.append(backend)

    at_once([ask] * 4)
    assert len(set(map(id, found))) == 1
    assert found[0].workers.started <= 2  # type: ignore[attr-defined]


def in_a_process(code: str, *options: str, **variables: str) -> str:
    run = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, **variables},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize("before", ["", "import nif_lab._core"])
def test_a_subinterpreter_is_refused_by_name(before: str) -> None:
    out = in_a_process(
        f"""
{before}
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
new = interpreters.create()
try:
    raised = interpreters.run_string(new, "import nif_lab._core")
    print(raised and raised.formatted)
except Exception as error:
    print(error)
"""
    )
    assert "ImportError" in out
    assert "subinterpreter" in out


@pytest.mark.parametrize(("version", "known"), [("0.9.31", False), ("0.9.32", True), ("0.10.0", True)])
def test_a_juliacall_from_before_free_threading_is_refused_there(
    monkeypatch: pytest.MonkeyPatch, version: str, known: bool
) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _: 1)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    if known:
        return julia._check_juliacall()
    with pytest.raises(BackendError, match=f"juliacall {version} doesn't work in a free-threaded Python") as raised:
        julia._check_juliacall()
    assert "juliacall>=0.9.32" in raised.value.cure
    return None


@free_threaded
def test_the_gil_stays_off() -> None:
    code = "import sys, nif_lab; nif_lab.Lab(['rust', 'zig', 'nim']).rust.add(1, 2); print(sys._is_gil_enabled())"
    assert in_a_process(code, "-W", "error::RuntimeWarning").strip() == "False"


@free_threaded
def test_with_the_gil_switched_on_all_is_the_same() -> None:
    code = "import sys, nif_lab; print(sys._is_gil_enabled(), int(nif_lab.Lab(['rust']).rust.add(1, 2)))"
    assert in_a_process(code, PYTHON_GIL="1").split() == ["True", "3"]


@free_threaded
@pytest.mark.serial
def test_two_threads_make_twice_the_calls_of_one(small: Lab) -> None:
    """In processor time, which a busy machine doesn't change; whether a thread waits is seen by its own switches."""
    dot, calls = small.rust.dot, 100_000
    figures: list[tuple[float, int]] = []

    def work() -> None:
        call, x, y = dot, np.arange(100.0), np.ones(100)
        switches, start = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw, time.thread_time()
        for _ in range(calls):
            call(x, y)
        took = time.thread_time() - start
        figures.append((calls / took, resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - switches))

    def rate(threads: int) -> float:
        figures.clear()
        at_once([work] * threads)
        assert len(figures) == threads
        assert sum(waits for _, waits in figures) < calls // 1000
        return sum(it for it, _ in figures)

    before = small.snapshot().function("rust", "dot").calls
    rounds = 5
    ratios = sorted(rate(2) / rate(1) for _ in range(rounds))
    assert small.snapshot().function("rust", "dot").calls - before == rounds * 3 * calls
    assert ratios[rounds // 2] >= 1.9, ratios
