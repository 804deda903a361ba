"""`nif-lab bench`: shapes, equal answers, equal checks. No test here depends on how long anything takes."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from labs import IS_FREE_THREADED

from nif_lab import bench, machine
from nif_lab.bench import arrays, dashboard, dispatch, measure, memory, monitoring, report, wire
from nif_lab.bench.contender import KERNELS, Contender, WrongAnswer, operands
from nif_lab.bench.peers import Workshop, bound, gather
from nif_lab.codecs import Wire
from nif_lab.demo import load_elevation
from nif_lab.errors import BuildError
from nif_lab.foreign import options
from nif_lab.wire import decode_nodes, encode_nodes

if TYPE_CHECKING:
    from nif_lab.lab import Lab

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "benchmarks.md"
PEERS = {"cython", "nanobind", "pyo3", "cffi", "ctypes", "tvm-ffi"}


@pytest.fixture(scope="module")
def workshop() -> Workshop:
    """The user's own cache: the bound is built, peers take part if they were built before."""
    return Workshop(offline=True)


@pytest.fixture(scope="module")
def compared(lab: Lab, workshop: Workshop) -> dict[str, Any]:
    result = dispatch.compare(lab, 3, 1, workshop=workshop, loop_ms=0.05)
    return {**result, "machine": machine.describe(), "rounds": 3, "seed": 1}


@pytest.fixture(scope="module")
def allocated(lab: Lab) -> dict[str, Any]:
    """With a note of the names that shared memory had."""
    names = []

    class Named(memory.SharedMemory):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            names.append(self.name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "SharedMemory", Named)
        result = memory.compare(lab.memory.empty, 2, 1, loop_ms=0.05)
    assert names
    left = [name for name in names if Path("/dev/shm", name).exists()]
    assert not left
    result |= memory.overhead(1)
    return {**result, "machine": machine.describe(), "rounds": 2, "seed": 1}


@pytest.fixture(scope="module")
def monitored(lab: Lab) -> dict[str, Any]:
    result = monitoring.measure(lab.rust.sum, lab.telemetry, 3, 1, leg_ms=0.05)
    result |= monitoring.records(lab.telemetry.recorder("event"), 3, 1, loop_ms=0.05)
    result |= dashboard.measure(1, 1, leg_seconds=0.4, cells=["NumPy"])  # long enough for an update
    return {**result, "machine": machine.describe(), "rounds": 3, "seed": 1}


@pytest.fixture(scope="module")
def framed(lab: Lab) -> dict[str, Any]:
    small = {name: ((10, 10), dtype) for name, (_, dtype) in wire.CASES.items()}
    result = wire.compare(lab, 2, 1, cases=small, loop_ms=0.05)
    return {**result, "machine": machine.describe(), "rounds": 2, "seed": 1}


@pytest.fixture(scope="module")
def contenders(lab: Lab, workshop: Workshop) -> dict[str, Contender]:
    """All that check their arguments."""
    peers, _ = gather(workshop, lab.zig.path)
    backends = [Contender.of(name, name, it) for name, it in lab.backends.items() if it.loaded]
    return {it.name: it for it in [bound(workshop), *backends, *peers] if it.checks}


def test_dispatch_has_the_agreed_shape(compared: dict[str, Any], lab: Lab) -> None:
    loaded = {name for name, it in lab.backends.items() if it.loaded}
    for kernel in KERNELS:
        table = compared[kernel]
        assert set(table) == {"bound_ns", "backends", "peers", "ratio_to_bound", "spread"}
        assert set(table["backends"]) == loaded
        everybody = {"bound", *table["backends"], *table["peers"]}
        assert set(table["ratio_to_bound"]) == set(table["spread"]) == everybody
        for spread in table["spread"].values():
            assert set(spread) == {"min_ns", "q1_ns", "q3_ns", "ratio_q1", "ratio_q3"}
    assert set(compared["lanes"]) == loaded
    assert json.loads(json.dumps(compared)) == compared


def test_every_peer_takes_part_or_says_why_not(compared: dict[str, Any]) -> None:
    took_part = set(compared["dot"]["peers"])
    assert took_part | set(compared["unavailable"]) >= PEERS
    assert not took_part & set(compared["unavailable"])


def test_a_peer_that_is_not_there_is_reported(tmp_path: Path) -> None:
    contenders, unavailable = gather(Workshop(tmp_path, offline=True), None)
    assert contenders == []
    assert set(unavailable) == PEERS
    assert all(unavailable.values())


def test_a_compiler_that_says_no_is_quoted(tmp_path: Path) -> None:
    source = tmp_path / "wrong.c"
    source.write_text("this is no C")
    with pytest.raises(BuildError) as caught:
        Workshop.compile(tmp_path / "wrong", [source])
    assert "wrong.c" in caught.value.detail


def test_a_built_peer_is_kept_by_its_contents(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    made = []

    def make(folder: Path) -> Path:
        made.append(folder)
        (folder / "it").touch()
        return folder / "it"

    first = workshop.made("it", ["kernel.h"], make)
    assert workshop.made("it", ["kernel.h"], make) == first
    assert workshop.made("it", ["kernel.h"], make, "other flags") != first
    assert workshop.made("it", ["plain.c"], make) != first
    assert len(made) == 3
    assert not any(folder.exists() for folder in made)


def test_all_give_the_same_answer(contenders: dict[str, Contender]) -> None:
    for contender in contenders.values():
        contender.verify()


@pytest.mark.parametrize("kernel", ["dot", "add", "noop"])
def test_a_wrong_answer_is_refused(kernel: str) -> None:
    right = {"dot": np.dot, "add": lambda x, y: x + y, "noop": lambda: None}
    wrong = {"dot": lambda x, y: np.dot(x, y) * (1 + 1e-9), "add": lambda _x, _y: None, "noop": lambda: 0.0}
    with pytest.raises(WrongAnswer, match=f"them: {kernel}"):
        Contender.of("them", "them", SimpleNamespace(**{**right, kernel: wrong[kernel]})).verify()


def test_all_check_what_the_backends_check(contenders: dict[str, Contender]) -> None:
    x, _ = operands()
    wrong = {
        "element type": x.astype(np.float32),
        "byte order": x.astype(">f8"),
        "axes": x.reshape(10, 10),
        "strides": np.ones(200)[::2],
        "alignment": np.zeros(801, np.uint8)[1:].view(np.float64),
        "length": x[:50],
        "no array": "x",
    }
    accepted = []
    for name, contender in contenders.items():
        dot = contender.calls["dot"][0]
        assert dot(x[:0], x[:0]) == 0.0, name
        assert dot(x[:13], x[:13]) == pytest.approx(np.dot(x[:13], x[:13]), rel=1e-12), name
        for what, value in wrong.items():
            for arguments in ((x, value), (value, x)):
                # Each has its own words for it; the Lab would make some of these fit.
                with contextlib.suppress(Exception), options(strict=True, results=None):
                    dot(*arguments)
                    accepted.append((name, what))
    assert not accepted


def test_quartiles_come_in_their_order() -> None:
    assert measure.quartiles(np.array([40.0, 10.0, 30.0, 20.0, 50.0])) == (20.0, 30.0, 40.0)


def test_each_loop_has_its_own_code() -> None:
    """Python specialises instructions in place: contenders that shared code would disturb each other."""
    one, other = measure.Loop(abs, 1), measure.Loop(abs, 1)
    assert one._loop.__code__ is not other._loop.__code__
    calls = []
    loop = measure.Loop(lambda *given: calls.append(given), 1, 2, 3)
    loop.count = 5
    loop.total_ns()
    assert calls == [(1, 2, 3)] * 5


def test_monitoring_has_the_agreed_shape(monitored: dict[str, Any]) -> None:
    for name in ("1us", "10us", "100us"):
        row = monitored[name]
        assert set(row) == {"percent", "low", "high", "control", "kernel_us", "quartets"}
        assert len(row["control"]) == 3
    assert set(monitored["record"]) == {"nif_lab", *monitoring.RECORDERS}
    assert all(set(row) == {"ns", "q1_ns", "q3_ns"} for row in monitored["record"].values())
    assert set(monitored["dashboard"]) == {"NumPy"}
    for paths in monitored["dashboard"].values():
        assert tuple(paths) == dashboard.PATHS
        assert paths["nobody"]["updates_per_s"] == 0
        assert sum(paths[it]["updates_per_s"] for it in dashboard.PATHS) > 0
    assert json.loads(json.dumps(monitored)) == monitored


def test_wire_has_the_agreed_shape(framed: dict[str, Any], lab: Lab) -> None:
    took_part = set(framed["titles"]) - {"memcpy"}
    assert took_part | set(framed["unavailable"]) >= {"python", *wire.PEERS, *lab.backends}
    assert not took_part & set(framed["unavailable"])
    for case in wire.CASES:
        row = framed[case]
        assert set(row) == {"encode", "decode"}
        assert set(row["encode"]) == {"memcpy", *took_part - {"core", "frombuffer"}}
        assert set(row["decode"]) == took_part
        for it in (*row["encode"].values(), *row["decode"].values()):
            assert set(it) >= {"ns", "q1_ns", "q3_ns", "ratio", "ratio_q1", "ratio_q3"}
    assert json.loads(json.dumps(framed)) == framed


def test_every_backend_writes_frames(framed: dict[str, Any], lab: Lab) -> None:
    loaded = [it.name for it in lab.backends.values() if it.loaded]
    assert {"lab", "lab_checksum", *loaded, *(f"{name}_checksum" for name in loaded)} <= set(framed["titles"])


def test_who_has_no_codec_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    loaded = SimpleNamespace(name="cobol", loaded=True, reason="", functions={})
    bare = SimpleNamespace(backends={"cobol": loaded}, wire=Wire)
    result = wire.compare(bare, 1, 1, cases={"one": ((2,), "f8")}, loop_ms=0.01)
    assert result["unavailable"]["cobol"] == "it has no function 'encode'"
    assert {"pyarrow_tensor", "pyarrow_batch"} <= set(result["unavailable"])
    assert {"python", "pickle"} <= set(result["one"]["encode"])


@pytest.mark.parametrize(("wrong", "words"), [("encode", "other bytes"), ("decode", "what it reads")])
def test_a_codec_that_errs_is_refused(wrong: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(nodes: Any, data: np.ndarray, *_: Any) -> np.ndarray:
        return np.frombuffer(encode_nodes(nodes, data + (wrong == "encode"), checksum=False), np.uint8)

    def decode(frame: np.ndarray, *_: Any) -> np.ndarray:
        nodes = decode_nodes(frame)
        nodes[0, 8] -= 8 * (wrong == "decode")  # where the payload begins
        return nodes

    functions = {"encode": SimpleNamespace(flags=0)}
    cobol = SimpleNamespace(name="cobol", title="Cobol", loaded=True, functions=functions, encode=encode, decode=decode)
    with pytest.raises(WrongAnswer, match=f"Cobol, no checksum: {words}"):
        wire.compare(SimpleNamespace(backends={"cobol": cobol}, wire=Wire), 1, 1, cases={"one": ((2,), "f8")})


def test_memory_has_the_agreed_shape(allocated: dict[str, Any]) -> None:
    for size in memory.SIZES:
        row = allocated[size]
        assert set(row) == {"untouched", "touched", "ratio_to_numpy"}
        for how in ("untouched", "touched"):
            assert set(row[how]) == set(row["ratio_to_numpy"][how]) == set(memory.CONTENDERS)
            assert all(set(it) == {"ns", "q1_ns", "q3_ns"} for it in row[how].values())
            assert all(set(it) == {"ratio", "q1", "q3"} for it in row["ratio_to_numpy"][how].values())
    assert set(allocated["overhead"]) == {"recorded", "lognormal"}
    for counts in allocated["overhead"].values():
        assert set(counts) == {"all", "large"}
        assert counts["all"]["blocks"] > counts["large"]["blocks"] > 0
        for it in counts.values():
            assert it["allocations"] >= it["blocks"]
            assert 0 < it["percent"] <= it["trimmed_percent"] <= it["untrimmed_percent"]
            assert it["metadata_per_block"] > 0
        assert counts["large"]["requested"] >= memory.LARGE * counts["large"]["blocks"]
    assert json.loads(json.dumps(allocated)) == allocated


def test_memory_that_keeps_nothing_is_refused() -> None:
    def alias(count: int) -> np.ndarray:
        return np.lib.stride_tricks.as_strided(np.empty(1), (count,), (0,))

    with pytest.raises(WrongAnswer, match=r"lab\.memory\.empty: 1024 bytes"):
        memory.compare(alias, 1, 1)


def test_a_trace_is_counted_as_it_happens(rng: np.random.Generator) -> None:
    whole = memory.Trace.of(rng.integers(1, 100, 200), rng.geometric(0.1, 200) - 1)
    large = np.flatnonzero(whole.sizes >= 50)
    for trace in (whole, whole.at_least(50)):
        live: dict[int, tuple[int, int]] = {}
        for i, (size, end) in enumerate(zip(trace.sizes, trace.ends, strict=True)):
            live = {key: it for key, it in live.items() if it[1] > i} | {i: (size, end)}
            assert trace.live()[i] == sum(it for it, _ in live.values())
    # What is left out counts in nobody's lifetime.
    meanwhile = [np.count_nonzero((large > i) & (large < whole.ends[i])) for i in large]
    assert np.array_equal(whole.at_least(50).ends - np.arange(1, len(large) + 1), meanwhile)


def test_a_trace_is_replayed_to_its_peak() -> None:
    trace = memory.Trace.of(np.array([5000, 100, 70_000, 30_000, 80_000, 7]), np.array([9, 0, 1, 1, 0, 9]))
    counted = memory.replay(trace)
    assert (counted["allocations"], counted["blocks"], counted["requested"]) == (5, 3, 115_000)
    assert memory.replay(trace.at_least(memory.LARGE))["requested"] == 80_000


def test_blocks_that_overlap_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    one = np.zeros(10, np.uint8)
    monkeypatch.setattr(memory, "MemoryManager", lambda: SimpleNamespace(empty=lambda count, _: one[:count]))
    with pytest.raises(WrongAnswer, match="through another"):
        memory.replay(memory.Trace.of(np.array([3, 4]), np.array([9, 9])))


def test_the_log_normal_trace_is_what_it_says() -> None:
    trace = memory.lognormal(1)
    assert np.array_equal(trace.sizes, memory.lognormal(1).sizes)
    assert np.median(trace.sizes) == pytest.approx(16 << 10, rel=0.1)
    assert np.log(trace.sizes).std() == pytest.approx(2, rel=0.1)
    assert 1 <= trace.sizes.min() <= trace.sizes.max() <= 64 << 20
    assert np.mean(trace.ends - np.arange(len(trace.ends))) == pytest.approx(2000, rel=0.1)


def test_a_trace_is_recorded_from_the_demo_and_the_notebooks(tmp_path: Path) -> None:
    """In a process of its own, which has to end well although arrays outlive their recorder."""
    cells = [
        "import numpy, nif_lab, sys; kept = sys.kept = numpy.ones(1234567, 'u1')",
        "gone = numpy.ones(1234568, 'u1'); del gone",
        "kept.missing",
        "block = nif_lab.Lab(['rust']).rust.write(numpy.ones(1234569, 'u1'))",
    ]
    kinds = [{"cell_type": "markdown"}, *({"cell_type": "code", "source": [it]} for it in cells)]
    (tmp_path / "one.ipynb").write_text(json.dumps({"cells": kinds}))
    script = "import pathlib as p, sys; from nif_lab.bench import memory; memory.record(*map(p.Path, sys.argv[1:]))"
    target = tmp_path / "trace.csv.gz"
    done = subprocess.run([sys.executable, "-c", script, tmp_path, target], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    rows = [tuple(map(int, line.split(","))) for line in gzip.decompress(target.read_bytes()).decode().splitlines()]
    alive = [size for size, lifetime in rows if lifetime == len(rows)]
    assert [size for size in alive if 1234567 <= size <= 1234569] == [1234567, 1234569]
    assert [size for size, _ in rows].count(1234569) == 2, "what was given, and what Rust returned"
    assert 1234568 in dict(rows)
    assert load_elevation().z.nbytes in dict(rows)


def test_a_recorder_that_is_not_installed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    result = monitoring.records(lambda seconds: None, 1, 1, loop_ms=0.01)
    assert "prometheus_client" not in result["record"]
    assert "prometheus_client" in result["unavailable"]


@pytest.mark.parametrize("enabled", [True, False])
def test_monitoring_leaves_the_switch_as_it_was(enabled: bool) -> None:
    switch = SimpleNamespace(enabled=enabled)
    seen = set()

    def kernel(values: np.ndarray) -> float:
        seen.add(switch.enabled)
        return float(values[0])

    monitoring.measure(kernel, switch, 1, 1, leg_ms=0.01)
    assert seen == {True, False}
    assert switch.enabled is enabled


def test_arrays_of_every_library_are_compared_or_it_is_said_why_not(lab: Lab, workshop: Workshop) -> None:
    result = arrays.compare(lab, 2, 1, workshop=workshop, loop_ms=0.05)
    assert set(result["kinds"]) | set(result["unavailable"]) >= set(arrays.KINDS)
    for kind, ways in result["kinds"].items():
        assert "nif_lab" in ways, f"{kind} is refused: {result['refused']}"
        assert all(it["q1_ns"] <= it["ns"] <= it["q3_ns"] for it in ways.values())
    assert {"NumPy", "tvm_ffi", "JAX", "pyarrow", "pandas"} <= set(result["kinds"])
    assert IS_FREE_THREADED or "polars" in result["kinds"]
    shown = {**result, "machine": machine.describe(), "rounds": 2, "seed": 1}
    for show in (report.as_text, report.as_markdown):
        assert all(kind in show("arrays", shown) for kind in result["kinds"])
    assert json.loads(json.dumps(shown)) == shown


def test_tables_name_everybody(
    compared: dict[str, Any], allocated: dict[str, Any], monitored: dict[str, Any], framed: dict[str, Any]
) -> None:
    for show in (report.as_text, report.as_markdown):
        text = show("dispatch", {**compared, "unavailable": {"cobol": "no\ncompiler"}})
        assert all(title in text for title in compared["titles"].values())
        assert "Not compared: cobol: no compiler" in text
        assert all(title in show("memory", allocated) for title in memory.CONTENDERS.values())
        assert all(trace in show("memory", allocated) for trace in allocated["overhead"])
        words = (*monitoring.DURATIONS, "NumPy", *dashboard.PATHS)
        assert all(it in show("monitoring", monitored) for it in words)
        assert all(it in show("wire", framed) for it in (*framed["titles"].values(), *wire.CASES))


def test_a_suite_is_written_between_its_markers(
    tmp_path: Path,
    compared: dict[str, Any],
    allocated: dict[str, Any],
    monitored: dict[str, Any],
    framed: dict[str, Any],
) -> None:
    path = tmp_path / "benchmarks.md"
    report.write(path, "dispatch", compared)
    report.write(path, "memory", allocated)
    report.write(path, "monitoring", monitored)
    report.write(path, "wire", framed)
    once = path.read_text()
    report.write(path, "dispatch", compared)
    assert path.read_text() == once
    assert without_tables(once) == without_tables(report.TEMPLATE)
    assert report.as_markdown("dispatch", compared) in once


def without_tables(text: str) -> str:
    return re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", "", text, flags=re.S)


def test_the_document_is_what_the_command_writes() -> None:
    text = DOCUMENT.read_text()
    assert without_tables(text) == without_tables(report.TEMPLATE), "remove it and write both suites anew"
    for suite in bench.SUITES:
        assert re.search(rf"<!-- {suite} -->\n\n\|.*\|\n\n.*<!-- /{suite} -->", text, re.S), f"no tables of {suite}"


def test_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, monitored: dict[str, Any]
) -> None:
    shown = {"dashboard": monitored["dashboard"], "unavailable": {}}
    monkeypatch.setattr(dashboard, "measure", lambda quartets, seed: shown)  # it takes its time
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    bench.add_arguments(parser)
    written = tmp_path / "benchmarks.md"
    assert bench.run(parser.parse_args(["monitoring", "--rounds", "1", "--json", "--write", str(written)])) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["rounds"] == 1
    assert {"1us", "10us", "100us", "dashboard", "machine", "seed"} <= set(result)
    assert "1us" in written.read_text()
    with pytest.raises(SystemExit):
        parser.parse_args(["dispatch", "--rounds", "0"])
