"""The one folder on disk that is ours: ``nif_lab`` in ``$XDG_CACHE_HOME``, for this user alone.

Compiled cells, the compilers' caches and Julia's compiled package lie below it. What lies there is loaded into this
process or run by a compiler. So the folder is the user's own and closed to all others, nobody else can write to the
folders above it, and no link is followed.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .errors import BackendError, NifLabError, SystemRefusal

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["UMASK", "check", "check_room", "checked", "home", "private", "writing", "written"]

#: With less room in bytes a compiler that failed has probably failed for it.
LEAST: Final = 32 << 20

#: For programs that write below the folder: what they make is for this user alone.
UMASK: Final = 0o077


def home() -> Path | None:
    """Return the user's home; None for a user without one."""
    try:
        return Path.home()
    except RuntimeError:  # no $HOME, and no entry for this user
        return None


def private(*names: str) -> Path:
    """Return a folder of ours, which is made and checked: ``private("cells")``.

    Raises
    ------
    BackendError
        When it can't be made, or somebody else could change what lies there: why, and what to set.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    # A relative path would be a folder of notebooks: the standard says to ignore one.
    base = Path(named) if named.startswith("/") else None
    if base is None:
        base = (own / ".cache") if (own := home()) is not None else None
    if base is None:
        raise BackendError("there is no folder for caches: this user has no home", "set $XDG_CACHE_HOME to a folder")
    top = base / "nif_lab"
    with writing(top):
        # Links above are the user's own affair; where they lead is what is checked.
        base = base.resolve()
        top = base / "nif_lab"
        folder = top
        for name in ("", *names):
            folder /= name
            _make(folder)
            _close(folder)
        return checked(folder)


def checked(folder: Path) -> Path:
    """Make a folder, unless it is there, and check that nobody else could change it or one above it."""
    _make(folder)
    check(folder)
    return folder


def _make(folder: Path) -> None:
    for it in reversed([folder, *folder.parents]):
        if not os.path.lexists(it):
            it.mkdir(exist_ok=True)
            it.chmod(0o700)  # whatever the umask is


def check(folder: Path) -> None:
    """Refuse a folder that somebody else could change, or one above it."""
    _check(folder, private=True)
    for above in folder.parents:
        _check(above, private=False)


def check_room(folder: Path) -> None:
    """Refuse a folder of ours whose file system is full: what compilers and linkers say of that is something else."""
    with writing(folder):
        if shutil.disk_usage(folder).free < LEAST:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system refuses below a folder of ours into an error that says what to do."""
    try:
        yield
    except OSError as error:
        full = "free some space, or " if error.errno in {errno.ENOSPC, errno.EDQUOT} else ""
        cure = f"{full}set $XDG_CACHE_HOME to a folder that you can write to"
        why = error.strerror or str(error)
        raise BackendError(f"{error.filename or path} can't be used as a cache: {why}", cure) from None


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Turn what the system refuses of a user's own file or folder into an error that says which, and what to do."""
    try:
        yield
    except NifLabError:
        raise
    except OSError as error:
        is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        cure = "free some space, or choose another folder" if is_full else "choose a folder that you can write to"
        why = error.strerror or str(error)
        raise SystemRefusal(f"{error.filename or path} can't be written: {why}", cure, error.errno) from None


def _close(folder: Path) -> None:
    """Take from others the right to look into a folder of ours, which earlier versions gave them."""
    it = os.lstat(folder)
    if stat.S_ISDIR(it.st_mode) and it.st_uid == os.geteuid() and not it.st_mode & 0o022 and it.st_mode & 0o055:
        folder.chmod(0o700)


def _refuse(path: Path, why: str, cure: str = "") -> BackendError:
    elsewhere = "set $XDG_CACHE_HOME to a folder of your own"
    return BackendError(f"{path} can't be used as a cache: {why}", f"{cure}, or {elsewhere}" if cure else elsewhere)


def _check(path: Path, *, private: bool) -> None:
    """Refuse a folder that somebody else could change."""
    it = os.lstat(path)
    if not stat.S_ISDIR(it.st_mode):
        raise _refuse(path, "it is a link" if stat.S_ISLNK(it.st_mode) else "it isn't a folder", "remove it")
    if it.st_uid != os.geteuid() and (private or it.st_uid != 0):
        raise _refuse(path, "it belongs to somebody else")
    others = stat.S_IMODE(it.st_mode) & (0o077 if private else 0o022)
    # In a sticky folder (/tmp) nobody can replace what isn't theirs.
    if others and (private or not it.st_mode & stat.S_ISVTX):
        # What lies in a folder of ours that others could write to may be theirs.
        cure = "remove it" if private else f"run: chmod go-w {path}"
        raise _refuse(path, f"others have access to it (mode {stat.S_IMODE(it.st_mode):o})", cure)
