"""``make kills``: ten thousand workers killed at random moments while they write, and what is lost by that.

A call that returns has acknowledged what it wrote, and it has to be there when somebody looks. ``--write`` puts the
figures into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from soak import write

from nif_lab import Lab, RecoveryPolicy
from nif_lab.faults.campaign import kill_writers

#: Kills of one round: between two of them the workers are counted, and the user sees how far it is.
ROUND = 200
#: Workers of Julia take seconds to start: most kills would find none.
LANGUAGES = ("rust", "zig", "nim")


def kill(kills: int, seed: int, show: Any = lambda text: None) -> dict[str, Any]:
    """Kill so many workers of three languages in turn.

    Returns
    -------
    dict
        ``kills``, ``acknowledged``, ``failed`` and ``lost`` (calls), ``left`` (processes that are there at the end and
        were not before), and how it was run.
    """
    lab = Lab(LANGUAGES, lane="isolated", policy=RecoveryPolicy(retries=1, failover=False, crashes=None))
    missing = [f"{name}: {it.reason}" for name, it in lab.backends.items() if not it.loaded]
    assert not missing, missing
    draw, count, start = random.Random(seed), Counter[str](), time.monotonic()
    while count["kills"] < kills:
        share = min(ROUND, kills - count["kills"])
        count.update(kill_writers([*lab.backends.values()], lab.memory, share, draw))
        show(f"{count['kills']:,} kills, {count['acknowledged']:,} acknowledged, {count['lost']} lost")
    return {
        **{name: count[name] for name in ("kills", "acknowledged", "failed", "lost")},
        "left": left(lab),
        "seconds": time.monotonic() - start,
        "seed": seed,
        "machine": f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "date": time.strftime("%Y-%m-%d"),
    }


def left(lab: Lab) -> int:
    """Return how many children are there that no backend counts among its workers."""
    end = time.monotonic() + 30
    while True:
        ours = {pid for it in lab.backends.values() if it.workers for pid in it.workers.pids}
        children = set(map(int, Path("/proc/thread-self/children").read_text().split()))
        for task in Path("/proc/self/task").iterdir():
            children |= set(map(int, (task / "children").read_text().split()))
        if children <= ours or time.monotonic() > end:
            return len(children - ours)
        time.sleep(0.05)


def as_markdown(figures: dict[str, Any]) -> str:
    """Return the figures as docs/reliability.md has them."""
    return (
        f"Last run: {figures['date']}, {figures['seconds'] / 60:.0f} minutes; {figures['machine']}; "
        f"seed {figures['seed']}.\n\n"
        f"| kills | writes acknowledged | lost | calls that raised | processes left behind |\n|---|---|---|---|---|\n"
        f"| {figures['kills']:,} | {figures['acknowledged']:,} | {figures['lost']} | {figures['failed']:,} "
        f"| {figures['left']} |\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10_000, help="how many (10,000)")
    parser.add_argument("--seed", type=int, default=None, help="of the moments; a new one unless given")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the figures into docs/reliability.md")
    chosen = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if chosen.seed is None else chosen.seed
    print(f"kills: {chosen.kills:,}, seed {seed}", file=sys.stderr, flush=True)
    figures = kill(chosen.kills, seed, lambda text: print(f"kills: {text}", file=sys.stderr, flush=True))
    print(json.dumps(figures, indent=2))
    if chosen.write:
        write(chosen.write, "kills", as_markdown(figures))
    return bool(figures["lost"] or figures["left"])


if __name__ == "__main__":
    sys.exit(main())
