"""``nif-lab bench recovery``: what becomes of calls that fail, and of tasks in other pools of processes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .. import backends
from ..faults import campaign, verdict
from ..lab import Lab
from ..programs import python
from .rivals import BESIDE, RIVALS, Episode

if TYPE_CHECKING:
    from ..lab import LoadedBackend

__all__ = ["compare", "foreign", "pool_table", "row", "tables"]

#: Crashes of each contender in a round, and workers that are killed while they write.
EPISODES: Final = 10
KILLS: Final = 1000
CHILD: Final = "import sys; from nif_lab.bench import rivals; rivals.measure(*sys.argv[1:])"


def compare(rounds: int, seed: int, show: Callable[[str], object] = lambda _: None) -> dict[str, Any]:
    """Run the campaign, and the same crash in other pools.

    Parameters
    ----------
    rounds
        How often each fault is made; each contender crashes ten times as often.
    seed
        Of all that is drawn at random.
    show
        Told what is being done, now and then.

    Returns
    -------
    dict
        As `campaign.run`, and ``pools``: for each contender ``title``, ``crashes``, the shares in percent
        ``recovered`` and ``answered`` (by hand if need be), ``ms`` from crash to answer and ``lost`` of the
        ``beside``.
    """
    result = campaign.run(backends.names(), rounds, seed, kills=KILLS * rounds, show=show)
    rng = random.Random(seed)  # noqa: S311
    episodes: dict[str, list[Episode]] = {}
    titles = {"nif_lab": "nif_lab"} | {name: pool.title for name, pool in RIVALS.items()}
    for _ in range(rounds):
        for name in rng.sample([*titles], len(titles)):
            show(f"crashes in {titles[name]}")
            if name == "nif_lab":
                _own(episodes, titles, rng)
            elif isinstance(found := foreign(name), str):
                result["unavailable"][name] = found
            else:
                episodes.setdefault(name, []).extend(found)
    return {**result, "pools": {name: {"title": titles[name], **row(it)} for name, it in episodes.items()}}


def foreign(name: str, crashes: int = 0) -> list[Episode] | str:
    """Have a pool crash in a process of its own, or say why it can't; pools leave servers behind, which end here.

    ``crashes``: `EPISODES` unless given.
    """
    with tempfile.TemporaryDirectory(prefix="nif_lab") as folder:
        said = Path(folder, "said")
        with said.open("wb") as output:
            command = python("-c", CHILD, name, folder, str(crashes or EPISODES))
            child = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
            try:
                status = child.wait()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
        if status != 0:
            return f"its process ended with status {status}: {said.read_text(errors='replace')[-500:]}"
        found = json.loads(Path(folder, "result.json").read_text())
        return found if isinstance(found, str) else [Episode(**it) for it in found]


def _own(episodes: dict[str, list[Episode]], titles: dict[str, str], rng: random.Random) -> None:
    lab = Lab(lane="isolated", policy=campaign.INNOCENT)
    loaded = [it for it in lab.backends.values() if it.loaded]
    for it in rng.sample(loaded * EPISODES, len(loaded) * EPISODES):
        titles[it.name] = f"nif_lab, {it.title}"
        episodes.setdefault(it.name, []).append(_crash(lab, it, rng.getrandbits(31)))


def _crash(lab: Lab, loaded: LoadedBackend, seed: int) -> Episode:
    campaign.warm(loaded)
    beside = [campaign.Neighbour(loaded, lab.memory, seed + i, campaign.PAUSE) for i in range(BESIDE)]
    with ExitStack() as stack:
        for it in beside:
            stack.enter_context(it)
        report = lab.faults.inject(loaded.name, "null_store", policy=campaign.POLICY, seed=seed)
    recovered = report.outcome == "recovered"
    return Episode(recovered, recovered, report.seconds, sum(it.lost + it.wrong > 0 for it in beside))


def row(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Return what became of some crashes."""
    count = len(episodes)
    return {
        "crashes": count,
        "recovered": 100 * sum(it.recovered for it in episodes) / count,
        "answered": 100 * sum(it.answered for it in episodes) / count,
        "ms": verdict.percentiles([it.seconds for it in episodes]),
        "lost": sum(it.lost for it in episodes),
        "beside": BESIDE * count,
    }


def tables(result: dict[str, Any]) -> list[tuple[str, list[Sequence[str]]]]:
    """Return the contenders and the campaign's sums as tables of text."""
    return [*verdict.sums(result), pool_table(result["pools"])]


def pool_table(pools: dict[str, Any]) -> tuple[str, list[Sequence[str]]]:
    """Return the contenders, the best first."""
    rows: list[Sequence[str]] = [
        ("", "crashes", "recovered", "with a retry by hand", "p50, ms", "p99, ms", "lost beside it")
    ]
    for it in sorted(pools.values(), key=lambda it: (-it["recovered"], it["ms"]["p50"])):
        rows.append((
            it["title"],
            str(it["crashes"]),
            f"{it['recovered']:.4g} %",
            f"{it['answered']:.4g} %",
            f"{it['ms']['p50']:,.1f}",
            f"{it['ms']['p99']:,.1f}",
            f"{it['lost']} of {it['beside']}",
        ))  # fmt: skip
    return "one task crashes once, four others beside it", rows
