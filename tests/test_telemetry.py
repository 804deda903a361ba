"""Telemetry: nothing lost, nothing torn, nobody delayed, and a switch that switches."""

from __future__ import annotations

import fcntl
import math
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nif_lab import Lab
from nif_lab.errors import NifError
from nif_lab.segment import BOUNDS, BUCKETS, Segment, SegmentError, attach, percentile
from nif_lab.telemetry import Event, Telemetry


@pytest.fixture
def small() -> Iterator[Lab]:
    """A Lab of its own, so that its counters are the test's alone."""
    return Lab(["rust", "zig"])


def wait_for(condition, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_eight_threads_lose_no_count(small: Lab) -> None:
    x = np.arange(10.0)

    def work() -> None:
        for _ in range(5_000):
            small.rust.dot(x, x)
            small.zig.add(1, 2)
        for _ in range(50):
            small.rust.smooth(np.ones((200, 200)), 3)  # runs without the GIL
            with pytest.raises(NifError):
                small.zig.dot(x, x[:2])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    now = small.snapshot()
    assert now.function("rust", "dot").calls == now.function("zig", "add").calls == 40_000
    smooth, failed = now.function("rust", "smooth"), now.function("zig", "dot")
    assert (smooth.calls, smooth.timed, smooth.errors) == (400, 400, 0)
    assert (failed.calls, failed.errors, failed.timed) == (400, 400, 0)
    assert now.backend("zig").calls == 40_400


def watch(pid: int, seconds: float) -> tuple[int, int]:
    """In another process: read the rings again and again; (records seen, records that make no sense)."""
    segment = attach(pid)[-1]  # the test run's other Labs have one too; the youngest is the test's
    seen = broken = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for records in (segment.calls(), segment.times()):
            functions = segment.functions()
            seen += len(records)
            broken += int((records["function"] >= len(functions)).sum() + (records["weight"] == 0).sum())
            broken += int((records["ticks"] > 1 << 40).sum())
            slots = functions[records["function"]]["name"]
            broken += int((~np.isin(slots, [b"dot", b"add", b"axpy"])).sum())
        errors = segment.errors()
        broken += sum(not it.startswith(b"expected f64[n] with n = 10, got f64[") for it in errors["text"])
    return seen, broken


def test_a_reader_in_another_process_sees_no_torn_record(small: Lab) -> None:
    x = np.arange(10.0)
    stop = threading.Event()

    def work(i: int) -> None:
        while not stop.is_set():
            small.rust.dot(x, x)
            small.zig.add(i, 2)
            small.zig.axpy(1.0, x, np.empty(10))
            with pytest.raises(NifError):
                small.rust.dot(x, x[:i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seen, broken = pool.apply(watch, (os.getpid(), 1.5))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert seen > 10_000
    assert broken == 0


@pytest.mark.parametrize(("seconds", "one_in"), [(1e-7, 64), (2e-6, 16), (15e-6, 4), (100e-6, 1)])
def test_the_quicker_the_rarer_the_history(small: Lab, seconds: float, one_in: int) -> None:
    record = small.telemetry.recorder("step")
    for _ in range(64 * 10):
        record(seconds)
    history = small.history(10_000).records
    weights = history["weight"][history["function"] == "step"]
    assert set(weights) == {1, one_in}
    assert small.snapshot().function("python", "step").calls == 640


def test_quick_functions_are_timed_now_and_then_and_slow_ones_always(small: Lab) -> None:
    x = np.arange(100.0)
    for _ in range(64 * 100):
        small.rust.dot(x, x)
    big = np.ones((400, 400))
    for _ in range(20):
        small.rust.smooth(big, 5)
    now = small.snapshot()
    dot, smooth = now.function("rust", "dot"), now.function("rust", "smooth")
    assert dot.calls == 6400
    assert 100 <= dot.timed <= 450  # its pace changes with the machine's: once in 64, or in 16
    assert smooth.timed == smooth.calls == 20


def test_the_switch_stops_everything(small: Lab) -> None:
    small.rust.add(1, 2)
    before, history = small.snapshot().function("rust", "add").calls, len(small.history())
    small.telemetry.enabled = False
    assert small.telemetry.enabled is False
    small.rust.add(1, 2)
    with pytest.raises(NifError):
        small.rust.add("x", 2)
    assert small.snapshot().function("rust", "add").calls == before
    assert len(small.history()) == history
    small.telemetry.enabled = True
    small.rust.add(1, 2)
    assert small.snapshot().function("rust", "add").calls == before + 1


def test_history_keeps_the_last_thousand_calls_in_order(small: Lab) -> None:
    start = time.time()
    matrix = np.ones((150, 150))  # long enough for each call to be timed
    for i in range(1100):
        (small.rust if i % 2 else small.zig).smooth(matrix, 5)
    with pytest.raises(NifError):
        small.zig.smooth(matrix, -1)
    history = small.history()
    assert len(history) == 1000
    assert np.all(np.diff(history.records["time"]) >= 0)
    assert np.all(np.abs(history.records["time"] - start) < 60)
    assert set(history.records["backend"]) == {"rust", "zig"}
    last = history.records[-1]
    assert (last["function"], last["status"], last["lane"]) == ("smooth", "NifValueError", "direct")
    assert "zig.smooth: NifValueError" in repr(history)
    assert np.asarray(history).dtype.names == history.records.dtype.names


def test_rings_keep_what_the_documents_say(small: Lab) -> None:
    for i in range(1100):
        with pytest.raises(NifError):
            small.rust.error_value(f"number {i} é" + "x" * 300)
    segment = small.telemetry.segment
    errors = segment.errors()
    assert len(errors) == 1000
    assert errors["text"][-1].decode().startswith("number 1099 é")
    assert len(errors["text"][-1]) <= 224
    assert len(segment.calls()) == 1024
    header = segment.header
    assert (header["pid"], header["max_backends"], header["max_functions"]) == (os.getpid(), 16, 1024)


def test_memory_samples_follow_shared_arrays(small: Lab) -> None:
    kept = []
    for _ in range(5):
        before = len(small.telemetry.segment.samples())
        kept.append(small.rust.write(np.zeros(1000)))
        wait_for(lambda before=before: len(small.telemetry.segment.samples()) > before)
    samples = small.telemetry.segment.samples()
    assert np.all(np.diff(samples["bytes"].astype(int)) == 8000)
    assert samples["blocks"].tolist() == [1, 2, 3, 4, 5]
    del kept
    wait_for(lambda: small.telemetry.segment.samples()["bytes"][-1] == 0)


def test_subscribers_get_every_event_and_can_harm_nobody(small: Lab, caplog: pytest.LogCaptureFixture) -> None:
    got: list[Event] = []
    errors: list[Event] = []
    memory: list[Event] = []

    def raises(event: Event) -> None:
        raise RuntimeError("a subscriber's own mistake")

    def sleeps(event: Event) -> None:
        time.sleep(60)

    with small.subscribe("nif:performance", got.append), small.subscribe("nif:errors", errors.append):
        bad = small.subscribe("nif:performance", raises)
        small.subscribe("nif:performance", sleeps)  # a daemon: it may sleep for ever
        watching = small.subscribe("nif:memory", memory.append)
        time.sleep(0.1)
        start = time.perf_counter()
        for _ in range(100):
            small.rust.smooth(np.ones((300, 300)), 2)
        assert time.perf_counter() - start < 5
        with pytest.raises(NifError):
            small.zig.dot(np.ones(2), np.ones(3))
        kept = small.rust.write(np.ones(3))
        wait_for(lambda: len(got) >= 101 and errors and bad.failures)
        wait_for(lambda: memory and memory[-1].data["bytes"] == kept.nbytes)
        bad.close()
        watching.close()
    names = {it.function for it in got}
    assert names == {"smooth", "write"}
    assert all(it.topic == "nif:performance" and it.data["duration_ns"] > 0 for it in got)
    (error,) = errors
    assert (error.backend, error.function, error.data["kind"], error.data["argument"]) == (
        "zig",
        "dot",
        "NifValueError",
        1,
    )
    assert error.data["message"] == "expected f64[n] with n = 2, got f64[3]"
    assert {"bytes": kept.nbytes, "blocks": 1, "pressure": "normal"} in [it.data for it in memory]
    assert "a subscriber of nif:performance failed" in caplog.text


def test_an_unknown_topic_is_refused(small: Lab) -> None:
    with pytest.raises(ValueError, match="no topic 'nif:nothing'; there are nif:performance, nif:errors, nif:memory"):
        small.subscribe("nif:nothing", print)


@given(st.lists(st.integers(0, 1 << 45), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.99, 0.999]))
def test_percentiles_are_off_by_six_percent_at_most(times: list[int], share: float) -> None:
    histogram = np.zeros(BUCKETS, np.uint64)
    np.add.at(histogram, np.searchsorted(BOUNDS, times, side="right") - 1, np.uint64(1))
    exact = float(np.sort(times)[max(int(np.ceil(share * len(times))) - 1, 0)])
    assert percentile(histogram, share) == pytest.approx(exact, rel=0.0625, abs=0.5)


def test_percentiles_of_nothing_are_zero() -> None:
    assert percentile(np.zeros(BUCKETS, np.uint64), 0.5) == 0.0


def test_the_cell_number_is_recorded() -> None:
    code = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell("import nif_lab; lab = nif_lab.Lab(['rust'])", store_history=True)
shell.run_cell("lab.rust.add(1, 2)", store_history=True)
shell.run_cell("1 + 1", store_history=True)
shell.run_cell("lab.rust.add(1, 2)", store_history=True)
print(shell.user_ns["lab"].history().records["cell"].tolist())
fails = "try: lab.rust.dot([1.0], [1.0, 2.0])\\nexcept ValueError: pass"
shell.run_cell("for _ in range(1000): lab.rust.add(1, 2)\\n" + fails, store_history=True)
shell.run_cell("lab.rust.noop(); print(lab.cells_report())", store_history=True)
report = shell.user_ns["lab"].cells_report()
print([(it.cell, it.calls, it.errors, it.is_running) for it in report])
print([(it.function, it.calls) for it in report.cells[2].functions], 0 < report.cells[2].native_seconds < 60)
print(report._repr_html_().count("<tr>"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert "[2, 4]" in lines
    assert re.search(r"^ +\[5\] .* 1,001 +1  rust\.", done.stdout, re.M)
    assert re.search(r"^ *\[6\*\] .* 1 +0  rust\.noop 1 × ", done.stdout, re.M)
    assert lines[-3] == str([(2, 1, 0, False), (4, 1, 0, False), (5, 1001, 1, False), (6, 1, 0, False)])
    assert "('add', 1000)" in lines[-2]
    assert lines[-2].endswith("True")
    assert lines[-1] == "5"
    assert repr(Lab(["rust"]).cells_report()) == "no notebook cell has called a native function"


def test_a_segment_is_private_and_goes_with_its_process() -> None:
    code = (
        "import nif_lab, os, sys; lab = nif_lab.Lab(['rust']);"
        "print(os.fstat(lab.telemetry.core.fileno()).st_mode & 0o777, flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout is not None
        try:
            assert int(child.stdout.readline()) == 0o600
            (segment,) = attach(child.pid)
            assert segment.backends() == ["rust"]
        finally:
            child.kill()
    assert segment.header["pid"] == child.pid  # what was mapped stays readable
    with pytest.raises(SegmentError, match=f"there is no process {child.pid}"):
        attach(child.pid)


def test_what_is_no_segment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SegmentError, match="has no Lab"):
        attach(os.getppid())
    path = tmp_path / "file"
    path.write_bytes(b"\0" * 4096)
    with path.open("rb") as file, pytest.raises(SegmentError, match="no telemetry segment"):
        Segment(file.fileno())
    with os.fdopen(os.memfd_create("other", os.MFD_ALLOW_SEALING), "r+b") as file:
        file.write(b"NIFLABTM" + (9).to_bytes(4, "little") + b"\0" * 4096)
        file.flush()
        with pytest.raises(SegmentError, match="isn't sealed against shrinking"):  # reading what is gone would kill us
            Segment(file.fileno())
        os.ftruncate(file.fileno(), 1 << 40)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        with pytest.raises(SegmentError, match="too large"):
            Segment(file.fileno())
    with os.fdopen(os.memfd_create("other", os.MFD_ALLOW_SEALING), "r+b") as file:
        file.write(b"NIFLABTM" + (9).to_bytes(4, "little") + b"\0" * 4096)
        file.flush()
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        with pytest.raises(SegmentError, match="layout version 9, this nif_lab reads 3"):
            Segment(file.fileno())


def test_a_lab_that_is_gone_leaves_nothing_behind() -> None:
    """Neither its segment nor the copy of a library that a panic made it open; in a notebook, no cell event either."""
    code = """
import gc, os, time
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
import nif_lab, nif_lab.errors

def left():
    gc.collect()
    maps = Path("/proc/self/maps").read_text()
    return (len(os.listdir("/proc/self/fd")), maps.count("nif_lab telemetry"), maps.count("nif_lab library"))

def use():
    lab = nif_lab.Lab(["rust", "zig"])
    try:
        lab.zig.panic("x")
    except nif_lab.errors.NifPanic:
        lab.zig.add(1, 2)
    assert left()[1:] > (0, 0)

before = left()
for _ in range(5):
    use()
    shell.run_cell("1", store_history=True)
end = time.monotonic() + 5
while left() != before and time.monotonic() < end:
    time.sleep(0.01)  # the memory's thread ends by itself
print(left() == before, len(shell.events.callbacks["pre_run_cell"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["True 0"], done.stdout + done.stderr


def test_labs_do_not_share_counters() -> None:
    one, two = Lab(["rust"]), Lab(["rust"])
    one.rust.add(1, 2)
    assert (one.snapshot().function("rust", "add").calls, two.snapshot().function("rust", "add").calls) == (1, 0)
    assert isinstance(one.telemetry, Telemetry)


def test_a_step_of_ones_own_is_listed_with_the_functions() -> None:
    lab = Lab(["rust"])
    record = lab.telemetry.recorder("load")
    assert lab.telemetry.recorder("load") == record
    lab.telemetry.recorder("save")(1)
    for _ in range(1000):
        record(2e-6)
    load = lab.snapshot().function("python", "load")
    assert (load.calls, load.timed, load.errors) == (1000, 1000, 0)
    assert load.mean_ns == pytest.approx(2000, rel=1e-3)
    assert lab.snapshot().function("python", "save").mean_ns == pytest.approx(1e9, rel=1e-3)
    history = lab.history().records
    mine = history[history["function"] == "load"]
    assert set(mine["backend"]) == {"python"}
    lab.telemetry.enabled = False
    record(2e-6)
    assert lab.snapshot().function("python", "load").calls == 1000


@pytest.mark.parametrize(("seconds", "error"), [(-1.0, ValueError), (math.nan, ValueError), ("1", TypeError)])
def test_a_duration_is_a_number_of_seconds(seconds: object, error: type[Exception]) -> None:
    lab = Lab(["rust"])
    with pytest.raises(error):
        lab.telemetry.recorder("load")(seconds)  # type: ignore[arg-type]
    assert lab.snapshot().function("python", "load").calls == 0
