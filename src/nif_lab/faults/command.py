"""``nif-lab faults``: run the campaign, and show what became of every call."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Sequence
from typing import Final

from .. import backends as languages
from ..arguments import FAULT_KINDS, Lane, one_of

__all__ = ["add_arguments", "positive", "run"]

#: Where calls are made to fail.
LANES: Final[tuple[Lane, ...]] = ("isolated", "direct")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments, all but ``--json``, which every command has."""
    parser.add_argument("-n", type=positive, default=1, metavar="N", help="how often each fault is made (1)")
    parser.add_argument("--seed", type=int, metavar="N", help="of all that is drawn at random; printed unless given")
    parser.add_argument("--backends", type=_languages, metavar="A,B", help="all unless given")
    parser.add_argument("--kinds", type=_kinds, metavar="A,B", help="all unless given")
    parser.add_argument(
        "--lane",
        choices=(*LANES, "both"),
        default="isolated",
        help="direct takes a process for each fault that ends it (isolated)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the campaign of faults; return 0 if every call ended as docs/campaign.md promises."""
    from .. import machine, text
    from ..progress import Progress
    from . import campaign, verdict

    seed = secrets.randbelow(1 << 31) if arguments.seed is None else arguments.seed
    names = arguments.backends or languages.names()
    if not arguments.json:
        print(f"faults: {arguments.n} times each, seed {seed}", file=sys.stderr, flush=True)
    lanes = LANES if arguments.lane == "both" else (one_of("lane", arguments.lane, LANES),)
    with Progress() as show:
        result = campaign.run(names, arguments.n, seed, lanes=lanes, kinds=arguments.kinds, show=show)
    ok = verdict.is_as_promised(result)
    result = {"ok": ok, **result, "machine": machine.describe(), "rounds": arguments.n, "seed": seed}
    print(json.dumps(result) if arguments.json else text.tables_text(verdict.tables(result), machine.notes(result)))
    return 0 if ok else 1


def _languages(text: str) -> list[str]:
    return _some(text, languages.names())


def _kinds(text: str) -> list[str]:
    return _some(text, FAULT_KINDS)


def _some(text: str, known: Sequence[str]) -> list[str]:
    names = text.split(",")
    if unknown := [it for it in names if it not in known]:
        raise argparse.ArgumentTypeError(f"no '{unknown[0]}'; there are {', '.join(known)}")
    return names


def positive(text: str) -> int:
    """Return a number of 1 or more that was given on the command line."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number
