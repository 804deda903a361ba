"""The public interface, frozen: ``python tests/test_api.py`` writes tests/golden/api.txt anew; read the difference."""

from __future__ import annotations

import importlib
import inspect
import re
import runpy
from pathlib import Path
from typing import Any, get_args

import nif_lab
from nif_lab.arguments import FAULT_MEANINGS, ContainedKind, EndingKind, GpuKind

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "api.txt"
#: What a class has only because it is a data class or an exception.
INHERITED = set(dir(object)) | set(dir(Exception)) | {"__dataclass_fields__", "__match_args__"}


def resolve(path: str) -> Any:
    """Find the object of a dotted name."""
    module, name = path.rsplit(".", 1)
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        return getattr(importlib.import_module(module), name)


def described(name: str, thing: Any) -> list[str]:
    """One line for each public name: a function with its signature, a class with its members."""
    if isinstance(thing, type):
        lines = [f"class {name}({', '.join(it.__name__ for it in thing.__bases__ if it is not object)})"]
        fields = getattr(thing, "__annotations__", {}) if hasattr(thing, "__dataclass_fields__") else {}
        lines += [f"  {field}: {kind}" for field, kind in fields.items() if not field.startswith("_")]
        if thing.__init__ is not object.__init__ and not fields and not issubclass(thing, Exception):
            lines.append(f"  __init__{inspect.signature(thing.__init__)}")
        members = {
            k: v for it in reversed(thing.__mro__) if it.__module__.startswith("nif_lab") for k, v in vars(it).items()
        }
        for member, value in sorted(members.items()):
            if member.startswith("_") or member in INHERITED or member in fields:
                continue
            plain = getattr(value, "__func__", value)
            if isinstance(value, property):
                lines.append(f"  {member} (property)")
            elif callable(plain):
                lines.append(f"  {member}{inspect.signature(plain)}")
        return lines
    if callable(thing):
        return [f"{name}{inspect.signature(thing)}"]
    return [f"{name}: {type(thing).__name__}"]


def interface() -> str:
    """The names that site/api.md lists, with their signatures."""
    page = (ROOT / "site" / "api.md").read_text()
    lines = []
    for kind, path in re.findall(r"^\.\. auto(class|function|module):: (\S+)", page, re.M):
        thing = resolve(path)
        if kind == "module":
            for name in thing.__all__:
                lines += described(f"{path}.{name}", getattr(thing, name))
        else:
            lines += described(path, thing)
    return "\n".join(lines) + "\n"


def test_the_interface_is_the_one_that_was_agreed() -> None:
    assert interface() == GOLDEN.read_text(), "if the change is meant: python tests/test_api.py, and CHANGELOG.md"


def test_every_public_name_is_in_the_reference() -> None:
    listed = GOLDEN.read_text()
    missing = [name for name in nif_lab.__all__ if not re.search(rf"^(class )?nif_lab(\.\w+)*\.{name}\b", listed, re.M)]
    assert not missing, "site/api.md"


def test_the_version_is_the_same_everywhere() -> None:
    found = runpy.run_path(str(ROOT / "tools" / "version.py"))["found"]()
    assert set(found.values()) == {nif_lab.__version__}, found


def test_every_fault_has_its_meaning() -> None:
    assert set(FAULT_MEANINGS) == {*get_args(ContainedKind), *get_args(EndingKind), *get_args(GpuKind)}
    text = (ROOT / "docs" / "faults.md").read_text()
    assert [kind for kind in FAULT_MEANINGS if f"`{kind}`" not in text] == []


if __name__ == "__main__":
    GOLDEN.write_text(interface())
