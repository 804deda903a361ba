"""A Lab's things in other processes: how they are pickled, and what becomes of them there.

A function travels as a `Ticket`: which Lab, language and lane, its name and the hash of its library, or a cell's
source. In its own process it arrives as itself. Elsewhere it arrives as a `Visitor`, which makes a Lab of the same
settings when it is first called: a scheduler that only hands tasks on unpickles them too, and needs no Lab.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import os
import secrets
import socket
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .backends.base import digest
from .cells import Handle
from .errors import AbiError, BackendError, NifLabError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from . import arguments
    from ._core import Nif
    from .backends.base import Backend
    from .cells.cell import Recipe
    from .lab import Lab
    from .loaded import LoadedBackend
    from .memory import Pool
    from .recovery import RecoveryPolicy

__all__ = [
    "LabSettings",
    "NotPortable",
    "Ticket",
    "Visitor",
    "arrive_handle",
    "arrive_nif",
    "arrive_part",
    "file_of",
    "forget",
    "hash_of",
    "here",
    "known",
    "lab_here",
    "settings_of",
]

#: Labs of other processes that are kept; whoever starts a notebook again and again leaves no more than that behind.
GUESTS: Final = 4


class NotPortable(NifLabError, TypeError):
    """An object can't be sent to another process.

    Parameters
    ----------
    reason
        Which object, and why not, one line.
    cure
        What to send instead.
    """

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(f"{reason}\nTo fix: {cure}")
        self.reason = reason
        self.cure = cure


@dataclass(frozen=True, slots=True)
class LabSettings:
    """All that another process needs to make a Lab that does the same.

    Attributes
    ----------
    key : str
        Which Lab it is; each process has one for a key.
    backends : tuple of str
        Its languages. One is loaded when it is first asked for.
    lane, pools
        As of `Lab`.
    policies : tuple
        Of the Lab, and of backends and functions: ``((backend, function), policy)`` each.
    strict, results, enabled
        As of the Lab; ``enabled`` is that of its telemetry.
    libraries : tuple
        What it has loaded: ``(path, name, lane, hash)`` each.
    recipes : tuple of Recipe
        Its cells.
    """

    key: str
    backends: tuple[str, ...]
    lane: arguments.Lane | None
    pools: tuple[Pool, ...]
    policies: tuple[tuple[tuple[str, str], RecoveryPolicy], ...]
    strict: bool
    results: Any
    enabled: bool
    libraries: tuple[tuple[str, str, arguments.Lane, str], ...] = ()
    recipes: tuple[Recipe, ...] = ()


@dataclass(frozen=True, slots=True)
class Ticket:
    """Where a function is found.

    Attributes
    ----------
    lab : LabSettings
        Its Lab, without cells and other libraries.
    backend, function, lane, signature : str
        Which function.
    sha256 : str
        The hash of its library's file, or of the sources where there is none; empty for a cell's.
    recipe : Recipe or None
        The cell that it is from.
    library : tuple or None
        What was loaded, as in `LabSettings`.
    """

    lab: LabSettings
    backend: str
    function: str
    lane: arguments.Lane
    signature: str
    sha256: str
    recipe: Recipe | None = None
    library: tuple[str, str, arguments.Lane, str] | None = None


_labs: weakref.WeakValueDictionary[str, Lab] = weakref.WeakValueDictionary()
_guests: OrderedDict[str, Lab] = OrderedDict()
_lock = threading.RLock()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


def known(lab: Lab) -> str:
    """Note a Lab that was made here; return its key."""
    key = secrets.token_hex(8)
    _labs[key] = lab
    return key


def here() -> tuple[Lab, ...]:
    """Return the Labs of this process: those that were made here, and those in place of others."""
    return (*_labs.values(), *_guests.copy().values())


def place() -> str:
    """Return what an error calls this process."""
    return f"process {os.getpid()} on {socket.gethostname()}"


# Settings of a Lab, and the Lab of settings.


def settings_of(lab: Lab, whole: bool = True) -> LabSettings:
    """Return a Lab's settings as they are now; with its cells and the libraries that it has loaded, if ``whole``."""
    libraries = tuple(file_of(it) for it in lab.libraries.copy().values()) if whole else ()
    return LabSettings(
        lab._key,
        tuple(lab.may_load),
        lab._lane,
        lab.memory.pools,
        tuple(lab.recovery.policies.items()),
        lab.strict,
        lab.results,
        lab.telemetry.enabled,
        libraries,
        lab.cells.recipes if whole else (),
    )


def file_of(loaded: LoadedBackend) -> tuple[str, str, arguments.Lane, str]:
    """Return what was loaded, as in `LabSettings`."""
    return str(getattr(loaded.backend, "path", "")), loaded.name, loaded.lane, hash_of(loaded.backend)


@functools.lru_cache(maxsize=64)
def _hash_file(path: str, changed: int, size: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def hash_of(backend: Backend) -> str:
    """Return the hash of a backend's library; of its sources where nothing is compiled."""
    file = getattr(backend, "path", None) or (backend.library if backend.compiled else None)
    if file is None:
        return _digest(backend.sources)
    try:
        status = os.stat(file)
        return _hash_file(str(file), status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise NotPortable(
            f"{file}: {(error.strerror or str(error)).lower()}", "keep the file where it was loaded from"
        ) from None


@functools.cache
def _digest(folder: Path) -> str:
    return digest(folder)


def lab_here(settings: LabSettings) -> Lab:
    """Return this process's Lab of these settings: the very one if it was made here, else one that is made once.

    Its policies become those of the settings; its languages are loaded when they are asked for.
    """
    from .lab import Lab

    with _lock:
        lab = _labs.get(settings.key) or _guests.get(settings.key)
        if lab is None:
            lab = Lab([], settings.pools, settings.lane, settings.policies[0][1])
            _labs.pop(lab._key)
            lab._key, lab._grows, lab.may_load = settings.key, True, settings.backends
            _guests[settings.key] = lab
            while len(_guests) > GUESTS:
                _guests.popitem(last=False)
        if settings.key in _guests:
            _guests.move_to_end(settings.key)
            _adjust(lab, settings)
        return lab


def forget(settings: LabSettings) -> None:
    """Let go of the Lab that was made here in place of another process's; its workers end with its last function."""
    with _lock:
        _guests.pop(settings.key, None)


def _adjust(lab: Lab, settings: LabSettings) -> None:
    """Make a guest do as its Lab does now."""
    mine = lab.recovery.policies
    for key, policy in settings.policies:
        if mine.get(key) != policy:
            lab.recovery.set(policy, *key)
    lab.strict, lab.results, lab.telemetry.enabled = settings.strict, settings.results, settings.enabled
    for library in settings.libraries:
        _load(lab, library)
    have = lab.cells.recipes
    for recipe in settings.recipes:
        if recipe not in have:
            with _saying_where():
                lab.cells.run(replace(recipe.request, replace=True))


def _load(lab: Lab, library: tuple[str, str, arguments.Lane, str]) -> None:
    path, name, lane, sha256 = library
    if name not in lab.libraries:
        with _saying_where():
            lab.load(path, name, lane)
    if lab._key in _guests:
        _check_hash(lab.libraries[name].backend, sha256)


def _check_hash(backend: Backend, sha256: str) -> None:
    if hash_of(backend) != sha256:
        raise AbiError(
            f"the {backend.title} library isn't the one of the process that sent the function",
            "install the same build of nif_lab, and the same file, for both",
        )


@contextlib.contextmanager
def _saying_where() -> Iterator[None]:
    """Let an error name the process, which may be anywhere."""
    try:
        yield
    except BackendError as error:
        where = f"in {place()}: "
        if not error.reason.startswith(where):
            error.reason = where + error.reason
            error.args = (where + str(error), *error.args[1:])
        raise


# What arrives.


class Visitor:
    """A function, or a part, of another process's Lab: it finds its place in this process when it is used.

    Attributes
    ----------
    ticket : Ticket or None
        Where the function is found; None for a Lab or a part of one.
    """

    def __init__(self, ticket: Ticket | None, settings: LabSettings, names: tuple[str, ...] = ()) -> None:
        self.ticket = ticket
        self._settings = settings
        self._names = names
        self._process = 0

    def _arrive(self) -> Any:
        if self._process != os.getpid():
            self._there = self._find()
            self._process = os.getpid()
        return self._there

    def _find(self) -> Any:
        lab = lab_here(self._settings)
        if self.ticket is None:
            return functools.reduce(lambda it, name: it[name] if isinstance(it, dict) else getattr(it, name),
                                    self._names, lab)  # fmt: skip
        return _nif(lab, self.ticket).function

    @property
    def __call__(self) -> Any:
        # Looked up at each call and called by Python itself, as with `Handle`.
        return self._arrive()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        # `pickle` asks a NIF for its function by the name.
        if self.ticket is not None:
            if name == self.ticket.function:
                return self
            raise AttributeError(name)
        return getattr(self._arrive(), name)

    def __getitem__(self, name: Any) -> Any:
        return self._arrive()[name]

    @property
    def __name__(self) -> str:
        return self.ticket.function if self.ticket else ".".join(("lab", *self._names))

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._arrive())

    def __reduce__(self) -> tuple[Any, ...]:
        if self.ticket is not None:
            return arrive_handle, (self.ticket,)
        return arrive_part, (self._settings, self._names)

    def __repr__(self) -> str:
        if self.ticket is not None:
            return f"<{self.ticket.backend}.{self.ticket.signature}, from another process>"
        return f"<{self.__name__} of another process>"


def _nif(lab: Lab, ticket: Ticket) -> Nif:
    """Return a ticket's NIF in a Lab."""
    with _saying_where():
        if ticket.recipe is not None:
            return lab.cells.receive(ticket.recipe)[ticket.function]
        if ticket.library is not None:
            _load(lab, ticket.library)
            loaded = lab.libraries[ticket.backend]
            loaded = loaded if loaded.lane == ticket.lane else lab._in_lane(ticket.backend, ticket.lane)
        else:
            loaded = lab._in_lane(ticket.backend, ticket.lane)
        nif = loaded.find_builtin(ticket.function)
        if lab._key in _guests:
            _check_hash(loaded.backend, ticket.sha256)
        return nif


def arrive_nif(ticket: Ticket) -> Any:
    """Return the NIF of a ticket, of which `pickle` then takes the function: unpickling calls it."""
    lab = _labs.get(ticket.lab.key)
    return Visitor(ticket, ticket.lab) if lab is None else _nif(lab, ticket)


def arrive_handle(ticket: Ticket) -> Any:
    """Return what users hold of a function: unpickling calls it. Of a cell that was changed since it is the old one."""
    lab = _labs.get(ticket.lab.key)
    if lab is None:
        return Visitor(ticket, ticket.lab)
    held = None if ticket.recipe is None else getattr(lab._in_lane(ticket.backend, ticket.lane), ticket.function, None)
    if isinstance(held, Handle) and held.recipe == ticket.recipe:
        return held
    return _nif(lab, ticket).function


def arrive_part(settings: LabSettings, names: tuple[str, ...]) -> Any:
    """Return a Lab, or a part of one: unpickling calls it."""
    visitor = Visitor(None, settings, names)
    return visitor._find() if settings.key in _labs else visitor
