"""The functions that cells gave to one backend."""

from __future__ import annotations

import weakref
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..errors import CellError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .._core import Library, Nif
    from ..lab import LoadedBackend
    from .handle import Handle

__all__ = ["Shelf"]


class Shelf:
    """The functions of cells in a backend: ``lab.zig.cells``.

    Attributes
    ----------
    added : callable
        Is told of each library that is added.
    apart : mapping of str to mapping of str to Handle
        The functions of files that were imported as modules, by the file: they are no attributes of the backend.
    """

    def __init__(self, loaded: LoadedBackend) -> None:
        self.added: Callable[[Library], None] = lambda _: None
        self.apart: Mapping[str, Mapping[str, Handle]] = {}
        self._loaded = weakref.ref(loaded)
        # Never changed, but replaced as a whole: other threads may be reading.
        self._cells: Mapping[str, Mapping[str, Handle]] = {}
        self._libraries: Mapping[str, Library] = {}

    def __dir__(self) -> list[str]:
        return ["cell_of", "libraries"]

    @property
    def libraries(self) -> tuple[Library, ...]:
        """The cells' libraries, but for those that other cells have replaced."""
        return tuple(self._libraries.values())

    def cell_of(self, nif: Nif) -> str:
        """Return the name of the cell or the file that a function is from; empty for a built-in one."""
        mine = self.file_of(nif)
        homes = (self.apart[mine],) if mine else self._cells.values()
        return next((home[nif.name].cell for home in homes if nif.name in home), "")

    def file_of(self, nif: Nif) -> str:
        """Return the file that a function was imported from; empty for all others."""
        return next((file for file, it in self.apart.items() if nif.name in it and it[nif.name].nif is nif), "")

    def handle_of(self, nif: Nif) -> Handle | None:
        """Return what users hold of a function; None if no cell here has it now."""
        return next((it for cell in self._cells.values() for it in cell.values() if it.nif is nif), None)

    def taken(self, names: Iterable[str], key: str) -> dict[str, str]:
        """Return the names that the cell ``key`` takes, and from whom: a cell, or ``""`` for a built-in one.

        Raises
        ------
        CellError
            With a name that is no function's in this backend, and the cure.
        """
        loaded = self._home()
        mine = self._cells.get(key, {})
        others = {}
        for name in names:
            if hasattr(type(loaded), name) or (name in vars(loaded) and name not in loaded.functions):
                raise CellError(
                    f"'{name}' means something else in lab.{loaded.name}", cure="give the function another name"
                )
            if name in loaded.functions and name not in mine:
                others[name] = self.cell_of(loaded.functions[name])
        return others

    def add(self, library: Library, key: str, handles: Mapping[str, Handle]) -> dict[str, Handle]:
        """Make the functions of the cell ``key`` those of the backend; return the handles that their users hold.

        What the cell had before is replaced: who holds a function calls the new one. A function that it no longer has
        leaves the backend; who holds it still calls the old one.
        """
        loaded = self._home()
        former = dict(self._cells.get(key, {}))
        cells = {it: dict(cell) for it, cell in self._cells.items() if it != key}
        for cell in cells.values():
            for name in handles.keys() & cell.keys():
                former[name] = cell.pop(name)
        kept = {name: former[name].becomes(it) if name in former else it for name, it in handles.items()}
        self._cells = {**cells, key: kept}
        self._libraries = {**self._libraries, key: library}
        built_in: Mapping[str, Nif] = loaded.library.functions if loaded.library else {}
        added = {name: it.nif for cell in self._cells.values() for name, it in cell.items()}
        loaded.functions = MappingProxyType({**built_in, **added})
        for name in former.keys() - kept.keys():
            delattr(loaded, name)
            if name in built_in:
                setattr(loaded, name, built_in[name].function)
        for name, handle in kept.items():
            setattr(loaded, name, handle)
        self.added(library)
        return kept

    def keep_apart(self, library: Library, file: str, handles: Mapping[str, Handle]) -> dict[str, Handle]:
        """Keep the functions of a file that was imported; those of its earlier import become the new ones."""
        former = self.apart.get(file, {})
        kept = {name: former[name].becomes(it) if name in former else it for name, it in handles.items()}
        self.apart = {**self.apart, file: kept}
        self._libraries = {**self._libraries, file: library}
        self.added(library)
        return kept

    def _home(self) -> LoadedBackend:
        loaded = self._loaded()
        assert loaded is not None, "the backend owns its shelf"
        return loaded
