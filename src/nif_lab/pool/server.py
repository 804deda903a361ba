"""The process from which an executor's workers are forked, and the workers themselves.

It is a fresh Python that has imported what the user named and nothing else, so no worker has anything of the
notebook's. It has one thread, which makes a fork safe. Its host asks over a socket; it answers with the worker's
process number, and says how each worker ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import os
import pickle
import resource
import select
import signal
import socket
import sys
import traceback
from typing import Any, Final

from .line import Ended, put_together, receive, send, taken_apart

__all__ = ["main"]

PR_SET_PDEATHSIG: Final = 1
#: What the host writes to ask for a worker.
FORK: Final = b"f"
#: What a worker says when it has a task, before it runs it.
BEGUN: Final = [b"begun"]
#: What pickles answers: cloudpickle, once the server runs.
pickler: Any = pickle


def main(host: int) -> None:
    """Serve the host at the other end of a descriptor until it closes its end."""
    _die_with_parent()
    line = socket.socket(fileno=host)
    settings = put_together(receive(line))
    sys.path[:] = settings["path"]
    os.chdir(settings["folder"])
    global pickler  # noqa: PLW0603
    pickler = importlib.import_module("cloudpickle")  # now that the path is known; for all workers at once
    try:
        for name in settings["imports"]:
            importlib.import_module(name)
    except BaseException as error:
        send(line, taken_apart({"refused": f"{type(error).__name__}: {error}"}))
        return
    gc.freeze()  # no collection of a worker touches, and so copies, what all share
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is the host's
    ended, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    send(line, taken_apart({"ready": os.getpid()}))
    while True:
        ready = select.select([line.fileno(), ended], [], [])[0]
        if ended in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(ended, 4096)
            _reap(line)
        if line.fileno() in ready:
            asked, descriptors, _, _ = socket.recv_fds(line, 1, 2)
            if asked != FORK or len(descriptors) != 2:
                return  # workers end with it: each sees the end of its line, or gets SIGKILL
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                line.close()
                os.close(ended)
                os.close(woken)
                _work(descriptors[0], descriptors[1], settings["initializer"])
            for it in descriptors:
                os.close(it)
            send(line, taken_apart({"forked": pid}))


def _reap(line: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            send(line, taken_apart({"ended": pid, "status": status}))


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _work(line: int, last_words: int, initializer: bytes) -> None:
    """Be a worker: run one task after the other, and never return."""
    _die_with_parent()
    status = 1
    try:
        os.setpgid(0, 0)  # a signal to its group is its own affair
        # Where Python was when the process died is part of the error.
        faulthandler.enable(last_words, all_threads=False)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # nobody wants a file for each crash
        here = socket.socket(fileno=line)
        if initializer:
            function, args = pickle.loads(initializer)  # noqa: S301  # the host's own
            function(*args)
        while True:
            task = receive(here)
            send(here, BEGUN)  # from here on nobody but its policy has it done again
            send(here, _done(task))
    except Ended:
        status = 0
    except BaseException:
        with contextlib.suppress(OSError):
            os.write(last_words, traceback.format_exc().encode(errors="replace"))
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _done(task: list[bytearray]) -> list[Any]:
    """Run a task; return the answer, or the exception, as it is sent."""
    try:
        function, args, kwargs = put_together(task)
        answer = (True, function(*args, **kwargs))
        del function, args, kwargs  # buffers are given back before the answer
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        os._exit(code)
    except BaseException as error:
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
        where = "".join(traceback.format_exception(error))
        answer = (False, (error, where))
    try:
        parts = taken_apart(answer, pickler)
        if not answer[0]:
            put_together([bytearray(memoryview(it)) for it in parts])  # an exception may be pickled, and not come back
        return parts
    except Exception as error:
        if answer[0]:
            what = f"the answer can't be sent back: {type(error).__name__}: {error}"
            return taken_apart((False, (TypeError(what), what)))
        found, where = answer[1]
        return taken_apart((False, (RuntimeError(f"{type(found).__name__}: {found}"), where)))
