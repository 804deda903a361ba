"""A Jupyter server of one's own, a kernel of it, and what a page would be: for benchmarks and tests."""

from __future__ import annotations

import importlib
import json
import os
import secrets
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..programs import python

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Kernel", "Server", "Update"]

#: Seconds that a server or a kernel may take to answer.
PATIENCE: Final = 60.0


class Server:
    """``jupyter server`` with a home of its own, on 127.0.0.1; use it in a ``with``.

    Parameters
    ----------
    base_url
        Where on the server everything is.
    """

    def __init__(self, base_url: str = "/") -> None:
        self.home = tempfile.TemporaryDirectory(prefix="nif_lab-")
        self.token, self.base_url = secrets.token_hex(16), base_url
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        folder = Path(self.home.name)
        names = ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
        command = [
            *python("-m", "jupyter_server", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"),
            *(f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"),
            *(f"--IdentityProvider.token={self.token}", f"--ServerApp.base_url={base_url}"),
            "--ServerApp.jpserver_extensions={'nif_lab': True}",
        ]
        self.log = folder / "server.log"
        own = {name: str(folder / name.lower()) for name in names}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, **own}, stdout=log, stderr=subprocess.STDOUT
            )

    def __enter__(self) -> Server:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.ask("GET", "api/status")
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None or time.monotonic() > end:
                    text = self.log.read_text()[-3000:]
                    self.close()
                    raise RuntimeError(f"the Jupyter server didn't start:\n{text}") from None
                time.sleep(0.1)
            else:
                return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the server and its kernels."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.home.cleanup()

    def url(self, scheme: str, path: str) -> str:
        """Return the URL of a path below `base_url`."""
        return f"{scheme}://127.0.0.1:{self.port}{self.base_url.rstrip('/')}/{path}"

    def ask(self, method: str, path: str) -> Any:
        """Make a request of the server's REST interface; return the answer."""
        request = urllib.request.Request(  # noqa: S310 # to the server above
            self.url("http", path), method=method, headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
            text = answer.read()
        return json.loads(text) if text else None

    def connect(self, path: str, **options: Any) -> Any:
        """Open a WebSocket with the server's token."""
        return importlib.import_module("websocket").create_connection(
            self.url("ws", path), timeout=PATIENCE, header=[f"Authorization: token {self.token}"], **options
        )

    def live(self, kernel: Kernel, **query: Any) -> Any:
        """Open a WebSocket to a kernel's Lab (docs/messages.md)."""
        words = "".join(f"&{name}={value}" for name, value in query.items())
        return self.connect(f"nif_lab/live?kernel={kernel.id}{words}")


class Kernel:
    """A kernel of a server, and a client of it.

    Attributes
    ----------
    updates : int
        Widgets' messages with data that were read so far.
    """

    def __init__(self, server: Server) -> None:
        self.server, self.updates = server, 0
        self.id: str = server.ask("POST", "api/kernels")["id"]
        self._channels = server.connect(f"api/kernels/{self.id}/channels")

    def start(self, code: str) -> str:
        """Run code and don't wait; return the request's number."""
        rest = {"silent": False, "store_history": True, "allow_stdin": False, "user_expressions": {}}
        return self._send("execute_request", {"code": code, **rest})

    def tell(self, comm: str, content: dict[str, Any]) -> None:
        """Send a widget's message, as a page does."""
        self._send("comm_msg", {"comm_id": comm, "data": {"method": "custom", "content": content}})

    def _send(self, kind: str, content: dict[str, Any]) -> str:
        number = uuid.uuid4().hex
        header = {
            "msg_id": number,
            "msg_type": kind,
            "version": "5.3",
            "username": "",
            "session": "nif_lab",
            "date": "",
        }
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
        self._channels.send(json.dumps({**message, "channel": "shell", "buffers": []}))
        return number

    def finish(self, number: str) -> str:
        """Wait for code to end; return what it printed."""
        printed, end = "", time.monotonic() + PATIENCE
        while time.monotonic() < end:
            received = self._channels.recv()
            if isinstance(received, bytes):  # a widget's message with data
                self.updates += 1
                continue
            message = json.loads(received)
            if message["parent_header"].get("msg_id") != number:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                printed += content["text"]
            elif kind == "error":
                raise RuntimeError("\n".join(content["traceback"]))
            elif kind == "status" and content["execution_state"] == "idle":
                return printed
        raise TimeoutError("the kernel doesn't answer")

    def run(self, code: str) -> str:
        """Run code; return what it printed."""
        return self.finish(self.start(code))

    def close(self) -> None:
        """End the kernel."""
        self._channels.close()
        self.server.ask("DELETE", f"api/kernels/{self.id}")


class Update:
    """A message of docs/messages.md, taken apart.

    Attributes
    ----------
    head : dict
        Its JSON text.
    rest : bytes
        What follows.
    """

    def __init__(self, message: bytes) -> None:
        end = 4 + int.from_bytes(message[:4], "little")
        self.head: dict[str, Any] = json.loads(message[4:end])
        self.rest = message[end + -end % 8 :]
