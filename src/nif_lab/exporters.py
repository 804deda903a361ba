"""A Lab's telemetry in the formats of other tools: Prometheus, Perfetto and OpenTelemetry.

Everything here reads what the core recorded already. A call never waits for it and never runs any of it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .errors import NifLabError
from .folders import written

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

    from .memory import PoolMetrics
    from .telemetry import FunctionStats, History, Snapshot, Telemetry

__all__ = ["ExporterMissing", "opentelemetry", "perfetto", "prometheus", "write_perfetto"]

#: Name, meaning and value of what is counted; both kinds of metrics use them.
COUNTERS: Final[tuple[tuple[str, str, Callable[[FunctionStats], int]], ...]] = (
    ("calls", "Calls made, failed ones included.", lambda it: it.calls),
    ("errors", "Calls that were refused or failed.", lambda it: it.errors),
    ("recovered", "Calls that failed at first and were answered after all.", lambda it: it.recovered),
)
#: Name, meaning and value of what is known of each pool.
GAUGES: Final[tuple[tuple[str, str, Callable[[PoolMetrics], int]], ...]] = (
    ("active_bytes", "Bytes asked for and not released.", lambda it: it.active),
    ("committed_bytes", "Bytes that the system has given.", lambda it: it.committed),
    ("cached_bytes", "Bytes of them in free blocks.", lambda it: it.cached),
    ("blocks", "Blocks not released.", lambda it: it.blocks),
)
#: Which quantiles are known, in seconds.
QUANTILES: Final[tuple[tuple[str, Callable[[FunctionStats], float]], ...]] = (
    ("0.5", lambda it: it.p50_ns / 1e9),
    ("0.99", lambda it: it.p99_ns / 1e9),
    ("0.999", lambda it: it.p999_ns / 1e9),
)


class ExporterMissing(NifLabError, ImportError):
    """A package that an exporter needs isn't installed; the message names the command that installs it."""


def _called(snapshot: Snapshot) -> list[FunctionStats]:
    return [it for it in snapshot if it.calls]


def _labels(**labels: str) -> str:
    """Write labels as Prometheus reads them."""
    escaped = {
        name: value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for name, value in labels.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"


def prometheus(snapshot: Snapshot) -> str:
    r"""Return a snapshot in Prometheus' text exposition format, version 0.0.4.

    Parameters
    ----------
    snapshot
        What ``lab.snapshot()`` returned. Functions that nobody called are left out.

    Returns
    -------
    str
        Counters ``nif_lab_calls_total``, ``nif_lab_errors_total``, ``nif_lab_recovered_total`` and the summary
        ``nif_lab_call_seconds``, each with the labels ``backend``, ``function`` and ``lane``. The summary is of the
        calls that were timed, so its count may be below that of the calls; its quantiles are NaN before the first.
        Of the memory, by ``pool``: the gauges ``nif_lab_memory_active_bytes``, ``_committed_bytes``, ``_cached_bytes``
        and ``_blocks``.

    Examples
    --------
    >>> Path("/var/lib/node_exporter/nif_lab.prom").write_text(prometheus(lab.snapshot()))
    """
    called = [(it, {"backend": it.backend, "function": it.function, "lane": it.lane}) for it in _called(snapshot)]
    lines = []
    for name, meaning, value in COUNTERS:
        metric = f"nif_lab_{name}_total"
        lines += [f"# HELP {metric} {meaning}", f"# TYPE {metric} counter"]
        lines += [f"{metric}{_labels(**labels)} {value(it)}" for it, labels in called]
    metric = "nif_lab_call_seconds"
    lines += [f"# HELP {metric} Time inside native code of the calls that were timed.", f"# TYPE {metric} summary"]
    for it, labels in called:
        for quantile, seconds in QUANTILES:
            known = repr(seconds(it)) if it.timed else "NaN"
            lines.append(f"{metric}{_labels(**labels, quantile=quantile)} {known}")
        lines.append(f"{metric}_sum{_labels(**labels)} {it.total_ns / 1e9!r}")
        lines.append(f"{metric}_count{_labels(**labels)} {it.timed}")
    pools = snapshot.memory.pools if snapshot.memory else ()
    for name, meaning, read in GAUGES if pools else ():
        metric = f"nif_lab_memory_{name}"
        lines += [f"# HELP {metric} {meaning}", f"# TYPE {metric} gauge"]
        lines += [f"{metric}{_labels(pool=pool.name)} {read(pool)}" for pool in pools]
    return "\n".join(lines) + "\n"


class _Tracks:
    """The tracks of one lane: calls that overlap in time, made by several threads, lie on tracks of their own.

    Viewers nest what overlaps on one track, and calls of different threads aren't nested in each other.
    """

    def __init__(self, lane: str) -> None:
        self._lane = lane
        self._ends: list[int] = []

    def names(self) -> Iterator[str]:
        """Return the name of each track: the lane's, and with a number from the second on."""
        for number in range(1, max(len(self._ends), 1) + 1):
            yield self._lane if number == 1 else f"{self._lane} {number}"

    def place(self, start: int, duration: int, rounding: int) -> tuple[int, int]:
        """Find the track for a call, all in nanoseconds: (number of the track, start there).

        Starts are known within ``rounding`` only; one that seems to lie that little before the end of the call before
        it begins at that end.
        """
        free = (number for number, end in enumerate(self._ends) if end <= start + rounding)
        number = next(free, len(self._ends))
        if number == len(self._ends):
            self._ends.append(start)
        start = max(start, self._ends[number])
        self._ends[number] = start + duration
        return number, start


def perfetto(history: History) -> dict[str, Any]:
    """Return calls as a trace that ui.perfetto.dev and chrome://tracing open.

    Parameters
    ----------
    history
        What ``lab.history()`` returned.

    Returns
    -------
    dict
        Chrome's trace event format: a process for each backend and in it a track for each lane (more than one where
        calls overlap). Times are in microseconds since the first call, whose instant is ``otherData["began"]``, in
        seconds since the epoch. A call's ``args`` are the notebook cell's number (0 outside notebooks) and the number
        of calls it stands for; an error is an instant event whose ``args`` name its kind too.
    """
    records = history.records
    began = float(records["time"][0]) if len(records) else 0.0
    rounding = int(np.ceil(np.spacing(began) * 1e9))
    processes: dict[str, int] = {}
    lanes: dict[tuple[int, str], _Tracks] = {}
    events: list[dict[str, Any]] = []
    for it in records:
        pid = processes.setdefault(str(it["backend"]), len(processes) + 1)
        lane = str(it["lane"])
        tracks = lanes.setdefault((pid, lane), _Tracks(lane))
        start, status = round((float(it["time"]) - began) * 1e9), str(it["status"])
        args: dict[str, Any] = {"cell": int(it["cell"]), "weight": int(it["weight"])}
        event: dict[str, Any] = {
            "name": str(it["function"]),
            "cat": "call",
            "pid": pid,
            "tid": (pid, lane, 0),
            "args": args,
        }
        if status:
            event |= {"name": f"{it['function']}: {status}", "cat": "error", "ph": "i", "s": "t", "ts": start / 1000}
            args["kind"] = status
        else:
            duration = round(float(it["duration_ns"]))
            track, start = tracks.place(start, duration, rounding)
            event |= {"ph": "X", "tid": (pid, lane, track), "ts": start / 1000, "dur": duration / 1000}
        events.append(event)

    metadata = [_name("process_name", pid, 0, backend) for backend, pid in processes.items()]
    numbers: dict[tuple[int, str, int], int] = {}
    tids = itertools.count(1001)  # a thread with a process's number would be taken for its main thread
    for (pid, lane), tracks in lanes.items():
        for track, name in enumerate(tracks.names()):
            numbers[pid, lane, track] = tid = next(tids)
            metadata.append(_name("thread_name", pid, tid, name))
    for event in events:
        event["tid"] = numbers[event["tid"]]
    events.sort(key=lambda event: event["ts"])
    return {"traceEvents": metadata + events, "displayTimeUnit": "ns", "otherData": {"began": began}}


def _name(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}


def write_perfetto(history: History, path: str | Path) -> None:
    """Write calls as a file that ui.perfetto.dev and chrome://tracing open.

    Parameters
    ----------
    history
        What ``lab.history()`` returned.
    path
        The file; one that is there is replaced.
    """
    text = json.dumps(perfetto(history), separators=(",", ":"))
    with written(Path(path)):
        Path(path).write_text(text, encoding="utf-8")


class _Snapshots:
    """One snapshot for all instruments of a collection: who asks a second time begins the next one."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._served: set[str] = set()
        self._called: list[FunctionStats] = []

    def called(self, instrument: str) -> list[FunctionStats]:
        if not self._served or instrument in self._served:
            self._called = _called(self._telemetry.snapshot())
            self._served.clear()
        self._served.add(instrument)
        return self._called


def opentelemetry(lab_telemetry: Telemetry, meter_provider: MeterProvider | None = None) -> Meter:
    """Let OpenTelemetry read a Lab's counters whenever it collects; calls cost what they cost without it.

    Parameters
    ----------
    lab_telemetry
        ``lab.telemetry``.
    meter_provider
        Where the instruments are made; the global provider unless given.

    Returns
    -------
    opentelemetry.metrics.Meter
        The meter ``nif_lab`` with observable counters ``nif_lab.calls``, ``nif_lab.errors``, ``nif_lab.recovered``,
        ``nif_lab.timed`` (calls that were timed) and ``nif_lab.time`` (their time, in seconds), and the observable
        gauge ``nif_lab.call.duration`` (seconds, with the attribute ``quantile``). All have the attributes
        ``backend``, ``function`` and ``lane``.

    Raises
    ------
    ExporterMissing
        When OpenTelemetry isn't installed.
    """
    try:
        from opentelemetry import metrics
    except ImportError:
        raise ExporterMissing(
            "OpenTelemetry isn't installed\nTo fix: pip install nif_lab[otel]", name="opentelemetry"
        ) from None
    from . import __version__

    provider = meter_provider or metrics.get_meter_provider()
    meter = provider.get_meter("nif_lab", __version__)
    snapshots = _Snapshots(lab_telemetry)

    def attributes(it: FunctionStats) -> dict[str, str]:
        return {"backend": it.backend, "function": it.function, "lane": it.lane}

    def count(name: str, unit: str, meaning: str, value: Callable[[FunctionStats], float]) -> None:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [metrics.Observation(value(it), attributes(it)) for it in snapshots.called(name)]

        meter.create_observable_counter(name, [observe], unit, meaning)

    def durations(_: CallbackOptions) -> Iterable[Observation]:
        for it in snapshots.called("nif_lab.call.duration"):
            for quantile, seconds in QUANTILES if it.timed else ():
                yield metrics.Observation(seconds(it), attributes(it) | {"quantile": quantile})

    for name, meaning, value in COUNTERS:
        count(f"nif_lab.{name}", "{call}", meaning, value)
    count("nif_lab.timed", "{call}", "Calls that were timed.", lambda it: it.timed)
    count("nif_lab.time", "s", "Time inside native code of the calls that were timed.", lambda it: it.total_ns / 1e9)
    meter.create_observable_gauge(
        "nif_lab.call.duration", [durations], "s", "Time that a share of the timed calls didn't exceed."
    )
    return meter
