"""The tree of processes in a real page, without a kernel: what it draws of updates."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from nif_lab.fleet.collector import Collection
from nif_lab.fleet.tally import Counters, Origin, State, report
from nif_lab.panels.processes import _Tree

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow


FAKE_MODEL = """
const {default: view} = await import(URL.createObjectURL(new Blob([ESM], {type: "text/javascript"})));
let take;
const model = {
  get: () => "<p>still</p>",
  on: (_, f) => { take = f; },
  off: () => {},
  send: (it) => (window.asked ??= []).push(it.ask),
};
view.render({ model, el: document.body.appendChild(document.createElement("div")) });
window.feed = (update) => take({}, [new TextEncoder().encode(JSON.stringify(update))]);
"""


def test_the_page_draws_the_tree_with_the_chosen_process_and_greys_who_is_gone(page: Page) -> None:
    fleet = Collection(0)
    states = []
    for number in (1, 2, 3):
        state = State(
            {("zig", f"f<{number}>", "direct"): Counters(10 * number, timed=1, total_ns=50, histogram={30: 1})}
        )
        state.errors[number] = (1.8e9, "zig", "f", f"WorkerCrashed: <b>{number}</b>")
        states.append(state)
        origin = Origin(f"host {number // 2}", f"node{number // 2}", number, 1)
        fleet.hear(report(origin, state, State(), 1, title="worker"))
    fleet.look()
    whole = fleet.update(whole=True)
    fleet.hear(report(Origin("host 1", "node1", 3, 1), states[2], State(), 2, title="worker", ended=True))
    later = fleet.update()
    assert later is not None
    later["calls"] = [[1.8e9, 2, "zig", "f", 50.0, ""]]
    page.evaluate(f"(async () => {{ const ESM = {json.dumps(_Tree._esm)};\n{FAKE_MODEL} }})()")
    page.evaluate("feed", whole)
    rows = page.locator(".nif-tree tbody tr")
    page.wait_for_function("document.querySelectorAll('.nif-tree tbody tr').length === 6")
    assert rows.locator("button").all_inner_texts() == [
        "all: 3 processes", "node0", "worker 1", "node1", "worker 2", "worker 3"
    ]  # fmt: skip
    assert rows.nth(0).locator("td").first.inner_text() == "60"
    assert rows.nth(3).locator("td").first.inner_text() == "50"
    assert page.evaluate("asked[0]") == "updates"
    page.evaluate("feed", later)
    page.wait_for_function("document.querySelectorAll('.nif-gone').length === 1")
    assert "worker 3, gone since" in page.locator(".nif-gone").inner_text()
    assert "2 processes, 1 gone" in rows.nth(0).inner_text()
    rows.nth(4).locator("button").click()
    page.wait_for_function("!document.querySelector('.nif-details').innerText.includes('f<1>')")
    shown = page.locator(".nif-details").inner_text()
    assert "f<2>" in shown
    assert "<b>2</b>" in shown  # text, not HTML
    assert "<b>1</b>" not in shown
    assert "50 ns" in shown
