"""The dashboard in real pages: live while a cell runs, by either path, light and dark, again after a reload."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from servers import ARTEFACTS, ROOT, Server, free_port, jupyterlab, open_notebook, run_all, running, show, start_all

pytestmark = pytest.mark.slow

SETUP = """
import time, numpy as np, nif_lab
lab = nif_lab.Lab(["rust", "zig", "nim"])
x = np.ones(1000)
lab.rust.dot(x, x)
def work(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for language in lab.backends.values():
            language.dot(x, x)
"""
VIEW = '.nif-live[data-view="{}"]'


@pytest.fixture
def without_extension(tmp_path: Path) -> Iterator[Server]:
    with jupyterlab(tmp_path, "--ServerApp.jpserver_extensions={'nif_lab': False}") as server:
        yield server


def frames(page: Page, view: str = "performance", which: int = 0) -> int:
    return int(page.locator(VIEW.format(view)).nth(which).get_attribute("data-frames") or 0)


def wait_for_frames(page: Page, view: str = "performance", which: int = 0) -> None:
    page.wait_for_function(
        "([name, which]) => document.querySelectorAll(name)[which]?.dataset.frames > 0", arg=[VIEW.format(view), which]
    )


def busy(page: Page) -> bool:
    """Whether the last cell runs; the kernel's status isn't it, as what subshells do counts there too."""
    return page.locator(".jp-InputPrompt").last.inner_text() == "[*]:"


def rate_while_busy(page: Page, view: str, seconds: float) -> float:
    """Frames a second in the page; the kernel is busy before and after."""
    assert busy(page)
    before, start = frames(page, view), time.monotonic()
    page.wait_for_timeout(1000 * seconds)
    assert busy(page)
    return (frames(page, view) - before) / (time.monotonic() - start)


@pytest.mark.serial
def test_the_figures_are_live_at_ten_hertz_while_a_cell_runs(jupyter: Server, page: Page) -> None:
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    start_all(page, jupyter.lab(jupyter.write("busy.ipynb", SETUP, "lab.dashboard()", "work(60)")))
    wait_for_frames(page)
    page.wait_for_timeout(1500)  # until the renderer has begun
    assert rate_while_busy(page, "performance", 3) >= 8
    bar = page.locator(".nif-status").first
    expect(bar).to_have_text(re.compile(r"live through the server, \d+\.\d Hz"))
    expect(page.locator(VIEW.format("performance") + " .nif-picture")).to_have_attribute("src", re.compile("^blob:"))
    # The page's own controls work while the kernel can't be asked.
    page.get_by_role("button", name="Pause", exact=True).first.click()
    page.wait_for_timeout(300)
    paused = frames(page)
    page.wait_for_timeout(700)
    assert frames(page) == paused
    page.get_by_role("button", name="Resume", exact=True).first.click()
    page.get_by_label("Updates per second").first.select_option("3")
    page.wait_for_timeout(500)
    assert 1.5 <= rate_while_busy(page, "performance", 2) <= 4
    page.screenshot(path=str(ARTEFACTS / "dashboard_light.png"))
    assert failures == []


@pytest.mark.serial
def test_without_the_extension_the_kernel_sends_and_the_page_says_so(without_extension: Server, page: Page) -> None:
    notebook = without_extension.write("plain.ipynb", SETUP, "lab.dashboard()", "work(60)")
    start_all(page, without_extension.lab(notebook))
    wait_for_frames(page)
    page.wait_for_timeout(1500)
    assert 1.5 <= rate_while_busy(page, "performance", 3) <= 4
    expect(page.locator(".nif-status").first).to_have_text(re.compile(r"live through the kernel, \d\.\d Hz"))
    page.screenshot(path=str(ARTEFACTS / "dashboard_by_the_kernel.png"))


def test_it_comes_back_after_a_reload_and_a_restart(jupyter: Server, page: Page) -> None:
    long = "\n".join(["1"] * 40)  # the dashboard lies far down: JupyterLab attaches what is there late
    url = jupyter.lab(jupyter.write("again.ipynb", SETUP, *[long] * 5, "lab.dashboard()", long, "work(0.5)"))
    run_all(page, url)
    show(page, 6)
    wait_for_frames(page)
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_timeout(1000)
    open_notebook(page, url)
    show(page, 6)
    wait_for_frames(page)
    page.get_by_role("tab", name="Transfers").click()
    every = page.get_by_role("button", name="all 6", exact=True, include_hidden=True)
    expect(every).to_be_visible()
    page.get_by_role("tab", name="Live").click()
    expect(every).not_to_be_visible()
    bar, live = page.locator(".nif-status").first, page.locator(VIEW.format("performance")).first
    page.context.set_offline(True)
    expect(bar).to_have_text(
        re.compile(r"(no message for \d+ s|connection lost).*these figures are from "), timeout=30_000
    )
    expect(live).to_have_attribute("data-stale", "")
    page.context.set_offline(False)
    expect(bar).to_have_text(re.compile("live through the server"), timeout=30_000)
    expect(live).not_to_have_attribute("data-stale", "")
    page.evaluate("views => document.querySelectorAll(views).forEach(it => it.dataset.before = 1)", ".nif-live")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    expect(every).to_be_disabled(timeout=30_000)
    expect(every).to_have_attribute("title", re.compile("The kernel has ended or was restarted"))
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    show(page, 6)
    page.wait_for_function(
        "views => [...document.querySelectorAll(views)].some(it => it.dataset.frames > 0 && !it.dataset.before)",
        arg=VIEW.format("performance") + '[data-path="server"]',
    )


def test_two_dashboards_share_a_connection(jupyter: Server, page: Page) -> None:
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.set_viewport_size({"width": 1400, "height": 3000})
    run_all(page, jupyter.lab(jupyter.write("two.ipynb", SETUP, "lab.dashboard()", "lab.dashboard()", "work(0.5)")))
    wait_for_frames(page)
    wait_for_frames(page, which=1)
    assert sum("nif_lab/live" in url for url in sockets) == 1


def test_the_history_is_told_zoomed_and_listed(jupyter: Server, page: Page) -> None:
    panel = "from nif_lab.panels import HistoryPanel\nHistoryPanel(lab.telemetry)"
    run_all(page, jupyter.lab(jupyter.write("history.ipynb", SETUP, "work(0.2)", panel)))
    wait_for_frames(page, "history")
    chart = page.locator(".nif-chart")
    chart.focus()
    chart.press("ArrowLeft")
    expect(page.locator(".nif-tip")).to_have_text(
        re.compile(r"(rust|zig|nim)\.dot: .*s at \d\d:\d\d:\d\d\.\d{3}, cell 2")
    )
    expect(page.locator(".nif-stage ~ .nif-unseen")).to_have_text(re.compile(r"\.dot: "))
    everything = page.get_by_role("button", name="Show all")
    expect(everything).to_be_disabled()
    chart.press("+")
    expect(everything).to_be_enabled()
    page.screenshot(path=str(ARTEFACTS / "history.png"))
    everything.click()
    expect(everything).to_be_disabled()
    page.get_by_text("The last 50 calls as a table").click()
    expect(page.locator(".nif-table tbody tr")).to_have_count(50)


def test_it_looks_right_in_both_themes_and_at_each_width(jupyter: Server, page: Page) -> None:
    page.set_viewport_size({"width": 1400, "height": 2600})  # only what is seen is drawn
    fails = "for bad in (x[:5], x[:7]):\n    try: lab.zig.dot(x, bad)\n    except ValueError: pass"
    run_all(page, jupyter.lab(jupyter.write("looks.ipynb", SETUP, "lab.dashboard()", "work(1)", fails)))
    wait_for_frames(page)
    expect(page.locator(".nif-errors > li")).to_have_count(2)
    page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
    for theme in ("Light", "Dark"):
        page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", f"JupyterLab {theme}"
        )
        for width in (400, 900, 1600):
            page.set_viewport_size({"width": width, "height": 1500})
            page.wait_for_timeout(1000)
            if width > 400:  # and narrower the page has no picture; one of the other theme is hidden
                expect(page.locator(".nif-picture")).to_have_css("visibility", "visible", timeout=20_000)
            page.screenshot(path=str(ARTEFACTS / f"dashboard_{theme.lower()}_{width}.png"))
            wide = page.evaluate(
                "() => [...document.querySelectorAll('.nif-live')].filter(it => it.scrollWidth > it.clientWidth + 1)"
                ".map(it => it.dataset.view)"
            )
            assert wide == [], f"these overflow at {width}"


def test_voila_shows_it_by_the_kernels_path(tmp_path: Path, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    port = free_port()
    command = [
        *(sys.executable, "-m", "voila", "--no-browser", "--Voila.ip=127.0.0.1", f"--port={port}"),
        str(ROOT / "notebooks" / "dashboard.ipynb"),
    ]
    with running(command, tmp_path, f"http://127.0.0.1:{port}/voila/static/favicon.ico"):
        page.goto(f"http://127.0.0.1:{port}/")
        wait_for_frames(page)
        expect(page.locator(".nif-status").first).to_have_text(re.compile("live through the kernel"))
        page.screenshot(path=str(ARTEFACTS / "voila.png"))
    ours: list[Any] = [url for url in asked if "nif" in url and "127.0.0.1" not in url and not url.startswith("blob:")]
    assert ours == []
