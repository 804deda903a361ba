"""The languages: one file each. This folder's listing is the list; there is no other."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache

from ..arguments import one_of
from .base import Backend

__all__ = ["find", "names"]


@cache
def _classes() -> dict[str, type[Backend]]:
    found: list[type[Backend]] = []
    for module in pkgutil.iter_modules(__path__):
        if module.name == "base":
            continue
        members = vars(importlib.import_module(f"{__name__}.{module.name}")).values()
        found += [it for it in members if inspect.isclass(it) and issubclass(it, Backend) and it is not Backend]
    return {it.name: it for it in sorted(found, key=lambda it: (it.rank, it.name))}


def names() -> tuple[str, ...]:
    """Return the names of all languages in the order they are shown in."""
    return tuple(_classes())


def find(name: str) -> Backend:
    """Return the backend of one language.

    Raises
    ------
    ArgumentValueError
        For a name that isn't a language, with those that are.
    """
    return _classes()[one_of("language", name, names())]()
