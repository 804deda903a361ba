"""The tree of processes as text and as HTML."""

from __future__ import annotations

import time
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..text import format_bytes, format_ns, table_html

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["html_of", "text_of", "tree"]

#: Columns of a figure in a terminal, which leave a space before the longest head.
COLUMN = 10
HEADS = ["process", "calls", "calls/s", "mean", "p99", "errors", "recovered", "memory"]


def tree(update: dict[str, Any]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield of each row its depth, its name and its figures: all processes, each host, each process."""
    rows = sorted(update["processes"], key=lambda it: (it["host"], it["number"]))
    gone = sum(it["gone"] > 0 for it in rows)
    alive = len(rows) - gone
    everything = f"all: {alive} process{'' if alive == 1 else 'es'}" + (f", {gone} gone" if gone else "")
    yield 0, everything, {**_group(rows), "gone": 0.0}
    for _, found in groupby(rows, lambda it: it["host"]):
        mine = list(found)
        yield 1, mine[0]["machine"], _group(mine)
        for it in mine:
            yield 2, f"{it['title'] or 'process'} {it['pid']}", it


def _group(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Add up; a percentile of several processes can't be told from theirs."""
    added: dict[str, Any] = {
        name: sum(it[name] for it in rows) for name in ("calls", "calls_per_s", "errors", "recovered")
    }
    added["memory"] = sum(it["memory"] for it in rows if not it["gone"])
    added["mean_ns"] = sum(it["mean_ns"] * it["calls"] for it in rows) / max(added["calls"], 1)
    added["gone"] = max((it["gone"] for it in rows), default=0.0) if all(it["gone"] for it in rows) else 0.0
    return added


def _words(name: str, it: dict[str, Any]) -> list[str]:
    since = f", gone since {time.strftime('%H:%M:%S', time.localtime(it['gone']))}" if it["gone"] else ""
    return [
        name + since,
        str(it["calls"]),
        f"{it['calls_per_s']:.3g}",
        format_ns(it["mean_ns"]) if it["calls"] else "",
        format_ns(it["p99_ns"]) if it.get("p99_ns") else "",
        str(it["errors"]),
        str(it["recovered"]),
        format_bytes(it["memory"]),
    ]


def _failures(update: dict[str, Any], most: int = 10) -> list[list[str]]:
    found = [(*failure, f"{it['title']} {it['pid']}") for it in update["processes"] for failure in it["failures"]]
    found.sort(key=lambda it: -it[0])
    return [
        [time.strftime("%H:%M:%S", time.localtime(when)), where, f"{backend}.{function}", what]
        for when, backend, function, what, where in found[:most]
    ]


def text_of(update: dict[str, Any], width: int = 80) -> list[str]:
    """Return the tree as lines of so many columns."""
    shown = [HEADS.index(it) for it in ("calls", "calls/s", "p99", "errors", "recovered")]
    wide = width - COLUMN * len(shown) - 1
    lines = [f"{HEADS[0]:<{wide}}" + "".join(f"{HEADS[it]:>{COLUMN}}" for it in shown) + " "]
    for depth, name, it in tree(update):
        words = _words("  " * depth + name, {**it, "gone": 0.0})
        if it["gone"]:
            words[HEADS.index("calls/s")] = "gone"
        lines.append(f"{words[0][: wide - 1]:<{wide}}" + "".join(f"{words[it]:>{COLUMN}}" for it in shown))
    lines += [f"{when} {where}: {function}: {what}" for when, where, function, what in _failures(update)]
    return [it.rstrip() for it in lines]


def html_of(update: dict[str, Any]) -> str:
    """Return the tree as HTML that needs no JavaScript; processes that are gone are grey."""
    rows = []
    for depth, name, it in tree(update):
        words = [escape(word) for word in _words(name, it)]
        words[0] = f'<span style="padding-left:{16 * depth}px">{words[0]}</span>'
        rows.append([f'<span style="opacity:0.5">{word}</span>' for word in words] if it["gone"] else words)
    failures = [[escape(word) for word in row] for row in _failures(update)]
    errors = table_html(["time", "process", "function", "what"], failures, caption="last errors") if failures else ""
    return table_html(HEADS, rows) + errors
