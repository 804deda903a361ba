"""``nif-lab bench scale``: the simulation is right, and its tables say what was measured."""

from __future__ import annotations

from pathlib import Path

from nif_lab.bench import engines, fleet, scale
from nif_lab.bench.rivals import BESIDE, POOLS, episode
from nif_lab.fleet.tally import BUDGET


def test_simulated_processes_send_what_they_may_and_their_sum_is_right() -> None:
    seen = fleet.simulated(20, seed=1)
    assert seen["right"]
    assert 0 < seen["bytes_most"] <= BUDGET
    assert seen["bytes_per_s"] <= 20 * BUDGET


def test_a_crash_of_a_task_of_our_own_executor_is_measured(tmp_path: Path) -> None:
    pool = POOLS["nif_lab_executor"]()
    try:
        found = episode(pool, tmp_path / "flag")
    finally:
        pool.close()
    assert (found.recovered, found.lost) == (True, 0)


def test_each_table_is_there_and_so_is_what_could_not_be_measured() -> None:
    ratio = [0.9, 1.0, 1.1]
    counts = {"crashes": 1000, "workers_lost": 0, "tasks_repeated": 0, "wrong": 0, "failed": 0, "seconds": 9.25}
    result = {
        "map": {"1 x 1 ms": {"blocks": 5, "executor.map": ratio, "lab.map": ratio, "ratio": ratio}},
        "crashes": {"crashes": 4, "p50_ms": 2.0, "p99_ms": 3.0, "lost": 0, "beside": 32},
        "pools": {"loky": {"title": "loky, x", "crashes": 3, "recovered": 0.0, "answered": 100.0,
                           "ms": {"p50": 90.0, "p99": 99.0}, "lost": 12, "beside": 3 * BESIDE}},
        "dask": {"nif_lab": counts, "dask": {**counts, "workers_lost": 20}},
        "near": {"processes": 64, "updates_per_s": 8.0, "bytes_per_s": 4e5, "kernel_percent": 0.61,
                 "collector_percent": 38.0},
        "far": fleet.simulated(3, seed=2),
    }  # fmt: skip
    text = "\n".join(" ".join(row) for _, rows in scale.tables(result) for row in rows)
    for it in ("loky, x", "12 of 12", "0.61 %", "64, read in place, 8.0 updates/s", "3, simulated", "1000 0 0 0 0 9.2"):
        assert it in text, it
    empty = scale.tables({**result, "dask": {}, "near": {}, "pools": {}})
    assert len(empty) == len(scale.tables(result)) - 1  # Dask has a table of its own


def test_what_crashes_notes_that_it_began(tmp_path: Path) -> None:
    note = tmp_path / "note"
    (tmp_path / "note.7").touch()
    assert engines.plain_crash(7, str(note)) == sum(range(7))
    assert len(note.read_text().split()) == 1
