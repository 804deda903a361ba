"""What a compiler says of a cell, under the lines that it is about: as text and as HTML."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..errors import Message

__all__ = ["Report"]


class Report:
    """Messages with the cell's lines and carets.

    Parameters
    ----------
    title
        Of all: ``"zig cell In [3]: 1 error"``.
    code
        The cell, whose lines are shown.
    first
        The number in the notebook's cell of the first line of ``code``: 2 below a magic's line.
    detail
        What else was said.
    """

    def __init__(self, title: str, code: str, messages: Iterable[Message], first: int = 1, detail: str = "") -> None:
        self.title = title
        self.messages = tuple(messages)
        self._lines = code.expandtabs(1).split("\n")
        self._first = first
        self._detail = detail

    def _parts(self, it: Message) -> tuple[str, str, str]:
        """Return a message's place and first line, the source with carets, and the rest."""
        kind = "error" if it.is_error else "warning"
        text, _, rest = it.text.partition("\n")
        if not 1 <= it.line <= len(self._lines):
            return f"{kind}: {text}", "", rest
        number = it.line + self._first - 1
        place = f"line {number}, column {it.column}" if it.column else f"line {number}"
        line = self._lines[it.line - 1]
        margin = f"{number:>4} | "
        carets = "^" * max(1, min(it.width, len(line) - it.column + 1))
        marked = "\n" + " " * (len(margin) + it.column - 1) + carets if it.column else ""
        return f"{kind}: {place}: {text}", f"{margin}{line}{marked}", rest

    def __str__(self) -> str:
        return self._text("{}".format)

    def coloured(self) -> str:
        """Return the text with the colours of a terminal, which Jupyter shows too: red errors, yellow warnings."""
        return self._text(lambda head: f"\x1b[{31 if head.startswith('error') else 33}m{head}\x1b[0m")

    def _text(self, emphasised: Callable[[str], str]) -> str:
        parts = [self._parts(it) for it in self.messages]
        shown = ["\n".join(part for part in (emphasised(head), *rest) if part) for head, *rest in parts]
        return "\n\n".join(part for part in (self.title, *shown, self._detail) if part)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        blocks = []
        for it in self.messages:
            head, source, rest = map(escape, self._parts(it))
            colour = "var(--jp-error-color1, #b00020)" if it.is_error else "var(--jp-warn-color1, #b26a00)"
            source = source and f'<pre style="margin:2px 0 2px 1em">{source}</pre>'
            rest = rest and f'<pre style="margin:2px 0 2px 1em;opacity:0.75">{rest}</pre>'
            blocks.append(f'<div style="margin:4px 0"><b style="color:{colour}">{head}</b>{source}{rest}</div>')
        if self._detail:
            blocks.append(f"<pre>{escape(self._detail)}</pre>")
        return f"<div><b>{escape(self.title)}</b>{''.join(blocks)}</div>"
