"""Cells that have the same functions in each language: types/ and callbacks/."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from nif_lab import _core
from nif_lab.backends.base import Options
from nif_lab.cells.cell import compiled
from nif_lab.cells.report import Report
from nif_lab.errors import CellError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nif_lab._core import Nif
    from nif_lab.lab import LoadedBackend

HERE: Final = Path(__file__).parent
SUFFIXES: Final = {"rust": "rs", "zig": "zig", "nim": "nim", "julia": "jl", "c": "c"}


def functions_of_cell(backend: LoadedBackend, folder: str) -> Mapping[str, Nif]:
    """Compile the language's cell of a folder and open it in the backend's lane; the backend doesn't learn of it."""
    code = (HERE / folder / f"cell.{SUFFIXES[backend.name]}").read_text("utf-8")
    try:
        made, _ = compiled(backend.backend, code, Options())
    except CellError as error:
        pytest.fail(str(Report(str(error), code, error.messages)), pytrace=False)
    if backend.lane == "direct":
        return backend.backend.open_cell(code, made.library, *backend.recorded_in).functions
    assert backend.workers
    source = backend.backend.cell_source(code, made.library)
    return _core.open_beside(backend.workers, source, backend.name, *backend.recorded_in).functions
