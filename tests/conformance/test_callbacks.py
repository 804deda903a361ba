"""Callbacks, progress and output, as each language has them: callbacks/ has the same functions in each."""

from __future__ import annotations

import contextlib
import io
import math
import os
import signal
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cells import functions_of_cell

from nif_lab import progress
from nif_lab.errors import NifError, NifTypeError, NifValueError, WorkerCrashed, WorkerUnavailable

if TYPE_CHECKING:
    from nif_lab.lab import LoadedBackend


@pytest.fixture(scope="module")
def cell(backend: LoadedBackend) -> Any:
    """The functions of a language's cell, in the backend's lane; the backend doesn't learn of them."""
    functions = functions_of_cell(backend, "callbacks")
    return SimpleNamespace(**{name: nif.function for name, nif in functions.items()}, all=functions, backend=backend)


def test_functions_go_in(cell: Any) -> None:
    assert cell.all["integrate"].signature == "integrate(f: fn(f64)->f64, a: f64, b: f64, n: i64) -> f64"
    assert cell.all["each"].signature == "each(f: fn(u8)->None, n: u8) -> None"
    for f, exact in ((math.sin, 1 - math.cos(1)), (lambda x: x * x, 1 / 3), (np.exp, math.e - 1)):
        assert cell.integrate(f, 0.0, 1.0, 50) == pytest.approx(exact, rel=1e-3)
    assert cell.integrate(f=abs, a=-1.0, b=1.0, n=10) == pytest.approx(1.0)


def test_scalars_both_ways(cell: Any) -> None:
    seen: list[Any] = []

    def f(*values: Any) -> Any:
        seen.append(values)
        return len(seen)

    assert cell.tally(f, 3) == 6
    assert seen == [(0, True), (1, False), (2, True)]
    assert [type(it) for it in seen[0]] == [int, bool]
    seen.clear()
    assert cell.each(f, 2) is None  # what it gives is ignored
    assert seen == [(0,), (1,)]
    for given in (2**64 - 1, np.uint64(2**64 - 1)):
        assert (
            cell.wide(
                lambda a, b, given=given: seen.append((a, b)) or given,
            )
            == 2**64 - 1
        )
    assert seen[-1] == (2**64 - 1, float(np.float32(0.1)))
    for given in (-128, True, np.int8(-7), np.array(5)):
        assert cell.small(lambda given=given: given) == int(given)
    for given in (True, False, np.True_):
        assert cell.holds(lambda _, given=given: given, 1.0) is bool(given)
    for given in (2, 0.5, np.float32(0.25), np.float64(1.5), np.array(3.0), True):
        assert cell.tried(lambda _, given=given: given, 1.0) == float(given)


def test_arrays_go_in(cell: Any) -> None:
    """A callable gets arrays of its own; what it writes comes back where the function says so."""
    assert cell.all["least"].signature == "least(f: fn(f64[_])->f64, x: f64[n]) -> f64"
    words = "derivative(f: fn(f64,f64[_],mut f64[_])->None, t: f64, y: f64[n], out: mut f64[n]) -> None"
    assert cell.all["derivative"].signature == words
    for count in (3, 0, 1, 4096, 20_000):  # the last don't fit into a reply
        x = np.cos(np.arange(count, dtype=float))
        kept: list[np.ndarray] = []

        def f(it: np.ndarray, kept: list[np.ndarray] = kept) -> float:
            kept.append(it)
            return float(it.sum())

        assert cell.least(f, x) == pytest.approx(min(x.sum(), x[: count // 2].sum()))
        assert [(type(it), it.dtype) for it in kept] == 2 * [(np.ndarray, np.float64)]
        assert (kept[0].tolist(), kept[1].tolist()) == (x.tolist(), x[: count // 2].tolist())
        before = x.copy()

        def rhs(t: float, y: np.ndarray, dy: np.ndarray) -> None:
            dy[:] = t * y
            y[:] = 0  # its own

        assert cell.derivative(rhs, -2.0, x).tolist() == (-2.0 * before).tolist()
        assert (x == before).all()
    assert cell.octets(lambda it, more: int(it.sum()) + more) == 265
    with pytest.raises(ValueError, match="broadcast"):
        cell.derivative(lambda t, y, dy: np.add(y, t, out=dy[:1]), 1.0, x)


def test_an_exception_of_a_callback_is_the_calls(cell: Any) -> None:
    """The very same object, whatever it is, with the lines of the callback in its traceback."""
    for kind in (ValueError, KeyboardInterrupt, StopIteration, NifError):
        error = kind.__new__(kind)

        def f(_: float, error: BaseException = error) -> float:
            raise error

        for call in (lambda f=f: cell.integrate(f, 0.0, 1.0, 5), lambda f=f: cell.unwrapped(f, 1.0)):
            with pytest.raises(kind) as caught:
                call()
            assert caught.value is error
            assert caught.traceback[-1].name == "f"
    assert cell.tried(f, 1.0) == -1.0  # the function got over it
    assert cell.tried(lambda x: 2 * x, 3.0) == 6.0


def test_what_a_callback_gives_is_checked(cell: Any) -> None:
    for given, words in (
        ("x", "gave str, expected f64"),
        (None, "gave NoneType, expected f64"),
        (1j, "gave complex, expected f64"),
    ):
        with pytest.raises(NifTypeError, match=f"integrate\\(\\): argument 'f': {words}"):
            cell.integrate(lambda _, given=given: given, 0.0, 1.0, 3)
    with pytest.raises(NifTypeError, match="gave float, expected i8"):
        cell.small(lambda: 1.5)
    with pytest.raises(NifTypeError, match="gave int, expected bool"):
        cell.holds(lambda _: 1, 1.0)
    for given in (128, -129, 2**70):
        with pytest.raises(NifValueError, match=f"gave {given}, expected -128 to 127"):
            cell.small(lambda given=given: given)
    with pytest.raises(TypeError, match="positional argument"):
        cell.integrate(lambda: 1.0, 0.0, 1.0, 3)


def test_only_callables_are_callbacks(cell: Any) -> None:
    for value in (1.0, 3, True, None, "sin", np.ones(3)):
        with pytest.raises(NifTypeError, match=r"argument 'f': expected fn\(f64\)->f64, got"):
            cell.integrate(value, 0.0, 1.0, 3)


def test_callbacks_call_functions(cell: Any) -> None:
    """In this process as deep as one likes; a worker makes one call at a time, and says so."""
    if cell.backend.lane == "direct":
        inner = cell.integrate(lambda x: cell.tried(lambda y: y + x, 1.0), 0.0, 2.0, 8)
        assert inner == pytest.approx(4.0)
    else:
        with pytest.raises(WorkerUnavailable, match='lane="direct"'):
            cell.integrate(lambda x: cell.tried(math.sin, x), 0.0, 2.0, 8)
    assert cell.tried(math.sqrt, 4.0) == 2.0


def test_a_call_that_has_called_back_is_not_made_again_by_itself(cell: Any) -> None:
    """Its worker ended after it had begun: what it did isn't done twice."""
    seen: list[int] = []
    if cell.backend.lane == "direct":
        cell.each(seen.append, 3)
        assert seen == [0, 1, 2]
        return

    def f(n: int) -> None:
        seen.append(n)
        for pid in cell.backend.workers.pids:
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(WorkerCrashed):
        cell.each(f, 3)
    assert seen == [0]
    assert cell.tried(math.sqrt, 4.0) == 2.0


def test_long_functions_call_back_beside_threads(cell: Any) -> None:
    stop, turns = threading.Event(), [0]

    def turn() -> None:
        while not stop.is_set():
            turns[0] += 1

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        assert [cell.unwrapped(math.sqrt, float(i * i)) for i in range(20)] == list(range(20))
    finally:
        stop.set()
        thread.join()
    assert turns[0]


def test_progress(cell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar where a call takes long, nothing behind it; the segment has the steps meanwhile."""
    shown: list[tuple[str, int, int]] = []

    class Bar:
        def __init__(self, **options: Any) -> None:
            self.options, self.n, self.total = options, 0, 0

        def refresh(self) -> None:
            shown.append((self.options["desc"], self.n, self.total))

        def close(self) -> None:
            shown.append(("closed", self.n, self.total))

    monkeypatch.setattr(progress, "_bars", lambda: Bar)
    assert cell.steps(3, 0.001) == 3
    assert not shown
    assert cell.steps(30, 0.05) == 30
    assert shown[-1][0] == "closed"
    assert shown[0][0] == f"{cell.backend.name}.steps"
    assert all(0 < done <= total == 30 for _, done, total in shown)
    assert [done for _, done, _ in shown] == sorted(done for _, done, _ in shown)
    assert not any(it.name == "nif_lab bar" for it in threading.enumerate())


def test_output_is_caught(cell: Any) -> None:
    """What native code prints is there when the call is over, with or without a newline."""
    for n in (2, 0):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            print("before")
            assert cell.says(n) == n
            print("after")
        lines = "".join(f"line {i}\n" for i in range(n))
        assert out.getvalue() == f"before\n{lines}dots...after\n"
        assert err.getvalue() == f"oh {n}"


def test_output_waits_for_nobody(cell: Any) -> None:
    start = time.perf_counter()
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        assert cell.says(20_000) == 20_000
    assert out.getvalue().count("\n") == 20_000
    assert time.perf_counter() - start < 10
