"""Pictures of a Lab's performance, drawn by a process of their own: ``python -m nif_lab.live.renderer``.

Drawing costs tens of milliseconds; neither the watched process nor the server that passes the pictures on can spare
them. The process lets everybody else go first, and ends when whoever started it does.
"""

from __future__ import annotations

import fcntl
import io
import os
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from ..programs import python
from ..segment import Segment, SegmentError, attach
from .feed import Feed, pack

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

__all__ = ["Renderer"]

#: Seconds between two looks, and from the last change to the picture that is left standing.
INTERVAL, QUIET = 0.1, 0.4
QUALITY: Final = 85
PIPE_BYTES: Final = 1 << 20


class Renderer:
    """A process that draws one Lab's performance, again and again while it changes.

    Parameters
    ----------
    pid, lab
        The process and the Lab's ``base_ticks``, as `attach` finds them.
    theme
        ``"light"`` or ``"dark"``.
    width
        Of the picture, in CSS pixels; its height follows.
    scale
        Pixels in a CSS pixel.
    """

    def __init__(self, pid: int, lab: int, theme: str, width: int, scale: float) -> None:
        command = python("-m", __name__, *map(str, (pid, lab, theme, width, scale)))
        # In the root folder: `-m` would take modules from where the server runs, a folder of notebooks perhaps.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, cwd="/",
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self._process.stdout
        self._descriptor = self._process.stdout.fileno()
        os.set_blocking(self._descriptor, False)
        fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._received = bytearray()

    def fileno(self) -> int:
        """Return the descriptor that is readable when `frame` has something to do."""
        return self._descriptor

    def frame(self) -> bytes | None:
        """Return the newest picture as a message (docs/messages.md), or None if none has come.

        Raises
        ------
        EOFError
            When the process has ended.
        """
        while True:
            try:
                data = os.read(self._descriptor, PIPE_BYTES)
            except BlockingIOError:
                break
            if not data:
                raise EOFError(f"the renderer ended with {self._process.wait()}; its error is in the server's log")
            self._received += data
        newest = None
        while len(self._received) >= 4:
            end = 4 + int.from_bytes(self._received[:4], "little")
            if len(self._received) < end:
                break
            newest = bytes(self._received[4:end])
            del self._received[:end]
        return newest

    def close(self) -> None:
        """End the process and wait for it, some milliseconds."""
        self._process.kill()
        self._process.communicate()


def _messages(segment: Segment, theme: str, width: int, scale: float) -> Iterator[bytes | None]:
    """Yield a picture for each change, JPEG while they go on and PNG when they stop; None when none is due."""
    from .grid import Grid

    feed, grid = Feed(segment), Grid(theme, width, scale)
    changed = float("inf")
    while True:
        if (seen := feed.look()) is not None:
            changed, pixels = time.monotonic(), grid.draw(seen[0])
            drawn = {name: seen[0][name] for name in ("time", "figures")}
            yield _message(pixels, theme, drawn, "jpeg", quality=QUALITY, subsampling=0)
        elif time.monotonic() - changed > QUIET:
            changed = float("inf")
            yield _message(pixels, theme, drawn, "png", compress_level=3)
        else:
            yield None


def _message(pixels: np.ndarray, theme: str, drawn: dict[str, Any], kind: str, **options: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind, **options)
    height, width, _ = pixels.shape
    head = {"kind": "picture", "mime": f"image/{kind}", "width": width, "height": height, "theme": theme, **drawn}
    return pack(head, file.getvalue())


def main(pid: int, lab: int, theme: str, width: int, scale: float) -> None:
    """Draw until the standard input closes."""
    segment = next((it for it in attach(pid) if int(it.header["base_ticks"]) == lab), None)
    if segment is None:
        raise SegmentError(f"process {pid} has no such Lab any more")
    end = select.poll()
    end.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
    for message in _messages(segment, theme, width, scale):
        os.setpriority(os.PRIO_PROCESS, 0, 19)  # from now on; beside a busy kernel the first picture would never come
        if message is not None:
            sys.stdout.buffer.write(len(message).to_bytes(4, "little") + message)
            sys.stdout.buffer.flush()
        if end.poll(INTERVAL * 1000):
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
