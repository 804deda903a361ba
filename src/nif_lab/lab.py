"""The Lab: one object that loads the languages and calls their functions.

A call, ``lab.rust.dot(x, y)``, is two attribute look-ups and a built-in function of the core; no code of this file
runs.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from . import backends as languages
from . import summary
from . import transfer as transfers
from .codecs import Wire
from .errors import BackendError, BackendNotLoaded
from .memory import POOLS, MemoryManager, Pool
from .telemetry import Event, History, Snapshot, Subscription, Telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import ArrayLike

    from ._core import Library, Nif
    from .backends.base import Backend
    from .panels.dashboard import Dashboard

__all__ = ["Lab", "LoadedBackend"]

#: ``NIF_FLAG_FAULT`` of nif_lab.h: a function that fails on purpose stays out of listings.
FAULT: Final = 32


class LoadedBackend:
    """One language in a Lab: its functions as attributes, or the reason why it isn't loaded.

    Attributes
    ----------
    name, title : str
        ``"zig"``, ``"Zig"``.
    loaded : bool
        Whether it can be called.
    lane : str
        Where its calls run: ``"direct"``, in this process.
    reason, cure, detail : str
        Why it isn't loaded, what mends it, and what the compiler or loader said; empty when it is.
    library : Library or None
        What was opened: ``language``, ``compiler``, ``version``, ``path``.
    functions : mapping of str to Nif
        Every function, those that fail on purpose included.
    """

    def __init__(
        self, backend: Backend, telemetry: Telemetry | None = None, memory: MemoryManager | None = None
    ) -> None:
        self.name = backend.name
        self.title = backend.title
        self.lane = "direct"
        self.reason = self.cure = self.detail = ""
        self.library: Library | None = None
        self.functions: Mapping[str, Nif] = MappingProxyType({})
        try:
            self.library = backend.open(telemetry.core if telemetry else None, memory.core if memory else None)
        except BackendError as error:
            self.reason, self.cure, self.detail = error.reason, error.cure, error.detail
        except Exception as error:  # one language never stops the others, whatever its loader throws
            self.reason, self.cure = f"{type(error).__name__}: {error}", "nif-lab doctor"
        if self.library is not None:
            self.functions = MappingProxyType(self.library.functions)
            for name, nif in self.functions.items():
                setattr(self, name, nif.function)

    @property
    def loaded(self) -> bool:
        return self.library is not None

    @property
    def path(self) -> str | None:
        """The library's file; None for a runtime's table or when not loaded."""
        return self.library.path if self.library else None

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the functions that are meant to succeed."""
        return tuple(sorted(name for name, nif in self.functions.items() if not nif.flags & FAULT))

    def __getattr__(self, name: str) -> Any:
        # Only what isn't there comes here: functions are plain attributes.
        if name.startswith("_"):
            raise AttributeError(name)
        if not self.loaded:
            raise BackendNotLoaded(f"{self.title} isn't loaded: {self.reason}", self.cure)
        near = difflib.get_close_matches(name, self.functions, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(self.kernels)}"
        raise AttributeError(f"{self.name} has no function '{name}'{hint}")

    def __dir__(self) -> list[str]:
        hidden = set(self.functions) - set(self.kernels)
        return sorted(set(super().__dir__()) - hidden)

    def __repr__(self) -> str:
        return summary.backend_text(self)

    def _repr_html_(self) -> str:
        return summary.backend_html(self)


class Lab:
    """Load the native backends and call their functions.

    Parameters
    ----------
    backends
        Names of the languages to load; all of them unless given. One that can't be loaded is shown with its reason and
        its cure, and doesn't stop the rest.
    pools
        Size classes of the shared memory, `nif_lab.memory.POOLS` unless given.

    Attributes
    ----------
    memory : MemoryManager
        Pools, shared buffers and mapped files.
    telemetry : Telemetry
        What was called, how often and how long.
    wire : Wire
        Values as frames and back, by the codec of any language.

    Examples
    --------
    >>> lab = Lab()
    >>> lab.rust.dot(x, y)
    >>> lab.call("zig", "dot", x, y)
    """

    def __init__(self, backends: Iterable[str] | None = None, pools: Iterable[Pool] = POOLS) -> None:
        wanted = languages.names() if backends is None else tuple(backends)
        self.telemetry = Telemetry()
        self.memory = MemoryManager(pools, self.telemetry.core)
        self.backends: Mapping[str, LoadedBackend] = MappingProxyType(
            {name: LoadedBackend(languages.find(name), self.telemetry, self.memory) for name in wanted}
        )
        self.wire = Wire(self.backends, self.memory)
        for name, backend in self.backends.items():
            setattr(self, name, backend)

    def __getattr__(self, name: str) -> LoadedBackend:
        # Only what isn't there comes here: backends are plain attributes.
        if name in languages.names():
            raise BackendNotLoaded(f"this Lab was made without {name}", f"Lab(backends=[..., {name!r}])")
        raise AttributeError(f"Lab has no attribute or language '{name}'; its languages are {', '.join(self.backends)}")

    def call(self, backend: str, function: str, *args: Any, **kwargs: Any) -> Any:
        """Call a function by name: ``lab.call("zig", "dot", x, y)`` is ``lab.zig.dot(x, y)``.

        Raises
        ------
        BackendNotLoaded
            With the reason and the cure.
        NifError
            What the function refused or failed with.
        """
        if backend not in self.backends:
            raise BackendNotLoaded(f"no backend '{backend}'", f"use one of {', '.join(self.backends)}")
        return getattr(self.backends[backend], function)(*args, **kwargs)

    def snapshot(self) -> Snapshot:
        """Return all counters, and the figures of the memory, as they are now."""
        return replace(self.telemetry.snapshot(), memory=self.memory.metrics())

    def history(self, last: int = 1000) -> History:
        """Return the last calls: when, what, how long, with what outcome, from which notebook cell."""
        return self.telemetry.history(last)

    def subscribe(self, topic: str, callback: Callable[[Event], object]) -> Subscription:
        """Call ``callback`` with each event of ``nif:performance``, ``nif:errors`` or ``nif:memory`` from now on.

        It runs on a thread of its own: a slow or raising one delays no call.
        """
        return self.telemetry.subscribe(topic, callback)

    def transfer(self, source: str, target: str, array: ArrayLike) -> transfers.Transfer:
        """Hand an array from one language to another through shared memory.

        The source language writes it into shared memory (unless it lies there already), the target language reads it
        where it lies, and both return their own checksum.

        Parameters
        ----------
        source, target
            Names of two backends.
        array
            Any shape; contiguous, of one of the element types of the ABI.
        """
        return transfers.transfer(self.backends[source], self.backends[target], array)

    def transfer_matrix(self, array: ArrayLike) -> transfers.TransferMatrix:
        """Transfer an array between all pairs of different languages that are loaded."""
        loaded = [it for it in self.backends.values() if it.loaded]
        return transfers.transfer_matrix(loaded, array)

    def dashboard(self) -> Dashboard:
        """Return the panels of this Lab as one widget."""
        from .panels.dashboard import Dashboard

        return Dashboard(self)

    def __repr__(self) -> str:
        return summary.lab_text(self)

    def _repr_html_(self) -> str:
        return summary.lab_html(self)
