"""The NIF `fault`, as docs/faults.md has it: what may end a process is called in a process of its own, burn.py."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import burn
import numpy as np
import numpy.typing as npt
import pytest
from burn import Shared
from fifth_language import language as fifth

import nif_lab.backends
from nif_lab.errors import NifError, NifValueError

if TYPE_CHECKING:
    from nif_lab.lab import Lab, LoadedBackend

    Child = subprocess.Popen[str]

pytestmark = pytest.mark.slow

TESTS = Path(__file__).resolve().parents[1]
DOCS = TESTS.parent / "docs"

#: Seconds after which a process hangs; Julia may have to compile first.
LONG = 120

#: The kinds that leave the process as it was.
MILD = ("error_value", "panic", "out_of_bounds", "overflow", "divide")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: a kind, its number, and what becomes of the call in each language."""

    kind: str
    number: int
    outcomes: dict[str, str]

    def __str__(self) -> str:
        return f"{self.kind}-{self.number}"

    def harms(self) -> list[int]:
        """List the cells that a wild write spoils, if it stays on the shared page."""
        first = 64 + self.number
        return list(range(first, first + 64)) if self.kind == "wild_write" and first < 512 else []


def documented() -> Iterator[Row]:
    lines = iter((DOCS / "faults.md").read_text("utf-8").splitlines())
    first = next(line for line in lines if line.startswith("| kind |"))
    rows = [first, *itertools.takewhile(lambda line: line.startswith("|"), lines)]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]
    heads, _, *body = table
    for kind, number, _, *cells in body:
        base, _, power = (number or "0").partition("^")
        outcomes = dict(zip((title.lower() for title in heads[3:]), cells, strict=True))
        outcomes[fifth.NAME] = outcomes[fifth.MODEL]
        yield Row(kind.strip("`"), int(base) ** int(power or 1), outcomes)


ROWS = list(documented())
KINDS = sorted({row.kind for row in ROWS})


def rows(*, mild: bool) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", [row for row in ROWS if (row.kind in MILD) == mild], ids=str)


def word(language: str) -> int:
    """Return what a fuse calls a language."""
    return int.from_bytes(language.encode()[:8].ljust(8, b"\0"), "little")


def a_fuse(*numbers: int) -> npt.NDArray[np.int64]:
    return np.array(numbers, np.int64)


def test_the_table_has_every_kind_and_every_language() -> None:
    """The table is parsed; an empty one would make every test below pass."""
    assert len(KINDS) == 16
    assert all(set(row.outcomes) == {*nif_lab.backends.names(), fifth.NAME} for row in ROWS)


def test_the_sum_unless_the_fuse_burns(backend: LoadedBackend, rng: np.random.Generator) -> None:
    others = {word(name) for name in (*nif_lab.backends.names(), fifth.NAME, "")} - {word(backend.name)}
    fuses = [(left, word(backend.name)) for left in (0, -1, -(2**63))] + [(1, other) for other in others]
    for kind, (left, language) in itertools.product(KINDS, fuses):
        x = rng.integers(-(2**40), 2**40, rng.integers(0, 100)).astype(np.float64)
        fuse = a_fuse(left, language, 7)
        assert backend.fault(kind, fuse, x) == x.sum(), kind
        assert fuse.tolist() == [left, language, 7]


@rows(mild=True)
def test_mild_faults_are_exceptions_as_often_as_the_fuse_says(lab: Lab, backend: LoadedBackend, row: Row) -> None:
    x, fuse = np.arange(5.0), lab.memory.empty(3, np.int64)  # shared: a worker's failure brings no copy back
    fuse[:] = 2, word(backend.name), row.number
    for left in (1, 0):
        with pytest.raises(NifError) as caught:
            lab.call(backend.name, "fault", row.kind, fuse, x, retries=0, failover=False)
        error = caught.value
        assert (type(error).__name__, error.argument) == (row.outcomes[backend.name], None)
        assert row.kind not in ("error_value", "panic") or error.reason == "on purpose"
        assert fuse.tolist() == [left, word(backend.name), row.number]
    assert backend.fault(row.kind, fuse, x) == 10.0
    assert fuse[0] == 0


def test_unknown_kinds_are_refused(backend: LoadedBackend) -> None:
    kinds = ["", "Panic", "panic ", "errorvalue", "no_such_thing", "garbage_reply"]
    for kind, left in itertools.product(kinds, (0, 1)):
        for fuse in (a_fuse(left, word(backend.name), 0), a_fuse(left)):
            with pytest.raises(NifValueError) as caught:
                backend.fault(kind, fuse, np.arange(5.0))
            assert (caught.value.argument, caught.value.reason) == ("kind", "no such kind of fault"), kind
            assert fuse[0] == left


def test_a_fuse_has_three_numbers(backend: LoadedBackend) -> None:
    for length in (0, 1, 2, 4):
        fuse = a_fuse(1, word(backend.name), 0, 0)[:length]
        with pytest.raises(NifValueError) as caught:
            backend.fault("panic", fuse, np.arange(5.0))
        reason = f"expected i64[k] with k = 3, got i64[{length}]"
        assert (caught.value.argument, caught.value.reason) == ("fuse", reason)
        assert fuse.tolist() == [1, word(backend.name), 0, 0][:length]


@rows(mild=False)
def test_what_becomes_of_a_process(direct: LoadedBackend, row: Row) -> None:
    with burning(direct.name, row) as (child, memory):
        if row.kind in ("infinite_loop", "stop"):
            outcome, error = watched(child, memory), ""
        else:
            outcome, error = ended(child)
        assert outcome == row.outcomes[direct.name], error
        assert memory.fuse.tolist() == [2, word(direct.name), row.number]
        assert np.flatnonzero(np.isnan(memory.cells)).tolist() == row.harms()
        if row.kind == "stop":
            child.send_signal(signal.SIGCONT)
            assert ended(child) == ("10.0", "")


@contextmanager
def burning(language: str, row: Row) -> Iterator[tuple[Child, Shared]]:
    """Start a process that makes one call with a fuse for three."""
    file = os.memfd_create("fuse")
    os.truncate(file, 4096)
    memory = Shared(file)
    memory.fuse[:] = 3, word(language), row.number
    memory.x[:] = range(5)
    command = [sys.executable, burn.__file__, language, row.kind, str(file)]
    pipe, env = subprocess.PIPE, {**os.environ, "PYTHONPATH": str(TESTS)}
    with subprocess.Popen(command, pass_fds=[file], stdout=pipe, stderr=pipe, text=True, env=env) as child:
        os.close(file)
        try:
            yield child, memory
        finally:
            child.kill()


def ended(child: Child) -> tuple[str, str]:
    """Wait for a process's end: how it ended, as the table says it, and what it wrote to its standard error."""
    output, error = child.communicate(timeout=LONG)
    if child.returncode < 0:
        return signal.Signals(-child.returncode).name, error
    return output.strip() or f"exit {child.returncode}", error


def watched(child: Child, memory: Shared) -> str:
    """Tell what a process does a second after its fuse burnt."""
    limit = time.monotonic() + LONG
    while memory.fuse[0] == 3:
        assert child.poll() is None, ended(child)
        assert time.monotonic() < limit
        time.sleep(0.01)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(1)
    state = Path(f"/proc/{child.pid}/stat").read_text().rpartition(") ")[2][0]
    return "stopped" if state == "T" else "runs on"
