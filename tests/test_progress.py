"""What takes more than a second says how far it is: to a terminal or a notebook, and to nobody else."""

from __future__ import annotations

import io
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import tqdm.std

from nif_lab import progress
from nif_lab.progress import Progress, tracked


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(patch: pytest.MonkeyPatch) -> Terminal:
    """To be called in the test itself: pytest sets standard error again after the fixtures."""
    terminal = Terminal()
    patch.setattr(sys, "stderr", terminal)
    return terminal


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.time, "time", lambda: now[0])
    monkeypatch.setattr(tqdm.std, "time", lambda: now[0])
    return now


def test_the_step_is_named_after_a_second(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    terminal = on_terminal(monkeypatch)
    with Progress() as show:
        show("too early")
        assert terminal.getvalue() == ""
        clock[0] += progress.QUIET + 1
        show("copies")
        assert "copies [00:02]" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r"), "the line is wiped"


def test_a_bar_counts_items_and_yields_them_all(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    terminal = on_terminal(monkeypatch)
    seen = []
    for item in tracked(range(4), "transfers"):
        seen.append(item)
        clock[0] += 0.8
    assert seen == [0, 1, 2, 3]
    shown = terminal.getvalue()
    assert "transfers:  50%" in shown
    assert "25%" not in shown, "nothing is shown in the first second"


def test_neither_a_pipe_nor_a_file_is_told(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    for _ in tracked(range(3), "transfers"):
        clock[0] += 5
    with Progress() as show:
        clock[0] += 5
        show("copies")
    assert capsys.readouterr().err == ""


def test_bars_of_widgets_are_for_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    import ipykernel.zmqshell  # tqdm takes this process for a kernel from here on
    from tqdm.notebook import tqdm_notebook
    from tqdm.std import tqdm as letters

    assert ipykernel.zmqshell
    assert progress._bars().__bases__ == (letters,)
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr("tqdm.auto.tqdm", tqdm_notebook)
    assert progress._bars().__bases__ == (tqdm_notebook,)


def test_a_thread_shows_none(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    terminal = on_terminal(monkeypatch)

    def work() -> None:
        for _ in tracked(range(3), "transfers"):
            clock[0] += 5

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert terminal.getvalue() == ""


def test_a_notebooks_bar_leaves_no_widget(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    from ipywidgets.widgets import widget
    from tqdm.notebook import tqdm as bars

    monkeypatch.setattr(progress, "_bars", lambda: bars)
    monkeypatch.setattr("tqdm.notebook.display", lambda *_: None)
    before = set(widget._instances)
    made = 0
    for _ in tracked(range(4), "transfers"):
        clock[0] += 0.8
        made = max(made, len(set(widget._instances) - before))
    assert made, "there was a bar"
    assert set(widget._instances) == before


def test_the_time_goes_on_while_a_step_does(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setattr(progress, "TICK", 0.01)
    with Progress(0.02) as show:
        show("compiles")
        give_up = time.monotonic() + 20
        while "compiles [00:00]" not in terminal.getvalue() and time.monotonic() < give_up:
            time.sleep(0.01)
        assert "compiles [00:00]" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r"), "the line is wiped"
    assert not [it for it in threading.enumerate() if it.name == "nif_lab progress"]


def test_a_process_without_standard_error_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """There tqdm fails with its lock held, and the next bar would wait for ever."""
    monkeypatch.setattr(sys, "stderr", None)
    with progress.late_bar(0, desc="nothing") as show:
        show(1)
        show(2)
