"""Numbers and tables as people read them."""

from __future__ import annotations

from html import escape

__all__ = ["format_bytes", "format_ns", "format_speed", "table_html"]


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
