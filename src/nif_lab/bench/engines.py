"""For ``nif-lab bench scale``: segmentation faults in the workers of a Dask cluster, with and without nif_lab."""

from __future__ import annotations

import ctypes
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..lab import Lab
from ..recovery import RecoveryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["crashes", "isolated_crash", "plain_crash"]

#: Workers of the cluster, and crashes of plain Dask: each costs a worker, which takes seconds to start again.
WORKERS, PLAIN = 2, 10
#: Seconds that plain Dask's tasks may take in all.
LIMIT: Final = 600.0
POLICY: Final = RecoveryPolicy(retries=1, failover=False, crashes=None)


def isolated_crash(lab: Lab, number: int, note: str) -> float:
    """Crash once in the isolated lane; return the answer of the second try."""
    _note(note)
    fuse = lab.memory.zeros(3, "i8")
    fuse[:] = 1, int.from_bytes(b"zig", "little"), 0
    return float(lab.isolated.zig.fault("null_store", fuse, np.arange(float(number % 50))))


def plain_crash(number: int, note: str) -> float:
    """Crash this process the first time."""
    _note(note)
    flag = Path(f"{note}.{number}")
    if not flag.exists():
        flag.touch()
        ctypes.memset(0, 0, 1)
    return float(np.arange(float(number % 50)).sum())


def _note(path: str) -> None:
    """Note that a task was begun, and in which process: one line, written at once."""
    with open(path, "ab", buffering=0) as file:
        file.write(b"%d\n" % os.getpid())


@contextmanager
def _client() -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    quiet = {"distributed.scheduler.allowed-failures": 10, "distributed.comm.timeouts.connect": "120s"}
    options = {"threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "death_timeout": LIMIT}
    with (
        dask.config.set(quiet),
        LocalCluster(WORKERS, silence_logs=logging.CRITICAL, **options) as cluster,  # type: ignore[no-untyped-call]
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        yield client


def crashes(count: int, plain: int = PLAIN) -> dict[str, Any]:
    """Let as many tasks crash once on a cluster of two workers, and fewer in plain Dask.

    Returns
    -------
    dict
        ``nif_lab`` and ``dask``, each with ``crashes``, ``workers_lost``, ``tasks_repeated`` (by the engine), ``wrong``
        answers, ``failed`` tasks, and ``seconds``.
    """
    with tempfile.TemporaryDirectory(prefix="nif_lab") as folder:
        lab = Lab(["zig"], policy=POLICY)
        with _client() as client:
            own = _run(client, count, Path(folder, "own"), lambda it, note: client.submit(
                isolated_crash, lab, it, note, pure=False))  # fmt: skip
        with _client() as client:
            theirs = _run(client, plain, Path(folder, "plain"), lambda it, note: client.submit(
                plain_crash, it, note, pure=False))  # fmt: skip
    return {"nif_lab": own, "dask": theirs}


def _run(client: Any, count: int, note: Path, submit: Callable[[int, str], Any]) -> dict[str, Any]:
    before = set(client.run(os.getpid).values())
    start = time.monotonic()
    tasks = [submit(number, str(note)) for number in range(count)]
    wrong = failed = 0
    for number, task in enumerate(tasks):
        try:
            answer = task.result(max(LIMIT - (time.monotonic() - start), 1.0))
        except Exception:  # each engine has its own words for it
            failed += 1
        else:
            wrong += answer != sum(range(number % 50))
    seconds = time.monotonic() - start
    with suppress(TimeoutError):  # then one more is lost, which is counted
        client.wait_for_workers(WORKERS, timeout=60)
    seen = note.read_text().split()
    after = set(client.run(os.getpid).values())
    # A worker that is lost has begun a task, or was there before.
    ended = (before | set(map(int, seen))) - after
    return {
        "crashes": count,
        "workers_lost": len(ended),
        "tasks_repeated": len(seen) - count,
        "wrong": wrong,
        "failed": failed,
        "seconds": seconds,
    }
