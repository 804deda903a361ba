"""The tour in a real JupyterLab in a real browser: run it, press a button, see the answer."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
BROWSER_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# News and update checks would ask the network.
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"checkForUpdates": False, "fetchNews": "false"},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def jupyter(tmp_path: Path) -> Iterator[str]:
    """A JupyterLab of its own on a copy of the notebooks; its URL."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    settings = tmp_path / "settings"
    settings.mkdir()
    (settings / "overrides.json").write_text(json.dumps(SETTINGS))
    port, token = free_port(), secrets.token_hex(16)
    own = {name: str(tmp_path / name.lower()) for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")}
    env = {**os.environ, **own, "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"), "IPYTHONDIR": str(tmp_path / "ipy")}
    env["XDG_CACHE_HOME"] = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")  # Julia's compiled form
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"),
        *(f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"),
        *("--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"),
        *(f"--LabApp.app_settings_dir={settings}", f"--ServerApp.root_dir={tmp_path / 'notebooks'}"),
    ]
    log = (tmp_path / "jupyter.log").open("w")
    server = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            if server.poll() is not None:
                pytest.fail((tmp_path / "jupyter.log").read_text()[-3000:], pytrace=False)
            try:
                urllib.request.urlopen(f"{url}/api/status?token={token}", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        yield f"{url}/lab/tree/00_tour.ipynb?token={token}"
    finally:
        server.terminate()
        server.wait(20)
        log.close()


@pytest.fixture
def page() -> Iterator[Page]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("no chromium: apt-get install chromium", pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=BROWSER_FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1100})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def run_all(page: Page, url: str) -> None:
    page.goto(url)
    # Before the session is ready the command would do nothing.
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.sessionContext?.isReady")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.ready")
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")


def test_the_tour_runs_and_a_button_hands_an_array_over(jupyter: str, page: Page, tmp_path: Path) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    run_all(page, jupyter)
    button = page.get_by_role("button", name="zig → julia", exact=True)
    button.wait_for()
    expect(page.locator(".jp-OutputArea-output", has_text=re.compile(r"^right\s*$")).last).to_be_visible()
    assert page.locator(".jp-RenderedImage img").count() == 2  # four mountains in a row, and four in one
    button.scroll_into_view_if_needed()
    button.click()
    result = page.get_by_text(re.compile(r"zig -> julia, shared: 1,000,000 bytes in .* without a copy, verified"))
    expect(result.first).to_be_visible()
    page.get_by_role("button", name="All 12", exact=False).click()
    page.get_by_role("img", name=re.compile("rust -> zig, shared: 1,000,000 bytes")).first.wait_for()
    page.screenshot(path=str(tmp_path / "dashboard.png"))
    outside = [url for url in asked if not re.match(r"(http|ws)://127\.0\.0\.1:|data:|blob:", url)]
    assert outside == []
