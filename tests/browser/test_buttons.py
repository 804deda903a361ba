"""Buttons in real pages: all twelve transfers, a crash that the kernel survives, a click while a cell runs."""

from __future__ import annotations

import re
import statistics
import time
from itertools import permutations

import pytest
from playwright.sync_api import Locator, Page, expect
from servers import ARTEFACTS, Server, run_all, start_all

pytestmark = pytest.mark.slow

LANGUAGES = ("rust", "zig", "nim", "julia")
SETUP = "import time, nif_lab\nlab = nif_lab.Lab()"
TRANSFERS = """
from nif_lab.panels import TransferPanel
TransferPanel(lab.backends, lab.transfer, lab.transfer_matrix, lab.memory.empty)
"""
FAULTS = "from nif_lab.panels.faults import FaultPanel\nFaultPanel(lab)"
#: Time from a click to its result, in milliseconds, of 1 MB in an idle kernel.
RESULT_MS = 200
#: Click, and note how long it takes until the button says that the result is there.
CLICK = """name => {
    const all = [...document.querySelectorAll(".nif-action")];
    const action = all.find(it => it.querySelector("button").textContent === name);
    const start = performance.now();
    window.took = null;
    new MutationObserver((_, observer) => {
        if (action.dataset.state !== "done") return;
        window.took = performance.now() - start;
        observer.disconnect();
    }).observe(action, { attributes: true });
    action.querySelector("button").click();
}"""


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def settle(page: Page) -> None:
    """Wait until the kernel has nothing to do."""
    expect(page.locator(".jp-InputPrompt", has_text="[*]")).to_have_count(0)
    page.wait_for_timeout(500)


def look(page: Page, name: str) -> None:
    """Keep pictures in both themes, narrow and wide; nothing may be wider than its page."""
    page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
    size = page.viewport_size
    for theme in ("Dark", "Light"):
        page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", f"JupyterLab {theme}"
        )
        for width in (400, 1200):
            page.set_viewport_size({"width": width, "height": 1100})
            page.wait_for_timeout(700)
            page.screenshot(path=str(ARTEFACTS / f"{name}_{theme.lower()}_{width}.png"))
    if size:
        page.set_viewport_size(size)


def test_all_twelve_pairs_show_their_results(jupyter: Server, page: Page) -> None:
    run_all(page, jupyter.lab(jupyter.write("transfers.ipynb", SETUP, TRANSFERS)))
    settle(page)
    took: dict[str, float] = {}
    for source, target in permutations(LANGUAGES, 2):
        click = button(page, f"{source} → {target}")
        click.scroll_into_view_if_needed()
        result = page.get_by_role("status").filter(has_text=f"{source} -> {target}, shared: 1,000,000 bytes in ")
        click.click()
        result.first.wait_for()
        expect(result.first).to_contain_text("without a copy, verified")
        # The first one of a language compiles or starts what is used for the first time; the second is the figure.
        page.evaluate(CLICK, f"{source} → {target}")
        page.wait_for_function("() => window.took !== null")
        took[f"{source} → {target}"] = page.evaluate("() => window.took")
    print("ms from a click to its result:", {pair: round(it) for pair, it in took.items()})
    assert statistics.median(took.values()) <= RESULT_MS, took
    page.get_by_label("Mode", exact=True).select_option("wire")
    button(page, "all 12").click()
    expect(page.get_by_text(re.compile("12 of 12 transfers verified, 0% without a copy"))).to_be_visible()
    page.get_by_role("img", name=re.compile("rust -> zig, wire")).first.wait_for()
    button(page, "nim → zig").click()
    expect(page.get_by_role("cell", name="encoded into a frame")).to_be_visible()
    look(page, "transfers")


def test_a_crash_leaves_the_kernel_alive(jupyter: Server, page: Page) -> None:
    run_all(page, jupyter.lab(jupyter.write("faults.ipynb", SETUP + "\nkept = 41", FAULTS, "print(kept + 1)")))
    settle(page)
    page.get_by_label("Language", exact=True).select_option(label="Zig")
    page.get_by_label("Fault", exact=True).select_option(label="null_store: a write through a null pointer")
    button(page, "Make it fail").click()
    expect(page.get_by_role("status").filter(has_text="null_store in zig, isolated lane: answered")).to_be_visible()
    expect(page.get_by_text(re.compile("✗ failed")).first).to_be_visible()
    expect(page.get_by_text(re.compile("✓ answered")).first).to_be_visible()
    page.get_by_label("It fails", exact=True).select_option("always")
    button(page, "Make it fail").click()
    expect(page.get_by_text(re.compile("another language, "))).to_be_visible()
    expect(page.get_by_label("It fails", exact=True).locator("option:checked")).to_have_text("always")
    look(page, "faults")
    # The kernel is the same one: it still has its variables, and answers.
    assert page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status") == "idle"
    output = page.locator(".jp-OutputArea-output", has_text=re.compile(r"^42\s*$"))
    page.evaluate(
        """() => { const book = window.jupyterapp.shell.currentWidget.content;
            book.activeCellIndex = 2;
            window.jupyterapp.commands.execute("notebook:run-cell"); }"""
    )
    expect(page.locator(".jp-InputPrompt").last).to_have_text("[4]:")
    expect(output).to_be_visible()


@pytest.mark.serial
def test_a_click_is_worked_off_while_a_cell_runs(jupyter: Server, page: Page) -> None:
    busy = "end = time.monotonic() + 20\nwhile time.monotonic() < end: pass"
    start_all(page, jupyter.lab(jupyter.write("busy_click.ipynb", SETUP, TRANSFERS, busy)))
    click = button(page, "rust → zig")
    click.wait_for()
    last = page.locator(".jp-InputPrompt").last
    expect(last).to_have_text("[*]:")
    page.wait_for_timeout(1000)
    page.get_by_label("Size", exact=True).select_option("8 KB")
    start = time.monotonic()
    click.click()
    page.get_by_text(re.compile("rust -> zig, shared: 8,000 bytes in .* verified")).first.wait_for()
    took = time.monotonic() - start
    expect(last).to_have_text("[*]:")
    print(f"{took * 1e3:.0f} ms from the click to its result while a cell runs")
    assert took < 5
