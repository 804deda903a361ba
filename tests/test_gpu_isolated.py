"""Work on devices in worker processes: the host's memory by descriptor, and faults that end only the worker.

The driver is a stand-in (tests/fake_cuda.c): an illegal address makes its process's context useless, as the real one's.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import standin
import xxhash
from processes import in_time

from nif_lab import errors
from nif_lab.lab import Lab
from nif_lab.recovery import RecoveryPolicy

#: Julia's workers take seconds to start: one test has them.
COMPILED = ("rust", "zig", "nim")
LANGUAGES = (*COMPILED, "julia")
SOURCE = """
extern "C" __global__ void axpy(double a, const double *x, double *y, long long n) {}
extern "C" __global__ void wild(double *x) {}
extern "C" __global__ void spin(double *x) {}
extern "C" __global__ void crash(double *x) {}
"""


pytestmark = pytest.mark.usefixtures("two_devices")


@pytest.fixture(scope="module")
def lab(two_devices: None) -> Lab:
    return Lab(COMPILED, policy=RecoveryPolicy(crashes=None))


@pytest.fixture(scope="module")
def kernels(lab: Lab) -> Any:
    return lab.gpu.compile(SOURCE)


def isolated(lab: Lab, language: str) -> Any:
    return getattr(lab.isolated, language)


def is_usable(lab: Lab) -> bool:
    """Whether this process's own context works: an array there and back, a kernel."""
    x = lab.memory.to_device(np.arange(100.0))
    lab.gpu.axpy(2.0, x, x)
    return bool((x.numpy() == 3 * np.arange(100.0)).all())


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_worker_uses_the_hosts_arrays(lab: Lab, kernels: Any, language: str) -> None:
    if language == "julia":
        lab = Lab(["julia"])
    functions = isolated(lab, language)
    values = np.random.default_rng(1).random((30, 7))
    x = lab.memory.to_device(values, languages=[language])
    y = lab.memory.allocate(values.shape, languages=["zig"], device="gpu")
    functions.gpu_copy(x, y)
    assert np.array_equal(y.numpy(), values), "written there, seen here"
    y.copy_from(values + 1)
    assert functions.gpu_checksum(y) == xxhash.xxh3_64_intdigest((values + 1).tobytes()), "written here, seen there"
    lab.gpu.launch(kernels["axpy"], 1, 1, 2.0, x, y, x.nbytes // 8, language=language, lane="isolated")
    assert np.array_equal(y.numpy(), 2 * values + (values + 1))
    narrow = lab.memory.allocate((3, 5), "i2", languages=[language], device="gpu:1")
    functions.gpu_fill(narrow, -7.0)
    assert (narrow.numpy() == -7).all(), "its type and shape went along, and its device"


@pytest.mark.parametrize("language", COMPILED)
def test_numbers_are_checked_there_too(lab: Lab, language: str) -> None:
    functions = isolated(lab, language)
    x = lab.memory.to_device(np.arange(8.0), languages=[language])
    number = x.number
    functions.gpu_fill(x, 1.0)
    x.close()
    other = lab.memory.to_device(np.arange(8.0), languages=[language])  # it lies where the first one did
    with pytest.raises(errors.NifValueError, match=r"argument 'to': .*released"):
        functions.gpu_fill(number, 2.0)
    with pytest.raises(errors.NifValueError, match=r"argument 'x': .*damaged"):
        functions.gpu_checksum(12345)
    with pytest.raises(errors.NifValueError, match=r"argument 'target': expected 64 bytes, got 8"):
        functions.gpu_copy(other, lab.memory.allocate(1, device="gpu"))
    with pytest.raises(errors.GpuFault, match="no such element type") as refused:
        functions.gpu_fill(lab.memory.allocate(3, "c16", device="gpu"), 1.0)
    assert not refused.value.has_ended, "a refusal, after which the device works"
    assert np.array_equal(other.numpy(), np.arange(8.0))


def test_memory_that_was_given_back_is_not_used() -> None:
    """A worker has a part mapped; the pool gives it back, and gets another in its place."""
    lab = Lab(["rust"], gpu_limits={"rust": 64 << 20})
    for value in (1.0, 2.0, 3.0):
        x = lab.memory.allocate(5 << 20, languages=["rust"], device="gpu")
        lab.isolated.rust.gpu_fill(x, value)
        assert (x.numpy() == value).all()
        x.close()
        assert lab.memory.devices.core.trim() > 0


@pytest.mark.parametrize("language", COMPILED)
def test_an_illegal_address_ends_the_worker_alone(lab: Lab, kernels: Any, language: str) -> None:
    functions = isolated(lab, language)
    values = np.arange(1000.0)
    x = lab.memory.to_device(values, languages=[language])
    functions.gpu_checksum(x)
    before = functions.workers.pids
    with pytest.raises(errors.GpuFault, match="ILLEGAL_ADDRESS") as fault:
        lab.gpu.launch(kernels["wild"], 1, 1, x, language=language, lane="isolated")
    it = fault.value
    assert (it.code, it.name, it.kernel, it.backend) == (700, "CUDA_ERROR_ILLEGAL_ADDRESS", "wild", language)
    assert it.has_ended
    assert np.array_equal(x.numpy(), values), "this process's context works on"
    assert is_usable(lab)
    assert functions.gpu_checksum(x) == xxhash.xxh3_64_intdigest(values.tobytes()), "another worker answers"
    assert in_time(lambda: not set(before) <= set(functions.workers.pids)), "the one that failed is gone"
    for other in COMPILED:
        assert isolated(lab, other).gpu_checksum(x) == functions.gpu_checksum(x)


def test_an_endless_kernel_meets_its_deadline(lab: Lab, kernels: Any) -> None:
    x = lab.memory.to_device(np.arange(10.0), languages=["zig"])
    launch = lab.gpu.prepare(kernels["spin"], 1, 1, x, language="zig", lane="isolated")
    lab.isolated.zig.gpu_checksum(x)
    lab.recovery.set(RecoveryPolicy(timeout=0.3, retries=0, failover=False, crashes=None), "zig", "gpu_launch")
    start = time.monotonic()
    with pytest.raises(errors.CallTimeout):
        launch()
    assert time.monotonic() - start >= 0.3
    assert np.array_equal(x.numpy(), np.arange(10.0))
    assert is_usable(lab)
    assert lab.isolated.zig.gpu_checksum(x) == lab.isolated.rust.gpu_checksum(x)


@pytest.mark.parametrize("end", [signal.SIGSEGV, signal.SIGKILL])
def test_the_end_of_a_worker_in_a_kernel(lab: Lab, kernels: Any, end: signal.Signals) -> None:
    values = np.arange(10.0)
    x = lab.memory.to_device(values, languages=["nim"])
    lab.isolated.nim.gpu_checksum(x)
    is_over = threading.Event()

    def kill() -> None:
        while not is_over.wait(0.2):  # one that is killed before the kernel runs is replaced, and nobody hears of it
            for pid in lab.isolated.nim.workers.pids[:1]:
                os.kill(pid, end)

    killer = threading.Thread(target=kill)
    if end == signal.SIGKILL:
        killer.start()
    try:
        with pytest.raises(errors.WorkerCrashed) as crashed:
            lab.gpu.launch(
                kernels["spin" if end == signal.SIGKILL else "crash"], 1, 1, x, language="nim", lane="isolated"
            )
    finally:
        is_over.set()
        if killer.ident:
            killer.join()
    assert crashed.value.signal == end
    assert np.array_equal(x.numpy(), values)
    assert is_usable(lab)
    assert lab.isolated.nim.gpu_checksum(x) == lab.isolated.rust.gpu_checksum(x)


def test_a_spare_has_device_and_kernels_ready(kernels: Any) -> None:
    """Those of a backend that uses a device; others open none."""
    lab = Lab(["rust", "zig"])
    x = lab.memory.to_device(np.arange(10.0), languages=["rust"])
    lab.isolated.rust.noop()
    workers = lab.isolated.zig.workers
    lab.gpu.launch(kernels["axpy"], 1, 1, 2.0, x, x, 10, language="zig", lane="isolated")
    wait_for(lambda: workers.ready == 1 and len(workers.pids) == 2 and all(opens_driver(pid) for pid in workers.pids))
    others = lab.isolated.rust.workers
    wait_for(lambda: others.ready == 1)  # a process that is just being started still shows its parent's memory
    assert not any(opens_driver(pid) for pid in others.pids)


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def opens_driver(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
            return standin.library().name in maps.read()
    except OSError:  # it has just ended
        return False


def test_this_processs_own_work_comes_first(lab: Lab) -> None:
    x = lab.memory.allocate(1 << 16, languages=["rust"], device="gpu")
    for value in range(20):
        lab.direct.rust.gpu_fill(x, float(value))
        assert lab.isolated.zig.gpu_checksum(x) == xxhash.xxh3_64_intdigest(np.full(1 << 16, float(value)).tobytes())


class Foreign:
    """An array of another library, not in memory of ours."""

    def __init__(self) -> None:
        self.data = np.arange(4.0)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, **_: Any) -> Any:
        return relabelled(self.data)


def relabelled(data: np.ndarray) -> Any:
    """Return the capsule of an array of the host, with a device's name on it: the stand-in's devices are the host."""
    import ctypes

    capsule = data.__dlpack__()
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    at = pointer(capsule, b"dltensor")
    assert at is not None
    ctypes.c_int32.from_address(at + 8).value = 2
    return capsule


def test_arrays_of_other_libraries_are_refused(lab: Lab) -> None:
    assert lab.direct.rust.gpu_checksum(Foreign()) == xxhash.xxh3_64_intdigest(np.arange(4.0).tobytes())
    with pytest.raises(errors.NifValueError, match=r"another library.*direct lane"):
        lab.isolated.rust.gpu_checksum(Foreign())
    ours = lab.memory.to_device(np.arange(4.0))
    view = lab.gpu.array(ours)
    assert lab.isolated.rust.gpu_checksum(view) == lab.direct.rust.gpu_checksum(ours), "what lies in a pool isn't"


@pytest.mark.parametrize("kind", ["gpu_illegal", "gpu_endless"])
@pytest.mark.parametrize("language", COMPILED)
def test_the_fault_rooms_kinds(lab: Lab, language: str, kind: str) -> None:
    policy = RecoveryPolicy(timeout=0.3, crashes=None)
    report = lab.faults.inject(language, kind, policy=policy)  # type: ignore[arg-type]
    assert (report.outcome, report.answered_by, report.disturbed) == ("recovered", "retry", ()), report
    assert report.steps[0].what == "restart"
    alone = RecoveryPolicy(timeout=0.3, retries=0, failover=False, crashes=None)
    always = lab.faults.inject(language, kind, times=None, policy=alone)  # type: ignore[arg-type]
    assert (always.outcome, always.disturbed) == ("contained", ()), always
    assert isinstance(always.error, errors.GpuFault if kind == "gpu_illegal" else errors.CallTimeout)
    with pytest.raises(errors.ArgumentValueError, match="take the device from this process"):
        lab.faults.inject(language, kind, "direct")  # type: ignore[arg-type]
    assert is_usable(lab)


def test_without_a_device_the_kinds_are_unavailable(tmp_path: Any) -> None:
    code = """
from nif_lab.lab import Lab
from nif_lab.errors import GpuUnavailable
lab = Lab(["rust"])
try:
    lab.faults.inject("rust", "gpu_illegal")
except GpuUnavailable as error:
    print(error.reason)
"""
    assert "CUDA_ERROR_NO_DEVICE" in standin.run(code, tmp_path, init=100)
