"""``nif-lab faults``: every fault in every language, and what became of each call (docs/campaign.md).

While calls of a language fail, an innocent thread calls the same language without a pause.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .. import backends as languages
from ..arguments import CONTAINED_KINDS, GPU_KINDS, FaultKind, Lane
from ..errors import NifError
from ..lab import Lab
from ..programs import python
from ..recovery import RecoveryPolicy
from . import verdict
from .injection import possible_kinds
from .verdict import Trial

if TYPE_CHECKING:
    from ..lab import LoadedBackend
    from ..memory import MemoryManager

__all__ = ["Neighbour", "belongings", "kill_writers", "run", "warm"]

#: For calls that are made to fail: a hang takes as long as the timeout, and the circuit stays closed.
POLICY: Final = RecoveryPolicy(timeout=0.1, crashes=None)
#: For all others: nobody else answers for them.
INNOCENT: Final = RecoveryPolicy(timeout=1.0, failover=False, crashes=None)
#: Seconds after which an answer is lost.
DEADLINE: Final = 1.0
#: Rows and columns of what the writers write: a page a row.
ROWS, COLUMNS = 64, 512
#: Mean milliseconds between two kills.
PAUSE_MS: Final = 4.0

#: Seconds between calls of an innocent thread that leaves the processor to others.
PAUSE: Final = 0.001

#: A process that makes one call that may end it. What it prints after "calling" was survived.
SACRIFICE: Final = """
import resource, sys
from nif_lab.lab import Lab
backend, kind, seed = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
lab = Lab([backend], lane="direct")
lab.direct[backend].noop()
print("calling", flush=True)
report = lab.faults.inject(backend, kind, "direct", really=True, seed=int(seed))
print(report.outcome, flush=True)
"""


class Neighbour(threading.Thread):
    """Calls ``dot`` of a backend all the time, ``pause`` seconds apart, with arrays that nobody may touch."""

    def __init__(self, loaded: LoadedBackend, memory: MemoryManager, seed: int, pause: float = 0.0) -> None:
        super().__init__(name=f"calls {loaded.name}", daemon=True)
        self.calls = self.lost = self.wrong = 0
        self.pause = pause
        self._dot = loaded.dot
        rng = np.random.default_rng(seed)
        self._arrays = memory.empty(1000), memory.empty(1000)
        for array in self._arrays:
            array[:] = rng.integers(-1000, 1000, 1000)  # whole numbers: every order of summing gives the same bits
        self._copies = [it.copy() for it in self._arrays]
        self._expected = float(np.dot(*self._copies))
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(self.pause):
            self.calls += 1
            try:
                self.wrong += self._dot(*self._arrays) != self._expected
            except NifError:
                self.lost += 1

    def __enter__(self) -> Neighbour:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.join()
        self.wrong += not all(map(np.array_equal, self._arrays, self._copies))


def belongings() -> dict[str, int]:
    """Count what this process has: child processes, descriptors, and memfds open or mapped."""
    me, children = str(os.getpid()), 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it may end while we look
            children += stat.read_text().rpartition(")")[2].split()[1] == me
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own is gone
            links.append(str(descriptor.readlink()))
    maps = Path("/proc/self/maps").read_text()
    memfds = sum(it.startswith("/memfd:") for it in links) + maps.count(" /memfd:")
    return {"processes": children, "descriptors": len(links), "memfds": memfds}


def warm(loaded: LoadedBackend) -> None:
    """Wait until a worker works and a spare is ready."""
    workers = loaded.workers
    assert workers is not None
    loaded.noop()
    limit = time.monotonic() + 120
    while workers.ready < 1:
        if time.monotonic() > limit:
            raise NifError(f"no spare worker of {loaded.name} was ready within 120 s")
        time.sleep(0.001)


def run(
    names: Iterable[str],
    repetitions: int,
    seed: int,
    *,
    lanes: Sequence[Lane] = ("isolated",),
    kinds: Sequence[FaultKind] | None = None,
    kills: int | None = None,
    show: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Run the campaign.

    Parameters
    ----------
    names
        Languages that fail; each may answer for the others.
    repetitions
        How often each fault is made in the isolated lane and, where it is survived, in the direct lane.
    seed
        Of the order, of all arrays, and of the moments of the kills.
    lanes, kinds
        Which; all kinds unless given, those of a GPU where one is.
    kills
        How many workers are killed while they write; 200 times the repetitions unless given.
    show
        Told what is being done, now and then.

    Returns
    -------
    dict
        ``table`` (counts of outcomes), ``sums`` by lane and times, ``innocent``, ``crash_ms``, ``cold_ms`` and
        ``over_ms`` by language, ``kill9``, ``leftovers``, ``planned`` (trials), ``goals`` and ``unavailable``.
    """
    names = list(names)
    if kinds is None:
        kinds = possible_kinds()
    rng = random.Random(seed)  # noqa: S311
    trials: list[Trial] = []
    result: dict[str, Any] = {"unavailable": {}, "timeout_s": POLICY.timeout, "deadline_s": DEADLINE}
    if "isolated" in lanes:
        before = belongings()
        result |= _isolated(names, repetitions, rng, kinds, repetitions * 200 if kills is None else kills, show, trials)
        result["leftovers"] = _left(before)
    if "direct" in lanes:
        _direct(names, repetitions, rng, kinds, show, trials)
    return result | verdict.amount(trials, result, POLICY.timeout or 0.0, len(names) > 1)


def _isolated(
    names: list[str],
    repetitions: int,
    rng: random.Random,
    kinds: Sequence[FaultKind],
    kills: int,
    show: Callable[[str], object],
    trials: list[Trial],
) -> dict[str, Any]:
    lab = Lab(names, lane="isolated", policy=INNOCENT)
    innocent: Counter[str] = Counter(calls=0, lost=0, wrong=0)
    cold, unavailable, planned = {}, {}, 0
    for name, loaded in lab.backends.items():
        if not loaded.loaded:
            unavailable[name] = loaded.reason
            continue
        plan = [(kind, times) for kind in kinds for times in ("once", "always")] * repetitions
        planned += len(plan)
        with Neighbour(loaded, lab.memory, rng.getrandbits(31)) as neighbour:
            for i, (kind, times) in enumerate(rng.sample(plan, len(plan))):
                show(f"{name}, isolated: {i + 1} of {len(plan)}, {kind}")
                neighbour.pause = PAUSE  # the spare needs the processor to start
                warm(loaded)
                neighbour.pause = 0.0
                trials.append(_inject(lab, name, kind, times, "isolated", rng.getrandbits(31)))
            cold[name] = verdict.percentiles([_cold(loaded) for _ in range(repetitions)])
        innocent.update(calls=neighbour.calls, lost=neighbour.lost, wrong=neighbour.wrong)
    show("kill -9")
    writers = [it for it in lab.backends.values() if it.loaded]
    # A worker of Julia takes seconds to start: most kills would find none.
    quick = [it for it in writers if languages.find(it.name).compiled] or writers
    killed = kill_writers(quick, lab.memory, kills, rng)
    return {
        "innocent": dict(innocent),
        "cold_ms": cold,
        "kill9": killed,
        "planned": planned,
        "unavailable": unavailable,
    }


def _inject(lab: Lab, name: str, kind: FaultKind, times: str, lane: Lane, seed: int) -> Trial:
    start = time.perf_counter()
    try:
        report = lab.faults.inject(name, kind, lane, times=1 if times == "once" else None, policy=POLICY, seed=seed)
    except NifError:  # no call was made, and that was said
        return Trial(lane, name, kind, times, "contained", "", time.perf_counter() - start)
    outcome = "lost" if report.seconds > DEADLINE else report.outcome
    ended = any(it.what == "restart" for it in report.steps)
    return Trial(lane, name, kind, times, outcome, report.answered_by, report.seconds, ended)


def _cold(loaded: LoadedBackend) -> float:
    """Return the seconds from the end of all workers to the next answer."""
    warm(loaded)
    assert loaded.workers is not None
    for pid in loaded.workers.pids:
        os.kill(pid, signal.SIGKILL)
    start = time.perf_counter()
    loaded.noop()
    return time.perf_counter() - start


def _left(before: dict[str, int]) -> dict[str, int]:
    """Count what is there that wasn't before the Lab, which is gone."""
    gc.collect()
    for _ in range(200):
        left = {name: max(0, count - before[name]) for name, count in belongings().items()}
        if not any(left.values()):
            break
        time.sleep(0.01)
    return left


def kill_writers(
    writers: Sequence[LoadedBackend], memory: MemoryManager, kills: int, rng: random.Random
) -> dict[str, int]:
    """Kill workers at random moments while they write, and see that what was acknowledged is there.

    Parameters
    ----------
    writers
        Isolated backends; each has its share of the kills.
    memory
        Of their Lab.
    kills
        How many workers are killed, those that work and spares.
    rng
        Of the moments, and of which.

    Returns
    -------
    dict
        ``kills``, ``acknowledged`` (calls that returned), ``failed`` (calls that raised) and ``lost`` (of the
        acknowledged, those whose data wasn't there when it was looked at).
    """
    count: Counter[str] = Counter(kills=kills, acknowledged=0, failed=0, lost=0)
    for i, loaded in enumerate(writers):
        share = kills // len(writers) + (i < kills % len(writers))
        killer = threading.Thread(target=_kill, args=(loaded, share, rng), daemon=True)
        killer.start()
        _write(loaded, memory, killer.is_alive, count)
        killer.join()
    return dict(count)


def _write(loaded: LoadedBackend, memory: MemoryManager, goes_on: Callable[[], bool], count: Counter[str]) -> None:
    source, target = memory.empty((1, COLUMNS)), memory.zeros((ROWS, COLUMNS, 1))
    number = 0
    while goes_on():
        written = {}
        for row in range(ROWS):
            number += 1
            source[:] = np.arange(COLUMNS) + number
            try:
                loaded.transpose(source, target[row])
            except NifError:
                count["failed"] += 1
            else:
                written[row] = number
        count["acknowledged"] += len(written)
        count["lost"] += sum(
            not np.array_equal(target[row, :, 0], np.arange(COLUMNS) + number) for row, number in written.items()
        )


def _kill(loaded: LoadedBackend, kills: int, rng: random.Random) -> None:
    workers, killed = loaded.workers, set[int]()
    assert workers is not None
    while len(killed) < kills:
        time.sleep(rng.expovariate(1000 / PAUSE_MS))
        alive = [pid for pid in workers.pids if pid not in killed]
        if alive:
            pid = rng.choice(alive)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)


def _direct(
    names: list[str],
    repetitions: int,
    rng: random.Random,
    kinds: Sequence[FaultKind],
    show: Callable[[str], object],
    trials: list[Trial],
) -> None:
    lab = Lab(names, lane="direct")
    for name in (it.name for it in lab.backends.values() if it.loaded):
        for kind in (it for it in kinds if it not in ("garbage_reply", *GPU_KINDS)):
            show(f"{name}, direct: {kind}")
            if kind in CONTAINED_KINDS:
                again = (_inject(lab, name, kind, "once", "direct", rng.getrandbits(31)) for _ in range(repetitions))
                trials.extend(again)
            else:
                trials.append(Trial("direct", name, kind, "once", _sacrifice(name, kind, rng.getrandbits(31))))


def _sacrifice(name: str, kind: str, seed: int) -> str:
    """Make the call in a process that may end by it; return what became of it."""
    command = python("-c", SACRIFICE, name, kind, str(seed))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        began = process.stdout.readline()
        try:
            said, _ = process.communicate(timeout=DEADLINE if kind in verdict.HANGS else 60)
        except subprocess.TimeoutExpired:
            process.kill()
            said = ""
    if began != "calling\n":
        raise NifError(f"the process for '{kind}' in {name} ended before the call; see nif-lab doctor")
    return said.strip() or "host dead"
