"""The tables and examples of docs/wire.md: ``python -m nif_lab.wire.document docs/wire.md``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from . import schema
from .encoder import encode_nodes
from .examples import EXAMPLES
from .schema import DIALECTS, DTYPES, MARKERS, Field, Kind, Marker, Role
from .values import flatten

__all__ = ["fill", "write"]


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _markers() -> str:
    def row(it: Marker) -> tuple[str, ...]:
        dtypes = "any" if len(it.dtypes) == len(DTYPES) else ", ".join(DTYPES[c].name for c in it.dtypes if c) or "none"
        axes = f"{it.ndims[0]} to {it.ndims[-1]}" if len(it.ndims) > 1 else str(it.ndims[0])
        return (f"{it.code:02x}", it.name, it.kind, dtypes, axes, " ".join(map(str, it.versions)), it.meaning)

    head = ("hex", "marker", "kind", "element type", "axes", "versions", "meaning")
    return _table(head, map(row, MARKERS.values()))


def _dtypes() -> str:
    return _table(("code", "element type", "bytes"), ((it.code, it.name, it.size) for it in DTYPES.values()))


def _dialects() -> str:
    return _table(
        ("code", "dialect", "dimensions and lengths", "order", "alignment", "largest dimension", "frame is below"),
        (
            (
                it.code,
                it.name,
                f"u{8 * it.dimension}",
                ("row-major", "column-major")[it.order],
                "u8, then padding" if it.aligned else "none",
                f"2^31 - 1 = {it.dimension_max}" if it.dimension == 4 else f"2^40 = {it.dimension_max}",
                f"2^{it.frame_bits} bytes",
            )
            for it in DIALECTS.values()
        ),
    )


def _headers() -> str:
    kinds = {
        "scalars, device types": "float64",
        "arrays of 1 axis": "array_f64",
        "2 axes": "matrix_2d_f64",
        "3 axes": "matrix_3d_f64",
        "records": "neural_network",
    }
    rows = []
    for what, name in kinds.items():
        marker = schema.marker_named(name)
        for dialect in DIALECTS.values():
            fields = schema.header(marker, dialect, 1)
            layout = ", ".join(f"{it.name} {it.size}" for it in fields)
            rows.append((what, dialect.name, layout, sum(it.size for it in fields)))
    return _table(("of", "dialect", "fields", "payload at"), rows)


def _fields(fields: Iterable[Field]) -> Iterable[tuple[int, int, str, str]]:
    at = 0
    for it in fields:
        yield at, it.size, it.name, it.meaning
        at += it.size


def _version2() -> str:
    return _table(("offset", "bytes", "field", "meaning"), _fields(schema.header(MARKERS[1], DIALECTS["rust"], 2)))


def _devices() -> str:
    return "\n\n".join(
        f"`{it.name}`\n\n" + _table(("offset", "bytes", "field", "meaning"), _fields(schema.body_fields(it)))
        for it in MARKERS.values()
        if it.kind == Kind.DEVICE
    )


def _records() -> str:
    def spell(role: Role, prefix: str) -> str:
        bound = f", 0 to {role.below - 1}" if role.below else ""
        bound += f", {role.length} elements" if role.length else ""
        return f"`{prefix}{role.name}`: {' or '.join(role.markers)}{bound}"

    rows = []
    for name, it in schema.RECORDS.items():
        children = [spell(role, "") for role in it.fixed] + [spell(role, "0.") for role in it.group]
        more = "others: any" if it.others else "the group again with 1., 2. and so on; also none at all"
        rows.append((name, it.title, "; ".join([*children, more])))
    activations = ", ".join(f"{code} {name}" for code, name in enumerate(schema.ACTIVATIONS))
    return _table(("record", "title", "children, in this order"), rows) + f"\n\nActivations: {activations}."


def _limits() -> str:
    words = {
        "depth": "frames within frames; one that holds none is 1",
        "nodes": "values in a frame, itself included: the node table stays below 64 KiB",
        "name": "bytes of a name or title",
    }
    return _table(("limit", "", ""), ((name, number, words[name]) for name, number in schema.LIMITS.items()))


def _columns(columns: Sequence[schema.Column]) -> str:
    return _table(("column", "name", "meaning"), ((i, it.name, it.meaning) for i, it in enumerate(columns)))


def _errors() -> str:
    return _table(("code", "words"), schema.ERRORS.items())


def _hex(frame: bytes) -> str:
    lines = (frame[at : at + 16].hex(" ") for at in range(0, len(frame), 16))
    return "\n".join(f"{16 * i:4}  {line}" for i, line in enumerate(lines))


def _examples() -> str:
    parts = []
    for name, value in EXAMPLES.items():
        marker = schema.marker_named(name)
        parts += [f"### {name}", f"`{' '.join(repr(value).split())}`"]
        frames: dict[bytes, list[str]] = {}
        for version in marker.versions:
            for dialect in DIALECTS if version == 1 else ["rust"]:
                label = f"version 1, {dialect}" if version == 1 else "version 2"
                frames.setdefault(encode_nodes(*flatten(value, dialect, version), dialect, version), []).append(label)
        for frame, labels in frames.items():
            same = f" (so {', '.join(it.split()[-1] for it in labels[1:])})" if labels[1:] else ""
            parts.append(f"{labels[0]}{same}, {len(frame)} bytes\n\n```\n{_hex(frame)}\n```")
    return "\n\n".join(parts)


_SECTIONS: Final[dict[str, Callable[[], str]]] = {
    "markers": _markers,
    "dtypes": _dtypes,
    "dialects": _dialects,
    "headers": _headers,
    "version2": _version2,
    "devices": _devices,
    "records": _records,
    "limits": _limits,
    "columns": lambda: _columns(schema.COLUMNS),
    "live": lambda: _columns(schema.LIVE),
    "errors": _errors,
    "examples": _examples,
}


def fill(text: str) -> str:
    """Return the document with its tables and examples as the schema has them."""
    for name, section in _SECTIONS.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"the document needs {begin} and {end} once each")
        filled = f"{begin}\n\n{section()}\n\n{end}"
        text = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", filled.replace("\\", r"\\"), text, flags=re.S)
    return text


def write(path: Path) -> None:
    """Bring the document up to date."""
    path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
