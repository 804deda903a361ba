"""What every language was asked to do, and how long it took."""

from __future__ import annotations

from html import escape

from .base import LivePanel

__all__ = ["PerformancePanel"]


class PerformancePanel(LivePanel):
    """For each language calls, calls a second, mean, percentiles and errors, live, and matplotlib's picture of them."""

    title = "Performance"
    view = "performance"

    def still(self) -> str:
        from .canvas import themed_image  # matplotlib takes a quarter of a second to come
        from .pictures import performance_grid, performance_text

        now = self.telemetry.snapshot()
        return themed_image(lambda theme: performance_grid(now, theme), performance_text(now))

    def text(self) -> str:
        return f"Performance\n{self.telemetry.snapshot()}"

    def html(self) -> str:
        return f"<pre>{escape(str(self.telemetry.snapshot()))}</pre>"
