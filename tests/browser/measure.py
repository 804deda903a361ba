"""What only a browser can tell: how soon the dashboard is there, what it weighs, how soon a native cell answers.

python tests/browser/measure.py opening [--rounds 7] [--json]
python tests/browser/measure.py memory [--minutes 60] [--json]
python tests/browser/measure.py editing [--rounds 7] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright
from servers import BROWSER_FLAGS, Server, jupyterlab, open_notebook, start_all

if TYPE_CHECKING:
    from playwright.sync_api import Page

SETUP = """
import time, numpy as np, nif_lab
lab, x = nif_lab.Lab(), np.ones(1000)
for backend in lab.backends.values(): backend.dot(x, x)
"""
#: A cell that calls three languages a thousand times a second or so.
WORK = """
end = time.time() + {seconds}
while time.time() < end:
    for backend in (lab.rust, lab.zig, lab.nim): backend.dot(x, x)
    time.sleep(0.002)
"""
#: Run the next cell; return the milliseconds until the four live views are in the page, and until each has figures.
OPEN = """async () => {
  const start = performance.now(), shown = {}, views = ["performance", "history", "memory", "errors"];
  window.jupyterapp.commands.execute("notebook:run-cell-and-select-next");
  while (performance.now() - start < 30000) {
    await new Promise((done) => requestAnimationFrame(done));
    const found = [...document.querySelectorAll(".nif-live")];
    const has = (test) => views.every((view) => found.some((it) => it.dataset.view === view && test(it)));
    if (!shown.shown && has(() => true)) shown.shown = performance.now() - start;
    if (has((it) => it.dataset.frames > 0)) return {...shown, live: performance.now() - start};
  }
  throw new Error("no figures after 30 s");
}"""
#: Note when a key went down and when the kernel became idle, and when what they lead to was in the page.
WATCH = """() => {
  const marks = (window.marks = {});
  document.addEventListener("keydown", () => (marks.key = performance.now()), true);
  const session = window.jupyterapp.shell.currentWidget.sessionContext.session;
  session.kernel.statusChanged.connect((_, status) => status === "idle" && (marks.idle = performance.now()));
  const item = ".jp-Completer:not(.lm-mod-hidden) .jp-Completer-item"; // those of an earlier Tab stay in the page
  const shown = { ".nif-magic": "magic", [item]: "items", ".nif-said": "said" };
  new MutationObserver(() => {
    for (const [selector, name] of Object.entries(shown)) {
      const count = document.querySelectorAll(selector).length;
      if (count > (marks[`${name}Count`] ?? 0)) marks[name] = performance.now();
      marks[`${name}Count`] = count;
    }
  }).observe(document.body, { childList: true, subtree: true, attributes: true });
}"""
IDLE = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'"
FRAMES = "() => Math.max(0, ...[...document.querySelectorAll('.nif-live')].map((it) => +it.dataset.frames || 0))"
HEAP = "() => performance.memory.usedJSHeapSize / 1e6"
#: Whose memory is looked at: a part of its command.
PARTS = {"kernel": "ipykernel_launcher", "server": "-m jupyterlab", "renderer": "live.renderer"}


@contextmanager
def lab_page() -> Iterator[tuple[Server, Page]]:
    """Run a JupyterLab with the extension, and a browser."""
    extension = "--ServerApp.jpserver_extensions={'nif_lab': True}"
    with (
        tempfile.TemporaryDirectory() as folder,
        jupyterlab(Path(folder), extension) as server,
        sync_playwright() as it,
    ):
        browser = it.chromium.launch(executable_path="/usr/bin/chromium", args=BROWSER_FLAGS)
        yield server, browser.new_page(viewport={"width": 1400, "height": 2600})
        browser.close()


def opening(rounds: int) -> dict[str, object]:
    """Open the first dashboard of a new kernel again and again; return milliseconds."""
    rows: list[dict[str, float]] = []
    for _ in range(rounds):
        with lab_page() as (server, page):
            open_notebook(page, server.lab(server.write("opening.ipynb", SETUP, "lab.dashboard()")))
            page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-cell-and-select-next')")
            page.wait_for_timeout(3000)
            page.wait_for_function(IDLE)
            rows.append(page.evaluate(OPEN))
    spread = {
        f"{name}_ms": {"median": statistics.median(all_of_it), "lowest": min(all_of_it), "highest": max(all_of_it)}
        for name in ("shown", "live")
        if (all_of_it := [row[name] for row in rows])
    }
    return {**spread, "rounds": rounds}


def editing(rounds: int) -> dict[str, object]:
    """Write a native cell, complete a name and run it, again and again; return milliseconds.

    ``magic``: from the magic's last key to the highlighted line. ``items``: from Tab to the completions. ``said``: from
    the end of the run to the compiler's message under its line; 0 where the message came first.
    """
    rows: list[dict[str, float]] = []
    with lab_page() as (server, page):
        open_notebook(page, server.lab(server.write("editing.ipynb", f"%load_ext nif_lab\n{SETUP}", *[""] * rounds)))
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-cell-and-select-next')")
        page.wait_for_timeout(5000)
        page.wait_for_function(IDLE)
        page.evaluate(WATCH)
        for number in range(1, rounds + 1):
            page.locator(".jp-CodeCell").nth(number).locator(".cm-content").click()
            page.keyboard.type("%%zig")
            page.wait_for_function(f"() => window.marks.magicCount >= {number}")
            row = {"magic": page.evaluate("() => marks.magic - marks.key")}
            page.keyboard.type(f"\npub fn f{number}(x: nif.Mat")
            page.wait_for_timeout(300)
            page.keyboard.press("Tab")
            page.wait_for_function("() => marks.items > marks.key")
            row["items"] = page.evaluate("() => marks.items - marks.key")
            page.keyboard.press("Escape")
            page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-cell-and-select-next'); }")
            page.wait_for_function(f"() => marks.saidCount >= {number} && marks.idle > marks.key")
            row["said"] = max(0.0, page.evaluate("() => marks.said - marks.idle"))
            rows.append(row)
    spread = {
        f"{name}_ms": {"median": statistics.median(all_of_it), "lowest": min(all_of_it), "highest": max(all_of_it)}
        for name in ("magic", "items", "said")
        if (all_of_it := [row[name] for row in rows])
    }
    return {**spread, "rounds": rounds, "load": os.getloadavg()[0]}


def resident(pid: int) -> float:
    """Return the MB of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def descendants(pid: int) -> Iterator[int]:
    """Yield the processes that a process started, and theirs."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            yield child
            yield from descendants(child)


def memory(minutes: float) -> dict[str, object]:
    """Look at the memory while a cell runs and a page takes ten updates a second; return a row for each half minute."""
    rows: list[dict[str, float]] = []
    with lab_page() as (server, page):
        busy = WORK.format(seconds=60 * minutes + 30)
        start_all(page, server.lab(server.write("memory.ipynb", SETUP, "lab.dashboard()", busy)))
        page.wait_for_timeout(20_000)
        start = time.monotonic()
        while (passed := time.monotonic() - start) < 60 * minutes:
            row = {"seconds": passed, "page": page.evaluate(HEAP), "updates": page.evaluate(FRAMES)}
            for pid in descendants(os.getpid()):
                command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
                if part := next((name for name, mark in PARTS.items() if mark in command), ""):
                    row[part] = row.get(part, 0.0) + resident(pid)
            rows.append({name: round(value, 1) for name, value in row.items()})
            page.wait_for_timeout(30_000)
    return {"rows": rows, "unit": "MB; page: the JavaScript heap"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("editing", "opening", "memory"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of lines to read")
    asked = parser.parse_args()
    by_rounds = {"editing": editing, "opening": opening}
    result = by_rounds[asked.what](asked.rounds) if asked.what in by_rounds else memory(asked.minutes)
    if asked.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(name, *(value if isinstance(value, list) else [value]), sep="\n  ")


if __name__ == "__main__":
    main()
