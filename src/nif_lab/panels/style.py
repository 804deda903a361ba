"""How the panels look: one colour and one mark per language, and the two themes a picture is drawn in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["COLOURS", "DARK", "GRID", "LIGHT", "MARKS", "THEMES", "Theme", "colour", "log_scale", "title"]

#: Okabe and Ito's colours, told apart by colour-blind people too; each has a contrast of at least 3 on both themes.
#: The last is anybody else's.
COLOURS: Final = {"rust": "#d55e00", "zig": "#0072b2", "nim": "#009e73", "julia": "#c46aa0", "": "#7a7f87"}
#: Shapes as SVG paths in a square of 12: circle, square, triangle, diamond, and a cross for anybody else.
MARKS: Final = {
    "rust": "M6 1a5 5 0 1 0 0 10a5 5 0 1 0 0-10z",
    "zig": "M1.5 1.5h9v9h-9z",
    "nim": "M6 .8 11.4 10.6H.6z",
    "julia": "M6 .2 11.8 6 6 11.8.2 6z",
    "": "M1 3 3 1l3 3 3-3 2 2-3 3 3 3-2 2-3-3-3 3-2-2 3-3z",
}

#: Measures of the performance picture in CSS pixels, and its number of bars: the page keeps its place free.
GRID: Final = {"card": 214, "gap": 12, "head": 198, "row": 19, "bars": 6, "foot": 24}


@dataclass(frozen=True, slots=True)
class Theme:
    """The colours of a picture, apart from those of the languages."""

    name: str
    page: str
    card: str
    line: str
    text: str
    muted: str
    error: str


LIGHT: Final = Theme("light", "#ffffff", "#f6f8fa", "#d5dbe1", "#1b2026", "#59636e", "#b3261e")
DARK: Final = Theme("dark", "#111111", "#1c2026", "#3b424b", "#e9edf1", "#a0aab4", "#ff8a80")
THEMES: Final = (LIGHT, DARK)


def colour(language: str) -> str:
    """Return a language's colour, the same in every picture."""
    return COLOURS.get(language, COLOURS[""])


def title(language: str) -> str:
    """Return how a language's name is shown: ``Rust``."""
    return language.capitalize()


def log_scale(values: Sequence[float]) -> Callable[[float], float]:
    """Return a function from a time to the share of a bar's length, from the decade below the shortest."""
    positive = [it for it in values if it > 0]
    low = math.floor(math.log10(min(positive, default=1.0)) - 0.01)
    high = math.log10(max(positive, default=10.0))
    return lambda value: (math.log10(value) - low) / max(high - low, 1e-9) if value > 0 else 0.0
