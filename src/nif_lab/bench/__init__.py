"""``nif-lab bench``: how fast, compared with what, on which machine; and ``nif-lab faults``.

Every comparison is made within one run, its contenders interleaved; a figure is a median over rounds and stands beside
its spread.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from .. import backends as languages
from ..arguments import Lane, one_of

__all__ = ["SUITES", "add_arguments", "add_fault_arguments", "run", "run_faults"]

#: The suites, and how many rounds (or quartets) each has unless told.
SUITES: Final = {
    "arrays": 60,
    "cells": 9,
    "dispatch": 100,
    "lane": 30,
    "memory": 20,
    "monitoring": 300,
    "recovery": 1,
    "scale": 5,
    "transfer": 4,
    "wire": 20,
}


#: Where ``nif-lab faults`` makes calls fail.
LANES: Final[tuple[Lane, ...]] = ("isolated", "direct")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments, all but ``--json``, which every command has."""
    parser.add_argument("suite", nargs="?", choices=tuple(SUITES), help="one of them; all unless given")
    parser.add_argument(
        "--rounds",
        type=_positive,
        metavar="N",
        help="of arrays (60), cells (9), dispatch (100), lane (30), memory and wire (20), transfer (4), recovery (1), "
        "scale (5), quartets of monitoring (300)",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="of all that is drawn at random; drawn itself and printed unless given"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this Markdown file too")


def run(arguments: argparse.Namespace) -> int:
    """Measure cells, calls, here and in another process, arrays, monitoring, recovery and frames."""
    from . import report

    seed = secrets.randbelow(1 << 31) if arguments.seed is None else arguments.seed
    suites = [arguments.suite] if arguments.suite else list(SUITES)
    results = {}
    for suite in suites:
        rounds = arguments.rounds or SUITES[suite]
        if not arguments.json:
            print(f"bench {suite}: {rounds} rounds, seed {seed}", file=sys.stderr, flush=True)
        results[suite] = run_suite(suite, rounds, seed)
        if arguments.write:
            report.write(arguments.write, suite, results[suite])
    if arguments.json:
        print(json.dumps(results[arguments.suite] if arguments.suite else results))
    else:
        print("\n\n".join(report.as_text(suite, result) for suite, result in results.items()))
    return 0


def run_suite(suite: str, rounds: int, seed: int) -> dict[str, Any]:
    """Run one suite with a Lab of its own."""
    from ..lab import Lab
    from ..progress import Progress
    from . import (
        arrays,
        callbacks,
        cells,
        dashboard,
        dispatch,
        lane,
        machine,
        memory,
        monitoring,
        recovery,
        scale,
        transfer,
        wire,
    )

    if suite == "arrays":
        result = arrays.compare(Lab(["rust"], lane="direct"), rounds, seed)
    elif suite == "cells":
        result = cells.compare(rounds, seed)
    elif suite == "dispatch":
        lab = Lab(lane="direct")
        result = dispatch.compare(lab, rounds, seed) | {"callbacks": callbacks.compare(lab, rounds, seed)}
    elif suite == "lane":
        result = lane.compare(rounds, seed)
    elif suite == "memory":
        result = memory.compare(Lab([]).memory.empty, rounds, seed) | memory.overhead(seed)
    elif suite == "recovery":
        with Progress() as show:
            result = recovery.compare(rounds, seed, show)
    elif suite == "scale":
        result = scale.compare(rounds, seed)
    elif suite == "transfer":
        with Progress() as show:
            result = transfer.compare(rounds, seed, show)
    elif suite == "wire":
        result = wire.compare(Lab(lane="direct"), rounds, seed)
    else:
        lab = Lab(["rust"])
        # `sum` reads one vector, so its time can be set to anything by the length.
        result = monitoring.measure(lab.rust.sum, lab.telemetry, rounds, seed)
        result |= monitoring.records(lab.telemetry.recorder("event"), rounds, seed)
        shown = dashboard.measure(max(1, rounds // 10), seed)
        result |= {**shown, "unavailable": result["unavailable"] | shown["unavailable"]}
    return {**result, "machine": machine.describe(), "rounds": rounds, "seed": seed}


def add_fault_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``nif-lab faults``, all but ``--json``."""
    parser.add_argument("-n", type=_positive, default=1, metavar="N", help="how often each fault is made (1)")
    parser.add_argument("--seed", type=int, metavar="N", help="as of bench")
    parser.add_argument("--backends", type=_languages, metavar="A,B", help="all unless given")
    parser.add_argument("--kinds", type=_kinds, metavar="A,B", help="all unless given")
    parser.add_argument(
        "--lane",
        choices=(*LANES, "both"),
        default="isolated",
        help="direct takes a process for each fault that ends it (isolated)",
    )


def run_faults(arguments: argparse.Namespace) -> int:
    """Run the campaign of faults; show what became of every call."""
    from ..arguments import FAULT_KINDS
    from ..progress import Progress
    from . import campaign, machine, report, verdict

    seed = secrets.randbelow(1 << 31) if arguments.seed is None else arguments.seed
    names = arguments.backends or languages.names()
    if not arguments.json:
        print(f"faults: {arguments.n} times each, seed {seed}", file=sys.stderr, flush=True)
    lanes = LANES if arguments.lane == "both" else (one_of("lane", arguments.lane, LANES),)
    with Progress() as show:
        result = campaign.run(names, arguments.n, seed, lanes=lanes, kinds=arguments.kinds or FAULT_KINDS, show=show)
    ok = verdict.is_as_promised(result)
    result = {"ok": ok, **result, "machine": machine.describe(), "rounds": arguments.n, "seed": seed}
    print(json.dumps(result) if arguments.json else report.as_text("faults", result))
    return 0 if ok else 1


def _languages(text: str) -> list[str]:
    return _some(text, languages.names())


def _kinds(text: str) -> list[str]:
    from ..arguments import FAULT_KINDS

    return _some(text, FAULT_KINDS)


def _some(text: str, known: Sequence[str]) -> list[str]:
    names = text.split(",")
    if unknown := [it for it in names if it not in known]:
        raise argparse.ArgumentTypeError(f"no '{unknown[0]}'; there are {', '.join(known)}")
    return names


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number
