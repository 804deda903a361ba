"""Native code in notebook cells: compiled, kept, opened beside the built-in functions, and replaced when run again."""

from __future__ import annotations

from .cell import Cell, Cells, Request
from .handle import Handle
from .shelf import Shelf

__all__ = ["Cell", "Cells", "Handle", "Request", "Shelf"]
