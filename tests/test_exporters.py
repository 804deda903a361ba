"""Exporters: the readers of each format, or its rules, accept what we write, and the numbers are the Lab's."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client.parser import text_string_to_metric_families

from nif_lab import FunctionStats, Lab, Snapshot
from nif_lab.errors import NifError, NifLabError
from nif_lab.exporters import ExporterMissing, opentelemetry, perfetto, prometheus, write_perfetto
from nif_lab.telemetry import COLUMNS, History

QUANTILES = {"0.5": "p50_ns", "0.99": "p99_ns", "0.999": "p999_ns"}


@pytest.fixture
def used() -> Iterator[Lab]:
    """A Lab of its own with some calls and errors."""
    lab = Lab(["rust", "zig"])
    x = np.arange(100.0)
    for _ in range(200):
        lab.rust.dot(x, x)
        lab.zig.smooth(np.ones((30, 30)), 2)
    for bad in ("x", None, b""):
        with pytest.raises(NifError):
            lab.zig.add(bad, 1)
    return lab


def samples(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Metric -> (backend, function, lane, quantile if any) -> value, by Prometheus' own parser."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for it in family.samples if not family.name.startswith("nif_lab_memory") else ():
            assert list(it.labels)[:3] == ["backend", "function", "lane"]
            assert tuple(it.labels.values()) not in found.get(it.name, {}), "a sample stands twice"
            found.setdefault(it.name, {})[tuple(it.labels.values())] = it.value
    return found


def test_prometheus_reads_every_counter(used: Lab) -> None:
    now = used.snapshot()
    found = samples(prometheus(now))
    called = [it for it in now if it.calls]
    assert {(it.backend, it.function) for it in called} == {("rust", "dot"), ("zig", "smooth"), ("zig", "add")}
    for it in called:
        key = (it.backend, it.function, it.lane)
        assert found["nif_lab_calls_total"][key] == it.calls
        assert found["nif_lab_errors_total"][key] == it.errors
        assert found["nif_lab_recovered_total"][key] == it.recovered
        assert found["nif_lab_call_seconds_count"][key] == it.timed
        assert found["nif_lab_call_seconds_sum"][key] == it.total_ns / 1e9
        for quantile, field in QUANTILES.items():
            value = found["nif_lab_call_seconds"][(*key, quantile)]
            assert value == getattr(it, field) / 1e9 if it.timed else math.isnan(value)
    assert all(len(values) == 3 for name, values in found.items() if name != "nif_lab_call_seconds")


def test_prometheus_families_have_a_type_and_a_meaning(used: Lab) -> None:
    text = prometheus(used.snapshot())
    families = {it.name: it for it in text_string_to_metric_families(text)}
    kinds = {name: it.type for name, it in families.items()}
    assert kinds == {
        "nif_lab_calls": "counter",
        "nif_lab_errors": "counter",
        "nif_lab_recovered": "counter",
        "nif_lab_call_seconds": "summary",
        **{f"nif_lab_memory_{it}": "gauge" for it in ("active_bytes", "committed_bytes", "cached_bytes", "blocks")},
    }
    assert all(it.documentation for it in families.values())
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


@pytest.mark.parametrize("name", ['say "hi"', "back\\slash", "two\nlines", "\\n", 'é\\"', "a,b}={"])
def test_prometheus_labels_survive_any_name(name: str) -> None:
    stats = FunctionStats("rust", name, 3, 1, 2e9, 1.0, 2.0, 2, 1e9, 1e9, 1e9)
    assert samples(prometheus(Snapshot((stats,))))["nif_lab_calls_total"] == {("rust", name, "direct"): 3}


def test_prometheus_of_no_calls_is_only_headings() -> None:
    text = prometheus(Snapshot((FunctionStats("rust", "dot", 0, 0, 0.0, 0.0, 0.0),)))
    assert all(line.startswith("# ") for line in text.splitlines())
    assert not samples(text)


def check(trace: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[tuple[int, int], str], dict[int, str]]:
    """Hold a trace against the format; (calls and errors, names of the tracks, names of the processes)."""
    json.dumps(trace, allow_nan=False)
    threads: dict[tuple[int, int], str] = {}
    processes: dict[int, str] = {}
    events, ends = [], {}
    for it in trace["traceEvents"]:
        assert isinstance(it["name"], str)
        assert type(it["pid"]) is type(it["tid"]) is int
        if it["ph"] == "M":
            assert not events, "names come first"
            if it["name"] == "process_name":
                processes[it["pid"]] = it["args"]["name"]
            else:
                assert it["name"] == "thread_name"
                assert (it["pid"], it["tid"]) not in threads
                threads[it["pid"], it["tid"]] = it["args"]["name"]
            continue
        track = it["pid"], it["tid"]
        assert track in threads
        assert it["pid"] in processes
        assert it["ts"] >= (events[-1]["ts"] if events else 0)
        assert type(it["args"]["cell"]) is type(it["args"]["weight"]) is int
        if it["ph"] == "X":
            assert it["dur"] >= 0
            assert it["ts"] >= ends.get(track, 0), "calls overlap on one track"
            ends[track] = round(it["ts"] + it["dur"], 3)
        else:
            assert (it["ph"], it["s"]) == ("i", "t")
            assert it["args"]["kind"]
        events.append(it)
    assert len({tid for _, tid in threads}) == len(threads)
    return events, threads, processes


def test_a_trace_says_what_the_history_says(used: Lab) -> None:
    history = used.history()
    trace = perfetto(history)
    events, threads, processes = check(trace)
    assert set(processes.values()) == {"rust", "zig"}
    assert set(threads.values()) == {"direct"}
    assert len(events) == len(history)
    began = trace["otherData"]["began"]
    assert began == history.records["time"][0]
    rounding = np.spacing(began) * 1e6 + 0.002  # of the history's times, in microseconds
    for event, it in zip(events, history.records, strict=True):
        assert processes[event["pid"]] == it["backend"]
        assert (event["args"]["cell"], event["args"]["weight"]) == (it["cell"], it["weight"])
        assert event["ts"] == pytest.approx((it["time"] - began) * 1e6, abs=rounding)
        if it["status"]:
            assert (event["ph"], event["args"]["kind"]) == ("i", it["status"])
            assert event["name"] == f"{it['function']}: {it['status']}"
        else:
            assert (event["ph"], event["name"]) == ("X", it["function"])
            assert event["dur"] == pytest.approx(it["duration_ns"] / 1e3, abs=0.001)
    assert sum(it["ph"] == "i" for it in events) == 3


def history_of(*calls: tuple[float, str, str, str, float, str, int, int]) -> History:
    return History(np.array(list(calls), COLUMNS))


def test_each_lane_has_a_track_and_overlapping_calls_have_more() -> None:
    start = 1.7e9
    trace = perfetto(
        history_of(
            (start, "rust", "smooth", "direct", 5e6, "", 1, 7),
            (start + 0.001, "rust", "smooth", "direct", 5e6, "", 1, 7),
            (start + 0.002, "rust", "dot", "isolated", 1e3, "", 16, 8),
            (start + 0.0055, "rust", "dot", "direct", 1e3, "", 16, 8),
            (start + 0.006, "zig", "dot", "isolated", 0.0, "NifPanic", 1, 8),
        )
    )
    events, threads, processes = check(trace)
    where = [(processes[it["pid"]], threads[it["pid"], it["tid"]]) for it in events]
    assert where == [
        ("rust", "direct"),
        ("rust", "direct 2"),
        ("rust", "isolated"),
        ("rust", "direct"),
        ("zig", "isolated"),
    ]
    assert [it["args"]["cell"] for it in events] == [7, 7, 8, 8, 8]
    assert events[1]["dur"] == 5000.0


def test_calls_in_a_row_stay_on_one_track_although_times_are_rounded() -> None:
    """A double counts 0.24 µs since the epoch; calls of 50 ns seem to overlap and don't."""
    exact = np.arange(200) * 50
    times = 1.79e9 + exact / 1e9
    history = history_of(*((float(time), "zig", "add", "direct", 50.0, "", 1, 0) for time in times))
    events, threads, _ = check(perfetto(history))
    assert list(threads.values()) == ["direct"]
    assert np.abs(np.array([it["ts"] for it in events]) - exact / 1e3).max() < 0.25


def test_a_trace_of_nothing_is_a_trace() -> None:
    assert perfetto(history_of())["traceEvents"] == []


def test_a_trace_is_written_as_json(used: Lab, tmp_path: Path) -> None:
    history = used.history()
    write_perfetto(history, tmp_path / "trace.json")
    assert json.loads((tmp_path / "trace.json").read_text()) == perfetto(history)


def collect(reader: InMemoryMetricReader) -> dict[str, dict[tuple[str, ...], float]]:
    data = reader.get_metrics_data()
    assert data is not None
    (resource,) = data.resource_metrics
    (scope,) = resource.scope_metrics
    assert scope.scope.name == "nif_lab"
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for metric in scope.metrics:
        for point in metric.data.data_points:
            attributes = dict(point.attributes or {})
            assert list(attributes)[:3] == ["backend", "function", "lane"]
            found.setdefault(metric.name, {})[tuple(str(it) for it in attributes.values())] = point.value
    return found


def test_opentelemetry_collects_the_counters(used: Lab) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    opentelemetry(used.telemetry, provider)
    for _ in range(2):
        used.rust.add(1, 2)  # the next collection knows of it
        now, found = used.snapshot(), collect(reader)
        called = [it for it in now if it.calls]
        for it in called:
            key = (it.backend, it.function, it.lane)
            assert found["nif_lab.calls"][key] == it.calls
            assert found["nif_lab.errors"][key] == it.errors
            assert found["nif_lab.recovered"][key] == it.recovered
            assert found["nif_lab.timed"][key] == it.timed
            assert found["nif_lab.time"][key] == pytest.approx(it.total_ns / 1e9, rel=1e-3)
            for quantile, field in QUANTILES.items():
                value = found["nif_lab.call.duration"].get((*key, quantile))
                assert value == (pytest.approx(getattr(it, field) / 1e9, rel=1e-3) if it.timed else None)
        assert len(found["nif_lab.calls"]) == len(called) == 4
    provider.shutdown()


def test_one_collection_takes_one_snapshot(used: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    take = type(used.telemetry).snapshot
    monkeypatch.setattr(type(used.telemetry), "snapshot", lambda it: taken.append(1) or take(it))
    readers = [InMemoryMetricReader(), InMemoryMetricReader()]
    provider = MeterProvider(readers)
    opentelemetry(used.telemetry, provider)
    assert not taken
    for reader in (*readers, readers[0]):
        collect(reader)
    assert len(taken) == 3
    provider.shutdown()


def test_without_opentelemetry_the_error_names_the_cure(used: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ExporterMissing, match=r"isn't installed\nTo fix: pip install nif_lab\[otel\]") as caught:
        opentelemetry(used.telemetry)
    assert isinstance(caught.value, NifLabError)
    assert isinstance(caught.value, ImportError)


def test_prometheus_shows_the_pools() -> None:
    lab = Lab(["rust"])
    kept = lab.memory.empty(1000, "u1")
    families = {it.name: it for it in text_string_to_metric_families(prometheus(lab.snapshot()))}
    active = {sample.labels["pool"]: sample.value for sample in families["nif_lab_memory_active_bytes"].samples}
    assert active == {"small": kept.nbytes, "medium": 0, "large": 0}
