"""Memory of GPUs for ``lab.memory``: a pool for each language on each device.

The core opens the driver when the first block is asked for, and nothing before that.
"""

from __future__ import annotations

import contextlib
import math
import re
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from . import _core
from ._core import DeviceBuffer
from .arguments import expect, whole
from .errors import ArgumentTypeError, ArgumentValueError, BufferReleased, HandleError, OwnershipError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["GPU_LIMITS", "LEAST", "DeviceBuffer", "DeviceMemory", "device_number"]

#: Bytes that each language's pool may grow to, on each device. Others share Rust's.
GPU_LIMITS: Final[Mapping[str, int]] = {"rust": 256 << 20, "zig": 256 << 20, "nim": 256 << 20, "julia": 512 << 20}
#: Arrays above this size go to a device where one is preferred.
LEAST: Final = 1 << 20
#: The most bytes that a pool may have.
LARGEST: Final = 1 << 39


def device_number(device: str) -> int:
    """Return the number of a device: 1 for ``"gpu:1"``, 0 for ``"gpu"``."""
    found = re.fullmatch(r"gpu(?::(\d{1,4}))?", expect("device", device, str, '"gpu" or "gpu:1"'))
    if found is None:
        raise ArgumentValueError("device", f'expected "gpu" or "gpu:1", got {device!r}')
    return int(found[1] or 0)


class DeviceMemory:
    """The pools of a Lab on all devices.

    Attributes
    ----------
    limits : mapping of str to int
        What each language's pool may grow to, in bytes.

    Parameters
    ----------
    memory
        The core's memory, which has the ledger.
    limits
        Limits in place of `GPU_LIMITS`, for some languages or all.
    """

    def __init__(self, memory: _core.Memory, limits: Mapping[str, int] | None = None) -> None:
        given = {} if limits is None else expect("gpu_limits", limits, Mapping, "bytes for languages by name")
        for name, limit in given.items():
            if name not in GPU_LIMITS:
                raise ArgumentValueError("gpu_limits", f"no GPU pool for {name!r}; there are {', '.join(GPU_LIMITS)}")
            whole("gpu_limits", limit, 1, LARGEST)
        self.limits: Mapping[str, int] = {**GPU_LIMITS, **given}
        self.core = _core.Gpu(memory)
        self._live: weakref.WeakValueDictionary[int, DeviceBuffer] = weakref.WeakValueDictionary()

    def pool_of(self, languages: Iterable[str]) -> str:
        """Return the language whose pool an array of these owners lies in: the first that has one."""
        return next((it for it in languages if it in self.limits), "rust")

    def allocate(
        self,
        shape: int | tuple[int, ...],
        dtype: DTypeLike,
        owners: list[str],
        device: str = "gpu",
        *,
        zeroed: bool = True,
    ) -> DeviceBuffer:
        """Return a buffer on a device; its elements are zeros, or of any value."""
        number = device_number(device)
        lengths = [int(it) for it in shape] if isinstance(shape, (tuple, list)) else [int(shape)]
        try:
            kind = np.dtype(dtype)
        except TypeError as error:
            raise ArgumentTypeError("dtype", f"expected a type of elements: {error}") from None
        pool = self.pool_of(owners)
        buffer = self.core.allocate(number, f"gpu_{pool}", self.limits[pool], lengths, kind, owners, zeroed)
        self._live[buffer.number] = buffer
        return buffer

    def find(self, number: int) -> DeviceBuffer:
        """Return the buffer that has a number: what a frame of it carries.

        Raises
        ------
        HandleError
            When it was released, or no buffer of this Lab has that number.
        """
        found = self._live.get(number)
        if found is not None and not found.released:
            return found
        if _core.gpu_is_stale(number):
            raise HandleError(f"the buffer with the number {number:#x} was released")
        raise HandleError(f"no buffer of this Lab has the number {number:#x}")

    def prefers(self, shape: int | tuple[int, ...], dtype: DTypeLike, owners: Iterable[str]) -> bool:
        """Return whether an array of that size goes to a device if one is preferred: there has to be one."""
        lengths = shape if isinstance(shape, (tuple, list)) else (shape,)
        if math.prod(lengths) * np.dtype(dtype).itemsize <= LEAST or not any(it in self.limits for it in owners):
            return False
        return is_there()

    def _owners(self) -> Iterator[tuple[DeviceBuffer, dict[str, int]]]:
        for buffer in list(self._live.values()):
            with contextlib.suppress(OwnershipError):  # a child of fork has its parent's buffers too
                yield buffer, buffer.owners

    def languages(self) -> dict[str, tuple[int, int]]:
        """Return how many buffers on devices each language owns, and their bytes."""
        sums: dict[str, tuple[int, int]] = {}
        for buffer, owners in self._owners():
            for language in owners:
                count, size = sums.get(language, (0, 0))
                sums[language] = (count + 1, size + buffer.nbytes)
        return sums

    def disown(self, language: str) -> int:
        """End all that a language owns on devices; return how many buffers that were."""
        owned = [(buffer, owners[language]) for buffer, owners in self._owners() if language in owners]
        for buffer, count in owned:
            with contextlib.suppress(OwnershipError, BufferReleased):  # another thread may release it too
                for _ in range(count):
                    buffer.release(language)
        return len(owned)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the figures of all pools there, in the form of the host's."""
        return self.core.metrics()


def is_there() -> bool:
    """Return whether a driver and a device are there; the driver is opened for that."""
    from .errors import GpuUnavailable

    try:
        _core.gpu_driver()
    except GpuUnavailable:
        return False
    return True
