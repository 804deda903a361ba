"""``make pictures``: the README's pictures, from a real notebook in a real browser, in light and dark."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright
from servers import BROWSER_FLAGS, MEAN, ROOT, Server, jupyterlab, open_notebook

IMAGES = ROOT / "docs/images"
#: A notebook's cells, each with what its output says when it is done.
CELLS = {
    "%load_ext nif_lab\nimport numpy as np, nif_lab\nlab = nif_lab.Lab()\nx = np.arange(1000.0)\nprint(lab)": "julia",
    MEAN.replace("+= value", "+= valu"): "use of undeclared identifier 'valu'",
    MEAN: "",
    "lab.zig.mean(x)": r"499\.5",
    "%%nim\nproc crash*() =\n  cast[ptr int](8)[] = 1": "",
    "lab.nim.crash()": "SIGSEGV",
    "lab.zig.mean(x)  # the notebook goes on": r"499\.5",
}
DASHBOARD = {
    "import numpy as np, nif_lab\nlab = nif_lab.Lab()\nx = np.arange(1000.0)\nprint('ready')": "ready",
    """import random, time
names = list(lab.backends)
end = time.monotonic() + 4
while time.monotonic() < end:
    n = random.randrange(1, 1000)
    lab.call(random.choice(names), "dot", x[:n], x[:n])
try:
    lab.zig.dot(x, x[:5])
except nif_lab.errors.NifError as error:
    print(error)""": "expected",
    "lab.dashboard()": "",
}


#: Whether the renderer's picture has caught up, where there is one.
DRAWN = """() => [...document.querySelectorAll(".nif-picture")].every(
    (it) => it.naturalWidth && it.style.visibility !== "hidden" && !it.closest(".nif-old"))"""


def run_cells(page: Page, url: str, cells: dict[str, str]) -> None:
    """Open a notebook and run its cells, one after the other: an error would end a run of all."""
    open_notebook(page, url)
    page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
    for number, shown in enumerate(cells.values()):
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-cell-and-select-next')")
        if shown:
            cell = page.locator(".jp-CodeCell").nth(number).locator(".jp-OutputArea")
            expect(cell).to_contain_text(re.compile(shown, re.S), timeout=120_000)


def picture(page: Page, name: str) -> None:
    IMAGES.mkdir(exist_ok=True)
    page.screenshot(path=str(IMAGES / f"{name}.png"))
    print(IMAGES / f"{name}.png")


def show_cells(server: Server, page: Page) -> None:
    page.set_viewport_size({"width": 1000, "height": 1210})  # to the last output
    run_cells(page, server.lab(server.write("cells.ipynb", *CELLS)), CELLS)
    page.evaluate("() => document.querySelector('.jp-WindowedPanel-outer').scrollTo(0, 0)")


def show_dashboard(server: Server, page: Page) -> None:
    page.set_viewport_size({"width": 1200, "height": 1500})
    run_cells(page, server.lab(server.write("dashboard.ipynb", *DASHBOARD)), DASHBOARD)
    page.wait_for_function("() => document.querySelector('.nif-live[data-view=performance]')?.dataset.frames > 0")
    page.evaluate("() => document.querySelector('.nif-live').scrollIntoView()")


def main() -> int:
    chromium = shutil.which("chromium")
    if chromium is None:
        print("no chromium: apt-get install chromium", file=sys.stderr)
        return 1
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=BROWSER_FLAGS)
        for name, show in (("cells", show_cells), ("dashboard", show_dashboard)):
            flags = "--ServerApp.jpserver_extensions={'nif_lab': True}"
            # A server each: JupyterLab opens again what was open before.
            with tempfile.TemporaryDirectory() as folder, jupyterlab(Path(folder), flags) as server:
                page = browser.new_page()
                page.set_default_timeout(120_000)
                show(server, page)
                for theme in ("Light", "Dark"):
                    command = "it => window.jupyterapp.commands.execute('apputils:change-theme', {theme: it})"
                    page.evaluate(command, f"JupyterLab {theme}")
                    page.wait_for_timeout(4000)  # until all has its colours
                    page.wait_for_function(DRAWN)
                    picture(page, f"{name}_{theme.lower()}")
                page.close()
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
