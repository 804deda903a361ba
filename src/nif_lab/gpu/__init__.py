"""Devices of a Lab: ``lab.gpu``.

Arrays on a device come from ``lab.memory.allocate(..., device="gpu")``. Each language fills, copies and sums them, and
starts kernels on them, by functions of its own. Nothing is opened before a device is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from .. import _core
from .._core import DeviceBuffer
from ..arguments import Lane, expect, whole
from ..backends.base import Options
from ..cells.cell import Request
from ..device_memory import device_number
from ..errors import ArgumentTypeError, ArgumentValueError, GpuFault, GpuUnavailable, NifValueError
from .cells import CellKernel, CudaCell, CudaCells
from .launch import Kernel, Launch, kernels_of, launch, shape_of
from .nvrtc import compiled, compiler_version

__all__ = ["CellKernel", "CudaCell", "Gpu", "GpuDevice", "Kernel", "Launch", "describe"]

#: Kernels of the package: compiled as the CPU's are, without fused operations.
SOURCE: Final = Path(__file__).with_name("kernels.cu")
#: Kernels that fail, for the fault room.
FAULTS: Final = Path(__file__).with_name("faults.cu")
OPTIONS: Final = ("--fmad=false",)
#: Threads of a block, and blocks at most: threads stride over the elements.
THREADS: Final = 256
BLOCKS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """A device: its name (``"gpu:0"``), model, bytes free and in all, and capability (``"9.0"``)."""

    name: str
    model: str
    free: int
    memory: int
    capability: str


def _device(number: int) -> GpuDevice:
    model, free, memory, capability, _ = _core.gpu_device(number)
    return GpuDevice(f"gpu:{number}", model, free, memory, f"{capability // 10}.{capability % 10}")


def describe() -> dict[str, Any]:
    """Return what there is: driver, devices and compiler, or the reason and the cure. It never raises."""
    about: dict[str, Any] = {"available": False, "driver": None, "devices": [], "nvrtc": None, "reason": "", "cure": ""}
    try:
        kind, path, version, count = _core.gpu_driver()
        about["driver"] = f"{kind} {version // 1000}.{version % 1000 // 10} ({path})"
        about["devices"] = [asdict(_device(it)) for it in range(count)]
        about["available"] = True
        about["nvrtc"] = compiler_version()
    except (GpuUnavailable, GpuFault) as error:
        about |= {"reason": error.reason, "cure": getattr(error, "cure", "")}
    return about


class Gpu:
    """Devices, kernels and launches.

    Attributes
    ----------
    cells : CudaCells
        Kernels of notebook cells; `cell` and ``%%cuda`` use it.

    Parameters
    ----------
    function
        Returns a function of a language by its name and lane, ``("rust", "gpu_launch", "direct")``.
    allocate
        ``lab.memory.allocate``.

    Examples
    --------
    >>> x = lab.memory.allocate(1000, "f8", languages=["rust", "zig"], device="gpu")
    >>> lab.rust.gpu_fill(x, 2.0)
    >>> lab.gpu.axpy(3.0, x, x2, language="zig")
    """

    def __init__(self, function: Callable[[str, str, Lane], Any], allocate: Callable[..., Any]) -> None:
        self._function = function
        self._allocate = allocate
        self._kernels: dict[tuple[int, str], Kernel] = {}
        self.cells = CudaCells(function, frozenset({*dir(type(self)), *vars(self), "cells"}))

    @property
    def available(self) -> bool:
        """Whether there is a device."""
        return bool(describe()["available"])

    @property
    def devices(self) -> tuple[GpuDevice, ...]:
        """All devices, in the driver's order.

        Raises
        ------
        GpuUnavailable
            When there is none.
        """
        return tuple(_device(it) for it in range(_core.gpu_driver()[3]))

    def synchronize(self, device: str = "gpu") -> None:
        """Wait for all work of a device.

        Raises
        ------
        GpuFault
            When some of it failed.
        """
        _core.gpu_synchronize(device_number(device))

    def array(self, x: Any) -> DeviceBuffer:
        """Return a view of another library's array on a device, where it lies; it keeps that array."""
        found = x if isinstance(x, DeviceBuffer) else _core.gpu_array(x)
        if found is None:
            raise ArgumentTypeError("x", f"expected an array on a device, got {type(x).__name__}")
        return found

    def compile(self, source: str, *, device: str = "gpu", options: Sequence[str] = ()) -> Mapping[str, Kernel]:
        """Compile CUDA C++ and load it: its kernels by their names.

        Parameters
        ----------
        source
            With one function ``extern "C" __global__ void`` or more.
        device
            Where they run.
        options
            More for the compiler (NVRTC).

        Raises
        ------
        BuildError
            With the compiler's messages.
        GpuUnavailable
            When there is no device or no compiler.
        """
        number = device_number(device)
        found = kernels_of(expect("source", source, str, "CUDA C++ as text"))
        if not found:
            raise ArgumentValueError("source", 'expected a function that begins with: extern "C" __global__ void')
        capability = _core.gpu_device(number)[3]
        module = _core.gpu_load(number, compiled(source, capability, tuple(options)))
        return {
            name: Kernel(name, parameters, number, _core.gpu_kernel(module, name)) for name, parameters in found.items()
        }

    def kernel(self, name: str, device: str = "gpu") -> Kernel:
        """Return a kernel of the package, ``"axpy"``, ``"hillshade"`` or ``"smooth"``; it is compiled once."""
        key = (device_number(device), name)
        if key not in self._kernels:
            made = self.compile(SOURCE.read_text(encoding="utf-8"), device=device, options=OPTIONS)
            self._kernels.update({(key[0], it): kernel for it, kernel in made.items()})
        if key not in self._kernels:
            there = sorted(it for number, it in self._kernels.copy() if number == key[0])
            raise ArgumentValueError("name", f"no kernel {name!r}; there are {', '.join(there)}")
        return self._kernels[key]

    def fault(self, kind: str) -> int:
        """Return the number of a kernel of the first device that fails: ``"gpu_illegal"`` or ``"gpu_endless"``."""
        key = (0, kind)
        if key not in self._kernels:
            made = self.compile(FAULTS.read_text(encoding="utf-8"))
            self._kernels.update({(0, it): kernel for it, kernel in made.items()})
        return self._kernels[key].number

    def prepare(
        self,
        kernel: Kernel,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        *args: Any,
        language: str = "rust",
        shared: int = 0,
        lane: Lane = "direct",
    ) -> Launch:
        """Return a launch whose arguments are packed once, to be called often."""
        expect("kernel", kernel, Kernel, "a kernel of lab.gpu.compile or lab.gpu.kernel")
        return Launch(self._function(language, "gpu_launch", lane), kernel, shape_of(grid, block, shared), args)

    def launch(
        self,
        kernel: Kernel,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        *args: Any,
        language: str = "rust",
        shared: int = 0,
        lane: Lane = "direct",
    ) -> None:
        """Start a kernel by the function of a language; it runs on after this.

        Parameters
        ----------
        kernel
            Of `compile` or `kernel`.
        grid, block
            Blocks, and threads of a block: a number, or one for each of up to three directions.
        *args
            Numbers, and arrays on the kernel's device.
        language
            Whose ``gpu_launch`` starts it.
        shared
            Bytes that a block's threads share.
        lane
            ``"isolated"``: a worker process starts it, on the same memory, and waits for its end. A kernel that fails
            ends the worker; this process, its arrays and the other languages go on.

        Raises
        ------
        GpuFault
            When the driver refuses, or a kernel before failed.
        """
        expect("kernel", kernel, Kernel, "a kernel of lab.gpu.compile or lab.gpu.kernel")
        launch(self._function, kernel, (grid, block, shared), args, language, lane)

    @_core.plain
    def cell(
        self,
        source: str,
        *,
        name: str = "",
        lane: Lane = "isolated",
        device: str = "gpu",
        flags: str | Iterable[str] = (),
    ) -> CudaCell:
        """Compile CUDA C++ as ``%%cuda`` does: ``lab.gpu.scale(x, n, grid=4, block=256)`` calls a kernel of it.

        Parameters
        ----------
        source
            With one function ``extern "C" __global__ void`` or more.
        name
            What errors call it; its first kernel's name unless given. A cell takes the place of one of the same name.
        lane
            ``"isolated"``, where a kernel that fails costs nothing, or ``"direct"``.
        device
            Where its kernels run.
        flags
            More flags for the compiler (NVRTC): in a list, or in one string as a shell would take them.

        Raises
        ------
        CellError
            With the compiler's messages in lines of the source.
        GpuUnavailable
            When there is no device or no compiler.
        """
        options = Options.of(True, flags)
        return self.cells.run(
            Request(language="cuda", code=source, name=name, key=name, lane=lane, options=options), device
        )

    def __getattr__(self, name: str) -> CellKernel:
        # Only what isn't there comes here: the kernels of cells.
        cells = self.__dict__.get("cells")
        if cells is None or name not in cells.functions:
            raise AttributeError(f"lab.gpu has no attribute or kernel of a cell '{name}'")
        found: CellKernel = cells.functions[name]
        return found

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.cells.functions]

    def _start(self, name: str, count: int, *args: Any, on: DeviceBuffer, language: str) -> None:
        if count:
            blocks = min(math.ceil(count / THREADS), BLOCKS)
            self.launch(self.kernel(name, on.device), blocks, THREADS, *args, language=language)

    def axpy(self, a: float, x: Any, y: Any, *, language: str = "rust") -> None:
        """Y = a x + y, in place, of float64 arrays on a device."""
        source, target = self.array(x), self.array(y)
        if source.shape != target.shape:
            raise NifValueError(f"gpu.axpy(): argument 'y': expected shape {source.shape}, got {target.shape}")
        count = math.prod(source.shape)
        self._start("axpy", count, float(a), source, target, count, on=target, language=language)

    def hillshade(
        self, z: Any, dx: float, dy: float, azimuth: float, altitude: float, out: Any = None, *, language: str = "rust"
    ) -> DeviceBuffer:
        """Brightness of heights: ``hillshade`` of docs/kernels.md, of float64 matrices on a device."""
        for name, spacing in (("dx", dx), ("dy", dy)):
            if not spacing > 0:
                raise NifValueError(f"gpu.hillshade(): argument '{name}': expected a positive number")
        heights, target = self._pair("hillshade", z, out, language)
        az, alt = math.radians(azimuth), math.radians(altitude)
        light = (math.sin(az) * math.cos(alt), math.cos(az) * math.cos(alt), math.sin(alt))
        rows, columns = heights.shape
        arguments = (heights, float(dx), float(dy), *light, target, rows, columns)
        self._start("hillshade", rows * columns, *arguments, on=target, language=language)
        return target

    def smooth(self, z: Any, passes: int, out: Any = None, *, language: str = "rust") -> DeviceBuffer:
        """Smooth float64 matrices on a device, ``passes`` times: ``smooth`` of docs/kernels.md."""
        passes = whole("passes", passes, 0, 1 << 40)
        heights, target = self._pair("smooth", z, out, language)
        rows, columns = heights.shape
        if passes == 0:
            self._function(language, "gpu_copy", "direct")(heights, target)
            return target
        scratch = self._like(heights, language) if passes > 1 else None
        source = heights
        for done in range(passes):
            # The last pass has to end in the target.
            into = target if (passes - done) % 2 or scratch is None else scratch
            self._start("smooth", rows * columns, source, into, rows, columns, on=target, language=language)
            source = into
        return target

    def _like(self, x: DeviceBuffer, language: str) -> DeviceBuffer:
        buffer: DeviceBuffer = self._allocate(x.shape, x.dtype, [language], device=x.device)
        return buffer

    def _pair(self, function: str, z: Any, out: Any, language: str) -> tuple[DeviceBuffer, DeviceBuffer]:
        source = self.array(z)
        if len(source.shape) != 2:
            raise NifValueError(f"gpu.{function}(): argument 'z': expected f64[m,n], got shape {source.shape}")
        target = self._like(source, language) if out is None else self.array(out)
        if target.shape != source.shape:
            raise NifValueError(f"gpu.{function}(): argument 'out': expected shape {source.shape}, got {target.shape}")
        if target.address == source.address and source.nbytes:
            raise NifValueError(f"gpu.{function}(): argument 'out': overlaps argument 'z'")
        return source, target
