"""What is wrong with a frame, and where."""

from __future__ import annotations

from ..errors import NifLabError
from .schema import ERRORS

__all__ = ["WireError"]


class WireError(NifLabError, ValueError):
    """A frame, or a value that should become one, breaks a rule of the format.

    Parameters
    ----------
    code
        One of `schema.ERRORS`: ``"SHORT"``.
    offset
        The byte of the frame at fault, for `encode` the row of the node table; -1 for an argument.
    unit
        What the offset counts: ``"byte"`` or ``"node"``.
    detail
        More words: what was given, and the cure.

    Attributes
    ----------
    rule : str
        What the code means.
    """

    def __init__(self, code: str, offset: int = -1, *, unit: str = "byte", detail: str = "") -> None:
        self.code = code
        self.offset = offset
        self.rule = ERRORS[code]
        self.detail = detail
        place = "" if offset < 0 else f" ({unit} {offset})"
        super().__init__(f"{code}: {self.rule}{place}" + (f": {detail}" if detail else ""))
