"""The demo's report: one page that needs nothing beside itself."""

from __future__ import annotations

import io
from html import escape
from statistics import median
from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib import colormaps
from PIL import Image

from .panels.canvas import data_url, themed_image
from .panels.pictures import bars, heat_map, heat_map_text, performance_grid, performance_text
from .panels.style import colour, title
from .text import format_ns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .demo import Outcome

__all__ = ["html"]

STYLE: Final = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1b2026; --muted: #59636e }
@media (prefers-color-scheme: dark) {
  :root { --page: #111418; --ink: #e9edf1; --muted: #a0aab4 }
  .nif-lab-dark { display: inline !important } .nif-lab-light { display: none !important }
}
body { background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 968px; padding: 32px 24px }
h1 { font-size: 32px; line-height: 1.2; margin: 0 0 8px } h2 { font-size: 21px; margin: 48px 0 4px }
p { margin: 0 0 16px; max-width: 75ch }
.muted { color: var(--muted) } img { max-width: 100% }
.two { display: grid; gap: 24px; grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)) }
.row { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)) }
figure { margin: 0 } figure img { border-radius: 6px; display: block; width: 100% }
figcaption { align-items: center; display: flex; gap: 8px; padding: 6px 2px }
figcaption .aside { color: var(--muted); margin-left: auto; text-align: right }
.dot { border-radius: 3px; flex: none; height: 11px; width: 11px }
.strips { display: grid; grid-auto-columns: 1fr; grid-auto-flow: column; padding: 6px 2px }
.strips span { border-top: 4px solid; text-align: center } .strips b { color: var(--ink) }
.scale img { border-radius: 3px; flex: 1; height: 12px; min-width: 60px }
"""


def _png(picture: Image.Image) -> str:
    target = io.BytesIO()
    picture.save(target, format="png", optimize=True)
    return data_url(target.getvalue())


def _picture(values: np.ndarray, cmap: str, low: float, high: float) -> str:
    """Return the values as an image in 256 colours, a pixel for each."""
    levels = np.clip((values - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    picture = Image.fromarray(levels)
    picture.putpalette(colormaps[cmap](np.arange(256), bytes=True)[:, :3].tobytes())
    return _png(picture)


def _patchwork(z: np.ndarray, shades: Mapping[str, np.ndarray]) -> str:
    """Return a shaded relief whose vertical strips come from one language each."""
    strips = [np.array_split(shade, len(shades), axis=1)[i] for i, shade in enumerate(shades.values())]
    tints = colormaps["gist_earth"](0.36 + 0.58 * (z - z.min()) / np.ptp(z))[..., :3]
    # Flat ground, which a light at 45 degrees shades to 0.7, keeps its tint.
    relief = np.clip(tints * (0.15 + 1.2 * np.hstack(strips)[..., np.newaxis]), 0, 1)
    return _png(Image.fromarray((relief * 255).astype(np.uint8)))


def _figure(source: str, alt: str, caption: str, aside: str = "", language: str = "") -> str:
    dot = f'<span class="dot" style="background:{colour(language)}"></span>' if language else ""
    return (
        f'<figure><img alt="{escape(alt)}" src="{source}"><figcaption>{dot}<b>{escape(caption)}</b>'
        f'<span class="aside">{escape(aside)}</span></figcaption></figure>'
    )


def _terrain(found: Outcome) -> str:
    """Return the two pictures at the top: the heights, and what the languages made of them together."""
    z = found.elevation.z
    low, high = float(z.min()), float(z.max())
    heights = _picture(z, "gist_earth", low, high)
    ramp = _picture(np.linspace(low, high, 256)[np.newaxis], "gist_earth", low, high)
    figures = (
        f'<figure><img alt="the heights, from dark valleys to bright ridges" src="{heights}">'
        f'<figcaption class="scale">{low:.0f} m <img alt="scale of the heights" src="{ramp}"> {high:.0f} m</figcaption>'
        "</figure>"
    )
    if found.shades:
        names = ", ".join(title(it) for it in found.shades)
        strips = [f'<span style="border-color:{colour(it)}"><b>{escape(title(it))}</b></span>' for it in found.shades]
        figures += (
            f'<figure><img alt="shaded relief in strips, from left to right computed in {escape(names)}" '
            f'src="{_patchwork(z, found.shades)}"><figcaption class="strips">{"".join(strips)}</figcaption></figure>'
        )
    return f'<div class="two">{figures}</div>'


def _shades(found: Outcome) -> str:
    return "".join(
        _figure(
            _picture(shade, "gray", 0.0, 1.0),
            f"hillshade of the mountains computed in {title(name)}",
            title(name),
            format_ns(median(found.hillshade_ns[name])),
            name,
        )
        for name, shade in found.shades.items()
    )


def _differences(found: Outcome) -> str:
    """Return a picture of each language's difference from the first one."""
    first, *others = found.shades
    scale = found.max_difference or 1.0
    figures = []
    for name in others:
        difference = np.abs(found.shades[name] - found.shades[first])
        figures.append(
            _figure(
                _picture(difference, "magma", 0.0, scale),
                f"where {title(name)} differs from {title(first)}: black where not at all",
                f"{title(name)} and {title(first)}",
                f"{np.mean(difference == 0):.0%} identical",
                name,
            )
        )
    return "".join(figures)


def _bars(name: str, runs: Mapping[str, tuple[float, ...]]) -> str:
    rows = {language: (median(it), min(it), max(it)) for language, it in runs.items()}
    alt = f"{name}: " + ", ".join(f"{title(it)} {format_ns(rows[it][0])}" for it in rows)
    count = len(next(iter(runs.values()), ()))
    note = f'<p class="muted">Median of {count} runs; the line spans the shortest to the longest.</p>'
    return f"<div><h2>{escape(name)}</h2>{note}{themed_image(lambda theme: bars(rows, theme), alt)}</div>"


def html(found: Outcome) -> str:
    """Return the report as one HTML page: no script, no request, light or dark as the reader's system is."""
    rows, columns = found.elevation.z.shape
    missing = "".join(
        f"<p><b>{escape(title(name))}</b> is not loaded: {escape(it['reason'])}. To fix: {escape(it['cure'])}</p>"
        for name, it in found.backends.items()
        if not it["loaded"]
    )
    names = ", ".join(title(name) for name in found.shades)
    transfers = list(found.transfers)
    differences = (
        f"""<h2>Where they differ</h2>
<p class="muted">Black is no difference at all; the brightest pixel is {found.max_difference:.1e}, on a scale from 0 to
1. What is left are roundings of the last binary digit.</p>
<div class="row">{_differences(found)}</div>"""
        if len(found.shades) > 1
        else ""
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>nif_lab demo</title><style>{STYLE}</style></head><body>
<h1>Four languages, one mountain range</h1>
<p class="muted">The Jacksboro fault in Tennessee: {rows} × {columns} heights that matplotlib ships, smoothed and lit
from the north-west by functions written in {names or "no language"}, in one process, on the same memory. Each strip of
the relief comes from another language: look for the seams.</p>{missing}
{_terrain(found)}
<h2>The same picture from each language</h2>
<p class="muted">Each was computed by its own language; the time is the median of its runs.</p>
<div class="row">{_shades(found)}</div>
{differences}
<div class="two">{_bars("Hillshade", found.hillshade_ns)}{_bars("Smoothing", found.smooth_ns)}</div>
<h2>From every language to every other</h2>
<p class="muted">{len(transfers)} transfers of {found.elevation.z.nbytes:,} bytes, {found.transfers.zero_copy:.0%} of
them without a copy, proved by address. Each side computed its own checksum.</p>
{themed_image(lambda theme: heat_map(transfers, theme), heat_map_text(transfers))}
<h2>What it took</h2>
<p class="muted">As the dashboard shows it: every call of this run.</p>
{themed_image(lambda theme: performance_grid(found.snapshot, theme), performance_text(found.snapshot))}
</body></html>
"""
