"""The Lab: one object that loads the languages and calls their functions.

A call, ``lab.rust.dot(x, y)``, is two attribute look-ups and a built-in function of the core; no code of this file
runs.
"""

from __future__ import annotations

import threading
import weakref
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from . import _core, foreign, projects, stubs, summary, travel
from . import backends as languages
from . import transfer as transfers
from .arguments import LANES, MODES, expect, names, number, one_of, path_of
from .backends.base import Options
from .cells import Cell, Cells, Request
from .codecs import Wire
from .errors import ArgumentValueError, BackendNotLoaded, system_refusal
from .faults import Faults
from .gpu import Gpu
from .lane import Lane
from .ledger import Ledger
from .loaded import LoadedBackend
from .loading import library_file
from .mapping import Failures, Map
from .memory import POOLS, MemoryManager, Pool
from .pickling import reduce_lab
from .programs import fill_standard
from .recovery import Recovery, RecoveryPolicy, with_options
from .telemetry import Telemetry
from .watched import Watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor

    from . import arguments
    from .panels.dashboard import Dashboard

__all__ = ["Lab", "Lane", "LoadedBackend"]

RESULTS: Final = ("caller", "numpy")


class Lab(Watched):
    """Load the native backends and call their functions.

    Parameters
    ----------
    backends
        Names of the languages to load, or the name of one; all of them unless given. One that can't be loaded is shown
        with its reason and its cure, and doesn't stop the rest.
    pools
        Size classes of the shared memory, `nif_lab.memory.POOLS` unless given.
    lane
        Where calls run: ``"direct"``, in this process, in nanoseconds, where a segmentation fault ends it;
        ``"isolated"``, in a worker process, which may crash. Unless given, each backend's own: isolated for Julia,
        direct for the others.
    policy
        What to do when an isolated call fails.
    gpu_limits
        Bytes that the pools of languages on each GPU may grow to: ``{"rust": 1 << 30}``.

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
    gpu : Gpu
        Devices, and kernels for them.
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
        lane: arguments.Lane | None = None,
        policy: RecoveryPolicy | None = None,
        gpu_limits: Mapping[str, int] | None = None,
    ) -> None:
        if lane is not None:
            one_of("lane", lane, LANES)
        wanted = [languages.find(it) for it in (languages.names() if backends is None else names("backends", backends))]
        fill_standard()
        try:
            self.telemetry = Telemetry()
            self.memory = MemoryManager(pools, self.telemetry.core, gpu_limits)
        except OSError as error:
            raise system_refusal(error, "a Lab") from error
        # The functions hold the recovery, so it must not hold the Lab.
        self._opened: dict[tuple[str, str], LoadedBackend] = {}
        self._opening: dict[tuple[str, str], threading.RLock] = {}
        self.recovery = Recovery(partial(_others, weakref.ref(self)), RecoveryPolicy() if policy is None else policy)
        #: Whether languages are loaded when they are asked for: in a Lab that a notebook's magics make, and in one that
        #: stands for another process's.
        self._grows = False
        #: The languages that it has, or may have by then.
        self.may_load: Sequence[str] = [it.name for it in wanted]
        self._lane = lane
        self._made = {it.name: LoadedBackend(it, self.telemetry, self.memory, lane or it.lane) for it in wanted}
        self.backends: Mapping[str, LoadedBackend] = MappingProxyType(self._made)
        self.libraries: dict[str, LoadedBackend] = {}
        self.direct, self.isolated = (Lane(it, self.backends, partial(_in_lane, weakref.ref(self))) for it in LANES)
        for backend in self._made.values():
            self._keep(backend.load())
        self.wire = Wire(self.backends, self.memory)
        self.ledger = Ledger(self.memory.core)
        self._transfers = transfers.Transfers(self.memory, self.wire, self.ledger)
        this = weakref.ref(self)
        self.gpu = Gpu(partial(_function, this), self.memory.allocate)
        self.cells = Cells(partial(_in_lane, this), lambda name: _alive(this)._named(name))
        self.faults = Faults(partial(_in_lane, weakref.ref(self)), self.memory, self.recovery, self.gpu.fault)
        for name, backend in self.backends.items():
            setattr(self, name, backend)
        self._key = travel.known(self)

    def __getattr__(self, name: str) -> LoadedBackend:
        # Only what isn't there comes here: backends are plain attributes.
        if name in languages.names():
            if self._grows and name in self.may_load:
                return self._named(name)
            raise BackendNotLoaded(f"this Lab was made without {name}", f"Lab(backends=[..., {name!r}])")
        raise AttributeError(f"Lab has no attribute or language '{name}'; its languages are {', '.join(self.backends)}")

    def _keep(self, backend: LoadedBackend) -> None:
        if backend.lane == "isolated":
            self.recovery.attach(backend)
            if not backend.loaded:
                backend._attach = self.recovery.attach
        self._opened[backend.name, backend.lane] = backend  # last: another thread may call it from here on

    def _in_lane(self, name: str, lane: arguments.Lane) -> LoadedBackend:
        """Return a backend of this Lab in a lane; it is opened there if it wasn't."""
        wanted, key = self._named(name), (name, one_of("lane", lane, LANES))
        if key not in self._opened:
            with self._opening.setdefault(key, threading.RLock()):  # threads that ask at once get the same one
                if key not in self._opened:
                    self._keep(LoadedBackend(wanted.backend, self.telemetry, self.memory, lane).load())
        opened = self._opened[key]
        if not opened.loaded:
            opened.load_again()
        return opened

    @_core.plain
    def call(
        self,
        backend: str,
        function: str,
        *args: Any,
        lane: arguments.Lane | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        failover: bool | None = None,
        strict: bool | None = None,
        result: Literal["caller", "numpy"] | None = None,
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
        strict : bool, optional
            Whether arguments are refused that would have to be copied to fit; as ``lab.strict`` unless given.
        result : {"caller", "numpy"}, optional
            The kind of array results: that of the first array argument, or NumPy's; as ``lab.results`` unless given.

        Raises
        ------
        BackendNotLoaded
            With the reason and the cure.
        NoSuchFunction
            With the nearest name.
        NifError
            What the function refused or failed with, with all that was tried.
        """
        if strict is not None or result is not None:
            with foreign.options(strict, None if result is None else one_of("result", result, RESULTS)):
                return self.call(
                    backend, function, *args, lane=lane, timeout=timeout, retries=retries, failover=failover, **kwargs
                )
        nif = (self._named(backend) if lane is None else self._in_lane(backend, lane)).find_function(function)
        if timeout is None and retries is None and failover is None:
            return nif.function(*args, **kwargs)
        loaded = self._in_lane(backend, nif.lane_name)  # a cell's function may run in another lane than its backend
        if timeout is not None and loaded.lane == "direct":
            reason = "a call in this process can't be ended: use lane='isolated' for a timeout"
            raise ArgumentValueError("timeout", reason)
        policy = with_options(self.recovery.policy(backend, function), timeout, retries, failover)
        return self.recovery.call(loaded, nif, args, kwargs, policy)

    @property
    def strict(self) -> bool:
        """Whether arguments are refused that would have to be copied to fit; False unless set."""
        return self.memory.core.strict

    @strict.setter
    def strict(self, on: bool) -> None:
        self.memory.core.strict = expect("strict", on, bool, "True or False")

    @property
    def results(self) -> str:
        """Kind of array results: ``"caller"``, that of the first array argument, or ``"numpy"``."""
        return self.memory.core.results

    @results.setter
    def results(self, kind: Literal["caller", "numpy"]) -> None:
        self.memory.core.results = one_of("results", kind, RESULTS)

    @_core.plain
    def load(self, path: str | Path, name: str | None = None, lane: arguments.Lane = "isolated") -> LoadedBackend:
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
        one_of("lane", lane, LANES)
        file = library_file(path, name, {*languages.names(), *vars(self), *dir(type(self))})
        loaded = LoadedBackend(file, self.telemetry, self.memory, lane)
        if not loaded.load().loaded:
            raise file.refusal(loaded.reason, loaded.cure, loaded.detail)
        self._keep(loaded)
        self.libraries[file.name] = loaded
        setattr(self, file.name, loaded)
        return loaded

    def stubs(self, out: str | Path = "typings") -> list[Path]:
        """Write stub files of all functions that this Lab has now: see `nif_lab.stubs`.

        Parameters
        ----------
        out
            The folder; type checkers look into ``typings`` or where they are told to.

        Returns
        -------
        list of Path
            The files.
        """
        return stubs.write(self, Path(path_of("out", out)).expanduser())

    @classmethod
    def for_cells(cls, language: str) -> Lab:
        """Return a Lab with one language, that loads each other one when it is asked for."""
        lab = cls([language])
        lab._grows, lab.may_load = True, languages.names()
        return lab

    def new(self, language: str, name: str, folder: str | Path = ".") -> Path:
        """Write a project whose library `load` takes into the folder ``name``: see `nif_lab.projects.new`."""
        return projects.new(language, name, folder)

    @_core.plain
    def cell(
        self,
        language: str,
        source: str,
        *,
        name: str = "",
        lane: arguments.Lane = "isolated",
        replace: bool = False,
        release: bool = True,
        flags: str | Iterable[str] = (),
        dep: str | Iterable[str] = (),
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
            Whether to take functions' names from other cells and built-in functions without a note of it.
        release
            Whether it is optimised.
        flags
            More flags for the compiler: in a list, or in one string as a shell would take them.
        dep
            What the cell needs beside its text, one or a list: a crate for Rust (``"rayon@1"``), a module for Zig
            (``"util=src/util.zig"``), a folder of modules for Nim, a project for Julia.

        Raises
        ------
        CellError
            With the compiler's messages in lines of the source.
        ToolchainMissing
            With the reason and the cure.
        """
        options = Options.of(release, flags, dep)
        what = Request(language=language, code=source, name=name, key=name, lane=lane, replace=replace, options=options)
        return self.cells.run(what)

    def map(
        self,
        function: Callable[..., Any],
        *blocks: Iterable[Any],
        executor: Executor | None = None,
        ordered: bool = True,
        failures: Failures = "raise",
        keep: bool = True,
        ahead: int | None = None,
        progress: bool = True,
    ) -> Map:
        """Call a function with each block, on any executor: ``lab.map(lab.zig.sum, blocks, executor=pool).results()``.

        Nothing runs until the map is iterated over, or `Map.results` is called.

        Parameters
        ----------
        function
            A NIF, a cell's function, or any other that the executor's workers can be sent.
        *blocks
            The arguments: a list for each of the function's. They may be generators.
        executor
            A `concurrent.futures.Executor`: threads, processes, `nif_lab.Executor`, loky's, or
            ``distributed.Client().get_executor()``. Without one, blocks are computed here, one after the other.
            Shared buffers go to processes of this machine by handle, without a copy.
        ordered
            Whether results come in the order of the blocks, or else as they are computed, as (number, result).
        failures : {"raise", "keep"}
            Whether blocks that failed raise `MapFailed` at the end, after all others were computed, or are just kept
            in ``failures``.
        keep
            Whether the map keeps results, for `Map.results` and for a second iteration.
        ahead
            How many blocks are with the executor at once; four for each of its workers unless given.
        progress
            Whether a bar shows how many are done, if it takes more than a second.
        """
        return Map(
            function, blocks, executor, ordered=ordered, failures=failures, keep=keep, ahead=ahead, progress=progress
        )

    @_core.plain
    def transfer(
        self,
        source: str,
        target: str,
        value: Any,
        mode: arguments.Mode = "auto",
        *,
        strict: bool = False,
        lane: arguments.Lane | None = None,
        dialect: str = "rust",
        version: int = 2,
    ) -> transfers.Transfer:
        """Hand a value from one language to another, and prove what happened on the way.

        Parameters
        ----------
        source, target
            Names of two backends.
        value
            A number, an array of any shape, order and strides, a shared buffer, a mapped file, a buffer in a device's
            memory, or a record of `nif_lab.wire` (networks, tensor operations, kernel descriptors).
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
        sender, receiver = (self._named(it) if lane is None else self._in_lane(it, lane) for it in (source, target))
        return self._transfers.transfer(sender, receiver, value, mode, strict=strict, dialect=dialect, version=version)

    def transfer_matrix(
        self,
        value: Any,
        modes: arguments.Mode | Sequence[arguments.Mode] = ("auto",),
        *,
        selves: bool = False,
        strict: bool = False,
        lane: arguments.Lane | None = None,
    ) -> transfers.TransferMatrix:
        """Transfer a value between all pairs of languages that are loaded, in each of the modes.

        ``selves``: also from each language to itself. The rest is as for `transfer`.
        """
        wanted = tuple(one_of("mode", it, MODES) for it in names("modes", modes))
        all_of_them = (it if lane is None else self._in_lane(name, lane) for name, it in self.backends.items())
        loaded = [it for it in all_of_them if it.loaded]
        return self._transfers.matrix(loaded, value, wanted, selves=selves, strict=strict)

    def _named(self, name: str) -> LoadedBackend:
        expect("backend", name, str, "a backend's name")
        if name in self.libraries:
            return self.libraries[name]
        if self._grows and name in self.may_load and name not in self.backends:
            backend = languages.find(name)
            self._made[name] = LoadedBackend(backend, self.telemetry, self.memory, self._lane or backend.lane)
            self._keep(self._made[name].load())
            setattr(self, name, self._made[name])
        if name not in self.backends:
            raise BackendNotLoaded(f"no backend '{name}'", f"use one of {', '.join([*self.backends, *self.libraries])}")
        return self.backends[name]

    def dashboard(self, rate: float = 10.0, engine: Any = None) -> Dashboard:
        """Return the panels of this Lab as one widget; its figures are renewed ``rate`` times a second, busy or not.

        With an ``engine``, as for `processes`, its workers on other machines are shown too.
        """
        from .panels.dashboard import Dashboard

        return Dashboard(self, number("rate", rate, 0.1, 30.0), engine)

    def __reduce__(self) -> tuple[Any, ...]:
        return reduce_lab(self)

    def __repr__(self) -> str:
        return summary.lab_text(self)

    def _repr_html_(self) -> str:
        return summary.lab_html(self)


def _alive(lab: weakref.ref[Lab]) -> Lab:
    if (this := lab()) is None:
        raise BackendNotLoaded("the Lab of this is gone", "keep the Lab itself: lab = Lab()")
    return this


def _in_lane(lab: weakref.ref[Lab], name: str, lane: arguments.Lane) -> LoadedBackend:
    return _alive(lab)._in_lane(name, lane)


def _function(lab: weakref.ref[Lab], name: str, function: str, lane: arguments.Lane) -> Any:
    """Return a function of a language in a lane."""
    return _in_lane(lab, name, lane).find_function(function).function


def _others(lab: weakref.ref[Lab], name: str) -> Iterator[LoadedBackend]:
    """Yield the other backends of a Lab, isolated: who may answer in place of one.

    Languages only: a function of the same name and signature may mean something else in a library.
    """
    this = lab()
    for other in this._made.copy() if this is not None and name in this.backends else ():
        if other != name and (loaded := _in_lane(lab, other, "isolated")).loaded:
            yield loaded
