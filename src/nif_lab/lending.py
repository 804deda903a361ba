"""Shared buffers in other processes of this machine: the owner lends, the borrower maps, and nobody copies.

A borrower connects to a socket of the owner and names the buffer's handle. The owner checks the generation, adds the
borrower to the buffer's owners and sends the descriptor of the memory. The connection is the loan: when it closes,
because the borrower released the buffer or died, the borrower is no owner any more.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import socket
import struct
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ._core import MappedFile, SharedBuffer
from .errors import BufferReleased, HandleError, NifLabError
from .segment import host, is_lasting

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LentBuffer", "Loan", "borrow", "host", "lend"]

#: A handle, as it is asked for: segment, generation, offset.
HANDLE: Final = struct.Struct("<QQQ")
CREDENTIALS: Final = struct.Struct("3i")
#: Seconds that a borrower waits for the owner's answer.
PATIENCE: Final = 10.0
#: Where a segment begins before the elements do.
PLACE: Final = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Loan:
    """What a borrower is told of a buffer.

    Attributes
    ----------
    host, address : str
        Which machine, and the name of the owner's socket there.
    handle : tuple of int
        Segment, generation and offset.
    shape, dtype
        Of the elements.
    """

    host: str
    address: str
    handle: tuple[int, int, int]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class _Lender:
    """The owner's side: one thread, started with the first loan."""

    def __init__(self) -> None:
        self.address = f"nif_lab {os.getpid()} {secrets.token_hex(16)}"
        # Held weakly: what was offered and never taken doesn't keep the buffer.
        self.offered: weakref.WeakValueDictionary[tuple[int, int, int], SharedBuffer] = weakref.WeakValueDictionary()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind("\0" + self.address)
        self._socket.listen(128)
        threading.Thread(target=self._serve, name="nif_lab lender", daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._socket.accept()
            except OSError:
                continue  # no descriptor is free, or the borrower is gone again
            threading.Thread(target=self._lend, args=(line,), name="nif_lab loan", daemon=True).start()

    def _lend(self, line: socket.socket) -> None:
        """Lend one buffer until the borrower closes the connection."""
        with line, contextlib.suppress(OSError, NifLabError):
            pid, user = _user(line)
            line.settimeout(PATIENCE)
            asked = line.recv(HANDLE.size, socket.MSG_WAITALL)
            if user != os.geteuid() or len(asked) != HANDLE.size:
                return
            buffer = self.offered.get(HANDLE.unpack(asked))
            if buffer is None:
                return
            owner = f"process {pid}"
            buffer.retain(owner)
            try:
                descriptor, place = buffer.lend()
                try:
                    socket.send_fds(line, [PLACE.pack(place)], [descriptor])
                finally:
                    os.close(descriptor)
                line.settimeout(None)
                line.recv(1)  # nothing ever comes: the end of the connection does
            finally:
                buffer.release(owner)


def _user(line: socket.socket) -> tuple[int, int]:
    """Return the process at the other end of a connection, and its user."""
    pid, user, _ = CREDENTIALS.unpack(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    return pid, user


_lock = threading.Lock()
_lenders: dict[int, _Lender] = {}


def _after_fork() -> None:
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _lenders.clear()


os.register_at_fork(after_in_child=_after_fork)


def lend(buffer: SharedBuffer) -> Loan:
    """Offer a buffer to other processes of this user on this machine."""
    buffer.array  # noqa: B018 raises if the buffer was released
    with _lock:
        lender = _lenders.get(os.getpid()) or _lenders.setdefault(os.getpid(), _Lender())
        lender.offered[buffer.handle] = buffer
    return Loan(host(), lender.address, buffer.handle, tuple(buffer.shape), buffer.dtype)


class LentBuffer:
    """A buffer of another process, mapped here when it is first used.

    Until then it can be handed on, by a scheduler say, whose process has no use for it.

    Attributes
    ----------
    array : numpy.ndarray
        The elements where they lie: what is written here is seen in the other process.
    handle : tuple of int
        The buffer's handle in the process that allocated it.
    released : bool
        Whether this process has released it.
    """

    def __init__(self, loan: Loan) -> None:
        self.loan = loan
        self._held: SharedBuffer | MappedFile | None = None
        self._turn = threading.Lock()
        self.released = False

    def _there(self) -> SharedBuffer | MappedFile:
        with self._turn:
            if self.released:
                raise BufferReleased("this process has released the buffer")
            if self._held is None:
                self._held = _mine(self.loan) or _mapped(self.loan)
            return self._held

    @property
    def array(self) -> np.ndarray[Any, Any]:
        return self._there().array

    @property
    def handle(self) -> tuple[int, int, int]:
        return self.loan.handle

    @property
    def shape(self) -> tuple[int, ...]:
        return self.loan.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.loan.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.loan.shape) * self.loan.dtype.itemsize

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return self._there().__array__(dtype, copy)

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Any) -> Any:
        return self.array[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.array[index] = value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def release(self) -> None:
        """Give the buffer back: this process is no owner of it any more. Views of the array stay good."""
        self._there()  # raises if it was released before
        self.close()

    def close(self) -> None:
        """Give the buffer back. Nothing happens if that was done before."""
        with self._turn:
            held, self._held, self.released = self._held, None, True
        if isinstance(held, MappedFile):
            held.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # To a third process: by way of the owner, whose buffer it is.
        return LentBuffer, (self.loan,)

    def __repr__(self) -> str:
        state = "released" if self.released else f"of process {self.loan.address.split()[1]}"
        return f"<LentBuffer {self.dtype} {self.shape}, {state}>"


def borrow(loan: Loan) -> SharedBuffer | LentBuffer:
    """Return the buffer of a loan: the very one in its own process, else a mapping of it.

    Raises
    ------
    HandleError
        On another machine, or when the owner is gone.
    BufferReleased
        When the owner has released the buffer.
    """
    if (mine := _mine(loan)) is not None:
        return mine
    lent = LentBuffer(loan)
    lent._there()
    return lent


def _mine(loan: Loan) -> SharedBuffer | None:
    """Return the buffer itself, if it is of this process."""
    lender = _lenders.get(os.getpid())
    return lender.offered.get(loan.handle) if lender is not None and lender.address == loan.address else None


def _mapped(loan: Loan) -> MappedFile:
    """Ask the owner for a buffer's memory, and map it."""
    if loan.host != host():
        raise HandleError(
            "this buffer lies in the memory of another machine\nTo fix: send numpy.array(buffer), or pickle the buffer "
            "outside of nif_lab.pickling.by_handle()"
        )
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        line.settimeout(PATIENCE)
        try:
            line.connect("\0" + loan.address)
            line.sendall(HANDLE.pack(*loan.handle))
            said, descriptors, _, _ = socket.recv_fds(line, PLACE.size, 1)
        except OSError as error:
            raise HandleError(
                f"the process that owns this buffer doesn't answer: {error}\nTo fix: keep that process, or send "
                "numpy.array(buffer)"
            ) from None
        if len(said) != PLACE.size or not descriptors:
            raise BufferReleased("the process that owns this buffer has released it")
        try:
            if _user(line)[1] != os.geteuid() or not is_lasting(descriptors[0]):
                raise HandleError("what answers for this buffer isn't its owner")
            file = MappedFile.received(descriptors[0], PLACE.unpack(said)[0], loan.shape, loan.dtype)
        finally:
            os.close(descriptors[0])
        line.settimeout(None)
        # The loan ends with the last view of the memory, not with the object that was asked for it.
        keeper: Any = file.array
        while isinstance(keeper, np.ndarray):
            keeper = keeper.base
        weakref.finalize(keeper, line.close)
        return file
    except BaseException:
        line.close()
        raise
