"""Updates through a real Jupyter server: live while the kernel works, to nobody else, and nothing is left behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import websocket
from processes import wait_for

from nif_lab import Lab
from nif_lab.bench.jupyter import Kernel, Server, Update

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
BUSY = "end = time.time() + {}\nwhile time.time() < end: lab.rust.dot(x, x)"
MAKE = "import nif_lab, numpy as np, os, time; lab = nif_lab.Lab(['rust']); x = np.ones(100)"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("/some/where/") as server:
        yield server


@pytest.fixture(scope="module")
def kernel(server: Server) -> Iterator[Kernel]:
    kernel = Kernel(server)
    kernel.run(MAKE)
    yield kernel
    kernel.close()


def refused(server: Server, path: str, **options: Any) -> int:
    with closing(socket.create_connection(("127.0.0.1", server.port), 20)) as own:
        with pytest.raises(websocket.WebSocketBadStatusException) as error:
            websocket.create_connection(server.url("ws", path), timeout=20, socket=own, **options)
        return int(error.value.status_code)


def closed(client: websocket.WebSocket) -> int:
    """Read to the end; return the code that the server closed with."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        client.settimeout(end - time.monotonic())
        kind, data = client.recv_data()
        if kind == websocket.ABNF.OPCODE_CLOSE:
            client.shutdown()
            return int.from_bytes(data[:2], "big")
    raise TimeoutError("the server closes nothing")


def messages(client: websocket.WebSocket, seconds: float) -> list[Update]:
    """Return what comes within some seconds."""
    found, end = [], time.monotonic() + seconds
    with suppress(websocket.WebSocketTimeoutException):
        while (left := end - time.monotonic()) > 0:
            client.settimeout(left)
            found.append(Update(client.recv()))
    found = [it for it in found if it.head["kind"] != "alive"]
    client.settimeout(60)
    return found


def quiet(client: websocket.WebSocket) -> None:
    """Wait until nothing comes any more: rates go down a second after the last call."""
    while messages(client, 1.5):
        pass


def test_nobody_else_gets_in(server: Server, kernel: Kernel) -> None:
    path = f"nif_lab/live?kernel={kernel.id}"
    auth = [f"Authorization: token {server.token}"]
    assert refused(server, path) == 403
    assert refused(server, path, header=["Authorization: token wrong"]) == 403
    assert refused(server, f"{path}&token=wrong") == 403
    # A page has a cookie; whoever shows the token itself may come from anywhere, as with the server's other sockets.
    with urllib.request.urlopen(server.url("http", f"api/me?token={server.token}")) as answer:
        cookie = "; ".join(it.partition(";")[0] for it in answer.headers.get_all("Set-Cookie"))
    assert refused(server, path, cookie=cookie, origin="http://elsewhere.example") == 403
    server_itself = f"http://127.0.0.1:{server.port}"
    page = websocket.create_connection(server.url("ws", path), timeout=20, cookie=cookie, origin=server_itself)
    assert Update(page.recv()).head["number"] == 1
    page.close()
    assert refused(server, f"{path}&rate=1000", header=auth) == 400
    assert refused(server, f"{path}&lab=x", header=auth) == 400
    assert refused(server, f"../../{path}", header=auth) == 404  # without the prefix
    client = websocket.create_connection(server.url("ws", f"{path}&token={server.token}"), timeout=20)
    assert Update(client.recv()).head["number"] == 1
    client.close()


@pytest.mark.parametrize("query", ["kernel=nobody", "", "kernel=../../1"])
def test_an_unknown_kernel_is_refused(server: Server, query: str) -> None:
    assert closed(server.connect(f"nif_lab/live?{query}")) == 4404


def test_only_kernels_of_the_server_are_watched(server: Server, kernel: Kernel) -> None:
    """This process has a Lab too; a page can name the Lab, but not the process."""
    lab = Lab(["rust"])
    assert closed(server.live(kernel, lab=int(lab.telemetry.segment.header["base_ticks"]))) == 4404
    assert closed(server.connect(f"nif_lab/live?kernel={os.getpid()}")) == 4404


def test_a_segment_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from nif_lab import segment, server

    def denied(folder: str) -> Any:
        raise PermissionError

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(segment.NotYours, match="belongs to another user"):
        server._find(os.getpid(), None)


@pytest.mark.serial
@pytest.mark.parametrize("loop", ["python", "numpy"])
def test_a_busy_kernel_is_shown_ten_times_a_second(server: Server, kernel: Kernel, loop: str) -> None:
    numpy_loop = "a = np.ones((400, 400))\nend = time.time() + 4\nwhile time.time() < end: a @ a; lab.rust.dot(x, x)"
    client = server.live(kernel)
    client.recv()
    number = kernel.start(BUSY.format(4) if loop == "python" else numpy_loop)
    time.sleep(0.5)
    messages(client, 0.05)
    found = messages(client, 3.0)
    kernel.finish(number)
    calls = [it.head["backends"][0]["calls"] for it in found]
    assert len(found) >= 24, "8 Hz"
    assert calls == sorted(set(calls))
    assert found[-1].head["cell"] > 0
    client.close()


@pytest.mark.serial
def test_only_changes_are_sent_and_only_to_who_looks(server: Server, kernel: Kernel) -> None:
    client = server.live(kernel)
    quiet(client)
    client.send(json.dumps({"visible": False}))
    kernel.run("for _ in range(100): lab.rust.dot(x, x)")
    assert not messages(client, 1.0)
    client.send(json.dumps({"visible": True}))
    assert messages(client, 0.5)[0].head["tables"]["history"]["rows"] > 0
    quiet(client)
    assert not messages(client, 1.0)
    client.close()


def test_a_page_for_which_nothing_is_new_is_told_that_the_connection_lives(server: Server, kernel: Kernel) -> None:
    client = server.live(kernel)
    client.settimeout(60)
    while (head := Update(client.recv()).head)["kind"] != "alive":
        pass
    assert head == {"kind": "alive"}
    client.send(json.dumps({"visible": False}))
    client.settimeout(2)
    came = 0
    with suppress(websocket.WebSocketTimeoutException):
        while client.recv():
            came += 1
    assert came <= 3, "what was under way, and then nothing"
    client.close()


@pytest.mark.serial
def test_a_client_chooses_its_rate(server: Server, kernel: Kernel) -> None:
    client = server.live(kernel, rate=2)
    number = kernel.start(BUSY.format(5))
    messages(client, 0.5)
    slow = len(messages(client, 2.0))
    client.send(json.dumps({"rate": 20}))
    messages(client, 0.6)
    fast = len(messages(client, 1.0))
    kernel.finish(number)
    client.close()
    assert 3 <= slow <= 5
    assert fast >= 13


def wish(**changes: object) -> str:
    return json.dumps({"picture": {"theme": "dark", "width": 500, "scale": 1} | changes})


@pytest.mark.parametrize(
    "text",
    [
        *("nonsense", "[]", '{"rate": null}', '{"rate": 1e9}', '{"picture": 7}'),
        *("[" * 4000, " " * 5000, '{"rate": "' + "\u00fc" * 500 + '"}'),  # too deep, too long, and a reason that is
        *(wish(theme="pink"), wish(width=float("inf")), wish(scale=float("nan"))),
    ],
)
def test_what_is_not_understood_ends_the_connection(server: Server, kernel: Kernel, text: str) -> None:
    client = server.live(kernel)
    client.send(text)
    assert closed(client) == 1003
    server.ask("GET", "api/status")


def renderers(server: Server) -> list[int]:
    """Return the processes below the server that draw."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            drawing = b"nif_lab.live.renderer" in (folder / "cmdline").read_bytes()
            if int(fields[1]) == server.process.pid and drawing:
                found.append(int(folder.name))
    return found


def test_pictures_are_shared_and_end_with_the_last_who_looks(server: Server, kernel: Kernel) -> None:
    clients = [server.live(kernel) for _ in range(3)]
    for client in clients:
        client.send(wish())
    for client in clients:
        picture = wait_for(lambda it=client: next((m for m in messages(it, 1.0) if m.head["kind"] == "picture"), None))
        assert picture.head["width"] == 500
        assert picture.head["theme"] == "dark"
    assert len(renderers(server)) == 1
    clients[0].send(json.dumps({"picture": None}))
    clients[1].close()
    time.sleep(0.5)
    assert len(renderers(server)) == 1
    clients[2].send(json.dumps({"visible": False}))
    wait_for(lambda: not renderers(server))
    clients[2].send(json.dumps({"visible": True}))
    wait_for(lambda: renderers(server))
    clients[2].close()
    wait_for(lambda: not renderers(server))
    clients[0].close()


def resources(server: Server) -> tuple[int, int]:
    folder = Path(f"/proc/{server.process.pid}")
    return len(list((folder / "fd").iterdir())), len(list((folder / "task").iterdir()))


@pytest.mark.serial
def test_twenty_clients_and_then_nothing_left(server: Server, kernel: Kernel) -> None:
    server.live(kernel).close()
    time.sleep(0.5)
    before = resources(server)
    clients = [server.live(kernel) for _ in range(20)]
    number = kernel.start(BUSY.format(4))
    time.sleep(1.0)
    counts: list[int] = []
    threads = [threading.Thread(target=lambda it=it: counts.append(len(messages(it, 2.0)))) for it in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kernel.finish(number)
    for client in clients:
        client.close()
    assert len(counts) == 20
    assert np.median(counts) >= 16
    wait_for(lambda: resources(server)[0] <= before[0] and resources(server)[1] <= before[1] + 2)  # its readers


@pytest.mark.serial
def test_a_slow_client_skips_updates(server: Server, kernel: Kernel) -> None:
    """It gets what is true when it reads again, not what piled up."""
    slow, quick = server.live(kernel), server.live(kernel)
    number = kernel.start(BUSY.format(4))
    seen = len(messages(quick, 4.0))
    kernel.finish(number)
    assert seen > 25
    found = messages(slow, 3.0)
    assert len(found) <= 10
    new = server.live(kernel)
    assert found[-1].head["backends"][0]["calls"] == Update(new.recv()).head["backends"][0]["calls"]
    for client in (slow, quick, new):
        client.close()


def test_a_named_lab_is_shown_and_else_the_newest(server: Server) -> None:
    kernel = Kernel(server)
    assert closed(server.live(kernel)) == 4404  # none yet
    first = int(kernel.run(f"{MAKE}; print(lab.telemetry.segment.header['base_ticks'])"))
    kernel.run("lab2 = nif_lab.Lab(['rust', 'zig'])")
    client = server.live(kernel)
    assert len(Update(client.recv()).head["backends"]) == 2
    other = server.live(kernel, lab=first)
    assert len(Update(other.recv()).head["backends"]) == 1
    server.ask("POST", f"api/kernels/{kernel.id}/restart")
    assert closed(client) == closed(other) == 1001
    kernel.close()


def test_a_kernel_that_ends_says_so(server: Server) -> None:
    kernel = Kernel(server)
    kernel.run(MAKE)
    client = server.live(kernel)
    client.recv()
    kernel.start("os.kill(os.getpid(), 9)")
    assert closed(client) == 1001
    kernel.close()


def test_a_segment_that_makes_no_sense_harms_its_own_page_only(server: Server, kernel: Kernel) -> None:
    """A kernel runs whatever its user wants, so it may also write what it likes."""
    bad = Kernel(server)
    bad.run(f"""{MAKE}
import fcntl, mmap
copy = os.memfd_create("nif_lab telemetry", os.MFD_ALLOW_SEALING)
original = os.pread(lab.telemetry.core.fileno(), 1 << 26, 0)
os.write(copy, original[:40] + (1 << 62).to_bytes(8, "little") + b"\\xff" * 8 + original[56:])
fcntl.fcntl(copy, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
""")
    assert closed(server.live(bad)) == 1011
    bad.close()
    client = server.live(kernel)
    assert Update(client.recv()).head["number"] == 1
    client.close()


def test_a_wrapped_kernel_is_found() -> None:
    """Some kernel specs start the kernel through a shell or a tool of their own."""
    from nif_lab.server import _find

    script = f"{sys.executable} -c \"{MAKE}; print('ready', flush=True); time.sleep(60)\"; true"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout
        assert shell.stdout.readline() == "ready\n"
        pid, segment = _find(shell.pid, None)
        assert pid != shell.pid
        assert segment.backends() == ["rust"]
        os.kill(pid, 9)


def test_the_server_loads_no_language_and_no_matplotlib() -> None:
    code = (
        "import sys, nif_lab.server; bad = [it for it in sys.modules if it.split('.')[0] in "
        "('matplotlib', 'ipywidgets', 'juliacall', 'PIL') or it.startswith(('nif_lab.backends', 'nif_lab.lab', "
        "'nif_lab._core'))]; assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_wheel_enables_the_extension() -> None:
    folder = ROOT / "wheel" / "data" / "etc" / "jupyter" / "jupyter_server_config.d"
    config = json.loads((folder / "nif_lab.json").read_text())
    assert config == {"ServerApp": {"jpserver_extensions": {"nif_lab": True}}}
    import nif_lab

    assert nif_lab._jupyter_server_extension_points() == [{"module": "nif_lab.server"}]
