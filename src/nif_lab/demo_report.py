"""The demo's report: one page that needs nothing beside itself."""

from __future__ import annotations

import io
from html import escape
from statistics import median
from typing import TYPE_CHECKING

from matplotlib import image

from .panels.canvas import data_url, themed_image
from .panels.pictures import bars, heat_map, heat_map_text, performance_grid, performance_text
from .panels.style import colour, title
from .telemetry import format_ns

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from .demo import Outcome

__all__ = ["html"]

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1b2026; --muted: #59636e; --line: #d5dbe1; --card: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --page: #111418; --ink: #e9edf1; --muted: #a0aab4; --line: #3b424b; --card: #1c2026; }
  .nif-lab-dark { display: inline !important } .nif-lab-light { display: none !important }
}
body { background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 1060px; padding: 24px }
h1 { font-size: 28px; margin: 0 0 4px } h2 { font-size: 20px; margin: 40px 0 8px }
p { margin: 4px 0 12px; max-width: 75ch }
.hero { align-items: end; display: grid; gap: 32px; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)) }
.muted { color: var(--muted) } img { max-width: 100% }
.pictures { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)) }
figure { margin: 0 } figure img { border-radius: 6px; display: block; width: 100% }
figcaption { align-items: baseline; display: flex; gap: 8px; padding: 6px 2px }
figcaption .time { color: var(--muted); margin-left: auto } .dot { border-radius: 3px; height: 11px; width: 11px }
.two { display: grid; gap: 24px; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)) }
"""


def _picture(values: np.ndarray, cmap: str, low: float, high: float) -> str:
    target = io.BytesIO()
    image.imsave(target, values, cmap=cmap, vmin=low, vmax=high, format="png")
    return data_url(target.getvalue())


def _figure(source: str, alt: str, caption: str, time: str = "", language: str = "") -> str:
    dot = f'<span class="dot" style="background:{colour(language)}"></span>' if language else ""
    return (
        f'<figure><img alt="{escape(alt)}" src="{source}"><figcaption>{dot}<b>{escape(caption)}</b>'
        f'<span class="time">{escape(time)}</span></figcaption></figure>'
    )


def _bars(name: str, runs: Mapping[str, tuple[float, ...]]) -> str:
    rows = {language: (median(it), min(it), max(it)) for language, it in runs.items()}
    alt = f"{name}: " + ", ".join(f"{title(it)} {format_ns(rows[it][0])}" for it in rows)
    count = len(next(iter(runs.values()), ()))
    note = f'<p class="muted">Median of {count} runs; the line spans the shortest to the longest.</p>'
    return f"<div><h2>{escape(name)}</h2>{note}{themed_image(lambda theme: bars(rows, theme), alt)}</div>"


def html(found: Outcome) -> str:
    """Return the report as one HTML page: no script, no request, light or dark as the reader's system is."""
    z = found.elevation.z
    rows, columns = z.shape
    shades = "".join(
        _figure(
            _picture(shade, "gray", 0.0, 1.0),
            f"hillshade of the mountains computed in {title(name)}",
            title(name),
            format_ns(median(found.hillshade_ns[name])),
            name,
        )
        for name, shade in found.shades.items()
    )
    missing = "".join(
        f"<p><b>{escape(title(name))}</b> is not loaded: {escape(it['reason'])}. To mend it: {escape(it['cure'])}</p>"
        for name, it in found.backends.items()
        if not it["loaded"]
    )
    names = ", ".join(title(name) for name in found.shades)
    transfers = list(found.transfers)
    terrain = _figure(
        _picture(z, "gist_earth", float(z.min()), float(z.max())),
        "the elevation model, from dark valleys to bright ridges",
        "Elevation",
        f"{z.min():.0f} to {z.max():.0f} m",
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>nif_lab demo</title><style>{STYLE}</style></head><body>
<div class="hero"><div><h1>Four languages, one mountain range</h1>
<p class="muted">The Jacksboro fault in Tennessee: {rows} × {columns} heights that matplotlib ships, smoothed and lit
from the north-west in {names}, in one process, on the same memory.</p>{missing}
<h2>The same picture from each language</h2>
<p>They differ by {found.max_difference:.1e} at most, on a scale from 0 to 1.</p></div>{terrain}</div>
<div class="pictures">{shades}</div>
<div class="two">{_bars("Hillshade", found.hillshade_ns)}{_bars("Smoothing", found.smooth_ns)}</div>
<h2>From every language to every other</h2>
<p>{len(transfers)} transfers of {z.nbytes:,} bytes; {found.transfers.zero_copy:.0%} without a copy, proved by
address. Each side computed its own checksum.</p>
{themed_image(lambda theme: heat_map(transfers, theme), heat_map_text(transfers))}
<h2>What it took</h2>
{themed_image(lambda theme: performance_grid(found.snapshot, theme), performance_text(found.snapshot))}
</body></html>
"""
