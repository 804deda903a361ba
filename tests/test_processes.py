"""Many processes in one dashboard: those of this machine in place, others by what they send."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from labs import new_lab
from processes import in_time, wait_for

from nif_lab.errors import ArgumentTypeError, WorkerUnavailable
from nif_lab.fleet import reading
from nif_lab.fleet.channel import Fleet, Reporter, deliver
from nif_lab.fleet.collector import Collection
from nif_lab.fleet.tally import BUDGET, Counters, Origin, State, report
from nif_lab.panels.processes import _Tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nif_lab import Lab

pytestmark = pytest.mark.slow

CHILD = """
import sys, nif_lab, numpy as np
lab = nif_lab.Lab(["zig"])
for line in sys.stdin:
    for _ in range(int(line)):
        lab.zig.sum(np.arange(3.0))
    try:
        lab.zig.dot(np.arange(3.0), np.arange(2.0))
    except ValueError:
        pass
    print("done", flush=True)
"""


class Child:
    """A process below this one, with a Lab of its own; each `ask` also makes a call that is refused."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid

    def ask(self, calls: int) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    child = Child()
    child.ask(10)
    yield child
    child.end()


@pytest.fixture
def lab() -> Lab:
    return new_lab(["zig"])


def row(update: dict[str, Any], pid: int) -> dict[str, Any]:
    found = [it for it in update["processes"] if it["pid"] == pid]
    return found[0] if found else {}


def test_processes_of_this_machine_are_read_in_place_and_grey_when_gone(lab: Lab) -> None:
    child = Child()
    child.ask(20)
    lab.zig.sum(np.arange(5.0))
    fleet = lab.processes()
    assert lab.processes() is fleet
    try:
        seen = wait_for(lambda: it if row(it := fleet.look(), child.pid) else None)
        mine, theirs = row(seen, os.getpid()), row(seen, child.pid)
        assert (mine["calls"], theirs["calls"], theirs["errors"]) == (1, 21, 1)
        assert {it["path"] for it in seen["processes"]} == {"in place"}
        assert (seen["alive"], seen["gone"]) == (2, 0)
        total = {f"{language}.{name}": calls for language, name, _, calls, *_ in seen["total"]}
        assert total == {"zig.sum": 21, "zig.dot": 1}
        assert "f64[2]" in theirs["failures"][-1][3]
        child.ask(5)
        assert in_time(lambda: row(fleet.look(), child.pid)["calls"] == 27)
        child.end()
        assert in_time(lambda: row(fleet.look(), child.pid)["gone"] > 0)
        seen = fleet.look()
        assert row(seen, child.pid)["calls"] == 27  # greyed, not forgotten
        assert sum(it[3] for it in seen["total"]) == 28
    finally:
        child.end()
        fleet.close()
    with pytest.raises(WorkerUnavailable, match="To fix"):
        fleet.look()
    assert lab.processes() is not fleet
    lab.processes().close()


def test_updates_say_which_process_a_call_ran_in_and_only_what_is_new(lab: Lab, child: Child) -> None:
    fleet = lab.processes()
    try:
        wait_for(lambda: row(fleet.look(), child.pid))
        number = row(fleet.look(), child.pid)["number"]
        got: list[dict[str, Any]] = []
        fleet.listen(lambda it: got.append(json.loads(it)))
        for _ in range(40):
            child.ask(10)
        assert in_time(lambda: any(call[1] == number for it in got for call in it["calls"]))
        calls = [call for it in got for call in it["calls"] if call[1] == number]
        assert {tuple(it[2:4]) for it in calls} <= {("zig", "sum"), ("zig", "dot")}
        assert len({tuple(it[:4]) for it in calls}) == len(calls)
        assert any(it[5] for it in calls)  # what was refused
        assert os.getpid() not in {it["pid"] for update in got[1:] for it in update["processes"]}  # it did nothing
        fleet.ignore(fleet._listeners[0])
    finally:
        fleet.close()


def sent(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> tuple[Reporter, list[bytes]]:
    """Return a reporter that takes this process for one of another machine, and what it sends."""
    monkeypatch.setattr(reading, "host_name", lambda: "elsewhere")
    messages: list[bytes] = []
    reporter = Reporter(messages.append, "home", "worker 1")
    monkeypatch.setattr("nif_lab.fleet.channel.here", lambda: (lab,))
    return reporter, messages


def test_a_process_of_another_machine_sends_what_is_new_once_a_second(
    monkeypatch: pytest.MonkeyPatch, lab: Lab
) -> None:
    reporter, messages = sent(monkeypatch, lab)
    monkeypatch.undo()
    fleet = Collection(0)
    monkeypatch.setattr("nif_lab.fleet.channel.here", lambda: (lab,))
    for _ in range(30):
        lab.zig.sum(np.arange(3.0))
    assert in_time(lambda: len(messages) >= 1)
    start, before = time.monotonic(), len(messages)
    stop = threading.Event()

    def busy() -> None:
        while not stop.wait(0.01):
            lab.zig.sum(np.arange(3.0))

    thread = threading.Thread(target=busy)
    thread.start()
    assert in_time(lambda: len(messages) >= before + 2)
    stop.set()
    thread.join()
    assert len(messages) - before <= time.monotonic() - start + 1
    reporter.stop()
    assert max(map(len, messages)) <= BUDGET
    for it in messages:
        fleet.hear(it.replace(b'"origin":["', b'"origin":["x'))
    (only,) = fleet.update(whole=True)["processes"]  # type: ignore[index]
    calls = lab.snapshot().function("zig", "sum").calls
    assert (only["calls"], only["path"], only["title"]) == (calls, "sent", "worker 1")
    assert only["gone"] > 0  # it has said goodbye


def test_what_nobody_understands_is_no_process(lab: Lab) -> None:
    fleet = Collection(os.getpid())
    for it in (b"", b"{}", b"\xff" * 50):
        fleet.hear(it)
    assert not fleet.members


def test_of_too_many_processes_those_longest_gone_are_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 40
    monkeypatch.setattr("nif_lab.fleet.collector.PROCESSES", most)
    fleet = Collection(0)
    state = State({("zig", "f", "direct"): Counters(calls=2)})
    for number in range(most + 10):
        origin = Origin(f"host {number % 7}", "far", number, 1)
        fleet.hear(report(origin, state, State(), 1, ended=number % 3 == 0))
    assert len(fleet.members) == most
    update = fleet.update(whole=True)
    assert update is not None
    assert update["total"][0][3] == 2 * (most + 10)
    assert all(it["pid"] not in range(0, 10, 3) for it in update["processes"])
    fleet.hear(report(Origin("host 0", "far", 0, 1), state, State(), 2))  # late, from one that is counted already
    for origin in list(fleet.members):
        fleet.members[origin].gone = 0.0
    fleet.hear(report(Origin("host 0", "far", 10**6, 1), state, State(), 1))  # all are alive: no room
    update = fleet.update(whole=True)
    assert update is not None
    assert (update["total"][0][3], update["left_out"]) == (2 * (most + 10), 11)


class Page(_Tree):
    """The browser's side."""

    got: list[tuple[Any, Any]]

    def send(self, content: Any, buffers: Any = None) -> None:
        self.got = [*getattr(self, "got", []), (content, buffers)]


def test_a_page_that_looks_gets_all_and_then_what_is_new(
    lab: Lab, child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nif_lab.panels.processes._Tree", Page)
    dashboard = lab.dashboard()
    panel = dashboard._processes
    assert lab._fleet is None  # nobody looks: nothing runs
    assert re.search(rf"this process {os.getpid()}", panel.text())
    page: Any = panel.tree
    page._answer(None, {"ask": "updates"}, None)
    assert in_time(lambda: any(json.loads(it[1][0])["whole"] for it in getattr(page, "got", ())))
    child.ask(3)
    assert in_time(lambda: any(row(json.loads(it[1][0]), child.pid) for it in page.got[1:]))
    assert f"{child.pid}" in panel.html()
    page._answer(None, {"ask": "silence"}, None)
    assert lab._fleet is not None
    assert not lab._fleet._listeners
    lab._fleet.close()
    dashboard.close()
    assert "Processes" in dashboard.tabs._bar.titles


def test_the_monitor_shows_the_tree(lab: Lab, child: Child) -> None:
    command = [sys.executable, "-m", "nif_lab.cli", "monitor", str(child.pid), "--all", "--once"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"all: 1 process\b.*\n.*\n +this process {child.pid} +\d+", shown)
    assert max(map(len, shown.splitlines())) <= 80
    told = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert row(told, child.pid)["errors"] >= 1


def test_an_engine_without_a_channel_says_what_is_shown(lab: Lab) -> None:
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
        pytest.raises(ArgumentTypeError, match="run on this machine"),
    ):
        lab.processes(pool)


def test_messages_reach_every_fleet(lab: Lab) -> None:
    state = State(
        {("nim", "f", "direct"): Counters(calls=3, timed=1, total_ns=50, min_ns=50, max_ns=50, histogram={30: 1})}
    )
    fleet = lab.processes()
    try:
        deliver(report(Origin("far", "far away", 9, 1), state, State(), 1, title="worker 9"))
        assert in_time(lambda: row(fleet.look(), 9) != {})
        assert row(fleet.look(), 9)["functions"][0][:4] == ["nim", "f", "direct", 3]
        assert isinstance(fleet, Fleet)
    finally:
        fleet.close()
