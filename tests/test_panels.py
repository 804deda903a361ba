"""The panels' logic: what they show, how they fail, that they leave nothing behind."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from ipywidgets.widgets import widget as widget_module
from matplotlib.colors import to_rgb
from test_lab import Broken

from nif_lab import Lab
from nif_lab.errors import NifPanic, NifTypeError, ToolchainMissing
from nif_lab.lab import LoadedBackend
from nif_lab.panels import (
    BackendsPanel,
    Dashboard,
    ErrorsPanel,
    FaultPanel,
    HistoryPanel,
    InspectorPanel,
    MemoryPanel,
    PerformancePanel,
    ProcessesPanel,
    TransferPanel,
    TryPanel,
    live,
)
from nif_lab.panels.base import Panel
from nif_lab.panels.pictures import performance_grid
from nif_lab.panels.style import THEMES, Theme, colour
from nif_lab.telemetry import FunctionStats, Snapshot


@pytest.fixture
def dashboard(lab: Lab) -> Dashboard:
    return lab.dashboard()


def transfers(dashboard: Dashboard) -> TransferPanel:
    return next(it for it in dashboard.panels if isinstance(it, TransferPanel))


def test_the_dashboard_has_the_panels_and_a_plain_repr(dashboard: Dashboard, lab: Lab) -> None:
    live = {PerformancePanel, HistoryPanel, MemoryPanel, ErrorsPanel}
    others = {BackendsPanel, TransferPanel, FaultPanel, InspectorPanel, TryPanel, ProcessesPanel}
    assert {type(it) for it in dashboard.panels} == live | others
    assert repr(dashboard) == f"Dashboard({', '.join(lab.backends)})"
    for panel in dashboard.panels:
        assert not re.search(r"\bat 0x[0-9a-f]+", panel.text() + panel.html()), "an address"
    dashboard.close()


def test_there_are_twelve_buttons_and_each_hands_over(dashboard: Dashboard) -> None:
    panel = transfers(dashboard)
    assert len(panel.buttons) == 12
    for (source, target), button in panel.buttons.items():
        assert button.description == f"{source} → {target}"
        assert button.tooltip
        button.click()
        assert f"{source} -&gt; {target}" in panel.result.value
        assert "without a copy, verified" in panel.result.value
    panel.all_pairs.click()
    assert panel.heat.value.count("<img") == 2
    assert 'alt="rust -&gt; zig' in panel.heat.value
    dashboard.close()


def test_a_transfer_moves_the_counters(dashboard: Dashboard, lab: Lab) -> None:
    live = next(it for it in dashboard.panels if isinstance(it, PerformancePanel)).live
    before = live.still
    lab.transfer("rust", "zig", np.ones(10))
    dashboard.refresh()
    assert live.still != before
    assert '<table class="nif-figures">' in live.still
    dashboard.close()


def test_an_error_is_shown_in_the_panel_and_goes_with_the_next_success(lab: Lab) -> None:
    def fails(*_: object) -> None:
        raise NifPanic("rust.write(): <boom>")

    panel = TransferPanel(lab.backends, fails, lab.transfer_matrix)
    panel.buttons["rust", "zig"].click()
    assert "NifPanic" in panel.problem.value
    assert "&lt;boom&gt;" in panel.problem.value
    panel.all_pairs.click()
    assert panel.problem.value == ""
    panel.close()


def test_a_language_that_is_not_loaded_is_shown_with_its_cure(lab: Lab) -> None:
    broken = LoadedBackend(Broken(ToolchainMissing("no compiler", "install it"))).load()
    backends = {"rust": lab.rust, "broken": broken}
    shown = BackendsPanel(backends)
    assert "no compiler" in shown.text()
    assert "install it" in shown.html()
    panel = TransferPanel(backends, lab.transfer, lab.transfer_matrix)
    assert panel.buttons["rust", "broken"].disabled
    assert "no compiler" in panel.buttons["rust", "broken"].tooltip
    shown.close()
    panel.close()


def test_panels_without_calls_say_so() -> None:
    empty = Lab(["rust"])
    panels = [PerformancePanel(empty.telemetry), HistoryPanel(empty.telemetry), ErrorsPanel(empty.telemetry)]
    assert "<td>0</td>" in panels[0].live.still
    assert "no calls yet" in panels[0].text()
    assert "no calls yet" in panels[1].html()
    assert "no errors" in panels[2].html()
    for panel in panels:
        panel.close()


def test_the_last_calls_and_errors_are_in_the_static_view(lab: Lab) -> None:
    with pytest.raises(NifTypeError):
        lab.zig.dot("<x>", np.ones(3))
    for _ in range(64):  # so quick a function is timed once in up to 64 calls, and only timed calls have rows
        lab.nim.dot(np.ones(3), np.ones(3))
    errors, history = ErrorsPanel(lab.telemetry), HistoryPanel(lab.telemetry)
    assert "zig.dot: NifTypeError: " in errors.text()
    assert "<code>dot</code>" in errors.html()
    assert "<x>" not in errors.html()
    assert '<td style="text-align:left">Nim</td>' in history.html()
    errors.close()
    history.close()


def test_counters_that_cannot_be_read_are_an_error_in_the_panel(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot() -> None:
        raise RuntimeError("no counters")

    monkeypatch.setattr(lab.telemetry, "snapshot", snapshot)
    panel = PerformancePanel(lab.telemetry)
    assert "<b>RuntimeError</b>: no counters" in panel.problem.value
    panel.close()


def test_a_button_prints_nothing(dashboard: Dashboard, capsys: pytest.CaptureFixture[str]) -> None:
    transfers(dashboard).buttons["nim", "rust"].click()
    assert capsys.readouterr() == ("", "")
    dashboard.close()


def contrast(one: str, other: str) -> float:
    """Contrast of two colours as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES, ids=lambda it: it.name)
def test_colours_can_be_seen_in_both_themes(theme: Theme, lab: Lab) -> None:
    """WCAG 2: graphics need a contrast of 3, text one of 4.5."""
    assert len({colour(language) for language in lab.backends}) == len(lab.backends)
    for background in (theme.page, theme.card):
        assert all(contrast(colour(language), background) >= 3 for language in lab.backends)
        assert all(contrast(ink, background) >= 4.5 for ink in (theme.text, theme.muted, theme.error))


def test_pictures_are_the_same_whatever_the_users_settings_of_matplotlib() -> None:
    snapshot = Snapshot((FunctionStats("rust", "a_$b$_c", 3, 1, 2000.0, 900.0, 1100.0),))
    plain = performance_grid(snapshot, THEMES[0]).png()
    with matplotlib.rc_context({"font.family": "serif", "figure.autolayout": True, "savefig.bbox": "tight"}):
        assert performance_grid(snapshot, THEMES[0]).png() == plain


def test_closing_leaves_no_widget_and_no_figure(lab: Lab) -> None:
    before = set(widget_module._instances)
    dashboard = lab.dashboard()
    transfers(dashboard).all_pairs.click()
    dashboard.close()
    assert set(widget_module._instances) == before
    assert plt.get_fignums() == []


def test_panels_have_text_and_html_for_places_without_widgets(dashboard: Dashboard) -> None:
    bundle = dashboard._repr_mimebundle_()
    assert "Performance" in bundle["text/plain"]
    assert "<table" in bundle["text/html"]
    assert "<script" not in bundle["text/html"]
    dashboard.close()


def test_a_run_without_a_page_keeps_html_beside_the_widget(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """nbconvert writes the widget's view alone; somebody who looks at a page is shown nothing twice."""
    view, content = "application/vnd.jupyter.widget-view+json", {"allow_stdin": True}
    shown: list[dict[str, str]] = []
    panel = PerformancePanel(lab.telemetry)
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(get_parent=lambda: {"content": content}))
    monkeypatch.setattr("IPython.display.display", lambda it, raw: shown.append(it))
    with pytest.raises(NotImplementedError):
        panel._ipython_display_()
    content["allow_stdin"] = False  # as nbclient asks
    panel._ipython_display_()
    widget, still = shown
    assert view in widget
    assert "text/html" not in widget
    assert view not in still
    assert re.fullmatch('<div class="nif-still">.*<table.*</div>', still["text/html"], re.S)
    panel.close()


def test_a_dashboard_is_saved_as_one_page(dashboard: Dashboard, lab: Lab, tmp_path: Path) -> None:
    lab.rust.dot(np.ones(3), np.ones(3))
    path = dashboard.save(tmp_path / "seen.html")
    text = path.read_text()
    assert re.findall("<h3>(.*?)</h3>", text) == [panel.name for panel in dashboard.panels]
    assert not re.search(r"<script|src=\"http|href=", text)
    assert "<code>rust.dot</code>" in text
    assert 'src="data:image/svg+xml;base64,' in text
    dashboard.close()


def test_pages_that_are_not_seen_first_are_made_when_the_cell_has_ended(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(widget_module._instances)
    cells = live._Cells()
    monkeypatch.setattr(live, "_cells", cells)
    cells.busy = True
    dashboard, closed = lab.dashboard(), lab.dashboard()
    pages = [it for it in dashboard.tabs.pages if not it.children]
    assert len(pages) == 4
    bundle = dashboard._repr_mimebundle_()
    assert "Performance" in bundle["text/plain"]
    assert "loaded" in bundle["text/html"]
    closed.close()
    cells._end()
    assert all(len(page.children) == 1 for page in pages)
    assert "<table" in dashboard.panels[0].live.still
    assert not closed._others
    dashboard.close()
    assert set(widget_module._instances) == before


def test_a_panel_says_what_it_must_know() -> None:
    bare = Panel("bare", [])
    for ask in (bare.refresh, bare.text, bare.html):
        with pytest.raises(NotImplementedError):
            ask()
    bare.close()
