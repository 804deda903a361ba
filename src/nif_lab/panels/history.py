"""The last calls: when each began and how long it took."""

from __future__ import annotations

from html import escape
from typing import Final

from ..text import format_ns, table_html
from .base import LivePanel
from .style import title

__all__ = ["HistoryPanel"]

CALLS: Final = 1000
#: So many of them stand in the table of a saved notebook.
ROWS: Final = 10


class HistoryPanel(LivePanel):
    """The last 1,000 calls as a chart, live; by colour and shape of their language."""

    title = "Call history"
    view = "history"

    def text(self) -> str:
        return f"Call history: {self.telemetry.history(CALLS)}"

    def html(self) -> str:
        last = self.telemetry.history(ROWS).records[::-1]
        rows = [
            [
                escape(title(it["backend"])),
                f"<code>{escape(it['function'])}</code>",
                escape(it["status"]) or format_ns(it["duration_ns"]),
                str(it["cell"]),
            ]
            for it in last
        ]
        return table_html(["language", "function", "took", "cell"], rows) if rows else "<p>no calls yet</p>"
