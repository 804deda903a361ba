"""The cache of compiled cells: what was kept is found, what anybody changed or could have is refused."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from nif_lab import backends
from nif_lab.backends.base import Options
from nif_lab.cells.cache import Cache
from nif_lab.cells.cell import compiled
from nif_lab.errors import BackendError, CellError, Message


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cells")


def put(cache: Cache) -> Path:
    made = cache.folder / "made"
    made.write_bytes(b"library")
    return cache.keep("key", made, []).library


def test_what_was_kept_is_found(cache: Cache) -> None:
    assert cache.find("key") is None
    library = put(cache)
    found = cache.find("key")
    assert found is not None
    assert found.library == library
    assert cache.folder.stat().st_mode & 0o777 == 0o700


def test_an_edited_library_is_refused(cache: Cache) -> None:
    put(cache).write_bytes(b"libraty")
    with pytest.raises(ValueError, match="isn't the file that was put there"):
        cache.find("key")


def test_a_planted_library_is_refused(cache: Cache) -> None:
    (cache.folder / "key.so").write_bytes(b"library")
    assert cache.find("key") is None  # nobody vouches for it: it is compiled, and replaced
    (cache.folder / "key.json").write_text("{}")
    with pytest.raises(ValueError, match="can't be used"):
        cache.find("key")


def test_a_link_is_refused(cache: Cache, tmp_path: Path) -> None:
    library = put(cache)
    library.rename(tmp_path / "elsewhere")
    library.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="can't be used"):
        cache.find("key")


def test_a_library_that_others_may_write_is_refused(cache: Cache) -> None:
    put(cache).chmod(0o666)
    with pytest.raises(ValueError, match="others have access"):
        cache.find("key")


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o720])
def test_an_open_folder_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells").chmod(mode)
    with pytest.raises(BackendError, match="others have access"):
        Cache(tmp_path / "cells")


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "cells").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BackendError, match="it is a link"):
        Cache(tmp_path / "cells")


def test_a_folder_in_an_open_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(BackendError, match="others have access"):
        Cache(tmp_path / "open" / "cells")


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cells").mkdir(mode=0o700)
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    with pytest.raises(BackendError, match="belongs to somebody else"):
        Cache(tmp_path / "cells")


def test_what_was_changed_is_compiled_again() -> None:
    backend = backends.find("nim")
    source = f"proc changed*(): int64 = {time.time_ns()}"
    kept, cached = compiled(backend, source, Options())
    assert not cached
    good = kept.library.read_bytes()
    kept.library.write_bytes(good[:-1])
    with pytest.warns(UserWarning, match="compiled again"):
        again, cached = compiled(backend, source, Options())
    assert not cached
    assert len(again.library.read_bytes()) == len(good)
    assert compiled(backend, source, Options())[1]
    assert not compiled(backend, source, Options(release=False))[1], "another key for other options"


def test_a_full_disk_is_named_where_a_compiler_says_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backends.find("zig")
    source = f"pub fn full() i64 {{\n    return {time.time_ns()};\n}}"
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1 << 20))

    def fail(job: object) -> None:
        raise CellError("the cell doesn't compile", (Message("clang exited with code 1"),))

    with monkeypatch.context() as patch:
        patch.setattr(type(backend), "compile_cell", lambda *_: fail(None))
        with pytest.raises(BackendError, match=r"No space left on device\nTo fix: free some space"):
            compiled(backend, source, Options())
    with pytest.raises(CellError) as caught:  # the cell's own fault stays one
        compiled(backend, source.replace("return", "return x +"), Options())
    assert caught.value.messages[0].line == 2


# --- the magics --------------------------------------------------------------------------------------------
