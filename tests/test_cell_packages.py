"""What cells take from elsewhere: crates, modules, folders, projects. None of it comes over a network here."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import nif_lab
from nif_lab import crates
from nif_lab.errors import ArgumentValueError, CellError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

#: Files beside a notebook, the cell that uses them, and what that is told of them.
USES: dict[str, tuple[dict[str, str], str, str]] = {
    "rust": (
        {
            "mine/Cargo.toml": '[package]\nname = "mine"\nversion = "0.1.0"\nedition = "2021"\n',
            "mine/src/lib.rs": "pub fn factor() -> f64 { 2.0 }\n",
        },
        '---\n[dependencies]\nmine = { path = "mine" }\n---\npub fn scaled(x: f64) -> f64 { x * mine::factor() }',
        "",
    ),
    "zig": (
        {"mine.zig": 'pub const factor = @import("more.zig").factor;\n', "more.zig": "pub const factor: f64 = 2.0;\n"},
        'const mine = @import("mine");\npub fn scaled(x: f64) f64 {\n    return x * mine.factor;\n}',
        "mine=mine.zig",
    ),
    "nim": (
        {"folder/mine.nim": "const factor* = 2.0\n"},
        "import mine\nfunc scaled*(x: float): float = x * factor",
        "folder",
    ),
    "julia": (
        {"Project/src/Mine.jl": "module Mine\nconst factor = 2.0\nend\n"},
        "using Mine\nscaled(x::Float64) = x * Mine.factor",
        "Project/..",
    ),
}
#: The file with the number in it.
NUMBER = {"rust": "mine/src/lib.rs", "zig": "more.zig", "nim": "folder/mine.nim"}


@pytest.fixture(scope="module")
def lab() -> Iterator[nif_lab.Lab]:
    lab = nif_lab.Lab()
    yield lab
    del lab
    gc.collect()


def written(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize("language", [*NUMBER])
def test_what_lies_beside_the_notebook_is_followed(
    lab: nif_lab.Lab, language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, code, dep = USES[language]
    monkeypatch.chdir(tmp_path)
    written(tmp_path, files)
    backend: Any = lab.backends[language]
    lab.cell(language, code, dep=dep or ())
    assert backend.scaled(3.0) == 6.0
    number = tmp_path / NUMBER[language]
    number.write_text(number.read_text().replace("2.0", "4.0"))
    changed = lab.cell(language, code, dep=dep or ())
    assert not changed.cached
    assert backend.scaled(3.0) == 12.0


def test_zig_imports_a_file_beside_the_notebook(
    lab: nif_lab.Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, USES["zig"][0])
    code = USES["zig"][1].replace('"mine"', '"mine.zig"').replace("scaled", "beside")
    lab.cell("zig", code)
    assert lab.zig.beside(3.0) == 6.0
    (tmp_path / "mine.zig").unlink()
    with pytest.raises(CellError):
        lab.cell("zig", code)


def test_julia_has_projects_include_and_eval(lab: nif_lab.Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, code, _ = USES["julia"]
    monkeypatch.chdir(tmp_path)
    written(tmp_path, {"Mine.jl": files["Project/src/Mine.jl"], "more.jl": "more(x) = x + 1\n"})
    lab.cell("julia", code, dep=".")
    assert lab.julia.scaled(3.0) == 6.0
    more = 'include("{}/more.jl")\neval(:(one_more = more(1)))\nwith_more(x::Float64)::Float64 = more(x) + one_more'
    lab.cell("julia", more.format(tmp_path))
    assert lab.julia.with_more(3.0) == 6.0


@pytest.mark.parametrize(("language", "dep", "why"), [
    ("rust", "rayon@@1", "expected a crate as in rayon@1"),
    ("zig", "mine.zig", "expected a module as in util="),
    ("zig", "mine=nowhere.zig", "there is no file"),
    ("nim", "nowhere", "there is no folder"),
    ("julia", "nowhere", "there is no folder"),
])  # fmt: skip
def test_what_isnt_there_is_refused_in_a_line(lab: nif_lab.Lab, language: str, dep: str, why: str) -> None:
    with pytest.raises(ArgumentValueError, match=why) as caught:
        lab.cell(language, "never read", dep=dep)
    assert "\n" not in str(caught.value)


def test_a_crate_that_cant_be_had_is_one_line(lab: nif_lab.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARGO_NET_OFFLINE", "true")
    with pytest.raises(CellError) as caught:
        lab.cell("rust", '//! [dependencies]\n//! no-such-crate-here = "1"\npub fn f() {}')
    (message,) = caught.value.messages
    assert "no matching package named `no-such-crate-here` found" in message.text
    assert message.line == 2
    assert "\n" not in message.text


def test_the_head_of_a_cell() -> None:
    wanted = {"dependencies": {"rayon": 'rayon = "1"', "serde": 'serde = { version = "1", features = ["derive"] }'}}
    for head in (
        '---\n[dependencies]\nrayon = "1"\nserde = { version = "1", features = ["derive"] }\n---',
        '\n---cargo\n[package]\nedition = "2021"\n[dependencies]\n# why\nrayon = "1"\n'
        'serde = { version = "1", features = ["derive"] }\n---',
        '//! [dependencies]\n//! rayon = "1"\n//! serde = { version = "1", features = ["derive"] }',
        '//! Text.\n//!\n//! ```cargo\n//! [dependencies]\n//! rayon = "1"\n'
        '//! serde = { version = "1", features = ["derive"] }\n//! ```\n//! More text.',
    ):
        code, found = crates.read(f"{head}\npub fn f() {{}}")
        assert found.tables == wanted, head
        assert code.splitlines()[head.count("\n") + 1] == "pub fn f() {}"
        assert "---" not in code
    _, found = crates.read("pub fn f() {}", ["rayon@1", "serde@1[derive]"])
    assert found.tables == wanted
    assert not crates.read("//! Text.\npub fn f() {}")[1]
    for head, line, why in (
        ("---\n[dependencies]", 1, "isn't closed"),
        ("---\n[bin]\n---", 2, "[bin] has no place"),
    ):
        with pytest.raises(CellError) as caught:
            crates.read(head)
        assert caught.value.messages[0].line == line
        assert why in caught.value.messages[0].text
