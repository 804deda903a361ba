"""Reading a telemetry segment: this process's own, or that of another process of the same user.

docs/telemetry.md is the layout. Nothing here asks the watched process for anything, so it is neither waited for nor
slowed.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import re
import stat
from collections.abc import Callable, Sequence
from functools import cache
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from .errors import KINDS, NifLabError, WorkerCrashed, kind_name

__all__ = ["NotYours", "Segment", "SegmentError", "attach", "host", "is_lasting", "sensible", "word_of"]

MAGIC: Final = b"NIFLABTM"
VERSION: Final = 3
#: What /proc calls a segment.
NAME: Final = "/memfd:nif_lab telemetry"
#: What a record of an error is about: a call that failed in the end, or a step on the way.
STEPS: Final = ("", "try", "retry", "restart", "failover", "circuit")
CRASHED: Final = next(number for number, kind in KINDS.items() if kind is WorkerCrashed)
OUTCOMES: Final = ("failed", "answered", "opened", "closed")
LEVELS: Final = ("normal", "high", "critical")

HEADER: Final = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("header_size", "<u4"),
        ("size", "<u8"),
        ("pid", "<u4"),
        ("clock", "<u4"),
        ("base_ticks", "<u8"),
        ("base_ns", "<u8"),
        ("ns_per_tick", "<f8"),
        ("enabled", "<u4"),
        ("cell", "<u4"),
        ("n_backends", "<u4"),
        ("n_functions", "<u4"),
        ("max_backends", "<u4"),
        ("max_functions", "<u4"),
        ("at", "<u8", 7),
        ("heads", "<u8", 3),
        ("peak", "<u8"),
        ("committed", "<u8"),
        ("collections", "<u8"),
        ("n_shards", "<u4"),
        ("max_shards", "<u4"),
        ("reserved", "S64"),
    ]
)
BACKEND: Final = np.dtype([("name", "S32"), ("head", "<u8"), ("reserved", "S24")])
BUCKETS: Final = 384
#: What a function is, as it lies in the segment.
ENTRY: Final = np.dtype(
    [
        ("name", "S64"),
        ("backend", "<u2"),
        ("lane", "<u2"),
        ("flags", "<u4"),
        ("since", "<u8"),
        ("done", "<u8"),
        ("steps", "<u8"),
        ("reserved", "S32"),
    ]
)
#: What one place counts of a function; ``due``, ``mask`` and ``typical`` are the writer's own.
COUNTS: Final = np.dtype(
    [
        ("calls", "<u8"),
        ("due", "<u8"),
        ("mask", "<u8"),
        ("typical", "<u8"),
        ("errors", "<u8"),
        ("recovered", "<u8"),
        ("timed", "<u8"),
        ("total", "<u8"),
        ("min", "<u8"),
        ("max", "<u8"),
        ("reserved", "S48"),
        ("histogram", "<u8", BUCKETS),
    ]
)
#: A function and the sum over all places, as `Segment.functions` tells it.
FUNCTION: Final = np.dtype(
    [
        ("name", "S64"),
        ("backend", "<u2"),
        ("lane", "<u2"),
        ("flags", "<u4"),
        ("since", "<u8"),
        ("calls", "<u8"),
        ("errors", "<u8"),
        ("recovered", "<u8"),
        ("timed", "<u8"),
        ("total", "<u8"),
        ("min", "<u8"),
        ("max", "<u8"),
        ("histogram", "<u8", BUCKETS),
    ]
)
NEVER: Final = np.uint64(2**64 - 1)
CALL: Final = np.dtype(
    [
        ("commit", "<u8"),
        ("start", "<u8"),
        ("ticks", "<u8"),
        ("function", "<u2"),
        ("status", "u1"),
        ("weight", "u1"),
        ("cell", "<u4"),
    ]
)
SAMPLE: Final = np.dtype([("commit", "<u8"), ("time", "<u8"), ("bytes", "<u8"), ("blocks", "<u4"), ("pressure", "<u4")])
ERROR: Final = np.dtype(
    [
        ("commit", "<u8"),
        ("time", "<u8"),
        ("function", "<u2"),
        ("kind", "<u2"),
        ("argument", "<i4"),
        ("cell", "<u4"),
        ("step", "u1"),
        ("outcome", "u1"),
        ("code", "<i2"),
        ("duration_ns", "<f8"),
        ("text", "S216"),
    ]
)
CALLS_KEPT, TIMES_KEPT, SAMPLES_KEPT, ERRORS_KEPT = 1024, 10_000, 10_000, 1_000

#: What is read of a segment at most. Another process made it, and says how much of it there is to copy.
LARGEST: Final = 64 << 20
MOST_BACKENDS, MOST_FUNCTIONS, MOST_SHARDS, MOST_LABS, MOST_DESCRIPTORS = 64, 8192, 1024, 64, 1 << 16
#: A tick is a nanosecond, or shorter: a cycle of the processor.
LONGEST_TICK: Final = 1e3

_T = TypeVar("_T")

#: Where each bucket of a histogram begins, in ticks; one more for the end of the last.
BOUNDS: Final = np.array(
    [float(b) if b < 8 else (8 + b % 8) * 2.0 ** (b // 8 - 1) for b in range(BUCKETS + 1)], dtype=np.float64
)


class SegmentError(NifLabError):
    """A process has no segment, or it can't be read."""


class NotYours(SegmentError):
    """The process belongs to another user."""


class Segment:
    """A mapped segment; every property reads what is there now.

    Where things lie and how many there may be is read and checked once. What another process writes there later can
    make figures wrong, and nothing else.

    Parameters
    ----------
    descriptor
        An open file descriptor; it may be closed afterwards.

    Raises
    ------
    SegmentError
        When it is no segment of this version, or says of itself what can't be.
    """

    def __init__(self, descriptor: int) -> None:
        if not is_lasting(descriptor):
            raise SegmentError("this is no telemetry segment of nif_lab: it isn't sealed against shrinking")
        if os.fstat(descriptor).st_size > LARGEST:
            raise SegmentError("this is no telemetry segment of nif_lab: it is too large")
        self._map = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        self._bytes = np.frombuffer(self._map, np.uint8)
        if len(self._bytes) < HEADER.itemsize:
            raise SegmentError("this is no telemetry segment of nif_lab: it is too small")
        self._header = self._view(HEADER, 0, 1)
        head = self.header
        if bytes(head["magic"]) != MAGIC:
            raise SegmentError("this is no telemetry segment of nif_lab")
        if head["version"] != VERSION:
            raise SegmentError(
                f"the segment has layout version {head['version']}, this nif_lab reads {VERSION}. "
                "To fix: use the same release of nif_lab here as in the process that is watched"
            )
        self.max_backends, self.max_functions = int(head["max_backends"]), int(head["max_functions"])
        self.max_shards = int(head["max_shards"])
        self._at = [int(it) for it in head["at"]]
        room = (
            BACKEND.itemsize * self.max_backends,
            ENTRY.itemsize * self.max_functions,
            COUNTS.itemsize * self.max_functions * self.max_shards,
            CALL.itemsize * CALLS_KEPT * self.max_backends,
            CALL.itemsize * TIMES_KEPT,
            SAMPLE.itemsize * SAMPLES_KEPT,
            ERROR.itemsize * ERRORS_KEPT,
        )
        fits = all(at % 8 == 0 and at + size <= len(self._bytes) for at, size in zip(self._at, room, strict=True))
        is_sane = 0 < self.max_shards <= MOST_SHARDS
        if not (fits and is_sane) or self.max_backends > MOST_BACKENDS or self.max_functions > MOST_FUNCTIONS:
            raise SegmentError("the segment says of itself what can't be: its parts don't fit")

    def _view(self, dtype: np.dtype[np.void], at: int, count: int) -> np.ndarray:
        return self._bytes[at : at + count * dtype.itemsize].view(dtype)

    @property
    def header(self) -> np.void:
        """The header as it is now."""
        header: np.void = self._header[0].copy()
        return header

    def _now(self, name: str) -> int:
        """Return one number of the header, without a copy of all of it."""
        return int(self._header[name][0])

    @property
    def ns_per_tick(self) -> float:
        """Nanoseconds in a tick."""
        ns = float(self._header["ns_per_tick"][0])
        if not (math.isfinite(ns) and 0 < ns <= LONGEST_TICK):
            raise SegmentError(f"the segment says of itself what can't be: a tick of {ns} ns")
        return ns

    def backends(self) -> list[str]:
        """Return the names of the backends, by number."""
        return [name.decode(errors="replace") for name in self._backends()["name"]]

    def _backends(self) -> np.ndarray:
        count = min(self._now("n_backends"), self.max_backends)
        return self._view(BACKEND, self._at[0], count).copy()

    def entries(self) -> np.ndarray:
        """Return what the functions are, dtype `ENTRY`, by number."""
        count = min(self._now("n_functions"), self.max_functions)
        entries: np.ndarray = self._view(ENTRY, self._at[1], count).copy()
        return entries

    def functions(self) -> np.ndarray:
        """Return the counters of all functions, summed over all shards; dtype `FUNCTION`, times in ticks."""
        return self._summed(self.entries(), slice(None))

    def called(self, entries: np.ndarray, histograms: bool = True) -> np.ndarray:
        """Return the counters of those functions that were called, as `functions` does.

        Parameters
        ----------
        entries
            What `entries` returned. Few functions of many are called, and a counter is 3 KB.
        histograms
            Whether they are wanted; they are most of a counter.
        """
        numbers = np.flatnonzero(self._counts(len(entries))["calls"].any(axis=0))
        return self._summed(entries, numbers, histograms)

    def pulse(self) -> tuple[int, ...]:
        """Return how many calls, errors and samples of memory there were: whether these have changed is soon read."""
        count = min(self._now("n_functions"), self.max_functions)
        _, samples, errors = self._header["heads"][0].tolist()
        return int(self._counts(count)["calls"].sum()), errors, samples

    def _counts(self, count: int) -> np.ndarray:
        """Return the counters as they lie in the segment: a row for each shard that is used."""
        most, shards = self.max_functions, max(min(self._now("n_shards"), self.max_shards), 1)
        return self._view(COUNTS, self._at[2], shards * most).reshape(shards, most)[:, :count]

    def _summed(self, entries: np.ndarray, numbers: np.ndarray | slice, histograms: bool = True) -> np.ndarray:
        counts, entries = self._counts(len(entries)), entries[numbers]
        rows = np.zeros(len(entries), FUNCTION)
        for name in ("name", "backend", "lane", "flags", "since"):
            rows[name] = entries[name]
        for name in ("calls", "errors", "recovered", "timed", "total", *["histogram"] * histograms):
            rows[name] = counts[name][:, numbers].sum(axis=0, dtype=np.uint64)
        rows["max"] = counts["max"][:, numbers].max(axis=0)
        timed = counts["timed"][:, numbers] > 0
        rows["min"] = np.where(timed, counts["min"][:, numbers], NEVER).min(axis=0)
        return rows

    def _of_functions(self, records: np.ndarray, time: str) -> np.ndarray:
        """Leave out records of functions that are gone, whose numbers are others' now."""
        count = min(self._now("n_functions"), self.max_functions)
        since = self._view(ENTRY, self._at[1], count)["since"]
        known = records[records["function"] < len(since)]
        kept: np.ndarray = known[known[time] >= since[known["function"]]]
        return kept

    def calls(self, since: Sequence[int] | np.ndarray = ()) -> np.ndarray:
        """Return the last calls of every backend, dtype `CALL`, in order of their start.

        Parameters
        ----------
        since
            For each backend the first record that is wanted: the ``commit`` of the last one seen.
        """
        heads, at = self._backends()["head"].tolist(), self._at[3]
        size = CALLS_KEPT * CALL.itemsize
        rings = [
            self._ring(CALL, at + number * size, CALLS_KEPT, head, first)
            for number, (head, first) in enumerate(zip_longest(heads, since[: len(heads)], fillvalue=0))
        ]
        merged = np.concatenate(rings) if rings else np.empty(0, CALL)
        return self._of_functions(merged[np.argsort(merged["start"], kind="stable")], "start")

    def times(self) -> np.ndarray:
        """Return the last 10,000 timed calls of all backends, dtype `CALL`, oldest first."""
        records = self._ring(CALL, self._at[4], TIMES_KEPT, int(self._header["heads"][0, 0]))
        return self._of_functions(records, "start")

    def samples(self, since: int = 0) -> np.ndarray:
        """Return the last 10,000 samples of memory, or those from number ``since`` on; dtype `SAMPLE`, oldest first."""
        return self._ring(SAMPLE, self._at[5], SAMPLES_KEPT, int(self._header["heads"][0, 1]), since)

    def errors(self) -> np.ndarray:
        """Return the last 1,000 errors, dtype `ERROR`, oldest first."""
        records = self._ring(ERROR, self._at[6], ERRORS_KEPT, int(self._header["heads"][0, 2]))
        return self._of_functions(records, "time")

    def describe_errors(self, records: np.ndarray) -> list[dict[str, Any]]:
        """Return records of errors in words: ``time``, ``backend``, ``function`` and what an `Event`'s data holds."""
        entries, names = self.entries(), self.backends()
        return [
            {
                "time": float(when),
                "backend": names[entries["backend"][it["function"]]],
                "function": entries["name"][it["function"]].decode(errors="replace"),
                "kind": kind_name(int(it["kind"])),
                "argument": int(it["argument"]),
                "message": it["text"].decode(errors="replace"),
                "cell": int(it["cell"]),
                "step": word_of(STEPS, it["step"]),
                "outcome": word_of(OUTCOMES, it["outcome"]),
                "signal": -int(it["code"]) if it["code"] < 0 else None,
                "exit_code": int(it["code"]) if it["code"] >= 0 and it["kind"] == CRASHED else None,
                "duration_ns": float(it["duration_ns"]),
            }
            for when, it in zip(self.to_epoch(records["time"]), records, strict=True)
        ]

    def _ring(self, dtype: np.dtype[np.void], at: int, capacity: int, head: int, first: int = 0) -> np.ndarray:
        """Return the whole records of a ring, oldest first; one that is being written is left out."""
        oldest = max(head - capacity, int(first), 0)
        if oldest >= head:
            return np.empty(0, dtype)
        numbers = np.arange(oldest, head, dtype=np.int64)
        places = numbers % capacity
        ring = self._view(dtype, at, capacity)
        records = ring[places]  # indexing by an array copies
        expected = (numbers + 1).astype(np.uint64)
        whole = (records["commit"] == expected) & (ring["commit"][places] == expected)
        kept: np.ndarray = records[whole]
        return kept

    def to_ns(self, ticks: np.ndarray | float) -> np.ndarray:
        """Convert a duration from ticks to nanoseconds."""
        return np.asarray(ticks, dtype=np.float64) * self.ns_per_tick

    def to_epoch(self, ticks: np.ndarray) -> np.ndarray:
        """Convert an instant from ticks to seconds since the epoch."""
        since = ticks.astype(np.int64) - self._now("base_ticks")
        return (float(self._now("base_ns")) + self.to_ns(since)) / 1e9


def word_of(words: Sequence[str], number: int) -> str:
    """Return the word of a number in a segment; a number that has none is shown as it is."""
    return words[number] if 0 <= number < len(words) else f"unknown ({number})"


@cache
def host() -> str:
    """Return what tells this machine, as it is booted now, from all others; and a container from others on it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/net")


def is_lasting(descriptor: int) -> bool:
    """Whether a file can't be cut short. If it could, a look at what is gone would end this process."""
    try:
        return bool(fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:
        return False


def percentile(histogram: np.ndarray, share: float) -> float:
    """Return the time, in ticks, that this share of a histogram's calls don't exceed: the middle of its bucket."""
    total = int(histogram.sum())
    if not total:
        return 0.0
    index = int(np.searchsorted(np.cumsum(histogram), share * total))
    return float(BOUNDS[index] + BOUNDS[index + 1]) / 2 if index >= len(histogram[:8]) else float(index)


@cache
def _memory_mount() -> str:
    """Return the mount that all memfds of this machine lie on; nobody can mount it elsewhere, or put files there."""
    descriptor = os.memfd_create("nif_lab probe", os.MFD_CLOEXEC)
    try:
        return _mount(descriptor)
    finally:
        os.close(descriptor)


def _mount(descriptor: int) -> str:
    found = re.search(r"^mnt_id:\s*(\d+)", Path(f"/proc/self/fdinfo/{descriptor}").read_text(), re.M)
    return found[1] if found else ""


def _open(link: str) -> int | None:
    """Open what a descriptor of another process is, if it is a memfd; None if it is anything else.

    A process can give any file a segment's name. So the file is looked at before it is opened: to open a FIFO is to
    wait for its other end, and opening a device may set it in motion.
    """
    looked_at = os.open(link, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(looked_at).st_mode) or _mount(looked_at) != _memory_mount():
            return None
        return os.open(f"/proc/self/fd/{looked_at}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(looked_at)


def sensible(read: Callable[[], _T]) -> _T:
    """Read a segment of another process.

    Raises
    ------
    SegmentError
        When what it says makes no sense: a number out of its range, say.
    """
    try:
        with np.errstate(all="ignore"):
            return read()
    except (ArithmeticError, LookupError, ValueError, OSError) as error:
        raise SegmentError(f"what the segment says makes no sense: {type(error).__name__}: {error}") from None


def attach(pid: int, known: set[int] | None = None) -> list[Segment]:
    """Open the segments of a process of this user, one for each of its Labs, oldest first.

    Parameters
    ----------
    pid
        The process.
    known
        Inodes of segments that were opened before, which are left out; those that are opened now are added.

    Raises
    ------
    SegmentError
        When there is no such process, it belongs to somebody else, or it has no Lab, or none that isn't known.
    """
    try:
        with os.scandir(f"/proc/{pid}/fd") as listed:
            links = [it.path for it in islice(listed, MOST_DESCRIPTORS)]
    except (FileNotFoundError, ProcessLookupError, OverflowError):
        raise SegmentError(f"there is no process {pid}") from None
    except PermissionError:
        raise NotYours(f"process {pid} belongs to another user") from None
    found: list[Segment] = []
    looked_at = set[int]() if known is None else known  # Python's own mapping keeps a second descriptor of each
    broken: SegmentError | None = None
    for link in links:
        try:
            if not os.readlink(link).startswith(NAME) or (inode := os.stat(link).st_ino) in looked_at:
                continue
            descriptor = _open(link)
            looked_at.add(inode)
        except (FileNotFoundError, ProcessLookupError):
            continue  # closed while we looked
        except PermissionError:
            raise NotYours(f"process {pid} belongs to another user") from None
        if descriptor is None or len(found) >= MOST_LABS:
            continue
        try:
            found.append(Segment(descriptor))
        except SegmentError as error:
            broken = error  # the process's other Labs can be looked at all the same
        finally:
            os.close(descriptor)
    # A child of fork has its parent's segments open too.
    own = [it for it in found if it.header["pid"] == pid] or found
    if not own:
        raise broken or SegmentError(f"process {pid} has no Lab: it made none yet, or isn't a Python with nif_lab")
    return sorted(own, key=lambda it: int(it.header["base_ns"]))
