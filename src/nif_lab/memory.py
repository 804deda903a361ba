"""Shared memory of a Lab: ``lab.memory``.

Arrays and buffers in it are seen by every backend, and by the workers of the isolated lane, without a copy. The core
(rust/core, rust/memory) allocates; this module is what users see of it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from . import _core
from ._core import MappedFile, SharedBuffer
from .arguments import ACCESSES, Access, expect, names, one_of, path_of, whole
from .arrays import given_array
from .device_memory import DeviceBuffer, DeviceMemory, device_number
from .errors import ArgumentTypeError, ArgumentValueError, HandleError, MappingError
from .places import BufferInfo, Places, table
from .pools import LARGEST, POOLS, Pool, check
from .text import format_bytes, table_html

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

__all__ = [
    "POOLS",
    "BufferInfo",
    "Collections",
    "DeviceBuffer",
    "MappedFile",
    "MemoryManager",
    "MemoryMetrics",
    "Pool",
    "PoolMetrics",
    "Pressure",
    "SharedBuffer",
]

Shape = int | tuple[int, ...]


def _overhead(used: int, active: int) -> float:
    return max((used - active) / active, 0.0) if active else 0.0


@dataclass(frozen=True, slots=True)
class PoolMetrics:
    """Figures of one pool; bytes unless they say otherwise.

    Attributes
    ----------
    name : str
        Which.
    capacity : int
        Address space reserved, in ``segments`` pieces.
    active, blocks, peak : int
        Asked for and not released; in how many blocks; the most so far.
    allocations, releases : int
        How many there were.
    committed : int
        Memory that the system has given.
    cached : int
        Part of it in free blocks, kept warm until it is trimmed.
    metadata : int
        What the allocator keeps about the blocks, elsewhere.
    fragmentation : float
        0 when all free memory is one piece, towards 1 the more pieces it is in.
    """

    name: str
    capacity: int
    segments: int
    active: int
    blocks: int
    peak: int
    allocations: int
    releases: int
    committed: int
    cached: int
    metadata: int
    fragmentation: float

    @property
    def overhead(self) -> float:
        """(committed - cached + metadata - active) / active; 0 where that is less, because not all was touched yet."""
        return _overhead(self.committed - self.cached + self.metadata, self.active)


@dataclass(frozen=True, slots=True)
class Collections:
    """What collections have done: how many there were, the buffers they freed, and their bytes."""

    count: int
    buffers: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Pressure:
    """How short the system is of memory.

    Attributes
    ----------
    level : str
        ``"normal"``, ``"high"`` (free blocks are given back) or ``"critical"``.
    used, limit, available : int
        Bytes, of the cgroup or machine that is fullest.
    psi_some_avg10, psi_full_avg10 : float or None
        Percent of the last 10 s in which some or all tasks waited for memory; None where the kernel doesn't say.
    source : str
        Where the figures come from.
    """

    level: str
    used: int
    limit: int
    available: int
    psi_some_avg10: float | None
    psi_full_avg10: float | None
    source: str


@dataclass(frozen=True, slots=True, repr=False)
class MemoryMetrics:
    """All figures of a Lab's memory at one instant.

    Attributes
    ----------
    pools : tuple of PoolMetrics
        In order of size.
    languages : mapping of str to (int, int)
        Buffers that each language owns, and their bytes.
    collections : Collections
        Of buffers whose owners were gone.
    pressure : Pressure or None
        As it was last seen; None in the first second.
    """

    pools: tuple[PoolMetrics, ...]
    languages: Mapping[str, tuple[int, int]]
    collections: Collections
    pressure: Pressure | None

    def _sum(self, field: str) -> int:
        return sum(int(getattr(it, field)) for it in self.pools)

    @property
    def active(self) -> int:
        """Bytes asked for and not released."""
        return self._sum("active")

    @property
    def blocks(self) -> int:
        """Blocks not released."""
        return self._sum("blocks")

    @property
    def peak(self) -> int:
        """The sum of the pools' peaks, in bytes."""
        return self._sum("peak")

    @property
    def committed(self) -> int:
        """Bytes that the system has given."""
        return self._sum("committed")

    @property
    def cached(self) -> int:
        """Bytes of it in free blocks."""
        return self._sum("cached")

    @property
    def overhead(self) -> float:
        """(committed - cached + metadata - active) / active; 0 where that is less, because not all was touched yet."""
        return _overhead(self.committed - self.cached + self._sum("metadata"), self.active)

    def __repr__(self) -> str:
        lines = [f"{'pool':<10}{'active':>12}{'blocks':>8}{'peak':>12}{'cached':>12}{'overhead':>10}"]
        lines += [
            f"{it.name:<10}{format_bytes(it.active):>12}{it.blocks:>8}{format_bytes(it.peak):>12}"
            f"{format_bytes(it.cached):>12}{it.overhead:>10.1%}"
            for it in self.pools
        ]
        lines += [
            f"{name}: {count} buffers, {format_bytes(size)}" for name, (count, size) in sorted(self.languages.items())
        ]
        if self.pressure:
            it = self.pressure
            lines.append(f"pressure {it.level}: {format_bytes(it.used)} of {format_bytes(it.limit)} used ({it.source})")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [
            [it.name, *(format_bytes(n) for n in (it.active, it.peak, it.committed, it.cached)), str(it.blocks),
             f"{it.overhead:.1%}", f"{it.fragmentation:.0%}"]
            for it in self.pools
        ]  # fmt: skip
        headers = ["pool", "active", "peak", "committed", "free", "blocks", "overhead", "fragmentation"]
        caption = f"pressure: {self.pressure.level}" if self.pressure else ""
        return table_html(headers, rows, caption=caption)


class MemoryManager:
    """Pools, shared buffers and mapped files: ``lab.memory``.

    Attributes
    ----------
    empty, zeros : callable
        ``empty(shape, dtype=float64)``: an ordinary NumPy array whose memory is a block of a pool, given back when
        the array is gone. ``zeros`` clears it.
    pools : tuple of Pool
        The size classes.

    Parameters
    ----------
    pools
        Size classes in place of `POOLS`, the smallest first.
    telemetry
        The Lab's, which gets the samples.
    gpu_limits
        Bytes that the pools of languages on each GPU may grow to, in place of `nif_lab.device_memory.GPU_LIMITS`.

    Examples
    --------
    >>> x = lab.memory.empty((1000, 1000), "f4")
    >>> with lab.memory.allocate(100, "f8", languages=["rust", "zig"]) as buffer:
    ...     lab.rust.sum(buffer)
    """

    def __init__(
        self,
        pools: Iterable[Pool] = POOLS,
        telemetry: _core.Telemetry | None = None,
        gpu_limits: Mapping[str, int] | None = None,
    ) -> None:
        self.pools = tuple(expect("pools", pools, Iterable, "several of nif_lab.memory.Pool"))
        check(self.pools)
        rows = [(it.name, it.block_bytes, it.blocks, it.limit_bytes) for it in self.pools]
        self.core = _core.Memory(rows, telemetry)
        self.core.strict = False
        self.devices = DeviceMemory(self.core, gpu_limits)
        self._places, self._telemetry = Places(), telemetry
        self.empty = self.core.empty
        self.zeros = self.core.zeros

    @overload
    def allocate(self, shape: Shape, dtype: DTypeLike = ..., languages: Iterable[str] = ...) -> SharedBuffer: ...

    @overload
    def allocate(
        self, shape: Shape, dtype: DTypeLike = ..., languages: Iterable[str] = ..., *, device: str
    ) -> DeviceBuffer: ...

    @overload
    def allocate(
        self, shape: Shape, dtype: DTypeLike = ..., languages: Iterable[str] = ..., *, prefer: Literal["gpu"]
    ) -> SharedBuffer | DeviceBuffer: ...

    def allocate(
        self,
        shape: Shape,
        dtype: DTypeLike = np.float64,
        languages: Iterable[str] = ("python",),
        device: str | None = None,
        prefer: Literal["gpu"] | None = None,
    ) -> SharedBuffer | DeviceBuffer:
        """Return a buffer of zeros that languages own together.

        Parameters
        ----------
        shape
            An int, or ints.
        dtype
            Of the elements; no Python objects.
        languages
            Who owns it: the reference count begins with their number, and each ``release(language)`` lowers it.
        device
            ``"gpu"`` or ``"gpu:1"``: it lies there, in the pool of the first language that has one. In the host's
            memory unless given.
        prefer
            ``"gpu"``: on the first device if there is one, the array is larger than 1 MiB, and one of the languages has
            a GPU pool.

        Raises
        ------
        PoolExhausted
            When its pool is at its limit, or the system has no memory.
        GpuUnavailable
            When there is no such device, with the reason and the cure.
        """
        owners = list(names("languages", languages))
        if not owners or not all(owners):
            raise ArgumentValueError("languages", "expected the name of one language or more")
        if prefer is not None and one_of("prefer", prefer, ("gpu",)) and device is None:
            device = "gpu" if self.devices.prefers(shape, dtype, owners) else None
        if device is not None:
            return self.devices.allocate(shape, dtype, owners, device)
        buffer = self.core.allocate(shape, dtype, owners)
        self._places.note(buffer, self._telemetry.cell if self._telemetry else 0, self.resolve)
        return buffer

    def to_device(self, array: ArrayLike, languages: Iterable[str] = ("python",), device: str = "gpu") -> DeviceBuffer:
        """Return a buffer on a device with a copy of any array of the host, in row-major order."""
        device_number(device)
        plain = None if type(array) is np.ndarray else given_array("array", array)
        value = np.asarray(array) if plain is None else plain
        owners = list(names("languages", languages))
        buffer = self.devices.allocate(value.shape, value.dtype.newbyteorder("="), owners, device, zeroed=False)
        buffer.copy_from(value)
        return buffer

    def from_array(self, array: ArrayLike, languages: Iterable[str] = ("python",)) -> SharedBuffer:
        """Return a buffer with a copy of any array, in row-major order; the only copy there will be."""
        plain = None if type(array) is np.ndarray else given_array("array", array)
        value = np.asarray(array) if plain is None else plain
        buffer = self.allocate(value.shape, value.dtype.newbyteorder("="), languages)
        buffer.array[...] = value
        return buffer

    def map_file(
        self,
        path: str | os.PathLike[str] | None = None,
        size: int | None = None,
        access: Access = "read_write",
        dtype: DTypeLike = np.uint8,
        shape: Shape | None = None,
    ) -> MappedFile:
        """Map a file into memory, as an array that every backend takes.

        Parameters
        ----------
        path
            None for a temporary file that has no name and is gone when it is closed. A file that exists is mapped as
            it is, or from its beginning up to ``size``; with a size, one that doesn't is made. Links aren't followed.
        size
            In bytes; what the shape needs unless given. Its space on the disk is reserved now.
        access
            ``"read_only"``, ``"write_only"`` or ``"read_write"``. A write through a read-only mapping is an error in
            Python and in every backend, and so is reading a write-only one.
        dtype, shape
            Of the array; all of the file as bytes unless given.

        Raises
        ------
        MappingError
            When the file can't be made, opened, reserved or mapped: the reason and the cure.
        """
        one_of("access", access, ACCESSES)
        kind = _element(dtype)
        file = None if path is None else path_of("path", path)
        size = None if size is None else whole("size", size, 1, LARGEST)
        if shape is not None:
            shape = _shape(shape)
            needed = math.prod(shape) * kind.itemsize
            if needed > LARGEST:
                raise ArgumentValueError("shape", f"{needed:,} bytes are more than a file can have")
            if size is not None and needed > size:
                raise ArgumentValueError("shape", f"it needs {needed:,} bytes, and size is {size:,}")
            size = needed if size is None else size
        is_there = file is not None and os.path.lexists(file)
        if size is None and not is_there and file is not None:
            raise MappingError(
                file, "no such file or directory", "check the path, or give a size or a shape to make it"
            )
        if size is None and not is_there:
            raise ArgumentValueError("size", "how large is the file to be, in bytes? (or give a shape)")
        if shape is None:
            length = size if size is not None else _length(str(file))
            shape = (length // kind.itemsize,)
        return MappedFile(file, size, access, shape, kind, not is_there)

    def collect(self) -> int:
        """Free the buffers whose owners are gone; return their bytes. It happens once a second by itself."""
        return self.core.collect()

    def disown(self, language: str) -> int:
        """End all that a language owns, because it is gone; return how many buffers that were."""
        return self.core.disown(language) + self.devices.disown(language)

    def trim(self) -> int:
        """Give free blocks back to the system; return the bytes. It happens by itself when memory is short."""
        return self.core.trim() + self.devices.core.trim()

    def resolve(self, handle: tuple[int, int, int]) -> tuple[int, int]:
        """Return the address and size in bytes of the block that a handle means.

        Raises
        ------
        HandleError
            For a freed block, one of another Lab, or a damaged handle.
        """
        words = tuple(handle) if isinstance(handle, Iterable) else ()
        if len(words) != 3 or not all(isinstance(it, int) and 0 <= it < 1 << 64 for it in words):
            raise HandleError(f"expected the three numbers of a handle, got {handle!r}")
        if words[0] >> 63 == 1:  # a segment of a device
            return self.devices.core.resolve(*words)
        return self.core.resolve(*words)

    def buffers(self) -> tuple[BufferInfo, ...]:
        """Return the shared buffers that aren't freed, the largest first: owners, and which line allocated each."""
        return self._places.live(self.resolve)

    def metrics(self) -> MemoryMetrics:
        """Return all figures as they are now."""
        read: Any = self.core.metrics()
        languages = dict(read["languages"])
        for name, (count, size) in self.devices.languages().items():
            before = languages.get(name, (0, 0))
            languages[name] = (before[0] + count, before[1] + size)
        return MemoryMetrics(
            tuple(PoolMetrics(**pool) for pool in (*read["pools"], *self.devices.metrics())),
            languages,
            Collections(*read["collections"]),
            Pressure(**read["pressure"]) if "pressure" in read else None,
        )

    def __repr__(self) -> str:
        return repr(self.metrics())

    def _repr_html_(self) -> str:
        maps = "".join(self._map(number) for number in range(len(self.pools)))
        return self.metrics()._repr_html_() + maps + table(self.buffers())

    def _map(self, number: int) -> str:
        """Draw a pool's segments as strips, blocks in the order of addresses, up to the last one and a bit."""
        blocks = self.core.blocks(number)
        strips = []
        for count, segment in enumerate(sorted({it[0] for it in blocks}), 1):
            mine = [it for it in blocks if it[0] == segment]
            live = [(offset, size) for _, offset, size, is_live in mine if is_live]
            whole = max(offset + size for _, offset, size, _ in mine)
            shown = min(whole, max((offset + size for offset, size in live), default=whole) * 5 // 4)
            parts = "".join(
                f'<rect x="{600 * offset / shown:.2f}" width="{max(600 * size / shown, 0.5):.2f}" height="14"/>'
                for offset, size in live
            )
            label = (
                f"{self.pools[number].name}, segment {count}: {format_bytes(sum(size for _, size in live))} in use; "
                f"the first {format_bytes(shown)} of {format_bytes(whole)}"
            )
            strips.append(
                f'<div style="margin-top:6px">{label}<br><svg role="img" aria-label="{label}" viewBox="0 0 600 14" '
                f'width="600" height="14" style="max-width:100%;background:rgba(127,127,127,0.25)">'
                f'<g fill="#0072b2">{parts}</g></svg></div>'
            )
        return "".join(strips)


def _element(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the type of elements that have a size."""
    try:
        kind = np.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError("dtype", f"expected a type of elements: {error}") from None
    if kind.itemsize == 0 or kind.hasobject:
        raise ArgumentValueError("dtype", f"elements of {kind} can't lie in a file")
    return kind


def _shape(shape: Shape) -> tuple[int, ...]:
    lengths = shape if isinstance(shape, (tuple, list)) else (shape,)
    return tuple(whole("shape", it, 0) for it in lengths)


def _length(file: str) -> int:
    try:
        return os.stat(file).st_size
    except OSError as error:
        raise MappingError(
            file, (error.strerror or str(error)).lower(), "check the path, and its permissions"
        ) from None
