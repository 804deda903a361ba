"""What native code prints in the direct lane, in a kernel: it arrives in the cell that ran it, not in the next one."""

from __future__ import annotations

import array
import fcntl
import sys
import termios
import time
from typing import Any, Final

__all__ = ["settle"]

#: Seconds that a kernel gets to read what was printed.
PATIENCE: Final = 0.5
#: What passes between its reading a piece and handing that over.
HANDOVER: Final = 0.005


def settle(*_: Any) -> None:
    """Wait until a kernel has read what was printed to the process's own descriptors; called after each cell."""
    found = False
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        if getattr(stream, "watch_fd_thread", None) is None:
            continue
        end = time.monotonic() + PATIENCE
        while _waiting(number) and time.monotonic() < end:
            found = True
            time.sleep(0.001)
    if found:
        time.sleep(HANDOVER)


def _waiting(number: int) -> int:
    """Return how many bytes nobody has read yet; 0 for what isn't a pipe."""
    count = array.array("i", [0])
    try:
        fcntl.ioctl(number, termios.FIONREAD, count)
    except OSError:
        return 0
    return count[0]
