"""Ray: an executor over its tasks, what its workers call first, and the way of their telemetry."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from concurrent import futures
from typing import TYPE_CHECKING, Any, Final

import ray

from ..arguments import whole
from ..fleet.channel import Reporter, deliver
from ..fleet.reading import host_name
from . import initializer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..lab import Lab

__all__ = ["Executor", "follow", "setup_hook"]

#: The actor that workers send their telemetry to, its namespace, and how many messages it keeps.
MAILBOX, NAMESPACE, KEPT = "nif_lab telemetry", "nif_lab", 4096
#: Seconds between two looks into it.
INTERVAL: Final = 1.0


class Executor(futures.Executor):
    """A `concurrent.futures.Executor` over Ray's tasks, for ``lab.map`` among others.

    Parameters
    ----------
    workers
        Tasks that run at once, as far as `lab.map` needs to know; the processors of the cluster unless given.
    **options
        Of ``ray.remote``: ``num_cpus``, ``max_retries``, ``runtime_env`` …

    Examples
    --------
    >>> ray.init()
    >>> lab.map(lab.isolated.zig.hillshade, tiles, executor=nif_lab.engines.ray.Executor()).results()
    """

    def __init__(self, workers: int | None = None, **options: Any) -> None:
        found = whole("workers", workers, 1) if workers is not None else int(_resources().get("CPU", 1))
        self._max_workers = max(found, 1)
        self._remote = ray.remote(**options)(_call) if options else ray.remote(_call)
        self._open: dict[futures.Future[Any], Any] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        """Run ``fn(*args, **kwargs)`` as a task of Ray's."""
        with self._lock:
            if self._is_closed:
                raise RuntimeError("this executor was shut down")
            asked = self._remote.remote(fn, args, kwargs)
            future = _Future(asked)
            self._open[future] = asked
        future.set_running_or_notify_cancel()
        asked.future().add_done_callback(lambda done: self._settle(future, done))
        return future

    def _settle(self, future: futures.Future[Any], done: futures.Future[Any]) -> None:
        with self._lock:
            self._open.pop(future, None)
        error = done.exception()
        if error is None:
            future.set_result(done.result())
            return
        # Ray wraps what a task raised.
        cause = getattr(error, "cause", None)
        future.set_exception(cause if isinstance(cause, BaseException) else error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; the cluster stays.

        Parameters
        ----------
        wait
            Whether to return only when all tasks are done.
        cancel_futures
            Whether tasks that haven't begun are cancelled.
        """
        with self._lock:
            self._is_closed = True
            waiting = dict(self._open)
        if cancel_futures:
            for future in waiting:
                future.cancel()
        if wait:
            futures.wait(waiting)


class _Future(futures.Future[Any]):
    """A task's future: to cancel it is to cancel the task, which ends if it hasn't begun."""

    def __init__(self, asked: Any) -> None:
        super().__init__()
        self._asked = asked

    def cancel(self) -> bool:
        with contextlib.suppress(Exception):
            ray.cancel(self._asked, force=False)
        return False  # whether it was in time is said by its result


def _resources() -> dict[str, float]:
    return dict(ray.cluster_resources())


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(*args, **kwargs)


# What workers do first, and what they send.


class _Mailbox:
    """The actor: keeps messages until the driver takes them."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque(maxlen=KEPT)

    def push(self, message: bytes) -> None:
        self._messages.append(message)

    def pull(self) -> list[bytes]:
        taken = [*self._messages]
        self._messages.clear()
        return taken


def setup_hook(lab: Lab) -> Callable[[], None]:
    """Return what each Ray worker calls when it starts, so that it has a Lab like this one and sends its telemetry.

    Examples
    --------
    >>> ray.init(runtime_env={"worker_process_setup_hook": nif_lab.engines.ray.setup_hook(lab)})
    """
    start, home = initializer(lab), host_name()

    def begin() -> None:
        start()
        _reporters.append(Reporter(_send, home, "Ray worker"))

    return begin


#: The reporters of this process; they end with it.
_reporters: list[Reporter] = []


def _send(message: bytes) -> None:
    ray.get_actor(MAILBOX, NAMESPACE).push.remote(message)  # raises before somebody follows: then nobody listens


def follow(engine: Any, lab: Lab) -> None:
    """Take the telemetry of workers that have run `setup_hook`, until Ray is shut down."""
    box = ray.remote(num_cpus=0)(_Mailbox).options(name=MAILBOX, namespace=NAMESPACE, get_if_exists=True).remote()
    threading.Thread(target=_fetch, args=(box,), name="nif_lab ray", daemon=True).start()


def _fetch(box: Any) -> None:
    pause = threading.Event()
    while ray.is_initialized():
        try:
            for message in ray.get(box.pull.remote(), timeout=30.0):
                deliver(message)
        except ray.exceptions.GetTimeoutError:  # a busy cluster; the next look takes what has come meanwhile
            continue
        except Exception:  # Ray is being shut down
            return
        pause.wait(INTERVAL)
