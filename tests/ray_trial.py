"""Ray with a real node on this machine: tasks, actors, the executor, the set-up hook, telemetry.

``.venv/bin/python -m pytest tests/ray_trial.py`` after ``pip install '.[ray]'``. It isn't collected with the suite:
alone, on two quiet cores, Ray takes 14 s to start; beside other tests it gives up, or never ends its start.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tasks
from labs import ANSWER, new_lab
from processes import in_time

from nif_lab.errors import WorkerCrashed
from nif_lab.mapping import MapFailed, workers_of
from nif_lab.recovery import RecoveryPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nif_lab import Lab

pytestmark = [
    pytest.mark.slow,
    # Of Ray's own threads and sockets.
    pytest.mark.filterwarnings("ignore"),
]

POLICY = RecoveryPolicy(retries=2, failover=False)


@pytest.fixture(scope="module")
def lab() -> Lab:
    lab = new_lab(["zig"])
    lab.recovery.set(POLICY, "zig", "dot")
    lab.cell("zig", ANSWER["zig"].format("seven", 7))
    return lab


@pytest.fixture(scope="module")
def ray(lab: Lab) -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    from nif_lab.engines.ray import setup_hook

    # Ray takes 127.0.0.1 for the address of the network card; 127.0.0.2 stays on this machine.
    paths = os.pathsep.join([*filter(None, sys.path)])
    environment = {"worker_process_setup_hook": setup_hook(lab), "env_vars": {"PYTHONPATH": paths}}
    for last in (False, True):
        try:
            ray.init(
                address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
                object_store_memory=100 << 20, _node_ip_address="127.0.0.2", runtime_env=environment,
            )  # fmt: skip
            break
        except Exception:  # its own time limits for its processes' start are short
            ray.shutdown()
            if last:
                raise
    yield ray
    ray.shutdown()


def test_a_nif_is_called_by_tasks_and_actors(ray: Any, lab: Lab) -> None:
    x = np.arange(10.0)
    task = ray.remote(lambda x: lab.zig.sum(x) + lab.zig.seven())
    assert ray.get(task.remote(x)) == 52.0

    @ray.remote
    class Adder:
        def __init__(self, function: Any) -> None:
            self.function, self.total = function, 0.0

        def add(self, x: Any) -> float:
            self.total += self.function(x)
            return self.total

    adder = Adder.remote(lab.isolated.zig.sum)
    assert ray.get([adder.add.remote(x), adder.add.remote(x)]) == [45.0, 90.0]
    assert ray.get(ray.remote(tasks.described).remote(lab))[0] == POLICY


def test_the_executor_maps_blocks_and_a_crash_costs_a_call_and_no_worker(ray: Any, lab: Lab) -> None:
    from nif_lab.engines.ray import Executor

    pool = Executor()
    assert workers_of(pool) == 2

    def faulty(n: int) -> tuple[float, int]:
        if n % 5 == 4:
            lab.isolated.zig.fault("null_store", tasks.fuse("zig"), np.arange(4.0))
        return lab.zig.sum(np.full(n, 1.0)), os.getpid()

    made = lab.map(faulty, range(20), executor=pool)
    with pytest.raises(MapFailed):
        made.results()
    assert sorted(made.failures) == [4, 9, 14, 19]
    assert {(type(it), it.signal) for it in made.failures.values()} == {(WorkerCrashed, signal.SIGSEGV)}  # type: ignore[attr-defined]
    answers = lab.map(faulty, range(4), executor=pool).results()
    assert [it[0] for it in answers] == [0.0, 1.0, 2.0, 3.0]
    assert os.getpid() not in {it[1] for it in answers}
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result(60)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(pow, 2, 3)


def test_each_worker_has_its_lab_before_the_first_task_and_is_shown(ray: Any, lab: Lab) -> None:
    def prepared(key: str) -> tuple[bool, int]:
        from nif_lab import travel

        return key in travel._guests, os.getpid()

    found, pid = ray.get(ray.remote(prepared).remote(lab._key))
    assert found
    fleet = lab.processes(ray)
    try:
        ray.get(ray.remote(lambda x: lab.zig.sum(x)).remote(np.ones(3)))  # noqa: PLW0108 - Ray takes functions of Python
        assert in_time(lambda: any(it["pid"] == pid for it in fleet.look()["processes"]), 60.0)
    finally:
        fleet.close()
