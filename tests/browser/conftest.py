"""A Jupyter server of its own and a real browser, for every test that asks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright
from servers import BROWSER_FLAGS, Server, jupyterlab

# How long a page may take depends on what else the machine does; what is timed says its own bound.
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture
def jupyter(tmp_path: Path) -> Iterator[Server]:
    """A JupyterLab with nif_lab's extension."""
    with jupyterlab(tmp_path, "--ServerApp.jpserver_extensions={'nif_lab': True}") as server:
        yield server


@pytest.fixture
def page() -> Iterator[Page]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("no chromium: apt-get install chromium", pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=BROWSER_FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1100})
        page.set_default_timeout(PATIENCE_MS)
        yield page
        browser.close()
