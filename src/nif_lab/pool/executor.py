"""`nif_lab.Executor`: a concurrent.futures executor for any Python callable, whose workers may die."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
import weakref
from concurrent import futures
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import cloudpickle

from ..arguments import expect, names, whole
from ..errors import CallTimeout, NifError, WorkerCrashed, WorkerUnavailable, kind_number
from ..pickling import by_handle
from ..recovery import RecoveryPolicy
from ..telemetry import Telemetry
from ..travel import NotPortable
from .line import Ended, put_together, receive, send, taken_apart
from .nursery import Nursery, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from ..lab import Lab

__all__ = ["Executor", "RemoteTraceback"]

#: How often a task is sent again to another worker because the worker was gone before it had the task.
IDLE_DEATHS: Final = 10
#: For how many such deaths one counts whose worker said why: its initializer has failed, and will again.
REFUSAL: Final = 5
#: Letters of a function's name by which its tasks are counted.
NAME: Final = 60
#: The policy of an executor that is given none: Python code may have done half of its work.
ONCE: Final = RecoveryPolicy(retries=0, failover=False)


class RemoteTraceback(Exception):
    """Where in its worker a task raised an exception: the exception's ``__cause__``."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class _Task:
    """One call."""

    __slots__ = ("function", "future", "name", "parts", "policy")

    def __init__(self, function: Callable[[], Any], name: str, parts: list[Any] | None, policy: RecoveryPolicy) -> None:
        self.future: futures.Future[Any] = futures.Future()
        self.function, self.name, self.parts, self.policy = function, name, parts, policy


class _Crew:
    """What an executor's threads use. They don't hold the executor, so one that nobody has any more ends."""

    def __init__(self, nursery: Nursery | None, telemetry: Telemetry, threads: int) -> None:
        self.nursery = nursery
        self.telemetry = telemetry
        self.tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self.busy: set[Worker] = set()
        self.is_killed = False
        #: What a worker said that ended before it began a task: the initializer's traceback, say.
        self.last_words = ""
        self.threads = threads
        self.lock = threading.Lock()

    def serve(self) -> None:
        """Do tasks, one after the other: the life of a thread, which has one worker at a time."""
        mine: list[Worker] = []
        while (task := self.tasks.get()) is not None:
            if not task.future.set_running_or_notify_cancel():
                continue
            start = time.perf_counter()
            try:
                recorder = self.telemetry.step(task.name)
                try:
                    answer, was_hurt = self._recovered(task, mine)
                except BaseException as error:
                    recorder.fail(kind_number(error), f"{type(error).__name__}: {error}")
                    raise
                recorder.record(time.perf_counter() - start)
                if was_hurt:
                    recorder.recover()
            except BaseException as error:
                task.future.set_exception(error)
            else:
                task.future.set_result(answer)
                del answer
            del task  # nobody waits for it any more: its arguments may go
        for it in mine:
            it.close()
        with self.lock:
            self.threads -= 1
        if self.threads == 0 and self.nursery is not None:
            self.nursery.close()

    def _recovered(self, task: _Task, mine: list[Worker]) -> tuple[Any, bool]:
        """Do a task as its policy says: the answer, and whether it failed at first.

        ``mine`` has this thread's worker, or nothing.
        """
        if self.nursery is None or task.parts is None:
            return self._retried(task)
        first: NifError | None = None
        deaths = tries = 0
        while True:
            if mine and mine[0].is_gone:
                mine.clear()
            if not mine:
                mine.append(self.nursery.take(task.name))
            worker = mine[0]
            with self.lock:
                self.busy.add(worker)
                if self.is_killed:
                    worker.kill()
            try:
                done = self._sent(task, worker)
            except NifError as error:
                first = first or error
                tries += 1
                if tries > task.policy.retries or self.is_killed:
                    raise first from None
                continue
            finally:
                with self.lock:
                    self.busy.discard(worker)
            if done is None:
                if self.is_killed:
                    reason = "the executor was shut down before it began"
                    raise WorkerUnavailable(f"python.{task.name}(): {reason}", "python", task.name, reason=reason)
                deaths += REFUSAL if self.last_words else 1
                if deaths > IDLE_DEATHS:
                    where = f"\n{self.last_words.rstrip()}" if self.last_words else ""
                    raise WorkerUnavailable(
                        f"python.{task.name}(): its workers ended before they began{where}\nTo fix: see what "
                        "terminates them, or the initializer", "python", task.name,
                    )  # fmt: skip
                continue
            succeeded, answer = done
            if succeeded:
                return answer, first is not None
            raised, where = answer
            raised.__cause__ = RemoteTraceback(where)
            raise raised

    @staticmethod
    def _retried(task: _Task) -> tuple[Any, bool]:
        """Do a task in this process."""
        for left in range(task.policy.retries, -1, -1):
            try:
                return task.function(), left < task.policy.retries
            except Exception:
                if left == 0:
                    raise
        raise AssertionError("the last try returns or raises")

    def _sent(self, task: _Task, worker: Worker) -> tuple[bool, Any] | None:
        """Have a worker do a task: what it answers; None if it was gone before it began."""
        assert task.parts is not None, "an isolated task"
        timeout = task.policy.timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            worker.line.settimeout(timeout)
            send(worker.line, task.parts)
        except TimeoutError:
            raise self._late(task, worker) from None
        except OSError:
            worker.bury()
            return None
        has_begun = False
        try:
            worker.line.settimeout(None)
            receive(worker.line, deadline, worker.pidfd)
            has_begun = True
            answer: tuple[bool, Any] = put_together(receive(worker.line, deadline, worker.pidfd))
        except TimeoutError:
            raise self._late(task, worker) from None
        except Ended:
            pass
        else:
            return answer
        number, code, detail = worker.bury()
        if not has_begun:
            self.last_words = detail or self.last_words
            return None
        how = _how(number, code)
        where = f"\n{detail.rstrip()}" if detail else ""
        reason = f"its worker process {worker.pid} was {how}{where}"
        error = WorkerCrashed(f"python.{task.name}(): {reason}", "python", task.name, reason=reason)
        error.signal, error.exit_code, error.detail = number, code, detail
        raise error

    @staticmethod
    def _late(task: _Task, worker: Worker) -> CallTimeout:
        worker.kill()
        worker.bury()
        reason = f"no answer within {task.policy.timeout:g} s; its worker process was terminated"
        return CallTimeout(f"python.{task.name}(): {reason}", "python", task.name, reason=reason)

    def stop(self, threads: int, kill: bool = False) -> None:
        """End the threads after what is waiting, or now."""
        if kill:
            with self.lock:
                self.is_killed = True
                for it in self.busy:
                    it.kill()
        for _ in range(threads):
            self.tasks.put(None)

    def cancel_waiting(self) -> None:
        """Cancel the tasks that no worker has yet."""
        ends = 0
        with contextlib.suppress(queue.Empty):
            while True:
                if (task := self.tasks.get_nowait()) is not None:
                    task.future.cancel()
                else:
                    ends += 1
        for _ in range(ends):  # an earlier shutdown's: each thread waits for its own
            self.tasks.put(None)


def _how(number: int | None, code: int | None) -> str:
    if number is not None:
        with contextlib.suppress(ValueError):
            return f"terminated by {signal.Signals(number).name}"
        return f"terminated by signal {number}"
    return f"ended with exit code {code}" if code is not None else "terminated"


class Executor(futures.Executor):
    """Run Python callables in worker processes that may crash.

    A segmentation fault in a C extension, an `os._exit` or the kernel's out-of-memory killer ends one worker: its task
    raises `WorkerCrashed`, or runs again if the policy says so. All other tasks go on, and a spare worker that is
    ready takes the place.

    Parameters
    ----------
    workers : int, optional
        Tasks that run at once; one for each processor unless given.
    isolated : bool
        Whether tasks run in worker processes; else in threads of this process, with the same retries and counters.
    imports : sequence of str
        Modules that the workers have imported before their first task: ``("scipy.signal",)``. Workers are forked from
        a clean process that has imported these, so nothing of this process's state gets into them.
    policy : RecoveryPolicy, optional
        ``timeout`` of a task in seconds, counted from its start, and ``retries`` of one whose worker crashed or was
        too slow. Unless given, tasks are not repeated.
    lab : Lab, optional
        The Lab in whose telemetry the tasks are counted, as functions of the backend ``python``.
    initializer, initargs
        A function that each worker calls first, and its arguments.

    Attributes
    ----------
    telemetry : Telemetry
        Where tasks are counted.

    Examples
    --------
    >>> with nif_lab.Executor(workers=4, imports=["scipy.signal"]) as pool:
    ...     done = pool.submit(scipy.signal.medfilt, image)
    ...     done.result()
    """

    def __init__(
        self,
        workers: int | None = None,
        isolated: bool = True,
        *,
        imports: Iterable[str] = (),
        policy: RecoveryPolicy | None = None,
        lab: Lab | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        count = len(os.sched_getaffinity(0)) if workers is None else whole("workers", workers, 1, 10_000)
        self._max_workers = count
        self.is_local = expect("isolated", isolated, bool, "True or False")
        self._policy = ONCE if policy is None else expect("policy", policy, RecoveryPolicy, "a RecoveryPolicy")
        self.telemetry = Telemetry() if lab is None else lab.telemetry
        first = b"" if initializer is None else cloudpickle.dumps((initializer, initargs))
        nursery = Nursery(names("imports", imports), first) if isolated else None
        self._crew = crew = _Crew(nursery, self.telemetry, count)
        self._pid = os.getpid()
        self._is_closed = False
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=crew.serve, name=f"nif_lab executor {number}", daemon=True)
            for number in range(count)
        ]
        for it in self._threads:
            it.start()
        self._end = weakref.finalize(self, _end, crew, count)

    @property
    def pids(self) -> list[int]:
        """The worker processes that run a task now."""
        with self._crew.lock:
            return sorted(it.pid for it in self._crew.busy)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        """Run ``fn(*args, **kwargs)`` in a worker; see `concurrent.futures.Executor.submit`.

        Shared buffers go to the worker by handle: nothing is copied.
        """
        return self._submit(self._policy, fn, args, kwargs)

    def with_options(self, timeout: float | None = None, retries: int | None = None) -> futures.Executor:
        """Return an executor with the same workers and another timeout (in seconds) or number of retries."""
        given = {"timeout": timeout, "retries": retries}
        return _Options(self, replace(self._policy, **{k: v for k, v in given.items() if v is not None}))  # type: ignore[arg-type]

    def _submit(
        self, policy: RecoveryPolicy, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> futures.Future[Any]:
        if os.getpid() != self._pid:
            raise WorkerUnavailable("this executor belongs to the process that this one was forked from\nTo fix: make "
                                    "another one here")  # fmt: skip
        name = str(getattr(fn, "__name__", type(fn).__name__))[:NAME]
        task = _Task(lambda: fn(*args, **kwargs), name, None, policy)
        if self.is_local:
            try:
                with by_handle():
                    task.parts = taken_apart((fn, args, kwargs), cloudpickle)
            except Exception as error:
                task.future.set_exception(error)
                return task.future
            # Arguments that aren't in the pickle stay with it: they are sent from where they lie.
            task.function = _nothing
        with self._lock:
            if self._is_closed:
                raise RuntimeError("this executor was shut down")
            self._crew.tasks.put(task)
        return task.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, kill: bool = False) -> None:
        """End the workers; see `concurrent.futures.Executor.shutdown`.

        Parameters
        ----------
        wait
            Whether to return only when all tasks are done.
        cancel_futures
            Whether tasks that wait are cancelled.
        kill
            Whether tasks that run are ended too: they raise `WorkerCrashed`.
        """
        with self._lock:
            self._is_closed = True
            if cancel_futures or kill:
                self._crew.cancel_waiting()
        if self._end.detach() is not None:
            self._crew.stop(len(self._threads), kill)
        elif kill:
            self._crew.stop(0, kill)
        if wait:
            for it in self._threads:
                it.join()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # After a Ctrl-C nobody wants to wait for what runs.
        self.shutdown(kill=kind is not None and issubclass(kind, KeyboardInterrupt))

    def __reduce__(self) -> tuple[Any, ...]:
        raise NotPortable("an Executor belongs to its process", "make one there: with nif_lab.Executor() as pool")

    def __repr__(self) -> str:
        where = "worker processes" if self.is_local else "threads"
        return f"<nif_lab.Executor, {self._max_workers} {where}>"


class _Options(futures.Executor):
    """An executor's workers, with another policy."""

    def __init__(self, executor: Executor, policy: RecoveryPolicy) -> None:
        self._executor, self._policy = executor, policy
        self._max_workers, self.is_local = executor._max_workers, executor.is_local

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        return self._executor._submit(self._policy, fn, args, kwargs)


def _nothing() -> None:
    raise AssertionError("an isolated task runs elsewhere")


def _end(crew: _Crew, threads: int) -> None:
    crew.cancel_waiting()
    crew.stop(threads, kill=True)
    if crew.nursery is not None:
        crew.nursery.close()
