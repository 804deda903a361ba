"""joblib and loky, with their real workers."""

from __future__ import annotations

import signal
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tasks
from labs import ANSWER, new_lab

from nif_lab.engines import initializer
from nif_lab.errors import WorkerCrashed
from nif_lab.mapping import MapFailed
from nif_lab.recovery import RecoveryPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nif_lab.lab import Lab

pytestmark = [
    pytest.mark.slow,
    # Of loky's own resources, when its executor ends.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]
BLOCKS = [np.arange(float(n), n + 5) for n in range(12)]
SUMS = [float(it.sum()) for it in BLOCKS]


@pytest.fixture(scope="module")
def lab() -> Lab:
    lab = new_lab(["zig", "nim"])
    lab.cell("zig", ANSWER["zig"].format("seven", 7))
    lab.recovery.set(RecoveryPolicy(retries=0, failover=False, crashes=None, timeout=77.0))
    return lab


@pytest.fixture(scope="module", autouse=True)
def _one_pool() -> Iterator[None]:
    """End loky's workers with the file: joblib and the tests share its one executor."""
    import joblib.externals.loky
    import loky

    yield
    for it in (loky, joblib.externals.loky):
        it.get_reusable_executor().shutdown(wait=True, kill_workers=True)


def test_parallel_calls_nifs_and_cells(lab: Lab) -> None:
    from joblib import Parallel, delayed

    assert Parallel(n_jobs=2)(delayed(lab.nim.sum)(it) for it in BLOCKS) == SUMS
    assert Parallel(n_jobs=2)(delayed(lab.isolated.zig.sum)(it) for it in BLOCKS) == SUMS
    assert Parallel(n_jobs=2)(delayed(lab.zig.seven)() for _ in range(3)) == [7, 7, 7]
    assert Parallel(n_jobs=2, backend="threading")(delayed(lab.nim.sum)(it) for it in BLOCKS) == SUMS


def test_loky_maps_lends_and_survives(lab: Lab) -> None:
    import loky

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pool = loky.get_reusable_executor(2, initializer=initializer(lab))
    first, *_ = pool.submit(tasks.described, lab).result()
    assert first.timeout == 77.0
    buffers = [lab.memory.from_array(it) for it in BLOCKS]
    mark = lab.ledger.mark()
    assert lab.map(lab.isolated.zig.sum, buffers, executor=pool).results() == SUMS
    assert not lab.ledger.since(mark)
    before = {pool.submit(tasks.where).result() for _ in range(20)}
    made = lab.map(lab.isolated.zig.fault, ["null_store"] * 4, [tasks.fuse("zig")] * 4, BLOCKS, executor=pool)
    with pytest.raises(MapFailed):
        made.results()
    assert [type(it) for it in made.failures.values()] == [WorkerCrashed] * 4
    assert all(it.signal == signal.SIGSEGV for it in made.failures.values())  # type: ignore[attr-defined]
    assert before & {pool.submit(tasks.where).result() for _ in range(20)}
    with pytest.raises(loky.process_executor.TerminatedWorkerError):  # as a plain task does
        pool.submit(tasks.segfault).result()
