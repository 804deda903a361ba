"""A segment's counters as `tally` has them."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from functools import lru_cache
from typing import Final

import numpy as np

from ..arguments import LANES
from ..segment import BOUNDS, NEVER, Segment, host, word_of
from .tally import ERRORS_KEPT, FUNCTIONS_KEPT, Counters, Key, Origin, State
from .tally import NEVER as NONE

__all__ = ["Reader", "host_name", "origin_of"]

LARGEST: Final = 2**62


def host_name() -> str:
    """Return what tells this machine from others, in few letters."""
    return hashlib.sha256(host().encode()).hexdigest()[:12]


def origin_of(segment: Segment) -> Origin:
    """Return which Lab of which process a segment of this machine belongs to."""
    header = segment.header
    return Origin(host_name(), socket.gethostname()[:64], int(header["pid"]), int(header["base_ticks"]))


@lru_cache(8)
def _buckets(ns_per_tick: float) -> np.ndarray:
    """Return for each bucket of ticks the bucket of nanoseconds that its middle falls into."""
    middle = (BOUNDS[:-1] + BOUNDS[1:]) / 2 * ns_per_tick
    return np.clip(np.searchsorted(BOUNDS, middle, "right") - 1, 0, len(BOUNDS) - 2)


class Reader:
    """Reads one segment, again and again.

    The length of a tick is taken once: were it measured anew in between, times would shrink, and a report would be
    joined wrongly.
    """

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.origin = origin_of(segment)
        self._ns = segment.ns_per_tick
        self._seen: tuple[int, ...] = ()
        self._histograms: tuple[float, dict[Key, dict[int, int]]] = (0.0, {})
        self._errors = -1
        self.state = State()

    def look(self, patience: float = 0.0) -> bool:
        """Read what has changed into ``state``; return whether anything has.

        Parameters
        ----------
        patience
            Seconds that histograms may be old: reading them takes longest.
        """
        segment = self.segment
        seen = segment.pulse()
        if seen == self._seen:
            return False
        self._seen = seen
        entries, names = segment.entries(), segment.backends()
        ns = self._ns
        taken, histograms = self._histograms
        now = time.monotonic()
        is_old = now - taken < patience
        rows = segment.called(entries, histograms=not is_old)[:FUNCTIONS_KEPT]
        numbers = [rows[name].tolist() for name in ("calls", "errors", "recovered", "timed")]
        times = [np.minimum(rows[name] * ns, LARGEST).astype(np.int64).tolist() for name in ("total", "min", "max")]
        keys = zip(rows["backend"].tolist(), rows["name"].tolist(), rows["lane"].tolist(), strict=True)
        found = [] if is_old else self._read_histograms(rows)
        fresh: dict[Key, dict[int, int]] = {}
        functions: dict[Key, Counters] = {}
        for number, (backend, name, lane) in enumerate(keys):
            total, shortest, longest = (it[number] for it in times)
            key = names[backend], name.decode(errors="replace"), word_of(LANES, lane)
            fresh[key] = histograms.get(key, {}) if is_old else found[number]
            calls, errors, recovered, timed = (it[number] for it in numbers)
            shortest = shortest if rows["min"][number] != NEVER else NONE
            functions[key] = Counters(calls, errors, recovered, timed, total, shortest, longest, fresh[key])
        self._histograms = (taken if is_old else now), fresh
        self.state.functions = functions
        if (count := int(segment.header["heads"][2])) != self._errors:
            self._errors = count
            records = segment.errors()[-ERRORS_KEPT:]
            self.state.errors = {
                int(number): (it["time"], it["backend"], it["function"], _said(it))
                for number, it in zip(records["commit"], segment.describe_errors(records), strict=True)
            }
        if len(samples := segment.samples(seen[-1] - 1)):
            self.state.memory = (int(samples["commit"][-1]), int(samples["bytes"][-1]))
        return True

    def _read_histograms(self, rows: np.ndarray) -> list[dict[int, int]]:
        """Return each function's histogram, in nanoseconds."""
        histograms: list[dict[int, int]] = [{} for _ in rows]
        of, used = np.nonzero(rows["histogram"])
        counts = rows["histogram"][of, used].tolist()
        for number, bucket, count in zip(of.tolist(), _buckets(self._ns)[used].tolist(), counts, strict=True):
            mine = histograms[number]
            mine[bucket] = mine.get(bucket, 0) + count
        return histograms


def _said(record: dict[str, object]) -> str:
    """Return an error, or a step of a recovery, in words."""
    step = f"{record['step']} {record['outcome']}" if record["step"] else ""
    error = f"{record['kind']}: {record['message']}" if record["kind"] else ""
    return ", ".join(filter(None, (step, error)))


def is_alive(pid: int) -> bool:
    """Whether there is such a process; one that has ended and that nobody has waited for counts as gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in {b"Z", b"X"}
    except (OSError, IndexError):
        return False


def title_of(pid: int) -> str:
    """Return what a process is, in few words: the module or program that it runs."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = [it.decode(errors="replace") for it in file.read(4096).split(b"\0")]
    except OSError:
        return ""
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1][:64]
    named = [os.path.basename(it) for it in words[:2] if it and not it.startswith("-")]
    return " ".join(named)[:64]
