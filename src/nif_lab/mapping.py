"""``lab.map``: one function over many blocks, on any executor."""

from __future__ import annotations

import functools
import math
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor
from contextlib import suppress
from itertools import chain
from typing import Any, Final, Literal, get_args

from .arguments import expect, one_of, whole
from .errors import ArgumentTypeError, NifLabError
from .lending import LentBuffer, host
from .memory import SharedBuffer
from .pickling import loan_of
from .progress import QUIET, late_bar

__all__ = ["Failures", "Map", "MapFailed", "Offer", "is_local", "workers_of"]

#: What becomes of blocks that fail: one exception for all of them at the end, or nothing but an entry in ``failures``.
Failures = Literal["raise", "keep"]
FAILURES: Final = get_args(Failures)
#: Tasks that each worker of an executor has in hand or waiting; of one that doesn't say how many it has, for 8.
AHEAD: Final = 4
WORKERS: Final = 8
#: Seconds between two looks at signals while no block comes.
TICK: Final = 0.1
MISSING: Final = object()


class MapFailed(NifLabError):
    """Blocks of a ``lab.map`` failed; all others were computed.

    ``failures`` has what each block that failed has raised, by its number; ``done`` is how many have an answer.
    """

    def __init__(self, failures: Mapping[int, BaseException], done: int) -> None:
        self.failures = dict(failures)
        self.done = done
        number, error = next(iter(self.failures.items()))
        failed = f"{len(failures)} block{'s' if len(failures) > 1 else ''} failed, {done} have an answer"
        cure = "compute the failed ones again: keep the map, then map.resume().results()"
        super().__init__(f"{failed}; block {number}: {type(error).__name__}: {error}\nTo fix: {cure}")


class Offer:
    """A shared buffer on its way to a process of this machine, where it arrives mapped."""

    def __init__(self, buffer: SharedBuffer) -> None:
        self._buffer = buffer

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return host(), os.getpid(), self._buffer.handle

    def __reduce__(self) -> tuple[Any, ...]:
        return LentBuffer, loan_of(self._buffer)[1]


class Map:
    """The blocks of a ``lab.map`` and what has become of them.

    Iterate over it for the results as they are computed. It may be left, cancelled and resumed.

    Attributes
    ----------
    done : int
        Blocks that have an answer.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        blocks: tuple[Iterable[Any], ...],
        executor: Executor | None,
        *,
        ordered: bool = True,
        failures: Failures = "raise",
        keep: bool = True,
        ahead: int | None = None,
        progress: bool = True,
    ) -> None:
        if not callable(function):
            raise ArgumentTypeError("function", f"expected a function, got {type(function).__name__}")
        if not blocks:
            raise ArgumentTypeError("blocks", "expected one list of blocks or more")
        for it in blocks:
            expect("blocks", it, Iterable, "blocks that can be iterated over")
        _check_executor(executor)
        self._function = function
        self._executor = executor
        self._ordered, self._keep, self._progress = ordered, keep, progress
        self._on_failure = one_of("failures", failures, FAILURES)
        self._ahead = None if ahead is None else whole("ahead", ahead, 1)
        self._total = min((len(it) for it in blocks if isinstance(it, Sized)), default=None)
        self._source = enumerate(zip(*blocks, strict=False))
        #: Blocks that were taken from the source and have no answer: they are the first of the next run.
        self._open: dict[int, tuple[Any, ...]] = {}
        self._results: dict[int, Any] = {}
        self._failures: dict[int, BaseException] = {}
        self.done = 0
        self._is_cancelled = False
        self._pending: dict[Future[Any], int] = {}
        self._lock = threading.Lock()

    @property
    def failures(self) -> dict[int, BaseException]:
        """What the blocks that failed have raised, in the order of their numbers."""
        return dict(sorted(self._failures.items()))

    def __iter__(self) -> Iterator[Any]:
        """Yield results: in the order of the blocks, or with the block's number as they come if not ``ordered``."""
        if not self._ordered:
            yield from self._run()
        else:
            waiting: dict[int, Any] = {}
            following = 0
            for number, value in chain(self._kept(), self._run()):
                waiting[number] = value
                while following in waiting or following in self._failures:
                    ready = waiting.pop(following, MISSING)
                    following += 1
                    if ready is not MISSING:
                        yield ready
            for number in sorted(waiting):
                yield waiting[number]
        self._conclude()

    def _kept(self) -> Iterator[tuple[int, Any]]:
        yield from sorted(self._results.items())

    def results(self) -> list[Any]:
        """Compute what isn't yet, and return the results in the order of the blocks; None for one that failed.

        Raises
        ------
        MapFailed
            With every block that failed, unless they are to be kept.
        """
        if not self._keep:
            raise ArgumentTypeError("keep", "this map doesn't keep results: iterate over it, or make it with keep=True")
        for _ in self._run():
            pass
        self._conclude()
        count = max((*self._results, *self._failures, -1)) + 1
        return [self._results.get(number) for number in range(count)]

    def cancel(self) -> None:
        """Start no more blocks. Those that run are left to their workers, and count as not computed."""
        with self._lock:
            self._is_cancelled = True
            for future in self._pending:
                future.cancel()

    def resume(self, executor: Executor | None = None) -> Map:
        """Let the blocks that failed, or weren't computed, be computed by the next iteration or `results`.

        Parameters
        ----------
        executor
            Where, from now on; where it was before unless given.
        """
        _check_executor(executor)
        self._executor = executor or self._executor
        self._is_cancelled = False
        self._failures.clear()
        return self

    def _conclude(self) -> None:
        if self.failures and self._on_failure == "raise":
            raise MapFailed(self.failures, self.done)

    def _blocks(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        for number in sorted(self._open):
            yield number, self._open[number]
        for number, block in self._source:
            self._open[number] = block
            yield number, block

    def _answer(self, number: int, value: Any) -> None:
        self._open.pop(number, None)
        self.done += 1
        if self._keep:
            self._results[number] = value

    def _run(self) -> Iterator[tuple[int, Any]]:
        """Compute what has no answer yet; yield numbers and results as they come."""
        name = getattr(self._function, "__name__", "map")
        with late_bar(QUIET if self._progress else math.inf, total=self._total, desc=name) as show:
            here = self._here() if self._executor is None else self._elsewhere(self._executor)
            show(self.done)
            for number, value in here:
                show(self.done)
                yield number, value

    def _here(self) -> Iterator[tuple[int, Any]]:
        for number, block in self._blocks():
            if self._is_cancelled:
                return
            try:
                value = self._function(*block)
            except Exception as error:
                self._failures[number] = error
                continue
            self._answer(number, value)
            yield number, value

    def _elsewhere(self, executor: Executor) -> Iterator[tuple[int, Any]]:
        arrived: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        submit = _submitter(executor)
        ahead = self._ahead or AHEAD * workers_of(executor)
        lends = is_local(executor)
        blocks = self._blocks()
        pending: dict[Future[Any], int] = {}
        self._pending = pending
        broken = False
        try:
            while True:
                while not self._is_cancelled and not broken and len(pending) < ahead:
                    number, block = next(blocks, (-1, ()))
                    if number < 0:
                        break
                    args = tuple(Offer(it) if isinstance(it, SharedBuffer) else it for it in block) if lends else block
                    try:
                        future = submit(self._function, *args)
                    except BrokenExecutor as error:
                        self._failures[number], broken = error, True
                        break
                    with self._lock:
                        pending[future] = number
                    future.add_done_callback(arrived.put)
                if not pending:
                    return
                with suppress(queue.Empty):
                    future = arrived.get(timeout=TICK)
                    with self._lock:
                        number = pending.pop(future)
                    if self._is_cancelled:
                        continue
                    try:
                        value = future.result()
                    except (CancelledError, Exception) as error:
                        self._failures[number] = error
                        broken = broken or isinstance(error, BrokenExecutor)
                    else:
                        self._answer(number, value)
                        yield number, value
                if self._is_cancelled:
                    return
        finally:
            # Whoever leaves early, by Ctrl-C or `break`, wants no more of it.
            with self._lock:
                for future in pending:
                    future.cancel()
                pending.clear()

    def __repr__(self) -> str:
        of = "" if self._total is None else f" of {self._total}"
        return f"<map: {self.done}{of} blocks done, {len(self._failures)} failed>"


def _check_executor(executor: object) -> None:
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise ArgumentTypeError(
            "executor", f"expected a concurrent.futures.Executor, got {type(executor).__name__}; of a Dask client give "
            "client.get_executor()"
        )  # fmt: skip


def workers_of(executor: object) -> int:
    """Return how many tasks an executor runs at once, as far as it says."""
    if (client := _client(executor)) is not None:
        return max(int(sum(client.nthreads().values())), 1)
    count = getattr(executor, "_max_workers", None)
    return count if isinstance(count, int) and count > 0 else WORKERS


def _submitter(executor: Any) -> Callable[..., Future[Any]]:
    """Return what gives an executor a task."""
    if (client := _client(executor)) is not None:
        from .engines import dask

        return functools.partial(dask.submit, client, executor._kwargs)
    submit: Callable[..., Future[Any]] = executor.submit
    return submit


def _client(executor: object) -> Any:
    """Return the Dask client behind an executor; None for any other."""
    core = sys.modules.get("distributed.cfexecutor")
    return executor._client if core is not None and isinstance(executor, core.ClientExecutor) else None


def is_local(executor: object) -> bool:
    """Whether an executor's workers are other processes, and all on this machine: then buffers go by handle."""
    if getattr(executor, "is_local", False) or isinstance(executor, ProcessPoolExecutor):
        return True
    if (client := _client(executor)) is not None:
        found = client.run(_host_and_process, on_error="ignore")  # a worker may just be ending
        return all(where == host() and pid != os.getpid() for where, pid in found.values())
    return type(executor).__module__.startswith(("loky.", "joblib."))


def _host_and_process() -> tuple[str, int]:
    return host(), os.getpid()
