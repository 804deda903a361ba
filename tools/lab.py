"""JupyterLab on this checkout's notebooks: what ``make lab`` runs once everything is set up.

One line says what to open. The server's warnings and errors are shown, its other messages aren't.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
FIRST = "00_tour.ipynb"
#: JupyterLab would ask, before anything else, whether it may fetch news.
SETTINGS = {"@jupyterlab/apputils-extension:notification": {"checkForUpdates": False, "fetchNews": "false"}}

#: Of the server alone: kernels don't inherit it. Voila, one of the server's extensions, shows the warnings again when
#: it is imported, so that comes first.
START = """
import warnings, voila
warnings.simplefilter("ignore", DeprecationWarning)
from jupyterlab.labapp import main
main()
"""


def free_port(first: int = 8888) -> int:
    """Return the first port from there on that nobody listens at."""
    for port in range(first, first + 100):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    sys.exit(f"no free port from {first} to {first + 99}")


def wait_until_ready(server: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the server listens; False if it ends before."""
    while server.poll() is None:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 5).close()
            return True
        time.sleep(0.1)
    return False


def main() -> int:
    """Start the server, say what to open, and wait for its end."""
    settings = Path(sys.prefix) / "share" / "jupyter" / "lab" / "settings"  # of this environment alone
    settings.mkdir(parents=True, exist_ok=True)
    overrides = settings / "overrides.json"
    if not overrides.exists():
        overrides.write_text(json.dumps(SETTINGS))
    port, token = free_port(), secrets.token_hex(24)
    command = [
        *(sys.executable, "-c", START, "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"),
        *(f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={NOTEBOOKS}"),
        "--Application.log_level=WARN",
    ]
    print("JupyterLab starts ...", flush=True)
    # By the environment: other users can read a command line.
    server = subprocess.Popen(command, env={**os.environ, "JUPYTER_TOKEN": token})
    try:
        url = f"http://127.0.0.1:{port}/lab/tree/{FIRST}?token={token}"
        if wait_until_ready(server, port):
            print(f"\nOpen this in a browser: {url}\nCtrl-C ends the server.\n", flush=True)
        return server.wait()
    except KeyboardInterrupt:  # the server has had it too, and asks what it means
        while True:
            with suppress(KeyboardInterrupt):
                return server.wait()


if __name__ == "__main__":
    sys.exit(main())
