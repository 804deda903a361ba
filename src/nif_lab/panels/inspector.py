"""A value as bytes: what each of them means, and what every decoder says when one is broken."""

from __future__ import annotations

import ast
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets

from ..errors import NifLabError
from ..text import table_html
from ..wire.examples import EXAMPLES, LIVE
from ..wire.page import Marks, as_html
from ..wire.schema import DIALECTS
from .base import Panel
from .style import title
from .transfers import chooser, sign, status
from .tryit import array_of, variable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..codecs import Wire
    from ..lab import LoadedBackend
    from ..wire.inspector import Inspection

__all__ = ["InspectorPanel"]

_FOLDER: Final = Path(__file__).with_name("live")
#: What a list becomes.
_DTYPES: Final = ("float64", "float32", "int64", "int32", "uint8", "complex128")
_OWN: Final = "your own"
#: A typed value is for looking at: no longer than this many letters, or elements of an array.
_LONGEST: Final = 10_000


class _Bytes(anywidget.AnyWidget):
    """A frame as HTML whose bytes can be clicked: ``choose`` and ``flip`` get a byte's offset."""

    _esm = (_FOLDER / "bytes.js").read_text()

    html = traitlets.Unicode().tag(sync=True)

    def __init__(self, choose: Callable[[int], None], flip: Callable[[int], None]) -> None:
        self._choose, self._flip = choose, flip
        super().__init__()
        self.on_msg(self._hear)

    def _hear(self, _: object, content: dict[str, Any], __: object) -> None:
        for name, act in (("choose", self._choose), ("flip", self._flip)):
            if isinstance(at := content.get(name), int):
                act(at)


class InspectorPanel(Panel):
    """Choose or type a value, see its frame, break a byte of it.

    Parameters
    ----------
    backends
        ``lab.backends``: whose codecs write and read.
    wire
        ``lab.wire``.

    Attributes
    ----------
    frame : numpy.ndarray
        The frame that is shown, uint8.
    """

    def __init__(self, backends: Mapping[str, LoadedBackend], wire: Wire) -> None:
        self._backends, self._wire = backends, wire
        self._asked = False
        self.frame = self._whole = np.zeros(0, np.uint8)
        self.example = chooser("Value", [*EXAMPLES, _OWN], "array_f32", "One of each type, or your own")
        self.typed = widgets.Text(
            "[[1.5, 2], [3, 4]]",
            description="Python value",
            continuous_update=False,
            tooltip="A number, True or False, a list of numbers, nested for more axes, or zeros(2, 3) or arange(8)",
            style={"description_width": "auto"},
        )
        self.dtype = chooser("as", _DTYPES, "float64", "What a list of numbers becomes")
        self.dialect = chooser("Dialect", list(DIALECTS), "rust", "Of version 1; version 2 has one for all")
        self.version = chooser("Version", {"1": 1, "2": 2}, 2, "Of the protocol")
        loaded = [(title(it.name), it.name) for it in backends.values() if it.loaded]
        self.writer = chooser("Written by", [("Python", "python"), *loaded], "python", "Whose codec writes it")
        self.offset = widgets.BoundedIntText(0, min=0, max=0, description="Byte", style={"description_width": "auto"})
        self.offset.layout.width = "120px"
        self.bit = chooser("bit", list(range(8)), 0, "0 is the lowest")
        self.flip = widgets.Button(description="Flip it", tooltip="Break that byte, or restore it by the same bit")
        self.restore = widgets.Button(description="Restore all", tooltip="Show the frame as it was written")
        self.flip.on_click(lambda _: self.attempt(self._flip))
        self.restore.on_click(lambda _: self.attempt(self._restore))
        self.page = _Bytes(self._choose, lambda at: self.attempt(lambda: self._flip_at(at)))
        self.chosen, self.verdicts = widgets.HTML(), widgets.HTML()
        self.offset.observe(lambda _: self.attempt(self._draw), "value")
        for it in (self.example, self.typed, self.dtype, self.dialect, self.version, self.writer):
            it.observe(lambda _: self.attempt(self._write), "value")
        super().__init__(
            "Frame inspector",
            [
                _row(self.example, self.typed, self.dtype),
                _row(self.dialect, self.version, self.writer),
                self.page,
                _row(self.offset, self.bit, self.flip, self.restore),
                self.chosen,
                self.verdicts,
            ],
        )
        self.refresh()
        # Nobody has asked yet: a dashboard that was opened has called nothing.
        self.verdicts.value = status("Change something above, or flip a bit, and see what the decoders say.")
        self._asked = True

    def refresh(self) -> None:
        self.attempt(self._write)

    def _value(self) -> Any:
        if self.example.value != _OWN:
            return EXAMPLES[self.example.value]
        text = self.typed.value.strip()
        if len(text) > _LONGEST:
            raise ValueError(
                f"the text has more than {_LONGEST:,} characters. To fix: use nif_lab.wire for large values"
            )
        if (found := variable(text)) is not None:
            return found
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            if not isinstance(value := ast.literal_eval(text), (list, tuple)):
                return value
        return array_of(text, self.dtype.value, _LONGEST)

    def _write(self) -> None:
        is_own = self.example.value == _OWN
        for it in (self.typed, self.dtype):
            it.layout.display = None if is_own else "none"
        try:
            frame = self._wire.encode(self._value(), self.dialect.value, self.version.value, by=self.writer.value)
        except Exception:
            # The last value's frame would stand there as if it were this one's.
            self.frame = self._whole = np.zeros(0, np.uint8)
            self._show()
            raise
        self._whole = np.array(frame)
        self.frame = self._whole.copy()
        self.offset.max = len(frame) - 1
        self._show()

    def _restore(self) -> None:
        self.frame = self._whole.copy()
        self._show()

    def _choose(self, at: int) -> None:
        self.offset.value = at

    def _flip(self) -> None:
        self._flip_at(self.offset.value)

    def _flip_at(self, at: int) -> None:
        if not 0 <= at < len(self.frame):
            raise ValueError("there is no such byte")
        self.frame[at] ^= 1 << self.bit.value
        self.offset.value = at
        self._show()

    def _draw(self) -> None:
        """Show the bytes, and which of them is chosen."""
        for it in (self.offset, self.bit, self.flip, self.restore):
            it.disabled = not len(self.frame)
        if not len(self.frame):
            self.page.html, self.chosen.value, self.verdicts.value = status("No frame: the value was refused."), "", ""
            return
        at = self.offset.value
        flipped = np.flatnonzero(self.frame != self._whole)
        found = self._wire.inspect(self.frame, self.dialect.value, self._read_as())
        # Lines of bytes scroll inside: they don't make the page as wide as they are.
        html = as_html(found, Marks(frozenset(flipped.tolist()), at))
        self.page.html = f'<div style="contain:inline-size">{html}</div>'
        self.chosen.value = status(self._about(found, at))

    def _show(self) -> None:
        """Show the bytes, and what the decoders say of them."""
        self._draw()
        if not self._asked or not len(self.frame):
            return
        broken = int((self.frame != self._whole).sum())
        many = "1 byte is" if broken == 1 else f"{broken} bytes are"
        said = f"{many} broken. What the decoders say:" if broken else "As it was written. What the decoders say:"
        self.verdicts.value = status(said) + table_html(["decoder", "", "what it says"], self._judge())

    def _about(self, found: Inspection, at: int) -> str:
        """Say what a byte belongs to."""
        value, was = int(self.frame[at]), int(self._whole[at])
        field = next((it for it in found.fields if it.offset <= at < it.offset + it.length), None)
        name = f"{field.path}/{field.name}".lstrip("/") + f": {field.meaning}" if field else "no field"
        return f"Byte {at} is {value:02x}{f' (it was {was:02x})' if value != was else ''}; {name}"

    def _read_as(self) -> int | None:
        return self.version.value if self.version.value == 1 else None

    def _judge(self) -> list[list[str]]:
        """Return each decoder's verdict."""
        rows = []
        for name in ("python", *self._backends):
            if name in self._backends and not self._backends[name].loaded:
                rows.append([title(name), "–", "not loaded"])
                continue
            try:
                value = self._wire.decode(self.frame, self.dialect.value, self._read_as(), by=name, live=LIVE)
            except NifLabError as error:
                rows.append([title(name), sign(False), escape(str(error))])
            else:
                rows.append([title(name), sign(True), escape(_short(value))])
        return rows

    def text(self) -> str:
        if not len(self.frame):
            return "Frame inspector\n  no frame"
        return f"Frame inspector\n{self._wire.inspect(self.frame, self.dialect.value, self._read_as())!r}"

    def html(self) -> str:
        return f"{self.page.html}{self.verdicts.value}"


def _row(*parts: widgets.Widget) -> widgets.HBox:
    return widgets.HBox(parts, layout=widgets.Layout(flex_flow="row wrap", grid_gap="4px 12px", align_items="center"))


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:99]}…"
