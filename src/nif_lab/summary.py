"""How a Lab and its backends show themselves, as text and as HTML."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from .text import table_html

if TYPE_CHECKING:
    from .lab import Lab, LoadedBackend

__all__ = ["backend_html", "backend_text", "lab_html", "lab_text"]


def _state(backend: LoadedBackend) -> str:
    if backend.library is None:
        cure = f" To fix: {backend.cure}" if backend.cure else ""
        return f"not loaded: {backend.reason}.{cure}"
    return f"{len(backend.kernels)} functions, {backend.lane} lane, {backend.library.compiler}"


def backend_text(backend: LoadedBackend) -> str:
    """Return a backend's state and the signatures of its kernels."""
    lines = [f"{backend.title}: {_state(backend)}"]
    lines += [f"  {backend.functions[name].signature}" for name in backend.kernels]
    return "\n".join(lines)


def backend_html(backend: LoadedBackend) -> str:
    """Return a table of a backend's kernels, or why there are none."""
    if not backend.loaded:
        return f"<p><b>{escape(backend.title)}</b>: {escape(_state(backend))}</p>"
    rows = []
    for name in backend.kernels:
        nif = backend.functions[name]
        rows.append([f"<code>{escape(nif.signature)}</code>", escape(nif.doc.split("\n\n")[0])])
    return table_html(["function", "what it does"], rows, caption=f"{backend.title}: {_state(backend)}")


def lab_text(lab: Lab) -> str:
    """Return a line for each backend."""
    loaded = sum(it.loaded for it in lab.backends.values())
    lines = [f"Lab: {loaded} of {len(lab.backends)} backends loaded"]
    lines += [f"  {it.name:<6} {_state(it)}" for it in (*lab.backends.values(), *lab.libraries.copy().values())]
    return "\n".join(lines)


def lab_html(lab: Lab) -> str:
    """Return a table with a row for each backend."""
    rows = []
    for it in (*lab.backends.values(), *lab.libraries.copy().values()):
        if it.library is not None:
            state, functions = "✓&nbsp;loaded", ", ".join(f"<code>{escape(name)}</code>" for name in it.kernels)
            rows.append([f"<b>{it.title}</b>", state, it.lane, escape(it.library.compiler), functions])
        else:
            cure = f"<br>To fix: <code>{escape(it.cure)}</code>" if it.cure else ""
            rows.append([f"<b>{it.title}</b>", "✗&nbsp;not&nbsp;loaded", "–", "–", escape(it.reason) + cure])
    return table_html(["backend", "state", "lane", "compiler", "functions"], rows)
