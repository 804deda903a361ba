"""Where buffers were allocated, and who owns them: ``lab.memory.buffers()``."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from .text import format_bytes, table_html

if TYPE_CHECKING:
    from ._core import SharedBuffer

__all__ = ["BufferInfo", "Places", "table"]

Handle = tuple[int, int, int]
#: Gives the address and the size.
Resolve = Callable[[Handle], tuple[int, int]]
#: Rows of a table; the largest buffers come first.
SHOWN = 20


@dataclass(frozen=True, slots=True)
class BufferInfo:
    """A buffer that isn't freed.

    Attributes
    ----------
    handle : tuple of int
        What `MemoryManager.resolve` takes.
    bytes : int
        Its size.
    owners : tuple of str
        The languages that own it; those that it was allocated for if no object of Python stands for it any more.
    place : str
        Where it was allocated: ``"cell 3, line 2"``, ``"train.py, line 40"``.
    """

    handle: Handle
    bytes: int
    owners: tuple[str, ...]
    place: str


class Places:
    """Notes each buffer's place of allocation, until it is freed."""

    def __init__(self) -> None:
        self._noted: dict[Handle, tuple[str, tuple[str, ...], weakref.ref[SharedBuffer]]] = {}
        self._limit = 1024

    def note(self, buffer: SharedBuffer, cell: int, resolve: Resolve) -> None:
        """Note a buffer that the code outside of this package has just asked for."""
        if len(self._noted) >= self._limit:
            for handle in self._noted.copy():
                if _bytes(handle, resolve) is None:
                    self._noted.pop(handle, None)
            self._limit = max(1024, 2 * len(self._noted))
        self._noted[buffer.handle] = (_caller(cell), tuple(buffer.owners), weakref.ref(buffer))

    def live(self, resolve: Resolve) -> tuple[BufferInfo, ...]:
        """Return the noted buffers that aren't freed, the largest first."""
        found = []
        for handle, (place, given, alive) in self._noted.copy().items():
            size = _bytes(handle, resolve)
            if size is None:
                self._noted.pop(handle, None)
                continue
            buffer = alive()
            owners = given if buffer is None else tuple(buffer.owners)
            found.append(BufferInfo(handle, size, owners, place))
        return tuple(sorted(found, key=lambda it: -it.bytes))


def table(buffers: tuple[BufferInfo, ...]) -> str:
    """Return a table of the largest; nothing if there are none."""
    if not buffers:
        return ""
    rows = [
        [format_bytes(it.bytes), escape(", ".join(it.owners) or "views alone"), escape(it.place)]
        for it in buffers[:SHOWN]
    ]
    more = f"; the {SHOWN} largest of {len(buffers):,}" if len(buffers) > SHOWN else ""
    return table_html(["buffer", "owners", "allocated at"], rows, caption=f"Shared buffers{more}")


def _bytes(handle: Handle, resolve: Resolve) -> int | None:
    """Return a buffer's size; None if it is freed."""
    from .errors import HandleError

    try:
        return resolve(handle)[1]
    except HandleError:
        return None


def _caller(cell: int) -> str:
    """Say which line outside of this package called; a notebook's is named by its cell."""
    package = __name__.partition(".")[0]
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame = frame.f_back
    file = frame.f_code.co_filename
    is_cell = "ipykernel_" in file or file.startswith("<ipython-input")
    return f"{f'cell {cell}' if is_cell and cell else Path(file).name}, line {frame.f_lineno}"
