"""All backends of a Lab in one lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from . import arguments
    from .lab import LoadedBackend

__all__ = ["Lane"]


class Lane:
    """All backends of a Lab in one lane: ``lab.isolated.zig.dot(x, y)``.

    A backend is opened there when it is first asked for.

    Parameters
    ----------
    name
        ``"direct"`` or ``"isolated"``.
    names
        Of the backends; what is loaded later is found too.
    find
        Gives a backend by its name and lane.
    """

    def __init__(
        self, name: arguments.Lane, names: Iterable[str], find: Callable[[str, arguments.Lane], LoadedBackend]
    ) -> None:
        self.name = name
        self._names = names
        self._find = find

    def __getattr__(self, backend: str) -> LoadedBackend:
        if backend.startswith("_"):
            raise AttributeError(backend)
        return self[backend]

    def __getitem__(self, backend: str) -> LoadedBackend:
        return self._find(backend, self.name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __dir__(self) -> list[str]:
        return list(self)

    def __repr__(self) -> str:
        return f"<{self.name} lane: {', '.join(self)}>"
