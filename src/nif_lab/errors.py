"""Every exception of nif_lab, and which status code becomes which.

::

    NifLabError
    ├── BackendError                 a backend as a whole
    │   ├── ToolchainMissing           its compiler or runtime isn't there (reason and cure)
    │   ├── BuildError                 the compiler said no
    │   ├── AbiError                   the file isn't a NIF library of this version
    │   └── BackendNotLoaded           called all the same
    ├── SegmentError (segment.py)    a process's telemetry can't be read
    ├── ExporterMissing (exporters.py)  a package that an exporter needs isn't there
    └── NifError                     one call
        ├── NifTypeError (TypeError)
        ├── NifValueError (ValueError)
        ├── NifMemoryError (MemoryError)
        ├── NifPanic                   a panic, defect or exception inside native code
        └── NifCancelled
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "KINDS",
    "AbiError",
    "BackendError",
    "BackendNotLoaded",
    "BuildError",
    "NifCancelled",
    "NifError",
    "NifLabError",
    "NifMemoryError",
    "NifPanic",
    "NifTypeError",
    "NifValueError",
    "ToolchainMissing",
]


class NifLabError(Exception):
    """The root of the tree."""


class BackendError(NifLabError):
    """A backend can't be found, built, opened or used.

    Parameters
    ----------
    reason
        What is wrong, one line.
    cure
        The command or step that mends it, or an empty string.
    detail
        A compiler's own words, say; may be long.
    """

    def __init__(self, reason: str, cure: str = "", detail: str = "") -> None:
        self.reason = reason
        self.cure = cure
        self.detail = detail
        super().__init__("\n".join(part for part in (reason, cure and f"To mend it: {cure}", detail) if part))


class ToolchainMissing(BackendError):
    """The compiler or runtime of a language isn't on this machine, or is too old."""


class BuildError(BackendError):
    """A compiler refused the source."""


class AbiError(BackendError):
    """A file isn't a NIF library, or was built for another version of the ABI."""


class BackendNotLoaded(BackendError):
    """A function of a backend that isn't loaded was asked for."""


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
    """

    def __init__(
        self, message: str, backend: str = "", function: str = "", argument: str | None = None, reason: str = ""
    ) -> None:
        super().__init__(message)
        self.backend = backend
        self.function = function
        self.argument = argument
        self.reason = reason or message


class NifTypeError(NifError, TypeError):
    """An argument of the wrong type, or the wrong number of arguments."""


class NifValueError(NifError, ValueError):
    """An argument of the right type with a value the function refuses."""


class NifMemoryError(NifError, MemoryError):
    """Native code found no memory."""


class NifPanic(NifError):
    """A panic, defect or exception inside native code; the process goes on."""


class NifCancelled(NifError):
    """The call noticed its cancel flag and stopped."""


#: Status code of the ABI (``enum nif_error_kind``) -> exception.
KINDS: Final[dict[int, type[NifError]]] = {
    1: NifTypeError,
    2: NifValueError,
    3: NifError,
    4: NifPanic,
    5: NifMemoryError,
    6: NifCancelled,
}
