"""A project of one's own: ``lab.new("zig", "my_kernels")`` writes it, `Lab.load` takes what it builds."""

from __future__ import annotations

import keyword
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from . import backends as languages
from .arguments import expect, path_of
from .errors import ArgumentValueError
from .folders import written

if TYPE_CHECKING:
    from .backends.base import Backend

__all__ = ["new"]

TEMPLATES: Final = Path(__file__).parent / "templates"
#: What the projects in `templates` are called, with whom each of them is a project that works.
MODEL: Final = "my_kernels"
#: Files and modules that the projects have.
OWN: Final = frozenset({"build_wheel", "lib", "nif", "python", "sdk", "src"})


def new(language: str, name: str, folder: str | Path = ".") -> Path:
    """Write a small, complete project into the folder ``name``.

    Parameters
    ----------
    language
        Which.
    name
        Of the project, its library and its folder; a Python identifier.
    folder
        Where its folder is made.

    Returns
    -------
    Path
        The new folder: functions, what builds them, a test, a notebook, a copy of the SDK, and a README.

    Raises
    ------
    FileExistsError
        When there is something of that name: nothing is overwritten.
    ArgumentValueError
        For a name that can't be one, or no language.
    SystemRefusal
        When it can't be written: a full disk, a folder that isn't one.
    """
    backend = languages.find(language)
    expect("name", name, str, "a name")
    is_word = name.isidentifier() and name.isascii() and not keyword.iskeyword(name)
    if not is_word or name.startswith("_") or name in OWN:
        reason = f"'{name}' can't be a project's name; use letters, digits and _, as in '{MODEL}'"
        raise ArgumentValueError("name", reason)
    backend.sdk_folders()  # raises where there is none
    project = (Path(path_of("folder", folder)).expanduser() / name).absolute()
    if os.path.lexists(project):
        raise FileExistsError(f"{project} exists; nothing was written. Use another name or folder")
    with written(project):
        project.parent.mkdir(parents=True, exist_ok=True)
        # It appears as a whole, or not at all: a disk may be full.
        unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=project.parent))
        try:
            _write(backend, language, name, unfinished)
            unfinished.chmod(0o777 & ~_umask())
            unfinished.rename(project)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return project


def _umask() -> int:
    """Return the permissions that new folders don't get; the system has no call that only asks."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition("Umask:")[2].split()[0], 8)


def _write(backend: Backend, language: str, name: str, project: Path) -> None:
    sdk = backend.sdk_folders()
    library = f"lib{MODEL}.so" if backend.compiled else next((TEMPLATES / language).glob("*.in")).stem
    sources = {it: _target(it) for part in ("common", language) for it in sorted((TEMPLATES / part).rglob("*.in"))}
    parts = [f"| `{to}` | {_purpose(to)} |" for it, to in sources.items() if TEMPLATES / language in it.parents]
    told = {
        "@TITLE@": backend.title,
        "@LIBRARY@": library,
        "@FLAGS@": " ".join(backend.library_flags),
        "@FILES@": "\n".join([*parts, *(["| `sdk` | a copy of nif_lab's SDK |"] if sdk else [])]),
        "@BUILD@": f"`make` builds `{library}`." if backend.compiled else "There is nothing to build.",
        "@REQUIRES@": ", ".join(f'"{it}"' for it in backend.build_requires),
        "@PLATFORM@": "manylinux_2_17" if backend.build_requires else "linux",
        "@NATIVE@": f"{platform.machine()}-linux",
        "@NIF_LAB@": " ".join(["nif_lab", *backend.build_requires]),
        "@CI_BUILD@": "make" if backend.compiled else "echo there is nothing to build",
        "@NOTEBOOK_BUILD@": "!make" if backend.compiled else "# Julia compiles when the functions are called.",
    }
    for source, target in sources.items():
        text = source.read_text(encoding="utf-8")
        for placeholder, value in told.items():
            text = text.replace(placeholder, value)
        file = project / target.replace(MODEL, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace(MODEL, name), encoding="utf-8")
    for room in sdk:
        _copy_sdk(room, project / "sdk")
    for lock in (it / "Cargo.lock" for it in {room.parent for room in sdk}):
        if lock.is_file():
            shutil.copy(lock, project)  # the versions that the SDK was tested with


def _target(template: Path) -> str:
    """Return where a template goes, relative to its project."""
    # Its folder would be left out of the wheel if its name began with a dot here.
    parts = (".github" if it == "github" else it for it in template.relative_to(TEMPLATES).parts[1:])
    return str(Path(*parts).with_suffix(""))


def _purpose(file: str) -> str:
    if Path(file).suffix in (".toml", "") and not file.startswith("src"):
        return "builds the library"
    return "the library" if file == "src/lib.zig" else "the functions"


def _copy_sdk(room: Path, target: Path) -> None:
    """Copy the SDK out of a folder: all that is called ``nif…``, not the kernels beside it."""
    ignored = shutil.ignore_patterns("target", "tests", "__pycache__")
    if room.name.startswith("nif"):
        shutil.copytree(room, target / room.name, ignore=ignored)
        return
    target.mkdir()
    for it in room.glob("nif*"):
        if it.is_dir():
            shutil.copytree(it, target / it.name, ignore=ignored)
        else:
            shutil.copy(it, target)
