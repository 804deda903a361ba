"""``make soak``: an hour of everything at once, and what it leaves behind.

Threads make mixed calls in both lanes and check every answer. Beside them workers are crashed, files are mapped,
children are forked, frames are written and read, lines are printed. Every few seconds the memory, the descriptors, the
threads and the processes are counted; a straight line through the counts after the warm-up is what leaks. ``--write``
puts the figures into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nif_lab import Lab, RecoveryPolicy
from nif_lab.errors import NifError, NifIndexError, NifPanic, WorkerCrashed

#: Seconds between two counts, and the part of the time that is not looked at.
EVERY, WARM_UP = 5.0, 0.2
#: What may be left behind in an hour, by measure.
LIMITS = {"memory_mb": 1.0, "shared_mb": 1.0, "descriptors": 1.0, "threads": 1.0, "processes": 1.0}
#: How a worker is ended, and how the call says so.
CRASHES = ("null_store", "abort", "exit_7", "stack_overflow")
FAILURES: dict[str, type[Exception]] = {"error_value": NifError, "panic": NifPanic, "out_of_bounds": NifIndexError}


class Load:
    """Mixed work on one Lab; `wrong` has what wasn't as it should be.

    Parameters
    ----------
    lab
        Whose languages are used: all that are loaded.
    seed
        Of the order of the work.
    """

    def __init__(self, lab: Lab, seed: int) -> None:
        self.lab, self.seed = lab, seed
        self.names = [name for name, it in lab.backends.items() if it.loaded]
        self.ended = threading.Event()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def note(self, what: str, is_right: bool, said: str = "") -> None:
        with self._lock:
            self.counts[what] += 1
            if not is_right and len(self.wrong) < 20:
                self.wrong.append(f"{what}: {said}")

    def repeat(self, work: Callable[[random.Random], None], pause: float, number: int) -> threading.Thread:
        """Do it again and again in a thread of its own, with a pause between."""

        def run() -> None:
            draw = random.Random(f"{self.seed} {work.__name__} {number}")
            while not self.ended.wait(pause):
                try:
                    work(draw)
                except BaseException as error:
                    self.note(work.__name__, False, f"{type(error).__name__}: {error}")

        thread = threading.Thread(target=run, name=f"soak {work.__name__} {number}")
        thread.start()
        return thread

    def calls(self, draw: random.Random) -> None:
        """A hundred calls, now in one lane, now in the other."""
        name, lane = draw.choice(self.names), draw.choice(("direct", "isolated"))
        backend, n = getattr(getattr(self.lab, lane), name), draw.randrange(1, 5000)
        x = self.lab.memory.empty(n) if draw.random() < 0.5 else np.empty(n)
        x[:] = draw.randrange(1, 9)
        want = float(n * x[0] * x[0])
        for _ in range(100 if lane == "direct" else 20):
            got = backend.dot(x, x)
            self.note(f"{lane} calls", got == want, f"{name}.dot gave {got}, not {want}")
        self.note(f"{lane} calls", backend.add(n, 2) == n + 2, f"{name}.add")
        copy = backend.write(x)
        self.note("owned results", copy.shape == x.shape and bool((copy == x).all()), f"{name}.write")

    def failures(self, draw: random.Random) -> None:
        """An ordinary error of native code, in this process."""
        name, kind = draw.choice(self.names), draw.choice(sorted(FAILURES))
        lane = "isolated" if name == "julia" or kind == "panic" else "direct"
        said = self._fail(name, kind, lane)
        self.note("errors", isinstance(said, FAILURES[kind]), f"{name} {kind}: {said!r}")

    def crashes(self, draw: random.Random) -> None:
        """A worker that ends in the middle of a call."""
        name, kind = draw.choice(self.names), draw.choice(CRASHES)
        said = self._fail(name, kind, "isolated")
        is_right = isinstance(said, NifPanic if (name, kind) == ("julia", "stack_overflow") else WorkerCrashed)
        self.note("crashes", is_right, f"{name} {kind}: {said!r}")

    def _fail(self, name: str, kind: str, lane: str) -> Exception | None:
        fuse = self.lab.memory.empty(3, np.int64)
        fuse[:] = 1, int.from_bytes(name.encode().ljust(8, b"\0"), "little"), 0
        try:
            self.lab.call(name, "fault", kind, fuse, np.ones(8), lane=lane, retries=0, failover=False)
        except NifError as error:
            return error
        return None

    def files(self, draw: random.Random) -> None:
        """A mapped file that a worker sums up."""
        n = draw.randrange(1, 100_000)
        with tempfile.TemporaryDirectory() as folder:
            mapped = self.lab.memory.map_file(Path(folder) / "numbers", dtype="f8", shape=(n,))
            mapped.array[:] = 1
            got = getattr(self.lab.isolated, draw.choice(self.names)).sum(mapped)
            self.note("mapped files", got == n, f"sum gave {got}, not {n}")
            mapped.close()

    def forks(self, draw: random.Random) -> None:
        """A child that calls functions of its own accord."""
        name = draw.choice([it for it in self.names if it != "julia"])
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            with contextlib.suppress(BaseException):
                os._exit(getattr(self.lab.direct, name).add(40, 2) != 42)
            os._exit(2)
        _, status = os.waitpid(child, 0)
        self.note("forks", status == 0, f"{name}: the child ended with status {status}")

    def frames(self, draw: random.Random) -> None:
        """A frame with a checksum, there and back."""
        x = np.arange(float(draw.randrange(1, 20_000)))
        back = self.lab.wire.decode(self.lab.wire.encode(x, checksum=True))
        self.note("frames", bool((np.asarray(back) == x).all()), "another array came back")

    def prints(self, draw: random.Random) -> None:
        """A line of output while the others work."""
        print(f"soak: {draw.random():.6f}", file=self.output)
        self.note("printed lines", True)

    output: Any = None


def _pids() -> list[int]:
    """This process and all that it started, and they started."""
    found, at = [os.getpid()], 0
    while at < len(found):
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{found[at]}/task").iterdir():
                found += [int(it) for it in (task / "children").read_text().split()]
        at += 1
    return found


def _memory_mb(pid: int, kind: str = "Anon") -> float:
    """Resident memory of one kind: `Anon` is a process's own. Its share of a library depends on the others."""
    with contextlib.suppress(OSError, IndexError):
        text = Path(f"/proc/{pid}/status").read_text()
        return int(text.split(f"Rss{kind}:")[1].split()[0]) / 1024
    return 0.0


def count() -> dict[str, float]:
    """Count what could leak, of this process and its workers."""
    pids = _pids()
    return {
        "memory_mb": _memory_mb(os.getpid()),
        "shared_mb": _memory_mb(os.getpid(), "Shmem"),
        "workers_mb": sum(_memory_mb(it) for it in pids[1:]),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "processes": len(pids),
    }


def slope(seconds: np.ndarray, values: np.ndarray) -> float:
    """Return what a value grows in an hour: the median of the slopes between all pairs (Theil and Sen).

    A worker that happens to be replaced while we count moves no median, as it would move a mean.
    """
    if len(seconds) < 2:
        return 0.0
    first, second = np.triu_indices(len(seconds), 1)
    return float(np.median((values[second] - values[first]) / (seconds[second] - seconds[first])) * 3600)


def soak(seconds: float, seed: int, languages: list[str] | None = None) -> dict[str, Any]:
    """Run the load so long; return its figures as they are written."""
    lab = Lab(languages) if languages else Lab()
    lab.recovery.set(RecoveryPolicy(crashes=None))  # here workers end more often than any circuit bears
    load = Load(lab, seed)
    with open(os.devnull, "w") as load.output:
        threads = [load.repeat(load.calls, 0.001, number) for number in range(2)]
        pauses = {load.failures: 0.05, load.crashes: 0.5, load.files: 0.2, load.forks: 1.0, load.frames: 0.02}
        threads += [load.repeat(work, pause, 0) for work, pause in pauses.items()]
        threads.append(load.repeat(load.prints, 0.1, 0))
        start, samples = time.monotonic(), []
        try:
            while (now := time.monotonic() - start) < seconds:
                gc.collect()
                samples.append({"second": now, **count()})
                time.sleep(min(EVERY, seconds / 40))
        finally:
            load.ended.set()
            for thread in threads:
                thread.join()
    kept = [it for it in samples if it["second"] >= WARM_UP * seconds]
    at = np.array([it["second"] for it in kept])
    measures = {
        name: {
            "first": kept[0][name],
            "last": kept[-1][name],
            "per_hour": slope(at, np.array([it[name] for it in kept])),
        }
        for name in kept[0]
        if name != "second"
    }
    return {
        "seconds": seconds,
        "seed": seed,
        "languages": load.names,
        "machine": f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "date": time.strftime("%Y-%m-%d"),
        "done": dict(sorted(load.counts.items())),
        "wrong": load.wrong,
        "measures": measures,
    }


def faults_of(figures: dict[str, Any]) -> list[str]:
    """Return what isn't as it should be: wrong answers, and what grew."""
    hours = figures["seconds"] / 3600
    # In a short run a whole thread more or less, or a megabyte of heap, is a large slope and no leak.
    grown = [
        f"{name} grew by {it['per_hour']:.2f} an hour"
        for name, it in figures["measures"].items()
        if name in LIMITS and it["per_hour"] * min(hours, 1) >= LIMITS[name]
    ]
    return [*figures["wrong"], *grown]


def as_markdown(figures: dict[str, Any]) -> str:
    """Return the figures as docs/reliability.md has them."""
    done = ", ".join(f"{number:,} {what}" for what, number in figures["done"].items())
    words = {
        "memory_mb": "memory of the process, MB",
        "shared_mb": "shared memory, MB",
        "workers_mb": "memory of its workers, MB",
    }
    rows = "\n".join(
        f"| {words.get(name, name)} | {it['first']:.1f} | {it['last']:.1f} | {it['per_hour']:+.2f} |"
        for name, it in figures["measures"].items()
    )
    return (
        f"Last run: {figures['date']}, {figures['seconds'] / 60:.0f} minutes, {', '.join(figures['languages'])}; "
        f"{figures['machine']}; seed {figures['seed']}.\n\n"
        f"Done: {done}. Wrong: {len(figures['wrong'])}.\n\n"
        f"| measure | after the warm-up | at the end | growth in an hour |\n|---|---|---|---|\n{rows}\n"
    )


def write(path: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of that name."""
    before, rest = path.read_text().split(f"<!-- {name} -->\n")
    after = rest.split(f"<!-- /{name} -->")[1]
    path.write_text(f"{before}<!-- {name} -->\n{text}<!-- /{name} -->{after}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--seed", type=int, default=None, help="of the order of the work; a new one unless given")
    parser.add_argument("--languages", nargs="+", help="whose functions; all that are loaded unless given")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the figures into docs/reliability.md")
    chosen = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if chosen.seed is None else chosen.seed
    print(f"soak: {chosen.minutes:g} minutes, seed {seed}", file=sys.stderr, flush=True)
    figures = soak(60 * chosen.minutes, seed, chosen.languages)
    print(json.dumps(figures, indent=2))
    if chosen.write:
        write(chosen.write, "soak", as_markdown(figures))
    faults = faults_of(figures)
    for fault in faults:
        print(f"soak: {fault}", file=sys.stderr)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
