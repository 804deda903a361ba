"""Buttons that act while a cell runs: on this thread, on theirs, and in real kernels of three generations."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import nif_lab
from nif_lab.errors import ArgumentValueError
from nif_lab.panels.action import Action
from nif_lab.panels.faults import FaultPanel
from nif_lab.panels.transfers import TransferPanel

if TYPE_CHECKING:
    from jupyter_client.blocking.client import BlockingKernelClient

    from nif_lab import Lab

pytestmark = pytest.mark.slow

KERNELS = Path(sys.prefix) / "kernels"
#: Longer than anything here takes, unless it hangs.
LONG = 60.0
#: How long the cell is busy, in seconds.
BUSY = 4.0


class Log:
    def __init__(self) -> None:
        self.shown: list[Any] = []
        self.errors: list[Exception] = []

    def action(self, work: Callable[[], Any]) -> Action:
        return Action("go", work, show=self.shown.append, fail=self.errors.append)


def press(action: Action, number: int) -> None:
    """As the page does."""
    action._hear(action, {"click": number}, [])


def test_a_click_from_python_is_done_when_it_returns() -> None:
    log = Log()
    action = log.action(lambda: 7)
    action.click()
    assert (log.shown, log.errors, action.phase) == ([7], [], "done")
    action.close()


def test_a_click_from_the_page_is_taken_at_once_and_done_on_a_thread() -> None:
    log, gate = Log(), threading.Event()
    action = log.action(lambda: gate.wait(LONG) and threading.current_thread().name)
    press(action, 1)
    assert (action.taken, action.phase, log.shown) == (1, "running", [])
    press(action, 2)  # while it runs: noted, not done again
    assert action.taken == 2
    gate.set()
    action.wait()
    assert action.phase == "done"
    assert len(log.shown) == 1
    assert log.shown[0].startswith("nif_lab action")
    press(action, 3)
    action.wait()
    assert len(log.shown) == 2
    action.close()


def test_what_the_work_raises_is_shown_and_the_button_works_on() -> None:
    log, answers = Log(), iter([ValueError("no"), 5])

    def work() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    action = log.action(work)
    press(action, 1)
    action.wait()
    assert action.phase == "failed"
    assert str(log.errors[0]) == "no"
    press(action, 2)
    action.wait()
    assert (action.phase, log.shown) == ("done", [5])
    action.close()


def test_work_that_can_be_ended_has_a_stop_button_while_it_runs() -> None:
    log, gate = Log(), threading.Event()
    plain = log.action(lambda: 1)
    assert not plain.stoppable
    action = Action("go", lambda: gate.wait(LONG), show=log.shown.append, fail=log.errors.append, stop=gate.set)
    assert action.stoppable
    action._hear(action, {"stop": True}, [])
    assert not gate.is_set()  # nothing runs
    press(action, 1)
    action._hear(action, {"stop": True}, [])
    action.wait()
    assert (action.phase, log.shown, log.errors) == ("done", [True], [])
    plain.close()
    action.close()


def test_a_result_that_cannot_be_shown_is_a_failure() -> None:
    log = Log()

    def show(_: object) -> None:
        raise ValueError("too long")

    action = Action("go", lambda: 7, show=show, fail=log.errors.append)
    press(action, 1)
    action.wait()
    assert action.phase == "failed"
    assert str(log.errors[0]) == "too long"
    action.close()


def test_nonsense_from_the_page_does_nothing() -> None:
    log = Log()
    action = log.action(lambda: 1)
    for content in ({}, {"click": "1"}, {"click": None}, {"what": 1}):
        action._hear(action, content, [])
    action.disabled = True
    press(action, 1)
    assert (log.shown, action.phase) == ([], "idle")
    action.close()


@pytest.mark.parametrize("mode", ["shared", "wire", "mmap"])
def test_the_transfer_panel_shows_the_ledger(lab: Lab, mode: str) -> None:
    panel = TransferPanel(lab.backends, lab.transfer, lab.transfer_matrix, lab.memory.empty)
    panel.mode.value = mode
    panel.size.value = 8_000
    press(panel.buttons["rust", "zig"], 1)
    panel.buttons["rust", "zig"].wait()
    assert f"rust -&gt; zig, {mode}: 8," in panel.result.value
    reason = {"shared": "", "wire": "encoded into a frame", "mmap": "into a mapped file"}[mode]
    assert (reason in panel.result.value) if reason else ("copied" not in panel.result.value)
    assert panel.results["rust", "zig"].value is None
    assert "GB/s" in panel.cells["rust", "zig"].value
    panel.all_pairs.click()
    assert panel.cells["rust", "zig"].value == ""  # the picture has that number
    assert "GB/s" in panel.html()
    panel.close()


def test_a_crash_from_the_panel_leaves_the_process_alive(lab: Lab) -> None:
    panel = FaultPanel(lab)
    panel.language.value, panel.kind.value = "zig", "null_store"
    press(panel.inject, 1)
    panel.inject.wait()
    assert panel.problem.value == ""
    assert panel.report is not None
    assert panel.report.outcome == "recovered"
    assert "null_store in zig, isolated lane: answered all the same" in panel.result.value
    assert "first try, Zig: ✗ failed: its worker was terminated by SIGSEGV, after" in panel.result.value
    assert "✓ answered" in panel.result.value
    assert "null_store" in panel.text()
    assert "<table>" in panel.html()
    panel.close()


def test_what_would_end_the_kernel_can_not_be_pressed(lab: Lab) -> None:
    panel = FaultPanel(lab)
    panel.lane.value = "direct"
    assert panel.inject.disabled
    assert "would end this kernel" in panel.refusal.value
    panel.kind.value = "panic"
    assert not panel.inject.disabled
    assert panel.refusal.value == ""
    panel.close()


def test_a_fault_that_is_always_there_is_answered_by_another_language(lab: Lab) -> None:
    panel = FaultPanel(lab)
    panel.language.value, panel.kind.value, panel.often.label = "zig", "null_store", "always"
    assert panel.often.label == "always"
    panel.inject.click()
    assert panel.report is not None
    assert panel.report.answered_by == "failover"
    panel.close()


def test_an_open_circuit_is_named_and_can_be_closed() -> None:
    lab = nif_lab.Lab(["rust", "zig"])
    panel = FaultPanel(lab)
    panel.language.value, panel.kind.value, panel.often.label = "zig", "abort", "always"
    assert panel.close_it.layout.display == "none"
    for _ in range(4):
        panel.inject.click()
    assert "first try, Zig: ✗ not made: the circuit was open<" in panel.result.value
    assert "another language, Rust: ✓ answered" in panel.result.value
    assert re.search(
        r"circuit of Zig is open: 5 workers ended within 10 s.*From \d\d:\d\d:\d\d on", panel.refusal.value
    )
    assert panel.close_it.layout.display is None
    panel.close_it.click()
    assert (panel.refusal.value, panel.close_it.layout.display) == ("", "none")
    panel.inject.click()
    assert "first try, Zig: ✗ failed: its worker was terminated by SIGABRT" in panel.result.value
    with pytest.raises(ArgumentValueError, match="no backend 'cobol' has workers; those that have: "):
        lab.recovery.close_circuit("cobol")
    panel.close()


def test_a_language_that_isnt_loaded_cannot_fail() -> None:
    lab = nif_lab.Lab(["rust"])
    loaded = lab.backends["rust"]
    loaded.library, loaded.reason, loaded.cure = None, "no compiler", "install it"
    panel = FaultPanel(lab)
    assert panel.inject.disabled
    assert "Rust isn&#x27;t loaded: no compiler. To fix: install it" in panel.refusal.value
    panel.close()


# Real kernels.

CELL = """
from nif_lab.panels.action import Action
done = []
action = Action("go", lambda: 7, show=done.append, fail=done.append)
"""


def folder_of(version: str) -> Path:
    """Return a folder with that ipykernel; it is fetched if it isn't there."""
    folder = KERNELS / version
    if not list(folder.glob("ipykernel-*.dist-info")):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*command, f"ipykernel=={version}.*"], check=True, timeout=300)
    return folder


@contextmanager
def kernel(version: str) -> Iterator[BlockingKernelClient]:
    from jupyter_client.manager import KernelManager

    before = [str(folder_of(version))] if version != "newest" else []
    path = os.pathsep.join([*before, *filter(None, [os.environ.get("PYTHONPATH")])])
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env={**os.environ, "PYTHONPATH": path})
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(LONG)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def listen(client: BlockingKernelClient, wanted: Callable[[dict[str, Any]], bool], seconds: float) -> float | None:
    """Wait for a message on iopub; return when it came."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            message = client.get_iopub_msg(timeout=left)
        except queue.Empty:
            return None
        if wanted(message):
            return time.monotonic()
    return None


def information(client: BlockingKernelClient) -> dict[str, Any]:
    """Ask the kernel what it can, again and again: ipykernel 7.3 now and then leaves a message until the next comes."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        client.kernel_info()
        with suppress(queue.Empty):
            while (info := client.get_shell_msg(timeout=2))["header"]["msg_type"] != "kernel_info_reply":
                pass
            return dict(info)
    raise AssertionError("the kernel doesn't answer")


def new_subshell(client: BlockingKernelClient) -> str | None:
    """Ask for a subshell, as JupyterLab does for widgets; None where the kernel has none."""
    info = information(client)
    if "kernel subshells" not in info["content"].get("supported_features", []):
        return None
    message = client.session.msg("create_subshell_request", {})
    client.control_channel.send(message)
    while (reply := client.get_control_msg(timeout=LONG))["header"]["msg_type"] != "create_subshell_reply":
        pass
    return str(reply["content"]["subshell_id"])


def say(client: BlockingKernelClient, comm: str, data: dict[str, Any], shell: str | None) -> None:
    message = client.session.msg("comm_msg", {"comm_id": comm, "data": data})
    if shell is not None:
        message["header"]["subshell_id"] = shell
    client.shell_channel.send(message)


@pytest.mark.serial
@pytest.mark.parametrize(("version", "at_once"), [("6.31", False), ("7.3", True), ("newest", True)])
def test_a_click_while_a_cell_runs(version: str, at_once: bool) -> None:
    """ipykernel 7 handles it on its subshell; 6 when the cell has ended, and the page says "queued" until then."""
    with kernel(version) as client:
        client.execute(CELL)
        opened: list[str] = []

        def is_action(message: dict[str, Any]) -> bool:
            state = message["content"].get("data", {}).get("state", {})
            if message["header"]["msg_type"] == "comm_open" and state.get("description") == "go":
                opened.append(message["content"]["comm_id"])
            return message["content"].get("execution_state") == "idle" and bool(opened)

        assert listen(client, is_action, LONG), "the button's comm was opened"
        shell = new_subshell(client)
        client.execute(f"import time; end = time.monotonic() + {BUSY}\nwhile time.monotonic() < end: pass")
        busy = listen(client, lambda it: it["content"].get("execution_state") == "busy", LONG)
        assert busy
        time.sleep(0.2)

        def is_done(message: dict[str, Any]) -> bool:
            return bool(message["content"].get("data", {}).get("state", {}).get("phase") == "done")

        clicked, done = time.monotonic(), None
        while done is None and time.monotonic() < clicked + LONG:
            say(client, opened[0], {"method": "custom", "content": {"click": 1}}, shell)  # the same one, not another
            done = listen(client, is_done, 0.7)
        assert done, "the click was never handled"
        if at_once:
            assert done - clicked < BUSY / 2
        else:
            assert done - busy >= BUSY - 0.5
