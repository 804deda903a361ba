"""How an exception of nif_lab is pickled: with all that it says."""

from __future__ import annotations

from typing import Any

__all__ = ["taken_apart"]


def taken_apart(error: BaseException) -> tuple[Any, ...]:
    """Take an exception apart. Python would call its class with the text alone, and most of ours take more."""
    return _again, (type(error), error.args, error.__dict__)


def _again(kind: type[BaseException], args: tuple[object, ...], said: dict[str, object]) -> BaseException:
    """Return an exception as it was in the process that raised it."""
    # Not the class's own, which may be that of MemoryError: Python refuses to call it for a class of ours.
    error: BaseException = (OSError if issubclass(kind, OSError) else Exception).__new__(kind)
    error.args = args
    error.__dict__.update(said)
    return error
