"""The tour in a real JupyterLab in a real browser: run it, press a button, see the answer."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect
from servers import ARTEFACTS, Server, run_all

pytestmark = pytest.mark.slow


def test_the_tour_runs_and_a_button_hands_an_array_over(jupyter: Server, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    run_all(page, jupyter.lab("00_tour.ipynb"))
    page.get_by_role("tab", name="Transfers").click()
    button = page.get_by_role("button", name="zig → julia", exact=True)
    button.wait_for()
    expect(page.locator(".jp-OutputArea-output", has_text=re.compile(r"^not yet: ")).last).to_be_visible()
    assert page.locator(".jp-RenderedImage img").count() == 2  # four mountains in a row, and four in one
    button.scroll_into_view_if_needed()
    button.click()
    result = page.get_by_text(re.compile(r"zig -> julia, shared: 1,000,000 bytes in .* without a copy, verified"))
    expect(result.first).to_be_visible()
    page.get_by_role("button", name="All 12", exact=False).click()
    page.get_by_role("img", name=re.compile("rust -> zig, shared: 1,000,000 bytes")).first.wait_for()
    page.screenshot(path=str(ARTEFACTS / "tour.png"))
    outside = [url for url in asked if not re.match(r"(http|ws)://127\.0\.0\.1:|data:|blob:", url)]
    assert outside == []
