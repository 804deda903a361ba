"""Where compiled cells are kept: a folder that only its owner can write to, and files whose hashes are checked.

What lies here is loaded into the process, so nothing is that this package didn't put there: the folder is the user's
and closed to others, nobody else can write to those it lies in, no link is followed, and each library's hash is
compared before it is opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import stat
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BackendError, Message

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Cache", "Kept"]


@cache
def _processor() -> str:
    """Return what a library that was compiled for this very machine depends on."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
        kept = [
            line for line in text.splitlines() if line.startswith(("vendor_id", "model", "flags", "Features", "CPU"))
        ]
        return platform.machine() + "\n".join(kept)
    return platform.machine() + platform.processor()


def _refuse(path: Path, why: str) -> BackendError:
    return BackendError(f"compiled cells can't be kept in {path}: {why}", f"remove it, or set $XDG_CACHE_HOME: {path}")


def _check(path: Path, *, private: bool) -> None:
    """Refuse a folder that somebody else could change."""
    it = os.lstat(path)
    if not stat.S_ISDIR(it.st_mode):
        raise _refuse(path, "it is a link" if stat.S_ISLNK(it.st_mode) else "it isn't a folder")
    if it.st_uid != os.geteuid() and (private or it.st_uid != 0):
        raise _refuse(path, "it belongs to somebody else")
    others = stat.S_IMODE(it.st_mode) & (0o077 if private else 0o022)
    # In a sticky folder (/tmp) nobody can replace what isn't theirs.
    if others and (private or not it.st_mode & stat.S_ISVTX):
        raise _refuse(path, f"others have access to it (mode {stat.S_IMODE(it.st_mode):o})")


@dataclass(frozen=True, slots=True)
class Kept:
    """A compiled cell in the cache: its library and the compiler's warnings."""

    library: Path
    warnings: tuple[Message, ...]


class Cache:
    """Compiled cells by what they were made of.

    Parameters
    ----------
    folder
        Where; ``nif_lab/cells`` in ``$XDG_CACHE_HOME`` unless given.

    Raises
    ------
    BackendError
        When others could write there.
    """

    def __init__(self, folder: Path | None = None) -> None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        # Links above are the user's own affair; where they lead is what is checked.
        folder = folder or base / "nif_lab" / "cells"
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder = folder.parent.resolve() / folder.name
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.check()

    def check(self) -> None:
        """Refuse the folder if somebody else could change it, or one above it."""
        _check(self.folder, private=True)
        for above in self.folder.parents:
            _check(above, private=False)

    def shared(self, language: str) -> Path:
        """Return the folder that a language's jobs share."""
        folder = self.folder / f"{language}-shared"
        folder.mkdir(mode=0o700, exist_ok=True)
        _check(folder, private=True)
        return folder

    @contextlib.contextmanager
    def work(self) -> Iterator[Path]:
        """Lend an empty folder."""
        folder = Path(tempfile.mkdtemp(prefix="work-", dir=self.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @staticmethod
    def key(parts: list[str]) -> str:
        """Return the name of what is made of these parts on this machine."""
        return hashlib.sha256(json.dumps([*parts, _processor()]).encode()).hexdigest()

    def find(self, key: str) -> Kept | None:
        """Return a cell that was kept; None if there is none.

        Raises
        ------
        ValueError
            If there is one that isn't what was put there.
        """
        library, note = self.folder / f"{key}.so", self.folder / f"{key}.json"
        try:
            about = json.loads(_read(note))
            if hashlib.sha256(_read(library)).hexdigest() != about["sha256"]:
                raise ValueError(f"{library} isn't the file that was put there")
            return Kept(library, tuple(Message(**it) for it in about["warnings"]))
        except FileNotFoundError:
            return None
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{library} can't be used: {error}") from None

    def keep(self, key: str, made: Path, warnings: list[Message]) -> Kept:
        """Put a library in, in one step."""
        library, note = self.folder / f"{key}.so", self.folder / f"{key}.json"
        about = {"sha256": hashlib.sha256(made.read_bytes()).hexdigest(), "warnings": [asdict(it) for it in warnings]}
        described = made.with_suffix(".json")
        described.write_text(json.dumps(about))
        for file in (made, described):
            file.chmod(0o600)
        os.replace(made, library)
        os.replace(described, note)
        return Kept(library, tuple(warnings))


def _read(path: Path) -> bytes:
    """Read a file that is the user's own and no link."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        it = os.fstat(file.fileno())
        if it.st_uid != os.geteuid() or not stat.S_ISREG(it.st_mode) or it.st_mode & 0o022:
            raise ValueError("others have access to it")
        return file.read()
