"""A frame as HTML: its bytes in coloured ranges, linked to their fields by hover and focus; no JavaScript.

A range and its field carry the same number, so colours are never alone. Text keeps the page's own colour and fills are
mixed with transparency, so it reads alike on light and dark pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Final, NamedTuple

from .xxh3 import checksum

if TYPE_CHECKING:
    from .inspector import Inspection, Part

__all__ = ["Marks", "as_html"]

_WIDTH: Final = 16  # bytes a line
_HEAD: Final = 4  # lines of a long part before it is cut short

# Okabe and Ito's colours: told apart by colour-blind people too.
_COLOURS: Final = {
    "kind": "#0072b2",
    "size": "#e69f00",
    "data": "#009e73",
    "text": "#cc79a7",
    "check": "#56b4e9",
    "rest": "#808890",
    "wrong": "#d55e00",
}
_GROUPS: Final = {
    "kind": {"magic", "version", "marker", "dtype", "ndim", "order"},
    "size": {"shape0", "shape1", "shape2", "shape3", "length", "payload", "count", "title length", "name length"},
    "data": {"elements", "value", "handle", "size", "device", "height", "width", "channels"},
    "text": {"title", "name"},
    "check": {"checksum", "flags", "alignment"},
}
_GROUP: Final = {name: group for group, names in _GROUPS.items() for name in names}

_STYLE: Final = """
.nlw { --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font: 13px/1.45 system-ui, sans-serif;
  color: inherit; max-width: 1180px }
.nlw .top { align-items: baseline; display: flex; flex-wrap: wrap; gap: 4px 14px; margin: 0 0 10px }
.nlw .top b { font-size: 15px } .nlw .muted { opacity: .68 }
.nlw .verdict { border: 1px solid; border-radius: 99px; font-size: 12px; padding: 0 10px }
.nlw .ok { color: color-mix(in srgb, #009e73 80%, currentColor) }
.nlw .fault { background: color-mix(in srgb, #d55e00 12%, transparent); border-left: 4px solid #d55e00;
  border-radius: 0 6px 6px 0; margin: 0 0 12px; padding: 6px 12px }
.nlw .both { align-items: flex-start; display: flex; flex-wrap: wrap; gap: 16px 28px }
.nlw .hex { font: 12.5px/1 var(--mono); overflow-x: auto; padding: 2px 2px 4px }
.nlw .line { display: flex; height: 31px; white-space: pre }
.nlw .at { align-self: end; flex: none; opacity: .55; padding: 0 12px 6px 0; text-align: right; width: 6ch }
.nlw .cut { opacity: .6; padding: 5px 0 9px calc(6ch + 12px) }
.nlw .run { align-self: end; background: color-mix(in srgb, var(--c) 20%, transparent); border-radius: 3px;
  box-shadow: inset 0 -2px var(--c); box-sizing: border-box; cursor: default; flex: none; height: 21px;
  margin-right: 2px; padding: 4px 0 0 4px; position: relative }
.nlw .run i { font: 9px/1 system-ui, sans-serif; left: 1px; opacity: .75; position: absolute; top: -8px }
.nlw .wrong { outline: 2px solid #d55e00; outline-offset: -1px }
.nlw .run[data-at] b { background: #d55e00; border-radius: 2px; color: #fff; font-weight: 400 }
.nlw .run u { outline: 2px solid currentColor; text-decoration: none }
.nlw .ascii { align-self: end; flex: none; opacity: .5; padding: 0 0 6px 14px }
.nlw .list { flex: 1 1 420px; max-height: 640px; min-width: 0; overflow: auto;
  scrollbar-color: color-mix(in srgb, currentColor 35%, transparent) transparent; scrollbar-width: thin }
.nlw table { border-collapse: collapse; color: inherit; font: inherit; margin: 0; width: 100% }
.nlw th, .nlw td { background: none; border: 0; padding: 3px 10px 3px 0; text-align: left; vertical-align: top }
.nlw th { font-weight: 600; opacity: .68 }
.nlw tbody tr { border-top: 1px solid color-mix(in srgb, currentColor 12%, transparent) }
.nlw .n { text-align: right; white-space: nowrap } .nlw td.n { font: 12px/1.55 var(--mono) }
.nlw td { white-space: nowrap } .nlw td:last-child { overflow-wrap: anywhere; white-space: normal; width: 60% }
.nlw .key { background: var(--c); border-radius: 2px; display: inline-block; height: 9px; margin-right: 6px;
  width: 9px }
.nlw tr:focus-visible, .nlw .run:focus-visible { outline: 2px solid currentColor; outline-offset: -1px }
"""


def _colour(part: Part) -> str:
    return _COLOURS[_GROUP.get(part.name, "rest") if part.valid else "wrong"]


def _lit(scope: str, number: int) -> str:
    """Return the rule that lights a field's range and row together."""
    it = f".f{number}"
    when = f".{scope}:has({it}:hover, {it}:focus)"
    return (
        f"{when} .run{it} {{ background: color-mix(in srgb, var(--c) 58%, transparent) }} "
        f"{when} tr{it} {{ background: color-mix(in srgb, var(--c) 20%, transparent) }}"
    )


def _runs(line: int, parts: Sequence[tuple[int, Part]]) -> Iterator[tuple[int, Part, int, int]]:
    """Yield the parts that meet a line, with the offsets between which they do."""
    for number, it in parts:
        begin, end = max(it.offset, line), min(it.offset + it.length, line + _WIDTH)
        if begin < end:
            yield number, it, begin, end


def _gap(count: int) -> str:
    return f'<span style="flex:none;width:{3 * count}ch"></span>'


def _byte(value: int, at: int, marks: Marks) -> str:
    """Return a byte as two digits; one that was flipped is bold, the one that is chosen underlined."""
    text = f"{value:02x}"
    if at in marks.flipped:
        text = f"<b>{text}</b>"
    return f"<u>{text}</u>" if at == marks.chosen else text


def _line(at: int, frame: bytes, runs: Sequence[tuple[int, Part, int, int]], marks: Marks) -> str:
    cells = []
    covered = at
    for number, it, begin, end in runs:
        if begin > covered:
            cells.append(_gap(begin - covered))
        label = f"<i>{number}</i>" if begin == it.offset else ""
        wrong = "" if it.valid else " wrong"
        name = escape(f"{number} {it.path + '/' if it.path else ''}{it.name}: {it.meaning}", quote=True)
        style = f"--c:{_colour(it)};width:calc({3 * (end - begin)}ch - 2px)"
        cells.append(
            f'<span class="run f{number}{wrong}" tabindex="0" title="{name}" style="{style}" data-at="{begin}" '
            f'data-bytes="{end - begin}">{label}{" ".join(_byte(frame[i], i, marks) for i in range(begin, end))}</span>'
        )
        covered = end
    if covered < at + _WIDTH:
        cells.append(_gap(at + _WIDTH - covered))
    text = "".join(chr(it) if 32 <= it < 127 else "·" for it in frame[at : at + _WIDTH])
    return (
        f'<div class="line"><span class="at">{at}</span>{"".join(cells)}<span class="ascii">{escape(text)}</span></div>'
    )


def _hex(found: Inspection, parts: Sequence[tuple[int, Part]], marks: Marks) -> str:
    """Return the bytes in lines; of a long part the first lines and the last, and those with marks."""
    wanted = {it // _WIDTH for it in (*marks.flipped, marks.chosen) if 0 <= it < len(found.frame)}
    for _, it in parts:
        first, last = it.offset // _WIDTH, (it.offset + it.length - 1) // _WIDTH
        wanted.update(range(first, min(first + _HEAD, last + 1)), range(max(first, last - 1), last + 1))
    lines: list[str] = []
    covered = 0
    for at in (_WIDTH * it for it in sorted(wanted)):
        lines += [_cut(at - covered), _line(at, found.frame, tuple(_runs(at, parts)), marks)]
        covered = at + _WIDTH
    lines.append(_cut(len(found.frame) - covered))
    return "".join(lines)


def _cut(count: int) -> str:
    return f'<div class="cut">⋯ {count:,} bytes</div>' if count > 0 else ""


def _row(number: int, it: Part) -> str:
    path = f'<span class="muted">{escape(it.path)} / </span>' if it.path else ""
    name = f"<b>{escape(it.name)}</b>" if it.valid else f"<b>⚠ {escape(it.name)}</b>"
    colour = _colour(it)
    return (
        f'<tr class="f{number}" tabindex="0" style="--c:{colour}"><td class="n"><span class="key"></span>{number}</td>'
        f'<td class="n">{it.offset}</td><td class="n">{it.length}</td><td>{path}{name}</td>'
        f"<td>{escape(it.meaning)}</td></tr>"
    )


class Marks(NamedTuple):
    """Bytes that are marked: those that were flipped, and the one that is chosen; -1 is none."""

    flipped: frozenset[int] = frozenset()
    chosen: int = -1


NO_MARKS: Final = Marks()


def as_html(found: Inspection, marks: Marks = NO_MARKS) -> str:
    """Return an inspection as HTML that needs nothing beside itself."""
    parts = found.shown()
    scope = f"nlw-{checksum(memoryview(found.frame)):016x}"
    marker, *facts = found.title.split(" · ")
    verdict = '<span class="verdict ok">✓ valid</span>'
    fault = ""
    if found.error:
        verdict = f'<span class="verdict" style="color:#d55e00">✗ {found.error.code}</span>'
        fault = f'<div class="fault" role="alert">⚠ {escape(str(found.error))}</div>'
    hidden = len(found.fields) - len(parts)
    more = f'<tr><td colspan="5" class="muted">… {hidden:,} more fields</td></tr>' if hidden else ""
    numbers = "".join(f'<th class="n" scope="col">{it}</th>' for it in ("#", "at", "bytes"))
    head = f'{numbers}<th scope="col">field</th><th scope="col">meaning</th>'
    rules = "\n".join(_lit(scope, number) for number, _ in parts)
    octets = _hex(found, parts, marks)
    return (
        f'<div class="nlw {scope}"><style>{_STYLE}{rules}</style>'
        f'<div class="top"><b>{escape(marker)}</b>'
        f'<span class="muted">{escape(" · ".join(facts[:2]))}</span>{verdict}</div>{fault}'
        f'<div class="both"><div class="hex" role="group" aria-label="bytes of the frame">{octets}</div>'
        f'<div class="list"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(_row(*it) for it in parts)}{more}</tbody></table></div></div></div>"
    )
