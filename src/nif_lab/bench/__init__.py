"""``nif-lab bench``: how fast, compared with what, on which machine. It isn't part of the wheel.

Every comparison is made within one run, its contenders interleaved; a figure is a median over rounds and stands beside
its spread.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from pathlib import Path
from typing import Any, Final

from ..faults.command import positive

__all__ = ["SUITES", "add_arguments", "run"]

#: The suites, and how many rounds (or quartets) each has unless told.
SUITES: Final = {
    "arrays": 60,
    "cells": 9,
    "dispatch": 100,
    "gpu": 15,
    "lane": 30,
    "memory": 20,
    "monitoring": 300,
    "recovery": 1,
    "scale": 5,
    "transfer": 4,
    "wire": 20,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments, all but ``--json``, which every command has."""
    parser.add_argument("suite", nargs="?", choices=tuple(SUITES), help="one of them; all unless given")
    parser.add_argument(
        "--rounds",
        type=positive,
        metavar="N",
        help="of arrays (60), cells (9), dispatch (100), gpu (15), lane (30), memory and wire (20), transfer (4), "
        "recovery (1), scale (5), quartets of monitoring (300)",
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
        if suite == "gpu" and arguments.suite is None and (reason := _no_device()):
            print(f"bench gpu: left out: {reason}", file=sys.stderr)
            continue
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
    from .. import machine
    from ..lab import Lab
    from ..progress import Progress
    from . import (
        arrays,
        callbacks,
        cells,
        dashboard,
        dispatch,
        gpu,
        lane,
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
    elif suite == "gpu":
        result = gpu.compare(rounds, seed)
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


def _no_device() -> str:
    from ..gpu import describe

    return str(describe()["reason"])
