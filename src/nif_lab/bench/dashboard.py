"""What a dashboard that somebody looks at costs a busy kernel: of ``nif-lab bench monitoring``.

A real kernel under a real Jupyter server runs a cell again and again, in quartets as `monitoring` has them: with nobody
looking and with a page that takes ten updates a second. The work is timed inside the kernel, by the processor's time of
its main thread and by the clock on the wall; what its other threads used is the kernel's own share.
"""

from __future__ import annotations

import importlib
import json
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import Any, Final

import numpy as np

from .jupyter import Kernel, Server, Update
from .monitoring import interval

__all__ = ["CELLS", "PATHS", "measure"]

#: What the cells do all the time.
CELLS: Final = {
    "Python": "for i in range(200): total += i * i\nlab.rust.dot(x, x)",
    "NumPy": "np.sqrt(large, out=other)\nlab.rust.dot(x, x)",
}
#: How a page gets its updates: nobody looks (the control), past the kernel, the same with pictures, from the kernel.
PATHS: Final = ("nobody", "extension", "extension and picture", "comm")
LEG_SECONDS: Final = 0.25

_PREPARE: Final = """
import json, time, nif_lab, numpy as np
from nif_lab.panels.live import LiveView
lab, x = nif_lab.Lab(["rust"]), np.ones(100)
large, other, total = np.ones(100_000), np.ones(100_000), 0
view = LiveView(lab.telemetry.segment, "performance", path="comm")
def leg(work, count):
    clocks = time.perf_counter, time.thread_time, time.process_time
    before = [clock() for clock in clocks]
    exec(work, {**globals(), "turns": range(count)})
    return [clock() - start for clock, start in zip(clocks, before)]
print(view.comm.comm_id)
"""


class _Page(threading.Thread):
    """Reads what comes, as a page does, and counts it."""

    def __init__(self, client: Any) -> None:
        super().__init__(daemon=True)
        self.client, self.updates, self.pictures = client, 0, 0
        self.start()

    def run(self) -> None:
        with suppress(OSError, importlib.import_module("websocket").WebSocketException):  # until it is closed
            while message := self.client.recv():
                kind = Update(message).head["kind"]
                self.pictures += kind == "picture"
                self.updates += kind == "update"

    def close(self) -> None:
        self.client.shutdown()
        self.join()

    def ask(self, **what: Any) -> None:
        self.client.send(json.dumps(what))


class _Bench:
    """A kernel, a page, and one leg after the other."""

    def __init__(self, kernel: Kernel, leg_seconds: float) -> None:
        self.kernel, self.seconds = kernel, leg_seconds
        self.comm = kernel.run(_PREPARE).split()[-1]
        self.page = _Page(kernel.server.live(kernel))
        self.looks = dict.fromkeys(PATHS, False)
        self.page.ask(visible=False)

    def look(self, path: str, on: bool) -> None:
        """Begin or end to look, and wait until that is so."""
        if path == "comm":
            self.kernel.tell(self.comm, {"ask": "updates"} if on else {"visible": False})
        elif path != "nobody" and on != self.looks[path]:
            picture = {"theme": "light", "width": 900, "scale": 1} if on and path != "extension" else None
            seen = self.page.pictures
            self.page.ask(visible=on, picture=picture)
            end = time.monotonic() + 20
            while picture and self.page.pictures == seen and time.monotonic() < end:
                time.sleep(0.02)
        self.looks[path] = on
        time.sleep(0.1)
        self.kernel.run("")  # read what came of the kernel before the leg

    def leg(self, cell: str, count: int) -> np.ndarray:
        """Return the seconds of a leg: on the wall, of the main thread, of the kernel."""
        work = "for turn in turns:\n" + "".join(f"    {line}\n" for line in CELLS[cell].splitlines())
        return np.array(json.loads(self.kernel.run(f"print(json.dumps(leg({work!r}, {count})))")))

    def aim(self, cell: str) -> int:
        """Return the number of turns that takes about a leg's time."""
        count = 16
        while (taken := self.leg(cell, count)[1]) < self.seconds / 4:
            count *= 2
        return max(1, round(count * self.seconds / float(taken)))

    def compare(self, cell: str, path: str, quartets: int, random: np.random.Generator) -> dict[str, Any]:
        """Compare legs that somebody looks at with legs that nobody does."""
        count, percent, others, rates = self.aim(cell), [], [], []
        for i in range(quartets):
            legs = []
            for on in (True, False, False, True) if i % 2 == 0 else (False, True, True, False):
                self.look(path, on)
                came = self.kernel if path == "comm" else self.page
                before = came.updates
                legs.append((on, taken := self.leg(cell, count)))
                if on:
                    rates.append((came.updates - before) / taken[0])
            with_, without = (np.mean([it for on, it in legs if on is which], axis=0) for which in (True, False))
            percent.append(100 * (with_[:2] / without[:2] - 1))
            others.append(100 * (with_[2] - with_[1]) / with_[0] - 100 * (without[2] - without[1]) / without[0])
        self.look(path, False)
        wall, own = np.array(percent).T
        low, middle, high = interval(own, random)
        return {
            "percent": middle, "low": low, "high": high,
            "wall": list(interval(wall, random)),
            "kernel_percent": float(np.median(others)),
            "updates_per_s": float(np.mean(rates)),
            "leg_ms": 1e3 * self.seconds,
        }  # fmt: skip


def measure(
    quartets: int, seed: int, leg_seconds: float = LEG_SECONDS, cells: Sequence[str] = tuple(CELLS)
) -> dict[str, Any]:
    """Compare a busy cell that somebody looks at with one that nobody does.

    Parameters
    ----------
    quartets
        How many for each cell and path.
    seed
        Of the bootstrap.
    leg_seconds
        Processor time of one leg.
    cells
        Which of `CELLS`.

    Returns
    -------
    dict
        ``dashboard``: for each of `CELLS` and of `PATHS` the slow-down in ``percent`` of the main thread's processor
        time between the ends of its 95 % confidence interval ``low`` and ``high``, the same on the ``wall`` (low,
        percent, high), the share of a processor that the kernel's other threads took more, ``kernel_percent``, and
        ``updates_per_s`` that arrived. ``unavailable``: what is missing, if there is no server to run.
    """
    try:
        for name in ("websocket", "jupyter_server", "ipykernel"):
            importlib.import_module(name)
    except ImportError as error:
        return {"dashboard": {}, "unavailable": {"jupyter_server": f"{error}; pip install nif_lab[lab]"}}
    random = np.random.default_rng(seed)
    with Server() as server, closing(Kernel(server)) as kernel:
        bench = _Bench(kernel, leg_seconds)
        with closing(bench.page):
            table = {cell: {path: bench.compare(cell, path, quartets, random) for path in PATHS} for cell in cells}
    return {"dashboard": table, "unavailable": {}}
