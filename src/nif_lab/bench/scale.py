"""``nif-lab bench scale``: ``lab.map`` beside plain ``executor.map``, crashes in pools and Dask, telemetry of many."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor as AnyExecutor
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..errors import WorkerCrashed
from ..lab import Lab
from ..pool.executor import Executor
from . import engines, fleet, recovery
from .rivals import POOLS, crash_once

__all__ = ["compare", "tables"]

#: How long a block takes, in milliseconds, and how many there are for each process.
BLOCKS_MS: Final = (0.1, 1.0, 10.0)
BLOCKS: Final = {0.1: 200, 1.0: 100, 10.0: 20}
PROCESSES: Final = (1, 2, 4)
#: Tasks beside each one that crashes, and the seconds in which a spare gets ready again.
BESIDE: Final = 8
PAUSE: Final = 0.05
#: Crashes on a Dask cluster for each round, and of each pool.
FAULTS, CRASHES = 200, 4
#: Processes whose telemetry is watched in place, and simulated.
NEAR, FAR = 64, 1000


def compare(rounds: int, seed: int) -> dict[str, Any]:
    """Compare, contenders interleaved.

    Parameters
    ----------
    rounds
        Turns of each contender; ten crashes for each turn.
    seed
        Of the orders.

    Returns
    -------
    dict
        ``map``: for each number of processes and length of blocks the milliseconds of ``executor.map`` and ``lab.map``
        with quartiles, and the ratio within a round. ``crashes``: milliseconds from a crash to the answer of the
        repeated task, p50 and p99, and how many tasks beside it were ``lost``. ``pools``: the same of other pools, as
        `recovery.compare` has it. ``dask``: as `engines.crashes`. ``near`` and ``far``: as `fleet.in_place` and
        `fleet.simulated`.
    """
    rng = random.Random(seed)  # noqa: S311
    lab = Lab([])
    measured: dict[str, dict[str, Any]] = {}
    for processes in PROCESSES:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            list(pool.map(time.sleep, [0.05] * processes))  # all of them are up
            for ms in BLOCKS_MS:
                measured[f"{processes} x {ms:g} ms"] = _maps(
                    lab, pool, [ms / 1e3] * (BLOCKS[ms] * processes), rounds, rng
                )
    unavailable: dict[str, str] = {}
    pools = {}
    for name in rng.sample([*POOLS], len(POOLS)):
        if isinstance(found := recovery.foreign(name, CRASHES * rounds), str):
            unavailable[POOLS[name].title] = found
        else:
            pools[name] = {"title": POOLS[name].title, **recovery.row(found)}
    try:
        dask = engines.crashes(FAULTS * rounds)
    except ImportError as error:
        dask, unavailable["Dask"] = {}, f"{error}; pip install nif_lab[dask]"
    if isinstance(near := fleet.in_place(NEAR), str):
        unavailable["processes in place"], near = near, {}
    return {
        "map": measured,
        "crashes": _crashes(10 * rounds),
        "pools": pools,
        "dask": dask,
        "near": near,
        "far": fleet.simulated(FAR, seed),
        "unavailable": unavailable,
    }


def _maps(lab: Lab, pool: AnyExecutor, blocks: list[float], rounds: int, rng: random.Random) -> dict[str, Any]:
    ways: dict[str, Callable[[], object]] = {
        "executor.map": lambda: list(pool.map(time.sleep, blocks)),
        "lab.map": lambda: lab.map(time.sleep, blocks, executor=pool, progress=False).results(),
    }
    times: dict[str, list[float]] = {it: [] for it in ways}
    for _ in range(rounds):
        for name in rng.sample([*ways], len(ways)):
            start = time.perf_counter()
            ways[name]()
            times[name].append(1e3 * (time.perf_counter() - start))
    ratios = np.divide(times["lab.map"], times["executor.map"])
    return {**{name: _quartiles(it) for name, it in times.items()}, "ratio": _quartiles(ratios), "blocks": len(blocks)}


def _quartiles(values: Any) -> list[float]:
    found: list[float] = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return found


def _crashes(count: int) -> dict[str, Any]:
    """Let tasks crash once, with others beside them."""
    seconds, lost = [], 0
    with tempfile.TemporaryDirectory(prefix="nif_lab") as folder, Executor(2, imports=[crash_once.__module__]) as pool:
        pool.submit(pow, 2, 3).result()
        repeated = pool.with_options(retries=1)
        for number in range(count):
            flag = Path(folder, str(number))
            beside = [pool.submit(pow, it, 2) for it in range(BESIDE // 2)]
            asked = repeated.submit(crash_once, str(flag), 7)
            beside += [pool.submit(pow, it, 2) for it in range(BESIDE // 2)]
            if asked.result() != 49:
                raise AssertionError("a wrong answer")
            # The flag has the time of the crash.
            seconds.append((time.monotonic_ns() - int(flag.read_text())) / 1e9)
            for it in beside:
                try:
                    it.result()
                except WorkerCrashed:
                    lost += 1
            time.sleep(PAUSE)
    p50, p99 = np.quantile(seconds, (0.5, 0.99)).tolist()
    return {"crashes": count, "p50_ms": 1e3 * p50, "p99_ms": 1e3 * p99, "lost": lost, "beside": BESIDE * count}


def tables(result: dict[str, Any]) -> list[tuple[str, list[Sequence[str]]]]:
    """Return the figures as tables of text."""
    rows: list[Sequence[str]] = [
        ("processes x block", "blocks", "executor.map, ms", "lab.map, ms", "ratio (quartiles)")
    ]
    for name, it in result["map"].items():
        low, middle, high = it["ratio"]
        rows.append((
            name,
            str(it["blocks"]),
            f"{it['executor.map'][1]:.1f}",
            f"{it['lab.map'][1]:.1f}",
            f"{middle:.3f} ({low:.3f} – {high:.3f})",
        ))  # fmt: skip
    crashes = result["crashes"]
    head = ("", "crashes", "crash to answer, p50, ms", "p99, ms", "lost beside it")
    lost = f"{crashes['lost']} of {crashes['beside']}"
    row = ("nif_lab.Executor", str(crashes["crashes"]), f"{crashes['p50_ms']:.1f}", f"{crashes['p99_ms']:.1f}", lost)
    return [
        ("blocks that sleep, on a pool of processes", rows),
        ("a task crashes once and is repeated", [head, row]),
        recovery.pool_table(result["pools"]),
        *_dask(result),
        *_fleet(result),
    ]


def _dask(result: dict[str, Any]) -> list[tuple[str, list[Sequence[str]]]]:
    if not result["dask"]:
        return []
    rows: list[Sequence[str]] = [("", "crashes", "workers lost", "tasks repeated by Dask", "wrong", "failed", "s")]
    for title, name in (("isolated lane in Dask's workers", "nif_lab"), ("plain Dask", "dask")):
        it = result["dask"][name]
        counts = (it[key] for key in ("crashes", "workers_lost", "tasks_repeated", "wrong", "failed"))
        rows.append((title, *map(str, counts), f"{it['seconds']:.1f}"))
    return [("tasks that crash once, on a LocalCluster of two workers", rows)]


def _fleet(result: dict[str, Any]) -> list[tuple[str, list[Sequence[str]]]]:
    rows: list[Sequence[str]] = [("processes", "bytes a second", "of a core, kernel", "of a core, collector")]
    if near := result["near"]:
        share = f"{near['kernel_percent']:.2f} %"
        title = f"{near['processes']}, read in place, {near['updates_per_s']:.1f} updates/s"
        rows.append((title, f"{near['bytes_per_s']:,.0f}", share, f"{near['collector_percent']:.0f} %"))
    far = result["far"]
    title = f"{far['processes']}, simulated, a message/s each"
    rows.append((title, f"{far['bytes_per_s']:,.0f}", "", f"{far['collector_percent']:.0f} %"))
    return [("telemetry of many processes", rows)]
