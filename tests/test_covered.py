"""What `make coverage` makes of the counters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import covered
from covered import Lines

if TYPE_CHECKING:
    import pytest


def test_lines_are_written_as_people_write_them() -> None:
    assert covered.ranges({9, 3, 8, 7, 12, 13}) == "3, 7-9, 12-13"
    assert covered.ranges(()) == ""


def test_a_line_that_any_program_ran_is_run() -> None:
    text = "SF:nif_lab/rust/nif_lab/rust/copy/src/lib.rs\nDA:3,0\nDA:4,2\nend_of_record\n"
    again = "SF:/somewhere/rust/copy/src/lib.rs\nDA:3,7\nDA:5,0\nend_of_record\n"
    files = covered.from_lcov(text + again)
    assert {name: (it.all, it.run) for name, it in files.items()} == {"rust/copy/src/lib.rs": ({3, 4, 5}, {3, 4})}


def test_a_file_without_a_reason_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(covered, "REASONS", {"rust/gpu/*": "No GPU."})
    files = {
        "rust/gpu/src/pool.rs": Lines({1, 2}, {1}),
        "src/nif_lab/lab.py": Lines({1, 2, 3}, {2}, 4, 3),
        "src/nif_lab/panels/wire.py": Lines({1}, {1}),
    }
    assert covered.reasons_for(files) == {"No GPU.": ["rust/gpu/src/pool.rs"], "": ["src/nif_lab/lab.py"]}
    text = covered.as_markdown(files)
    assert "| src/nif_lab | 3 | 33.3 | 75.0 |" in text
    assert "| src/nif_lab/panels | 1 | 100.0 | – |" in text
    assert "- src/nif_lab/lab.py: 1, 3" in text
