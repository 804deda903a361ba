"""What has been called, how often and how long: counters, history and events of a Lab.

The core records (docs/telemetry.md); this module reads. A call never runs any of it.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
import time
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from . import _core
from .arguments import LANES, TOPICS, Topic, one_of, whole
from .costs import CellCosts, CellsReport
from .errors import ArgumentTypeError, kind_name
from .segment import LEVELS, Segment, percentile, word_of
from .text import format_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from .memory import MemoryMetrics

__all__ = ["Event", "FunctionStats", "History", "Snapshot", "Subscription", "Telemetry", "snapshot_of"]

#: How often a subscription looks for what is new, in seconds.
INTERVAL: Final = 0.05

#: What each value of a record's one byte means.
STATUSES: Final = np.array([kind_name(number) for number in range(256)])

_log = logging.getLogger("nif_lab")


@dataclass(frozen=True, slots=True)
class FunctionStats:
    """Counters of one function, or of all functions of a backend.

    Attributes
    ----------
    backend, function : str
        Whose they are; ``function`` is empty for a backend's sum.
    calls, errors : int
        Calls made, and those of them that were refused or failed.
    total_ns, min_ns, max_ns : float
        Time inside native code of the calls that were timed, in nanoseconds.
    timed : int
        How many were: all of a function's calls, or one in 4 where a call takes less than 25 µs, in 16 below 5 µs, in
        64 below 0.2 µs.
    p50_ns, p99_ns, p999_ns : float
        The time that half, 99 % and 99.9 % of the timed calls didn't exceed, in nanoseconds, within 6 %.
    lane : str
        Where the calls ran: ``"direct"`` or ``"isolated"``.
    recovered : int
        Calls that failed at first and were answered after all.
    """

    backend: str
    function: str
    calls: int
    errors: int
    total_ns: float
    min_ns: float
    max_ns: float
    timed: int = 0
    p50_ns: float = 0.0
    p99_ns: float = 0.0
    p999_ns: float = 0.0
    lane: str = "direct"
    recovered: int = 0

    @property
    def mean_ns(self) -> float:
        """Mean time of a timed call, in nanoseconds; 0 before the first."""
        return self.total_ns / self.timed if self.timed else 0.0

    @property
    def error_rate(self) -> float:
        """Share of calls that failed, 0 to 1."""
        return self.errors / self.calls if self.calls else 0.0


@dataclass(frozen=True, slots=True, repr=False)
class Snapshot:
    """All counters at one instant.

    Attributes
    ----------
    functions : tuple of FunctionStats
        Every function of every loaded backend, called or not.
    backends : tuple of FunctionStats
        Their sum for each backend.
    time : float
        When it was taken, in seconds since the epoch.
    memory : MemoryMetrics or None
        Figures of the Lab's pools; None in a snapshot of another process, which has counters only.
    """

    functions: tuple[FunctionStats, ...]
    backends: tuple[FunctionStats, ...] = ()
    time: float = field(default_factory=time.time)
    memory: MemoryMetrics | None = None

    def __iter__(self) -> Iterator[FunctionStats]:
        return iter(self.functions)

    def function(self, backend: str, name: str, lane: str | None = None) -> FunctionStats:
        """Return one function's counters, of the lane that was opened first unless one is named; KeyError for none."""
        for stats in self.functions:
            if (stats.backend, stats.function) == (backend, name) and lane in (None, stats.lane):
                return stats
        raise KeyError(f"{backend}.{name}")

    def backend(self, name: str) -> FunctionStats:
        """Return the sum over a backend's functions; zeros for one that isn't loaded."""
        for stats in self.backends:
            if stats.backend == name:
                return stats
        return FunctionStats(name, "", 0, 0, 0.0, 0.0, 0.0)

    def __repr__(self) -> str:
        called = [it for it in self.functions if it.calls]
        if not called:
            return "no calls yet"
        lines = [f"{'function':<24}{'lane':<9}{'calls':>9}{'mean':>11}{'p99':>11}{'min':>11}{'max':>11}{'errors':>8}"]
        lines += [
            f"{f'{it.backend}.{it.function}':<24}{it.lane:<9}{it.calls:>9}{format_ns(it.mean_ns):>11}{format_ns(it.p99_ns):>11}"
            f"{format_ns(it.min_ns):>11}{format_ns(it.max_ns):>11}{it.errors:>8}"
            for it in called
        ]
        return "\n".join(lines)


def _stats(backend: str, name: str, lane: str, rows: np.ndarray, ns: float) -> FunctionStats:
    """Sum up some functions' counters."""
    histogram = rows["histogram"].sum(axis=0)
    shortest = rows["min"][rows["timed"] > 0]
    p50, p99, p999 = (percentile(histogram, share) * ns for share in (0.5, 0.99, 0.999))
    return FunctionStats(
        backend,
        name,
        int(rows["calls"].sum()),
        int(rows["errors"].sum()),
        float(rows["total"].sum()) * ns,
        float(shortest.min()) * ns if len(shortest) else 0.0,
        float(rows["max"].max(initial=0)) * ns,
        int(rows["timed"].sum()),
        p50,
        p99,
        p999,
        lane,
        int(rows["recovered"].sum()),
    )


def snapshot_of(segment: Segment) -> Snapshot:
    """Read every counter of a segment."""
    # Functions first: a Lab that is still loading may add a backend in between, and its functions come after it.
    rows = segment.functions()
    names, ns = segment.backends(), segment.ns_per_tick
    functions = tuple(
        _stats(
            names[row["backend"]],
            row["name"].decode(errors="replace"),
            word_of(LANES, row["lane"]),
            rows[i : i + 1],
            ns,
        )
        for i, row in enumerate(rows)
    )
    sums = tuple(_stats(name, "", "", rows[rows["backend"] == i], ns) for i, name in enumerate(names))
    return Snapshot(functions, sums)


#: The columns of a `History`.
COLUMNS: Final = np.dtype(
    [
        ("time", "f8"),
        ("backend", "U32"),
        ("function", "U64"),
        ("lane", "U16"),
        ("duration_ns", "f8"),
        ("status", "U24"),
        ("weight", "i4"),
        ("cell", "i4"),
    ]
)


@dataclass(frozen=True, slots=True, repr=False)
class History:
    """The last calls, oldest first.

    Attributes
    ----------
    records : numpy.ndarray
        Structured: ``time`` (f8, seconds since the epoch), ``backend``, ``function``, ``lane``, ``duration_ns`` (f8),
        ``status`` (empty, or the error's class), ``weight`` (calls that the record stands for), ``cell`` (of the
        notebook, 0 outside).
    """

    records: np.ndarray

    def __len__(self) -> int:
        return len(self.records)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.records, dtype=dtype, copy=copy)

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame with the same columns."""
        import pandas as pd

        return pd.DataFrame(self.records)

    def __repr__(self) -> str:
        lines = [f"{len(self)} calls"]
        for it in self.records[-10:]:
            outcome = it["status"] or format_ns(it["duration_ns"])
            lines.append(f"  {it['backend']}.{it['function']}: {outcome}")
        return "\n".join(lines)


def history_of(segment: Segment, records: np.ndarray) -> History:
    """Turn records of calls into readable ones."""
    functions = segment.functions()
    names = segment.backends()
    table = np.empty(len(records), COLUMNS)
    mine = functions[records["function"]]
    table["time"] = segment.to_epoch(records["start"])
    table["backend"] = np.array(names or [""])[mine["backend"]]
    table["function"] = np.char.decode(mine["name"], "utf-8", "replace")
    lanes = [word_of(LANES, it) for it in functions["lane"].tolist()]
    table["lane"] = np.array(lanes or [""])[records["function"]]
    table["duration_ns"] = segment.to_ns(records["ticks"])
    table["status"] = STATUSES[records["status"]]
    table["weight"], table["cell"] = records["weight"], records["cell"]
    return History(table)


@dataclass(frozen=True, slots=True)
class Event:
    """One published fact.

    Attributes
    ----------
    topic : str
        ``"nif:performance"`` (a call that was timed), ``"nif:errors"`` or ``"nif:memory"``.
    time : float
        Seconds since the epoch.
    backend, function : str
        Whose call it was; empty for memory.
    data : dict
        performance: ``duration_ns``, ``weight``, ``cell``; errors: ``kind``, ``argument`` (index or -1),
        ``message``, ``cell``, and of a recovery's steps ``step``, ``outcome``, ``signal``, ``exit_code``,
        ``duration_ns`` (``step`` is empty for a call that failed in the end); memory: ``bytes``, ``blocks``,
        ``pressure`` (``"normal"``, ``"high"`` or ``"critical"``).
    """

    topic: str
    time: float
    backend: str
    function: str
    data: dict[str, Any]


class Subscription:
    """A callback's own thread: it reads what is new and calls. Close it, or use it in a ``with``.

    However slow the callback is, no call and no other subscription waits for it; what the rings drop meanwhile is
    counted in ``missed``. An exception of the callback is logged and counted in ``failures``.
    """

    def __init__(self, segment: Segment, topic: Topic, callback: Callable[[Event], object]) -> None:
        self.topic = one_of("topic", topic, TOPICS)
        if not callable(callback):
            raise ArgumentTypeError("callback", f"expected a function of one event, got {type(callback).__name__}")
        self.missed = self.failures = 0
        self._segment, self._callback = segment, callback
        self._next = len(self._commits()) and int(self._commits()[-1])
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=f"nif_lab {topic}", daemon=True)
        self._thread.start()

    def _records(self) -> np.ndarray:
        read = {"nif:performance": self._segment.times, "nif:errors": self._segment.errors}
        return read.get(self.topic, self._segment.samples)()

    def _commits(self) -> np.ndarray:
        return self._records()["commit"]

    def _serve(self) -> None:
        while not self._closed.wait(INTERVAL):
            self._publish()
        self._publish()

    def _publish(self) -> None:
        records = self._records()
        fresh = records[records["commit"] > self._next]
        if not len(fresh):
            return
        self.missed += int(fresh["commit"][-1]) - self._next - len(fresh)
        self._next = int(fresh["commit"][-1])
        for event in self._events(fresh):
            try:
                self._callback(event)
            except Exception:
                self.failures += 1
                _log.exception("a subscriber of %s failed", self.topic)

    def _events(self, records: np.ndarray) -> Iterator[Event]:
        segment = self._segment
        data: dict[str, Any]
        if self.topic == "nif:memory":
            for when, it in zip(segment.to_epoch(records["time"]), records, strict=True):
                level = word_of(LEVELS, it["pressure"])
                data = {"bytes": int(it["bytes"]), "blocks": int(it["blocks"]), "pressure": level}
                yield Event(self.topic, float(when), "", "", data)
            return
        if self.topic == "nif:performance":
            for it in history_of(segment, records).records:
                data = {
                    "duration_ns": float(it["duration_ns"]),
                    "weight": int(it["weight"]),
                    "cell": int(it["cell"]),
                }
                yield Event(self.topic, float(it["time"]), str(it["backend"]), str(it["function"]), data)
            return
        for data in segment.describe_errors(records):
            yield Event(self.topic, data.pop("time"), data.pop("backend"), data.pop("function"), data)

    def close(self) -> None:
        """End it; events up to now are still delivered, unless the callback itself closes."""
        self._closed.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Telemetry:
    """A Lab's telemetry: ``lab.telemetry``."""

    def __init__(self) -> None:
        self.core = _core.Telemetry()
        self._segment, self._pid = Segment(self.core.fileno()), os.getpid()
        self._costs = CellCosts()
        self._recorders: dict[str, _core.Recorder] = {}
        self._adding = threading.Lock()
        self._watch_cells()

    @property
    def segment(self) -> Segment:
        """The segment of this process; a child of fork has one of its own, which begins with zeros."""
        if self._pid != (pid := os.getpid()):
            self.core.settle()
            self._segment, self._pid = Segment(self.core.fileno()), pid
        return self._segment

    @property
    def enabled(self) -> bool:
        """Whether calls are counted and timed; set it to False to stop all of it."""
        return self.core.enabled

    @enabled.setter
    def enabled(self, on: bool) -> None:
        self.core.enabled = on

    def recorder(self, name: str) -> Callable[[float], None]:
        """Return a function that records how long a step of your own took, in seconds.

        The step is listed as ``python.<name>`` wherever functions are: snapshot, history, panels, exporters. A record
        costs some tens of nanoseconds.

        Examples
        --------
        >>> record = lab.telemetry.recorder("load")
        >>> start = time.perf_counter()
        >>> table = load()
        >>> record(time.perf_counter() - start)
        """
        return self.step(name).record

    def step(self, name: str) -> _core.Recorder:
        """Return what counts ``python.<name>``, failures too."""
        if name not in self._recorders:
            with self._adding:
                if not self._recorders:
                    self._python = self.core.add_backend("python")
                if name not in self._recorders:
                    self._recorders[name] = _core.Recorder(self.core, self._python, name)
        return self._recorders[name]

    def recorded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that calls another one and records how long it took, failed calls too."""
        record = self.recorder(name)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                record(time.perf_counter() - start)

        return call

    def snapshot(self) -> Snapshot:
        """Read every counter."""
        self.core.calibrate()
        return snapshot_of(self.segment)

    def history(self, last: int = 1000) -> History:
        """Return the last calls that were recorded, of all backends, oldest first."""
        self.core.calibrate()
        last = whole("last", last, 0)
        calls = self.segment.calls()
        return history_of(self.segment, calls[max(len(calls) - last, 0) :])

    def subscribe(self, topic: Topic, callback: Callable[[Event], object]) -> Subscription:
        """Call ``callback`` with each `Event` of a topic from now on, on a thread of its own."""
        self.core.calibrate()
        return Subscription(self.segment, topic, callback)

    def _watch_cells(self) -> None:
        """In a notebook, let records carry the number of the cell that runs."""
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if shell is None:
            return
        # execution_count is counted up before this event by some IPythons and after it by others; the inputs are not.
        inputs = shell.history_manager.input_hist_parsed

        # The shell keeps what it calls: a weak reference, so that a Lab that is gone can go.
        alive = weakref.ref(self)

        def before(*_: object) -> None:
            if (telemetry := alive()) is not None:
                telemetry.core.cell = len(inputs)
                telemetry._costs.begin(len(inputs), telemetry.segment)

        def after(*_: object) -> None:
            if (telemetry := alive()) is not None:
                telemetry._costs.end(telemetry.segment)

        self.core.cell = max(len(inputs) - 1, 0)
        self._costs.begin(self.core.cell, self.segment)  # the cell that makes the Lab
        for name, hook in (("pre_run_cell", before), ("post_run_cell", after)):
            shell.events.register(name, hook)
            weakref.finalize(self, shell.events.unregister, name, hook).atexit = False

    def cells_report(self) -> CellsReport:
        """Return what each notebook cell cost: native calls, their time, errors, by function."""
        self.core.calibrate()
        return self._costs.report(self.segment)
