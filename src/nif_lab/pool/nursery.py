"""An executor's workers, as this process sees them: forked by a server, one of them ahead of need."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any, Final

from ..errors import WorkerUnavailable
from ..programs import python
from .line import Ended, put_together, receive, send, taken_apart
from .server import FORK

__all__ = ["Nursery", "Worker"]

#: Bytes of what a worker said last that an error has.
LAST_WORDS: Final = 4096
#: Seconds that the server may take to import, to fork, and to say how a worker ended.
PATIENCE: Final = 60.0
#: How often a worker is asked for: the server may just have been killed.
TRIES: Final = 3
COMMAND: Final = "import sys; from nif_lab.pool.server import main; main(int(sys.argv[1]))"


class Worker:
    """One worker process.

    Attributes
    ----------
    pid, pidfd : int
        The process.
    line : socket.socket
        The connection to it.
    is_gone : bool
        Whether it was found to have ended.
    """

    def __init__(self, pid: int, line: socket.socket, words: int) -> None:
        self.pid = pid
        self.line = line
        self.is_gone = False
        self.status: int | None = None
        self.ended = threading.Event()
        self._words = words
        self._close = weakref.finalize(self, _close, line, words, self._open())

    def _open(self) -> int | None:
        try:
            self.pidfd: int | None = os.pidfd_open(self.pid)
        except ProcessLookupError:  # it has ended already: the line says so too
            self.pidfd = None
        return self.pidfd

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError, OSError):
            if self.pidfd is not None and self._close.alive:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Let it end: its line closes."""
        self.is_gone = True
        self._close()

    def bury(self) -> tuple[int | None, int | None, str]:
        """Return the signal or exit code by which it ended, and what it said last."""
        self.kill()  # its line is closed, whatever it does
        self.ended.wait(PATIENCE)
        words = os.pread(self._words, LAST_WORDS, max(os.fstat(self._words).st_size - LAST_WORDS, 0))
        self.close()
        said = words.decode(errors="replace")
        if self.status is None:
            return None, None, said
        if os.WIFSIGNALED(self.status):
            return os.WTERMSIG(self.status), None, said
        return None, os.WEXITSTATUS(self.status), said


def _close(line: socket.socket, words: int, pidfd: int | None) -> None:
    line.close()
    os.close(words)
    if pidfd is not None:
        os.close(pidfd)


class _Server:
    """The process that forks workers."""

    def __init__(self, imports: tuple[str, ...], initializer: bytes) -> None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        package = str(Path(__file__).parents[2])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
        try:
            with there:
                self._process = subprocess.Popen(
                    python("-c", COMMAND, str(there.fileno())), pass_fds=[there.fileno()], env=environment,
                    stdin=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
        except BaseException:
            here.close()
            raise
        self._line = here
        self._workers: dict[int, Worker] = {}
        self._early: dict[int, int] = {}
        self._turn = threading.Lock()
        self._guard = threading.Lock()
        self._answers: list[dict[str, Any]] = []
        self._answered = threading.Condition(self._guard)
        self.is_gone = False
        settings = {"imports": imports, "initializer": initializer, "path": sys.path, "folder": os.getcwd()}
        send(here, taken_apart(settings))
        self._reader = threading.Thread(target=self._read, name="nif_lab server", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(Ended, OSError, ValueError):
            while True:
                said = put_together(receive(self._line))
                with self._guard:
                    if "ended" not in said:
                        self._answers.append(said)
                        self._answered.notify_all()
                    elif (worker := self._workers.pop(said["ended"], None)) is not None:
                        worker.status = said["status"]
                        worker.ended.set()
                    else:
                        self._early[said["ended"]] = said["status"]
        with self._guard:
            self.is_gone = True
            for worker in self._workers.values():
                worker.ended.set()
            self._answered.notify_all()
        self._line.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        with self._guard:
            if not self._answered.wait_for(lambda: bool(self._answers) or self.is_gone, PATIENCE):
                self._process.kill()  # somebody has stopped it, or an import never ends
            if not self._answers:
                raise WorkerUnavailable("the process that starts workers has ended\nTo fix: make the call again")
            return self._answers.pop(0)

    def wait_until_ready(self) -> None:
        """Wait until it has imported what it should.

        Raises
        ------
        WorkerUnavailable
            When it can't.
        """
        said = self._answer()
        if "refused" in said:
            raise WorkerUnavailable(f"workers can't import what they should: {said['refused']}\nTo fix: see imports=")

    def fork(self) -> Worker:
        """Start a worker."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        words = os.memfd_create("nif_lab last words", os.MFD_CLOEXEC)
        try:
            with there, self._turn:
                socket.send_fds(self._line, [FORK], [there.fileno(), words])
                pid = int(self._answer()["forked"])
        except BaseException:
            here.close()
            os.close(words)
            raise
        worker = Worker(pid, here, words)
        with self._guard:
            if pid in self._early:
                worker.status = self._early.pop(pid)
                worker.ended.set()
            elif self.is_gone:
                worker.ended.set()
            else:
                self._workers[pid] = worker
        return worker

    def close(self) -> None:
        """End it; its workers end with it."""
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        self._reader.join()


class Nursery:
    """Where workers come from: one is always ready.

    Parameters
    ----------
    imports
        Modules that workers have imported.
    initializer
        The pickle of a function and its arguments, which each worker calls first; empty for none.
    """

    def __init__(self, imports: tuple[str, ...], initializer: bytes) -> None:
        self._settings = imports, initializer
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._spare: Worker | None = None
        self._wanted = threading.Event()
        self._is_closed = False
        threading.Thread(target=self._raise_spares, args=(weakref.ref(self), self._wanted), daemon=True,
                         name="nif_lab spares").start()  # fmt: skip

    def take(self, task: str) -> Worker:
        """Return a worker that is ready: the spare, or a new one."""
        with self._lock:
            worker, self._spare = self._spare, None
        if worker is None or worker.ended.is_set():
            for left in reversed(range(TRIES)):
                try:
                    worker = self._fork()
                    break
                except (WorkerUnavailable, OSError) as error:
                    if not left:
                        raise WorkerUnavailable(f"python.{task}(): {error}", "python", task) from None
        assert worker is not None, "the last try returns or raises"
        self._wanted.set()
        return worker

    def _fork(self) -> Worker:
        with self._lock:
            if self._is_closed:
                raise WorkerUnavailable("this executor was shut down")
            if self._server is None or self._server.is_gone:
                server = _Server(*self._settings)
                try:
                    server.wait_until_ready()
                except BaseException:
                    server.close()
                    raise
                self._server = server
            server = self._server
        return server.fork()

    @staticmethod
    def _raise_spares(this: weakref.ref[Nursery], wanted: threading.Event) -> None:
        while wanted.wait() and (nursery := this()) is not None:
            wanted.clear()
            if nursery._is_closed:
                return
            with contextlib.suppress(WorkerUnavailable, OSError):
                if nursery._spare is None:
                    spare = nursery._fork()
                    with nursery._lock:
                        nursery._spare = spare
            del nursery

    def close(self) -> None:
        """End the server and all workers."""
        with self._lock:
            self._is_closed = True
            server, self._server = self._server, None
            spare, self._spare = self._spare, None
        self._wanted.set()
        if spare is not None:
            spare.close()
        if server is not None:
            server.close()
