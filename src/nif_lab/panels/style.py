"""How the panels look: one colour per language, and the two themes a picture is drawn in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["DARK", "LIGHT", "THEMES", "Theme", "colour", "title"]

#: Okabe and Ito's colours, told apart by colour-blind people too; each has a contrast of at least 3 on both themes.
_COLOURS: Final = {"rust": "#d55e00", "zig": "#0072b2", "nim": "#009e73", "julia": "#c46aa0"}
_OTHER: Final = "#7a7f87"


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
    return _COLOURS.get(language, _OTHER)


def title(language: str) -> str:
    """Return how a language's name is shown: ``Rust``."""
    return language.capitalize()
