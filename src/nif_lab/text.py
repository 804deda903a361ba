"""Numbers and tables as people read them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Final

__all__ = ["Rows", "format_bytes", "format_ns", "format_speed", "last_lines", "table_html", "tables_text"]

#: A table: its head, then its rows, all of one length.
Rows = Sequence[Sequence[str]]


def format_ns(ns: float) -> str:
    """Return a time as people read it: ``73 ns``, ``4.2 µs``, ``1.25 s``."""
    for unit, size in (("ns", 1.0), ("µs", 1e3), ("ms", 1e6)):
        if ns < 999.5 * size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns / 1e9:.3g} s"


def format_bytes(count: float) -> str:
    """Return a size as people read it: ``800 B``, ``78.1 KiB``, ``1.5 GiB``."""
    for power, unit in enumerate(("B", "KiB", "MiB", "GiB")):
        if count < 999.5 * 1024**power:
            return f"{count / 1024**power:.3g} {unit}"
    return f"{count / 1024**4:.3g} TiB"


def format_speed(gb_per_s: float) -> str:
    """Return a throughput as people read it: ``12.8 GB/s``, ``0.045 GB/s``."""
    return f"{gb_per_s:.1f} GB/s" if gb_per_s >= 0.95 else f"{gb_per_s:.2g} GB/s"


def table_html(headers: list[str], rows: list[list[str]], *, caption: str = "") -> str:
    """Return a plain table. The cells are HTML already; JupyterLab gives it its own look, light or dark."""
    head = "".join(f'<th scope="col" style="text-align:left">{escape(it)}</th>' for it in headers)
    body = "".join("<tr>" + "".join(f'<td style="text-align:left">{it}</td>' for it in row) + "</tr>" for row in rows)
    title = f'<caption style="caption-side:top;text-align:left">{escape(caption)}</caption>' if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def tables_text(tables: Sequence[tuple[str, Rows]], notes: Sequence[str]) -> str:
    """Return tables for a terminal, each under its heading, and the notes after them."""
    lines = []
    for heading, rows in tables:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["", heading]
        for first, *rest in rows:
            cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
            lines.append("  ".join([f"  {first:<{widths[0]}}", *cells]))
    return "\n".join([*lines, "", *notes]).strip("\n")


#: Where a runtime's own report of a signal begins: its lines say no more than the signal does.
REPORT: Final = re.compile(r"^(?:\s*signal \(\d+\)|stack backtrace:|note: run with `RUST_B)", re.M)


def last_lines(said: str, most: int = 3, width: int = 300) -> list[str]:
    """Return the last lines of what a process wrote before it ended, without its runtime's report."""
    lines = [it.strip() for it in REPORT.split(said)[0].splitlines() if it.strip()]
    return [it[:width] for it in lines[-most:]]
