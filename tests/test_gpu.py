"""Memory and kernels of a GPU, against a stand-in for its driver (tests/fake_cuda.c)."""

from __future__ import annotations

import gc
import itertools
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import standin
import xxhash

from nif_lab import _core, errors
from nif_lab.lab import Lab

SEED = int(os.environ.get("NIF_LAB_SEED", random.randrange(1 << 32)))
LANGUAGES = ("rust", "zig", "nim", "julia")
MIB = 1 << 20


pytestmark = pytest.mark.usefixtures("two_devices")


@pytest.fixture(scope="module")
def lab(two_devices: None) -> Lab:
    return Lab()


def pool(lab: Lab, name: str) -> Any:
    return next(it for it in lab.memory.metrics().pools if it.name == name)


def test_a_buffer_is_of_its_languages_and_its_pool(lab: Lab) -> None:
    buffer = lab.memory.allocate((3, 4), "f4", languages=["julia", "rust"], device="gpu")
    assert (buffer.shape, str(buffer.dtype), buffer.nbytes, buffer.device) == ((3, 4), "float32", 48, "gpu:0")
    assert buffer.pool == "gpu_julia"
    assert buffer.owners == {"julia": 1, "rust": 1}
    assert len(buffer) == 3
    assert not buffer.numpy().any(), "a new buffer has zeros"
    assert lab.memory.resolve(buffer.handle) == (buffer.address, 48)
    before = pool(lab, "gpu_julia")
    assert (before.active, before.blocks, before.capacity) == (48, 1, 512 * MIB)
    assert lab.memory.metrics().languages["julia"][0] >= 1
    buffer.release("julia")
    with pytest.raises(errors.OwnershipError, match="julia has released"):
        buffer.release("julia")
    with pytest.raises(errors.OwnershipError, match="zig doesn't own"):
        buffer.release("zig")
    handle = buffer.handle
    buffer.release("rust")
    assert buffer.released
    assert pool(lab, "gpu_julia").blocks == 0
    with pytest.raises(errors.HandleError, match="released"):
        lab.memory.resolve(handle)
    for use in (buffer.numpy, buffer.retain, lambda: buffer.number, buffer.__dlpack__):
        with pytest.raises(errors.BufferReleased):
            use()


def test_all_owners_can_go_at_once(lab: Lab) -> None:
    one = lab.memory.allocate(10, device="gpu", languages=["zig"])
    two = lab.memory.allocate(10, device="gpu", languages=["zig", "rust"])
    assert lab.memory.disown("zig") == 2
    assert one.released
    assert not two.released
    assert two.owners == {"rust": 1}
    with lab.memory.allocate(10, device="gpu", languages=["zig"]) as three:
        assert not three.released
    assert three.released


def test_what_is_wrong_is_said(lab: Lab) -> None:
    for arguments, error in (
        ({"device": "cpu"}, errors.ArgumentValueError),
        ({"device": "gpu:7"}, errors.GpuUnavailable),
        ({"device": "gpu", "dtype": "O"}, TypeError),
        ({"device": "gpu", "dtype": ">f8"}, TypeError),
        ({"device": "gpu", "shape": (-1,)}, ValueError),
        ({"device": "gpu", "shape": (1 << 62, 8)}, ValueError),
        ({"device": "gpu", "shape": 1 << 40}, errors.PoolExhausted),
        ({"prefer": "cpu"}, errors.ArgumentValueError),
    ):
        with pytest.raises(error):
            lab.memory.allocate(**{"shape": 10, **arguments})
    with pytest.raises(errors.PoolExhausted, match=r"gpu_rust.*limit is 268435456"):
        lab.memory.allocate(257 * MIB, "u1", languages=["rust"], device="gpu")
    with pytest.raises(errors.ArgumentValueError, match="no GPU pool for 'perl'"):
        Lab([], gpu_limits={"perl": 1})
    buffer = lab.memory.allocate(4, device="gpu")
    with pytest.raises(ValueError, match=r"expected shape \[4\], got \[5\]"):
        buffer.copy_from(np.zeros(5))
    read_only = np.zeros(4)
    read_only.flags.writeable = False
    for target, wrong, message in (
        ([0.0] * 4, TypeError, "NumPy array"),
        (np.zeros(5), ValueError, r"shape \[4\], got \[5\]"),
        (np.zeros(4, "f4"), TypeError, "type float64, got float32"),
        (np.zeros(4, ">f8"), TypeError, "type float64, got >f8"),
        (np.zeros(8)[::2], ValueError, "row-major"),
        (read_only, ValueError, "written to"),
    ):
        with pytest.raises(wrong, match=message):
            buffer.copy_to(target)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(buffer)
    with pytest.raises(errors.NifTypeError, match="DeviceBuffer"):
        lab.rust.sum(buffer)


def test_large_arrays_go_there_if_that_is_preferred(lab: Lab) -> None:
    large, small = 200_000, 1000
    assert lab.memory.allocate(large, languages=["zig"], prefer="gpu").device == "gpu:0"  # type: ignore[union-attr]
    for shape, languages in ((small, ["zig"]), (large, ["python"])):
        assert isinstance(lab.memory.allocate(shape, languages=languages, prefer="gpu"), _core.SharedBuffer)


def test_limits_and_devices_are_separate() -> None:
    lab = Lab([], gpu_limits={"zig": 3 * MIB})
    first = lab.memory.allocate(3 * MIB, "u1", languages=["zig"], device="gpu")
    second = lab.memory.allocate(3 * MIB, "u1", languages=["zig"], device="gpu:1")
    assert pool(lab, "gpu_zig").capacity == 4 * MIB, "in whole pieces of the driver's"
    assert pool(lab, "gpu_zig:1").active == 3 * MIB
    with pytest.raises(errors.PoolExhausted):
        lab.memory.allocate(2 * MIB, "u1", languages=["zig"], device="gpu")
    assert first.device == "gpu:0"
    assert second.device == "gpu:1"
    first.close()
    lab.memory.allocate(4 * MIB, "u1", languages=["zig"], device="gpu").close()
    assert pool(lab, "gpu_zig").peak == 4 * MIB


BETWEEN = """
import numpy as np
from nif_lab.lab import Lab
lab = Lab(["zig"])
values = np.arange(5 << 20, dtype="u4")
there = lab.memory.to_device(values, languages=["zig"])
other = lab.memory.allocate(values.shape, "u4", languages=["zig"], device="gpu:1")
lab.zig.gpu_copy(there, other)
lab.zig.gpu_fill(there, 0)
print(bool((other.numpy() == values).all()), bool(there.numpy().any()))
lab.zig.gpu_copy(other, there)
print(bool((there.numpy() == values).all()))
"""


@pytest.mark.parametrize("peers", [0, 1])
def test_copies_between_devices(peers: int, tmp_path: Path) -> None:
    """Directly where one device reaches the other's memory, else through the host, a piece at a time."""
    assert standin.run(BETWEEN, tmp_path, devices=2, peers=peers).split() == ["True", "False", "True"]


def test_blocks_never_overlap_and_memory_goes_back() -> None:
    print(f"NIF_LAB_SEED={SEED}")
    random_ = random.Random(SEED)
    lab = Lab([], gpu_limits={"rust": 64 * MIB})
    live: dict[int, tuple[Any, int]] = {}
    for step in range(1500):
        if live and (random_.random() < 0.48 or len(live) > 200):
            buffer, fill = live.pop(random_.choice(list(live)))
            data = buffer.numpy()
            assert (data == fill).all(), f"step {step}"
            buffer.close()
            continue
        size = random_.choice((0, 1, 255, 256, 257, random_.randrange(1, 5000), random_.randrange(1, 4 * MIB)))
        try:
            buffer = lab.memory.devices.allocate(size, "u1", ["rust"], zeroed=False)
        except errors.PoolExhausted:
            assert pool(lab, "gpu_rust").active > 8 * MIB
            continue
        assert buffer.address % 256 == 0
        fill = random_.randrange(256)
        buffer.copy_from(np.full(size, fill, "u1"))
        live[step] = (buffer, fill)
        seen = pool(lab, "gpu_rust")
        assert seen.active == sum(it.nbytes for it, _ in live.values())
        assert seen.blocks == len(live)
        assert seen.peak >= seen.active
        assert seen.committed - seen.cached >= seen.active
    spans = sorted((it.address, it.address + max(it.nbytes, 1)) for it, _ in live.values())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    for buffer, fill in live.values():
        assert (buffer.numpy() == fill).all()
        buffer.close()
    assert pool(lab, "gpu_rust").fragmentation == 0.0
    committed = pool(lab, "gpu_rust").committed
    assert lab.memory.devices.core.trim() == committed
    assert pool(lab, "gpu_rust").committed == 0


def test_copies_are_in_the_ledger(lab: Lab) -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    before = lab.memory.core.copy_count
    buffer = lab.memory.to_device(x, ["nim"])
    assert np.array_equal(buffer.numpy(), x)
    reasons = [(size, reason) for size, _, reason in lab.memory.core.copies_since(before, True)]
    assert reasons == [(192, "host to device"), (192, "device to host")]


class Other:
    """An array of another library on a device."""

    def __init__(self, buffer: Any, where: tuple[int, int] = (2, 0), *, has_versions: bool = True) -> None:
        self.buffer, self.where, self.has_versions = buffer, where, has_versions
        self.streams: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.where

    def __dlpack__(self, *, stream: Any = None, **options: Any) -> Any:
        self.streams.append(stream)
        if not self.has_versions and options:
            raise TypeError("unexpected keyword")
        return self.buffer.__dlpack__(stream=stream, **options)


def test_dlpack_both_ways(lab: Lab) -> None:
    buffer = lab.memory.to_device(np.arange(6, dtype="i4").reshape(2, 3))
    assert buffer.__dlpack_device__() == (2, 0)
    assert 'capsule object "dltensor_versioned"' in repr(buffer.__dlpack__(max_version=(1, 0)))
    assert 'capsule object "dltensor"' in repr(buffer.__dlpack__())
    for wrong in ({"stream": 0}, {"dl_device": (1, 0)}, {"copy": True}):
        with pytest.raises(BufferError):
            buffer.__dlpack__(**wrong)  # type: ignore[arg-type]
    for has_versions in (True, False):
        other = Other(buffer, has_versions=has_versions)
        view = lab.gpu.array(other)
        assert view.address == buffer.address
        assert view.shape == (2, 3)
        assert view.dtype == np.int32
        assert set(other.streams) == {1}, "work of the producer comes before work in the default stream"
        view.copy_from(np.full((2, 3), 7))
    assert (buffer.numpy() == 7).all()
    with pytest.raises(BufferError, match="type 10"):
        lab.gpu.array(Other(buffer, (10, 0)))
    with pytest.raises(errors.ArgumentTypeError, match="on a device"):
        lab.gpu.array(np.zeros(3))


def test_a_view_keeps_the_memory(lab: Lab) -> None:
    buffer = lab.memory.to_device(np.arange(5.0), ["zig"])
    view = lab.gpu.array(Other(buffer))
    blocks = pool(lab, "gpu_zig").blocks
    buffer.release("zig")
    assert buffer.released
    assert pool(lab, "gpu_zig").blocks == blocks, "the view has it"
    assert view.numpy().tolist() == [0, 1, 2, 3, 4]
    del view
    gc.collect()
    assert pool(lab, "gpu_zig").blocks == blocks - 1
    lent = lab.memory.to_device(np.arange(5.0), ["zig"])
    about = lent.__cuda_array_interface__
    assert about == {
        "shape": (5,), "typestr": "<f8", "data": (lent.address, False), "strides": None, "version": 3, "stream": 1,
    }  # fmt: skip
    lent.release("zig")
    assert pool(lab, "gpu_zig").blocks == blocks, "whoever got the address relies on the object"
    del lent
    gc.collect()
    assert pool(lab, "gpu_zig").blocks == blocks - 1


def direct(lab: Lab, language: str) -> Any:
    return getattr(lab.direct, language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_works_on_a_device(lab: Lab, language: str) -> None:
    functions = direct(lab, language)
    for dtype, value in (("f4", 1.5), ("f8", -2.25), ("f8", 0.0), ("i8", -3), ("u1", 200), ("u2", 40000), ("i4", -7)):
        x = lab.memory.allocate((5, 7), dtype, languages=[language], device="gpu")
        functions.gpu_fill(x, value)
        assert (x.numpy() == np.array(value, dtype)).all(), (dtype, value)
    x = lab.memory.to_device(np.random.default_rng(1).random(1000))
    y = lab.memory.allocate(1000, device="gpu")
    functions.gpu_copy(x, y)
    assert np.array_equal(x.numpy(), y.numpy())
    assert functions.gpu_checksum(y) == xxhash.xxh3_64_intdigest(x.numpy().tobytes())
    assert functions.gpu_checksum(Other(y)) == functions.gpu_checksum(x), "another library's array, where it lies"
    assert functions.gpu_checksum(lab.memory.allocate(0, device="gpu")) == xxhash.xxh3_64_intdigest(b"")
    with pytest.raises(errors.NifValueError, match=r"argument 'target': expected 8000 bytes, got 8"):
        functions.gpu_copy(x, lab.memory.allocate(1, device="gpu"))
    gone = y.number
    y.close()
    with pytest.raises(errors.NifValueError, match=r"argument 'x': .*released"):
        functions.gpu_checksum(gone)
    with pytest.raises(errors.NifValueError, match=r"argument 'to': .*damaged"):
        functions.gpu_fill(12345, 0.0)
    with pytest.raises(errors.GpuFault, match="no such element type"):
        functions.gpu_fill(lab.memory.allocate(3, "c16", device="gpu"), 1.0)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_kernels_are_those_of_the_cpu(lab: Lab, language: str) -> None:
    random_ = np.random.default_rng(3)
    x, y = random_.random((2, 1001))
    target = lab.memory.to_device(y)
    lab.gpu.axpy(2.5, lab.memory.to_device(x), target, language=language)
    assert np.array_equal(target.numpy(), reference.axpy(2.5, x, y))
    for shape in ((17, 23), (1, 9), (9, 1), (1, 1), (0, 5)):
        z = random_.random(shape)
        heights = lab.memory.to_device(z)
        shade = lab.gpu.hillshade(heights, 2.0, 3.0, 315.0, 45.0, language=language)
        assert np.allclose(shade.numpy(), reference.hillshade(z, 2.0, 3.0, 315.0, 45.0), 1e-12, 1e-12), shape
        for passes in (0, 1, 2, 5):
            smoothed = lab.gpu.smooth(heights, passes, language=language)
            assert np.allclose(smoothed.numpy(), reference.smooth(z, passes), 1e-12, 1e-12), (shape, passes)


MIXED = """
/* a kernel (of none) */
extern "C" __global__ void mixed(char a, double b, int c, const float *__restrict__ x, short d, float* out) {}
"""


@pytest.mark.parametrize("language", LANGUAGES)
def test_arguments_are_packed_as_the_kernel_has_them(lab: Lab, language: str) -> None:
    kernel = lab.gpu.compile(MIXED)["mixed"]
    x, out = lab.memory.to_device(np.array([2.5], "f4")), lab.memory.allocate(5, "f4", device="gpu")
    lab.gpu.launch(kernel, (2, 3), (4, 1, 1), -3, 1.25, 7, x, -9, out, language=language)
    assert out.numpy().tolist() == [-3, 1.25, 7, 2.5, -9]
    for arguments, message in (
        ((1, 2.0), "takes 6 arguments, 2 given"),
        ((1, 2.0, 3, x, 4, np.zeros(5, "f4")), "'out' is an array on a device, got ndarray"),
        ((1, 2.0, 3, lab.memory.allocate(1, device="gpu"), 4, out), "'x' has elements of type float, got float64"),
        ((1, "b", 3, x, 4, out), "mixed"),
    ):
        with pytest.raises(errors.ArgumentTypeError, match=message):
            lab.gpu.launch(kernel, 1, 1, *arguments, language=language)
    with pytest.raises(errors.GpuFault, match="CUDA_ERROR_INVALID_VALUE") as refused:
        lab.gpu.launch(kernel, 1, 2048, 1, 2.0, 3, x, 4, out, language=language)
    assert (refused.value.code, refused.value.name, refused.value.kernel) == (1, "CUDA_ERROR_INVALID_VALUE", "mixed")
    with pytest.raises(errors.NifValueError, match="damaged"):
        direct(lab, language).gpu_launch(9999, np.ones(7, "u4"), b"", np.zeros(0, "u4"))
    with pytest.raises(errors.NifValueError, match="expected 7 numbers, got 3"):
        direct(lab, language).gpu_launch(kernel.number, np.ones(3, "u4"), b"", np.zeros(0, "u4"))


def test_a_source_that_does_not_compile_says_where(lab: Lab) -> None:
    with pytest.raises(errors.BuildError, match=r"kernels.cu\(2\): error.*no_such_type"):
        lab.gpu.compile('extern "C" __global__ void axpy(int n) {\nno_such_type x; }')
    with pytest.raises(errors.ArgumentValueError, match="__global__"):
        lab.gpu.compile("int f() { return 1; }")
    with pytest.raises(errors.ArgumentValueError, match="can't be passed: 'float4'"):
        lab.gpu.compile('extern "C" __global__ void axpy(float4 v) {}')


def test_compiled_code_is_kept_by_content(lab: Lab) -> None:
    from nif_lab import folders

    lab.gpu.compile(MIXED)
    kept = sorted(folders.private("gpu").iterdir())
    lab.gpu.compile(MIXED)
    assert sorted(folders.private("gpu").iterdir()) == kept
    lab.gpu.compile(MIXED + " ")
    assert len(list(folders.private("gpu").iterdir())) == len(kept) + 1


def test_devices_are_described(lab: Lab) -> None:
    assert [it.name for it in lab.gpu.devices] == ["gpu:0", "gpu:1"]
    assert lab.gpu.available
    assert lab.gpu.devices[1].model == "Stand-in 1"
    assert lab.gpu.devices[0].capability == "9.0"
    text = repr(lab.memory)
    assert "gpu_rust" in text
    assert "gpu_rust" in lab.memory._repr_html_()


FAULT = """
from nif_lab.lab import Lab
from nif_lab.errors import GpuFault
import numpy as np
lab = Lab(["rust"])
x = lab.memory.to_device(np.arange(4.0), ["rust"])
wild = lab.gpu.compile('extern "C" __global__ void wild(double *x) {}')["wild"]
lab.gpu.launch(wild, 1, 1, x)
for use in (lab.gpu.synchronize, x.numpy, lambda: lab.rust.gpu_fill(x, 1.0), lambda: lab.gpu.launch(wild, 1, 1, x)):
    try:
        use()
    except GpuFault as fault:
        print(fault.code, fault.name)
print(lab.rust.sum(np.ones(3)))
x.close()
"""


def test_a_fault_is_an_error_and_the_process_goes_on(tmp_path: Path) -> None:
    expected = "700 CUDA_ERROR_ILLEGAL_ADDRESS\n" * 4 + "3.0\n"
    assert standin.run(FAULT, tmp_path) == expected


ABSENT = """
import json, sys
from nif_lab.lab import Lab
from nif_lab.errors import GpuUnavailable
from nif_lab.gpu import describe
lab = Lab(["rust"])
try:
    lab.memory.allocate(10, device="gpu")
except GpuUnavailable as error:
    print(error)
assert not lab.gpu.available and "SharedBuffer" in repr(lab.memory.allocate(1 << 20, languages=["rust"], prefer="gpu"))
assert describe()["cure"]
print(lab.rust.add(1.0, 2.0))
"""


def test_without_a_device_the_reason_and_the_cure_are_said(tmp_path: Path) -> None:
    for settings, message in (({"init": 100}, "CUDA_ERROR_NO_DEVICE (100)"), ({"devices": 0}, "has no device")):
        said = standin.run(ABSENT, tmp_path, **settings)
        assert all(it in said for it in (message, "To fix: ")), said
        assert said.endswith("3.0\n"), said
    code = "import os\nos.environ['NIF_LAB_GPU_DRIVER'] = '/no/such/driver.so'\n" + ABSENT
    said = standin.run(code, tmp_path)
    assert "no GPU driver could be opened: /no/such/driver.so" in said
    assert "To fix: install the driver" in said


FORK = """
import os
import numpy as np
from nif_lab.lab import Lab
from nif_lab.errors import GpuUnavailable, OwnershipError
lab = Lab(["rust"])
x = lab.memory.to_device(np.arange(4.0), ["rust"])
child = os.fork()
if child == 0:
    seen = []
    for use in (x.numpy, x.release, lambda: lab.memory.allocate(1, device="gpu")):
        try:
            use()
        except (OwnershipError, GpuUnavailable) as error:
            seen.append(type(error).__name__)
    x.close()
    del x
    os._exit(0 if seen == ["OwnershipError", "OwnershipError", "GpuUnavailable"] else 1)
print(os.waitpid(child, 0)[1], x.numpy().sum())
"""


def test_a_child_of_fork_leaves_the_parents_memory_alone(tmp_path: Path) -> None:
    assert standin.run(FORK, tmp_path) == "0 6.0\n"


def test_nothing_is_opened_before_a_device_is_asked_for(tmp_path: Path) -> None:
    code = "from nif_lab.lab import Lab\nlab = Lab(['rust'])\nlab.memory.metrics()\n"
    code += f"print({standin.library().name!r} in open('/proc/self/maps').read())"
    assert standin.run(code, tmp_path) == "False\n"


def test_a_full_device_is_said(tmp_path: Path) -> None:
    code = """
from nif_lab.lab import Lab
from nif_lab.errors import GpuFault
lab = Lab([])
x = lab.memory.allocate(4 << 20, "u1", device="gpu")
try:
    lab.memory.allocate(8 << 20, "u1", device="gpu")
except GpuFault as fault:
    print(fault.name)
x.close()
print(lab.memory.allocate(6 << 20, "u1", device="gpu").nbytes)
"""
    assert standin.run(code, tmp_path, memory=8 << 20) == f"CUDA_ERROR_OUT_OF_MEMORY\n{6 << 20}\n"
