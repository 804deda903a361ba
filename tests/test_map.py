"""``lab.map`` on executors of the standard library, and on our own; those of other engines have files of their own."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tasks
from labs import new_lab

from nif_lab import Executor
from nif_lab.errors import ArgumentError, WorkerCrashed
from nif_lab.mapping import MapFailed

if TYPE_CHECKING:
    from nif_lab.lab import Lab


@pytest.fixture(scope="module")
def lab() -> Lab:
    return new_lab(["zig", "nim"])


def blocks(count: int) -> list[np.ndarray]:
    return [np.arange(float(n), n + 3) for n in range(count)]


def test_results_come_in_order_or_as_they_are_computed(lab: Lab) -> None:
    sums = [float(it.sum()) for it in blocks(20)]
    with ThreadPoolExecutor(3) as threads:
        for executor in (None, threads):
            assert lab.map(lab.zig.sum, blocks(20), executor=executor).results() == sums
            assert list(lab.map(lab.zig.sum, iter(blocks(20)), executor=executor, keep=False)) == sums
            found = dict(lab.map(lab.zig.sum, blocks(20), executor=executor, ordered=False))
            assert [found[it] for it in range(20)] == sums
            assert lab.map(lab.zig.dot, blocks(20), blocks(20), executor=executor).results() == [
                float(it @ it) for it in blocks(20)
            ]
        late = lab.map(lambda n: time.sleep(0.2 * (n == 0)) or n, range(3), executor=threads, ordered=False)
        assert [number for number, _ in late][-1] == 0


def test_a_block_that_fails_costs_itself_and_is_computed_by_resume(lab: Lab) -> None:
    ready: list[int] = []

    def odd(n: int) -> int:
        if n % 2 and not ready:
            raise ValueError(f"{n} is odd")
        return n

    with ThreadPoolExecutor(2) as threads:
        for executor in (None, threads):
            ready.clear()
            made = lab.map(odd, range(7), executor=executor)
            with pytest.raises(MapFailed, match="3 blocks failed, 4 have an answer; block 1: ValueError: 1 is odd"):
                made.results()
            assert sorted(made.failures) == [1, 3, 5]
            assert (made.done, repr(made)) == (4, "<map: 4 of 7 blocks done, 3 failed>")
            kept = lab.map(odd, range(7), executor=executor, failures="keep")
            assert kept.results() == [0, None, 2, None, 4, None, 6]
            assert list(kept.resume()) == [0, 2, 4, 6]
            ready.append(1)
            assert made.resume().results() == [*range(7)]
            assert not made.failures


def test_a_map_that_is_left_or_cancelled_goes_on_where_it_was(lab: Lab) -> None:
    calls: list[int] = []

    def noted(n: int) -> int:
        calls.append(n)
        return n

    for executor in (None, ThreadPoolExecutor(2)):
        calls.clear()
        made = lab.map(noted, range(40), executor=executor, ahead=2, ordered=executor is None)
        for count, _ in enumerate(made, 1):
            if count == 5:
                break
        assert len(calls) <= 5 + 2
        for count, _ in enumerate(made.resume(), 1):
            if count == 10:
                made.cancel()
        assert made.done < 30
        assert made.resume().results() == [*range(40)]
        if executor is None:
            assert calls == [*range(40)]  # nothing twice
        else:
            executor.shutdown()


def test_no_more_than_asked_for_is_with_the_executor(lab: Lab) -> None:
    taken: list[int] = []

    def source() -> Any:
        for n in range(30):
            taken.append(n)
            yield n

    with ThreadPoolExecutor(2) as threads:
        made = lab.map(lambda n: n, source(), executor=threads, ahead=3)
        for _ in made:
            assert len(taken) <= made.done + 3


def test_wrong_arguments_are_refused(lab: Lab) -> None:
    for arguments in ((3, [1]), (len,), (len, 3)):
        with pytest.raises(ArgumentError):
            lab.map(*arguments)  # type: ignore[arg-type]
    for options in ({"executor": 3}, {"failures": "maybe"}, {"ahead": 0}):
        with pytest.raises(ArgumentError):
            lab.map(len, [1], **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_processes_crash_or_not_and_buffers_are_not_copied(lab: Lab, tmp_path: Path) -> None:
    buffers = [lab.memory.from_array(it) for it in blocks(6)]
    before = lab.ledger.totals
    mark = str(tmp_path / "mended")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes, Executor(2) as own:
        for executor in (processes, own):
            made = lab.map(lab.isolated.zig.sum, buffers, executor=executor)
            assert made.results() == [float(it.array.sum()) for it in buffers]
        failing = lab.map(tasks.failing_at, blocks(20), [5] * 20, [mark] * 20, executor=own)
        with pytest.raises(MapFailed):
            failing.results()
        assert sorted(failing.failures) == [0, 5, 10, 15]
        assert all(isinstance(it, WorkerCrashed) and it.signal == 11 for it in failing.failures.values())
        Path(mark).touch()
        for got, sent in zip(failing.resume().results(), blocks(20), strict=True):
            assert np.array_equal(got, sent * 2)
        # A pool that loses everything with one worker: the map goes on in another.
        Path(mark).unlink()
        broken = lab.map(tasks.failing_at, blocks(8), [5] * 8, [mark] * 8, executor=processes)
        with pytest.raises(MapFailed, match="Broken"):
            broken.results()
        Path(mark).touch()
        assert len(broken.resume(own).results()) == 8
    after = lab.ledger.totals
    assert after.bytes_without_copy - before.bytes_without_copy == 12 * buffers[0].nbytes
    assert after.bytes == after.bytes_without_copy
    assert os.getpid() not in own.pids
