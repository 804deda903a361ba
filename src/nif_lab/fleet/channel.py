"""How a process's telemetry gets to the notebook: the worker's side, and what the kernel starts and listens to.

A process of this machine sends only who it is, since its segment is read in place. Another sends `tally.report` once a
second at most, through the channel that its engine has anyway: events of Dask, an actor of Ray.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final

from ..errors import WorkerUnavailable
from ..programs import python
from ..travel import here
from .reading import Reader, host_name, title_of
from .tally import State, report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..segment import Segment

__all__ = ["Fleet", "Reporter", "inboxes"]

#: Seconds between two messages of a process, and between two while nothing is new.
INTERVAL, BEAT = 1.0, 10.0
#: Seconds that a collector may take to start and to say what it knows.
PATIENCE: Final = 60.0
#: Messages that wait for a collector; of more, the oldest go: later ones say it again.
WAITING: Final = 4096


class Reporter:
    """Sends what this process's Labs have counted.

    Parameters
    ----------
    send
        Takes a message, on the reporter's thread. An exception of it is for the next message to mend.
    home
        The host of the notebook, as `reading.host_name` calls it.
    title
        What the process is called; its command's words unless given.
    interval
        Seconds between two messages.
    """

    def __init__(self, send: Callable[[bytes], object], home: str, title: str = "", interval: float = INTERVAL) -> None:
        self._interval = interval
        self._send, self._is_home = send, home == host_name()
        self._title = title or title_of(os.getpid())
        self._known: dict[int, tuple[Reader, State]] = {}
        self._number = 0
        self._said: dict[int, float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="nif_lab reporter", daemon=True)
        self._thread.start()

    def messages(self, ended: bool = False) -> Iterator[bytes]:
        """Yield what is due now: a message for each Lab that has something new, or was silent for long."""
        now = time.monotonic()
        for segment in [it.telemetry.segment for it in here()]:
            key = int(segment.header["base_ticks"])
            reader, sent = self._known.setdefault(key, (Reader(segment), State()))
            is_new = reader.look() or any(it != sent.functions.get(key) for key, it in reader.state.functions.items())
            if not ended and (self._is_home or not is_new) and now - self._said.get(key, -BEAT) < BEAT:
                continue
            self._said[key] = now
            self._number += 1
            state = State() if self._is_home else reader.state
            yield report(reader.origin, state, sent, self._number, title=self._title, ended=ended)

    def _serve(self) -> None:
        while not self._stopped.wait(self._interval):
            self._say()

    def _say(self, ended: bool = False) -> None:
        for it in self.messages(ended):
            with contextlib.suppress(Exception):  # the engine is just ending, or has lost its connection
                self._send(it)

    def stop(self) -> None:
        """End it, with a last message."""
        self._stopped.set()
        self._thread.join(INTERVAL)
        self._say(ended=True)


#: Who takes the messages of engines in this process: collections, and fleets, which pass them on.
inboxes: weakref.WeakSet[Any] = weakref.WeakSet()


def deliver(message: bytes) -> None:
    """Hand a message that has arrived to whoever listens."""
    for it in list(inboxes):
        it.hear(message)


class Fleet:
    """All processes of a Lab, as a process of its own collects them: ``lab.processes()``.

    Parameters
    ----------
    segment
        Of the Lab's telemetry.
    rate
        Updates a second at most.
    """

    def __init__(self, segment: Segment, rate: float = 8.0) -> None:
        self._listeners: list[Callable[[bytes], object]] = []
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._asking = threading.Lock()
        self._outbox: queue.Queue[bytes] = queue.Queue(WAITING)
        self._pid = os.getpid()
        lab = int(segment.header["base_ticks"])
        command = python("-m", "nif_lab.fleet.collector", str(os.getpid()), str(lab), str(rate))
        # In the root folder: `-m` would take modules from where the notebook is.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, cwd="/",
            env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
        )  # fmt: skip
        self._end = weakref.finalize(self, _end, self._process, self._outbox)
        #: Processor time that passing messages on has taken in this process, in seconds.
        self.spent = [0.0, 0.0]
        for work in (_pass_on, _write):
            threading.Thread(target=work, args=(weakref.ref(self), self._process, self._outbox), daemon=True,
                             name="nif_lab fleet").start()  # fmt: skip
        inboxes.add(self)

    def hear(self, message: bytes) -> None:
        """Pass a report on to the collector; while that is behind, the oldest are left out."""
        with contextlib.suppress(queue.Full):
            self._outbox.put_nowait(message)

    def listen(self, take: Callable[[bytes], object]) -> None:
        """Call ``take`` with each update, the JSON text of `nif_lab.fleet.collector`, on a thread of its own."""
        self._listeners.append(take)

    def ignore(self, take: Callable[[bytes], object]) -> None:
        """Call it no more."""
        with contextlib.suppress(ValueError):
            self._listeners.remove(take)

    def look(self) -> dict[str, Any]:
        """Return all that is known of all processes now."""
        return dict(json.loads(self.whole()))

    def whole(self) -> bytes:
        """Return all that is known, as an update.

        Raises
        ------
        WorkerUnavailable
            When the collector has ended.
        """
        with self._asking:
            self._outbox.put(b"", timeout=PATIENCE)
            try:
                answer = self._answers.get(timeout=PATIENCE)
            except queue.Empty:
                answer = b""
            if not answer:
                raise WorkerUnavailable(
                    "the process that collects telemetry has ended\nTo fix: make the dashboard again"
                )
            return answer

    @property
    def is_closed(self) -> bool:
        """Whether its collector has ended, or is another process's: that of the one from which this one was forked."""
        return not self._end.alive or self._process.poll() is not None or self._pid != os.getpid()

    def close(self) -> None:
        """End the collector."""
        inboxes.discard(self)
        self._end()


def _end(process: subprocess.Popen[bytes], outbox: queue.Queue[bytes]) -> None:
    process.kill()
    process.wait()
    with contextlib.suppress(queue.Full):
        outbox.put_nowait(b"")  # the writer looks up, and finds the pipe closed


def _write(fleet: weakref.ref[Fleet], process: subprocess.Popen[bytes], outbox: queue.Queue[bytes]) -> None:
    assert process.stdin is not None, "a pipe"
    with contextlib.suppress(OSError), process.stdin:
        while True:
            message = outbox.get()
            process.stdin.write(len(message).to_bytes(4, "little") + message)
            if (this := fleet()) is not None:
                this.spent[0] = time.thread_time()
            del this


def _pass_on(fleet: weakref.ref[Fleet], process: subprocess.Popen[bytes], _: object) -> None:
    assert process.stdout is not None, "a pipe"
    pipe, received = process.stdout.fileno(), bytearray()
    with process.stdout, contextlib.suppress(OSError):
        while data := os.read(pipe, 1 << 20):
            received += data
            while len(received) >= 5 and len(received) >= (end := 5 + int.from_bytes(received[:4], "little")):
                kind, text = received[4:5], bytes(received[5:end])
                del received[:end]
                if (this := fleet()) is None:
                    return
                if kind == b"w":
                    this._answers.put(text)
                else:
                    for take in list(this._listeners):
                        with contextlib.suppress(Exception):  # a page that is gone
                            take(text)
                this.spent[1] = time.thread_time()
                del this
    if (this := fleet()) is not None:
        this._answers.put(b"")
