"""The segment: one layout in the core, in Python and in the document; sums over threads; slots that come back; fork."""

from __future__ import annotations

import fcntl
import gc
import mmap
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nif_lab import Lab, _core, segment
from nif_lab.errors import NifError
from nif_lab.segment import COUNTS, ENTRY, HEADER, Segment, SegmentError, attach

FIELDS, NUMBERS = _core.telemetry_layout()
DTYPES = {
    "Header": HEADER,
    "Backend": segment.BACKEND,
    "Function": ENTRY,
    "Counts": COUNTS,
    "Call": segment.CALL,
    "Error": segment.ERROR,
}
DOCUMENT = (Path(__file__).parents[1] / "docs" / "telemetry.md").read_text()


@pytest.fixture
def small() -> Lab:
    return Lab(["rust"])


def starts(dtype: np.dtype) -> set[int]:
    """Return where a dtype's fields begin, those of one number in a list of numbers too."""
    found = set()
    for name in dtype.names or ():
        kind, at = dtype.fields[name][:2]  # type: ignore[index]
        length = int(np.prod(kind.shape, dtype=int))
        found |= {at + i * (kind.itemsize // length) for i in range(length)}
    return found


def test_the_core_and_python_have_one_layout() -> None:
    assert {part for part, *_ in FIELDS} == set(DTYPES)
    for part, dtype in DTYPES.items():
        fields = [it[1:] for it in FIELDS if it[0] == part]
        assert max(at + size for _, at, size in fields) == dtype.itemsize, part
        for name, at, size in fields:
            assert at in starts(dtype), f"{part}.{name}: no field of Python's begins at {at}"
            if name in dtype.fields and name != "reserved":  # type: ignore[operator]
                kind, python_at = dtype.fields[name][:2]  # type: ignore[index]
                assert (python_at, kind.itemsize) == (at, size), f"{part}.{name}"
        common = {it[0] for it in fields} & set(dtype.names or ())
        assert len(common) >= min(len(fields), len(dtype.names or ())) // 3, part
    kept = segment.CALLS_KEPT, segment.TIMES_KEPT, segment.SAMPLES_KEPT, segment.ERRORS_KEPT
    assert kept == tuple(NUMBERS[it] for it in ("calls", "times", "samples", "errors"))
    assert (NUMBERS["version"], NUMBERS["buckets"]) == (segment.VERSION, segment.BUCKETS)
    assert NUMBERS["segment_bytes"] <= segment.LARGEST


def test_a_segment_says_where_its_parts_are(small: Lab) -> None:
    header = small.telemetry.segment.header
    most = [int(header[it]) for it in ("max_backends", "max_functions", "max_shards")]
    assert most == [NUMBERS["max_backends"], NUMBERS["max_functions"], NUMBERS["max_shards"]]
    backends, functions, shards = most
    call = segment.CALL.itemsize
    sizes = [
        backends * segment.BACKEND.itemsize,
        functions * ENTRY.itemsize,
        shards * functions * COUNTS.itemsize,
        backends * segment.CALLS_KEPT * call,
        segment.TIMES_KEPT * call,
        segment.SAMPLES_KEPT * call,
        segment.ERRORS_KEPT * segment.ERROR.itemsize,
    ]
    ends = np.cumsum([HEADER.itemsize, *sizes]).tolist()
    assert header["at"].tolist() == ends[:-1]
    assert header["size"] == NUMBERS["segment_bytes"] == ends[-1]


def test_the_document_has_the_same_layout() -> None:
    layout = DOCUMENT[DOCUMENT.index("## Layout, version") :]
    assert layout.startswith(f"## Layout, version {NUMBERS['version']}\n")
    tables = [
        [int(it) for it in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]
        for table in layout.split("| offset | type | field |")[1:]
    ]
    for part, offsets in zip(("Header", "Counts", "Call", "Error"), tables, strict=True):
        assert offsets == sorted(offsets)
        assert set(offsets) <= starts(DTYPES[part]), part
        fields = [it for it in FIELDS if it[0] == part and it[1] != "words"]
        # A row may stand for some fields that follow each other.
        assert len(offsets) >= len(fields) - 4, part
    assert f"{NUMBERS['max_functions']:,} functions at a time" in DOCUMENT


def synthetic(shards: int, functions: int) -> tuple[int, np.ndarray]:
    """Make a segment as a free-threaded core would: its descriptor, and its counts to be filled."""
    sizes = [64, 1024 * 128, 16 * 1024 * COUNTS.itemsize, 1024 * 32, 10_000 * 32, 10_000 * 32, 1_000 * 256]
    ends = np.cumsum([256, *sizes])
    descriptor = os.memfd_create("nif_lab telemetry", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, int(ends[-1]))
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    everything = np.frombuffer(mmap.mmap(descriptor, 0), np.uint8)
    header = everything[:256].view(HEADER)
    header["magic"], header["version"], header["at"] = segment.MAGIC, segment.VERSION, ends[:-1]
    header["n_shards"], header["max_shards"], header["n_backends"], header["n_functions"] = shards, 16, 1, functions
    header["max_functions"] = 1024
    counts = everything[ends[2] : ends[3]].view(COUNTS).reshape(16, 1024)
    return descriptor, counts


def test_readers_add_the_shards_up() -> None:
    random = np.random.default_rng(7)
    descriptor, counts = synthetic(shards=3, functions=2)
    seen = counts[:3, :2]
    for field in ("calls", "errors", "recovered", "timed", "total", "max", "histogram"):
        seen[field] = random.integers(1, 1000, seen[field].shape)
    seen["min"] = [[30, 40], [20, 50], [99, 60]]
    seen["timed"][1, 0] = 0  # its shortest time means nothing
    counts[3]["calls"] = 10**6  # not shown yet
    rows = Segment(descriptor).functions()
    os.close(descriptor)
    for field in ("calls", "errors", "recovered", "timed", "total", "histogram"):
        assert np.array_equal(rows[field], seen[field].sum(axis=0)), field
    assert rows["min"].tolist() == [30, 40]
    assert rows["max"].tolist() == seen["max"].max(axis=0).tolist()


def test_a_reader_of_another_version_says_so() -> None:
    descriptor, _ = synthetic(1, 1)
    os.pwrite(descriptor, (2).to_bytes(4, "little"), 8)
    with pytest.raises(SegmentError, match=r"layout version 2, this nif_lab reads 3\. To fix: use the same release"):
        Segment(descriptor)
    os.close(descriptor)


def test_a_functions_slot_comes_back(small: Lab) -> None:
    core, number = small.telemetry.core, small.telemetry.core.add_backend("cells")
    for i in range(3000):  # as cells that run again: the new function is made before the old one goes
        recorder = _core.Recorder(core, number, f"cell {i % 2}")
        recorder.record(1e-3)
    del recorder
    for i in range(2 * NUMBERS["max_functions"]):  # as many names
        _core.Recorder(core, number, f"name {i}").record(1e-3)
    functions = small.telemetry.segment.functions()
    assert len(functions) == NUMBERS["max_functions"]
    assert small.snapshot().function("cells", f"name {2 * NUMBERS['max_functions'] - 1}").calls == 1
    rust = small.snapshot().backend("rust")
    small.rust.add(1, 2)
    assert small.snapshot().backend("rust").calls == rust.calls + 1  # who lives keeps its place
    # Records of those that are gone aren't told under others' names.
    told = {(it["function"], round(it["duration_ns"])) for it in small.history(10_000).records}
    assert all(name.startswith("name") for name, _ in told if name != "add")


def test_a_full_segment_says_so(small: Lab) -> None:
    core, number = small.telemetry.core, small.telemetry.core.add_backend("many")
    with pytest.raises(ValueError, match="room for 1024 functions at a time"):
        held = [_core.Recorder(core, number, f"{i}") for i in range(NUMBERS["max_functions"] + 1)]
    held = [_core.Recorder(core, number, f"{i}") for i in range(900)]
    held.pop().record(2.0)
    assert len(held) == 899


def in_child(work: Callable[[], None], seconds: int = 20) -> None:
    """Run it in a child of fork; it must return."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            os.write(2, f"in the child: {error!r}\n".encode())
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_parent_and_child_count_each_for_itself(small: Lab) -> None:
    x, calls = np.arange(50.0), 20_000
    small.rust.dot(x, x)

    def count() -> None:
        for _ in range(calls):
            small.rust.dot(x, x)

    def work() -> None:
        count()
        with pytest.raises(NifError):
            small.rust.dot(x, x[:2])
        small.telemetry.recorder("step")(0.5)
        now = small.snapshot()
        assert now.function("rust", "dot").calls == calls + 1, now.function("rust", "dot").calls
        assert now.function("rust", "dot").errors == 1
        assert now.function("python", "step").mean_ns == pytest.approx(5e8, rel=1e-3)
        assert set(small.history().records["function"]) == {"dot", "step"}
        (mine,) = attach(os.getpid())
        assert mine.header["pid"] == os.getpid()
        in_child(grandchild)

    def grandchild() -> None:
        small.rust.dot(x, x)
        assert small.snapshot().function("rust", "dot").calls == 1

    thread = threading.Thread(target=count)
    thread.start()
    in_child(work)
    thread.join()
    dot = small.snapshot().function("rust", "dot")
    assert (dot.calls, dot.errors) == (calls + 1, 0)
    assert os.getpid() == small.telemetry.segment.header["pid"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("first", ["enabled", "recorder", "fails", "off", "cell", "gone"])
def test_whatever_a_child_does_first_is_its_own(small: Lab, first: str) -> None:
    record = small.telemetry.recorder("step")
    record(0.1)
    kept: list[Lab] = [Lab(["rust"])]

    def work() -> None:
        telemetry = small.telemetry
        if first == "enabled":
            assert telemetry.enabled
        elif first == "recorder":
            record(0.1)
        elif first == "fails":
            with pytest.raises(NifError):
                small.rust.add("x", 1)
            assert small.snapshot().function("rust", "add").errors == 1
            return
        elif first == "off":
            telemetry.enabled = False
            small.rust.add(1, 2)
            assert small.snapshot().function("rust", "add").calls == 0
            telemetry.enabled = True
        elif first == "cell":
            telemetry.core.cell = 7
        else:
            kept.clear()
            gc.collect()
        small.rust.add(1, 2)
        assert small.snapshot().function("rust", "add").calls == 1

    in_child(work)
    now = small.snapshot()
    assert now.function("rust", "add").calls == 0
    assert now.function("python", "step").calls == 1
    assert (small.telemetry.enabled, small.telemetry.core.cell) == (True, 0)


def test_a_child_that_only_starts_a_program_costs_no_segment() -> None:
    code = """
import nif_lab, os
lab = nif_lab.Lab(["rust"])
before = len(os.listdir("/proc/self/fd"))
pid = os.fork()
if pid == 0:
    os._exit(0 if len(os.listdir("/proc/self/fd")) == before else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["0"], done.stdout + done.stderr
