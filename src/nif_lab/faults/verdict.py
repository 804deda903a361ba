"""What the campaign's trials amount to: sums, times, goals, and all of it as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..arguments import CONTAINED_KINDS, FAULT_KINDS

__all__ = ["Trial", "amount", "is_as_promised", "percentiles", "sums", "tables"]

HANGS: Final = ("infinite_loop", "stop", "gpu_endless")
OUTCOMES: Final = ("recovered", "contained", "lost", "host dead")
ANSWERS: Final = ("first try", "retry", "failover")


@dataclass(frozen=True, slots=True)
class Trial:
    """One call that was made to fail.

    Attributes
    ----------
    lane, backend, kind : str
        Where, who, how.
    times : str
        ``"once"`` or ``"always"``: how often the function fails in this language.
    outcome : str
        One of `OUTCOMES`.
    by : str
        One of `ANSWERS`; empty without an answer.
    seconds : float
        From the call to its answer or error.
    ended : bool
        Whether the worker was another one afterwards.
    """

    lane: str
    backend: str
    kind: str
    times: str
    outcome: str
    by: str = ""
    seconds: float = 0.0
    ended: bool = False


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return ``p50``, ``p99`` and ``max`` in milliseconds, and the ``count``."""
    p50, p99, most = (float(it) for it in np.percentile(np.array(seconds) * 1e3, (50, 99, 100)))
    return {"p50": p50, "p99": p99, "max": most, "count": len(seconds)}


def amount(trials: Sequence[Trial], rest: dict[str, Any], timeout_s: float, has_others: bool) -> dict[str, Any]:
    """Return ``table``, ``sums``, ``crash_ms``, ``over_ms`` and ``goals``.

    Parameters
    ----------
    trials
        All of them.
    rest
        What else the campaign found.
    timeout_s
        Seconds that a hang takes at least.
    has_others
        Whether a language that fails always has another to stand in for it.
    """
    ended = [it for it in trials if it.ended and it.times == "once"]
    result = {
        "table": _table(trials),
        "sums": _sums(trials),
        "crash_ms": _by_language([it for it in ended if it.kind not in (*HANGS, *CONTAINED_KINDS)], 0.0),
        "over_ms": _by_language([it for it in ended if it.kind in HANGS], timeout_s),
    }
    return {**result, "goals": _goals({**rest, **result}, has_others)}


def _by_language(trials: Sequence[Trial], less: float) -> dict[str, dict[str, float]]:
    names = dict.fromkeys(it.backend for it in trials)
    seconds = {name: [it.seconds - less for it in trials if it.backend == name] for name in names}
    if len(seconds) > 1:
        seconds["all"] = [it.seconds - less for it in trials]
    return {name: percentiles(it) for name, it in seconds.items()}


def _table(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    counts = Counter((it.lane, it.times, it.kind, it.backend, it.outcome) for it in trials)
    keys = "lane", "times", "kind", "backend", "outcome", "count"
    return [dict(zip(keys, (*key, count), strict=True)) for key, count in counts.items()]


def _sums(trials: Sequence[Trial]) -> dict[str, dict[str, int]]:
    sums = {}
    for key in ((lane, times) for lane in ("isolated", "direct") for times in ("once", "always")):
        mine = [it for it in trials if (it.lane, it.times) == key]
        outcomes, answers = Counter(it.outcome for it in mine), Counter(it.by for it in mine)
        counts = {it: outcomes[it] for it in OUTCOMES} | {it: answers[it] for it in ANSWERS}
        if mine:
            sums[" ".join(key)] = {"trials": len(mine), **counts}
    return sums


def _goals(result: dict[str, Any], has_others: bool) -> list[dict[str, Any]]:
    """Return what was to be reached and what was; times say something about the machine, too."""
    goals: list[dict[str, Any]] = []

    def note(
        what: str, value: float, bound: float, unit: str = "", *, least: bool = False, timed: bool = False
    ) -> None:
        met = value >= bound if least else value <= bound
        text = f"{'at least' if least else 'at most'} {bound:g} {unit}" if bound else "0"
        goals.append({"what": what, "value": value, "unit": unit, "goal": text, "met": met, "timed": timed})

    for often in ("once", "always") if has_others else ("once",):
        if row := result["sums"].get(f"isolated {often}"):
            share = 100 * row["recovered"] / row["trials"]
            note(f"isolated lane, fails {often}: recovered", share, 99.9, "%", least=True)
    if "innocent" not in result:
        return goals
    outlived = sum(row["trials"] for key, row in result["sums"].items() if key.startswith("isolated"))
    note("isolated lane: this process outlived", 100 * outlived / result["planned"], 100, "%", least=True)
    innocent, killed = result["innocent"], result["kill9"]
    note(f"{innocent['calls']:,} innocent calls: lost or wrong", innocent["lost"] + innocent["wrong"], 0)
    for key, of, most, what in (
        ("crash_ms", "p50", 10, "crash to answer"),
        ("crash_ms", "p99", 50, "crash to answer"),
        ("over_ms", "max", 100, "hang, beyond the timeout"),
    ):
        for name, times in result[key].items():
            if name != "all":
                note(f"{what}, {of}: {name}", times[of], most, "ms", timed=True)
    note(f"{killed['kills']:,} kill -9, {killed['acknowledged']:,} writes acknowledged: lost", killed["lost"], 0)
    note("left behind: processes, descriptors, memfds", sum(result["leftovers"].values()), 0)
    return goals


def is_as_promised(result: dict[str, Any]) -> bool:
    """Whether every language took part and every goal is met but those of time, which a busy machine misses."""
    return not result["unavailable"] and all(it["met"] for it in result["goals"] if not it["timed"])


def tables(result: dict[str, Any]) -> list[tuple[str, list[Sequence[str]]]]:
    """Return the campaign as tables of text: kinds by languages, sums, times, goals."""
    shown: list[tuple[str, list[Sequence[str]]]] = []
    for key in result["sums"]:
        lane, times = key.split()
        mine = [it for it in result["table"] if (it["lane"], it["times"]) == (lane, times)]
        names = list(dict.fromkeys(it["backend"] for it in mine))
        rows: list[Sequence[str]] = [("", *names)]
        for kind in (it for it in FAULT_KINDS if any(row["kind"] == it for row in mine)):
            cells = [[it for it in mine if (it["kind"], it["backend"]) == (kind, name)] for name in names]
            rows.append((kind, *(", ".join(f"{it['count']} {it['outcome']}" for it in cell) for cell in cells)))
        shown.append((f"{lane} lane, the function fails {times}", rows))
    return [*shown, *sums(result)]


def sums(result: dict[str, Any]) -> list[tuple[str, list[Sequence[str]]]]:
    """Return the campaign's sums as tables of text."""
    rows: list[Sequence[str]] = [("", "calls", *OUTCOMES, *ANSWERS)]
    rows += [(key, *(f"{it:,}" for it in row.values())) for key, row in result["sums"].items()]
    shown = [("what became of them, and by what", rows)]
    times: list[Sequence[str]] = [("", "p50, ms", "p99, ms", "max, ms", "times")]
    for key, what in (
        ("crash_ms", "crash to answer"),
        ("over_ms", "hang, beyond the timeout"),
        ("cold_ms", "no spare"),
    ):
        for name, it in result.get(key, {}).items():
            times.append((f"{what}: {name}", *(f"{it[of]:.1f}" for of in ("p50", "p99", "max")), str(it["count"])))
    goals: list[Sequence[str]] = [("", "value", "goal", "met")]
    for it in result["goals"]:
        value = f"{it['value']:.5g} {it['unit']}".strip()
        goals.append((it["what"], value, it["goal"], "yes" if it["met"] else "NO"))
    return [*shown, ("how long it took", times), ("goals", goals)]
