"""The other ways of calling native code, each built on the user's machine when it is first wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from ...errors import BackendError
from ..contender import Contender
from . import extensions, foreign
from .workshop import Workshop

__all__ = ["Workshop", "bound", "gather"]

Peer = Callable[[Workshop], Iterator[Contender]]

PEERS: Final[dict[str, Peer]] = {
    "cython": extensions.cython,
    "nanobind": extensions.nanobind,
    "pyo3": extensions.pyo3,
    "cffi": foreign.cffi_api,
    "ctypes": foreign.ctypes_library,
}


def bound(workshop: Workshop) -> Contender:
    """Return the hand-written extension, built if need be.

    Raises
    ------
    BackendError
        If there is no compiler, or it says no: nothing can be compared then.
    """
    return next(extensions.bound(workshop))


def gather(workshop: Workshop, library: str | None) -> tuple[list[Contender], dict[str, str]]:
    """Build and load every peer that this machine can have.

    Parameters
    ----------
    workshop
        Where they are kept.
    library
        A backend's library file, for tvm-ffi to open.

    Returns
    -------
    tuple
        The contenders; and for each peer that can't take part, the reason.
    """
    contenders: list[Contender] = []
    unavailable: dict[str, str] = {}
    peers: dict[str, Peer] = {**PEERS, "tvm-ffi": lambda _: foreign.tvm_ffi(library)}
    for name, peer in peers.items():
        try:
            contenders += peer(workshop)
        except BackendError as error:
            unavailable[name] = "; ".join(filter(None, (error.reason, error.cure, error.detail[-500:])))
        except Exception as error:  # whatever a package throws at import; the rest goes on
            unavailable[name] = f"{type(error).__name__}: {error}"
    return contenders, unavailable
