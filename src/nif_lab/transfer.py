"""Handing a value from one language to another, and proving what happened on the way.

``shared``: an array in shared memory, which the target reads where it lies. ``wire``: a frame that the source's codec
writes and the target's reads. ``mmap``: the array, or the frame, in a mapped file. A buffer in a device's memory stays
there: the target gets its number, or a frame with it. Each side computes its own checksum,
and every copy is in the ledger.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from . import _core
from .arguments import MODES, Mode, one_of
from .arrays import given_array
from .device_memory import DeviceBuffer
from .errors import ArgumentValueError, CopyRequired
from .progress import tracked
from .text import format_ns, format_speed, table_html

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .codecs import Wire
    from .lab import LoadedBackend
    from .ledger import Copy, Ledger
    from .memory import MemoryManager

__all__ = ["Transfer", "TransferMatrix", "Transfers"]

#: What lies in memory as it is.
ARRAYS: Final = (np.ndarray, _core.SharedBuffer, _core.MappedFile)
#: The most axes that the core's copier takes.
AXES_MAX: Final = 8
#: A first call that takes longer has compiled, in nanoseconds.
COMPILE_NS: Final = 1_000_000
NOT_IN_POOL: Final = "value not in a pool"
CURE: Final = "make it by lab.memory (empty, zeros, from_array), or as the result of a call"


@dataclass(frozen=True, slots=True, repr=False)
class Transfer:
    """One value's way from a source language to a target language.

    Attributes
    ----------
    source, target : str
        The two backends.
    value : object
        What arrived: an array in shared memory or in a file, or what the target's codec read. None in a matrix, which
        keeps no payloads.
    mode : str
        ``"shared"``, ``"wire"`` or ``"mmap"``.
    lanes : tuple of str
        Of the source and of the target.
    bytes : int
        Size of the array or of the frame.
    write_ns : float
        Time in which the source wrote or encoded it, in nanoseconds; 0 when it lay in shared memory already.
    hand_over_ns : float
        Time in which the target was told where it is, in nanoseconds.
    ns : float
        Time of the transfer itself: the target is told of the value and reads all of it, in nanoseconds.
    compile_ns : float
        Time before that in which Julia compiled for its first value of that element type and number of axes, in
        nanoseconds; 0 otherwise.
    copies : tuple of Copy
        What was copied, where and why.
    source_checksum, target_checksum : int
        XXH3-64 of the bytes, each computed by its own language.
    """

    source: str
    target: str
    value: Any
    mode: str
    lanes: tuple[str, str]
    bytes: int
    write_ns: float
    hand_over_ns: float
    ns: float
    copies: tuple[Copy, ...]
    source_checksum: int
    target_checksum: int
    compile_ns: float = 0.0

    @property
    def array(self) -> np.ndarray:
        """The value as an array."""
        return np.asarray(self.value)

    @property
    def copied(self) -> bool:
        """Whether anything was copied."""
        return bool(self.copies)

    @property
    def gb_per_s(self) -> float:
        """Throughput of the transfer in 10^9 bytes per second."""
        return self.bytes / self.ns if self.ns else 0.0

    @property
    def verified(self) -> bool:
        """Whether both languages computed the same checksum."""
        return self.source_checksum == self.target_checksum

    def __repr__(self) -> str:
        count = len(self.copies)
        how = f"{count} {'copy' if count == 1 else 'copies'}" if count else "without a copy"
        check = "verified" if self.verified else "NOT VERIFIED"
        first = f" (first call, compiling: {format_ns(self.compile_ns)} before)" if self.compile_ns else ""
        head = (
            f"{self.source} -> {self.target}, {self.mode}: {self.bytes:,} bytes in {format_ns(self.ns)} "
            f"({format_speed(self.gb_per_s)}), {how}, {check} (XXH3 {self.target_checksum:016x}){first}"
        )
        return "\n".join((head, *(f"  copied {it}" for it in self.copies)))


@dataclass(frozen=True, slots=True, repr=False)
class TransferMatrix:
    """The transfers between all pairs of languages, in order of mode, source and target."""

    transfers: tuple[Transfer, ...]

    def __iter__(self) -> Iterator[Transfer]:
        return iter(self.transfers)

    def __len__(self) -> int:
        return len(self.transfers)

    def __getitem__(self, key: tuple[str, ...]) -> Transfer:
        """Return the transfer of (source, target), or of (source, target, mode)."""
        for it in self.transfers:
            if (it.source, it.target, it.mode)[: len(key)] == key:
                return it
        raise KeyError(key)

    @property
    def zero_copy(self) -> float:
        """Share of the transfers that copied nothing, 0 to 1."""
        return sum(not it.copied for it in self.transfers) / len(self.transfers) if self.transfers else 0.0

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that take part."""
        return tuple(dict.fromkeys(it.source for it in self.transfers))

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes that were used."""
        return tuple(dict.fromkeys(it.mode for it in self.transfers))

    def __repr__(self) -> str:
        return "\n".join(str(it) for it in self.transfers) or "no two backends are loaded"

    def _repr_html_(self) -> str:
        return "".join(self._table(mode) for mode in self.modes) or "no two backends are loaded"

    def _table(self, mode: str) -> str:
        by_pair = {(it.source, it.target): it for it in self.transfers if it.mode == mode}
        rows = [
            [f"<b>{source}</b>"]
            + [self._cell(by_pair[source, target]) if (source, target) in by_pair else "–" for target in self.languages]
            for source in self.languages
        ]
        caption = f"{mode}: time, throughput, copies, whether both checksums are equal"
        return table_html(["from \\ to", *self.languages], rows, caption=caption)

    @staticmethod
    def _cell(it: Transfer) -> str:
        count = len(it.copies)
        how = f"{count} {'copy' if count == 1 else 'copies'}"
        return f"{format_ns(it.ns)}, {format_speed(it.gb_per_s)}<br>{how} {'✓' if it.verified else '✗ differs'}"


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _is_shared(array: np.ndarray) -> bool:
    return _core.in_shared_memory(_address(array), array.nbytes)


def _copy(source: np.ndarray, target: np.ndarray) -> None:
    if source.ndim > AXES_MAX:
        np.copyto(target, source)
    else:
        _core.copy_array(source, target)


class Transfers:
    """Makes the transfers of a Lab; `Lab.transfer` says how."""

    def __init__(self, memory: MemoryManager, wire: Wire, ledger: Ledger) -> None:
        self._memory, self._wire, self._ledger = memory, wire, ledger
        self._warm: set[tuple[Any, ...]] = set()

    def transfer(
        self,
        source: LoadedBackend,
        target: LoadedBackend,
        value: Any,
        mode: Mode = "auto",
        *,
        strict: bool = False,
        dialect: str = "rust",
        version: int = 2,
    ) -> Transfer:
        """Transfer a value from one backend to another."""
        one_of("mode", mode, MODES)
        if isinstance(value, DeviceBuffer):
            on_device = _OnDevice(self._memory, self._wire, self._ledger, source, target)
            done = on_device.transfer(value, mode, dialect, version)
            self._ledger.add_transfer(done.bytes, done.copied)
            return done
        if not isinstance(value, (np.generic, int, float)) and type(value) is not np.ndarray:
            plain = given_array("value", value)  # of another library, or a sequence of numbers
            value = value if plain is None else plain
        if mode == "auto":
            mode = "shared" if isinstance(value, ARRAYS) else "wire"
        way = _Way(self._memory, self._wire, self._ledger, source, target, strict, self._warm)
        if mode == "wire":
            done = way.wire(value, dialect, version)
        else:
            done = way.shared(value) if mode == "shared" else way.mapped(value)
        self._ledger.add_transfer(done.bytes, done.copied)
        return done

    def matrix(
        self,
        backends: Sequence[LoadedBackend],
        value: Any,
        modes: Sequence[Mode] = ("auto",),
        *,
        selves: bool = False,
        strict: bool = False,
    ) -> TransferMatrix:
        """Transfer a value between every ordered pair of backends, in every mode."""
        pairs = [(a, b) for a, b in product(backends, repeat=2) if selves or a is not b]
        ways = [(*pair, mode) for mode in modes for pair in pairs]
        done = (self.transfer(a, b, value, mode, strict=strict) for a, b, mode in tracked(ways, "transfers"))
        # Without what arrived: twelve frames of 64 MB would stay for as long as somebody looks at the times.
        return TransferMatrix(tuple(replace(it, value=None) for it in done))


class _OnDevice:
    """One transfer of a buffer in a device's memory: the target gets its number, and both read it on the device."""

    def __init__(
        self, memory: MemoryManager, wire: Wire, ledger: Ledger, source: LoadedBackend, target: LoadedBackend
    ) -> None:
        self._memory, self._codec, self._ledger = memory, wire, ledger
        self._source, self._target, self._mark = source, target, ledger.mark()

    def transfer(self, buffer: DeviceBuffer, mode: Mode, dialect: str, version: int) -> Transfer:
        if mode == "mmap":
            raise ArgumentValueError("mode", "a device's memory can't be put into a file; take 'shared' or 'wire'")
        is_frame = mode == "wire"
        start = time.perf_counter_ns()
        size, write_ns = buffer.nbytes, 0.0
        if is_frame:
            frame = self._codec.encode(buffer, dialect, version, by=self._source)
            size, write_ns = frame.nbytes, float(time.perf_counter_ns() - start)
            start = time.perf_counter_ns()
            record = self._codec.decode(frame, dialect, version, by=self._target)
            arrived = self._memory.devices.find(record.handle)
        else:
            arrived = buffer
        arrived.retain(self._target.name)
        told = time.perf_counter_ns()
        try:
            source_checksum = self._source.builtin.gpu_checksum(buffer)
            proved = time.perf_counter_ns()
            target_checksum = self._target.builtin.gpu_checksum(arrived)
            done = time.perf_counter_ns()
        finally:
            arrived.release(self._target.name)
        hand_over = float(told - start)
        return Transfer(
            self._source.name,
            self._target.name,
            arrived,
            "wire" if is_frame else "shared",
            (self._source.lane, self._target.lane),
            size,
            write_ns,
            hand_over,
            hand_over + float(done - proved),
            self._ledger.since(self._mark),
            source_checksum,
            target_checksum,
        )


class _Told(NamedTuple):
    """What came of telling the target: what it took, where it saw it, the times, both sides' checksums."""

    value: Any
    seen_at: int
    hand_over_ns: float
    ns: float
    checksums: tuple[int, int]


class _Way:
    """One transfer on its way."""

    def __init__(
        self,
        memory: MemoryManager,
        wire: Wire,
        ledger: Ledger,
        source: LoadedBackend,
        target: LoadedBackend,
        strict: bool,
        warm: set[tuple[Any, ...]],
    ) -> None:
        self._memory, self._codec, self._ledger = memory, wire, ledger
        self._source, self._target, self._strict = source, target, strict
        self._warm, self._compile_ns = warm, 0.0
        self._mark = ledger.mark()

    def _copies(self, size: int, place: str, reason: str, cure: str) -> None:
        """Enter a copy that is about to be made, or refuse to make it."""
        if self._strict:
            raise CopyRequired(f"{size:,} bytes would be copied in {place}: {reason}\nTo fix: {cure}", reason)
        self._ledger.note(size, place, reason)

    def shared(self, value: Any) -> Transfer:
        """Hand over an array where it lies; one that isn't in shared memory is written there by the source."""
        is_file = isinstance(value, _core.MappedFile)
        array, is_column_major = self._contiguous(np.asarray(value))
        start = time.perf_counter_ns()
        write_ns = 0.0
        if not _is_shared(array):
            self._copies(array.nbytes, f"{self._source.name}.write", NOT_IN_POOL, CURE)
            array = self._source.builtin.write(array)
            write_ns = float(time.perf_counter_ns() - start)
        told = self._tell(array)
        # A worker sees all memory at addresses of its own; there the ledger knows.
        if self._target.lane == "direct" and told.seen_at != _address(array):
            self._ledger.note(array.nbytes, self._target.name, "the target sees another address")
        arrived = array.T if is_column_major else array
        return self._done(value if is_file else arrived, "shared", array.nbytes, write_ns, told)

    def _contiguous(self, array: np.ndarray) -> tuple[np.ndarray, bool]:
        """Return a row-major array of native elements, in the same memory if it can be, and if it is the transpose."""
        if not array.dtype.isnative:
            self._copies(array.nbytes, "transfer", "byte order", "array.astype(array.dtype.newbyteorder('='))")
            array = array.astype(array.dtype.newbyteorder("="))
        if array.flags.c_contiguous:
            return array, False
        if array.flags.f_contiguous:
            return array.T, True
        self._copies(array.nbytes, "transfer", "strided view: a target reads contiguous memory", "transfer all of it")
        packed = self._memory.empty(array.shape, array.dtype)
        _copy(array, packed)
        return packed, False

    def wire(self, value: Any, dialect: str = "rust", version: int = 2) -> Transfer:
        """Encode by the source's codec, decode by the target's."""
        start = time.perf_counter_ns()
        frame = self._encode(value, dialect, version)
        encoded = time.perf_counter_ns()
        told = self._tell(frame, receive=lambda: self._codec.decode(frame, dialect, version, by=self._target))
        was, now = getattr(value, "dtype", None), getattr(told.value, "dtype", None)
        if was is not None and now is not None and was.newbyteorder("=") != now:
            why = f"dtype {was} -> {now} asked by the {dialect} dialect"
            self._ledger.note(told.value.nbytes, f"{self._source.name}.encode", why)
        return self._done(told.value, "wire", frame.nbytes, float(encoded - start), told)

    def _encode(self, value: Any, dialect: str, version: int) -> np.ndarray:
        if isinstance(value, (_core.SharedBuffer, _core.MappedFile)):
            value = np.asarray(value)
        if self._strict:
            raise CopyRequired(
                "encoding copies the value into a frame\nTo fix: mode='shared', for an array in a pool", "encoded"
            )
        frame = self._codec.encode(value, dialect, version, by=self._source)
        self._ledger.note(frame.nbytes, f"{self._source.name}.encode", "encoded into a frame")
        return frame

    def mapped(self, value: Any) -> Transfer:
        """Put the array, or the frame of any other value, into a mapped file that the target reads."""
        is_array = isinstance(value, ARRAYS)
        start = time.perf_counter_ns()
        content = self._contiguous(np.asarray(value)) if is_array else (self._encode(value, "rust", 2), False)
        array, is_column_major = content
        self._copies(array.nbytes, "transfer", "into a mapped file", "mode='shared'")
        if not _is_shared(array):
            self._copies(array.nbytes, f"{self._source.name}.write", NOT_IN_POOL, CURE)
            array = self._source.builtin.write(array)
        file = self._memory.map_file(size=max(array.nbytes, 1), dtype=array.dtype, shape=array.shape)
        in_file = np.asarray(file)
        _copy(array.reshape(-1), in_file.reshape(-1))
        written = time.perf_counter_ns()
        told = self._tell(
            in_file, proof=array, receive=None if is_array else lambda: self._codec.decode(in_file, by=self._target)
        )
        arrived = in_file.T if is_column_major else told.value
        return self._done(arrived, "mmap", array.nbytes, float(written - start), told)

    def _tell(
        self, array: np.ndarray, *, proof: np.ndarray | None = None, receive: Callable[[], Any] | None = None
    ) -> _Told:
        """Tell the target of an array, let it take what it needs of it, and have both sides compute a checksum.

        The source proves what it wrote: ``proof``, where that isn't the array itself. Its proof comes after the target
        was told, whose time would otherwise be that of the caches which the proof has swept.
        """
        self._compile(array, array if proof is None else proof, receive)
        start = time.perf_counter_ns()
        seen_at = self._target.builtin.address(array)
        heard = time.perf_counter_ns()
        source_checksum = self._source.builtin.checksum(array if proof is None else proof)
        proved = time.perf_counter_ns()
        value = receive() if receive else array
        target_checksum = self._target.builtin.checksum(array)
        done = time.perf_counter_ns()
        hand_over = float(heard - start)
        return _Told(value, seen_at, hand_over, hand_over + float(done - proved), (source_checksum, target_checksum))

    def _compile(self, array: np.ndarray, proof: np.ndarray, receive: Callable[[], Any] | None) -> None:
        """Have a language that compiles with its first call do that now, and note how long it took."""
        for side, what, take in ((self._target, array, receive), (self._source, proof, None)):
            key = (side, what.dtype.str, what.ndim, take is not None)
            if side.backend.compiled or key in self._warm:
                continue
            self._warm.add(key)
            start = time.perf_counter_ns()
            sample = self._memory.zeros((1,) * what.ndim, what.dtype)
            side.builtin.address(sample)
            side.builtin.checksum(sample)
            if take is not None:
                take()  # of a value that is new each time: there is no smaller one of its type
            if (took := time.perf_counter_ns() - start) > COMPILE_NS:
                self._compile_ns += float(took)

    def _done(self, value: Any, mode: str, size: int, write_ns: float, told: _Told) -> Transfer:
        return Transfer(
            self._source.name,
            self._target.name,
            value,
            mode,
            (self._source.lane, self._target.lane),
            size,
            write_ns,
            told.hand_over_ns,
            told.ns,
            self._ledger.since(self._mark),
            *told.checksums,
            self._compile_ns,
        )
