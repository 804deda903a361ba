"""One call of the NIF `fault`, in a process that may end by it: ``burn.py zig null_store 5``, 5 being shared memory.

It is started for each row of docs/faults.md and each language, so it imports no more than it needs.
"""

from __future__ import annotations

import mmap
import resource
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from fifth_language import language as fifth

from nif_lab import Lab
from nif_lab.errors import NifError

if TYPE_CHECKING:
    import numpy.typing as npt

    from nif_lab.lab import LoadedBackend


class Shared:
    """A page that two processes see: a fuse, x, and cells that are nobody's business."""

    def __init__(self, file: int) -> None:
        self.cells: npt.NDArray[np.float64] = np.frombuffer(mmap.mmap(file, 4096), np.float64)
        self.fuse = self.cells[:3].view(np.int64)
        self.x = self.cells[64:69]


def direct_lab(language: str) -> LoadedBackend | Any:
    """Return one language, called in this process."""
    with fifth.a_language():
        return Lab([language], lane="direct").backends[language]


def main(language: str, kind: str, file: str) -> None:
    """Make the call; print the exception or the sum."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_STACK, (2**23, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    memory = Shared(int(file))
    backend = direct_lab(language)
    try:
        print(backend.fault(kind, memory.fuse, memory.x))
    except NifError as error:
        print(type(error).__name__)
        assert backend.fault(kind, np.zeros(3, np.int64), memory.x) == 10.0


if __name__ == "__main__":
    main(*sys.argv[1:])
