"""The inspector: every byte once, the fault marked, a page that needs nothing beside itself."""

from __future__ import annotations

import html.parser
import re

import numpy as np
import pytest
from golden import frames
from hypothesis import given
from hypothesis import strategies as st

from nif_lab import wire
from nif_lab.wire import WireError, encode, inspect
from nif_lab.wire.examples import EXAMPLES, LIVE
from nif_lab.wire.schema import DIALECTS, ERRORS

GOOD = list(frames.good())
BAD = list(frames.bad())


def covers(found: wire.Inspection) -> None:
    """Every byte once, in order; one part at fault in a bad frame, none in a good one."""
    at = 0
    for it in found.fields:
        assert it.offset == at, found
        assert it.length == len(it.bytes)
        at += it.length
    assert b"".join(it.bytes for it in found.fields) == found.frame
    wrong = [it for it in found.fields if not it.valid]
    assert len(wrong) == (not found.valid)
    if found.error:
        (it,) = wrong
        assert it.offset <= found.error.offset < it.offset + max(it.length, 1)


def test_the_inspector_knows_every_byte() -> None:
    for it in GOOD:
        found = inspect(it.frame, it.dialect)
        assert found.valid, it.name
        covers(found)
        assert all(part.length and part.meaning for part in found.fields), it.name
        assert not {part.name for part in found.fields} & {"not read", "end"}, it.name


def test_the_inspector_marks_the_fault() -> None:
    for it in BAD:
        found = inspect(it.frame, it.dialect, it.version, LIVE)
        covers(found)
        assert found.error.code == it.code, it.name
        at = next(i for i, part in enumerate(found.fields, 1) if not part.valid)
        assert f">>>{at:>4}" in repr(found), it.name
        assert ERRORS[it.code] in repr(found), it.name
        page = found._repr_html_()
        assert f"✗ {it.code}" in page, it.name
        assert page.count('class="run ') >= 1 or not it.frame, it.name


def test_the_inspector_says_what_bytes_mean() -> None:
    found = inspect(encode(np.arange(6.0).reshape(2, 3), "julia", 1), "julia")
    assert [(it.name, it.offset, it.length) for it in found.fields] == [
        ("version", 0, 1),
        ("marker", 1, 1),
        ("shape0", 2, 8),
        ("shape1", 10, 8),
        ("elements", 18, 48),
    ]
    assert found.fields[-1].meaning == "float64[2, 3]: 0, 3, 1, 4, 2, 5"
    paths = {it.path for it in inspect(encode(EXAMPLES["kernel_descriptor"])).fields}
    assert paths == {"", "grid", "block", "a", "inverse"}
    assert "HANDLE" in repr(inspect(encode(EXAMPLES["gpu_buffer"]), live=()))


class Page(html.parser.HTMLParser):
    """Checks that tags are balanced, and collects their names and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_plain_html_that_loads_nothing() -> None:
    for it in [*GOOD, *BAD]:
        found = inspect(it.frame, it.dialect, it.version, LIVE)
        text = found._repr_html_()
        page = Page()
        page.feed(text)
        assert not page.open
        assert not page.tags & {"script", "link", "img", "iframe", "object"}
        assert not [name for name in page.attributes if name.startswith("on") or name in {"href", "src"}]
        assert not re.search(r"url\(|@import|https?:", text)
        assert text == inspect(it.frame, it.dialect, it.version, LIVE)._repr_html_()


def test_names_from_a_frame_are_escaped() -> None:
    text = inspect(encode(wire.KernelDescriptor("<b>", parameters={"<script>": 1.0})))._repr_html_()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_a_long_frame_is_shown_in_part() -> None:
    long = inspect(encode(np.zeros(1 << 20, np.uint8)))
    assert len(long._repr_html_()) < 40_000
    assert "1,048,512 more bytes" in repr(long)
    many = wire.KernelDescriptor("k", parameters={f"p{i}": True for i in range(300)})
    frame = encode(many, "rust", 1)
    assert "more fields" in repr(inspect(frame))
    fault = inspect(frame[:-1] + b"\2")
    assert ">>>" in repr(fault)
    assert "⚠ value" in fault._repr_html_()


@given(st.binary(max_size=200), st.sampled_from([b"", b"\1", b"\1\x42", b"\x89NIF\2"]), st.sampled_from(list(DIALECTS)))
def test_junk_is_judged_too(tail: bytes, head: bytes, dialect: str) -> None:
    frame = head + tail
    found = inspect(frame, dialect)
    assert found.valid or found.error.code in ERRORS
    covers(found)


def test_a_version_or_dialect_that_is_not_there_is_refused() -> None:
    with pytest.raises(WireError, match=r"VERSION: .*got 3"):
        inspect(b"", version=3)
    with pytest.raises(WireError, match="no dialect 'cobol'"):
        inspect(b"", "cobol")
