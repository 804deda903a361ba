"""Every type of docs/abi.md, as each language writes it: the cells in types/ have the same functions in all of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

from nif_lab import _core
from nif_lab.backends.base import Options
from nif_lab.cells.cell import compiled
from nif_lab.cells.report import Report
from nif_lab.errors import CellError

if TYPE_CHECKING:
    from nif_lab.lab import LoadedBackend

CELLS: Final = Path(__file__).with_name("types")
SUFFIXES: Final = {"rust": "rs", "zig": "zig", "nim": "nim", "julia": "jl", "c": "c"}


@pytest.fixture(scope="module")
def typed(backend: LoadedBackend) -> Any:
    """The functions of a language's cell, in the backend's lane; the backend doesn't learn of them."""
    code = (CELLS / f"cell.{SUFFIXES[backend.name]}").read_text("utf-8")
    try:
        made, _ = compiled(backend.backend, code, Options())
    except CellError as error:
        pytest.fail(str(Report(str(error), code, error.messages)), pytrace=False)
    if backend.lane == "direct":
        library = backend.backend.open_cell(code, made.library, *backend.recorded_in)
    else:
        assert backend.workers
        source = backend.backend.cell_source(code, made.library)
        library = _core.open_beside(backend.workers, source, backend.name, *backend.recorded_in)
    return SimpleNamespace(**{name: nif.function for name, nif in library.functions.items()}, all=library.functions)


def test_any_byte_but_zero_is_true(typed: Any, rng: np.random.Generator) -> None:
    """A NumPy bool array may be a view of bytes; NumPy, too, takes each but 0 for true."""
    some = rng.integers(0, 256, 1000, np.uint8)
    for octets in (np.arange(256, dtype=np.uint8), np.array([0, 1, 2, 3, 128, 255], np.uint8), some, some[:0]):
        x = octets.view(bool)
        count = int(np.count_nonzero(octets))
        assert (typed.trues(x), typed.pick(x)) == (count, 10 * len(x) + 10 * count)
        assert typed.opposite(x).view(np.uint8).tolist() == (octets == 0).tolist()
        wide = np.broadcast_to(octets[:, None], (len(octets), 3)).view(bool)
        assert typed.trues_of(wide) == typed.trues_of(wide[::-1]) == 3 * count
