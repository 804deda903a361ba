"""What every language was asked to do, and how long it took."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from ..text import format_ns, table_html
from .base import LivePanel
from .style import MARKS, colour, log_scale, title

if TYPE_CHECKING:
    from ..telemetry import FunctionStats, Snapshot

__all__ = ["PerformancePanel"]


class PerformancePanel(LivePanel):
    """For each language calls, calls a second, mean, percentiles and errors, live, and matplotlib's picture of them."""

    title = "Performance"
    view = "performance"

    def still(self) -> str:
        # The live view's own table, in its own style: what is painted first stays where it is.
        head, *rows = _figures(self.telemetry.snapshot())
        cells = "".join(f'<th scope="col">{_label(it)}</th>' for it in head[1:])
        body = "".join(
            f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{it}</td>" for it in row[1:])}</tr>' for row in rows
        )
        return f'<table class="nif-figures"><thead><tr><td></td>{cells}</tr></thead><tbody>{body}</tbody></table>'

    def text(self) -> str:
        return f"Performance\n{self.telemetry.snapshot()}"

    def html(self) -> str:
        now = self.telemetry.snapshot()
        head, *rows = _figures(now)
        functions = [_row(it) for it in now if it.calls]
        columns = ["function", "lane", "calls", "mean", "p99", "min", "max", "errors"]
        table = table_html(["", *map(title, head[1:])], rows)
        return table + (_picture(now) + table_html(columns, functions) if functions else "<p>no calls yet</p>")


def _figures(snapshot: Snapshot) -> list[list[str]]:
    """Return the lines of the table of languages as HTML, its head first: the same as in live/performance.js."""
    each = [snapshot.backend(name) for name in dict.fromkeys(it.backend for it in snapshot)]
    return [
        ["", *(it.backend for it in each)],
        ["calls", *(f"{it.calls:,}" for it in each)],
        ["calls per s", *("–" for _ in each)],
        ["mean", *(_time(it, it.mean_ns) for it in each)],
        ["p50", *(_time(it, it.p50_ns) for it in each)],
        ["p99", *(_time(it, it.p99_ns) for it in each)],
        ["errors", *(f"{it.errors:,}" for it in each)],
        ["error rate", *(f"{it.error_rate:.1%}" if it.calls else "–" for it in each)],
    ]


def _picture(snapshot: Snapshot) -> str:
    """Return the mean time of a call in each language as bars on a logarithmic scale: an image for saved notebooks."""
    each = [it for it in map(snapshot.backend, dict.fromkeys(it.backend for it in snapshot)) if it.calls > it.errors]
    if not each:
        return ""
    share = log_scale([it.mean_ns for it in each])
    lines = []
    for i, it in enumerate(each):
        words = f"{escape(title(it.backend))}, {it.calls:,} calls"
        lines.append(
            f'<text x="0" y="{24 * i + 16}">{words}</text><rect x="190" y="{24 * i + 4}" height="15" rx="3" '
            f'width="{max(300 * share(it.mean_ns), 3):.0f}" fill="{colour(it.backend)}"/>'
            f'<text x="{200 + 300 * share(it.mean_ns):.0f}" y="{24 * i + 16}">{format_ns(it.mean_ns)}</text>'
        )
    # A grey that can be read on white and on black: an image doesn't know the page's theme.
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="600" height="{24 * len(each) + 4}" '
        f'font-family="sans-serif" font-size="13" fill="#6e7781">{"".join(lines)}</svg>'
    )
    told = ", ".join(f"{title(it.backend)} {format_ns(it.mean_ns)}" for it in each)
    source = base64.b64encode(svg.encode()).decode()
    return f'<img alt="mean time of a call: {escape(told)}" src="data:image/svg+xml;base64,{source}">'


def _time(stats: FunctionStats, ns: float) -> str:
    return format_ns(ns) if stats.calls > stats.errors else "–"


def _label(language: str) -> str:
    mark = f'<path d="{MARKS.get(language, MARKS[""])}" fill="{colour(language)}"/>'
    svg = f'<svg class="nif-mark" viewBox="0 0 12 12" width="12" height="12" aria-hidden="true">{mark}</svg>'
    return f'<span class="nif-language">{svg}{escape(title(language))}</span>'


def _row(it: FunctionStats) -> list[str]:
    times = (format_ns(ns) if it.calls > it.errors else "–" for ns in (it.mean_ns, it.p99_ns, it.min_ns, it.max_ns))
    return [f"<code>{escape(f'{it.backend}.{it.function}')}</code>", it.lane, f"{it.calls:,}", *times, f"{it.errors:,}"]
