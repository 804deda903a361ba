"""What is sent of a Lab's things: how `pickle` takes them apart. What arrives is travel.py's."""

from __future__ import annotations

import contextlib
import copyreg
import functools
import threading
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import _core
from . import backends as languages
from .cells import Cells, Handle
from .codecs import Wire
from .faults import Faults
from .lane import Lane
from .ledger import Ledger
from .lending import borrow, lend
from .loaded import LoadedBackend
from .memory import MappedFile, MemoryManager, SharedBuffer
from .recovery import Recovery
from .telemetry import Telemetry
from .travel import NotPortable, Ticket, arrive_handle, arrive_nif, arrive_part, file_of, hash_of, here, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .lab import Lab

__all__ = ["by_handle", "loan_of", "reduce_lab"]

#: Attributes of a Lab that arrive as those of the Lab there.
PARTS: Final = ("memory", "telemetry", "recovery", "cells", "faults", "ledger", "wire", "direct", "isolated")

_chosen = threading.local()


@contextlib.contextmanager
def by_handle() -> Iterator[None]:
    """Let this thread pickle shared buffers by their handle: for processes of this machine, while this one lives.

    Elsewhere a buffer is pickled with its elements. `multiprocessing` and executors of processes need no word of this:
    their workers are on this machine.
    """
    before = getattr(_chosen, "by_handle", False)
    _chosen.by_handle = True
    try:
        yield
    finally:
        _chosen.by_handle = before


def _home(memory: Any, what: str) -> Lab:
    """Return the Lab that a memory is of."""
    lab = next((it for it in here() if it.memory.core is memory), None)
    if lab is None:
        raise NotPortable(f"{what} is of no Lab, or of one that is gone", "keep the Lab itself: lab = Lab()")
    return lab


def _reduce_nif(nif: _core.Nif) -> tuple[Any, ...]:
    what = f"{nif.backend}.{nif.name}"
    if nif.name in dir(_core.Nif):
        cure = f"wrap it: def f(*args): return lab.{what}(*args)"
        raise NotPortable(f"a function named '{nif.name}' can't be pickled by itself", cure)
    lab = _home(nif.memory, what)
    settings = settings_of(lab, whole=False)
    plain = Ticket(settings, nif.backend, nif.name, nif.lane_name, nif.signature, "")
    if (recipe := lab.cells.recipe_of(nif)) is not None:
        return arrive_nif, (replace(plain, recipe=recipe),)
    if (loaded := lab.libraries.get(nif.backend)) is not None:
        library = file_of(loaded)
        return arrive_nif, (replace(plain, sha256=library[-1], library=library),)
    return arrive_nif, (replace(plain, sha256=hash_of(languages.find(nif.backend))),)


def _reduce_handle(handle: Handle) -> tuple[Any, ...]:
    nif = handle.nif
    settings = settings_of(_home(nif.memory, f"{nif.backend}.{nif.name}"), whole=False)
    ticket = Ticket(settings, nif.backend, nif.name, nif.lane_name, nif.signature, "", recipe=handle.recipe)
    return arrive_handle, (ticket,)


def reduce_lab(lab: Lab) -> tuple[Any, ...]:
    """Take a Lab apart for `pickle`: into its settings."""
    return arrive_part, (settings_of(lab), ())


def _reduce_part(part: object) -> tuple[Any, ...]:
    """Take a part of a Lab apart: it arrives as the same part of the Lab there."""
    for lab in here():
        for name in PARTS:
            if getattr(lab, name) is part:
                return arrive_part, (settings_of(lab), (name,))
        for key, loaded in lab._opened.copy().items():
            if loaded is part:
                names = (key[1], key[0]) if key[0] in lab.may_load else ("libraries", key[0])
                return arrive_part, (settings_of(lab), names)
    raise NotPortable(f"this {type(part).__name__} is of no Lab, or of one that is gone", "send the Lab: lab")


def _reduce_buffer(buffer: SharedBuffer) -> tuple[Any, ...]:
    return loan_of(buffer) if getattr(_chosen, "by_handle", False) else _by_value(buffer)


def loan_of(buffer: SharedBuffer) -> tuple[Any, ...]:
    """Take a buffer apart for a process of this machine: into its handle."""
    loan = lend(buffer)
    for lab in _owners(buffer):
        lab.ledger.add_transfer(buffer.nbytes, copied=False)
    return borrow, (loan,)


def _by_value(buffer: SharedBuffer) -> tuple[Any, ...]:
    for lab in _owners(buffer):
        lab.ledger.note(buffer.nbytes, "pickle", "SharedBuffer by value: its process may be on another machine")
        lab.ledger.add_transfer(buffer.nbytes, copied=True)
    return _buffer_of, (buffer.array, tuple(buffer.owners))


def _owners(buffer: SharedBuffer) -> list[Lab]:
    """Return the Lab in whose memory a buffer lies; none if it is gone."""
    found = []
    for lab in here():
        with contextlib.suppress(Exception):
            lab.memory.resolve(buffer.handle)
            found.append(lab)
    return found


def _buffer_of(array: Any, owners: tuple[str, ...]) -> SharedBuffer:
    """Return a buffer with an array's elements, in this process's own memory for what arrives."""
    buffer: SharedBuffer = _arrivals().from_array(array, owners or ("python",))
    return buffer


@functools.cache
def _arrivals() -> MemoryManager:
    return MemoryManager()


def _reduce_file(file: MappedFile) -> tuple[Any, ...]:
    if file.path is None:
        raise NotPortable(
            "a temporary file has no name under which another process could map it",
            "map a file with a path, or send numpy.array(file)",
        )
    if file.closed:
        raise NotPortable(f"{file.path} is closed", "map it again")
    shape, dtype = (file.array.shape, file.array.dtype) if file.access != "write_only" else ((file.nbytes,), "u1")
    return _map_again, (str(Path(file.path).absolute()), file.nbytes, file.access, shape, dtype, False)


def _map_again(*arguments: Any) -> MappedFile:
    return MappedFile(*arguments)


def _refuse(what: object) -> Any:
    raise NotPortable(
        f"a {type(what).__name__} belongs to its process", "send the Lab or a function: both find their place there"
    )


copyreg.pickle(_core.Nif, _reduce_nif)
copyreg.pickle(Handle, _reduce_handle)
copyreg.pickle(SharedBuffer, _reduce_buffer)
copyreg.pickle(MappedFile, _reduce_file)
_parts: tuple[type, ...] = (MemoryManager, Telemetry, Recovery, Cells, Faults, Ledger, Wire, Lane, LoadedBackend)
_bound: tuple[type, ...] = (_core.Library, _core.Workers, _core.Owner, _core.Memory, _core.Telemetry, _core.Recorder)
for _kind in _parts:
    copyreg.pickle(_kind, _reduce_part)
for _kind in _bound:
    copyreg.pickle(_kind, _refuse)
# Pipes and queues of `multiprocessing` lead to processes of this machine.
ForkingPickler.register(SharedBuffer, loan_of)
