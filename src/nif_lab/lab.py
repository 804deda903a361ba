"""The Lab: one object that loads the languages and calls their functions.

A call, ``lab.rust.dot(x, y)``, is two attribute look-ups and a built-in function of the core; no code of this file
runs.
"""

from __future__ import annotations

import difflib
import threading
import weakref
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from . import _core, projects, summary
from . import backends as languages
from . import transfer as transfers
from .backends.base import Options
from .cells import Cell, Cells, Request, Shelf
from .codecs import Wire
from .errors import SHORTAGES, BackendError, BackendNotLoaded, system_refusal
from .faults import Faults
from .lane import Lane
from .ledger import Ledger
from .loading import library_file
from .memory import POOLS, MemoryManager, Pool
from .recovery import Recovery, RecoveryPolicy, with_options
from .segment import LANES
from .telemetry import Event, History, Snapshot, Subscription, Telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from typing_extensions import Self

    from ._core import Library, Nif, Workers
    from .backends.base import Backend
    from .panels.dashboard import Dashboard

__all__ = ["Lab", "Lane", "LoadedBackend"]

_T = TypeVar("_T")

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
        Where its calls run: ``"direct"``, in this process, or ``"isolated"``, in a worker process.
    workers : Workers or None
        Of the isolated lane: ``pids``, how many are ``ready``, how many were ``started``; ``restart()``.
    reason, cure, detail : str
        Why it isn't loaded, what mends it, and what the compiler or loader said; empty when it is.
    library : Library or None
        What was opened: ``language``, ``compiler``, ``version``, ``path``.
    functions : mapping of str to Nif
        Every function, those that fail on purpose and those of cells included.
    cells : Shelf
        The functions of notebook cells.
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
        lane: str = "direct",
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
        if self.lane == "direct":
            self.library = self._try(lambda: self.backend.open(*self.recorded_in))
        elif (workers := self.workers) is not None:
            self.library = self._try(lambda: _core.open_isolated(workers, self.name, *self.recorded_in))
        if self.library is not None and (odd := [it for it in self.library.functions if self._means(it)]):
            self.reason, self.cure = f"'{odd[0]}' means something else in a backend", "rename the function"
            self.library = None
        if self.library is not None:
            self.functions = MappingProxyType(self.library.functions)
            for name, nif in self.functions.items():
                setattr(self, name, nif.function)
        return self

    def _means(self, name: str) -> bool:
        """Whether an attribute that isn't a function has that name."""
        return hasattr(type(self), name) or name in vars(self)

    @property
    def loaded(self) -> bool:
        return self.library is not None

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
        return tuple(sorted(name for name, nif in self.functions.items() if not nif.flags & FAULT))

    def __getattr__(self, name: str) -> Any:
        # Only what isn't there comes here: functions are plain attributes.
        if name.startswith("_"):
            raise AttributeError(name)
        if not self.loaded:
            if self.load_again() and name in self.functions:
                return getattr(self, name)
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
    lane
        Where calls run: ``"direct"``, in this process, in nanoseconds, where a segmentation fault ends it;
        ``"isolated"``, in a worker process, which may crash. Unless given, each backend's own: isolated for Julia,
        direct for the others.
    policy
        What to do when an isolated call fails.

    Attributes
    ----------
    direct, isolated : Lane
        The backends in either lane: ``lab.isolated.zig.dot(x, y)``.
    recovery : Recovery
        Policies of failed calls.
    cells : Cells
        Native code of notebook cells; `cell` and the magics use it.
    libraries : dict of str to LoadedBackend
        What `load` has loaded.
    ledger : Ledger
        Every copy that a call or transfer made, and the shares of what wasn't copied.
    faults : Faults
        Deliberate failures: ``lab.faults.inject("zig", "null_store")``.
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

    def __init__(
        self,
        backends: Iterable[str] | None = None,
        pools: Iterable[Pool] = POOLS,
        lane: str | None = None,
        policy: RecoveryPolicy | None = None,
    ) -> None:
        if lane not in (None, *LANES):
            raise ValueError(f"no lane '{lane}'; there are {', '.join(LANES)}")
        wanted = [languages.find(name) for name in (languages.names() if backends is None else backends)]
        try:
            self.telemetry = Telemetry()
            self.memory = MemoryManager(pools, self.telemetry.core)
        except OSError as error:
            raise system_refusal(error, "a Lab") from error
        # The functions hold the recovery, so it must not hold the Lab.
        self._opened: dict[tuple[str, str], LoadedBackend] = {}
        self._opening: dict[tuple[str, str], threading.RLock] = {}
        self.recovery = Recovery(partial(_others, weakref.ref(self)), policy or RecoveryPolicy())
        made = {it.name: LoadedBackend(it, self.telemetry, self.memory, lane or it.lane) for it in wanted}
        self.backends: Mapping[str, LoadedBackend] = MappingProxyType(made)
        self.libraries: dict[str, LoadedBackend] = {}
        self.direct, self.isolated = (Lane(it, self.backends, partial(_in_lane, weakref.ref(self))) for it in LANES)
        for backend in made.values():
            self._keep(backend.load())
        self.wire = Wire(self.backends, self.memory)
        self.ledger = Ledger(self.memory.core)
        self._transfers = transfers.Transfers(self.memory, self.wire, self.ledger)
        this = weakref.ref(self)
        self.cells = Cells(partial(_in_lane, this), partial(_shown, this))
        self.faults = Faults(partial(_in_lane, weakref.ref(self)), self.memory, self.recovery)
        for name, backend in self.backends.items():
            setattr(self, name, backend)

    def __getattr__(self, name: str) -> LoadedBackend:
        # Only what isn't there comes here: backends are plain attributes.
        if name in languages.names():
            raise BackendNotLoaded(f"this Lab was made without {name}", f"Lab(backends=[..., {name!r}])")
        raise AttributeError(f"Lab has no attribute or language '{name}'; its languages are {', '.join(self.backends)}")

    def _keep(self, backend: LoadedBackend) -> None:
        self._opened[backend.name, backend.lane] = backend
        if backend.lane == "isolated":
            self.recovery.attach(backend)
            if not backend.loaded:
                backend._attach = self.recovery.attach

    def _in_lane(self, name: str, lane: str) -> LoadedBackend:
        """Return a backend of this Lab in a lane; it is opened there if it wasn't."""
        wanted, key = self._named(name), (name, lane)
        if key not in self._opened:
            with self._opening.setdefault(key, threading.RLock()):  # threads that ask at once get the same one
                if key not in self._opened:
                    self._keep(LoadedBackend(wanted.backend, self.telemetry, self.memory, lane).load())
        opened = self._opened[key]
        if not opened.loaded:
            opened.load_again()
        return opened

    def call(
        self,
        backend: str,
        function: str,
        *args: Any,
        lane: str | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        failover: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a function by name: ``lab.call("zig", "dot", x, y)`` is ``lab.zig.dot(x, y)``.

        Parameters
        ----------
        lane
            ``"direct"`` or ``"isolated"``; the backend's own unless given.
        timeout
            Seconds after which the call is stopped and its worker ended; only in the isolated lane.
        retries, failover
            How often to try again, and whether to ask other languages then; as the policy says unless given.

        Raises
        ------
        BackendNotLoaded
            With the reason and the cure.
        NifError
            What the function refused or failed with, with all that was tried.
        """
        loaded = self._named(backend) if lane is None else self._in_lane(backend, lane)
        if function in loaded.functions:
            # A cell's function may run in another lane than its backend.
            loaded = self._in_lane(backend, loaded.functions[function].lane_name)
        if timeout is None and retries is None and failover is None:
            return getattr(loaded, function)(*args, **kwargs)
        if timeout is not None and loaded.lane == "direct":
            raise ValueError("a call in this process can't be ended: use lane='isolated' for a timeout")
        getattr(loaded, function)  # raises with a hint if there is none
        policy = with_options(self.recovery.policy(backend, function), timeout, retries, failover)
        return self.recovery.call(loaded, function, args, kwargs, policy)

    def load(self, path: str | Path, name: str | None = None, lane: str = "isolated") -> LoadedBackend:
        """Load a library as a backend of its own: ``lab.load("libmine.so")``, then ``lab.mine.f(x)``.

        Parameters
        ----------
        path
            A library with the entry table of docs/abi.md, one of TVM-FFI functions, or a file of Julia functions.
        name
            What it is called; ``mine`` for ``libmine.so`` unless given.
        lane
            ``"isolated"``, in workers of its own, or ``"direct"``.

        Raises
        ------
        AbiError
            When it can't be loaded, with the reason and the cure.
        ValueError
            When the name is taken or can't be one.
        """
        if lane not in LANES:
            raise ValueError(f"no lane '{lane}'; there are {', '.join(LANES)}")
        file = library_file(path, name, {*languages.names(), *vars(self), *dir(type(self))})
        loaded = LoadedBackend(file, self.telemetry, self.memory, lane)
        if not loaded.load().loaded:
            raise file.refusal(loaded.reason, loaded.cure, loaded.detail)
        self._keep(loaded)
        self.libraries[file.name] = loaded
        setattr(self, file.name, loaded)
        return loaded

    def new(self, language: str, name: str, folder: str | Path = ".") -> Path:
        """Write a project whose library `load` takes into the folder ``name``: see `nif_lab.projects.new`."""
        return projects.new(language, name, folder)

    def cell(
        self,
        language: str,
        source: str,
        *,
        name: str = "",
        lane: str = "isolated",
        replace: bool = False,
        release: bool = True,
        flags: Iterable[str] = (),
    ) -> Cell:
        """Compile native code and add its public functions to the backend, as ``%%zig`` does.

        Parameters
        ----------
        language
            Which.
        source
            Plain functions in that language's idiom; docs/cells.md has an example of each.
        name
            What errors call it; its first function's name unless given. A cell takes the place of one of the same name.
        lane
            ``"isolated"``, where a crash costs nothing, or ``"direct"``.
        replace
            Whether it may take functions' names from other cells, and hide built-in ones.
        release
            Whether it is optimised.
        flags
            More flags for the compiler.

        Raises
        ------
        CellError
            With the compiler's messages in lines of the source.
        ToolchainMissing
            With the reason and the cure.
        """
        if lane not in LANES:
            raise ValueError(f"no lane '{lane}'; there are {', '.join(LANES)}")
        options = Options(release, tuple(flags))
        what = Request(language=language, code=source, name=name, key=name, lane=lane, replace=replace, options=options)
        return self.cells.run(what)

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

    def transfer(
        self,
        source: str,
        target: str,
        value: Any,
        mode: str = "auto",
        *,
        strict: bool = False,
        lane: str | None = None,
        dialect: str = "rust",
        version: int = 2,
    ) -> transfers.Transfer:
        """Hand a value from one language to another, and prove what happened on the way.

        Parameters
        ----------
        source, target
            Names of two backends.
        value
            A number, an array of any shape, order and strides, a shared buffer, a mapped file, or a record of
            `nif_lab.wire` (networks, tensor operations, kernel descriptors).
        mode
            ``"shared"``: the target reads an array where it lies in shared memory. ``"wire"``: the source's codec
            encodes, the target's decodes. ``"mmap"``: through a mapped file. ``"auto"``: shared for arrays, wire for
            all else.
        strict
            Raise `CopyRequired` instead of copying.
        lane
            Of both; each backend's own unless given.
        dialect, version
            Of the frame.

        Returns
        -------
        Transfer
            What arrived, times, both languages' checksums, and every copy with its reason.
        """
        sender, receiver = (self._in_lane(it, lane) if lane else self._named(it) for it in (source, target))
        return self._transfers.transfer(sender, receiver, value, mode, strict=strict, dialect=dialect, version=version)

    def transfer_matrix(
        self,
        value: Any,
        modes: Sequence[str] = ("auto",),
        *,
        selves: bool = False,
        strict: bool = False,
        lane: str | None = None,
    ) -> transfers.TransferMatrix:
        """Transfer a value between all pairs of languages that are loaded, in each of the modes.

        ``selves``: also from each language to itself. The rest is as for `transfer`.
        """
        all_of_them = (self._in_lane(name, lane) if lane else it for name, it in self.backends.items())
        loaded = [it for it in all_of_them if it.loaded]
        return self._transfers.matrix(loaded, value, modes, selves=selves, strict=strict)

    def _named(self, name: str) -> LoadedBackend:
        if name in self.libraries:
            return self.libraries[name]
        if name not in self.backends:
            raise BackendNotLoaded(f"no backend '{name}'", f"use one of {', '.join([*self.backends, *self.libraries])}")
        return self.backends[name]

    def dashboard(self, rate: float = 10.0) -> Dashboard:
        """Return the panels of this Lab as one widget; its figures are renewed ``rate`` times a second, busy or not."""
        from .panels.dashboard import Dashboard

        return Dashboard(self, rate)

    def __repr__(self) -> str:
        return summary.lab_text(self)

    def _repr_html_(self) -> str:
        return summary.lab_html(self)


def _in_lane(lab: weakref.ref[Lab], name: str, lane: str) -> LoadedBackend:
    this = lab()
    if this is None:
        raise BackendNotLoaded("the Lab of this is gone", "keep the Lab itself: lab = Lab()")
    return this._in_lane(name, lane)


def _shown(lab: weakref.ref[Lab], name: str) -> LoadedBackend:
    this = lab()
    if this is None:
        raise BackendNotLoaded("the Lab of this is gone", "keep the Lab itself: lab = Lab()")
    return this._named(name)


def _others(lab: weakref.ref[Lab], name: str) -> Iterator[LoadedBackend]:
    """Yield the other backends of a Lab, isolated: who may answer in place of one.

    Languages only: a function of the same name and signature may mean something else in a library.
    """
    this = lab()
    for other in tuple(this.backends) if this is not None and name in this.backends else ():
        if other != name and (loaded := _in_lane(lab, other, "isolated")).loaded:
            yield loaded
