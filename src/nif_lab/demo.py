"""``nif-lab demo``: the main job on real data, without a browser.

Four languages smooth and shade the same mountains, hand them to each other, and have to agree. The elevation model is
the one that matplotlib ships for its own examples.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .text import format_ns

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .lab import Lab
    from .telemetry import Snapshot
    from .transfer import TransferMatrix

__all__ = ["Elevation", "Outcome", "format_text", "load_elevation", "run", "study"]

SOURCE: Final = "jacksboro_fault_dem.npz"
METRES_PER_DEGREE: Final = 111_200.0
AZIMUTH: Final = 315.0
ALTITUDE: Final = 45.0
PASSES: Final = 4
RUNS: Final = 15
#: All languages use the same formula; what is left are roundings of the last digits.
TOLERANCE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Elevation:
    """A height field: ``z`` in metres as float64 (rows from north to south), spacings ``dx`` and ``dy`` in metres."""

    z: np.ndarray
    dx: float
    dy: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the study found; times are in nanoseconds, a tuple of one for each run."""

    elevation: Elevation
    backends: dict[str, dict[str, Any]]
    shades: dict[str, np.ndarray]
    hillshade_ns: dict[str, tuple[float, ...]]
    smooth_ns: dict[str, tuple[float, ...]]
    max_difference: float
    transfers: TransferMatrix
    snapshot: Snapshot


def load_elevation() -> Elevation:
    """Load the elevation model of the Jacksboro fault, Tennessee, that matplotlib ships."""
    from matplotlib.cbook import get_sample_data

    with np.load(str(get_sample_data(SOURCE, asfileobj=False))) as dem:
        z = np.ascontiguousarray(dem["elevation"], dtype=np.float64)
        dx = METRES_PER_DEGREE * float(dem["dx"]) * np.cos(np.radians(float(dem["ymin"])))
        return Elevation(z, float(dx), METRES_PER_DEGREE * float(dem["dy"]))


def study(lab: Lab) -> Outcome:
    """Do the work in every language that is loaded.

    The runs of the languages alternate, so that all meet the same machine; a first one, in which Julia compiles, isn't
    timed.
    """
    elevation = load_elevation()
    z = lab.memory.empty(elevation.z.shape)  # where every language sees it, in whichever lane
    z[:] = elevation.z
    loaded = {name: it for name, it in lab.backends.items() if it.loaded}
    smooth_ns: dict[str, list[float]] = {name: [] for name in loaded}
    hillshade_ns: dict[str, list[float]] = {name: [] for name in loaded}
    shades: dict[str, np.ndarray] = {}
    for backend in loaded.values():
        backend.hillshade(backend.smooth(z, PASSES), elevation.dx, elevation.dy, AZIMUTH, ALTITUDE)
    lab.transfer_matrix(z)
    for _ in range(RUNS):
        for name, backend in loaded.items():
            start = time.perf_counter_ns()
            smooth = backend.smooth(z, PASSES)
            smoothed = time.perf_counter_ns()
            shades[name] = backend.hillshade(smooth, elevation.dx, elevation.dy, AZIMUTH, ALTITUDE)
            done = time.perf_counter_ns()
            smooth_ns[name].append(float(smoothed - start))
            hillshade_ns[name].append(float(done - smoothed))
    pictures = list(shades.values())
    differences = [np.abs(it - pictures[0]).max() for it in pictures]
    return Outcome(
        elevation=elevation,
        backends={name: _describe(it) for name, it in lab.backends.items()},
        shades=shades,
        hillshade_ns={name: tuple(it) for name, it in hillshade_ns.items()},
        smooth_ns={name: tuple(it) for name, it in smooth_ns.items()},
        max_difference=float(np.max(differences, initial=0.0)),  # np.max keeps a NaN, max() may not
        transfers=lab.transfer_matrix(z),
        snapshot=lab.snapshot(),
    )


def _describe(backend: Any) -> dict[str, Any]:
    if backend.library is None:
        return {"loaded": False, "reason": backend.reason, "cure": backend.cure}
    return {"loaded": True, "lane": backend.lane, "compiler": backend.library.compiler}


def _times(runs: Mapping[str, tuple[float, ...]]) -> dict[str, dict[str, float]]:
    return {
        name: {"median_us": median(it) / 1e3, "min_us": min(it) / 1e3, "max_us": max(it) / 1e3, "runs": len(it)}
        for name, it in runs.items()
    }


def run(lab: Lab, report: Path | None = None) -> dict[str, Any]:
    """Do the demo; write an HTML report if asked; return everything as plain values.

    Parameters
    ----------
    lab
        Its loaded backends take part.
    report
        Where the report goes.
    """
    found = study(lab)
    if report is not None:
        from . import demo_report

        report.write_text(demo_report.html(found), encoding="utf-8")
    rows, columns = found.elevation.z.shape
    return {
        "dem": {"source": SOURCE, "shape": [rows, columns], "dx_m": found.elevation.dx, "dy_m": found.elevation.dy},
        "backends": found.backends,
        "smooth": _times(found.smooth_ns),
        "hillshade": _times(found.hillshade_ns),
        "max_difference": found.max_difference,
        "equal": found.max_difference <= TOLERANCE,
        "transfers": [
            {
                "source": it.source,
                "target": it.target,
                "bytes": it.bytes,
                "us": it.ns / 1e3,
                "gb_per_s": it.gb_per_s,
                "copied": it.copied,
                "verified": it.verified,
            }
            for it in found.transfers
        ],
        "zero_copy": found.transfers.zero_copy,
        "calls": [
            {
                "backend": name,
                "calls": it.calls,
                "mean_ns": it.mean_ns,
                "errors": it.errors,
                "error_rate": it.error_rate,
            }
            for name in found.backends
            for it in [found.snapshot.backend(name)]
        ],
        "report": str(report) if report is not None else None,
    }


def _spread(times: Mapping[str, float]) -> str:
    low, high = format_ns(times["min_us"] * 1e3), format_ns(times["max_us"] * 1e3)
    return f"{format_ns(times['median_us'] * 1e3):>9}   ({low} to {high}, {times['runs']} runs)"


def format_text(result: Mapping[str, Any]) -> str:
    """Return a demo's result as people read it in a terminal."""
    rows, columns = result["dem"]["shape"]
    lines = [f"{rows} x {columns} heights of the Jacksboro fault, {result['dem']['source']} of matplotlib", ""]
    for name, it in result["backends"].items():
        state = it["compiler"] if it["loaded"] else f"not loaded: {it['reason']}. To fix: {it['cure']}"
        lines.append(f"  {name:<6} {state}")
    for title, key in ((f"smooth, {PASSES} passes", "smooth"), ("hillshade", "hillshade")):
        lines += ["", f"{title}: median time"]
        lines += [f"  {name:<6} {_spread(it)}" for name, it in result[key].items()]
    verdict = "equal" if result["equal"] else "NOT EQUAL"
    lines += ["", f"the pictures are {verdict}: they differ by {result['max_difference']:.1e} at most", "", "transfers"]
    for it in result["transfers"]:
        how, check = "copied" if it["copied"] else "no copy", "verified" if it["verified"] else "NOT VERIFIED"
        pair, duration = f"{it['source']} -> {it['target']}", format_ns(it["us"] * 1e3)
        lines.append(f"  {pair:<15} {it['bytes']:,} bytes  {duration:>8}  {it['gb_per_s']:5.1f} GB/s  {how}, {check}")
    lines += ["", f"  {'':<6} {'calls':>6} {'mean':>9} {'errors':>7} {'error rate':>11}"]
    for it in result["calls"]:
        mean, rate = format_ns(it["mean_ns"]), f"{it['error_rate']:.1%}"
        lines.append(f"  {it['backend']:<6} {it['calls']:>6} {mean:>9} {it['errors']:>7} {rate:>11}")
    if result["report"]:
        lines += ["", f"report: {result['report']}"]
    return "\n".join(lines)
