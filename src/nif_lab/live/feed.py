"""Updates for whoever looks at a Lab: what its telemetry segment says, and of the calls what is new.

docs/messages.md has the message. Nothing here asks the watched process for anything, and nothing loads the core: a
Jupyter server makes updates of its kernels' Labs with it.
"""

from __future__ import annotations

import json
import time
import zlib
from collections import deque
from typing import Any, Final

import numpy as np

from ..arguments import LANES
from ..segment import BUCKETS, LEVELS, Segment, percentile, word_of

__all__ = ["ALIVE", "Feed", "pack"]

#: Calls in an update at most, functions and errors in each, and samples of memory in the first.
CALLS_SENT, FUNCTIONS_SENT, ERRORS_SENT, SAMPLES_SENT = 1_000, 24, 10, 300
#: Calls per second are over so many seconds, the recent p99 over so many.
RATE_SECONDS, P99_SECONDS = 1.0, 5.0

HISTORY: Final = ("start_s", "duration_ns", "backend", "function", "status", "cell")
MEMORY: Final = ("time_s", "bytes", "pressure")


def pack(head: dict[str, Any], *rest: bytes) -> bytes:
    """Put a message together: the length of the JSON text, the text, zeros up to a multiple of 8, the rest."""
    text = json.dumps(head, separators=(",", ":")).encode()
    return b"".join((len(text).to_bytes(4, "little"), text, bytes(-(4 + len(text)) % 8), *rest))


#: What a page is sent while nothing is new: without it, silence and a broken connection look the same.
ALIVE: Final = pack({"kind": "alive"})


class Feed:
    """One client's view of a Lab: the first update has the last 1,000 calls, later ones those since.

    Parameters
    ----------
    segment
        The Lab's telemetry; of this process or of another.
    """

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._number = 0
        self._seen: tuple[Any, ...] = ()
        self._calls = np.zeros(segment.max_backends, np.int64)  # records seen, of each
        self._samples = 0
        self._last: np.void | None = None  # sample of memory
        self._names = b""
        self._errors: tuple[int, list[dict[str, Any]]] = (0, [])
        self._counts: deque[tuple[float, np.ndarray]] = deque()
        self._histograms: deque[tuple[float, np.ndarray]] = deque()

    def update(self, force: bool = False) -> bytes | None:
        """Return the next message, or None if nothing has changed since the last one.

        Parameters
        ----------
        force
            Make one in any case.
        """
        seen = self.look(force)
        return None if seen is None else pack(seen[0], *(column.astype("<f8").tobytes() for column in seen[1]))

    def look(self, force: bool = False) -> tuple[dict[str, Any], list[np.ndarray]] | None:
        """Return what `update` packs: the message's head and its columns."""
        segment = self.segment
        ns = segment.ns_per_tick
        # Calls first: a function that is entered in between is known when its number turns up.
        calls, samples = segment.calls(self._calls), segment.samples(self._samples)
        entries, header = segment.entries(), segment.header
        functions = segment.called(entries)
        counts = np.bincount(functions["backend"], functions["calls"], len(self._calls))
        per_second, moving = self._rates(counts)
        # The heads stand for memory and errors; whoever has called lately is shown to have stopped.
        steps = entries["steps"]
        told = entries["done"][steps > 0].tobytes() + steps.tobytes()
        seen = (counts.tobytes(), int(functions["recovered"].sum()), header.tobytes(), moving, told)
        if seen == self._seen and not len(calls) and not force:
            return None
        self._seen, self._number = seen, self._number + 1
        backends = segment.backends()
        histograms = [functions["histogram"][functions["backend"] == i].sum(axis=0) for i in range(len(backends))]
        recent = self._recent(np.array(histograms, np.int64).reshape(len(backends), BUCKETS))
        history, memory = self._history(calls, entries), self._memory(samples)
        head: dict[str, Any] = {
            "kind": "update",
            "number": self._number,
            "time": time.time(),
            "figures": zlib.crc32(counts.tobytes() + told),
            "pid": int(header["pid"]),
            "cell": int(header["cell"]),
            "enabled": bool(header["enabled"]),
            "backends": [
                _of_backend(name, functions[functions["backend"] == i], histograms[i], ns)
                | {"calls_per_s": float(per_second[i]), "recent_p99_ns": percentile(recent[i], 0.99) * ns}
                for i, name in enumerate(backends)
            ],
            "functions": _busiest(functions, backends, ns),
            "running": _running(entries, backends),
            "memory": self._memory_now(header),
            "errors": self._errors_now(int(header["heads"][2])),
            "tables": {
                "history": {
                    "first": int(self._calls.sum()) - len(history[0]),
                    "rows": len(history[0]),
                    "columns": HISTORY,
                },
                "memory": {"rows": len(memory[0]), "columns": MEMORY},
            },
        }
        if (names := entries["name"].tobytes()) != self._names:
            self._names = names
            head["names"] = [it.decode(errors="replace") for it in entries["name"]]
        return head, [*history, *memory]

    def _rates(self, counts: np.ndarray) -> tuple[np.ndarray, bool]:
        """Return calls per second of each backend, and whether any has been called of late."""
        now = time.monotonic()
        self._counts.append((now, counts))
        while len(self._counts) > 2 and self._counts[1][0] <= now - RATE_SECONDS:
            self._counts.popleft()
        since, before = self._counts[0]
        # Fewer where a function that is gone made room for another.
        rates: np.ndarray = np.maximum(counts - before, 0) / max(now - since, 1e-9)
        return rates, bool(rates.any())

    def _recent(self, histograms: np.ndarray) -> np.ndarray:
        """Return of each backend the histogram of the last seconds' calls."""
        now = time.monotonic()
        self._histograms.append((now, histograms))
        while len(self._histograms) > 2 and self._histograms[1][0] <= now - P99_SECONDS:
            self._histograms.popleft()
        before = self._histograms[0][1]
        if len(before) != len(histograms):  # a backend came meanwhile
            return histograms
        fresh: np.ndarray = np.maximum(histograms - before, 0)
        return fresh

    def _history(self, calls: np.ndarray, entries: np.ndarray) -> list[np.ndarray]:
        """Return the columns of the new calls, and remember that they were seen."""
        backend = entries["backend"][calls["function"]]
        np.maximum.at(self._calls, backend, calls["commit"].astype(np.int64))
        calls, backend = calls[-CALLS_SENT:], backend[-CALLS_SENT:]
        segment = self.segment
        return [
            segment.to_epoch(calls["start"]),
            segment.to_ns(calls["ticks"]),
            backend,
            calls["function"],
            calls["status"],
            calls["cell"],
        ]

    def _memory(self, samples: np.ndarray) -> list[np.ndarray]:
        """Return the columns of the new samples, thinned so that peaks stay."""
        if not len(samples):
            return [np.empty(0)] * len(MEMORY)
        self._samples, self._last = int(samples["commit"][-1]), samples[-1]
        if len(samples) > SAMPLES_SENT:
            groups = np.array_split(np.arange(len(samples) - 1), SAMPLES_SENT - 1)
            samples = samples[[*(it[samples["bytes"][it].argmax()] for it in groups), -1]]
        return [self.segment.to_epoch(samples["time"]), samples["bytes"], samples["pressure"]]

    def _memory_now(self, header: np.void) -> dict[str, Any]:
        """Return the last sample and what the header says of memory."""
        last = self._last
        return {
            "bytes": int(last["bytes"]) if last is not None else 0,
            "blocks": int(last["blocks"]) if last is not None else 0,
            "pressure": word_of(LEVELS, last["pressure"]) if last is not None else LEVELS[0],
            **{name: int(header[name]) for name in ("peak", "committed", "collections")},
        }

    def _errors_now(self, count: int) -> list[dict[str, Any]]:
        """Return the last errors, oldest first; read anew when there are more."""
        if count != self._errors[0]:
            self._errors = count, self.segment.describe_errors(self.segment.errors()[-ERRORS_SENT:])
        return self._errors[1]


def _of_backend(name: str, rows: np.ndarray, histogram: np.ndarray, ns: float) -> dict[str, Any]:
    """Sum up a backend's functions."""
    calls, errors, timed = (int(rows[it].sum()) for it in ("calls", "errors", "timed"))
    return {
        "name": name,
        "calls": calls,
        "errors": errors,
        "recovered": int(rows["recovered"].sum()),
        "error_rate": errors / calls if calls else 0.0,
        "mean_ns": float(rows["total"].sum()) * ns / timed if timed else 0.0,
        "p50_ns": percentile(histogram, 0.5) * ns,
        "p99_ns": percentile(histogram, 0.99) * ns,
        "min_ns": float(rows["min"][rows["timed"] > 0].min()) * ns if timed else 0.0,
        "max_ns": float(rows["max"].max(initial=0)) * ns,
    }


def _running(entries: np.ndarray, backends: list[str]) -> list[dict[str, Any]]:
    """Return the calls that say how far they are."""
    return [
        {
            "backend": backends[it["backend"]],
            "function": it["name"].decode(errors="replace"),
            "lane": word_of(LANES, it["lane"]),
            "done": int(it["done"]),
            "total": int(it["steps"]),
        }
        for it in entries[entries["steps"] > 0]
    ]


def _busiest(functions: np.ndarray, backends: list[str], ns: float) -> list[dict[str, Any]]:
    """Return the functions that took most time, the busiest first."""
    mean = functions["total"] / np.maximum(functions["timed"], 1)
    order = np.lexsort((-functions["calls"].astype(np.int64), -mean * functions["calls"]))
    return [
        {
            "backend": backends[functions["backend"][i]],
            "function": functions["name"][i].decode(errors="replace"),
            "lane": word_of(LANES, functions["lane"][i]),
            "calls": int(functions["calls"][i]),
            "mean_ns": float(mean[i]) * ns,
            "errors": int(functions["errors"][i]),
        }
        for i in order[:FUNCTIONS_SENT]
        if functions["calls"][i]
    ]
