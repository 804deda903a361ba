"""A call reaches the function it names, whichever worker answers. All functions here have one signature."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import lane_client
import numpy as np
import pytest

from nif_lab import Lab, _core
from nif_lab.errors import NifError, WorkerUnavailable
from nif_lab.recovery import RecoveryPolicy

#: NIF_LAB_REPLACEMENTS=50 makes as many of each language; the default fits the suite.
REPLACEMENTS = int(os.environ.get("NIF_LAB_REPLACEMENTS", "0"))

CELLS = {
    "rust": "/// Add.\npub fn {name}(x: f64) -> f64 {{ x + {number}.0 }}\n",
    "zig": "/// Add.\npub fn {name}(x: f64) f64 {{ return x + {number}; }}\n",
    "nim": "proc {name}*(x: float64): float64 = x + {number}.0\n",
    "julia": "{name}(x::Float64)::Float64 = x + {number}\n",
}


def source(language: str, prefix: str) -> str:
    # In an order that isn't that of the names.
    return "".join(
        CELLS[language].format(name=f"{prefix}{number}", number=number) for number in (5, 2, 7, 0, 3, 6, 1, 4)
    )


class Probe:
    """A language's cell, another cell beside it, its built-in functions, and a loaded file."""

    def __init__(self, lab: Lab, language: str, folder: Path) -> None:
        self.lab, self.language = lab, language
        self.backend = lab.backends[language]
        self.first = lab.cell(language, source(language, "f"), lane="isolated").functions
        self.second = lab.cell(language, source(language, "g"), lane="isolated").functions
        self.file: Any = None
        if language == "julia":
            path = folder / "functions.jl"
            path.write_text(source(language, "h"))
            self.file = lab.load(path, name="loaded", lane="isolated")

    def check(self) -> None:
        for number in range(8):
            assert self.first[f"f{number}"](10.0) == 10.0 + number, f"{self.language}: f{number} is another function"
            assert self.second[f"g{number}"](10.0) == 10.0 + number, f"{self.language}: g{number} is another function"
            if self.file is not None:
                assert getattr(self.file, f"h{number}")(10.0) == 10.0 + number
        x = np.array([3.0, 4.0])
        assert (self.backend.add(20, 3), self.backend.sum(x), self.backend.dot(x, x)) == (23.0, 7.0, 25.0)

    def stop(self, how: str) -> None:
        """End the worker that works."""
        backend = self.backend
        if how == "kill":
            lane_client.kill_one(backend)
            return
        call = self.lab.call
        options: dict[str, Any] = {"lane": "isolated", "retries": 0, "failover": False}
        if how == "crash":
            with suppress(NifError):
                call(
                    self.language,
                    "fault",
                    *lane_client.fault(self.lab, self.language, "null_store", times=9),
                    **options,
                )
        elif how == "timeout":
            arguments = lane_client.fault(self.lab, self.language, "infinite_loop", times=9)
            with suppress(NifError):
                call(self.language, "fault", *arguments, timeout=0.05, **options)
        else:
            timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                call(
                    self.language,
                    "fault",
                    *lane_client.fault(self.lab, self.language, "infinite_loop", times=9),
                    **options,
                )
            timer.join()


@pytest.mark.slow
@pytest.mark.parametrize("language", sorted(CELLS))
def test_replacements_answer_for_the_functions_they_are_asked_for(language: str, tmp_path: Path) -> None:
    lab = Lab([language], lane="isolated", policy=RecoveryPolicy(crashes=None))
    probe = Probe(lab, language, tmp_path)
    probe.check()
    count = REPLACEMENTS or (2 if language == "julia" else 4)
    for how in itertools.islice(itertools.cycle(("crash", "interrupt", "timeout", "kill")), count):
        probe.stop(how)
        probe.check()


def fake(tmp_path: Path, kind: str, memory: Any) -> tuple[_core.Workers, _core.Library]:
    program = tmp_path / "worker"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{lane_client.FAKE}" "$@"\n')
    program.chmod(0o755)
    workers = _core.Workers(str(program), kind, ["file", ""], 1)
    return workers, _core.open_isolated(workers, "fake", None, memory.core)


def end_all(workers: _core.Workers) -> None:
    for pid in workers.pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_workers_that_list_their_functions_in_other_orders_are_called_by_name(tmp_path: Path) -> None:
    memory = Lab([]).memory
    workers, library = fake(tmp_path, "shuffled", memory)
    for _ in range(4):
        assert [library.functions[f"f{number}"].attempt((), {}, 20.0) for number in range(8)] == list(range(8))
        end_all(workers)
        lane_client.wait_for(lambda: not workers.pids or workers.ready)


def test_a_worker_with_other_functions_is_never_called(tmp_path: Path) -> None:
    memory = Lab([]).memory
    workers, library = fake(tmp_path, "another", memory)
    ((name, function),) = library.functions.items()
    assert function.attempt((), {}, 20.0) == int(name[1:])
    end_all(workers)
    started = workers.started
    for _ in range(3):
        with pytest.raises(WorkerUnavailable, match=rf"(?s)no function '{name}'.*make a new Lab"):
            function.attempt((), {}, 20.0)
    assert workers.started > started, "each call is a new try"
