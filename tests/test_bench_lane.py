"""`nif-lab bench lane`: shapes, equal answers, and that nothing is left. No test depends on how long anything takes."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from processes import TOKEN, in_time, marked

from nif_lab import machine
from nif_lab.bench import lane, report, routes
from nif_lab.bench.contender import Contender, WrongAnswer, operands
from nif_lab.bench.routes import KERNELS, ROUTES, Route

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """With a look at what it left: processes, temporary files, shared memory."""
    folder = tmp_path_factory.mktemp("lane")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TOKEN, token := secrets.token_hex())
        patch.setenv("TMPDIR", str(folder))
        result = lane.compare(2, 1, turn_ms=0.1)
    assert in_time(lambda: not marked(token)), marked(token)
    assert not list(folder.iterdir())
    assert not list(Path("/dev/shm").glob("nif_lab*"))
    return {**result, "machine": machine.describe(), "rounds": 2, "seed": 1}


def test_lane_has_the_agreed_shape(compared: dict[str, Any]) -> None:
    for situation in lane.SITUATIONS:
        assert set(compared[situation]) == set(KERNELS)
        for table in compared[situation].values():
            pollers = {"spin", "iceoryx2"} - set(compared["unavailable"])
            assert {"spin", "iceoryx2"} & set(table) == (pollers if situation == "two_cores" else set())
            for row in table.values():
                references = {f"x_{it}" for it in lane.REFERENCES if it in table}
                assert set(row) == {"p50", "p99", *references}
                assert all(number > 0 for values in row.values() for number in values.values())
    assert json.loads(json.dumps(compared)) == compared


def test_everybody_takes_part(compared: dict[str, Any]) -> None:
    """Who couldn't, for want of its package, is named with the reason."""
    unavailable = compared["unavailable"]
    assert set(unavailable) <= {"iceoryx2", "pyzmq"}
    assert all("iceoryx2" in it or "zmq" in it for it in unavailable.values())
    assert set(compared["titles"]) == set(compared["two_cores"]["dot"]) == set(ROUTES) - set(unavailable)


def test_tables_name_everybody(compared: dict[str, Any]) -> None:
    for show in (report.as_text, report.as_markdown):
        text = show("lane", compared)
        assert all(it in text for it in (*compared["titles"].values(), *lane.SITUATIONS.values()))
        alone = {key: it for key, it in compared.items() if key != "two_cores"}
        assert lane.SITUATIONS["two_cores"] not in show("lane", alone)


def fake(name: str, ns: int, log: list[str] | None = None) -> Route:
    """A route whose calls all take so long, but one in fifty that takes ten times as long."""

    def times(count: int) -> np.ndarray:
        if log is not None:
            log.append(name)
        return np.where(np.arange(count) % 50 == 7, 10 * ns, ns)

    return Route(Contender(name, name, {}), dict.fromkeys(KERNELS, times))


def test_percentiles_and_ratios_are_of_the_rounds() -> None:
    found = lane.measure([fake("spin", 1000), fake("futex", 8000), fake("ours", 2000)], 3, 1, 1.0)
    flat = {"us": 2.0, "q1_us": 2.0, "q3_us": 2.0}
    for table in found.values():
        assert table["ours"]["p50"] == flat
        assert table["ours"]["p99"] == {key: 10 * it for key, it in flat.items()}
        assert table["ours"]["x_spin"] == {"ratio": 2.0, "ratio_q1": 2.0, "ratio_q3": 2.0}
        assert table["ours"]["x_futex"]["ratio"] == 0.25
    assert set(lane.measure([fake("ours", 2000)], 1, 1, 1.0)["dot"]["ours"]) == {"p50", "p99"}


def test_routes_take_turns_in_an_order_drawn_anew() -> None:
    log: list[str] = []
    names = ["a", "b", "c", "d"]
    lane.measure([fake(it, 1000, log) for it in names], 20, 1, 1.0)
    turns = log[1::2][len(names) : 21 * len(names)]  # the first half of each turn is warming up
    rounds = [turns[i : i + len(names)] for i in range(0, len(turns), len(names))]
    assert all(sorted(it) == names for it in rounds)
    assert len(set(map(tuple, rounds))) > 5


def test_a_route_that_errs_is_refused() -> None:
    route = Route.of("cobol", "Cobol", lambda: None, lambda x, y: float(x @ y) + 1e-9, *operands())
    with pytest.raises(WrongAnswer, match="Cobol: dot is"):
        lane.verify([route])


def test_each_call_is_timed() -> None:
    calls = []
    route = Route.of("cobol", "Cobol", lambda: calls.append(()), lambda *given: calls.append(given), 1, 2)
    for kernel, given in (("noop", ()), ("dot", (1, 2))):
        calls.clear()
        assert route.turn(kernel, 5, 3).shape == (5,)
        assert calls == [given] * 8


def test_a_server_that_polls_stands_still_meanwhile() -> None:
    def state(pid: int) -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    with routes.shared_operands() as (both, path), ROUTES["spin"](both, path) as route:
        assert route.poller
        route.turn("noop", 1, 1)
        assert in_time(lambda: state(route.poller) == "T")
        with route.awake():
            assert in_time(lambda: state(route.poller) != "T")
    assert not Path(f"/proc/{route.poller}").exists()


def test_who_can_not_take_part_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zmq", None)
    monkeypatch.setattr(lane, "ROUTES", {it: ROUTES[it] for it in ("futex", "zmq")})
    tables, titles, unavailable = lane.situation("free", 1, 1, 0.1)
    assert set(tables["dot"]) == set(titles) == {"futex"}
    assert set(unavailable) == {"zmq"}
    assert "zmq" in unavailable["zmq"]


def test_one_core_has_no_two(monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(_: Any, name: str, *rest: Any) -> Any:
        return SimpleNamespace(result=lambda: ({"dot": {}}, {name: name}, {}))

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(lane.ProcessPoolExecutor, "submit", lambda _, *given: submit(*given))
    result = lane.compare(1, 1)
    assert set(result["titles"]) == {"one_core", "free"}
    assert result["unavailable"] == {"two_cores": "this process may run on one core only"}


def test_servers_end_with_a_benchmark_that_is_killed() -> None:
    token = secrets.token_hex()
    script = "from nif_lab.bench import lane; lane.situation('one_core', 10**6, 1, 1.0)"
    command = [sys.executable, "-c", script]
    benchmark = subprocess.Popen(command, env={**os.environ, TOKEN: token}, stderr=subprocess.DEVNULL)
    try:
        # Itself, two servers in C, two in Python, a worker and its spare.
        assert in_time(lambda: len(marked(token)) == 7), marked(token)
    finally:
        benchmark.send_signal(signal.SIGKILL)
        benchmark.wait()
    assert in_time(lambda: not marked(token)), marked(token)
