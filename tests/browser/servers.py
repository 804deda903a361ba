"""Jupyter servers of their own, and how to drive their pages."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
ARTEFACTS = Path(__file__).with_name("artefacts")
BROWSER_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: The Python whose JupyterLab serves the pages. NIF_LAB_JUPYTER names another one, to try an older JupyterLab.
JUPYTER = os.environ.get("NIF_LAB_JUPYTER", sys.executable)
#: A server that hasn't answered by then doesn't start at all.
START_SECONDS = 120
#: A cell that compiles.
MEAN = """%%zig
/// `mean(x[n])`: the arithmetic mean.
pub fn mean(x: []const f64) f64 {
    var total: f64 = 0;
    for (x) |value| total += value;
    return total / @as(f64, @floatFromInt(x.len));
}"""
# News and update checks would ask the network. All else is JupyterLab's default, as users have it: cells that are far
# from the view aren't in the page.
SETTINGS = {"@jupyterlab/apputils-extension:notification": {"checkForUpdates": False, "fetchNews": "false"}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Server:
    """A server that runs: where, and the folder of its notebooks."""

    url: str
    token: str
    folder: Path

    def lab(self, notebook: str) -> str:
        """Return the address of a notebook in JupyterLab."""
        return f"{self.url}/lab/tree/{notebook}?token={self.token}"

    def write(self, name: str, *cells: str) -> str:
        """Write a notebook of code cells; return its name."""
        made = [
            {"cell_type": "code", "id": f"c{i}", "metadata": {}, "execution_count": None, "outputs": [], "source": it}
            for i, it in enumerate(cells)
        ]
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        book = {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
        (self.folder / name).write_text(json.dumps(book))
        return name


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a user who never used Jupyter."""
    own = {name: str(folder / name.lower()) for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")}
    env = {**os.environ, **own, "JUPYTER_RUNTIME_DIR": str(folder / "runtime"), "IPYTHONDIR": str(folder / "ipy")}
    env["XDG_CACHE_HOME"] = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")  # Julia's compiled form
    return env


@contextmanager
def running(command: list[str], folder: Path, probe: str) -> Iterator[None]:
    """Run a server until it is no longer wanted; it is ready when it answers at ``probe``."""
    path = folder / "server.log"
    with path.open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=log, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + START_SECONDS
            while True:
                if server.poll() is not None:
                    pytest.fail(path.read_text()[-3000:], pytrace=False)
                try:
                    urllib.request.urlopen(probe, timeout=5).close()
                    break
                except (urllib.error.URLError, ConnectionError):
                    if time.monotonic() > end:
                        pytest.fail(f"the server doesn't answer: {path.read_text()[-3000:]}", pytrace=False)
                    time.sleep(0.1)
            yield
        finally:
            server.terminate()
            server.wait(60)


@contextmanager
def jupyterlab(folder: Path, *flags: str, settings: Mapping[str, object] = SETTINGS) -> Iterator[Server]:
    """Run a JupyterLab on a copy of the notebooks. It reads its settings once, when it starts."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    read_from = folder / "settings"
    read_from.mkdir()
    (read_from / "overrides.json").write_text(json.dumps(settings))
    port, token = free_port(), secrets.token_hex(16)
    command = [
        *(JUPYTER, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"),
        *(f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"),
        *("--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"),
        *(f"--LabApp.app_settings_dir={read_from}", f"--ServerApp.root_dir={folder / 'notebooks'}", *flags),
    ]
    url = f"http://127.0.0.1:{port}"
    with running(command, folder, f"{url}/api/status?token={token}"):
        yield Server(url, token, folder / "notebooks")


def open_notebook(page: Page, url: str) -> None:
    """Open a notebook in JupyterLab; return when its kernel can be asked."""
    page.goto(url)
    # Before the session is ready commands would do nothing.
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.sessionContext?.isReady")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.ready")


def run_all(page: Page, url: str) -> None:
    """Open a notebook in JupyterLab and run all of its cells; return when the last has ended."""
    open_notebook(page, url)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")


def show(page: Page, cell: int) -> None:
    """Scroll to a cell, as a reader does."""
    page.evaluate(
        """cell => { const book = window.jupyterapp.shell.currentWidget.content;
            book.activeCellIndex = cell;
            return book.scrollToItem(cell, "start"); }""",
        cell,
    )


def start_all(page: Page, url: str) -> None:
    """Open a notebook in JupyterLab and begin to run its cells."""
    open_notebook(page, url)
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
