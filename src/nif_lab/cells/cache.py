"""Where compiled cells are kept: a folder that only its owner can write to, and files whose hashes are checked.

What lies here is loaded into the process, so nothing is that this package didn't put there: the folder is one that
`nif_lab.folders` has checked, no link is followed, and each library's hash is compared before it is opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import stat
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import BackendError, Message
from ..folders import checked, private, writing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Cache", "Kept"]

#: Of the notes; part of each key, so that those of another one aren't looked at.
FORMAT: Final = "2"
#: Bytes of what is written beside a library.
NOTE_BYTES: Final = 1 << 20
#: Seconds in which a job locks its folder.
FRESH: Final = 60.0


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
        When others could write there, nobody can, or no library can be loaded from there: with what to set.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = private("cells") if folder is None else folder.parent.resolve() / folder.name
        with writing(self.folder):
            checked(self.folder)
            if os.statvfs(self.folder).f_flag & os.ST_NOEXEC:
                elsewhere = "set $XDG_CACHE_HOME to a folder on another file system"
                raise BackendError(f"libraries can't be loaded from {self.folder}: it is mounted noexec", elsewhere)

    def shared(self, language: str) -> Path:
        """Return the folder that a language's jobs share."""
        with writing(self.folder):
            return checked(self.folder / f"{language}-shared")

    @contextlib.contextmanager
    def work(self) -> Iterator[Path]:
        """Lend an empty folder; what was left of those whose process was killed goes."""
        with writing(self.folder):
            self._clear()
            folder = Path(tempfile.mkdtemp(prefix="work-", dir=self.folder))
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until this process ends, whatever ends it
            with writing(folder):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)

    def _clear(self) -> None:
        """Remove folders of jobs whose process has ended."""
        for folder in self.folder.glob("work-*"):
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime < FRESH:
                    continue  # its process may be about to lock it
                lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(lock)

    @staticmethod
    def key(parts: list[str]) -> str:
        """Return the name of what is made of these parts on this machine."""
        return _hash(json.dumps([FORMAT, *parts, _processor()]).encode())

    def find(self, key: str) -> Kept | None:
        """Return a cell that was kept; None if there is none, or a file that it was made of has changed since.

        Raises
        ------
        ValueError
            If there is one that isn't what was put there.
        """
        note = self.folder / f"{key}.json"
        library = note
        try:
            about = json.loads(_read(note, NOTE_BYTES))
            library = self._library(key, str(about["sha256"]))
            if _hash(_read(library)) != about["sha256"]:
                raise ValueError(f"{library} isn't the file that was put there")
            warnings = tuple(Message(**it) for it in about["warnings"])
            if not all(_is_as_it_was(Path(it), was) for it, was in about["read"].items()):
                return None
            return Kept(library, warnings)
        except FileNotFoundError:
            return None
        except (OSError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{library} can't be used: {error}") from None

    def keep(
        self,
        key: str,
        made: Path,
        warnings: Iterable[Message],
        read: tuple[Path, ...] | None = (),
        started_ns: int = 0,
    ) -> Kept:
        """Put a library in, in one step.

        Parameters
        ----------
        key, made, warnings
            What it is, where it was made, and what the compiler didn't like.
        read
            The files that it was made of. If they aren't known, or one was written after ``started_ns``, when the
            compiler started, it won't be found again.
        """
        sha256 = _hash(made.read_bytes())
        library, note = self._library(key, sha256), self.folder / f"{key}.json"
        known = read is not None and all(it.stat().st_mtime_ns < started_ns for it in read)
        hashes = {str(it): _hash(it.read_bytes()) for it in read or ()} if known else {}
        kept = Kept(library, tuple(warnings))
        about = {"sha256": sha256, "warnings": [asdict(it) for it in kept.warnings], "read": hashes}
        described = made.with_suffix(".json")
        described.write_text(json.dumps(about))
        for file in (made, described):
            file.chmod(0o600)
        _clear_way(note)
        if library.is_dir():
            _clear_way(library)
        os.replace(made, library)
        if known:
            os.replace(described, note)
        return kept

    def _library(self, key: str, sha256: str) -> Path:
        """Return where a library lies: what was built anew has a name of its own, since a loader goes by names."""
        return self.folder / f"{key[:32]}-{sha256[:16]}.so"


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_as_it_was(file: Path, was: str) -> bool:
    try:
        return file.is_file() and _hash(file.read_bytes()) == was
    except OSError:
        return False


def _clear_way(path: Path) -> None:
    """Remove whatever stands where a file is to be put."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read(path: Path, most: int = -1) -> bytes:
    """Read a file that is the user's own and no link; never wait for what isn't a file."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        it = os.fstat(file.fileno())
        if it.st_uid != os.geteuid() or not stat.S_ISREG(it.st_mode) or it.st_mode & 0o022:
            raise ValueError("others have access to it")
        if 0 <= most < it.st_size:
            raise ValueError("it is too long")
        return file.read()
