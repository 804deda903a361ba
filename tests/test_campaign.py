"""`nif-lab faults` and `nif-lab bench recovery`: what is lost is seen. Nothing depends on how long anything takes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nif_lab import backends, cli, machine
from nif_lab.arguments import CONTAINED_KINDS
from nif_lab.bench import recovery, report, rivals
from nif_lab.errors import WorkerCrashed
from nif_lab.faults import campaign, verdict
from nif_lab.faults.verdict import Trial
from nif_lab.lab import Lab
from nif_lab.memory import MemoryManager
from nif_lab.text import tables_text

pytestmark = pytest.mark.slow

KINDS = ("panic", "null_store", "stop", "garbage_reply")
MACHINE = {"machine": dict.fromkeys(("cpu", "cores", "load", "system", "python", "numpy", "compiler", "nif_lab"), 1)}


@pytest.fixture(scope="module")
def done() -> dict[str, Any]:
    """A campaign of two languages; what it counts is this process's own."""
    result = campaign.run(["zig", "rust"], 2, 7, lanes=("isolated", "direct"), kinds=(*KINDS, "exit_0"), kills=40)
    return {**result, **MACHINE, "rounds": 2, "seed": 7}


def test_every_fault_is_made_and_recovered_from(done: dict[str, Any]) -> None:
    for times, by in (("once", "retry"), ("always", "failover")):
        row = done["sums"][f"isolated {times}"]
        assert row["trials"] == row["recovered"] == row[by] == 5 * 2 * 2
    assert done["sums"]["direct once"] == {
        "trials": 10, "recovered": 0, "contained": 4, "lost": 0, "host dead": 6,
        "first try": 0, "retry": 0, "failover": 0,
    }  # fmt: skip
    assert verdict.is_as_promised(done)
    assert done["innocent"]["calls"] > 0
    assert done["kill9"]["kills"] == 40
    assert done["kill9"]["acknowledged"] > 0
    assert set(done["crash_ms"]) == set(done["over_ms"]) == {"zig", "rust", "all"}
    assert set(done["cold_ms"]) == {"zig", "rust"}
    assert done["crash_ms"]["all"]["count"] == 3 * 2 * 2
    assert done["over_ms"]["all"]["count"] == 2 * 2
    assert json.loads(json.dumps(done)) == done


def test_percentiles_are_in_milliseconds() -> None:
    assert verdict.percentiles([0.001 * it for it in range(101)]) == pytest.approx(
        {"p50": 50.0, "p99": 99.0, "max": 100.0, "count": 101}
    )


def test_the_tables_name_everything(done: dict[str, Any]) -> None:
    text = tables_text(verdict.tables(done), machine.notes(done))
    assert all(it in text for it in (*KINDS, "zig", "rust", "host dead", "6", "left behind", "kill -9"))
    assert "isolated lane, the function fails always" in text


def amounts(*trials: Trial, **rest: Any) -> dict[str, Any]:
    found = {
        "planned": len(trials), "unavailable": {}, "innocent": {"calls": 9, "lost": 0, "wrong": 0},
        "kill9": {"kills": 1, "acknowledged": 9, "lost": 0}, "leftovers": {"processes": 0}, **rest,
    }  # fmt: skip
    return found | verdict.amount(trials, found, 0.1, has_others=True)


def trial(outcome: str, times: str = "once", seconds: float = 0.001) -> Trial:
    return Trial("isolated", "zig", "abort", times, outcome, "retry", seconds, ended=True)


@pytest.mark.parametrize(
    ("what", "wrong"),
    [
        ("fails once", {"outcome": "lost"}),
        ("fails always", {"outcome": "contained", "times": "always"}),
        ("innocent", {"innocent": {"calls": 9, "lost": 1, "wrong": 0}}),
        ("innocent", {"innocent": {"calls": 9, "lost": 0, "wrong": 1}}),
        ("kill -9", {"kill9": {"kills": 1, "acknowledged": 9, "lost": 1}}),
        ("left behind", {"leftovers": {"processes": 1}}),
        ("outlived", {"planned": 2000}),
    ],
    ids=str,
)
def test_whatever_is_lost_misses_a_goal(what: str, wrong: dict[str, Any]) -> None:
    """One in five hundred is too many."""
    good = [trial("recovered", times) for times in ("once", "always")] * 499
    assert verdict.is_as_promised(amounts(*good))
    rest = {key: it for key, it in wrong.items() if key not in {"outcome", "times"}}
    bad = [trial(wrong["outcome"], wrong.get("times", "once"))] if "outcome" in wrong else []
    result = amounts(*good, *bad, **rest)
    missed = [it["what"] for it in result["goals"] if not it["met"]]
    assert len(missed) == 1
    assert what in missed[0]
    assert not verdict.is_as_promised(result)


def test_a_slow_answer_misses_a_goal_of_time_only() -> None:
    result = amounts(*[trial("recovered", seconds=0.2)] * 9, trial("recovered", "always"))
    assert [it["met"] for it in result["goals"] if it["timed"]] == [False, False]
    assert verdict.is_as_promised(result)
    assert not verdict.is_as_promised({**result, "unavailable": {"cobol": "no compiler"}})


def test_an_answer_after_the_deadline_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(["nim"], lane="isolated")
    assert campaign._inject(lab, "nim", "abort", "once", "isolated", 1).outcome == "recovered"
    assert campaign._inject(lab, "nim", "abort", "always", "isolated", 1).outcome == "contained"
    monkeypatch.setattr(campaign, "DEADLINE", 0.0)
    assert campaign._inject(lab, "nim", "abort", "once", "isolated", 1).outcome == "lost"


@pytest.mark.parametrize(("lost", "wrong"), [(True, False), (False, True)])
def test_a_neighbour_notices(lost: bool, wrong: bool) -> None:
    def dot(x: np.ndarray, y: np.ndarray) -> float:
        if lost:
            raise WorkerCrashed("it ended")
        return float(np.dot(x, y)) + wrong

    with campaign.Neighbour(SimpleNamespace(name="cobol", dot=dot), MemoryManager(), 1) as neighbour:  # type: ignore[arg-type]
        while not neighbour.calls:
            pass
    assert (neighbour.lost > 0, neighbour.wrong > 0) == (lost, wrong)


def test_a_neighbour_notices_what_is_written_to_its_arrays() -> None:
    loaded = SimpleNamespace(name="cobol", dot=np.dot)
    with campaign.Neighbour(loaded, MemoryManager(), 1) as neighbour:  # type: ignore[arg-type]
        neighbour._arrays[0][17] += 1
    assert neighbour.wrong


@pytest.mark.parametrize("loses", [False, True])
def test_data_that_was_acknowledged_and_is_gone_is_counted(loses: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def transpose(source: np.ndarray, target: np.ndarray) -> None:
        target[:] = source.T
        target[-1] += loses

    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    loaded = SimpleNamespace(transpose=transpose, workers=SimpleNamespace(pids=list(range(7))))
    count = campaign.kill_writers([loaded], MemoryManager(), 7, random.Random(1))  # type: ignore[list-item]
    assert sorted(killed) == list(range(7)), "each worker once"
    assert count["acknowledged"] > 0
    assert count["lost"] == (count["acknowledged"] if loses else 0)


def test_what_a_process_has_is_counted() -> None:
    before = campaign.belongings()
    descriptor = os.memfd_create("one")
    with subprocess.Popen(["sleep", "60"]) as child:
        now = campaign.belongings()
        child.kill()
    os.close(descriptor)
    assert {key: now[key] - before[key] for key in now} == {"processes": 1, "descriptors": 1, "memfds": 1}
    assert campaign.belongings() == before


@pytest.mark.parametrize("kind", [*CONTAINED_KINDS[:1], "abort", "exit_0", "infinite_loop", "wild_write"])
def test_a_direct_call_is_sacrificed(kind: str) -> None:
    expected = {"error_value": "contained", "wild_write": "lost"}
    assert campaign._sacrifice("zig", kind, 1) == expected.get(kind, "host dead")


class Fragile(rivals.Pool):
    """Loses everything when a task crashes; without processes."""

    def open(self) -> None:
        self.broken = False

    def submit(self, function: Any, *arguments: Any) -> Future[int]:
        task: Future[int] = Future()
        if function is rivals.innocent:
            task.set_result(arguments[0] ** 2)
        elif Path(arguments[0]).exists():
            task.set_result(49)
        else:
            Path(arguments[0]).write_text("0")
            task.set_exception(RuntimeError("broken"))
        return task

    def close(self) -> None:
        self.broken = True


def test_an_answer_by_hand_is_no_recovery(tmp_path: Path) -> None:
    crashed = rivals.episode(Fragile(), tmp_path / "flag")
    assert (crashed.recovered, crashed.answered, crashed.lost) == (False, True, 0)
    assert rivals.episode(Fragile(), tmp_path / "flag").recovered, "it crashes once only"


def test_the_executor_loses_those_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "EPISODES", 2)
    found = recovery.foreign("executor_forkserver")
    assert not isinstance(found, str), found
    assert [(it.recovered, it.answered, it.lost) for it in found] == [(False, True, rivals.BESIDE)] * 2


def test_a_pool_that_cannot_take_part_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "loky", None)
    rivals.measure("loky", str(tmp_path), "1")
    assert "pip install loky" in json.loads((tmp_path / "result.json").read_text())
    assert "ended with status 1" in str(recovery.foreign("cobol"))


def test_recovery_has_the_agreed_shape(done: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "run", lambda *_, **__: {**done, "unavailable": {}})
    monkeypatch.setattr(backends, "names", lambda: ["zig"])
    monkeypatch.setattr(recovery, "EPISODES", 1)
    rows = {"executor_fork": [rivals.Episode(False, True, 0.01, 4)], "loky": "no loky", "ray": "no ray"}
    monkeypatch.setattr(recovery, "foreign", lambda name: rows.get(name, "not now"))
    result = recovery.compare(1, 1) | MACHINE
    assert set(result["pools"]) == {"executor_fork", "zig"}
    assert (result["pools"]["zig"]["recovered"], result["pools"]["zig"]["lost"]) == (100.0, 0)
    assert set(result["unavailable"]) == {"executor_forkserver", "loky", "ray"}
    text = report.as_markdown("recovery", {**result, "rounds": 1, "seed": 1})
    assert "nif_lab, Zig" in text
    assert "4 of 4" in text
    assert "Not compared: loky: no loky" in text


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["faults", "--backends", "nim", "--kinds", "abort,panic", "--seed", "3"]
    assert cli.main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["ok"], result["seed"], result["kill9"]["kills"]) == (True, 3, 200)
    assert result["sums"]["isolated always"]["contained"] == 2, "nobody else may answer"
    assert cli.main(command) == 0
    shown = capsys.readouterr()
    assert "faults: 1 times each, seed 3" in shown.err
    assert "abort" in shown.out
    for wrong in (["-n", "0"], ["--kinds", "sneeze"], ["--backends", "cobol"]):
        with pytest.raises(SystemExit):
            cli.main(["faults", *wrong])
