"""``python tests/julia_load.py``: Julia under load, at any size, in either lane.

``calls``: mixed calls from several threads, with garbage collections forced between them; each answer is checked.
``exits``: processes that use Julia in one of several ways and then end; each must end with status 0 and in time.
``start``: what a start costs in seconds and in processor time, what a call costs then, and each worker's memory.
``$NIF_LAB_JULIA`` names the Julia. The figures are printed as JSON; the status is 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from nif_lab import Lab
from nif_lab.errors import NifPanic

if TYPE_CHECKING:
    from collections.abc import Callable

    from nif_lab.arguments import Lane
    from nif_lab.lab import LoadedBackend

CELL = """
collecting(full::Bool)::Int64 = (GC.gc(full); 6)
garbage(n::Int64)::Int64 = sum(length(string(i)) for i in 1:n)
said(n::Int64)::String = string("said ", n)
spawned(n::Int64)::Int64 = fetch(Threads.@spawn n + 1)
doubled(x::Vec{Float64})::Vector{Float64} = 2 .* x
called(f::Callback{Float64,Tuple{Float64}}, x::Float64)::Float64 = (GC.gc(false); f(x))
"""

#: What is called, and how often beside the others.
KINDS = {
    "add": 9, "dot": 9, "said": 9, "doubled": 9, "called": 4, "panic": 4, "garbage": 4, "spawned": 2,
    "frame": 1, "large": 1, "gc": 1,
}  # fmt: skip

#: How a process uses Julia before it ends. Each prints 3.
WAYS = {
    "main": "print(lab.julia.add(1, 2))",
    "thread": """
import threading
thread = threading.Thread(target=lambda: print(lab.julia.add(1, 2)))
thread.start(), thread.join()""",
    "collected": """
f = lab.cell("julia", "f(x::Float64)::Float64 = (GC.gc(); x)", lane=lane).functions["f"]
print(f(3))""",
    "faulthandler": """
import faulthandler
faulthandler.enable(), faulthandler.disable()
print(lab.julia.add(1, 2))""",
    "busy": """
import threading, time
def work():
    while True: lab.julia.checksum(x)
x = np.ones(1_000_000)
for _ in range(2): threading.Thread(target=work, daemon=True).start()
time.sleep(0.05)
print(lab.julia.add(1, 2))""",
    "calling": """
import threading, time
f = lab.cell("julia", "f(g::Callback{Float64,Tuple{Float64}})::Float64 = g(1.0)", lane=lane).functions["f"]
def work():
    while True: f(lambda x: sum(range(1000)))
for _ in range(2): threading.Thread(target=work, daemon=True).start()
time.sleep(0.05)
print(lab.julia.add(1, 2))""",
    "task": """
f = lab.cell("julia", "f()::Nothing = (@async (sleep(60); println(4)); nothing)", lane=lane).functions["f"]
f()
print(lab.julia.add(1, 2))""",
    "exception": "print(lab.julia.add(1, 2))\nraise SystemExit(0)",
}

#: What ``start`` runs in a process of its own: it prints its figures as JSON.
START = """
import json, os, pathlib, time, timeit
begun = time.perf_counter()
import numpy as np, nif_lab
imported = time.perf_counter()
lab = nif_lab.Lab(["julia"], lane=lane)
answer = lab.julia.add(1, 2)
ready = time.perf_counter()
assert answer == 3
me = pathlib.Path("/proc/self")
def workers():
    pids = [pid for it in me.glob("task/*/children") for pid in it.read_text().split()]
    return [it for it in map(pathlib.Path("/proc").joinpath, pids) if (it / "comm").read_text() == "nif_worker\\n"]
def spent(process):
    return sum(map(int, (process / "stat").read_text().rsplit(") ", 1)[1].split()[11:15])) / os.sysconf("SC_CLK_TCK")
of_all = [spent(me), *map(spent, workers())]
x = np.arange(100.0)
def best(call, count=4000):
    return min(timeit.repeat(call, repeat=9, number=count)) / count * 1e6
figures = dict(
    julia=lab.julia.library.compiler, imported=imported - begun, ready=ready - imported, processor=of_all,
    add_us=best(lambda: lab.julia.add(1, 2)), dot_100_us=best(lambda: lab.julia.dot(x, x)), workers=[],
)
until, before = time.monotonic() + 120, None
while lane == "isolated" and time.monotonic() < until:  # until the spare is ready too
    now = [spent(it) for it in workers()]
    if len(now) > 1 and now == before:
        break
    before = now
    time.sleep(3)
for it in workers():
    kept = dict(line.split()[:2] for line in (it / "smaps_rollup").read_text().splitlines()[1:])
    figures["workers"].append({name: int(kept[name + ":"]) // 1024 for name in ("Rss", "Pss", "Private_Dirty")})
print(json.dumps(figures))
"""


def _one_call(
    lab: Lab, backend: LoadedBackend, cell: dict[str, Callable[..., Any]], draw: random.Random
) -> tuple[str, bool]:
    """Make one call; return its name, and whether its answer is right."""
    n = draw.randrange(1, 3000)
    kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
    if kind == "add":
        return kind, backend.add(n, 2) == n + 2
    if kind == "dot":
        x = np.full(n, 3.0)
        return kind, backend.dot(x, x) == 9.0 * n
    if kind == "said":
        return kind, cell["said"](n) == f"said {n}"
    if kind == "doubled":
        return kind, bool((cell["doubled"](np.full(n, 2.0)) == 4.0).all())
    if kind == "panic":
        try:
            backend.panic(f"boom {n}")
        except NifPanic as error:
            return kind, f"boom {n}" in str(error)
        return kind, False
    if kind == "garbage":
        return kind, cell["garbage"](n) == sum(len(str(i)) for i in range(1, n + 1))
    if kind == "spawned":
        return kind, cell["spawned"](n) == n + 1
    if kind == "called":
        return kind, cell["called"](lambda x: x * 2, n) == 2.0 * n
    if kind == "frame":  # large: such a call lets other threads run
        x = np.full(200_000, float(n))
        return kind, np.array_equal(lab.wire.decode(lab.wire.encode(x, by="julia", checksum=True), by="julia"), x)
    if kind == "large":
        x = np.full(200_000, float(n))
        return kind, backend.sum(x) == 200_000.0 * n
    return kind, cell["collecting"](draw.random() < 0.1) == 6


def calls(lab: Lab, lane: Lane, count: int, seed: int, threads: int = 8, seconds: float = 3600.0) -> dict[str, Any]:
    """Make that many calls from several threads.

    Parameters
    ----------
    lab : Lab
        With Julia.
    lane : str
        "direct" or "isolated".
    count : int
        How many calls in all.
    seed : int
        Of their order.
    threads : int
        How many threads make them.
    seconds : float
        Whoever makes no call in the minute after that counts as hanging, all others as late.
    """
    backend = getattr(lab, lane).julia
    cell = dict(lab.cell("julia", CELL, lane=lane, replace=True).functions)
    done: list[Counter[str]] = [Counter() for _ in range(threads)]
    wrong: list[str] = []
    begun = time.monotonic()

    def work(number: int) -> None:
        draw = random.Random(f"{seed} {number}")
        for _ in range(count // threads):
            try:
                kind, is_right = _one_call(lab, backend, cell, draw)
            except BaseException as error:
                kind, is_right = type(error).__name__, False
                wrong.append(f"{kind}: {error}")
            else:
                if not is_right:
                    wrong.append(kind)
            done[number][kind] += 1

    workers = [threading.Thread(target=work, args=(it,), daemon=True) for it in range(threads)]
    for it in workers:
        it.start()
    for it in workers:
        it.join(max(0.0, begun + seconds - time.monotonic()))
    before = [it.total() for it in done]
    late = [it for it in workers if it.is_alive()]
    for it in late:
        it.join(60.0 / len(late))
    total = sum(done, Counter[str]())
    return {
        "lane": lane, "julia": lab.julia.library.compiler, "calls": total.total(), "threads": threads,
        "kinds": dict(total),
        "wrong": wrong[:20], "late": len(late),
        "hanging": sum(it.is_alive() and done[n].total() == before[n] for n, it in enumerate(workers)),
        "seconds": round(time.monotonic() - begun, 1), "seed": seed,
    }  # fmt: skip


def exits(lane: Lane, count: int, seconds: float = 300.0, ways: tuple[str, ...] = tuple(WAYS)) -> dict[str, Any]:
    """Let that many processes use Julia and end, one after the other."""
    done: Counter[str] = Counter()
    wrong: list[str] = []
    begun = time.monotonic()
    for number in range(count):
        way = ways[number % len(ways)]
        code = f'import numpy as np, nif_lab\nlane = "{lane}"\nlab = nif_lab.Lab(["julia"], lane=lane)\n{WAYS[way]}\n'
        try:
            ended = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, timeout=seconds, check=False
            )
            if (ended.returncode, ended.stdout.strip()) != (0, "3.0"):
                wrong.append(f"{way}: status {ended.returncode}, {ended.stdout} {ended.stderr[-2000:]}")
        except subprocess.TimeoutExpired:
            wrong.append(f"{way}: hangs")
        done[way] += 1
    return {
        "lane": lane, "exits": count, "ways": dict(done), "wrong": wrong,
        "seconds": round(time.monotonic() - begun, 1),
    }  # fmt: skip


def starts(lane: Lane, count: int) -> dict[str, Any]:
    """Start Julia in that many processes, one after the other; memory is in MiB, times are in seconds."""
    loads = [os.getloadavg()[0]]
    made = []
    for _ in range(count):
        code = f'lane = "{lane}"\n{START}'
        ended = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
        made.append(json.loads(ended.stdout))
        loads.append(os.getloadavg()[0])
    return {
        "lane": lane, "julia": made[0]["julia"], "starts": count, "load": [round(min(loads), 1), round(max(loads), 1)],
        **{
            name: [round(pick(it[name] for it in made), 3) for pick in (min, statistics.median, max)]
            for name in ("imported", "ready", "add_us", "dot_100_us")
        },
        "processor": [round(pick(sum(it["processor"]) for it in made), 2) for pick in (min, statistics.median, max)],
        "workers": made[-1]["workers"],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("calls", "exits", "start"))
    parser.add_argument("--lane", choices=("direct", "isolated"), default="direct")
    parser.add_argument("--count", type=int, default=None, help="how many (100,000 calls, 100 exits, 5 starts)")
    parser.add_argument("--threads", type=int, default=8, help="that make calls (8)")
    parser.add_argument("--seconds", type=float, default=None, help="until it counts as hanging (3600; an exit: 300)")
    parser.add_argument("--seed", type=int, default=None, help="of the calls; a new one unless given")
    chosen = parser.parse_args()
    if chosen.what == "calls":
        seed = random.SystemRandom().randrange(2**32) if chosen.seed is None else chosen.seed
        lab = Lab(["julia"], lane=chosen.lane)
        figures = calls(lab, chosen.lane, chosen.count or 100_000, seed, chosen.threads, chosen.seconds or 3600.0)
    elif chosen.what == "start":
        figures = starts(chosen.lane, chosen.count or 5)
    else:
        figures = exits(chosen.lane, chosen.count or 100, chosen.seconds or 300.0)
    print(json.dumps(figures, indent=2), flush=True)
    return bool(figures.get("wrong") or figures.get("late"))


if __name__ == "__main__":
    sys.exit(main())
