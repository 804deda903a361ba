"""Pools: arrays that own their blocks, the collector, metrics, limits, and that every backend sees them."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from nif_lab import Lab, _core
from nif_lab.errors import (
    BufferReleased,
    NifMemoryError,
    PoolExhausted,
)
from nif_lab.memory import POOLS, MemoryManager, Pool

SMALL = (Pool("small", 4096, 16, 1 << 20), Pool("large", 1 << 20, 4, 8 << 20))


@pytest.fixture
def memory() -> MemoryManager:
    return MemoryManager()


def active(memory: MemoryManager) -> tuple[int, int]:
    """Bytes and blocks in use."""
    gc.collect()
    metrics = memory.metrics()
    return metrics.active, metrics.blocks


@pytest.mark.parametrize("dtype", ["f8", "f4", "i2", "?", "c16", np.dtype("i8"), np.float32])
@pytest.mark.parametrize("shape", [0, 7, (), (3, 4), [2, 3, 4], (0, 5), (1,) * 12])
def test_arrays_are_numpys_own_but_for_where_they_lie(memory: MemoryManager, shape: object, dtype: object) -> None:
    expected = np.zeros(shape, dtype)  # type: ignore[call-overload]
    for make in (memory.empty, memory.zeros):
        array = make(shape, dtype)
        assert type(array) is np.ndarray
        assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
        assert array.strides == expected.strides or not array.size
        assert array.flags.owndata
        assert array.flags.writeable
        assert array.ctypes.data % 64 == 0
        assert _core.in_shared_memory(array.ctypes.data, array.nbytes)
    assert np.array_equal(memory.zeros(shape, dtype), expected)


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "says"),
    [
        (-1, "f8", ValueError, "0 elements or more, got -1"),
        ((2**40, 2**40), "f8", ValueError, "more than can be addressed"),
        (3, object, TypeError, "Python objects can't live in shared memory"),
        ((1,) * 65, "f8", ValueError, "at most 64 axes"),
        ("x", "f8", TypeError, "an int or a sequence of ints, got str"),
        (1.5, "f8", TypeError, "an int or a sequence of ints, got float"),
        (3, "no such type", TypeError, "no such type"),
        (2**50, "u1", PoolExhausted, "pool 'large'"),
    ],
)
def test_bad_shapes_and_types_are_refused(
    memory: MemoryManager, shape: object, dtype: object, error: type[Exception], says: str
) -> None:
    for make in (memory.empty, memory.zeros, memory.allocate):
        with pytest.raises(error, match=says):
            make(shape, dtype)  # type: ignore[operator]
    assert active(memory) == (0, 0)


def test_a_wrong_number_of_arguments_is_refused(memory: MemoryManager) -> None:
    with pytest.raises(TypeError, match="a shape and a dtype, 3 given"):
        memory.empty(1, "f8", 2)
    with pytest.raises(TypeError):
        memory.empty()


def test_zeros_are_zero_also_where_something_was(memory: MemoryManager) -> None:
    for n in (10, 5000, 300_000, 9_000_000):
        first = memory.empty(n)
        first[:] = np.nan
        address = first.ctypes.data
        del first
        again = memory.zeros(n)
        assert again.ctypes.data == address, "the block is used again"
        assert not again.any()
        memory.trim()
        del again


def test_memory_goes_back_with_the_last_view(memory: MemoryManager) -> None:
    array = memory.empty((100, 100))
    view = array[10:20, ::2].T
    del array
    assert active(memory) == (80_000, 1)
    del view
    assert active(memory) == (0, 0)


def test_an_array_can_be_resized_in_place(memory: MemoryManager) -> None:
    array = memory.empty(10)
    array[:] = np.arange(10.0)
    array.resize(100_000)
    assert array[:10].tolist() == list(range(10))
    assert not array[10:].any()
    assert _core.in_shared_memory(array.ctypes.data, array.nbytes)
    array.resize(5)
    assert array.tolist() == [0, 1, 2, 3, 4]
    del array
    assert active(memory) == (0, 0)


def test_every_thread_may_make_arrays(memory: MemoryManager) -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        random = np.random.default_rng(number)
        kept: list[np.ndarray] = []
        for _ in range(3000):
            kept.append(memory.zeros(int(random.integers(1, 5000)), "u1"))
            if kept[-1].any():
                wrong.append(number)
            kept[-1][:] = number
            if len(kept) > 20:
                gone = kept.pop(int(random.integers(len(kept))))
                if not (gone == number).all():
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert active(memory) == (0, 0)


def test_buffers_that_nobody_can_release_are_collected(memory: MemoryManager) -> None:
    memory.allocate(1000, languages=["rust"])  # dropped at once
    kept = memory.allocate(500, languages=["rust", "zig"])
    before = memory.metrics().collections
    freed = memory.collect()
    after = memory.metrics().collections
    assert after.count > before.count
    assert freed + before.bytes in (8000, 16000)  # it also collects by itself
    assert after.buffers == 1
    assert kept.reference_count == 2


def test_the_collector_comes_by_itself(memory: MemoryManager) -> None:
    memory.allocate(1000, languages=["rust"])
    end = time.monotonic() + 5
    while active(memory)[0]:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert memory.metrics().collections.buffers == 1


def test_a_language_that_is_gone_owns_nothing(memory: MemoryManager) -> None:
    one, both = memory.allocate(10, languages=["nim"]), memory.allocate(10, languages=["nim", "rust"])
    assert memory.disown("nim") == 2
    assert one.released
    with pytest.raises(BufferReleased):
        np.asarray(one)
    assert both.owners == {"rust": 1}
    assert memory.metrics().languages == {"rust": (1, 80)}


def test_metrics_say_what_is_there(memory: MemoryManager) -> None:
    assert memory.metrics().active == 0
    kept = [memory.empty(100, "u1"), memory.empty(100_000, "u1"), memory.empty(5_000_000, "u1")]
    buffer = memory.allocate(10, languages=["julia"])
    for array in kept:
        array[:] = 1
    metrics = memory.metrics()
    assert [it.name for it in metrics.pools] == [it.name for it in POOLS] == ["small", "medium", "large"]
    assert [it.active for it in metrics.pools] == [180, 100_000, 5_000_000]
    assert [it.blocks for it in metrics.pools] == [2, 1, 1]
    assert metrics.committed >= metrics.active
    assert metrics.languages == {"julia": (1, 80)}
    del kept, array
    buffer.close()
    metrics = memory.metrics()
    assert (metrics.active, metrics.blocks, metrics.peak) == (0, 0, 5_100_180)
    assert metrics.cached > 5_000_000
    assert memory.trim() >= 5_000_000
    metrics = memory.metrics()
    assert metrics.cached < 10_000
    assert all(it.allocations == it.releases > 0 for it in metrics.pools)
    for text in (repr(memory), memory._repr_html_()):
        assert all(name in text for name in ("small", "medium", "large"))


def test_the_map_shows_the_blocks(memory: MemoryManager) -> None:
    kept = [memory.empty(1000, "u1") for _ in range(3)]
    html = memory._repr_html_()
    assert html.count("<rect") == 3
    assert 'aria-label="small, segment' in html
    assert "small, segment 1: 3 KiB in use; the first 3.75 KiB of 3.91 MiB" in html
    del kept


def test_pressure_is_seen(memory: MemoryManager) -> None:
    end = time.monotonic() + 5
    while (pressure := memory.metrics().pressure) is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert pressure.level in ("normal", "high", "critical")
    assert 0 < pressure.used < pressure.limit
    assert pressure.source


def test_a_pool_that_is_full_says_so_and_goes_on() -> None:
    memory = MemoryManager(SMALL)
    kept = []

    def fill() -> None:
        for _ in range(1000):
            kept.append(memory.empty(4096, "u1"))

    with pytest.raises(PoolExhausted, match=r"pool 'small' has no room for 4096 bytes.*a larger limit"):
        fill()
    assert len(kept) == 256
    assert memory.empty(100_000, "u1").nbytes == 100_000, "other pools have room"
    kept.pop()
    assert memory.empty(4096, "u1").nbytes == 4096


def test_abandoned_buffers_make_room() -> None:
    memory = MemoryManager(SMALL)
    for _ in range(100):
        memory.allocate(1 << 20, "u1")  # 100 MiB through a pool of 8
    assert memory.metrics().collections.count > 0


@pytest.mark.parametrize(
    "pools",
    [
        (),
        (Pool("x", 0, 1, 1),),
        (Pool("x", 10, 1, 5),),
        (Pool("x", 10, 1, 100), Pool("y", 10, 1, 100)),
        (Pool("x", 10, 1, 100), Pool("x", 20, 1, 100)),
    ],
)
def test_pools_that_cannot_be_are_refused(pools: tuple[Pool, ...]) -> None:
    with pytest.raises(ValueError, match="pool"):
        MemoryManager(pools)


def in_a_process(code: str) -> str:
    """Run code in a Python of its own; what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_limits_of_the_system_are_clear_errors() -> None:
    out = in_a_process(
        """
import resource, os, nif_lab, numpy as np
from nif_lab.errors import PoolExhausted
lab = nif_lab.Lab(["rust"])
used = int(open("/proc/self/statm").read().split()[0]) * 4096
for limit, value in ((resource.RLIMIT_AS, used + (50 << 20)), (resource.RLIMIT_NOFILE, 0)):
    old = resource.getrlimit(limit)
    if limit == resource.RLIMIT_NOFILE:
        value = os.dup(0)  # the lowest that is free
        os.close(value)
    resource.setrlimit(limit, (value, old[1]))
    try:
        lab.memory.empty(200 << 20, "u1")
    except PoolExhausted as error:
        message = str(error)
    resource.setrlimit(limit, old)
    print(message)
print(lab.rust.sum(lab.memory.zeros(10_000_000)))
"""
    )
    address_space, descriptors, answer = out.splitlines()
    assert "ulimit -v" in address_space
    assert "ulimit -n" in descriptors
    assert answer == "0.0"


def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    before = set(os.listdir("/dev/shm"))
    code = """
import nif_lab, sys, time
lab = nif_lab.Lab(["rust"])
kept = [lab.memory.empty(1 << 20), lab.memory.allocate(1 << 10, languages=["zig"]), lab.memory.map_file(size=1 << 20)]
print("ready", flush=True)
time.sleep(60)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not list(tmp_path.iterdir())
    in_shared_memory = {it for it in set(os.listdir("/dev/shm")) - before if "nif" in it}
    assert not in_shared_memory


def test_exit_with_live_views_is_clean() -> None:
    out = in_a_process(
        """
import nif_lab, numpy as np
lab = nif_lab.Lab(["rust", "julia"], lane="direct")
kept = [lab.memory.empty(5), np.asarray(lab.memory.allocate(5)), np.asarray(lab.memory.map_file(size=80)),
        lab.rust.write(np.ones(3)), lab.julia.write(np.ones(3)), memoryview(lab.memory.allocate(3))]
print("done")
"""
    )
    assert out == "done\n"


def test_every_backend_sees_buffers_and_files_where_they_lie(lab: Lab, backend, tmp_path: Path) -> None:
    values = np.arange(60.0).reshape(6, 10)
    buffer = lab.memory.from_array(values, languages=[backend.name])
    file = lab.memory.map_file(tmp_path / "data", dtype="f8", shape=(6, 10))
    np.asarray(file)[:] = values
    pooled = lab.memory.empty((6, 10))
    pooled[:] = values
    sun = (30.0, 30.0, 315.0, 45.0)
    for it in (buffer, file, pooled):
        if backend.lane == "direct":
            assert backend.address(it) == np.asarray(it).ctypes.data
        assert backend.checksum(it) == backend.checksum(values)
        assert np.array_equal(backend.transpose(it), values.T)
        assert np.allclose(backend.matmul(it, values.T), values @ values.T)
        assert np.allclose(backend.smooth(it, 1), backend.smooth(values, 1))
        assert np.allclose(backend.hillshade(it, *sun), backend.hillshade(values, *sun))
    line = lab.memory.from_array(np.arange(10.0), languages=[backend.name])
    assert backend.sum(line) == 45
    assert backend.dot(line, line) == 285
    backend.axpy(1.0, np.arange(10.0), line)
    assert line[9] == 18
    assert backend.histogram(line, 4, 0.0, 20.0).sum() == 10


def test_left_out_outputs_and_results_come_from_the_pools(lab: Lab, backend) -> None:
    gc.collect()  # what other tests left would go in between
    before = lab.memory.metrics().blocks
    results = [backend.matmul(np.eye(30), np.eye(30)), backend.write(np.ones(500))]
    for it in results:
        assert it.flags.owndata
        assert _core.in_shared_memory(it.ctypes.data, it.nbytes)
    assert lab.memory.metrics().blocks == before + 2
    with pytest.raises(NifMemoryError, match="no memory"):
        backend.transpose(np.broadcast_to(np.float64(1), (1 << 22, 1 << 25)))
