"""What failed of late, and what was done about it."""

from __future__ import annotations

import time
from html import escape
from typing import Any, Final

from ..text import table_html
from .base import LivePanel
from .style import title

__all__ = ["ErrorsPanel"]

SHOWN: Final = 10


class ErrorsPanel(LivePanel):
    """The last errors with the steps of their recovery, live; by language, as text that can be copied."""

    title = "Recent errors"
    view = "errors"

    def _last(self) -> list[dict[str, Any]]:
        """Return the last records, newest first."""
        segment = self.telemetry.segment
        return segment.describe_errors(segment.errors()[-SHOWN:])[::-1]

    def text(self) -> str:
        lines = [f"  {_when(it)} {it['backend']}.{it['function']}: {_what(it)}" for it in self._last()]
        return "\n".join(["Recent errors", *(lines or ["  none"])])

    def html(self) -> str:
        rows = [
            [_when(it), escape(title(it["backend"])), f"<code>{escape(it['function'])}</code>", escape(_what(it))]
            for it in self._last()
        ]
        return table_html(["time", "language", "function", "what"], rows) if rows else "<p>✓ no errors</p>"


def _when(record: dict[str, Any]) -> str:
    return time.strftime("%H:%M:%S", time.localtime(record["time"]))


def _what(record: dict[str, Any]) -> str:
    step = f"{record['step']} {record['outcome']}" if record["step"] else ""
    error = f"{record['kind']}: {record['message']}" if record["kind"] else ""
    return ", ".join(filter(None, (step, error)))
