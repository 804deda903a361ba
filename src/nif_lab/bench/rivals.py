"""Other pools of processes, for ``nif-lab bench recovery``: what becomes of tasks when one ends its process.

Each is measured in a process that has imported nothing else, since what a process has makes a fork slow; and its
workers import this module, too.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

__all__ = [
    "POOLS",
    "RIVALS",
    "Episode",
    "Executor",
    "Fork",
    "ForkServer",
    "Loky",
    "Own",
    "Pool",
    "Ray",
    "crash_once",
    "episode",
    "innocent",
    "measure",
]

#: Tasks beside the one that crashes, each with a worker of its own.
BESIDE: Final = 4
#: Seconds that they take, and after which the other one crashes.
SLEEP: Final = 0.2
FUSE: Final = 0.02
#: Seconds after which an answer is lost.
LIMIT: Final = 30.0


def crash_once(flag: str, x: int) -> int:
    """Return ``x`` squared; the first time write through a null pointer instead, the time noted in ``flag``."""
    if not Path(flag).exists():
        time.sleep(FUSE)
        Path(flag).write_text(str(time.monotonic_ns()))
        ctypes.memset(0, 0, 1)
    return x * x


def innocent(x: int) -> int:
    """Return ``x`` squared after a while."""
    time.sleep(SLEEP)
    return x * x


@dataclass(frozen=True, slots=True)
class Episode:
    """What became of a task that crashed once, and of those beside it.

    Attributes
    ----------
    recovered : bool
        Whether it was answered without its caller doing anything about it.
    answered : bool
        Whether it was answered, by hand if need be.
    seconds : float
        From the crash to the answer.
    lost : int
        Tasks beside it without an answer.
    """

    recovered: bool
    answered: bool
    seconds: float
    lost: int


class Pool:
    """A pool with room for a task that crashes and those beside it.

    Attributes
    ----------
    name, title : str
        ``"loky"``, and what tables call it.
    """

    name = title = ""

    def __init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Make the pool."""
        raise NotImplementedError

    def submit(self, function: Callable[..., int], *arguments: Any) -> Any:
        """Begin a task."""
        raise NotImplementedError

    def result(self, task: Any) -> int:
        """Wait for a task's answer."""
        return int(task.result(LIMIT))

    def close(self) -> None:
        """End the pool."""
        raise NotImplementedError


class Executor(Pool):
    """The standard library's, whose workers start by ``how``."""

    how = "fork"

    def open(self) -> None:
        self._pool: Any = ProcessPoolExecutor(BESIDE + 1, multiprocessing.get_context(self.how))

    def submit(self, function: Callable[..., int], *arguments: Any) -> Any:
        return self._pool.submit(function, *arguments)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class Fork(Executor):
    """By fork, the default of Linux up to Python 3.13."""

    name, title, how = "executor_fork", "concurrent.futures, fork", "fork"


class ForkServer(Executor):
    """By a server that forks, the default since."""

    name, title, how = "executor_forkserver", "concurrent.futures, forkserver", "forkserver"


class Loky(Executor):
    """A pool that is made anew when it is asked for and broken."""

    name, title = "loky", "loky, reusable executor"

    def open(self) -> None:
        self._pool = importlib.import_module("loky").get_reusable_executor(max_workers=BESIDE + 1, timeout=600)

    def close(self) -> None:
        self._pool.shutdown(wait=True, kill_workers=True)


class Ray(Pool):
    """A node of its own on this machine; it retries a task whose worker ended."""

    name, title = "ray", "Ray, max_retries=1"

    def open(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self._ray = importlib.import_module("ray")
        self._ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
            object_store_memory=100 << 20, _node_ip_address="127.0.0.1",
        )  # fmt: skip

    def submit(self, function: Callable[..., int], *arguments: Any) -> Any:
        remote = self._ray.remote(num_cpus=2 / (BESIDE + 1), max_retries=1)(function)
        return remote.remote(*arguments)

    def result(self, task: Any) -> int:
        return int(self._ray.get(task, timeout=LIMIT))

    def close(self) -> None:
        self._ray.shutdown()


class Own(Pool):
    """`nif_lab.Executor`, which repeats a task whose worker ended if it may."""

    name, title = "nif_lab_executor", "nif_lab.Executor, retries=1"

    def open(self) -> None:
        executor = importlib.import_module("nif_lab.pool.executor").Executor
        self._all = executor(BESIDE + 1, imports=[__name__])
        self._pool = self._all.with_options(retries=1)

    def submit(self, function: Callable[..., int], *arguments: Any) -> Any:
        return self._pool.submit(function, *arguments)

    def close(self) -> None:
        self._all.shutdown(cancel_futures=True)


#: Who is compared with.
RIVALS: Final[dict[str, type[Pool]]] = {it.name: it for it in (Fork, ForkServer, Loky, Ray)}
#: All who can be measured.
POOLS: Final[dict[str, type[Pool]]] = {Own.name: Own, **RIVALS}


def measure(name: str, folder: str, crashes: str) -> None:
    """Have a pool crash so many times; leave ``result.json``, the episodes or why there are none, in the folder."""
    result: Any
    try:
        pool = POOLS[name]()
    except ImportError as error:
        result = f"{error}; pip install {error.name}"
    else:
        result = [asdict(episode(pool, Path(folder, str(number)))) for number in range(int(crashes))]
        pool.close()
    Path(folder, "result.json").write_text(json.dumps(result))


def episode(pool: Pool, flag: Path) -> Episode:
    """Have a task crash once with others beside it; without an answer open the pool anew and ask again, by hand."""
    for task in [pool.submit(innocent, i) for i in range(BESIDE + 1)]:
        pool.result(task)  # so all workers are there
    beside = [pool.submit(innocent, i) for i in range(BESIDE)]
    task = pool.submit(crash_once, str(flag), 7)
    recovered = answered = _answers(pool, task, 49)
    if not recovered:
        pool.close()
        pool.open()
        answered = _answers(pool, pool.submit(crash_once, str(flag), 7), 49)
    seconds = (time.monotonic_ns() - int(flag.read_text())) / 1e9
    return Episode(recovered, answered, seconds, sum(not _answers(pool, it, i * i) for i, it in enumerate(beside)))


def _answers(pool: Pool, task: Any, expected: int) -> bool:
    try:
        return pool.result(task) == expected
    except Exception:  # each pool has its own words for it
        return False
