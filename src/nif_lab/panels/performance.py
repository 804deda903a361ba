"""What every language was asked to do, and how long it took."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import ipywidgets as widgets

from .base import Panel
from .canvas import themed_image
from .pictures import performance_grid, performance_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..telemetry import Snapshot

__all__ = ["PerformancePanel"]


class PerformancePanel(Panel):
    """A card for each language: calls, mean, min, max, errors, error rate, and its functions.

    Parameters
    ----------
    snapshot
        ``lab.snapshot``, or anything that returns a `Snapshot`.
    """

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self.snapshot = snapshot
        self.grid = widgets.HTML()
        super().__init__("Performance", [self.grid])
        self.refresh()

    def refresh(self) -> None:
        self.attempt(self._show)

    def _show(self) -> None:
        now = self.snapshot()
        self.grid.value = themed_image(lambda theme: performance_grid(now, theme), performance_text(now))

    def text(self) -> str:
        return f"Performance\n{self.snapshot()}"

    def html(self) -> str:
        return f"<pre>{escape(str(self.snapshot()))}</pre>"
