"""The pictures of the panels and of the demo's report, drawn from plain figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from matplotlib import colormaps
from matplotlib.colors import to_hex

from ..text import format_ns, format_speed
from .canvas import Canvas
from .style import Theme, colour, log_scale, title

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..telemetry import FunctionStats, Snapshot
    from ..transfer import Transfer

__all__ = ["bars", "copies_text", "heat_map", "heat_map_text", "performance_grid", "performance_text"]

CARD_WIDTH: Final = 232
CARD_GAP: Final = 12
ROW: Final = 19
#: So many functions get a bar: those that took most time.
BARS: Final = 6


def _languages(snapshot: Snapshot) -> list[str]:
    return list(dict.fromkeys(it.backend for it in snapshot))


def _busiest(snapshot: Snapshot) -> list[str]:
    """Names of the functions with the longest total time, the longest first."""
    total: dict[str, float] = {}
    for it in snapshot:
        if it.calls > it.errors:
            total[it.function] = total.get(it.function, 0.0) + it.total_ns
    return sorted(total, key=lambda name: -total[name])[:BARS]


def performance_grid(snapshot: Snapshot, theme: Theme) -> Canvas:
    """Draw a card for each language: calls, times, errors, and bars of its functions."""
    languages, functions = _languages(snapshot), _busiest(snapshot)
    height = 178 + ROW * max(len(functions), 1)
    canvas = Canvas(max(len(languages), 1) * (CARD_WIDTH + CARD_GAP) - CARD_GAP + 2, height + 22, theme)
    if not languages:
        canvas.text(1, 24, "no language is loaded", colour=theme.muted)
        return canvas
    # Of a function that ran in both lanes, the one that ran more.
    by_name = {(it.backend, it.function): it for it in sorted(snapshot, key=lambda it: it.calls)}
    share = log_scale([it.mean_ns for it in snapshot if it.function in functions])
    for i, language in enumerate(languages):
        left = 1 + i * (CARD_WIDTH + CARD_GAP)
        canvas.box(left, 1, CARD_WIDTH, height, theme.card, line=theme.line, radius=8)
        _summary(canvas, left + 16, language, snapshot.backend(language))
        for row, name in enumerate(functions):
            stats = by_name.get((language, name))
            _bar(canvas, left + 16, 178 + ROW * row, name, stats, share, colour(language))
    note = "bars: mean time of a call, on one logarithmic scale for all" if functions else "no calls yet"
    canvas.text(2, height + 18, note, size=10, colour=theme.muted)
    return canvas


def _summary(canvas: Canvas, left: float, language: str, stats: FunctionStats) -> None:
    theme, right = canvas.theme, left + CARD_WIDTH - 32
    canvas.box(left, 17, 12, 12, colour(language), radius=3)
    canvas.text(left + 20, 28, title(language), size=15, bold=True)
    canvas.text(left, 66, f"{stats.calls:,}", size=24, bold=True)
    canvas.text(right, 66, "call" if stats.calls == 1 else "calls", colour=theme.muted, align="right")
    timed = stats.calls > stats.errors
    rows = [
        ("mean", format_ns(stats.mean_ns) if timed else "–", theme.text),
        ("min / max", f"{format_ns(stats.min_ns)} / {format_ns(stats.max_ns)}" if timed else "–", theme.text),
        ("errors", f"{stats.errors:,}", theme.error if stats.errors else theme.text),
        ("error rate", f"{stats.error_rate:.1%}" if stats.calls else "–", theme.error if stats.errors else theme.text),
    ]
    for i, (label, value, ink) in enumerate(rows):
        canvas.text(left, 90 + ROW * i, label, size=11, colour=theme.muted)
        canvas.text(right, 90 + ROW * i, value, size=11, colour=ink, align="right")


def _bar(
    canvas: Canvas,
    left: float,
    y: float,
    name: str,
    stats: FunctionStats | None,
    share: Callable[[float], float],
    fill: str,
) -> None:
    theme = canvas.theme
    canvas.text(left, y, name, size=10, colour=theme.muted)
    track, width = left + 74, 66.0
    canvas.box(track, y - 8, width, 8, theme.line, radius=2)
    if stats and stats.calls > stats.errors:
        canvas.box(track, y - 8, max(width * share(stats.mean_ns), 2), 8, fill, radius=2)
        canvas.text(left + CARD_WIDTH - 32, y, format_ns(stats.mean_ns), size=10, align="right")
    else:
        canvas.text(left + CARD_WIDTH - 32, y, "–", size=10, colour=theme.muted, align="right")


def performance_text(snapshot: Snapshot) -> str:
    """Say in words what `performance_grid` shows."""
    parts = []
    for language in _languages(snapshot):
        it = snapshot.backend(language)
        parts.append(
            f"{title(language)}: {it.calls} calls, mean {format_ns(it.mean_ns)}, min {format_ns(it.min_ns)}, "
            f"max {format_ns(it.max_ns)}, {it.errors} errors, error rate {it.error_rate:.1%}"
        )
    return ". ".join(parts) or "no language is loaded"


def heat_map(transfers: Sequence[Transfer], theme: Theme) -> Canvas:
    """Draw the transfers as a square: source languages downwards, target languages to the right."""
    languages = list(dict.fromkeys([it.source for it in transfers] + [it.target for it in transfers]))
    by_pair = {(it.source, it.target): it for it in transfers}
    fastest = max((it.gb_per_s for it in transfers), default=1.0) or 1.0
    cell, tall, left, top = 142, 62, 84, 32
    canvas = Canvas(left + cell * len(languages), top + tall * len(languages) + 24, theme)
    for i, one in enumerate(languages):
        x, y = left + cell * i, top + tall * i
        canvas.box(0, y + tall / 2 - 7, 10, 10, colour(one), radius=2)
        canvas.text(17, y + tall / 2 + 2, title(one), bold=True)
        canvas.box(x + 4, top - 19, 10, 10, colour(one), radius=2)
        canvas.text(x + 21, top - 10, title(one), bold=True)
        for j, other in enumerate(languages):
            x = left + cell * j
            if it := by_pair.get((one, other)):
                _cell(canvas, x, y, cell - 4, tall - 4, it, it.gb_per_s / fastest)
            else:
                canvas.box(x, y, cell - 4, tall - 4, theme.card, line=theme.line, radius=4)
    note = "from the language on the left to the one above; brighter is faster"
    canvas.text(left, canvas.height - 8, note, size=10, colour=theme.muted)
    return canvas


def _cell(canvas: Canvas, x: float, y: float, width: float, height: float, it: Transfer, speed: float) -> None:
    red, green, blue, _ = colormaps["viridis"](0.18 + 0.57 * speed)
    ink = "#000000" if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.18 else "#ffffff"
    canvas.box(x, y, width, height, to_hex((red, green, blue)), radius=4)
    copies = copies_text(it)
    canvas.text(x + width / 2, y + 24, f"{format_speed(it.gb_per_s)}", size=13, bold=True, colour=ink, align="center")
    check = "✓ verified" if it.verified else "✗ differs"
    canvas.text(x + width / 2, y + 38, format_ns(it.ns), size=10, colour=ink, align="center")
    canvas.text(x + width / 2, y + 51, f"{copies} · {check}", size=10, colour=ink, align="center")


def copies_text(it: Transfer) -> str:
    """Return how many copies a transfer made: ``1 copy``."""
    return "1 copy" if len(it.copies) == 1 else f"{len(it.copies)} copies"


def heat_map_text(transfers: Sequence[Transfer]) -> str:
    """Say in words what `heat_map` shows."""
    return ". ".join(str(it) for it in transfers) or "no transfers"


def bars(rows: Mapping[str, tuple[float, float, float]], theme: Theme) -> Canvas:
    """Draw a bar for each language from (median, min, max) in nanoseconds; a thin line spans min to max.

    The scale is that of the medians: a single slow run may leave the picture.
    """
    longest = 1.25 * max((median for median, _, _ in rows.values()), default=1.0)
    left, width, tall = 84, 380, 34
    canvas = Canvas(left + width + 90, tall * len(rows) + 4, theme)
    for i, (language, (median, low, high)) in enumerate(rows.items()):
        y = tall * i + 4
        canvas.text(0, y + 17, title(language), bold=True)
        canvas.box(left, y + 3, width, 18, theme.line, radius=3)
        canvas.box(left, y + 3, max(width * median / longest, 3), 18, colour(language), radius=3)
        first, last = width * low / longest, min(width * high / longest, width)
        canvas.box(left + first, y + 11, max(last - first, 1), 2, theme.text)
        canvas.text(left + width + 10, y + 17, format_ns(median), bold=True)
    return canvas
