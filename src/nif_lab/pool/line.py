"""What an executor and its workers tell each other: pickles, with large arrays beside them instead of inside.

The worker's side imports this before anything that its user names, so it imports nothing but the standard library.
"""

from __future__ import annotations

import pickle
import select
import socket
import struct
import time
from typing import Any, Final

__all__ = ["Ended", "put_together", "receive", "send", "taken_apart"]

#: How many parts follow, and how long each is.
COUNT: Final = struct.Struct("<I")
LENGTH: Final = struct.Struct("<Q")
#: Parts of a message at most, and bytes of one: nothing that a process of ours sends has more.
MOST_PARTS: Final = 1 << 20
MOST_BYTES: Final = 1 << 40


class Ended(Exception):
    """The other side is gone."""


def taken_apart(value: Any, pickler: Any = pickle) -> list[Any]:
    """Return a value's pickle, and the arrays that belong to it."""
    beside: list[pickle.PickleBuffer] = []
    main = pickler.dumps(value, protocol=5, buffer_callback=beside.append)
    return [main, *(it.raw() for it in beside)]


def send(line: socket.socket, parts: list[Any]) -> None:
    """Send the parts of a message."""
    sizes = [memoryview(it).nbytes for it in parts]
    head = COUNT.pack(len(parts)) + b"".join(map(LENGTH.pack, sizes))
    if sum(sizes) < 1 << 16:
        line.sendall(head + b"".join(bytes(it) for it in parts))
        return
    line.sendall(head)
    for it in parts:
        line.sendall(it)


def put_together(parts: list[bytearray]) -> Any:
    """Return the value of a message."""
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301  # it is from a process of our own


def receive(line: socket.socket, deadline: float | None = None, end: int | None = None) -> list[bytearray]:
    """Wait for the parts of a message.

    Parameters
    ----------
    line
        The connection.
    deadline
        When to stop waiting, by `time.monotonic`.
    end
        The pidfd of the process at the other end. Children of its own may keep the connection open.

    Raises
    ------
    Ended
        When the other side is gone.
    TimeoutError
        At the deadline.
    """
    waiting = select.poll()
    waiting.register(line, select.POLLIN)
    if end is not None:
        waiting.register(end, select.POLLIN)

    def some(size: int) -> bytearray:
        found = bytearray(size)
        view = memoryview(found)
        while view:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0) * 1000
            ready = [it for it, _ in waiting.poll(left)]
            if not ready:
                raise TimeoutError
            if line.fileno() not in ready:
                raise Ended
            try:
                got = line.recv_into(view)
            except ConnectionError:
                got = 0
            if not got:
                raise Ended
            view = view[got:]
        return found

    (count,) = COUNT.unpack(some(COUNT.size))
    if not 0 < count <= MOST_PARTS:
        raise Ended
    sizes = [size for (size,) in LENGTH.iter_unpack(some(LENGTH.size * count))]
    if sum(sizes) > MOST_BYTES:
        raise Ended
    return [some(size) for size in sizes]
