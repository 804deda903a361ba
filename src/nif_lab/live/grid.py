"""The performance grid, drawn quickly: matplotlib draws what stays and each letter once, and the rest is copied.

matplotlib's cost is text, some milliseconds a line; a whole grid drawn by it takes a tenth of a second.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties

from ..panels.canvas import Canvas
from ..panels.style import GRID, THEMES, colour, log_scale, title
from ..text import format_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Grid"]

CARD_WIDTH, GAP, ROW, HEAD, FOOT, BARS = (GRID[it] for it in ("card", "gap", "row", "head", "foot", "bars"))
PAD: Final = 16
#: Sizes of text in points: a card's number of calls, its rows, its bars.
LARGE, MIDDLE, SMALL = 24, 11, 10


class Grid:
    """A card for each language: calls, calls per second, mean, p99, min and max, errors, and bars of functions.

    Parameters
    ----------
    theme
        ``"light"`` or ``"dark"``.
    width
        CSS pixels.
    scale
        Pixels in a CSS pixel.
    """

    def __init__(self, theme: str, width: int, scale: float) -> None:
        self.theme = next(it for it in THEMES if it.name == theme)
        self._width, self._scale = width, scale
        self._letters: dict[tuple[float, bool], _Letters] = {}
        self._layout: tuple[Any, ...] = ()

    def draw(self, update: Mapping[str, Any]) -> np.ndarray:
        """Return the picture of an update's head (docs/messages.md): uint8, shape (height, width, 3)."""
        backends = update["backends"]
        names = list(dict.fromkeys(it["function"] for it in update["functions"]))[:BARS]
        self._arrange([it["name"] for it in backends], names)
        self._pixels = self._background.copy()
        means: dict[tuple[str, str], float] = {}
        for it in reversed(update["functions"]):  # of a function that ran in both lanes, the busier
            means[it["backend"], it["function"]] = it["mean_ns"]
        share = log_scale([ns for (_, name), ns in means.items() if name in names])
        for it, (left, top) in zip(backends, self._places, strict=True):
            self._card(left, top, it)
            for row, name in enumerate(names):
                ns = means.get((it["name"], name), 0.0)
                self._bar(left, top + HEAD - 8 + ROW * row, ns, share(ns), colour(it["name"]))
        return self._pixels

    def _arrange(self, backends: Sequence[str], names: Sequence[str]) -> None:
        """Draw what stays: cards, labels, tracks of the bars."""
        if self._layout == (layout := (tuple(backends), tuple(names))):
            return
        self._layout = layout
        columns = max(1, min((self._width + GAP) // (CARD_WIDTH + GAP), len(backends)))
        rows = -(-max(len(backends), 1) // columns)
        columns = -(-max(len(backends), 1) // rows)  # four cards are 2 x 2 where there is room for three in a row
        self._card_width = (self._width - 2 + GAP) / columns - GAP
        height = HEAD + ROW * max(len(names), 1)  # the page keeps room for all bars
        self._places = [
            (1 + (i % columns) * (self._card_width + GAP), 1 + (i // columns) * (height + GAP))
            for i in range(len(backends))
        ]
        theme = self.theme
        canvas = Canvas(self._width, rows * (height + GAP) - GAP + FOOT, theme, self._scale)
        canvas.figure.patch.set(visible=True, facecolor=theme.page)
        for backend, (left, top) in zip(backends, self._places, strict=True):
            canvas.box(left, top, self._card_width, height - 2, theme.card, line=theme.line, radius=8)
            canvas.box(left + PAD, top + 16, 12, 12, colour(backend), radius=3)
            canvas.text(left + PAD + 20, top + 27, title(backend), size=15, bold=True)
            for row, label in enumerate(("calls per second", "mean", "p99", "min / max", "errors")):
                canvas.text(left + PAD, top + 89 + ROW * row, label, size=MIDDLE, colour=theme.muted)
            for row, name in enumerate(names):
                y = top + HEAD - 8 + ROW * row
                canvas.text(left + PAD, y, name, size=SMALL, colour=theme.muted)
                canvas.box(left + PAD + 74, y - 8, self._track, 8, theme.line, radius=2)
        note = "bars: mean time of a call, on one logarithmic scale for all" if names else "no calls yet"
        canvas.text(2, canvas.height - 7, note, size=SMALL, colour=theme.muted)
        self._background = np.ascontiguousarray(canvas.pixels()[..., :3])

    @property
    def _track(self) -> float:
        return max(self._card_width - 2 * PAD - 140, 20)

    def _card(self, left: float, top: float, it: Mapping[str, Any]) -> None:
        right, timed = left + self._card_width - PAD, it["calls"] > it["errors"]
        self._text(left + PAD, top + 65, f"{it['calls']:,}", LARGE, bold=True)
        bad = self.theme.error if it["errors"] else None
        rows = (
            (f"{it['calls_per_s']:,.0f}", None),
            (format_ns(it["mean_ns"]) if timed else "–", None),
            (format_ns(it["p99_ns"]) if timed else "–", None),
            (f"{format_ns(it['min_ns'])} / {format_ns(it['max_ns'])}" if timed else "–", None),
            (f"{it['errors']:,} ({it['error_rate']:.1%})", bad),
        )
        for row, (text, ink) in enumerate(rows):
            self._text(right, top + 89 + ROW * row, text, MIDDLE, ink=ink, to_the_left=True)

    def _bar(self, left: float, y: float, ns: float, share: float, fill: str) -> None:
        right = left + self._card_width - PAD
        self._text(right, y, format_ns(ns) if ns else "–", SMALL, to_the_left=True)
        if ns:
            x, length = left + PAD + 74, max(self._track * share, 2)
            ends = [round(it * self._scale) for it in (y - 8, y, x, x + length)]
            self._pixels[ends[0] : ends[1], ends[2] : ends[3]] = _bytes_of(fill)

    def _text(
        self, x: float, y: float, text: str, size: float, *, bold: bool = False, ink: str | None = None,
        to_the_left: bool = False,
    ) -> None:  # fmt: skip
        """Write a line that begins, or ends, at ``x``, its baseline at ``y``."""
        letters = self._letters.setdefault((size, bold), _Letters(size, bold, self._scale))
        start = x * self._scale - (sum(map(letters.advance, text)) if to_the_left else 0)
        colour = _bytes_of(ink or self.theme.text).astype(np.uint16)
        for letter in text:
            mask = letters.mask(letter)
            left, top = round(start) - letters.pad, round(y * self._scale) - letters.ascent
            place = self._pixels[max(top, 0) : top + len(mask), max(left, 0) : left + mask.shape[1]]
            if place.shape[:2] == mask.shape:  # not one that reaches over the edge
                cover = mask[..., None]
                place[:] = (place * (255 - cover) + colour * cover) // 255
            start += letters.advance(letter)


class _Letters:
    """Letters of one size: how wide each is, and what of each pixel it covers."""

    def __init__(self, size: float, bold: bool, scale: float) -> None:
        self._size, self._bold, self._scale = size, bold, scale
        self.pad, self.ascent = 2, round(size * scale * 1.2)
        self._masks: dict[str, np.ndarray] = {}
        self._advances: dict[str, float] = {}

    @cached_property
    def _measure(self) -> Callable[[str], float]:
        make: Any = RendererAgg  # Any: it has no types
        agg = make(1, 1, 72 * self._scale)
        font = FontProperties(family="DejaVu Sans", size=self._size, weight="bold" if self._bold else "normal")
        return lambda text: float(agg.get_text_width_height_descent(text, font, False)[0])

    def advance(self, letter: str) -> float:
        """Return how far the next letter is away, in pixels."""
        if letter not in self._advances:
            # Between two others: alone, a letter is as wide as its ink.
            self._advances[letter] = (self._measure(f"0{letter * 8}0") - self._measure("00")) / 8
        return self._advances[letter]

    def mask(self, letter: str) -> np.ndarray:
        """Return its coverage, 0 to 255: uint16, the baseline `ascent` below the first row, `pad` columns before it."""
        if letter not in self._masks:
            scale = self._scale
            width = (self.advance(letter) + 2 * self.pad) / scale
            canvas = Canvas(width, (self.ascent + round(self._size * scale * 0.4)) / scale, THEMES[0], scale)
            canvas.text(
                self.pad / scale, self.ascent / scale, letter, size=self._size, colour="#000000", bold=self._bold
            )
            self._masks[letter] = canvas.pixels()[..., 3].astype(np.uint16)
        return self._masks[letter]


def _bytes_of(colour: str) -> np.ndarray:
    return np.array([round(255 * it) for it in to_rgb(colour)], np.uint8)
