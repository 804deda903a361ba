"""Recovery: what becomes of calls whose workers crash, hang or answer nonsense, and what is told of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lane_client
import numpy as np
import pytest
from lane_client import fault, kill_one, wait_for, word

import nif_lab.backends
from nif_lab import Lab, _core
from nif_lab.arguments import CONTAINED_KINDS, FAULT_KINDS, GPU_KINDS
from nif_lab.backends.base import PACKAGE, WORKER
from nif_lab.errors import KINDS as NUMBERED
from nif_lab.errors import (
    CallTimeout,
    CircuitOpen,
    NifError,
    NifMemoryError,
    NifPanic,
    NifValueError,
    WorkerCrashed,
    WorkerUnavailable,
)
from nif_lab.recovery import FailoverWarning, RecoveryPolicy

if TYPE_CHECKING:
    from nif_lab.telemetry import Event

pytestmark = pytest.mark.slow

COMPILED = ("rust", "zig", "nim")
#: One try, nobody else, as often as one likes.
ALONE = RecoveryPolicy(retries=0, failover=False, crashes=None)


@pytest.fixture
def small() -> Lab:
    """A Lab of its own, with the policy that users get: its workers and counters are the test's alone."""
    return Lab(COMPILED, lane="isolated")


@pytest.fixture
def events(small: Lab) -> Iterator[list[Event]]:
    """What is published on nif:errors; complete after `settled`."""
    heard: list[Event] = []
    with small.subscribe("nif:errors", heard.append):
        yield heard


def settled(events: list[Event], count: int) -> list[Event]:
    wait_for(lambda: len(events) >= count)
    return events


def steps(error: NifError) -> list[tuple[str, str, str]]:
    return [(it.what, it.backend, it.outcome) for it in error.tried]  # type: ignore[attr-defined]


# How calls fail


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize(
    ("kind", "signalled", "code"),
    [
        ("null_store", signal.SIGSEGV, None),
        ("stack_overflow", signal.SIGSEGV, None),
        ("double_free", signal.SIGABRT, None),
        ("abort", signal.SIGABRT, None),
        ("exit_0", None, 0),
        ("exit_7", None, 7),
    ],
)
def test_a_crash_is_an_exception_that_tells_how(
    small: Lab, name: str, kind: str, signalled: int | None, code: int | None
) -> None:
    args = fault(small, name, kind)
    with pytest.raises(WorkerCrashed) as caught:
        small.call(name, "fault", *args, retries=0, failover=False)
    error = caught.value
    assert (error.backend, error.function, error.signal, error.exit_code) == (name, "fault", signalled, code)
    assert (error.address is not None) == (signalled == signal.SIGSEGV)
    assert kind != "null_store" or error.address == 0
    assert kind != "double_free" or "double free" in error.detail
    how = "its worker was terminated by SIG" if signalled else "its worker ended: exit with code"
    assert how in str(error)
    assert error.tried == ()
    assert args[1][0] == 0
    assert small.backends[name].fault(*args) == 10.0


@pytest.mark.parametrize("kind", ["infinite_loop", "stop"])
def test_a_timeout_ends_what_does_not_end(small: Lab, kind: str) -> None:
    args = fault(small, "rust", kind, times=2)
    for _ in range(2):
        start = time.monotonic()
        with pytest.raises(CallTimeout, match=r"took longer than its 0\.1 s") as caught:
            small.call("rust", "fault", *args, timeout=0.1, retries=0, failover=False)
        assert 0.1 <= time.monotonic() - start < 0.6
        assert isinstance(caught.value, TimeoutError)
    assert small.rust.fault(*args) == 10.0


def test_a_function_that_looks_keeps_its_worker(small: Lab) -> None:
    small.rust.noop()
    working = small.rust.workers.pids[0]
    with pytest.raises(CallTimeout):
        small.call("rust", "mandelbrot", 1, 2**22, 0.0, 0.1, 0.0, 0.1, 100_000, timeout=0.1, retries=0, failover=False)
    assert small.rust.add(1, 2) == 3
    assert small.rust.workers.pids[0] == working


def test_the_direct_lane_has_no_timeout(small: Lab) -> None:
    with pytest.raises(ValueError, match="use lane='isolated' for a timeout"):
        small.call("rust", "noop", lane="direct", timeout=1.0)
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="timeout in seconds, more than 0"):
            small.call("rust", "noop", timeout=wrong)


#: Those of a GPU are in test_gpu_isolated.py.
KINDS = tuple(it for it in FAULT_KINDS if it not in GPU_KINDS)
#: All of them, but that a new Julia takes seconds: of hers those that her worker survives.
FAULTS = [(name, kind) for name in COMPILED for kind in KINDS]
FAULTS += [("julia", kind) for kind in (*CONTAINED_KINDS, "wild_write")]


@pytest.mark.parametrize(("name", "kind"), FAULTS)
def test_every_fault_is_recovered_and_disturbs_nothing(lab: Lab, name: str, kind: str) -> None:
    timeout = 5.0 if name == "julia" else 0.1
    report = lab.faults.inject(name, kind, policy=RecoveryPolicy(timeout=timeout, crashes=None))
    assert (report.outcome, report.answered_by, report.disturbed) == ("recovered", "retry", ()), report
    alone = RecoveryPolicy(timeout=timeout, retries=0, failover=False, crashes=None)
    always = lab.faults.inject(name, kind, times=None, policy=alone)
    assert (always.outcome, always.answered_by, always.disturbed) == ("contained", "", ()), always


def test_nonsense_is_noticed_whatever_it_is(small: Lab, rng: np.random.Generator) -> None:
    for seed in rng.integers(1, 2**32, 60):
        report = small.faults.inject("zig", "garbage_reply", policy=ALONE, seed=int(seed))
        assert report.outcome == "contained", f"seed {seed}: {report}"
        assert isinstance(report.error, WorkerCrashed)
        assert small.faults.inject("zig", "panic", policy=RecoveryPolicy(crashes=None)).answered_by == "retry"


def test_a_host_survives_any_reply(rng: np.random.Generator) -> None:
    """From fake_worker.py: replies that could be meant, by chance; one that wants memory for ever; no block is kept."""
    for seed in ("greedy", *map(str, rng.integers(0, 2**32, 5))):
        count = 1 if seed == "greedy" else 150
        command = [sys.executable, lane_client.__file__, "nonsense", seed, str(count), "0.5"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"seed {seed}: {done.stderr}"
        told = json.loads(done.stdout)
        assert told["blocks"] == 0, f"seed {seed}"
        assert sum(told["seen"].values()) == count
        assert seed != "greedy" or told["seen"] == {"CallTimeout": 1}
        answers = {"NoneType", "int", "bool", "float", "str", "ndarray", "some"}
        errors = {it.__name__ for it in NUMBERED.values()} | {"ValueError", "UnicodeDecodeError"}
        assert set(told["seen"]) <= answers | errors, f"seed {seed}: {told}"


# Tries


def test_a_new_worker_then_another_language(small: Lab, events: list[Event]) -> None:
    args = fault(small, "rust", "null_store", times=2)
    with pytest.warns(
        FailoverWarning, match=r"zig answered rust\.fault\(\): its worker was terminated by SIGSEGV"
    ) as warned:
        assert small.rust.fault(*args) == 10.0
    assert warned[0].filename == __file__
    heard = settled(events, 3)
    assert [(it.data["step"], it.backend, it.data["outcome"]) for it in heard] == [
        ("try", "rust", "failed"),
        ("restart", "rust", "failed"),
        ("failover", "zig", "answered"),
    ]
    assert [(it.data["kind"], it.data["signal"], it.data["exit_code"]) for it in heard[:2]] == [
        ("WorkerCrashed", 11, None)
    ] * 2
    assert heard[1].data["duration_ns"] > 0
    assert heard[2].data["signal"] is None
    asked = small.snapshot().function("rust", "fault", "isolated")
    assert (asked.calls, asked.errors, asked.recovered) == (1, 0, 1)


def test_who_succeeds_is_not_asked_further(small: Lab, events: list[Event]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert small.call("nim", "fault", *fault(small, "nim", "exit_7")) == 10.0
        assert small.nim.fault(*fault(small, "nim", "panic")) == 10.0
    told = [(it.data["step"], it.data["outcome"], it.data["kind"], it.data["exit_code"]) for it in settled(events, 4)]
    assert told == [
        ("try", "failed", "WorkerCrashed", 7),
        ("restart", "answered", "", None),
        ("try", "failed", "NifPanic", None),
        ("retry", "answered", "", None),
    ]
    stats = small.snapshot().function("nim", "fault")
    assert (stats.calls, stats.errors, stats.recovered) == (2, 0, 2)


def test_a_call_that_fails_in_the_end_tells_all_tries(small: Lab) -> None:
    args = fault(small, "rust", "abort", times=10)
    with pytest.raises(WorkerCrashed) as caught:
        small.call("rust", "fault", *args, retries=2, failover=False)
    assert steps(caught.value) == [("restart", "rust", "failed")] * 2
    assert str(caught.value).count("tried: restart in rust, failed after") == 2
    assert args[1][0] == 7
    stats = small.snapshot().function("rust", "fault")
    assert (stats.calls, stats.errors, stats.recovered) == (1, 1, 0)


def test_no_retries_and_no_failover(small: Lab) -> None:
    args = fault(small, "zig", "panic", times=3)
    with pytest.raises(NifPanic) as caught:
        small.call("zig", "fault", *args, retries=0, failover=False)
    assert (caught.value.tried, args[1][0]) == ((), 2)
    with pytest.warns(FailoverWarning, match=r"rust answered zig\.fault\(\): on purpose"):
        assert small.call("zig", "fault", *args, retries=0) == 10.0
    assert args[1][0] == 1


def test_what_is_the_callers_fault_is_not_tried_again(small: Lab, events: list[Event]) -> None:
    for call in (lambda: small.rust.fault("nonsense", np.zeros(3, "i8"), np.ones(2)), lambda: small.rust.sum("x")):
        with pytest.raises((NifValueError, TypeError)) as caught:
            call()
        assert caught.value.tried == ()
    assert [it.data["step"] for it in settled(events, 2)] == ["", ""]


def test_memory_that_is_not_there_is_looked_for_elsewhere(small: Lab) -> None:
    """Zig says so; the call goes on to a language whose fuse doesn't burn."""
    args = fault(small, "zig", "huge_allocation", times=2, number=1 << 46)
    with pytest.warns(FailoverWarning, match="rust answered zig.fault"):
        assert small.zig.fault(*args) == 10.0
    args[1][0] = 1
    with pytest.raises(NifMemoryError, match="out of memory"):
        small.call("zig", "fault", *args, retries=0, failover=False)


def test_the_closest_policy_counts(small: Lab) -> None:
    def tries(name: str) -> int:
        """How often a call of ``fault`` is made in its language."""
        args = fault(small, name, "panic", times=9)
        with pytest.raises(NifPanic):
            small.backends[name].fault(*args)
        return 9 - int(args[1][0])

    small.recovery.set(RecoveryPolicy(retries=2, failover=False))
    small.recovery.set(RecoveryPolicy(retries=3, failover=False), "zig")
    small.recovery.set(RecoveryPolicy(retries=4, failover=False, timeout=5.0), "zig", "fault")
    assert (tries("rust"), tries("zig")) == (3, 5)
    assert small.zig.functions["fault"].timeout == 5.0
    assert small.zig.functions["sum"].timeout is None
    small.recovery.set(RecoveryPolicy(retries=0, failover=False), "nim")
    assert (tries("nim"), tries("rust")) == (1, 3)
    args = fault(small, "zig", "panic", times=9)
    with pytest.raises(NifPanic):
        small.call("zig", "fault", *args, retries=1)
    assert args[1][0] == 7
    with pytest.raises(ValueError, match="name the backend of 'fault'"):
        small.recovery.set(RecoveryPolicy(), function="fault")


def test_a_policy_of_the_lab_times_plain_calls() -> None:
    lab = Lab(["rust", "zig"], lane="isolated", policy=RecoveryPolicy(timeout=0.1, retries=0))
    with pytest.warns(FailoverWarning, match=r"zig answered rust\.fault\(\): took longer than its 0\.1 s"):
        assert lab.rust.fault(*fault(lab, "rust", "infinite_loop", times=9)) == 10.0


# Once, or not at all


def test_a_call_that_was_begun_is_not_repeated(small: Lab) -> None:
    """A large axpy whose worker ends: at most once is added, and an answer is only given for all of it."""
    x, y = small.memory.empty(2**21), small.memory.zeros(2**21)
    x[:] = 1.0
    small.recovery.set(RecoveryPolicy(crashes=None))
    ended: list[WorkerCrashed] = []
    for _ in range(30):
        y[:] = 0
        killer = threading.Timer(0.002, kill_one, [small.rust])
        killer.start()
        try:
            small.call("rust", "axpy", 1.0, x, y, retries=5)
            assert np.all(y == 1)
        except WorkerCrashed as error:
            ended.append(error)
            assert y.max() <= 1
        killer.join()
    assert ended, "no worker ended in the middle of a call"
    assert all(error.tried == () for error in ended), "axpy adds: it can't be repeated"


def test_a_call_that_was_not_begun_is_made_once(small: Lab) -> None:
    """Its worker was stopped before the call came, and ended after."""
    x, y = np.ones(100), small.memory.zeros(100)
    small.rust.noop()
    working = small.rust.workers.pids[0]
    os.kill(working, signal.SIGSTOP)
    killer = threading.Timer(0.1, lambda: os.kill(working, signal.SIGKILL))
    killer.start()
    small.rust.axpy(1.0, x, y)
    killer.join()
    assert np.all(y == 1)
    assert small.snapshot().function("rust", "axpy").errors == 0


def test_what_was_acknowledged_is_there_after_hundreds_of_kills(rng: np.random.Generator) -> None:
    """Workers end at random times, while they write into shared memory and while they don't."""
    lab = Lab(["rust"], lane="isolated", policy=RecoveryPolicy(crashes=None))
    one, y = lab.memory.empty(50_000), lab.memory.zeros(50_000)
    one[:] = 1.0
    count = kills = failed = 0
    limit = time.monotonic() + 120  # a slow machine takes longer over the same; one that hangs doesn't get there
    pauses = iter(rng.uniform(0, 0.0005, 100_000))
    done = threading.Event()

    def kill() -> None:
        nonlocal kills
        while not done.is_set():
            kill_one(lab.rust)
            kills += 1
            time.sleep(next(pauses))

    with ThreadPoolExecutor(1) as pool:
        killer = pool.submit(kill)
        while min(kills / 300, count / 100, failed / 10) <= 1 and time.monotonic() < limit and not killer.done():
            try:
                lab.rust.axpy(1.0, one, y)
                count += 1
                assert y[0] == count
                assert np.all(y == count)
            except WorkerCrashed:
                failed += 1
                assert y.min() >= count, "a write that was acknowledged is gone"
                assert y.max() <= count + 1, "a call was repeated"
                y[:] = count
        done.set()
        killer.result()
    assert (kills > 300, count > 100, failed > 10) == (True, True, True), (kills, count, failed)


def test_crashes_harm_nobody_else(rng: np.random.Generator) -> None:
    lab = Lab(["rust", "zig"], lane="isolated", policy=ALONE)
    done = threading.Event()

    def work(seed: int) -> int:
        mine = np.random.default_rng(seed)
        count = 0
        while not done.is_set():
            backend = lab.backends[("rust", "zig")[seed % 2]]
            x = mine.integers(-1000, 1000, mine.integers(0, 3000)).astype(float)
            assert backend.dot(x, x) == x @ x
            assert np.array_equal(backend.transpose(x[None]), x[:, None])
            count += 1
        return count

    crashes = 0
    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(work, int(seed) * 2 + i % 2) for i, seed in enumerate(rng.integers(0, 2**31, 4))]
        end = time.monotonic() + 2
        while time.monotonic() < end and not any(it.done() for it in workers):
            with pytest.raises(WorkerCrashed):
                lab.rust.fault(*fault(lab, "rust", ("null_store", "abort", "exit_0")[crashes % 3]))
            crashes += 1
        done.set()
        assert all(it.result() > 10 for it in workers)
    assert crashes > 10


# Circuits


def test_a_circuit_opens_half_opens_and_closes(small: Lab, events: list[Event]) -> None:
    policy = RecoveryPolicy(retries=0, failover=False, crashes=3, window=10, cooldown=0.3)
    small.recovery.set(policy)
    args = fault(small, "rust", "abort", times=4)
    for _ in range(3):
        assert small.recovery.circuit("rust") == "closed"
        with pytest.raises(WorkerCrashed):
            small.rust.fault(*args)
    assert small.recovery.circuit("rust") == "open"
    started = small.rust.workers.started
    for _ in range(20):
        with pytest.raises(CircuitOpen, match=r"ended too often(.|\n)*To fix: one call is let through from \d\d:\d\d"):
            small.rust.fault(*args)
        with pytest.raises(CircuitOpen):
            small.rust.add(1, 2)
    assert args[1][0] == 1, "no call is made"
    assert small.rust.workers.started <= started + 1
    assert (small.zig.add(1, 2), small.recovery.circuit("zig")) == (3, "closed")
    time.sleep(0.35)
    with pytest.raises(CircuitOpen) as caught:
        small.rust.fault(*args)  # the one call that is let through crashes
    assert steps(caught.value) == [("retry", "rust", "failed")]
    assert (args[1][0], small.recovery.circuit("rust")) == (0, "open")
    with pytest.raises(CircuitOpen):
        small.rust.add(1, 2)
    time.sleep(0.35)
    assert small.rust.add(1, 2) == 3
    assert small.recovery.circuit("rust") == "closed"
    assert small.rust.fault(*args) == 10.0
    wait_for(lambda: any(it.data["outcome"] == "closed" for it in events))
    switches = [it.data["outcome"] for it in events if it.data["step"] == "circuit"]
    assert switches == ["opened", "opened", "closed"]


def test_a_circuit_sends_calls_to_others(small: Lab) -> None:
    small.recovery.set(RecoveryPolicy(retries=0, crashes=2, cooldown=60))
    args = fault(small, "rust", "abort", times=9)
    for _ in range(4):
        with pytest.warns(FailoverWarning):
            assert small.rust.fault(*args) == 10.0
    assert (args[1][0], small.recovery.circuit("rust")) == (7, "open")
    y = np.zeros(3)
    with pytest.warns(FailoverWarning, match=r"zig answered rust\.axpy\(\): its workers ended too often"):
        small.rust.axpy(1.0, np.ones(3), y)  # it was never begun: it may be made elsewhere
    assert y.tolist() == [1, 1, 1]
    small.recovery.close_circuit("rust")
    assert (small.rust.axpy(2.0, np.ones(3), y), small.recovery.circuit("rust")) == (None, "closed")


def test_old_crashes_are_forgotten(small: Lab) -> None:
    small.recovery.set(RecoveryPolicy(retries=0, failover=False, crashes=2, window=0.1))
    for _ in range(4):
        with pytest.raises(WorkerCrashed):
            small.rust.fault(*fault(small, "rust", "abort"))
        time.sleep(0.15)
    assert small.recovery.circuit("rust") == "closed"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"retries": -1}, "from 0 to 1,000"), ({"crashes": 0}, "1 or more"), ({"timeout": 0}, "more than 0")],
)
def test_policies_that_can_not_be_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        RecoveryPolicy(**wrong)


# Workers that don't start


def test_what_can_not_start_says_why_and_does_not_hang(tmp_path: Path) -> None:
    text = tmp_path / "libtext.so"
    text.write_text("no library")
    program, library = str(PACKAGE / "_native" / WORKER), str(nif_lab.backends.find("zig").library)
    for worker, source, says, cure in (
        (program, str(text), "not a whole shared library", "nif-lab build"),
        (program, str(tmp_path / "none.so"), "No such file", "nif-lab build"),
        (str(text), library, "doesn't start", "nif-lab build"),
        (str(tmp_path / "none"), library, "doesn't start", "nif-lab build"),
        ("/bin/false", library, "exit with code 1", "nif-lab doctor"),
    ):
        workers = _core.Workers(worker, "zig", ["file", source], 1)
        start = time.monotonic()
        with pytest.raises(Exception, match=says) as caught:
            _core.open_isolated(workers, "zig")
        assert cure in str(caught.value)
        assert time.monotonic() - start < 5
    with pytest.raises(ValueError, match="a source is"):
        _core.Workers(program, "zig", ["what"], 1)


def test_a_library_that_breaks_later_fails_the_call_with_a_cure(tmp_path: Path) -> None:
    library = tmp_path / "libnif_zig.so"
    library.write_bytes(nif_lab.backends.find("zig").library.read_bytes())
    workers = _core.Workers(str(PACKAGE / "_native" / WORKER), "zig", ["file", str(library)], 0)
    add = _core.open_isolated(workers, "zig").functions["add"]
    assert add.function(1, 2) == 3
    good = library.read_bytes()
    library.unlink()
    library.write_text("no library any more")
    workers.restart()
    for _ in range(2):
        with pytest.raises(WorkerUnavailable, match=r"(?s)not a whole shared library.*To fix: .*nif-lab build"):
            add.function(1, 2)
    library.unlink()
    library.write_bytes(good)
    assert add.function(1, 2) == 3, "fixed"


def test_words_are_what_fuses_call_languages() -> None:
    assert word("rust").to_bytes(8, "little") == b"rust\0\0\0\0"
