"""A language in a Lab: opened in a lane, or the reason why it isn't."""

from __future__ import annotations

import difflib
import threading
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from . import _core, summary
from .arguments import expect
from .cells import Shelf
from .errors import SHORTAGES, BackendError, BackendNotLoaded, NoSuchFunction
from .flags import Flag

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Self

    from . import arguments
    from ._core import Library, Nif, Workers
    from .backends.base import Backend
    from .memory import MemoryManager
    from .telemetry import Telemetry

__all__ = ["Builtin", "LoadedBackend"]

_T = TypeVar("_T")
#: What completion shows beside the functions.
SHOWN: Final = ("builtin", "cells", "functions", "kernels", "lane", "library", "loaded", "path", "reason", "workers")


class Builtin:
    """The functions of a backend's own library, whatever cells have given their names to: ``lab.rust.builtin.add``."""

    __slots__ = ("_loaded",)

    def __init__(self, loaded: LoadedBackend) -> None:
        self._loaded = loaded

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._loaded.find_builtin(name).function

    def __dir__(self) -> list[str]:
        own = self._loaded.library.functions if self._loaded.library else {}
        return sorted(name for name, nif in own.items() if not nif.flags & Flag.FAULT)

    def __repr__(self) -> str:
        return f"<built-in functions of {self._loaded.name}: {', '.join(dir(self))}>"


class LoadedBackend:
    """One language in a Lab: its functions as attributes, or the reason why it isn't loaded.

    Attributes
    ----------
    name, title : str
        ``"zig"``, ``"Zig"``.
    loaded : bool
        Whether it can be called.
    lane : str
        Where its calls run: ``"direct"``, in this process, or ``"isolated"``, in a worker process.
    workers : Workers or None
        Of the isolated lane: ``pids``, how many are ``ready``, how many were ``started``; ``restart()``.
    reason, cure, detail : str
        Why it isn't loaded, how to fix it, and what the compiler or loader said; empty when it is.
    library : Library or None
        What was opened: ``language``, ``compiler``, ``version``, ``path``.
    functions : mapping of str to Nif
        Every function, those that fail on purpose and those of cells included.
    cells : Shelf
        The functions of notebook cells.
    builtin : Builtin
        The functions of its own library; a cell may have given the name of one to a function of its own.
    backend : Backend
        The language, or the file that was loaded.
    recorded_in : tuple
        The Lab's telemetry and memory.
    """

    def __init__(
        self,
        backend: Backend,
        telemetry: Telemetry | None = None,
        memory: MemoryManager | None = None,
        lane: arguments.Lane = "direct",
    ) -> None:
        self.name = backend.name
        self.title = backend.title
        self.lane = lane
        self.reason = self.cure = self.detail = ""
        self._may_pass = False
        self._loading = threading.RLock()
        self._attach: Callable[[LoadedBackend], None] | None = None
        self.workers: Workers | None = None
        self.library: Library | None = None
        self.functions: Mapping[str, Nif] = MappingProxyType({})
        self.cells = Shelf(self)
        self.backend = backend
        self.recorded_in = (telemetry.core if telemetry else None, memory.core if memory else None)
        self._start()

    def _start(self) -> None:
        if self.lane == "isolated":
            # It starts while others load.
            self.workers = self._try(self.backend.start_workers)

    def _try(self, step: Callable[[], _T]) -> _T | None:
        """Take a step of loading; note why it failed, and whether it may succeed later."""
        try:
            return step()
        except BackendError as error:
            self.reason, self.cure, self.detail = error.reason, error.cure, error.detail
            self._may_pass = error.may_pass
        except Exception as error:  # one language never stops the others, whatever its loader throws
            self.reason, self.cure = f"{type(error).__name__}: {error}", "nif-lab doctor"
            self._may_pass = isinstance(error, OSError) and error.errno in SHORTAGES
        return None

    def load_again(self) -> bool:
        """Try once more if the system was short of something when it was loaded; return whether it is loaded now."""
        with self._loading:
            if not self.loaded and self._may_pass:
                self.reason = self.cure = self.detail = ""
                self._may_pass = False
                self._start()
                self.load()
                if self.loaded and self._attach is not None:
                    self._attach(self)
            return self.loaded

    def load(self) -> Self:
        """Open the library, or wait for the worker that does."""
        library: Library | None = None
        if self.lane == "direct":
            library = self._try(lambda: self.backend.open(*self.recorded_in))
        elif (workers := self.workers) is not None:
            library = self._try(lambda: _core.open_isolated(workers, self.name, *self.recorded_in))
        if library is not None and (odd := [it for it in library.functions if self._means(it)]):
            self.reason, self.cure = f"'{odd[0]}' is a reserved attribute name", "rename the function"
            library = None
        if library is not None:
            self.functions = MappingProxyType(library.functions)
            for name, nif in self.functions.items():
                setattr(self, name, nif.function)
        self.library = library  # last: from here on other threads find it loaded
        return self

    def _means(self, name: str) -> bool:
        """Whether an attribute that isn't a function has that name."""
        return hasattr(type(self), name) or name in vars(self)

    @property
    def loaded(self) -> bool:
        return self.library is not None

    @property
    def builtin(self) -> Builtin:
        return Builtin(self)

    @property
    def path(self) -> str | None:
        """The library's file; None for a runtime's table or when not loaded."""
        return self.library.path if self.library else None

    @property
    def libraries(self) -> tuple[Library, ...]:
        """What was opened: its own library, and those of cells."""
        return (*((self.library,) if self.library else ()), *self.cells.libraries)

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the functions that are meant to succeed."""
        return tuple(sorted(name for name, nif in self.functions.items() if not nif.flags & Flag.FAULT))

    @_core.plain
    def __getattr__(self, name: str) -> Any:
        # Only what isn't there comes here: functions are plain attributes.
        if name.startswith("_"):
            raise AttributeError(name)
        bang = f"{name.removesuffix('_b')}!"
        if name.endswith("_b") and bang in self.functions:
            return getattr(self, bang)  # Julia's `sort!` as a name of Python's: `sort_b`, as juliacall has it
        return self.find_function(name).function

    def find_function(self, name: str) -> Nif:
        """Return a function by its name, whoever says the name.

        Raises
        ------
        BackendNotLoaded
            With the reason and the cure.
        NoSuchFunction
            With the nearest name, or those that there are. No other attribute is found here.
        """
        self._require_loaded()
        return self._find(expect("function", name, str, "a function's name"), self.functions)

    def find_builtin(self, name: str) -> Nif:
        """Return a function of its own library, as `find_function` does."""
        library = self._require_loaded()
        return self._find(name, library.functions)

    def _require_loaded(self) -> Library:
        if self.library is None and not self.load_again():
            raise BackendNotLoaded(f"{self.title} isn't loaded: {self.reason}", self.cure)
        assert self.library is not None, "load_again said so"
        return self.library

    def _find(self, name: str, among: Mapping[str, Nif]) -> Nif:
        if name in among:
            return among[name]
        near = difflib.get_close_matches(name, among, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(self.kernels)}"
        raise NoSuchFunction(f"{self.name} has no function '{name}'{hint}")

    def __dir__(self) -> list[str]:
        # Functions first, as completion shows them; then what describes the backend.
        names = [f"{name.removesuffix('!')}_b" if name.endswith("!") else name for name in self.kernels]
        return [*names, *(it for it in SHOWN if it not in names)]

    def __repr__(self) -> str:
        return summary.backend_text(self)

    def _repr_html_(self) -> str:
        return summary.backend_html(self)
