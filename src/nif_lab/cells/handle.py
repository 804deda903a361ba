"""A function of a cell, as its users hold it."""

from __future__ import annotations

import inspect
import operator
from typing import TYPE_CHECKING, Any

from .. import hints

if TYPE_CHECKING:
    from .._core import Nif
    from .cell import Recipe

__all__ = ["Handle"]


class Handle:
    """A function of a cell: who holds it calls what the cell has become.

    Attributes
    ----------
    backend, cell : str
        Which language, and which cell it is from now.
    nif : Nif
        The function as it is now.
    recipe : Recipe
        What the cell is compiled from.
    """

    __slots__ = ("__weakref__", "backend", "cell", "nif", "recipe")

    def __init__(self, backend: str, cell: str, nif: Nif, recipe: Recipe) -> None:
        self.backend = backend
        self.cell = cell
        self.nif = nif
        self.recipe = recipe

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    else:
        # Looked up at each call and called by Python itself: a traceback has no frame of this file.
        __call__ = property(operator.attrgetter("nif.function"))

    def becomes(self, other: Handle) -> Handle:
        """Call from now on what another handle calls."""
        self.cell, self.nif, self.recipe = other.cell, other.nif, other.recipe
        return self

    @property
    def __name__(self) -> str:
        return self.nif.name

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return f"{self.nif.signature}\n\n{self.nif.doc}"

    @property
    def __signature__(self) -> inspect.Signature:
        return hints.of(self.nif).over(inspect.signature(self.nif.function))

    @property
    def __annotations__(self) -> dict[str, Any]:  # type: ignore[override]  # a built-in function's can't be set either
        return hints.of(self.nif).annotations()

    def __get__(self, instance: object, owner: type | None = None) -> Handle:
        """Return itself, as built-in functions do; `help` and `inspect.isroutine` take it for a function by this."""
        return self

    def __repr__(self) -> str:
        return f"<{self.backend}.{self.nif.signature}, from {self.cell}>"
