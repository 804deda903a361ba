"""What is being done, on a terminal."""

from __future__ import annotations

import sys
import time
from typing import Final

__all__ = ["Progress"]

#: Seconds before it shows anything.
QUIET: Final = 1.0


class Progress:
    """One line on standard error that changes, after a second; none where that is no terminal."""

    def __enter__(self) -> Progress:
        self._start, self._is_shown = time.monotonic(), False
        return self

    def __call__(self, text: str) -> None:
        """Show what is being done now."""
        if sys.stderr.isatty() and time.monotonic() - self._start > QUIET:
            self._is_shown = True
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self._is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
