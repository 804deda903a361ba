"""C becomes a language as the others are, for as long as a test wants it to.

`a_language` does what putting the files into the checkout would: `c` beside `zig`, `backends/c.py` beside `zig.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nif_lab.backends

__all__ = ["MODEL", "NAME", "a_language", "build"]

HERE = Path(__file__).resolve().parent
NAME = "c"
#: The language whose outcomes of docs/faults.md are C's too.
MODEL = "zig"


@contextmanager
def a_language() -> Iterator[None]:
    """List C among the languages meanwhile; a Lab that is made meanwhile keeps it."""
    folders = nif_lab.backends.__path__
    folders.append(str(HERE / "backends"))
    nif_lab.backends._classes.cache_clear()
    try:
        from nif_lab.backends.c import C

        C.sources = HERE / "c"
        yield
    finally:
        folders.remove(str(HERE / "backends"))
        nif_lab.backends._classes.cache_clear()


def build() -> None:
    """Compile C's folder, unless nothing changed since it was."""
    with a_language():
        backend = nif_lab.backends.find(NAME)
        include = Path(nif_lab.backends.__file__).parents[1] / "include"
        sources = [it for folder in (HERE, include) for it in folder.rglob("*") if it.suffix in {".c", ".h", ".py"}]
        newest = max(it.stat().st_mtime for it in sources)
        if not backend.is_built() or backend.library.stat().st_mtime < newest:
            backend.build(backend.sources, backend.library)
