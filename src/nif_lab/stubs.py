"""Stub files of a Lab's functions, for editors and type checkers: ``nif-lab stubs`` and ``lab.stubs()``.

Which functions a Lab has is known when it runs, so a type checker sees ``Any``. The stubs make a package that exists
for type checkers alone::

    from typing import TYPE_CHECKING, cast

    import nif_lab

    if TYPE_CHECKING:
        import lab_stubs

    lab = cast("lab_stubs.Lab", nif_lab.Lab())
    lab.zig.dot(x, y)                           # float
"""

from __future__ import annotations

import inspect
import keyword
from pathlib import Path
from typing import TYPE_CHECKING, Final

from . import hints
from .flags import Flag
from .folders import written

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._core import Nif
    from .lab import Lab
    from .loaded import LoadedBackend

__all__ = ["PACKAGE", "write"]

#: The package's name.
PACKAGE: Final = "lab_stubs"
HEAD: Final = """\
# Written by nif_lab: nif-lab stubs
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nif_lab.hints import Array
from nif_lab.lab import LoadedBackend
"""


def write(lab: Lab, out: Path) -> list[Path]:
    """Write the stubs of a Lab's backends, with their cells, of its libraries, and of the files that were imported.

    Parameters
    ----------
    lab
        The Lab.
    out
        The folder of the package `PACKAGE`; it is made.

    Returns
    -------
    list of Path
        The files, sorted.
    """
    package = out / PACKAGE
    files: dict[Path, str] = {}
    shown = [it for it in (*lab.backends.values(), *lab.libraries.copy().values()) if it.loaded]
    for it in shown:
        files[package / f"{it.name}.pyi"] = _backend(it)
    for opened in lab._opened.copy().values():
        for file, handles in opened.cells.apart.items():
            files[out / f"{Path(file).stem}.pyi"] = _module([handle.nif for handle in handles.values()])
    files[package / "__init__.pyi"] = _lab(shown)
    with written(out):
        package.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            path.write_text(text, encoding="utf-8")
    return sorted(files)


def _backend(loaded: LoadedBackend) -> str:
    nifs = [it for it in loaded.functions.values() if not it.flags & Flag.FAULT and it.name.isidentifier()]
    results, methods = _functions(nifs, "    ")
    return f"{HEAD}\n{results}class {_class(loaded.name)}(LoadedBackend):\n{methods or '    ...'}"


def _module(nifs: Iterable[Nif]) -> str:
    results, functions = _functions(nifs, "")
    return f"{HEAD}\n{results}{functions}"


def _lab(shown: list[LoadedBackend]) -> str:
    imports = "".join(f"from .{it.name} import {_class(it.name)}\n" for it in sorted(shown, key=lambda it: it.name))
    attributes = "".join(f"    {it.name}: {_class(it.name)}\n" for it in shown) or "    ...\n"
    lane = f"class Lane(nif_lab.lane.Lane):\n{attributes}\n\n"
    lab = f"class Lab(nif_lab.lab.Lab):\n{attributes}    direct: Lane\n    isolated: Lane\n"
    return f"# Written by nif_lab: nif-lab stubs\nimport nif_lab.lab\nimport nif_lab.lane\n\n{imports}\n{lane}{lab}"


def _class(name: str) -> str:
    return "".join(it.capitalize() for it in name.split("_"))


def _functions(nifs: Iterable[Nif], margin: str) -> tuple[str, str]:
    """Return the named tuples that some functions return, and the functions."""
    results, functions = [], []
    for nif in sorted(nifs, key=lambda it: it.name):
        signature = hints.of(nif)
        if signature.fields:
            # A tuple has a method of that name, which the field hides.
            hides = dict.fromkeys(("count", "index"), "  # type: ignore[assignment]")
            fields = "".join(f"    {name}: {spelled}{hides.get(name, '')}\n" for name, spelled in signature.fields)
            results.append(f"class {signature.result_class}(NamedTuple):\n{fields}\n")
        given = _parameters(signature, inspect.signature(nif.function))
        taken = ", ".join((["self"] if margin else []) + given)
        doc = inspect.cleandoc(nif.doc).replace("\\", "\\\\").replace('"""', "'''").split("\n")[0]
        functions.append(
            f'{margin}def {nif.name}({taken}) -> {signature.result}:\n{margin}    """{doc}"""\n'
            if doc and not doc.endswith('"')
            else f"{margin}def {nif.name}({taken}) -> {signature.result}: ...\n"
        )
    return "".join(results), "".join(functions)


def _parameters(signature: hints.Signature, plain: inspect.Signature) -> list[str]:
    """Return the parameters of a stub, each of the kind that the core says."""
    types = {it.name: it for it in signature.parameters}
    if not all(name in types and not keyword.iskeyword(name) for name in plain.parameters):
        return ["*args: Any", "**kwargs: Any"]
    given, has_star = [], False
    for name, it in plain.parameters.items():
        if it.kind is it.KEYWORD_ONLY and not has_star:
            given.append("*")
            has_star = True
        default = "" if it.default is it.empty else f" = {types[name].default or it.default!r}"
        given.append(f"{name}: {types[name].annotation}{default}")
    return given
