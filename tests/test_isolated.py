"""The isolated lane: the same answers, no copies of what is shared, and processes that leave nothing behind."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lane_client import fault, kill_one, wait_for

import nif_lab.backends
from nif_lab import Lab, _core
from nif_lab.errors import CallTimeout, NifError, WorkerCrashed

if TYPE_CHECKING:
    from nif_lab.lab import LoadedBackend

    Array = npt.NDArray[Any]
    Make = Callable[[Any], list[Any]]

pytestmark = pytest.mark.slow

CLIENT = Path(__file__).with_name("lane_client.py")
every_language = pytest.mark.parametrize("name", nif_lab.backends.names())


@pytest.fixture(params=nif_lab.backends.names())
def isolated(lab: Lab, request: pytest.FixtureRequest) -> LoadedBackend:
    """Each language in a worker."""
    backend: LoadedBackend = lab.isolated[request.param]
    assert backend.loaded, f"{backend.reason}\nto fix: {backend.cure}"
    return backend


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    """Return what a call answers, or what it raises, as something that can be compared."""
    try:
        answer = function(*args)
    except NifError as error:
        return type(error), str(error), error.argument
    return (answer.dtype, answer.shape, answer.tobytes()) if isinstance(answer, np.ndarray) else answer


def copies(lab: Lab) -> npt.NDArray[np.int64]:
    """Return copies and bytes by reason: first those on the way there, then those on the way back."""
    sums = {reason: (count, size) for reason, count, size in lab.memory.core.copies()}
    ways = ("argument not in a pool", "argument not in a pool, written by the function")
    return np.array([sums.get(reason, (0, 0)) for reason in ways])


def in_pool(lab: Lab, array: Array) -> Array:
    shared = lab.memory.empty(array.shape, array.dtype)
    shared[...] = array
    return shared


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and wasn't reaped yet doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# What is passed


def layouts(of: Array) -> dict[str, Array]:
    """Return views of 720 numbers, as arrays that a function takes, or refuses for their strides."""
    cube = of.reshape(6, 8, 15)
    return {
        "all": of, "part": of[100:300], "every third": of[1::3], "backwards": of[::-1], "sparse": of[::-180],
        "one": of[7:8], "none": of[5:5], "matrix": of.reshape(24, 30), "columns": of.reshape(24, 30).T,
        "window": of.reshape(24, 30)[3:20:4, 25:2:-3], "rows": of.reshape(24, 30)[::-1],
        "thin": of.reshape(24, 30)[:, :1], "empty": of.reshape(24, 30)[:0],
        "cube": cube, "hole": cube[::5, :, ::-7], "same": np.broadcast_to(of[:4], (3, 4)),
    }  # fmt: skip


@pytest.mark.parametrize("layout", layouts(np.zeros(720)))
@pytest.mark.parametrize("shared", [False, True], ids=["copied", "shared"])
def test_both_lanes_do_the_same_to_all_memory(lab: Lab, isolated: LoadedBackend, layout: str, shared: bool) -> None:
    """Inputs and outputs of any strides: the same result, the same refusal, and the same bytes around the elements."""

    def run(backend: LoadedBackend) -> list[Any]:
        base, other = np.arange(720.0), -np.arange(720.0)
        if shared:
            base, other = in_pool(lab, base), in_pool(lab, other)
        view, into = layouts(base)[layout], layouts(other)[layout]
        wide = np.zeros((*view.shape[:-1], 4 * view.shape[-1]))[..., : view.shape[-1]]
        return [
            outcome(backend.sum, view), outcome(backend.checksum, view), outcome(backend.axpy, 2.0, view, into),
            outcome(backend.write, view), outcome(backend.transpose, view),
            outcome(backend.transpose, view, wide.T), outcome(backend.transpose, view, into.T),
            outcome(backend.axpy, 1.0, view, view), base.tobytes(), other.tobytes(), wide.tobytes(),
        ]  # fmt: skip

    assert run(isolated) == run(lab.direct[isolated.name])


@pytest.mark.parametrize("shift", [-100, -99, -1, 0, 1, 50, 99, 100])
@pytest.mark.parametrize("shared", [False, True], ids=["copied", "shared"])
def test_overlaps_are_what_they_are_in_the_direct_lane(
    lab: Lab, isolated: LoadedBackend, shift: int, shared: bool
) -> None:
    def run(backend: LoadedBackend) -> tuple[Any, bytes]:
        base = np.arange(300.0)
        if shared:
            base = in_pool(lab, base)
        return outcome(backend.axpy, 1.0, base[100:200], base[100 + shift : 200 + shift]), base.tobytes()

    answer = run(isolated)
    assert answer == run(lab.direct[isolated.name])
    assert (answer[0] is None) == (abs(shift) == 100), "arrays that only touch don't overlap"


@pytest.mark.parametrize("elements", [1, 2**21, 2**21 + 1, 5 * 2**20])
@pytest.mark.parametrize("shared", [False, True], ids=["copied", "shared"])
def test_large_arrays(lab: Lab, isolated: LoadedBackend, elements: int, shared: bool) -> None:
    """8 bytes, 16 MiB, a bit more, and 40 MiB; written in place."""
    x, y = np.arange(float(elements)), np.ones(elements)
    if shared:
        x, y = in_pool(lab, x), in_pool(lab, y)
    assert isolated.axpy(2.0, x, y) is None
    assert np.array_equal(y, 2 * np.arange(float(elements)) + 1)
    assert isolated.checksum(y) == lab.direct.rust.checksum(y)


def test_a_segment_that_is_new_or_gone_is_noticed(lab: Lab, isolated: LoadedBackend) -> None:
    """Blocks above 64 MiB have segments of their own, which come and go between calls."""
    for _ in range(3):
        big = lab.memory.empty(2**23 + 1000)
        big[:] = 1
        assert isolated.sum(big) == big.size
        del big


def test_shared_arrays_and_views_are_not_copied(lab: Lab, isolated: LoadedBackend) -> None:
    x = in_pool(lab, np.arange(600.0))
    y, out = lab.memory.zeros(600), lab.memory.empty((20, 30))
    before = copies(lab)
    isolated.dot(x, y)
    isolated.dot(x, x)
    isolated.axpy(2.0, x, y)
    isolated.transpose(x.reshape(30, 20)[::2], out[:, :15])
    isolated.checksum(x[100:200])
    with lab.memory.from_array(np.arange(8.0), ["rust", "zig"]) as buffer:
        assert isolated.sum(buffer) == 28
    assert isolated.sum(isolated.transpose(x.reshape(20, 30))[3]) == x.reshape(20, 30)[:, 3].sum()
    assert np.array_equal(copies(lab), before)


def test_other_arrays_are_copied_once_each_way(lab: Lab, isolated: LoadedBackend) -> None:
    x, y = np.arange(100.0), np.ones(100)
    shared = in_pool(lab, x)
    there, back = 0, 1
    for call, copied in (
        (lambda: isolated.dot(x, y), {there: (2, 1600)}),
        (lambda: isolated.dot(x, shared), {there: (1, 800)}),
        (lambda: isolated.dot(x, x), {there: (1, 800)}),  # one piece of memory
        (lambda: isolated.axpy(0.0, shared, y), {there: (1, 800), back: (1, 800)}),
        (lambda: isolated.axpy(0.0, x, y), {there: (2, 1600), back: (1, 800)}),
        (lambda: isolated.sum(np.zeros(0)), {}),
    ):
        before = copies(lab)
        call()
        expected = np.zeros_like(before)
        for reason, sums in copied.items():
            expected[reason] = sums
        assert np.array_equal(copies(lab) - before, expected)


def test_a_call_that_fails_brings_no_copy_back(lab: Lab, isolated: LoadedBackend) -> None:
    options = {"lane": "isolated", "retries": 0, "failover": False}
    for kind, error in (
        ("error_value", NifError),
        ("panic", NifError),
        ("abort", WorkerCrashed),
        ("stop", CallTimeout),
    ):
        if isolated.name == "julia" and kind in ("abort", "stop"):
            continue  # its worker takes seconds to start again
        args = fault(lab, isolated.name, kind)
        fuse = np.array(args[1])
        limit = 0.1 if kind == "stop" else None
        with pytest.raises(error):
            lab.call(isolated.name, "fault", kind, fuse, args[2], timeout=limit, **options)
        assert fuse[0] == 1, "a copy burnt"
        with pytest.raises(error):
            lab.call(isolated.name, "fault", *args, timeout=limit, **options)
        assert args[1][0] == 0, "shared memory shows how far it came"


def test_results_lie_in_shared_memory_and_go_back(lab: Lab, isolated: LoadedBackend) -> None:
    def active() -> tuple[int, int]:
        gc.collect()
        metrics = lab.memory.metrics()
        return metrics.active, metrics.blocks

    before = active()
    x = np.arange(6.0).reshape(2, 3)
    for result in (isolated.transpose(x), isolated.write(x), isolated.write(np.zeros((0, 4), "i2"))):
        assert _core.in_shared_memory(result.ctypes.data, result.nbytes)
        assert result.flags.owndata
    assert isolated.write(x).tolist() == x.tolist()
    assert active() > before
    del result
    for _ in range(50):
        with pytest.raises(NifError):
            lab.call(isolated.name, "write", np.zeros(3)[::2], lane="isolated", strict=True)
        isolated.write(np.zeros(1000))
    assert active() == before


@pytest.mark.parametrize("length", [2, 16_383, 16_384, 65_535, 65_536, 200_000])
@pytest.mark.parametrize("first", ["", "a"])
def test_texts_of_any_length(lab: Lab, isolated: LoadedBackend, length: int, first: str) -> None:
    """In a request or beside it, in a reply or beside it, and never cut within a character."""
    message = first + "é" * (length // 2)
    with pytest.raises(NifError) as caught:
        isolated.error_value(message)
    assert len(caught.value.reason) == len(message)
    assert caught.value.reason == message
    with pytest.raises(NifError, match="no such kind of fault"):
        isolated.fault(message, np.zeros(3, "i8"), np.zeros(1))


def test_strings_come_back(lab: Lab, isolated: LoadedBackend) -> None:
    assert isolated.layout() == lab.direct[isolated.name].layout() == _core.layout()
    data = bytes(range(256)) * 800
    assert isolated.checksum(data) == lab.direct.rust.checksum(np.frombuffer(data, np.uint8))


# Workers that end between calls


@pytest.mark.parametrize("is_new", [False, True], ids=["known", "new"])
def test_a_worker_that_ends_while_idle_costs_nothing(lab: Lab, rng: np.random.Generator, is_new: bool) -> None:
    """Whatever the host has noticed by the time of the next call, also if there is new memory to be told of."""
    rust, one = lab.isolated.rust, np.ones(100)
    y = lab.memory.zeros(100)
    before = lab.snapshot().function("rust", "axpy", "isolated")
    for count in range(1, 201):
        new = lab.memory.empty(2**23 + 1000) if is_new else None
        for _ in range(rng.integers(1, 4)):  # also the one that is next, and the one after
            kill_one(rust)
        time.sleep(rng.uniform(0, 0.0005))
        assert rust.axpy(1.0, one, y) is None
        assert np.all(y == count), "done, and done once"
        del new
    after = lab.snapshot().function("rust", "axpy", "isolated")
    assert (after.calls - before.calls, after.errors - before.errors) == (200, 0)


def test_workers_that_end_while_they_start_cost_nothing(lab: Lab) -> None:
    zig = lab.isolated.zig
    for _ in range(50):
        for pid in zig.workers.pids:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGKILL)
        assert zig.add(1, 2) == 3


numbers = st.integers(-(2**20), 2**20).map(float)
step = st.tuples(
    st.sampled_from(["dot", "axpy", "transpose", "checksum", "kill"]),
    st.sampled_from(["rust", "zig", "nim"]),
    st.sampled_from(["direct", "isolated"]),
    st.integers(0, 3),
    st.integers(0, 3),
    numbers,
)


@settings(max_examples=60)
@given(steps=st.lists(step, min_size=1, max_size=25), seed=st.integers(0, 2**32 - 1), rows=st.integers(0, 40))
def test_any_sequence_of_calls_agrees_with_numpy(lab: Lab, steps: list[Any], seed: int, rows: int) -> None:
    """Four arrays, two of them shared, one of those the other's view; workers end in between."""
    values = np.random.default_rng(seed).integers(-1000, 1000, (4, rows, 7)).astype(float)
    shared = lab.memory.empty((2 * rows, 7))
    arrays = [values[0].copy(), shared[rows:], shared[:rows], values[3].copy()]
    mirror = [array.copy() for array in values]
    for array, value in zip(arrays, mirror, strict=True):
        array[...] = value
    for what, language, lane, i, j, a in steps:
        backend = getattr(lab, lane)[language]
        x, y = arrays[i].ravel(), arrays[j].ravel()
        if what == "kill":
            kill_one(lab.isolated[language])
        elif what == "dot":
            assert backend.dot(x, y) == mirror[i].ravel() @ mirror[j].ravel()
        elif what == "checksum":
            assert backend.checksum(arrays[i]) == lab.direct.rust.checksum(mirror[i])
        elif what == "transpose":
            assert np.array_equal(backend.transpose(arrays[i]), mirror[i].T)
        elif i != j:
            backend.axpy(np.sign(a), x, y)
            mirror[j] += np.sign(a) * mirror[i]
    for array, value in zip(arrays, mirror, strict=True):
        assert np.array_equal(array, value)


# Processes


@contextmanager
def client(*command: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program of lane_client.py."""
    line = [sys.executable, str(CLIENT), *command]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str]) -> Any:
    """Read the next thing that a client tells."""
    assert process.stdout
    return json.loads(process.stdout.readline())


def test_a_worker_has_no_descriptors_but_its_own(lab: Lab, isolated: LoadedBackend, tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        if isolated.name != "julia":
            isolated.workers.restart()
        isolated.noop()
        wait_for(lambda: isolated.workers.ready)  # one that is starting hasn't closed them yet
        for pid in isolated.workers.pids:
            links = [os.readlink(it) for it in Path(f"/proc/{pid}/fd").iterdir()]
            assert str(tmp_path / "secret") not in links
            if isolated.name == "julia":
                continue  # a runtime opens some for itself
            kinds = {link.partition(":[")[0] for link in links}
            assert kinds <= {"/dev/null", "pipe", "socket", "/memfd:nif_lab lane (deleted)"}
            assert len(links) <= 8


@pytest.mark.parametrize(("crashes", "languages"), [(0, nif_lab.backends.names()), (2, ("rust", "zig", "nim"))])
def test_a_lab_that_is_gone_leaves_nothing(crashes: int, languages: tuple[str, ...]) -> None:
    """Neither processes nor descriptors nor mappings: the second and the third Lab end where the first did."""
    with client("leftovers", str(crashes), *languages) as process:
        first, *later = told(process)["seen"]
    assert first["children"] == []
    assert first["maps"] == []
    assert all(it == first for it in later)
    assert not [it for it in first["fds"] if "memfd" in it or "pidfd" in it]


def test_workers_end_with_their_host() -> None:
    with client("hold", *nif_lab.backends.names()) as process:
        pids = told(process)["pids"]
        assert len(pids) >= 4
        process.kill()
        process.wait()
        wait_for(lambda: not any(map(alive, pids)))


def test_a_lab_outlives_the_thread_that_made_it() -> None:
    made: list[Lab] = []
    thread = threading.Thread(target=lambda: made.append(Lab(["zig"], lane="isolated")))
    thread.start()
    thread.join()
    lab = made.pop()
    working = lab.zig.workers.pids
    for _ in range(20):
        assert lab.zig.add(1, 2) == 3
        time.sleep(0.005)
    assert lab.zig.workers.pids[0] == working[0]


def test_a_lab_goes_when_it_is_dropped_however_it_was_used() -> None:
    """Nothing that it made holds it: neither functions nor lanes nor the workers' thread."""
    lab = Lab(["rust", "zig"])
    kept = lab.isolated.rust.add, lab.faults, lab.recovery
    lab.faults.inject("zig", "null_store")
    pids = lab.isolated.rust.workers.pids + lab.isolated.zig.workers.pids
    del lab
    gc.collect()
    assert kept[0](1, 2) == 3, "a function that somebody has keeps its worker"
    del kept
    gc.collect()
    wait_for(lambda: not any(map(alive, pids)))


@pytest.mark.parametrize("function", ["infinite_loop", "stop", "mandelbrot"])
def test_ctrl_c_ends_a_call(function: str) -> None:
    with client("interrupt", function) as process:
        assert told(process)["ready"]
        time.sleep(0.2)
        assert process.poll() is None
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        after = told(process)
    assert after["at"] - sent < 1.0
    assert after["answer"] == 3
    assert after["survived"] == (function == "mandelbrot"), "who looks at the flag keeps the worker"
