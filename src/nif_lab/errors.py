"""Every exception of nif_lab, and which status code becomes which.

::

    NifLabError
    ├── ArgumentError                an argument of a method of ours, by name
    │   ├── ArgumentTypeError (TypeError)
    │   └── ArgumentValueError (ValueError)
    ├── NoSuchFunction (AttributeError)  a backend has no function of that name
    ├── BackendError                 a backend as a whole
    │   ├── ToolchainMissing           its compiler or runtime isn't there (reason and cure)
    │   ├── BuildError                 the compiler said no
    │   │   └── CellError                of a notebook cell: messages with lines
    │   ├── AbiError                   the file isn't a NIF library of this version
    │   └── BackendNotLoaded           called all the same
    ├── SharedMemoryError            a pool, a buffer or a mapped file of ``lab.memory``
    │   ├── PoolExhausted (MemoryError)
    │   ├── BufferReleased             used or released after its last owner had released it
    │   ├── OwnershipError             released by a language that doesn't own it, or no longer
    │   ├── HandleError                a handle of a freed block, of another pool, or damaged
    │   ├── AccessError                read from what is write-only, or the reverse
    │   ├── MappingError (OSError)     a file can't be mapped
    │   └── SystemRefusal (OSError)    the system has no descriptor, thread or memory for a Lab
    ├── GpuUnavailable               no device, no driver, or a compiler for it is missing (reason and cure)
    ├── CopyRequired                 a strict transfer would have to copy
    ├── MapFailed (mapping.py), NotPortable (travel.py)  blocks of a lab.map failed; what can't be pickled
    ├── SegmentError (segment.py)    a process's telemetry can't be read
    ├── ExporterMissing (exporters.py)  a package that an exporter needs isn't there
    └── NifError                     one call
        ├── NifTypeError (TypeError)
        ├── NifValueError (ValueError)
        ├── NifMemoryError (MemoryError)
        ├── NifPanic                   a panic, defect or exception inside native code
        │   └── NifIndexError (IndexError)  of an index out of bounds
        ├── NifCancelled
        ├── WorkerCrashed              its worker ended: signal, exit code, address, what it said last
        ├── CallTimeout (TimeoutError) it took too long, and its worker was ended
        ├── CircuitOpen                its workers ended too often; no call is made for a while
        ├── WorkerUnavailable          no worker could be started
        └── GpuFault                   the driver of a GPU refused, or a kernel failed
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .rebuilt import taken_apart

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "KINDS",
    "AbiError",
    "AccessError",
    "ArgumentError",
    "ArgumentTypeError",
    "ArgumentValueError",
    "BackendError",
    "BackendNotLoaded",
    "BufferReleased",
    "BuildError",
    "CallTimeout",
    "CellError",
    "CircuitOpen",
    "CopyRequired",
    "GpuFault",
    "GpuUnavailable",
    "HandleError",
    "MappingError",
    "Message",
    "NifCancelled",
    "NifError",
    "NifIndexError",
    "NifLabError",
    "NifMemoryError",
    "NifPanic",
    "NifTypeError",
    "NifValueError",
    "NoSuchFunction",
    "OwnershipError",
    "PoolExhausted",
    "SharedMemoryError",
    "SystemRefusal",
    "ToolchainMissing",
    "WorkerCrashed",
    "WorkerUnavailable",
    "kind_name",
    "kind_number",
    "system_refusal",
]


class NifLabError(Exception):
    """The root of the tree. Every exception of it can be pickled, with all that it says."""

    __reduce__ = taken_apart


class ArgumentError(NifLabError):
    """An argument of a method of nif_lab isn't what the method takes; nothing was done.

    Parameters
    ----------
    argument
        The argument's name.
    reason
        What was expected and what came, one line.
    """

    def __init__(self, argument: str, reason: str) -> None:
        self.argument = argument
        self.reason = reason
        super().__init__(reason if reason.startswith(f"no {argument} ") else f"{argument}: {reason}")


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument is of the wrong type."""


class ArgumentValueError(ArgumentError, ValueError):
    """An argument is of the right type and has a value that can't be used."""


class NoSuchFunction(NifLabError, AttributeError):
    """A backend has no function of that name; the message lists those that it has."""


class BackendError(NifLabError):
    """A backend can't be found, built, opened or used.

    Parameters
    ----------
    reason
        What is wrong, one line.
    cure
        The command or step that fixes it, or an empty string.
    detail
        A compiler's own words, say; may be long.
    """

    #: Whether the system was short of something just now, so that the same may succeed later.
    may_pass: bool = False

    def __init__(self, reason: str, cure: str = "", detail: str = "") -> None:
        self.reason = reason
        self.cure = cure
        self.detail = detail
        super().__init__("\n".join(part for part in (reason, cure and f"To fix: {cure}", detail) if part))


class ToolchainMissing(BackendError):
    """The compiler or runtime of a language isn't on this machine, or is too old."""


class BuildError(BackendError):
    """A compiler refused the source."""

    def in_cell(self, messages: Sequence[Message]) -> CellError:
        """Return this as the error of a cell, of which the compiler said this; all it said if that is about no line."""
        said = any(it.is_error for it in messages)
        # What terminated a compiler is no fault of the cell.
        reason = self.reason if self.cure or not said else "the cell doesn't compile"
        return CellError(reason, tuple(messages), self.cure, "" if said else self.detail)


@dataclass(frozen=True, slots=True)
class Message:
    """What a compiler says of a cell.

    Attributes
    ----------
    text
        Its words, one line or some.
    line, column
        Where in the cell, from 1; 0 if it doesn't say.
    width
        How many characters are meant.
    is_error
        Or a warning.
    """

    text: str
    line: int = 0
    column: int = 0
    width: int = 1
    is_error: bool = True


class CellError(BuildError):
    """A cell isn't what its language takes.

    Attributes
    ----------
    messages : tuple of Message
        What is wrong, in lines of the cell; warnings too.
    report : object
        The same under the cell's own lines, as text and as HTML; None until somebody has them.
    """

    def __init__(
        self,
        reason: str,
        messages: tuple[Message, ...] = (),
        cure: str = "",
        detail: str = "",
        report: object = None,
    ) -> None:
        super().__init__(reason, cure, detail)
        self.messages = messages
        self.report = report


class AbiError(BackendError):
    """A file isn't a NIF library, or was built for another version of the ABI."""


class BackendNotLoaded(BackendError):
    """A function of a backend that isn't loaded was asked for."""


class SharedMemoryError(NifLabError):
    """A pool, a buffer or a mapped file can't be used so."""


class PoolExhausted(SharedMemoryError, MemoryError):
    """There is no room for a block; the message names the pool and the cure."""


class BufferReleased(SharedMemoryError):
    """A buffer was used or released after its last owner had released it, or a file after it was closed."""


class OwnershipError(SharedMemoryError):
    """A language released a buffer that it doesn't own, or no longer owns."""


class HandleError(SharedMemoryError):
    """A handle leads nowhere: its block was freed, it belongs to another arena, or it is damaged."""


class AccessError(SharedMemoryError):
    """A file was read that is mapped write-only, or written that is mapped read-only."""


class MappingError(SharedMemoryError, OSError):
    """A file can't be mapped.

    Parameters
    ----------
    path
        Which; the directory for a temporary file.
    reason
        What is wrong, one line.
    cure
        How to fix it.
    """

    def __init__(self, path: str, reason: str, cure: str = "") -> None:
        super().__init__(f"{path}: {reason}" + (f"\nTo fix: {cure}" if cure else ""))
        self.path = path
        self.reason = reason
        self.cure = cure


class SystemRefusal(SharedMemoryError, OSError):
    """The system has no file descriptor, thread or memory left for a Lab, or doesn't allow the call that makes it.

    Parameters
    ----------
    reason
        What the system refused, one line.
    cure
        How to fix it.
    number
        The system's error number, as `errno`.
    """

    def __init__(self, reason: str, cure: str = "", number: int | None = None) -> None:
        super().__init__(reason + (f"\nTo fix: {cure}" if cure else ""))
        self.reason = reason
        self.cure = cure
        self.errno = number


#: What helps where the system is short of something just now, by the error number; all else it doesn't allow at all.
SHORTAGES: Final[dict[int, str]] = {
    errno.EMFILE: "close files, or raise the limit (ulimit -n)",
    errno.ENFILE: "close files of other programs",
    errno.EAGAIN: "end other processes, or raise the limit (ulimit -u, or the container's pids limit)",
    errno.ENOMEM: "free memory",
}

#: What helps where a call isn't there or isn't allowed.
NOT_ALLOWED: Final = "run on Linux 5.3 or newer, in a container whose seccomp profile allows memfd_create"


def system_refusal(error: OSError, what: str) -> SystemRefusal:
    """Return the typed error for what the system refused while ``what`` was made."""
    # The core's own text has the number where the exception doesn't.
    told = re.search(r"\(os error (\d+)\)", str(error))
    number = error.errno or int(told[1] if told else 0)
    said = os.strerror(number) if number else str(error)
    return SystemRefusal(f"the system refuses what {what} needs: {said}", SHORTAGES.get(number, NOT_ALLOWED), number)


class GpuUnavailable(NifLabError):
    """There is no device, no driver, or what compiles for it isn't there; all else works.

    Parameters
    ----------
    reason
        What is missing, one line.
    cure
        How to get it.
    """

    def __init__(self, reason: str, cure: str = "") -> None:
        self.reason = reason
        self.cure = cure
        super().__init__(reason + (f"\nTo fix: {cure}" if cure else ""))


class CopyRequired(NifLabError):
    """A strict transfer would have to copy; nothing was copied.

    Attributes
    ----------
    reason : str
        Why: as the ledger would have it.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class NifError(NifLabError):
    """A call failed.

    Attributes
    ----------
    backend, function : str
        Where: ``"rust"``, ``"dot"``.
    argument : str or None
        The argument at fault, by name.
    reason : str
        What was expected and what came, without the place.
    cell : str
        The notebook cell that the function is from; empty for a built-in one.
    tried : tuple
        The steps of the recovery (`nif_lab.recovery.Step`) that didn't help; empty where none was taken.
    last_words : tuple of str
        Lines of the message with what native code wrote before it ended.
    """

    tried: tuple[object, ...] = ()
    cell: str = ""
    last_words: tuple[str, ...] = ()

    def __init__(
        self, message: str, backend: str = "", function: str = "", argument: str | None = None, reason: str = ""
    ) -> None:
        super().__init__(message)
        self.backend = backend
        self.function = function
        self.argument = argument
        self.reason = reason or message

    def __str__(self) -> str:
        place = (f"the function is from {self.cell}",) if self.cell else ()
        return "\n  ".join((super().__str__(), *self.last_words, *place, *(f"tried: {step}" for step in self.tried)))


class NifTypeError(NifError, TypeError):
    """An argument of the wrong type, or the wrong number of arguments."""


class NifValueError(NifError, ValueError):
    """An argument of the right type with a value the function refuses."""


class NifMemoryError(NifError, MemoryError):
    """Native code found no memory."""


class NifPanic(NifError):
    """A panic, defect or exception inside native code; the process goes on."""


class NifIndexError(NifPanic, IndexError):
    """An index out of bounds inside native code; the process goes on."""


class NifCancelled(NifError):
    """The call noticed its cancel flag and stopped."""


class WorkerCrashed(NifError):
    """The worker that ran the call ended; the notebook's process is as before.

    Attributes
    ----------
    signal : int or None
        What ended it: 11 for a segmentation fault.
    exit_code : int or None
        With which code it ended by itself.
    address : int or None
        The address that it couldn't use.
    detail : str
        The last it wrote to its standard error. The message has up to three lines of it.
    """

    signal: int | None = None
    exit_code: int | None = None
    address: int | None = None
    detail: str = ""


class CallTimeout(NifError, TimeoutError):
    """A call took longer than it may; it was stopped.

    Attributes
    ----------
    has_begun : bool
        Whether the function had begun, so that its worker was ended. The time counts from the call, so it may have
        passed while the worker was busy with the calls of other threads.
    """

    has_begun: bool = True


class CircuitOpen(NifError):
    """The backend's workers ended too often in a short time: calls fail at once until a trial succeeds."""


class WorkerUnavailable(NifError):
    """No worker could be started for the call, or the one that works is busy with a call of the same thread.

    Attributes
    ----------
    is_busy : bool
        Whether a call of this very thread is running there: a signal handler interrupted it.
    """

    is_busy: bool = False


class GpuFault(NifError):
    """The driver of a GPU refused, or a kernel failed; in the direct lane the device may be of no more use then.

    Attributes
    ----------
    code, name : int, str
        The driver's: 700, ``"CUDA_ERROR_ILLEGAL_ADDRESS"``. 0 and nothing where another refused.
    kernel : str
        The kernel that ran, where that is known.
    has_ended : bool
        Whether it ended the worker that ran the call; this process's own device works on.
    """

    kernel: str = ""
    has_ended: bool = False

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        said = re.search(r"the driver says (\w+) \((\d+)\)", self.reason)
        self.name, self.code = (said[1], int(said[2])) if said else ("", 0)


#: Status code of the ABI (``enum nif_error_kind``), and from 7 to 10 of the isolated lane -> exception.
KINDS: Final[dict[int, type[NifError]]] = {
    1: NifTypeError,
    2: NifValueError,
    3: NifError,
    4: NifPanic,
    5: NifMemoryError,
    6: NifCancelled,
    7: WorkerCrashed,
    8: CallTimeout,
    9: CircuitOpen,
    10: WorkerUnavailable,
    11: NifIndexError,
    13: GpuFault,
}


def kind_number(error: BaseException) -> int:
    """Return the number of an exception's kind; that of `NifError` for one without a number of its own."""
    return next((number for number, kind in KINDS.items() if type(error) is kind), 3)


def kind_name(number: int) -> str:
    """Return the name of the exception of a number in `KINDS`; empty for 0, which is success."""
    return KINDS[number].__name__ if number in KINDS else f"unknown ({number})" if number else ""
