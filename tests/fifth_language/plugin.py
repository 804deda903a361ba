"""A pytest plugin: C becomes a language as the others are, and the conformance suite tests it and no other.

Importing it does what putting the files into the checkout would: `c` beside `zig`, `backends/c.py` beside `zig.py`.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import nif_lab.backends

HERE = Path(__file__).resolve().parent
#: The language that C is held to: as many tests, and the outcomes of docs/faults.md.
MODEL = "zig"

nif_lab.backends.__path__.append(str(HERE / "backends"))

from nif_lab.backends.c import C  # noqa: E402

C.sources = HERE / "c"


def pytest_configure() -> None:
    backend = C()
    backend.build(backend.sources, backend.library)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tests = {name: [it for it in items if language_of(it) == name] for name in (C.name, MODEL)}
    by_function = {name: Counter(it.nodeid.partition("[")[0] for it in of) for name, of in tests.items()}
    if by_function[C.name] != by_function[MODEL]:
        raise pytest.UsageError(f"C has other tests than {MODEL}: {by_function}")
    for row in sys.modules["test_fault_room"].ROWS:
        row.outcomes[C.name] = row.outcomes[MODEL]
    others = [it for it in items if language_of(it) not in (C.name, None)]
    config.hook.pytest_deselected(items=others)
    items[:] = [it for it in items if language_of(it) in (C.name, None)]


def language_of(item: Any) -> str | None:
    """Return the language that a test is of, or None if it is of none."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    name = parameters.get("backend") or parameters.get("direct") or parameters.get("library")
    return name[0] if isinstance(name, tuple) else name
