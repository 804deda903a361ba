"""The size and offset of every field, in every language, against what the C compiler makes of nif_lab.h.

The C program is generated from the header itself, so neither can drift from the other.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import abi_client
import pytest

import nif_lab

if TYPE_CHECKING:
    from nif_lab.lab import LoadedBackend

HEADER: Final = Path(nif_lab.get_include()) / "nif_lab.h"
ABI: Final = Path(__file__).parent.parent / "docs" / "abi.md"

#: The classes of tests/abi_client.py. Which structs count, and in which order, is the documentation's to say.
CLASSES: Final[dict[str, type[ctypes.Structure]]] = {
    "nif_tensor": abi_client.Tensor,
    "nif_bytes": abi_client.Bytes,
    "nif_any": abi_client.AnyValue,
    "nif_host": abi_client.Host,
    "nif_env": abi_client.Env,
    "nif_function": abi_client.Function,
    "nif_library": abi_client.Library,
}

STRUCT: Final = re.compile(r"typedef struct \w+ \{\n(.*?)\n\} (\w+);", re.DOTALL)
COMMENT: Final = re.compile(r"/\*.*?\*/", re.DOTALL)
NESTED: Final = re.compile(r"\{.*?\}", re.DOTALL)
FIELD: Final = re.compile(r"\(\*(\w+)\)\(.*\)$|(\w+)(?:\[\d+\])?$", re.DOTALL)


def structs_of_the_header() -> dict[str, list[str]]:
    """Return every struct of nif_lab.h with the names of its fields, in order of declaration."""
    structs = {}
    for body, name in STRUCT.findall(HEADER.read_text("utf-8")):
        declarations = NESTED.sub("", COMMENT.sub("", body)).split(";")
        fields = [FIELD.search(declaration.strip()) for declaration in declarations if declaration.strip()]
        structs[name] = [field[1] or field[2] for field in fields if field]
    return structs


def structs_of_the_documentation() -> dict[str, list[str]]:
    """Return the structs that docs/abi.md counts, in its order."""
    paragraph = re.search(r"## Layout\n\n(.*?)\n\n", ABI.read_text("utf-8"), re.DOTALL)
    assert paragraph
    return {name: re.split(r",\s+", fields) for name, fields in re.findall(r"`(\w+)`\s+\(([^)]+)\)", paragraph[1])}


def hash_of(layout: str) -> int:
    """Compute ``struct_hash`` from sizes of structs and offsets of fields, which are the second word of each line."""
    value = 2166136261
    for line in layout.split("\n"):
        value = (value ^ int(line.split()[1])) * 16777619 % 2**32
    return value


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ask the C compiler; its answer in the words of ``layout()``."""
    compiler = shutil.which("cc")
    assert compiler, "a C compiler is needed: install gcc or clang"
    lines = []
    for struct in structs_of_the_documentation():
        lines.append(f'printf("{struct} %zu\\n", sizeof({struct}));')
        for field in structs_of_the_header()[struct]:
            place = f"offsetof({struct}, {field}), sizeof((({struct} *)0)->{field})"
            lines.append(f'printf("{struct}.{field} %zu %zu\\n", {place});')
    folder = tmp_path_factory.mktemp("layout")
    source, program = folder / "layout.c", folder / "layout"
    body = "\n".join(lines)
    source.write_text(f'#include <stdio.h>\n#include "nif_lab.h"\nint main(void) {{\n{body}\nreturn 0;\n}}\n')
    warnings = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    subprocess.run([compiler, *warnings, f"-I{HEADER.parent}", str(source), "-o", str(program)], check=True)
    return subprocess.run([program], check=True, capture_output=True, text=True).stdout.strip()


def test_the_header_is_c_plus_plus_too(tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    if not compiler:
        pytest.fail("no C++ compiler: apt-get install g++", pytrace=False)
    source = tmp_path / "header.cc"
    source.write_text('#include "nif_lab.h"\n')
    subprocess.run([compiler, "-fsyntax-only", "-Wall", "-Werror", f"-I{HEADER.parent}", str(source)], check=True)


def test_the_documentation_lists_the_fields_of_the_header() -> None:
    header = structs_of_the_header()
    documented = structs_of_the_documentation()
    assert documented == {name: header[name] for name in documented}
    assert header.keys() - documented.keys() == {"nif_device", "nif_dtype", "nif_gpu", "nif_object"}
    assert documented.keys() == CLASSES.keys()


def test_the_core(layout: str) -> None:
    from nif_lab import _core

    assert _core.layout().split("\n") == layout.split("\n")


def test_every_backend(backend: LoadedBackend, layout: str) -> None:
    assert backend.layout().split("\n") == layout.split("\n")


def test_every_library_has_the_hash(library: Path, layout: str) -> None:
    assert abi_client.Client(library).library.struct_hash == hash_of(layout)


def test_the_client_in_ctypes(layout: str) -> None:
    lines = []
    for name, fields in structs_of_the_documentation().items():
        described = [getattr(CLASSES[name], field) for field in fields]
        lines.append(f"{name} {ctypes.sizeof(CLASSES[name])}")
        lines += [f"{name}.{field} {d.offset} {d.size}" for field, d in zip(fields, described, strict=True)]
    assert lines == layout.split("\n")
