"""How a call through the Lab ends, in the terms of the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contract import Function, Refusal

from nif_lab.errors import NifError, NifPanic

if TYPE_CHECKING:
    from nif_lab.lab import LoadedBackend


def outcome(backend: LoadedBackend, function: Function, arguments: list[Any], **keywords: Any) -> Refusal | None:
    """Call it; how it failed, without a panic's own words. The whole message must add who and where to the reason."""
    try:
        getattr(backend, function.name)(*arguments, **keywords)
    except NifError as raised:
        error = raised
    else:
        return None
    where = f"argument '{error.argument}': " if error.argument else ""
    assert str(error) == f"{backend.name}.{function.name}(): {where}{error.reason}"
    assert (error.backend, error.function) == (backend.name, function.name)
    return Refusal(type(error), error.argument, "" if isinstance(error, NifPanic) else error.reason)
