"""Native cells in a real JupyterLab: errors under the cell's own lines, a crash, and the figures in the dashboard."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect
from servers import ARTEFACTS, MEAN, Server, open_notebook

pytestmark = pytest.mark.slow

CELLS = {
    "%load_ext nif_lab\nimport numpy as np, nif_lab\nlab = nif_lab.Lab(['zig', 'nim'])\nprint('there')": "there",
    MEAN.replace("+= value", "+= valu"): "use of undeclared identifier 'valu'",
    f"{MEAN}\n// {{}}".replace("%%zig", "%%zig --time"): r"zig cell In \[3\]: .*mean\(x: f64\[n\]\) -> f64",
    "%%nim\nproc crash*() =\n  cast[ptr int](8)[] = 1": "",
    "lab.nim.crash()": r"nim\.crash\(\): its worker was terminated by SIGSEGV.*In \[4\]",
    "[lab.zig.mean(np.arange(10.0)) for _ in range(50)][-1]": r"4\.5",
    "lab.dashboard()": "",
}


def test_cells_their_errors_and_their_figures(jupyter: Server, page: Page) -> None:
    page.set_viewport_size({"width": 1300, "height": 2600})
    open_notebook(page, jupyter.lab(jupyter.write("cells.ipynb", *CELLS)))
    for number, shown in enumerate(CELLS.values()):
        # One after the other: an error would end a run of all.
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-cell-and-select-next')")
        if shown:
            cell = page.locator(".jp-CodeCell").nth(number).locator(".jp-OutputArea")
            expect(cell).to_contain_text(re.compile(shown, re.S))
    error = page.locator(".jp-CodeCell").nth(1).locator(".jp-OutputArea")
    expect(error).to_contain_text("error: line 5, column 30")
    expect(error).not_to_contain_text("Traceback")
    live = page.locator(".nif-live[data-view=performance]")
    expect(live).to_contain_text(re.compile("calls501calls per s.*errors01"))  # Zig 50 and 0, Nim 1 and 1
    live.locator(".nif-picture").evaluate(
        "async (it) => { while (!it.naturalWidth) await new Promise(requestAnimationFrame); }"
    )
    page.screenshot(path=str(ARTEFACTS / "cells.png"))
