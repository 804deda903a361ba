"""The languages of a Lab: loaded with which compiler, or not loaded, why, and how to fix it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import ipywidgets as widgets

from ..text import table_html
from .base import Panel
from .style import colour

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..lab import LoadedBackend

__all__ = ["BackendsPanel"]


class BackendsPanel(Panel):
    """A card for each language.

    Parameters
    ----------
    backends
        ``lab.backends``.
    """

    def __init__(self, backends: Mapping[str, LoadedBackend]) -> None:
        self.backends = backends
        self.cards = widgets.HTML()
        super().__init__("Backends", [self.cards])
        self.refresh()

    def refresh(self) -> None:
        self.attempt(self._show)

    def _show(self) -> None:
        cards = "".join(_card(it) for it in self.backends.values())
        self.cards.value = f'<div style="display:flex;flex-wrap:wrap;gap:12px">{cards}</div>'

    def text(self) -> str:
        lines = [f"Backends: {sum(it.loaded for it in self.backends.values())} of {len(self.backends)} loaded"]
        for it in self.backends.values():
            lines.append(f"  {it.name:<6} {'loaded' if it.loaded else 'not loaded'}: {'; '.join(_facts(it))}")
        return "\n".join(lines)

    def html(self) -> str:
        rows = []
        for it in self.backends.values():
            state = "✓ loaded" if it.loaded else "✗ not loaded"
            rows.append([f"<b>{escape(it.title)}</b>", state, "<br>".join(escape(fact) for fact in _facts(it))])
        return table_html(["backend", "state", ""], rows)


def _facts(backend: LoadedBackend) -> list[str]:
    if backend.library is not None:
        return [backend.library.compiler, f"{len(backend.kernels)} functions, {backend.lane} lane"]
    return [backend.reason, *([f"to fix: {backend.cure}"] if backend.cure else [])]


def _card(backend: LoadedBackend) -> str:
    line = "var(--jp-border-color2,#d5dbe1)"
    if backend.library is not None:
        state = "✓ loaded"
        signatures = "".join(f"<div>{escape(backend.functions[name].signature)}</div>" for name in backend.kernels)
        body = (
            f"<div>{escape(backend.library.compiler)}</div>"
            f"<details><summary>{len(backend.kernels)} functions, {escape(backend.lane)} lane</summary>"
            f'<code style="font-size:11px;overflow-wrap:anywhere">{signatures}</code></details>'
        )
    else:
        state = "✗ not loaded"
        cure = f"<div>To fix: <code>{escape(backend.cure)}</code></div>" if backend.cure else ""
        detail = (
            f'<details><summary>details</summary><pre style="font-size:11px">{escape(backend.detail)}</pre></details>'
        )
        body = f"<div>{escape(backend.reason)}</div>{cure}{detail if backend.detail else ''}"
    return (
        f'<div style="flex:1 1 200px;max-width:480px;box-sizing:border-box;border:1px solid {line};border-radius:8px;'
        f'border-left:6px solid {colour(backend.name)};padding:8px 12px;line-height:1.5">'
        f'<div style="display:flex;justify-content:space-between"><b style="font-size:15px">{escape(backend.title)}</b>'
        f"<span>{state}</span></div>{body}</div>"
    )
