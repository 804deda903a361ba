"""The plugin for Dask's workers."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from distributed import WorkerPlugin

from ..arguments import number
from ..fleet.channel import Reporter, deliver
from ..fleet.reading import host_name
from ..travel import forget, settings_of
from . import initializer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from distributed import Client, Worker

    from ..lab import Lab

__all__ = ["Plugin", "follow", "listen", "submit"]

#: Under which name workers' telemetry is among Dask's events.
TOPIC: Final = "nif_lab telemetry"
#: Messages a second of all workers together.
BUSIEST: Final = 1000
#: Seconds until a result that is there but doesn't come is looked for where it may be now.
PATIENCE: Final = 3.0


class Plugin(WorkerPlugin):
    """Give each worker process one Lab, with the policies, pools, cells and libraries of the client's.

    A worker on another machine than the client sends its telemetry once a second, as an event of Dask's.

    Parameters
    ----------
    lab
        The client's. After a change of its cells or policies register another plugin: it takes the place of this one.
    interval
        Seconds between two messages of a worker, 1 to 30.

    Examples
    --------
    >>> client.register_plugin(nif_lab.engines.dask.Plugin(lab))
    """

    #: There is one of it: a newer one replaces it.
    name = "nif_lab"

    def __init__(self, lab: Lab, interval: float = 1.0) -> None:
        self._interval = number("interval", interval, 1.0, 30.0)
        self._settings = settings_of(lab)
        self._start = initializer(lab)
        self._home = host_name()
        self._reporter: Reporter | None = None

    def setup(self, worker: Worker) -> None:
        """Make the Lab when the worker starts."""
        self._start()

        def send(message: bytes) -> None:
            worker.loop.add_callback(worker.log_event, TOPIC, message)

        self._reporter = Reporter(send, self._home, f"worker {worker.name}", self._interval)

    def teardown(self, worker: Worker) -> None:
        """End the Lab and its worker processes when the worker stops."""
        if self._reporter is not None:
            self._reporter.stop()
        forget(self._settings)


def follow(client: Client, lab: Lab) -> None:
    """Register the plugin, and take the telemetry that workers send."""
    listen(client)
    # However many workers there are, no more than 1,000 messages a second come here.
    workers = len(client.nthreads())  # type: ignore[no-untyped-call]
    client.register_plugin(Plugin(lab, min(max(workers / BUSIEST, 1.0), 30.0)))


def listen(client: Client) -> None:
    """Take the telemetry that a cluster's workers send."""
    client.subscribe_topic(TOPIC, _take)  # type: ignore[no-untyped-call]


def _take(event: tuple[float, Any]) -> None:
    if isinstance(event[1], bytes):
        deliver(event[1])


def submit(client: Any, options: Mapping[str, Any], function: Callable[..., Any], *args: Any) -> Future[Any]:
    """Give a cluster a task, and return a future that ends with its result.

    Dask's own executor has futures that never end when a worker dies after it has computed a result.
    """
    task = client.submit(function, *args, **{"pure": False, **options})
    return asyncio.run_coroutine_threadsafe(_result(client, task), client.loop.asyncio_loop)


async def _result(client: Any, task: Any) -> Any:
    """Return a task's result, from wherever it is.

    A request may wait for a worker that has just died. Meanwhile another worker computes the task again: a second
    request asks for that result.
    """
    requests = {asyncio.ensure_future(client.gather(task, asynchronous=True))}
    holders: Any = None
    try:
        while True:
            done, _ = await asyncio.wait(requests, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return done.pop().result()
            if task.status == "finished" and (now := await client.who_has([task])) != holders:
                holders = now
                requests.add(asyncio.ensure_future(client.gather(task, asynchronous=True)))
    finally:
        for request in requests:
            request.cancel()
        if not task.done():
            await task.cancel()
