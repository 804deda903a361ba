"""The JupyterLab extension: native cells are highlighted, marked and completed, and the dashboard has a panel."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from servers import ARTEFACTS, MEAN, SETTINGS, Server, jupyterlab, open_notebook

pytestmark = pytest.mark.slow

#: Of each language, a word that its mode knows and the class of CodeMirror's that makes it look so.
CELLS = {
    "rust": ("%%rust --quiet\npub fn one() -> f64 {\n    1.0\n}", "pub fn"),
    "nim": ("%%nif nim\nfunc one*(): float = 1.0", "func"),
    "julia": ("%%julia\nfunction one()::Float64\n    return 1.0\nend", "function"),
}
BROKEN = MEAN.replace("+= value", "+= valu")


@pytest.fixture(autouse=True)
def default_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """JupyterLab as a user has it: cells that aren't seen have no editor."""


def keyword_colour(page: Page, cell: int, word: str) -> str:
    """Return the colour of a word in a cell."""
    found = page.locator(".jp-CodeCell").nth(cell).locator(".cm-line span", has_text=re.compile(f"^{word}")).first
    colour: str = found.evaluate("(it) => getComputedStyle(it).color")
    return colour


def test_native_cells_and_the_dashboard(jupyter: Server, page: Page, tmp_path: Path) -> None:
    away: list[str] = []
    page.on(
        "request", lambda it: away.append(it.url) if not it.url.startswith((jupyter.url, "blob:", "data:")) else None
    )
    first = (
        "%load_ext nif_lab\nimport nif_lab\nlab = nif_lab.Lab(['zig'])\n[lab.zig.add(1.0, 2.0) for _ in range(50)][-1]"
    )
    others = [source for source, _ in CELLS.values()]
    open_notebook(page, jupyter.lab(jupyter.write("native.ipynb", first, BROKEN, *others, "", "x = 1")))

    # Each in its own language; the magic's line is set apart, and Python's cells are as they were.
    expect(page.locator(".nif-magic")).to_have_count(len(CELLS) + 1)
    keyword = keyword_colour(page, 0, "import")
    for number, (_, word) in enumerate(CELLS.values(), 2):
        assert keyword_colour(page, number, word.split()[0]) == keyword
    assert keyword_colour(page, 1, "const") == keyword

    # The compiler's message stands under its line when the run ends, and goes when somebody writes there.
    for _ in range(2):
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-cell-and-select-next')")
    cell = page.locator(".jp-CodeCell").nth(1)
    expect(cell.locator(".nif-said")).to_have_text("error: use of undeclared identifier 'valu'")
    expect(cell.locator(".nif-error")).to_have_text("valu")
    page.screenshot(path=str(ARTEFACTS / "native.png"))
    cell.locator(".cm-line", has_text="valu").click()
    page.keyboard.press("End")
    page.keyboard.type(" ")
    expect(cell.locator(".nif-said")).to_have_count(0)

    # A magic that is typed; the SDK's names, and those of another cell of the language.
    typed = page.locator(".jp-CodeCell").nth(5)
    typed.locator(".cm-content").click()
    page.keyboard.type("%%zig")
    expect(typed.locator(".nif-magic")).to_have_count(1)
    page.keyboard.type("\nconst A = nif.Mat")
    page.keyboard.press("Tab")
    page.locator(".jp-Completer-item", has_text="MatrixMut").click(timeout=60_000)
    expect(typed.locator(".cm-content")).to_contain_text("nif.MatrixMut")
    page.keyboard.type(";\nconst b = m")
    page.keyboard.press("Tab")
    page.locator(".jp-Completer-item", has_text=re.compile("mean")).click(timeout=60_000)
    expect(typed.locator(".cm-content")).to_contain_text("const b = mean")

    # The dashboard of this notebook's Lab, and the file that it becomes.
    page.evaluate("() => { window.jupyterapp.commands.execute('nif_lab:dashboard'); }")
    panel = page.locator(".nif-dashboard")
    expect(panel.locator(".nif-live[data-view=performance] table").first).to_contain_text("50")
    page.screenshot(path=str(ARTEFACTS / "panel.png"))
    with page.expect_download() as download:
        page.get_by_text("Save as HTML").click()
    download.value.save_as(saved := tmp_path / "saved.html")
    text = saved.read_text()
    assert "calls per s" in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
    page.evaluate("() => { window.jupyterapp.commands.execute('launcher:create'); }")
    expect(page.locator(".jp-LauncherCard", has_text="nif_lab dashboard")).to_have_count(1)
    assert not away


def test_off_by_one_setting(page: Page, tmp_path: Path) -> None:
    settings = {**SETTINGS, "nif_lab:cells": {"enabled": False}}
    with jupyterlab(tmp_path, settings=settings) as jupyter:
        open_notebook(page, jupyter.lab(jupyter.write("native.ipynb", "import os", MEAN)))
        expect(page.locator(".jp-CodeCell").nth(1).locator(".cm-line").first).to_be_visible()
        page.wait_for_timeout(500)
        expect(page.locator(".nif-magic")).to_have_count(0)
