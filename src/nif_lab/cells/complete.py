"""What Tab shows after ``lab.zig.``: the functions first, then what describes the backend. IPython sorts by name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from ..lab import Lab, Lane, LoadedBackend

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["follow"]

PLACE: Final = re.compile(r"(?<![\w.)\]])([^\W\d]\w*(?:\.[^\W\d]\w*)*)\.(\w*)$")


def follow(shell: InteractiveShell) -> None:
    """Add the order to a session's completer; one of an IPython before 8.6, which can't be told, keeps its own."""
    try:
        from IPython.core.completer import SimpleCompletion, context_matcher
    except ImportError:
        return
    matchers = getattr(shell.Completer, "custom_matchers", None)
    if matchers is None:
        return

    @context_matcher()  # type: ignore[untyped-decorator]  # IPython's decorators have no types
    def nif_lab_matcher(context: Any) -> Any:
        found = PLACE.search(context.text_until_cursor)
        backend = found and _backend(shell.user_ns, found[1].split("."))
        if not found or backend is None:
            return {"completions": []}
        functions, prefix = set(backend.kernels), found[2]
        shown = [
            SimpleCompletion(it, type="function" if it in functions or it.endswith("_b") else "instance")
            for it in backend.__dir__()
            if it.startswith(prefix)
        ]
        return {"completions": shown, "matched_fragment": prefix, "ordered": True, "suppress": bool(shown)}

    matchers.append(nif_lab_matcher)


def _backend(space: dict[str, Any], names: list[str]) -> LoadedBackend | None:
    """Return the backend that some names lead to; nothing is loaded, and no code of others runs."""
    value = space.get(names[0])
    for name in names[1:]:
        if isinstance(value, Lab):
            value = vars(value).get(name)
        elif isinstance(value, Lane) and name in value:
            value = value[name]
        else:
            return None
    return value if isinstance(value, LoadedBackend) else None
