"""Dask with a real cluster on this machine: functions, buffers, crashes, the plugin."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import os
import signal
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tasks
from labs import ANSWER, new_lab
from processes import in_time

from nif_lab import Lab
from nif_lab.demo import load_elevation
from nif_lab.errors import WorkerCrashed
from nif_lab.mapping import MapFailed
from nif_lab.recovery import RecoveryPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distributed import Client

pytestmark = [
    pytest.mark.slow,
    # Of Dask's own threads and sockets, when a cluster ends.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import dask
        from distributed import Client, LocalCluster

        options = {"distributed.comm.timeouts.connect": "120s"}
        with (
            dask.config.set(options),
            LocalCluster(2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            yield client


@pytest.fixture(scope="module")
def lab() -> Lab:
    return new_lab(["zig", "nim"])


def _far() -> None:
    """Take this worker for one of another machine."""
    from nif_lab.fleet import channel, reading

    reading.host_name = channel.host_name = lambda: "elsewhere"


def _near() -> None:
    from nif_lab.fleet import channel, reading

    importlib.reload(reading)
    channel.host_name = reading.host_name


def test_workers_of_other_machines_send_their_telemetry_by_dasks_events(client: Client) -> None:
    lab = new_lab(["zig"])
    client.wait_for_workers(2, timeout=60)  # another test may have ended one
    client.run(_far)
    fleet = lab.processes(client)
    try:
        both = [*client.run(os.getpid)]  # Dask may give all of such small tasks to one of them
        client.gather([client.submit(lab.zig.sum, np.ones(n), pure=False, workers=both[n % 2]) for n in range(40)])
        client.gather([client.submit(lab.zig.dot, np.arange(3.0), np.arange(2.0), pure=False)], errors="skip")

        def arrived() -> bool:
            # A row for each Lab of a worker: another test's may be there too.
            rows = [it for it in fleet.look()["processes"] if it["host"] == "elsewhere"]
            calls = sum(calls for it in rows for _, name, _, calls, *_ in it["functions"] if name in {"sum", "dot"})
            return calls >= 41 and any(it["failures"] for it in rows) and len({it["pid"] for it in rows}) == 2

        assert in_time(arrived, 60.0)
        rows = [it for it in fleet.look()["processes"] if it["host"] == "elsewhere"]
        assert {it["title"] for it in rows} == {"worker 0", "worker 1"}
        assert {it["path"] for it in rows} == {"sent"}
        assert {it["pid"] for it in rows} == set(client.run(os.getpid).values())
        client.unregister_worker_plugin("nif_lab")
        assert in_time(lambda: all(it["gone"] for it in fleet.look()["processes"] if it["host"] == "elsewhere"))
    finally:
        client.run(_near)
        fleet.close()


def test_functions_and_cells_are_tasks(client: Client, lab: Lab) -> None:
    x = np.arange(10.0)
    assert client.submit(lab.zig.sum, x).result() == 45.0
    assert client.submit(lab.isolated.nim.sum, x).result() == 45.0
    lab.cell("zig", ANSWER["zig"].format("answer", 42))
    assert client.submit(lab.zig.answer).result() == 42
    assert client.submit(lambda: lab.nim.sum(x) + lab.zig.answer()).result() == 87.0


def test_map_blocks_calls_a_nif_for_each_block(client: Client, lab: Lab) -> None:
    import dask.array as da

    x = np.random.default_rng(1).normal(size=(8, 6))
    for language in ("zig", "nim"):
        function = getattr(lab, language).transpose
        blocks = da.from_array(x, chunks=(4, 3))
        mapped = blocks.map_blocks(function, dtype="f8", chunks=(3, 4), meta=np.empty((0, 0)))
        whole = [[function(x[i : i + 4, j : j + 3]) for j in (0, 3)] for i in (0, 4)]
        assert np.array_equal(mapped.compute(), np.block(whole))


def test_map_lends_buffers_to_workers_of_this_machine(client: Client, lab: Lab) -> None:
    buffers = [lab.memory.from_array(np.arange(float(n))) for n in range(1, 9)]
    mark = lab.ledger.mark()
    made = lab.map(lab.isolated.zig.sum, buffers, executor=client.get_executor())
    assert made.results() == [float(it.array.sum()) for it in buffers]
    assert not lab.ledger.since(mark)
    assert lab.ledger.totals.share_of_bytes == 1.0


def test_a_crash_costs_a_call_and_no_worker(client: Client, lab: Lab) -> None:
    before = client.run(os.getpid)

    def faulty(n: int) -> float:
        if n % 5 == 0:
            lab.isolated.zig.fault("null_store", tasks.fuse("zig"), np.arange(4.0))
        return lab.zig.sum(np.full(n, 1.0))

    made = lab.map(faulty, range(20), executor=client.get_executor())
    with pytest.raises(MapFailed):
        made.results()
    assert sorted(made.failures) == [0, 5, 10, 15]
    for error in made.failures.values():
        assert isinstance(error, WorkerCrashed)
        assert (error.signal, error.backend, error.function) == (signal.SIGSEGV, "zig", "fault")
    assert client.run(os.getpid) == before


def test_a_mosaic_is_whole_although_tiles_crash_and_a_worker_is_killed(client: Client, tmp_path: Path) -> None:
    heights = load_elevation().z
    lab = Lab(["zig"], policy=RecoveryPolicy(retries=1, failover=False, crashes=None))
    whole = lab.isolated.zig.hillshade(heights, 90.0, 90.0, 315.0, 45.0)
    rows, columns = (np.linspace(0, n, 9, dtype=int) for n in heights.shape)
    places = [(r, c) for r in itertools.pairwise(rows) for c in itertools.pairwise(columns)]
    # A slope needs its neighbours: each tile has a margin, which is cut off again.
    margins = [tuple((max(a - 1, 0), min(b + 1, n)) for (a, b), n in zip(place, heights.shape, strict=True))
               for place in places]  # fmt: skip
    tiles = [np.ascontiguousarray(heights[r[0] : r[1], c[0] : c[1]]) for r, c in margins]
    flag = tmp_path / "killed"
    shaded = lab.map(tasks.shade, [lab] * 64, tiles, range(64), [str(flag)] * 64, executor=client.get_executor())
    picture = np.full_like(heights, np.nan)
    for (r, c), (top, left), tile in zip(places, margins, shaded, strict=True):
        inside = tile[r[0] - top[0] :, c[0] - left[0] :][: r[1] - r[0], : c[1] - c[0]]
        picture[r[0] : r[1], c[0] : c[1]] = inside
    assert flag.exists()  # whoever made it was killed then
    assert np.array_equal(picture, whole)  # every bit


def test_a_request_without_an_answer_holds_up_no_other_and_is_made_again(
    client: Client, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first request of all is never answered."""
    from nif_lab.engines import dask

    gather, asked = client.gather, []

    def deaf_at_first(task: Any, **options: Any) -> Any:
        asked.append(task.key)
        return gather(task, **options) if len(asked) > 1 else asyncio.get_running_loop().create_future()

    monkeypatch.setattr(client, "gather", deaf_at_first)
    monkeypatch.setattr(dask, "PATIENCE", 0.5)
    made = lab.map(tasks.double, [1, 2, 3], executor=client.get_executor(), ordered=False)
    assert list(made) == [(1, 4), (2, 6), (0, 2)]
    assert asked.count(asked[0]) == 2


def test_the_plugin_makes_a_lab_in_each_worker_and_ends_it(client: Client) -> None:
    from nif_lab.engines.dask import Plugin

    policy = RecoveryPolicy(retries=2, failover=False)
    lab = new_lab(["zig"])
    lab.recovery.set(policy)
    lab.cell("zig", ANSWER["zig"].format("seven", 7))
    client.register_plugin(Plugin(lab))
    assert set(client.run(_guests).values()) >= {True}
    for _, (first, _, _, _) in client.run(tasks.described, lab).items():
        assert first == policy
    assert all(client.run(_has_cell, lab).values())
    client.unregister_worker_plugin("nif_lab")
    key = lab._key
    assert not any(client.run(_knows, key).values())


def _guests() -> bool:
    from nif_lab import travel

    return bool(travel._guests)


def _has_cell(lab: Any) -> bool:
    return bool(lab.zig.seven() == 7)


def _knows(key: str) -> bool:
    from nif_lab import travel

    return key in travel._guests
