"""The one door between C and the core: no panic leaves it, nothing that a call drops stays behind."""

from __future__ import annotations

import gc
import itertools
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from nif_lab import Lab, _core
from nif_lab.errors import NifError, NifValueError


@pytest.fixture(scope="module")
def small() -> Lab:
    return Lab(["rust"])


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (math.inf, ValueError),
        (-math.inf, ValueError),
        (1e300, ValueError),
        (3.2e9, ValueError),
        (1_780_000_000_000_000_000, ValueError),
        (10**400, OverflowError),
        (None, TypeError),
    ],
)
def test_an_odd_duration_is_refused_and_harms_no_other(
    small: Lab, value: float, error: type[Exception], request: pytest.FixtureRequest
) -> None:
    name = f"odd {list(request.node.callspec.indices.values())}"
    record = small.telemetry.recorder(name)
    record(0.25)
    for _ in range(3):
        with pytest.raises(error):
            record(value)
    record(0.75)
    mine = small.snapshot().function("python", name)
    assert (mine.calls, mine.errors) == (2, 0)
    assert mine.mean_ns == pytest.approx(5e8, rel=1e-3)


@pytest.mark.parametrize("arguments", [(), (1.0, 2.0)])
def test_a_recorder_takes_one_number(small: Lab, arguments: tuple[float, ...]) -> None:
    with pytest.raises(TypeError, match=f"takes one number of seconds, {len(arguments)} given"):
        small.telemetry.recorder("count")(*arguments)
    with pytest.raises(TypeError, match="no keyword"):
        small.telemetry.recorder("count")(seconds=1.0)  # type: ignore[call-arg]


def test_the_longest_durations_add_up_to_a_number(small: Lab) -> None:
    record = small.telemetry.recorder("years")
    for _ in range(100):
        record(1e9)
    years = small.snapshot().function("python", "years")
    assert years.calls == years.timed == 100
    assert years.max_ns == pytest.approx(1e18, rel=1e-3)
    assert 0 < years.mean_ns <= years.max_ns * 1.001  # a sum that is full stays full


def refused(lab: Lab) -> Callable[[], None]:
    def call() -> None:
        with pytest.raises(NifError):
            lab.rust.dot("x", 2)

    return call


def test_what_a_call_drops_is_gone_when_it_returns(small: Lab) -> None:
    matrix, out = np.arange(6.0).reshape(2, 3), np.empty((3, 2))
    buffer = small.memory.allocate(6, "f8", languages=["rust"])
    array = buffer.array
    calls: dict[str, Callable[[], object]] = {
        "an output left out": lambda: small.rust.transpose(matrix),
        "an output": lambda: small.rust.transpose(matrix, out),
        "a buffer": lambda: small.rust.dot(buffer, array),
        "refused": refused(small),
        "empty": lambda: small.memory.empty(3),
        "record": lambda: small.telemetry.recorder("drops")(0.1),
    }
    seen = [out, array, None]  # None has no count since Python 3.12; the others have
    for what, call in calls.items():
        call()
        before = [sys.getrefcount(it) for it in seen]
        for _ in range(500):
            call()
        grown = np.subtract([sys.getrefcount(it) for it in seen], before)
        assert np.all(grown < [5, 5, 100]), what


def test_outputs_of_failed_calls_hold_no_memory(small: Lab) -> None:
    def address_space() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") >> 20

    x = np.arange(6.0)
    before = address_space()
    for _ in range(12):
        with pytest.raises(NifValueError):
            small.rust.histogram(x, 50_000_000, 1.0, 0.0)  # low > high: refused by the function itself
    assert address_space() - before < 1000  # two blocks of 381 MiB, not twelve


def test_figures_of_memory_are_told_while_the_collector_frees_buffers(small: Lab) -> None:
    """The collector may run wherever a Python object is made: no lock of the core is held there."""

    class Node:
        pass

    def garbage() -> None:
        node = Node()
        node.me = node  # type: ignore[attr-defined]
        node.buffer = small.memory.allocate(10, "f8", languages=["rust"])  # type: ignore[attr-defined]

    thresholds = gc.get_threshold()
    growing: list[tuple[int, int]] = []
    kept = [small.memory.allocate(10, "f8", languages=[language]) for language in ("rust", "zig", "rust")]
    try:
        for threshold, i in itertools.product((1, 7, 700), range(60)):
            gc.set_threshold(threshold)
            garbage()
            growing.extend((i, j) for j in range(30))  # a program whose data grows: no free object is at hand
            languages = small.memory.core.metrics()["languages"]
            assert languages["zig"] == (1, 80)
            assert languages["rust"][0] >= 2
    finally:
        gc.set_threshold(*thresholds)
        for buffer in kept:
            buffer.close()


@pytest.mark.parametrize(
    ("before", "cure"),
    [
        ("import sys; sys.modules['numpy'] = None", "pip install numpy"),
        ("import sys; sys.abiflags = '' if 't' in sys.abiflags else 't'", "install nif_lab with this Python"),
    ],
)
def test_an_interpreter_that_cannot_be_used_is_an_import_error(before: str, cure: str) -> None:
    code = f"{before}\ntry:\n    import nif_lab._core\nexcept ImportError as error:\n    print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "To fix:" in done.stdout, done.stdout + done.stderr
    assert cure in done.stdout
    assert "panicked" not in done.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_of_fork_is_told_that_the_owner_thread_is_not_there() -> None:
    owner = _core.Owner("test")
    assert owner.run(lambda: 42) == 42
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            owner.run(lambda: 42)
        except Exception as error:
            os._exit(7 if "To fix:" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert owner.run(lambda: 43) == 43
