"""The live view's kernel side: what it answers, what it sends when nobody else does, and how it stops."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import playwright
import pytest

from nif_lab.panels import LiveView, live
from nif_lab.panels.style import COLOURS, MARKS
from nif_lab.text import format_bytes, format_ns

if TYPE_CHECKING:
    from nif_lab import Lab

Sent = list[tuple[float, dict[str, Any], list[bytes]]]


def head_of(message: bytes) -> dict[str, Any]:
    end = 4 + int.from_bytes(message[:4], "little")
    head: dict[str, Any] = json.loads(message[4:end])
    return head


def rows_of(sent: tuple[float, dict[str, Any], list[bytes]]) -> int:
    """Return how many calls a message has."""
    return int(head_of(sent[2][0]).get("tables", {}).get("history", {}).get("rows", 0))


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it didn't come"
        time.sleep(0.01)


def senders() -> list[threading.Thread]:
    return [it for it in threading.enumerate() if it.name == "nif_lab live"]


@pytest.fixture
def view(lab: Lab) -> Iterator[LiveView]:
    view = LiveView(lab.telemetry.segment, "performance", rate=20)
    yield view
    view.close()
    until(lambda: not senders())


@pytest.fixture
def sent(view: LiveView, monkeypatch: pytest.MonkeyPatch) -> Sent:
    """What the view has sent: when, the content, the buffers."""
    out: Sent = []
    monkeypatch.setattr(
        view, "send", lambda content, buffers=None: out.append((time.monotonic(), content, buffers or []))
    )
    return out


def ask(view: LiveView, **content: Any) -> None:
    view._handle_custom_msg(content, [])


@pytest.mark.serial
def test_it_sends_updates_when_asked_and_only_what_is_new(view: LiveView, sent: Sent, lab: Lab) -> None:
    assert not senders()
    ask(view, ask="updates")
    until(lambda: sent)
    first = head_of(sent[0][2][0])
    assert (first["kind"], first["number"]) == ("update", 1)
    assert {it["name"] for it in first["backends"]} >= set(lab.backends)
    ask(view, ask="updates")  # the page still looks
    assert len(senders()) == 1
    time.sleep(1.5)  # the calls a second have run down
    count = len(sent)
    time.sleep(0.3)
    assert all(head_of(it[2][0]) == {"kind": "alive"} for it in sent[count:])
    for _ in range(64):  # at least one of them is timed
        lab.rust.dot(np.ones(3), np.ones(3))
    until(lambda: any(rows_of(it) for it in sent[count:]))


def test_it_stops_when_nobody_looks_and_begins_anew(view: LiveView, sent: Sent) -> None:
    ask(view, ask="updates")
    until(lambda: sent)
    ask(view, visible=False)
    until(lambda: not senders())
    sent.clear()
    ask(view, ask="updates")
    until(lambda: sent)
    assert head_of(sent[0][2][0])["number"] == 1


def test_a_page_that_fell_silent_is_given_up(view: LiveView, sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PATIENCE", 0.2)
    ask(view, ask="updates")
    until(lambda: not senders(), 3)


@pytest.mark.serial
def test_while_a_cell_runs_it_sends_seldom(view: LiveView, sent: Sent, lab: Lab, monkeypatch: Any) -> None:
    monkeypatch.setattr(live._cells, "busy", True)
    ask(view, ask="updates")
    until(lambda: sent)
    sent.clear()
    end = time.monotonic() + 2
    while time.monotonic() < end:
        lab.rust.dot(np.ones(3), np.ones(3))
    assert 3 <= len(sent) <= 8


def test_what_costs_more_is_sent_more_seldom(view: LiveView, sent: Sent, lab: Lab, monkeypatch: Any) -> None:
    ask(view, ask="updates")
    until(lambda: sent)

    def update() -> bytes:
        end = time.thread_time() + 0.01
        while time.thread_time() < end:
            pass
        return b"\2\0\0\0{}\0\0"

    monkeypatch.setattr(view._sender._feed, "update", update)
    sent.clear()
    updates = lambda: [at for at, _, parts in sent if parts and parts[0][:1] == b"\2"]  # noqa: E731
    until(lambda: len(updates()) >= 2)
    assert updates()[1] - updates()[0] >= 0.01 / live.SHARE


def test_the_picture_comes_by_the_same_way(view: LiveView, sent: Sent) -> None:
    ask(view, ask="updates", picture={"theme": "dark", "width": 500, "scale": 1})
    found: list[dict[str, Any]] = []
    until(lambda: found.extend(h for *_, b in sent for m in b if (h := head_of(m))["kind"] == "picture") or found, 20)
    assert (found[0]["theme"], found[0]["width"]) == ("dark", 500)
    renderer = view._sender._renderer._process
    ask(view, visible=False)
    until(lambda: renderer.poll() is not None)


def test_details_are_made_when_asked_and_their_cost_is_told(lab: Lab) -> None:
    made = iter(["<b>1</b>", "<b>2</b>"])
    view = LiveView(lab.telemetry.segment, "memory", make_details=lambda: next(made))
    sent: Sent = []
    view.send = lambda content, buffers=None: sent.append((0.0, content, []))
    view.renew()
    assert view.details == "<b>1</b>"
    ask(view, ask="details")
    assert view.details == "<b>2</b>"
    assert 0 < sent[0][1]["cost"] < 1
    view.close()


def test_the_script_is_one_module_that_asks_no_other_server() -> None:
    script = LiveView._esm if isinstance(LiveView._esm, str) else str(LiveView._esm)
    assert script.count("export default") == 1
    assert not re.search(r"^import |https?:", script.replace("http://www.w3.org/2000/svg", ""), re.M)
    assert COLOURS.keys() == MARKS.keys()


def test_numbers_are_written_as_in_python() -> None:
    times = [0.4, 1, 73.24, 999.4, 999.6, 4_200, 1.25e9, 9e11]
    sizes = [0, 800, 1023, 80_000, 1.5 * 2**30, 2.0**43]
    node = Path(playwright.__file__).parent / "driver" / "node"
    code = (live._FOLDER / "numbers.js").read_text()
    code += f"console.log(JSON.stringify([{times}.map(formatNs), {sizes}.map(formatBytes)]))"
    shown = json.loads(subprocess.run([node, "-e", code], capture_output=True, check=True).stdout)
    assert shown == [[format_ns(it) for it in times], [format_bytes(it) for it in sizes]]
