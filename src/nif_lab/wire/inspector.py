"""What each byte of a frame means, and which one is at fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from . import rules, schema
from .decoder import Decoder, Span
from .errors import WireError
from .rules import COLUMN
from .schema import DTYPES, MARKERS

__all__ = ["Inspection", "Part", "inspect"]

#: Bytes of one part that are shown.
_SHOWN: Final = 64
#: Parts that are shown: the first ones, and those before the fault.
_PARTS: Final = 200


@dataclass(frozen=True, slots=True)
class Part:
    """A run of bytes that means one thing.

    Attributes
    ----------
    offset, length
        Where it is in the frame.
    bytes : bytes
        The bytes themselves.
    name
        The field's name in docs/wire.md; ``"not read"`` for the bytes after an error.
    meaning
        What these bytes say.
    path
        The nested value that it belongs to: ``"0.weights"``; empty for the outermost one.
    valid
        False for the part at fault.
    """

    offset: int
    length: int
    bytes: bytes
    name: str
    meaning: str
    path: str
    valid: bool


@dataclass(frozen=True, slots=True, repr=False)
class Inspection:
    """An annotated frame: `fields` cover every byte once, in order.

    Attributes
    ----------
    frame : bytes
        What was inspected.
    dialect : str
    version : int or None
        None where the frame doesn't say.
    fields : tuple of Part
    error : WireError or None
        The rule that the frame breaks.
    """

    frame: bytes
    dialect: str
    version: int | None
    fields: tuple[Part, ...]
    error: WireError | None

    @property
    def valid(self) -> bool:
        """Whether a decoder accepts the frame."""
        return self.error is None

    @property
    def title(self) -> str:
        """The frame in one line: type, version, length, verdict."""
        layout = {1: f"version 1, {self.dialect} dialect", 2: "version 2"}.get(self.version or 0, "unknown version")
        marker = next((it.meaning.partition(":")[0] for it in self.fields if it.name == "marker"), "frame")
        verdict = "valid" if self.valid else str(self.error)
        return f"{marker} · {layout} · {len(self.frame):,} bytes · {verdict}"

    def shown(self) -> list[tuple[int, Part]]:
        """Return the numbered fields that a display has room for: the first ones, and those around the fault."""
        numbered = list(enumerate(self.fields, 1))
        fault = next((i for i, it in enumerate(self.fields) if not it.valid), 0)
        return [it for it in numbered if it[0] <= _PARTS or fault - 20 < it[0] <= fault + 2]

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        from .page import as_html

        return as_html(self)


def inspect(
    frame: Any, dialect: str | int = "rust", version: int | None = None, live: Sequence[Sequence[int]] | None = None
) -> Inspection:
    """Say what each byte of a frame means, whether it is valid or not.

    Parameters
    ----------
    frame
        Contiguous bytes.
    dialect
        What it was written in; of no importance in version 2.
    version
        1, 2 or None: the frame's own.
    live
        The live device handles, rows of `schema.LIVE`. Without it handles aren't looked up.

    Raises
    ------
    WireError
        For a dialect or version that doesn't exist. A bad frame is no error here: `Inspection.error` has it.
    """
    data = bytes(rules.octets(frame))
    layout = rules.check_dialect(dialect)
    decoder: Decoder | None = None
    error = None
    try:
        decoder = Decoder(memoryview(data), layout, rules.check_version(version or 0, (0, 1, 2)), live)
        decoder.decode()
    except WireError as found:
        if found.offset < 0:
            raise
        error = found
    spans = sorted(decoder.spans, key=lambda it: it.offset) if decoder else []
    parts = [_part(it, data, decoder.rows) for it in spans] if decoder else []
    if error:
        parts = _marked(parts, data, error)
    return Inspection(data, layout.name, decoder.version if decoder else None, tuple(parts), error)


def _marked(parts: Sequence[Part], data: bytes, error: WireError) -> list[Part]:
    """Return the parts with the one at fault marked, and with parts for the bytes that nobody read."""
    place = error.offset
    marked, at = [], 0
    for it in [*parts, Part(len(data), 0, b"", "", "", "", True)]:
        # What was not read is cut at the fault, so that it begins there.
        cuts = [at, *[place] * (at < place < it.offset), it.offset]
        for begin, end in pairwise(cuts):
            if begin < end:
                wrong = begin <= place < end
                why = error.rule if wrong else "not read: it comes after the error" if place < begin else ""
                marked.append(Part(begin, end - begin, data[begin:end], "not read", why, "", not wrong))
        at = it.offset + it.length
        if it.length:
            wrong = it.offset <= place < at
            marked.append(Part(it.offset, it.length, it.bytes, it.name, it.meaning, it.path, not wrong))
    if place >= len(data):
        marked.append(Part(len(data), 0, b"", "end", error.rule, "", False))
    return marked


def _part(span: Span, data: bytes, rows: Sequence[Sequence[int]]) -> Part:
    chunk = data[span.offset : span.offset + span.length]
    return Part(span.offset, span.length, chunk, span.name, _meaning(span, chunk, rows), span.path, True)


def _meaning(span: Span, chunk: bytes, rows: Sequence[Sequence[int]]) -> str:
    number = span.value
    if number is None:
        if span.name in {"elements", "value"}:
            return _elements(chunk, rows[span.row])
        return repr(chunk.decode(errors="replace")) if span.name in {"name", "title"} else span.meaning
    if span.name == "marker":
        marker = MARKERS.get(number)
        return f"{marker.name}: {marker.meaning}" if marker else f"{number:02x}: no such type"
    words = {
        "magic": lambda: repr(chunk)[1:],
        "dtype": lambda: DTYPES[number].name if number in DTYPES else f"{number}: no elements",
        "order": lambda: {0: "row-major", 1: "column-major"}.get(number, str(number)),
        "flags": lambda: {0: "no checksum", 1: "with a checksum"}.get(number, str(number)),
        "checksum": lambda: f"{number:016x}: XXH3-64" if number else "none",
        "handle": lambda: f"slot {number % 2**32}, generation {number >> 32}",
        "reserved": lambda: "zero" if number == 0 else f"{number}: not zero",
    }
    return words[span.name]() if span.name in words else f"{number} ({span.meaning})"


def _elements(chunk: bytes, row: Sequence[int]) -> str:
    """Return the first elements of an array, or a scalar, in words; as they lie in memory."""
    dtype = DTYPES[row[COLUMN["dtype"]]]
    first = np.frombuffer(chunk, dtype.numpy if dtype.name != "bool" else "u1", min(6, len(chunk) // dtype.size))
    values = ", ".join(f"{it:.6g}" for it in first.tolist())
    ndim, start = row[COLUMN["ndim"]], COLUMN["shape0"]
    if MARKERS[row[0]].kind == schema.Kind.SCALAR:
        return values
    more = ", …" if len(chunk) > first.nbytes else ""
    return f"{dtype.name}[{', '.join(map(str, row[start : start + ndim]))}]: {values}{more}"


def as_text(found: Inspection) -> str:
    """Return the fields for a terminal: offset, bytes, name, meaning; a mark at the fault."""
    lines = [found.title, f"{'':7}{'offset':>8}  {'bytes':<{16 * 3}} field"]
    last = 0
    for number, it in found.shown():
        if number != last + 1:
            lines.append(f"{'':17}… {number - last - 1} more fields")
        last = number
        mark = "   " if it.valid else ">>>"
        name = f"{it.path}/{it.name}" if it.path else it.name
        rows = [it.bytes[at : at + 16].hex(" ") for at in range(0, min(it.length, _SHOWN), 16)] or [""]
        lines.append(f"{mark}{number:>4}{it.offset:>8}  {rows[0]:<{16 * 3}} {name}: {it.meaning}".rstrip(": "))
        lines += [f"{'':7}{it.offset + 16 * i:>8}  {row}" for i, row in enumerate(rows[1:], 1)]
        if it.length > _SHOWN:
            lines.append(f"{'':17}… {it.length - _SHOWN:,} more bytes")
        if not it.valid:
            lines.append(f"{'':17}^ {found.error}")
    if last < len(found.fields):
        lines.append(f"{'':17}… {len(found.fields) - last} more fields")
    return "\n".join(lines)
