"""What the tests of the isolated lane share, and what they do in a process of its own.

``lane_client.py interrupt stop`` runs the function `interrupt`; what it prints, the test reads.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nif_lab import Lab, _core
from nif_lab.errors import NifError

if TYPE_CHECKING:
    from nif_lab.lab import LoadedBackend


FAKE = Path(__file__).with_name("fake_worker.py")


def word(language: str) -> int:
    """Return what a fuse calls a language."""
    return int.from_bytes(language.encode()[:8].ljust(8, b"\0"), "little")


def fault(lab: Lab, backend: str, kind: str, times: int = 1, number: int = 0) -> tuple[Any, ...]:
    """Return the arguments of a call of ``fault`` that fails so often; the sum is 10."""
    fuse, x = lab.memory.empty(3, np.int64), lab.memory.empty(5)
    fuse[:] = times, word(backend), number
    x[:] = range(5)
    return kind, fuse, x


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


def kill_one(backend: LoadedBackend) -> None:
    """End the worker that works, or the one that would be next; none that is still starting."""
    workers = backend.workers
    assert workers
    workers.prepare()
    wait_for(lambda: workers.ready)
    for pid in workers.pids[:1]:  # none, if it ended just now
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def interrupt(function: str) -> None:
    """Make a call that takes for ever; tell when Ctrl-C came back, and what the next call answers."""
    lab = Lab(["rust"], lane="isolated")
    burning = {"infinite_loop", "stop"}
    args = fault(lab, "rust", function) if function in burning else (1, 2**22, 0.0, 0.1, 0.0, 0.1, 100_000)
    call = lab.rust.fault if function in burning else lab.rust.mandelbrot
    lab.rust.noop()
    (working, *_) = lab.rust.workers.pids
    tell(ready=True)
    try:
        call(*args)
    except KeyboardInterrupt:
        at = time.monotonic()
        tell(at=at, answer=lab.rust.add(1, 2), survived=Path(f"/proc/{working}").exists())


def hold(*languages: str) -> None:
    """Keep workers until this process is killed."""
    lab = Lab(languages, lane="isolated")
    tell(pids=[pid for it in lab.backends.values() for pid in it.workers.pids])
    time.sleep(600)


def own() -> dict[str, list[str]]:
    """Return the children, descriptors and shared memory that this process has."""
    gc.collect()
    links = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            links.append(os.readlink(f"/proc/self/fd/{name}").partition(":[")[0])
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if "/memfd:" in line]
    children = Path("/proc/self/task").glob("*/children")
    return {
        "children": [it for path in children for it in path.read_text().split()],
        "fds": sorted(links),
        "maps": maps,
    }


def leftovers(crashes: str, *languages: str) -> None:
    """Make a Lab, use it, crash its workers, and drop it, three times; tell what there was after each."""
    seen = []
    for _ in range(3):
        lab = Lab(languages, lane="isolated")
        for backend in lab.backends.values():
            assert backend.sum(np.arange(5.0)) == 10
            for kind in ("null_store", "infinite_loop") * int(crashes):
                with suppress(NifError):
                    options = {"timeout": 0.05, "retries": 0, "failover": False}
                    lab.call(backend.name, "fault", *fault(lab, backend.name, kind), **options)
        assert own()["children"]
        del lab, backend
        wait_for(lambda: not own()["children"] and not any("eventfd" in it or "pidfd" in it for it in own()["fds"]))
        seen.append(own())
    tell(seen=seen)


def nonsense(seed: str, count: str, limit: str) -> None:
    """Ask a fake worker; tell what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "worker")
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{FAKE}" "$@"\n')
        program.chmod(0o755)
        memory = Lab([]).memory
        workers = _core.Workers(str(program), seed, ["file", ""], 3)
        functions = _core.open_isolated(workers, "fake", None, memory.core).functions
        seen: dict[str, int] = {}
        for number in range(int(count)):
            call = functions["some" if number % 2 else "any"]
            try:
                outcome = type(call.attempt((), {}, float(limit))).__name__
            except Exception as error:
                outcome = type(error).__name__
            seen[outcome] = seen.get(outcome, 0) + 1
        del call, functions, workers
        gc.collect()
        tell(seen=seen, blocks=memory.metrics().blocks)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
